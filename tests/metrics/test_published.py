"""Published feature networks with random weights, beside implementations that share no code with them."""

import math
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from scoresde.metrics import CLIPFeatures, DINOv2Features, InceptionFeatures, frechet_distance
from scoresde.metrics.inception import FIDInception
from scoresde.metrics.resizing import resized_tensorflow
from scoresde.metrics.vision_transformer import TransformerShape, VisionTransformer
from scoresde.storage.bounded import CheckpointError

TINY = TransformerShape(128, 2, 2, 14, 16, 256, scaled=True)


def randomised(network: nn.Module, scale: float = 0.05) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.add_(scale * torch.randn(value.shape, generator=generator).abs())
    return network.eval()


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def blocks_by_torch(network: VisionTransformer, tokens: Tensor) -> Tensor:
    """The layers by torch's own transformer, with the scales taken into the last matrices."""
    shape = network.shape
    for layer in network.blocks:
        other = nn.TransformerEncoderLayer(
            shape.width, shape.heads, shape.hidden, 0.0, F.gelu, shape.eps, batch_first=True, norm_first=True
        )
        gains = [part.gamma if shape.scaled else torch.ones(shape.width) for part in (layer.ls1, layer.ls2)]
        other.load_state_dict(
            {
                "self_attn.in_proj_weight": layer.attn.qkv.weight,
                "self_attn.in_proj_bias": layer.attn.qkv.bias,
                "self_attn.out_proj.weight": gains[0][:, None] * layer.attn.proj.weight,
                "self_attn.out_proj.bias": gains[0] * layer.attn.proj.bias,
                "linear1.weight": layer.mlp.fc1.weight,
                "linear1.bias": layer.mlp.fc1.bias,
                "linear2.weight": gains[1][:, None] * layer.mlp.fc2.weight,
                "linear2.bias": gains[1] * layer.mlp.fc2.bias,
                **{f"norm{k}.{n}": getattr(getattr(layer, f"norm{k}"), n) for k in (1, 2) for n in ("weight", "bias")},
            }
        )
        tokens = other.eval()(tokens)
    return tokens


def test_the_transformer_is_that_of_torch() -> None:
    network = randomised(VisionTransformer(TINY))
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    patches = x.unfold(2, 14, 14).unfold(3, 14, 14)  # (B, 3, 16, 16, 14, 14)
    patches = torch.einsum("bcijkl,dckl->bijd", patches, network.patch_embed.proj.weight).flatten(1, 2)
    patches = patches + network.patch_embed.proj.bias
    tokens = torch.cat([network.cls_token.expand(2, -1, -1), patches], 1) + network.pos_embed
    expected = network.norm(blocks_by_torch(network, tokens)[:, 0])
    assert (network(x) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_positions_of_another_grid_are_by_the_scale_of_the_authors() -> None:
    """Places are (i + ½) 37 / 16.1 − ½, on which torch's cubic rule is right in the mean, and not of slope 37 / 16."""
    network = VisionTransformer(TransformerShape(2, 1, 1, 14, 37, 2))
    rows = torch.arange(37.0)
    plane = torch.stack([rows[:, None].expand(37, 37), rows.expand(37, 37)], -1).flatten(0, 1)
    network.pos_embed.data[0, 1:] = plane
    found = network.positions(16)[0, 1:].unflatten(0, (16, 16))[:, :, 0].mean(1)[1:-1].detach()
    centred = torch.arange(14.0) - 6.5
    slope = float((centred * found).sum() / centred.square().sum())
    assert slope == pytest.approx(37 / 16.1, abs=0.004)
    assert abs(37 / 16 - 37 / 16.1) > 0.01


def test_sizes_and_names_of_inception() -> None:
    network = FIDInception()
    assert sum(p.numel() for p in network.parameters()) == 21_785_568  # 23,834,568 of Inception-v3 less 1000 classes
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert shapes["Mixed_6b.branch7x7dbl_2.conv.weight"] == (128, 128, 7, 1)
    assert shapes["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)


def test_pooling_of_inception() -> None:
    """The first wide block averages without the padding, the last takes the maximum."""
    network = FIDInception().eval()
    x = torch.ones(1, 1280, 8, 8)
    pooled = network.Mixed_7b._pooled(x)
    assert torch.allclose(pooled, pooled[..., :1, :1].expand_as(pooled), atol=1e-5)  # else the edge would differ
    y = torch.zeros(1, 2048, 8, 8)
    y[..., 4, 4] = 1
    weight = network.Mixed_7c.branch_pool.conv.weight
    weight.data.fill_(1 / 2048)
    found = network.Mixed_7c._pooled(y)[0, 0]
    assert torch.allclose(found[3:6, 3:6], torch.tensor(1 / math.sqrt(1.001)), atol=1e-4)
    assert found.count_nonzero() == 9


def test_resizing_is_that_of_tensorflow_1() -> None:
    x = images(1, 2, 5, 7).double()
    found = resized_tensorflow(x, 11)
    for i in range(11):
        for j in range(11):
            a, b = i * 5 / 11, j * 7 / 11
            i0, j0 = int(a), int(b)
            i1, j1, u, v = min(i0 + 1, 4), min(j0 + 1, 6), a - i0, b - j0
            top = (1 - v) * x[..., i0, j0] + v * x[..., i0, j1]
            bottom = (1 - v) * x[..., i1, j0] + v * x[..., i1, j1]
            assert torch.allclose(found[..., i, j], (1 - u) * top + u * bottom, atol=1e-3)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = FIDInception()
    for m in network.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save({**network.state_dict(), "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    return path


def test_inception_from_a_file(inception_file: Path) -> None:
    features = InceptionFeatures(str(inception_file), batch_size=2)
    x = images(3, 1, 16, 16)
    found = features(x)
    assert found.shape == (3, 2048)
    other = InceptionFeatures(str(inception_file), resize="pytorch")
    assert not torch.allclose(found, other(x), rtol=1e-3)
    assert torch.allclose(found[:1], features(x[:1].expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    assert features.prepared(torch.zeros(1, 3, 4, 4)).unique().tolist() == [-1.0]
    assert torch.allclose(other.prepared(torch.full((1, 3, 4, 4), 255.0)), torch.tensor(1.0))
    assert repr(features) == f"inception(resize=tensorflow, weights={features.digest})"


def test_heads_tell_features_apart(tmp_path: Path) -> None:
    """The same weights give other features with other heads, which a stored result must not be taken for."""
    save_file(randomised(VisionTransformer(TINY)).state_dict(), tmp_path / "tiny.safetensors")
    usual, other = (DINOv2Features(str(tmp_path / "tiny.safetensors"), heads=heads) for heads in (None, 4))
    x = images(2, 3, 8, 8)
    assert not torch.allclose(usual(x), other(x), rtol=1e-4)
    assert repr(usual) == f"dinov2(weights={usual.digest})"
    assert repr(other) == f"dinov2(weights={usual.digest}, heads=4)"


def test_metrics_take_a_network(tmp_path: Path) -> None:
    network = randomised(VisionTransformer(TINY))
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    features = DINOv2Features(str(tmp_path / "tiny.safetensors"))
    a, b = images(8, 3, 8, 8), images(16, 3, 8, 8)[8:]
    found = frechet_distance(a, b, features, resamples=2)
    assert found.value == pytest.approx(frechet_distance(features(a), features(b), lambda x: x, resamples=2).value)


def test_registers_in_two_layouts(tmp_path: Path) -> None:
    """Files of timm give patches alone positions, and the class token has its own in itself."""
    shape = TransformerShape(128, 1, 2, 14, 16, 64, registers=4, scaled=True)
    state = randomised(VisionTransformer(shape)).state_dict()
    torch.save(state, tmp_path / "authors.pth")
    of_timm = {k: v for k, v in state.items() if k not in ("register_tokens", "pos_embed", "cls_token")}
    of_timm |= {"reg_token": state["register_tokens"], "pos_embed": state["pos_embed"][:, 1:]}
    of_timm |= {"cls_token": state["cls_token"] + state["pos_embed"][:, :1]}
    torch.save(of_timm, tmp_path / "timm.pth")
    x = images(2, 1, 20, 20)
    first, second = (DINOv2Features(str(tmp_path / f"{name}.pth"))(x) for name in ("authors", "timm"))
    assert torch.allclose(first, second, atol=1e-5)


def test_clip_in_two_layouts(tmp_path: Path) -> None:
    shape = TransformerShape(64, 1, 1, 8, 4, 128, normalised=True, out=24, activation="quick_gelu", eps=1e-5)
    network = randomised(VisionTransformer(shape))
    state = network.state_dict()
    q, k, v = state["blocks.0.attn.qkv.weight"].chunk(3)
    qb, kb, vb = state["blocks.0.attn.qkv.bias"].chunk(3)
    hugging = {"visual_projection.weight": state["head.weight"], "text_model.other": torch.zeros(2)}
    own = "vision_model."
    hugging |= {f"{own}embeddings.class_embedding": state["cls_token"].flatten()}
    hugging |= {f"{own}embeddings.position_embedding.weight": state["pos_embed"][0]}
    hugging |= {f"{own}embeddings.patch_embedding.weight": state["patch_embed.proj.weight"]}
    layer = f"{own}encoder.layers.0."
    for name, (w, bias) in {"q": (q, qb), "k": (k, kb), "v": (v, vb)}.items():
        hugging |= {f"{layer}self_attn.{name}_proj.weight": w, f"{layer}self_attn.{name}_proj.bias": bias}
    opened = {
        "visual.class_embedding": state["cls_token"].flatten(),
        "visual.positional_embedding": state["pos_embed"][0],
    }
    opened |= {"visual.conv1.weight": state["patch_embed.proj.weight"], "visual.proj": state["head.weight"].T}
    block = "visual.transformer.resblocks.0."
    for n in ("weight", "bias"):
        opened |= {f"{block}attn.in_proj_{n}": state[f"blocks.0.attn.qkv.{n}"]}
        pairs = {"norm_pre": ("pre_layrnorm", "ln_pre"), "norm": ("post_layernorm", "ln_post")}
        for name, (one, two) in pairs.items():
            hugging[f"{own}{one}.{n}"] = opened[f"visual.{two}.{n}"] = state[f"{name}.{n}"]
        inner = {
            "norm1": ("layer_norm1", "ln_1"),
            "norm2": ("layer_norm2", "ln_2"),
            "attn.proj": ("self_attn.out_proj", "attn.out_proj"),
            "mlp.fc1": ("mlp.fc1", "mlp.c_fc"),
            "mlp.fc2": ("mlp.fc2", "mlp.c_proj"),
        }
        for name, (one, two) in inner.items():
            hugging[f"{layer}{one}.{n}"] = opened[f"{block}{two}.{n}"] = state[f"blocks.0.{name}.{n}"]
    save_file({key: value.clone().contiguous() for key, value in hugging.items()}, tmp_path / "hf.safetensors")
    torch.save(opened, tmp_path / "open.pt")
    first, second = CLIPFeatures(str(tmp_path / "hf.safetensors")), CLIPFeatures(str(tmp_path / "open.pt"))
    x = images(2, 3, 20, 20)
    assert first.size == 32
    assert torch.equal(first(x), second(x))
    assert torch.equal(first(x), network(first.prepared(x.float())))
    assert not torch.allclose(first(x), CLIPFeatures(str(tmp_path / "open.pt"), quick_gelu=False)(x), rtol=1e-4)


def test_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inception_file: Path) -> None:
    monkeypatch.setenv("SCORESDE_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"which are not in .*: download https://github.com/mseitzer.*save it as"):
        InceptionFeatures()
    with pytest.raises(ValueError, match="weights=nowhere is no file: download"):
        InceptionFeatures("nowhere")
    with pytest.raises(CheckpointError, match="neither vision_model"):
        CLIPFeatures(str(inception_file))
    with pytest.raises(CheckpointError, match="no vision transformer"):
        DINOv2Features(str(inception_file))
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(1)}, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match="is not of a FIDInception: its tensor .* is missing"):
        InceptionFeatures(str(tmp_path / "short.pth"))
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("x/code/__torch__.py", "1")
    with pytest.raises(CheckpointError, match="TorchScript archive, a program that is not run"):
        CLIPFeatures(str(tmp_path / "program.pt"))
    features = InceptionFeatures(str(inception_file))
    with pytest.raises(ValueError, match="1 or 3 channels, got shape"):
        features(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="expected 0 to 255"):
        features(torch.full((1, 3, 4, 4), -1.0))
