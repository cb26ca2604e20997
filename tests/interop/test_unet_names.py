"""Names of published networks for `UNet`: lists of their modules, orders within attention, and what is refused."""

import importlib
import json
import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from scoresde.interop import diffusers_names, edm_names, guided_names, score_sde_names
from scoresde.interop.renaming import Renaming
from scoresde.networks import UNet

SOURCES = Path(os.environ.get("SCORESDE_CHECKPOINTS", Path(__file__).parents[3] / "shared" / "checkpoints"))


def song(**changed: Any) -> dict[str, Any]:
    """A configuration of score_sde for CIFAR-10."""
    model = {
        "name": "ncsnpp", "nf": 128, "ch_mult": [1, 2, 2, 2], "num_res_blocks": 4, "attn_resolutions": [16],
        "dropout": 0.1, "resamp_with_conv": True, "conditional": True, "nonlinearity": "swish",
        "embedding_type": "fourier", "fourier_scale": 16, "fir": True, "fir_kernel": [1, 3, 3, 1],
        "skip_rescale": True, "resblock_type": "biggan", "progressive": "none", "progressive_input": "residual",
        "progressive_combine": "sum",
    }  # fmt: skip
    return {"model": model | changed, "data": {"image_size": 32, "num_channels": 3, "centered": False}}


SHARED = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "label_dim": 3}
EDM = {"img_resolution": 8, "img_channels": 2, "augment_dim": 4, **SHARED}
SONG = {**EDM, "class_name": "EDMPrecond", "model_type": "SongUNet"}
ADM = {**EDM, "class_name": "EDMPrecond", "model_channels": 64, "channel_mult": [1, 2]}
GUIDED = {
    "image_size": 8, "in_channels": 3, "model_channels": 32, "out_channels": 6, "num_res_blocks": 1,
    "attention_resolutions": [2], "channel_mult": [1, 2], "num_classes": 3, "num_heads": 4, "resblock_updown": True,
    "use_scale_shift_norm": True,
}  # fmt: skip
DDPM = {
    "sample_size": 8, "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
SMALL = song(nf=8, ch_mult=[1, 2], num_res_blocks=1)
FAMILIES: list[tuple[Any, dict[str, Any]]] = [
    (score_sde_names, SMALL),
    (score_sde_names, song(name="ddpm", nf=32, ch_mult=[1, 2], num_res_blocks=1)),
    (edm_names, SONG | {"encoder_type": "skip", "decoder_type": "skip", "embedding_type": "fourier"}),
    (edm_names, ADM),
    (guided_names, GUIDED),
    (guided_names, {k: v for k, v in GUIDED.items() if k not in ("image_size", "resblock_updown")}),
    (diffusers_names, DDPM),
]


class Asked(Renaming):
    """A file that has every tensor it is asked for, in the shape that is expected."""

    made: ClassVar[dict[str, Tensor]] = {}

    def take(self, theirs: str, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(len(self.made))
        self.made[theirs] = torch.randn(shape, generator=generator)
        return self.made[theirs]


@cache
def asked(name: str, config: str) -> dict[str, Tensor]:
    family = importlib.import_module(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family, "Renaming", Asked)
        patch.setattr(Asked, "made", {})
        family.converted({}, json.loads(config))
        return Asked.made


def file_of(family: Any, config: dict[str, Any]) -> dict[str, Tensor]:
    """A file of a family with random numbers, which has what is asked of it."""
    return {name: value.clone() for name, value in asked(family.__name__, json.dumps(config)).items()}


# --- the lists of modules in the project's own order -----------------------------------------------------------------


def res(inputs: int, outputs: int, shortcut: str | None, emb: int = 512) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "GroupNorm_0.weight": (inputs,), "GroupNorm_0.bias": (inputs,),
        "Conv_0.weight": (outputs, inputs, 3, 3), "Conv_0.bias": (outputs,),
        "Dense_0.weight": (outputs, emb), "Dense_0.bias": (outputs,),
        "GroupNorm_1.weight": (outputs,), "GroupNorm_1.bias": (outputs,),
        "Conv_1.weight": (outputs, outputs, 3, 3), "Conv_1.bias": (outputs,),
    }  # fmt: skip
    if shortcut == "Conv_2":
        found |= {"Conv_2.weight": (outputs, inputs, 1, 1), "Conv_2.bias": (outputs,)}
    if shortcut == "NIN_0":
        found |= {"NIN_0.W": (inputs, outputs), "NIN_0.b": (outputs,)}
    return found


def attn(width: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"GroupNorm_0.weight": (width,), "GroupNorm_0.bias": (width,)}
    for i in range(4):
        found |= {f"NIN_{i}.W": (width, width), f"NIN_{i}.b": (width,)}
    return found


def layer(*shape: int, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {f"{prefix}weight": shape, f"{prefix}bias": shape[:1]}


def ncsnpp_list() -> list[dict[str, tuple[int, ...]]]:
    """VE NCSN++ continuous for CIFAR-10: its modules 0 to 58."""
    same, wide = res(128, 128, None), res(256, 256, None)
    wider, joined = res(128, 256, "Conv_2"), res(512, 256, "Conv_2")
    down = [res(n, n, "Conv_2") for n in (128, 256)]
    up = res(256, 256, "Conv_2")
    a = attn(256)
    return [
        {"W": (128,)}, layer(512, 256), layer(512, 512), layer(128, 3, 3, 3), same, same, same, same,
        down[0], layer(128, 3, 3, 3, prefix="Conv2d_0."), wider, a, wide, a, wide, a, wide, a,
        down[1], layer(256, 128, 3, 3, prefix="Conv2d_0."), wide, wide, wide, wide,
        down[1], layer(256, 256, 3, 3, prefix="Conv2d_0."), wide, wide, wide, wide,
        wide, a, wide,
        *[joined] * 5, up, *[joined] * 5, up, *[joined] * 4, res(384, 256, "Conv_2"), a, up,
        res(384, 128, "Conv_2"), *[res(256, 128, "Conv_2")] * 4, layer(128), layer(3, 128, 3, 3),
    ]  # fmt: skip


def ddpm_list() -> list[dict[str, tuple[int, ...]]]:
    """DDPM for CIFAR-10: its modules 0 to 36."""
    same, wide, joined, a = res(128, 128, None), res(256, 256, None), res(512, 256, "NIN_0"), attn(256)
    down, up = (layer(n, n, 3, 3, prefix="Conv_0.") for n in (128, 256))
    return [
        layer(512, 128), layer(512, 512), layer(128, 3, 3, 3), same, same, down,
        res(128, 256, "NIN_0"), a, wide, a, up, wide, wide, up, wide, wide, wide, a, wide,
        joined, joined, joined, up, joined, joined, joined, up, joined, joined, res(384, 256, "NIN_0"), a, up,
        res(384, 128, "NIN_0"), res(256, 128, "NIN_0"), res(256, 128, "NIN_0"), layer(128), layer(3, 128, 3, 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("modules", "config", "tensors"),
    [(ncsnpp_list(), song(), 571), (ddpm_list(), song(name="ddpm", num_res_blocks=2), 308)],
)
def test_published_lists_of_modules(modules: list[Any], config: dict[str, Any], tensors: int) -> None:
    state = {
        f"module.all_modules.{i}.{name}": torch.empty(shape, device="meta")
        for i, module in enumerate(modules)
        for name, shape in module.items()
    }
    assert len(state) == tensors
    out = score_sde_names.converted({"module.sigmas": torch.empty(1000, device="meta"), **state}, config)
    with torch.device("meta"):
        network = UNet(**score_sde_names.network_options(config))
    assert {name: value.shape for name, value in out.items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert sum(value.numel() for value in out.values()) == sum(value.numel() for value in state.values())


# --- every family ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "config"), FAMILIES)
def test_every_tensor_is_read_once_and_copied(family: Any, config: dict[str, Any]) -> None:
    file = file_of(family, config)
    result = family.converted(file, config)
    network = UNet(**family.network_options(config))
    network.load_state_dict(result)
    assert sum(v.numel() for v in file.values()) == sum(v.numel() for v in network.state_dict().values())
    values = torch.cat([v.flatten() for v in file.values()]).sort().values
    assert torch.equal(torch.cat([v.flatten() for v in result.values()]).sort().values, values)
    kept = {name: value.clone() for name, value in result.items()}
    for value in file.values():
        value.zero_()
    assert all(torch.equal(result[name], kept[name]) for name in kept)
    again = {name: value.double() for name, value in file.items()}
    assert {value.dtype for value in family.converted(again, config).values()} == {torch.float64}


@pytest.mark.parametrize(("family", "config"), FAMILIES)
def test_what_differs_is_named(family: Any, config: dict[str, Any]) -> None:
    file = file_of(family, config)
    name = list(file)[len(file) // 2]
    shape = tuple(file[name].shape)
    for changed, message in (
        ({k: v for k, v in file.items() if k != name}, f"no tensor {name}, expected one of shape {shape}: it is of"),
        (file | {name: torch.zeros(7, 5)}, f"{name} has shape (7, 5) in the file, expected {shape}: it is of another"),
        (file | {"other.weight": torch.zeros(2)}, "a tensor other.weight of shape (2,), expected none of that name"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            family.converted(changed, config)
        assert "\n" not in str(error.value)


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one head over tokens (N, channels)."""
    return (q @ k.T / q.shape[1] ** 0.5).softmax(dim=1) @ v


@pytest.mark.parametrize(
    ("family", "config", "place", "norm", "qkv", "project", "heads", "order"),
    [
        # q, k and v alternate within a head
        (edm_names, ADM, "middle.0.attention", "model.dec.4x4_in0.norm2", "model.dec.4x4_in0.qkv",
         "model.dec.4x4_in0.proj", 2, "hcq"),
        # q, k and v follow each other within a head
        (guided_names, GUIDED, "middle.0.attention", "middle_block.1.norm", "middle_block.1.qkv",
         "middle_block.1.proj_out", 4, "hqc"),
        # q, k and v of all heads follow each other
        (guided_names, GUIDED | {"use_new_attention_order": True}, "encoder.1.attention", "input_blocks.3.1.norm",
         "input_blocks.3.1.qkv", "input_blocks.3.1.proj_out", 4, "qhc"),
    ],
)  # fmt: skip
def test_heads_are_those_of_the_original(
    family: Any, config: dict[str, Any], place: str, norm: str, qkv: str, project: str, heads: int, order: str
) -> None:
    root = "" if family is guided_names else "model."
    file = file_of(family, config)
    named = {(name if name.startswith(root) else f"{root}{name}"): value.double() for name, value in file.items()}
    network = UNet(**family.network_options(config)).double()
    network.load_state_dict(family.converted(named, config))
    attention = network.get_submodule(place)
    width = named[f"{norm}.weight"].shape[0]
    x = torch.randn(1, width, 3, 2, generator=torch.Generator().manual_seed(1)).double()
    groups = 32 if family is guided_names else min(32, width // 4)
    tokens = nn.functional.group_norm(x, groups, named[f"{norm}.weight"], named[f"{norm}.bias"], 1e-5)[0].flatten(1).T
    all_three = tokens @ named[f"{qkv}.weight"].reshape(3 * width, width).T + named[f"{qkv}.bias"]
    size = width // heads
    sizes = {"h": heads, "c": size, "q": 3}
    split = all_three.reshape(6, *(sizes[letter] for letter in order))
    split = split.permute(0, *(1 + order.index(letter) for letter in "qhc"))  # (N, 3, heads, channels)
    mixed = torch.cat([attended(*(split[:, i, head] for i in range(3))) for head in range(heads)], dim=1)
    mixed = mixed @ named[f"{project}.weight"].reshape(width, width).T + named[f"{project}.bias"]
    torch.testing.assert_close(attention(x), x + mixed.T.reshape(1, width, 3, 2))


def test_old_and_new_names_of_attention_are_one() -> None:
    file = file_of(diffusers_names, DDPM)
    new = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    old = file
    for ours, theirs in new.items():
        old = {re.sub(rf"\.{re.escape(theirs)}\.", f".{ours}.", name): value for name, value in old.items()}
    assert old.keys() != file.keys()
    a, b = (diffusers_names.converted(state, DDPM) for state in (file, old))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_levels_narrower_than_a_head_have_no_attention_in_adm() -> None:
    options = edm_names.network_options(ADM | {"model_channels": 16})
    assert (options["attention"], options["middle_attention"]) == ([], "none")
    assert edm_names.network_options(ADM)["attention"] == [1]


def test_what_is_not_given_is_as_in_the_originals() -> None:
    options = edm_names.network_options({"img_resolution": 64, "img_channels": 3, "class_name": "iDDPMPrecond"})
    with torch.device("meta"):
        network = UNet(**options)
    assert (network.levels, network.blocks, network.learn_variance) == (4, 3, True)
    assert options["attention"] == [1, 2, 3]
    song_options = edm_names.network_options({"img_resolution": 32, "img_channels": 3, "class_name": "VPPrecond"})
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet(**song_options).parameters()) == 61_804_419


def test_command_lines_of_guided_diffusion_have_resolutions() -> None:
    written = GUIDED | {"image_size": 64, "attention_resolutions": "32,8", "channel_mult": ""}
    options = guided_names.network_options(written)
    assert (options["attention"], options["multipliers"]) == ([1, 3], [1, 2, 3, 4])
    wide = guided_names.network_options(GUIDED | {"image_size": 512, "channel_mult": None})
    assert (wide["stem_channels"], wide["multipliers"][0]) == (16, 0.5)


def test_improved_diffusion_takes_any_size() -> None:
    config = {k: v for k, v in GUIDED.items() if k not in ("image_size", "resblock_updown")}
    network = UNet(**guided_names.network_options(config))
    for shape in ((8, 8), (4, 12)):
        assert network(torch.zeros(1, 3, *shape), torch.zeros(1), torch.tensor([0])).shape == (1, 6, *shape)
    with pytest.raises(ValueError, match="images are 8x7: the nearest are 8x6 and 8x8"):
        network(torch.zeros(1, 3, 8, 7), torch.zeros(1), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"x must have shape \(B, 3, 64, 64\)"):
        network(torch.zeros(1, 2, 8, 8), torch.zeros(1), torch.tensor([0]))


# The counts of CHECKPOINTS.md: the project's own DDPM has two attention blocks fewer than diffusers'.
def test_the_ddpm_of_diffusers_for_cifar() -> None:
    config = {
        "sample_size": 32, "block_out_channels": [128, 256, 256, 256], "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "downsample_padding": 0,
        "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6, "attention_head_dim": None,
    }  # fmt: skip
    with torch.device("meta"):
        network = UNet(**diffusers_names.network_options(config))
    assert sum(p.numel() for p in network.parameters()) == 35_746_307


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        (score_sde_names, song(name="ncsnv2"), "model.name is 'ncsnv2', expected 'ncsnpp'"),
        (score_sde_names, song(progressive="residual"), "model.progressive is 'residual', expected 'none' or"),
        (score_sde_names, song(fir=False), "model.fir is False with progressive_input 'residual'"),
        (score_sde_names, song(resblock_type="ddpm"), "model.fir is True with resblock_type 'ddpm'"),
        (score_sde_names, song(nonlinearity="elu"), "model.nonlinearity is 'elu', expected 'swish'"),
        (edm_names, EDM | {"class_name": "Precond"}, "class_name is 'Precond', expected VPPrecond"),
        (edm_names, EDM | {"width": 3}, "the arguments have width, expected those of EDMPrecond and DhariwalUNet"),
        (edm_names, {"img_channels": 3}, "no img_resolution"),
        (edm_names, SONG | {"encoder_type": "deep"}, "encoder_type is 'deep', expected standard or skip or residual"),
        (guided_names, GUIDED | {"width": 3}, "the arguments have width"),
        (guided_names, GUIDED | {"out_channels": 4}, "out_channels is 4, expected 3, or 6"),
        (guided_names, GUIDED | {"channel_mult": None}, "no usual one for image_size 8"),
        (diffusers_names, DDPM | {"up_block_types": ["UpBlock2D"]}, "1 up_block_types, expected as many of each"),
        (diffusers_names, DDPM | {"down_block_types": ["DownBlock2D", "AttnSkipDownBlock2D"]},
         "a block is AttnSkipDownBlock2D, expected DownBlock2D or"),
        (diffusers_names, DDPM | {"block_out_channels": [0, 8]}, "block_out_channels is [0, 8], expected a list of"),
        (diffusers_names, DDPM | {"sample_size": "8x8"}, "sample_size is '8x8', expected a positive integer, two of"),
        (diffusers_names, DDPM | {"flip_sin_to_cos": "no"}, "flip_sin_to_cos is 'no', expected true or false"),
        (diffusers_names, DDPM | {"norm_eps": "1e-5"}, "norm_eps is '1e-5', expected a number of at least 0"),
        (diffusers_names, DDPM | {"mid_block_scale_factor": 0}, "mid_block_scale_factor is 0, expected a positive num"),
        (diffusers_names, DDPM | {"attention_head_dim": 3}, "attention_head_dim is 3, expected a divisor of the 16"),
        (diffusers_names, DDPM | {"time_embedding_type": "learned"}, "num_train_timesteps is None, expected how many"),
        (score_sde_names, song(nf="wide"), "config.model.nf is 'wide', expected a positive integer"),
        (diffusers_names, DDPM | {"act_fn": "mish"}, "act_fn is 'mish', expected 'silu'"),
        (diffusers_names, DDPM | {"down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"]},
         "expected one of both"),
    ],
)  # fmt: skip
def test_what_no_network_here_is(options: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        options.network_options(config)


# --- what the originals computed, where their files are beside the checkout ------------------------------------------


def difference(out: Tensor, expected: Tensor) -> float:
    """The largest over samples, relative to the largest value of each."""
    error = (out.double() - expected.double()).flatten(1).abs().amax(1)
    return float((error / expected.double().flatten(1).abs().amax(1)).max())


def built(family: Any, config: dict[str, Any], state: Mapping[str, Tensor]) -> UNet:
    network = UNet(**family.network_options(config)).eval()
    network.load_state_dict(family.converted(state, config))
    return network


def of_guided(name: str, about: dict[str, Any], reference: dict[str, Tensor]) -> Callable[[], Tensor]:
    state = torch.load(SOURCES / about["checkpoint"], map_location="cpu", weights_only=True)
    network = built(guided_names, about["network_arguments"], state)
    return lambda: network(
        reference["x"], reference["network_input_timestep"].float(), reference.get("class_labels")
    )  # fmt: skip


def of_diffusers(name: str, about: dict[str, Any], reference: dict[str, Tensor]) -> Callable[[], Tensor]:
    folder = SOURCES / name / "unet" if (SOURCES / name / "unet").is_dir() else SOURCES / name
    config = json.loads((folder / "config.json").read_text())
    network = built(diffusers_names, config, load_file(folder / "diffusion_pytorch_model.safetensors"))
    steps = reference["timestep"].float()
    if config["time_embedding_type"] == "positional":
        return lambda: network(reference["x"], steps)
    return lambda: network(reference["x"], steps.log()) / steps[:, None, None, None]


@pytest.mark.skipif(not SOURCES.is_dir(), reason="no checkpoints beside the checkout")
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("guided_diffusion_cond", of_guided),
        ("improved_diffusion_uncond", of_guided),
        ("diffusers_ddpm", of_diffusers),
        ("diffusers_ddpm_heads", of_diffusers),
        ("diffusers_ncsnpp", of_diffusers),
    ],
)
def test_networks_of_the_originals(name: str, make: Any) -> None:
    about = json.loads((SOURCES / f"{name}.json").read_text())
    reference = load_file(SOURCES / f"{name}.reference.safetensors")
    with torch.no_grad():
        out = make(name, about, reference)()
    bound = max(1e-5, *(5 * value for value in about.get("rounding", {"": 0}).values()), 0)
    assert difference(out, reference["model_output"]) <= bound
