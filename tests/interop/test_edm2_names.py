from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde.interop.edm2_names import converted, network_options
from scoresde.networks import EDM2UNet

ARGUMENTS: dict[str, Any] = {
    "img_resolution": 8, "img_channels": 3, "label_dim": 5, "use_fp16": True, "sigma_data": 0.5,
    "logvar_channels": 16, "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4],
    "channels_per_head": 8, "dropout": 0.1,
}  # fmt: skip


def original_state() -> dict[str, Tensor]:
    """Tensors with the names, shapes and dtype of a file, each with other values."""
    shapes: dict[str, tuple[int, ...]] = {
        "unet.out_gain": (), "unet.emb_fourier.freqs": (8,), "unet.emb_fourier.phases": (8,),
        "unet.emb_noise.weight": (16, 8), "unet.emb_label.weight": (16, 5), "unet.enc.8x8_conv.weight": (8, 4, 3, 3),
        "unet.out_conv.weight": (3, 8, 3, 3), "logvar_fourier.freqs": (16,), "logvar_fourier.phases": (16,),
        "logvar_linear.weight": (1, 16),
    }  # fmt: skip

    def block(name: str, inputs: int, outputs: int, attends: bool = False, decoder: bool = False) -> None:
        parts: dict[str, tuple[int, ...]] = {
            "emb_gain": (), "conv_res0.weight": (outputs, inputs if decoder else outputs, 3, 3),
            "emb_linear.weight": (outputs, 16), "conv_res1.weight": (outputs, outputs, 3, 3),
        }  # fmt: skip
        if inputs != outputs:
            parts["conv_skip.weight"] = (outputs, inputs, 1, 1)
        if attends:
            parts |= {"attn_qkv.weight": (3 * outputs, outputs, 1, 1), "attn_proj.weight": (outputs, outputs, 1, 1)}
        shapes.update({f"unet.{name}.{part}": shape for part, shape in parts.items()})

    block("enc.8x8_block0", 8, 8)
    block("enc.4x4_down", 8, 8)
    block("enc.4x4_block0", 8, 16, True)
    block("dec.4x4_in0", 16, 16, True, True)
    block("dec.4x4_in1", 16, 16, False, True)
    block("dec.4x4_block0", 32, 16, True, True)
    block("dec.4x4_block1", 24, 16, True, True)
    block("dec.8x8_up", 16, 16, False, True)
    block("dec.8x8_block0", 24, 8, False, True)
    block("dec.8x8_block1", 16, 8, False, True)
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}


def test_a_state_of_the_original_fits_the_network_and_no_tensor_is_unused() -> None:
    state = original_state()
    network = EDM2UNet(**network_options(ARGUMENTS))
    network.load_state_dict(converted(state, ARGUMENTS), strict=True)
    assert network.shape == (3, 8, 8)
    assert network.num_classes == 5
    network.double().eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    c_noise, labels = torch.tensor([-0.4, 0.9], dtype=torch.float64), torch.tensor([1, 4])

    def outputs() -> Tensor:
        assert network.log_variance is not None
        return torch.cat((network(x, c_noise, labels).flatten(), network.log_variance(c_noise)))

    with torch.no_grad():
        before = outputs()
        for name, value in network.state_dict().items():
            kept = value.clone()
            # Rows alone, since a weight is normalised.
            value[..., 0].mul_(1.5) if value.ndim else value.mul_(1.5)
            assert not torch.allclose(outputs(), before, rtol=1e-9, atol=1e-9), name
            value.copy_(kept)


def test_half_precision_is_raised_and_copied() -> None:
    state = original_state()
    values = converted(state, ARGUMENTS)
    assert {v.dtype for v in values.values()} == {torch.float32}
    assert torch.equal(values["embedding.frequencies"], state["unet.emb_fourier.freqs"].float())
    single = {name: value.float() for name, value in state.items()}
    again = converted(single, ARGUMENTS)
    again["output_gain"].add_(1)
    assert torch.equal(single["unet.out_gain"], state["unet.out_gain"].float())


def test_defaults_are_those_of_the_original() -> None:
    options = network_options({"img_resolution": 64, "img_channels": 4, "label_dim": 1000, "model_channels": 128})
    with torch.device("meta"):
        network = EDM2UNet(**options)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == 125  # EDM2-XS of the paper
    assert options["attention"] == [2, 3]  # 16 and 8 pixels
    assert network_options({"img_resolution": 8, "img_channels": 1})["num_classes"] is None
    given = {"img_resolution": 8, "img_channels": 1, "channel_mult_noise": 0.5, "channel_mult_emb": 2, "clip_act": None}
    assert [network_options(given)[k] for k in ("noise_channels", "embedding_channels", "clip")] == [96, 384, None]


def test_another_architecture_is_named() -> None:
    with pytest.raises(ValueError, match="argument num_heads, expected those of EDM2"):
        network_options({**ARGUMENTS, "num_heads": 2})
    with pytest.raises(ValueError, match="does not record img_channels"):
        network_options({"img_resolution": 8})
    state = original_state()
    with pytest.raises(ValueError, match=r"unet.enc.8x8_conv.weight of shape \(8, 4, 3, 3\)"):
        converted(state, {**ARGUMENTS, "img_resolution": 16})
