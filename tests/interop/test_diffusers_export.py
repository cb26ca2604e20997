"""Models as folders of diffusers: what is read from them again, and what diffusers itself makes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from scoresde.data import DataInfo
from scoresde.data.transforms import Discrete
from scoresde.interop import export_diffusers, load_diffusers
from scoresde.interop.diffusers_config import config_of
from scoresde.networks import (
    MLP,
    DiT,
    FourierFeatures,
    GaussianFourierFeatures,
    LevelEmbedding,
    PositionalFeatures,
    UNet,
    adm,
    ddpm,
    ddpmpp,
    ncsnpp,
    song_ddpmpp,
)
from scoresde.preconditioning import (
    DataPreconditioning,
    EDMPreconditioning,
    FlowPreconditioning,
    NoisePreconditioning,
    ScorePreconditioning,
    TableIndex,
    VelocityPreconditioning,
)
from scoresde.score import NetworkScore
from scoresde.sde import (
    DDPMSDE,
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineDDPMSDE,
    CosineSDE,
    DiscreteVPSDE,
    ErasureVPSDE,
    SubVPSDE,
)
from tests.interop.test_unet_names import SOURCES, difference

ADM: dict[str, Any] = {
    "resample": "block", "resampled_skip": False, "skip_scale": 1.0, "middle_attention": "between", "groups": 8,
    "label_place": "output", "no_label": "zeros",
}  # fmt: skip
SKIP: dict[str, Any] = {
    "resample": "block", "taps": [1, 3, 3, 1], "input_pyramid": "skip", "output_pyramid": "skip",
    "modulation": "shift", "middle_attention": "between", "decoder_attention": "last", "heads": 1, "norm_eps": 1e-6,
    "attention_groups": 32, "joined_groups": "first",
}  # fmt: skip


def small(shape: tuple[int, ...] = (3, 8, 8), **options: Any) -> UNet:
    return ddpm(shape, 32, (1, 2), 1, **{"attention_resolutions": (4,), **options})


MODELS: dict[str, Callable[[], tuple[nn.Module, SDE, Any]]] = {
    # What DDPM is; attention after every block of a level of the decoder is in diffusers' alone.
    "ddpm": lambda: (small(), DDPMSDE(), NoisePreconditioning(TableIndex(1000))),
    # Features that diffusers has not, or of another number, in a table.
    "vp": lambda: (small((1, 8, 16)), VPSDE(), NoisePreconditioning("time")),
    "cosine": lambda: (small(embedding=FourierFeatures(16)), CosineSDE(), VelocityPreconditioning()),
    "levels": lambda: (small(embedding=LevelEmbedding(9, 0.01, 90.0, 32)), VPSDE(), DataPreconditioning()),
    # The velocity with the other sign, and the noise.
    "edm": lambda: (small(attention_resolutions=(8,)), CosineDDPMSDE(200), EDMPreconditioning(1.0)),
    "score": lambda: (small(attention_resolutions=()), ErasureVPSDE(50, learned=True), ScorePreconditioning()),
    "variances": lambda: (
        small(learn_variance=True), DiscreteVPSDE([0.01 + 0.003 * i for i in range(60)]),
        ScorePreconditioning(TableIndex(60)),
    ),
    # Modulation with a normalisation without weights, and with one; heads; labels.
    "adm": lambda: (
        UNet((2, 8, 8), 32, (1, 2), 1, (1,), 16, num_classes=5, embedding=PositionalFeatures(32, cosine_first=True),
             modulation="normed_scale_shift", **ADM),
        DDPMSDE(), NoisePreconditioning(TableIndex(1000)),
    ),
    "scale_shift": lambda: (
        UNet((1, 8, 8), 32, (1, 0.5), 2, (0, 1), 16, decoder_levels=(1,), center_input=True, middle_skip_scale=0.5,
             embedding=PositionalFeatures(20), **ADM), VPSDE(), NoisePreconditioning(),
    ),
    "ve": lambda: (
        UNet((3, 8, 8), 32, (1, 2), 1, (1,), embedding=GaussianFourierFeatures(64), **SKIP),
        VESDE(0.01, 300.0), ScorePreconditioning("sigma"),
    ),
}  # fmt: skip


NOTE = "DDPMPipeline gives no labels: call the network as unet(x, timestep, class_labels=labels)"


def model_of(name: str) -> NetworkScore:
    network, sde, preconditioning = MODELS[name]()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return NetworkScore(network, sde, preconditioning).eval()


def given(model: NetworkScore) -> tuple[Tensor, dict[str, Any]]:
    x = torch.randn(3, *(model.shape or ()), generator=torch.Generator().manual_seed(2))
    return x, {} if model.classes is None else {"labels": torch.tensor([0, 4, 2])}


def times_of(model: NetworkScore, count: int) -> list[tuple[int, Tensor]]:
    """Some timesteps and their times."""
    steps = (0, 1, count // 3, count - 2, count - 1)
    return [(i, torch.tensor(model.sde.t_max * (i + 1) / count, dtype=torch.float64)) for i in steps]


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_the_model_when_it_is_read(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    notes = export_diffusers(model, tmp_path / "made" / "out")
    assert notes == ([] if model.classes is None else [NOTE])
    back = load_diffusers(tmp_path / "made" / "out")
    x, cond = given(model)
    count = len(getattr(back.sde, "betas", range(1000)))
    for i, t in times_of(model, count):
        there = t if name == "ve" else torch.tensor((i + 1) / count, dtype=torch.float64)
        state = float(model.sde.sigma(t)) * x if name == "ve" else x
        with torch.no_grad():
            assert difference(back.noise(state, there, **cond), model.noise(state, t, **cond)) < 1e-5
            if model.learns_variance:
                one, other = (m.denoise_with_share(state, at)[1] for m, at in ((back, there), (model, t)))
                assert difference(one, other) < 1e-5
        assert abs(float(back.sde.log_snr(there) - model.sde.log_snr(t))) < 1e-9
    # Once more, what was read is what is written.
    export_diffusers(back, tmp_path / "again")
    for path in sorted(tmp_path.glob("made/out/**/*.*")):
        twin = tmp_path / "again" / path.relative_to(tmp_path / "made" / "out")
        assert twin.read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("name", ["ddpm", "cosine", "adm", "variances", "ve"])
def test_diffusers_predicts_the_same_noise(name: str, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    model = model_of(name)
    export_diffusers(model, tmp_path / "out", None if hasattr(model.sde, "betas") else 300)
    kind = diffusers.UNet2DModel
    network, loading = kind.from_pretrained(tmp_path / "out", subfolder="unet", output_loading_info=True)
    assert not any(loading.values()), loading
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(pipeline).__name__ == ("ScoreSdeVePipeline" if name == "ve" else "DDPMPipeline")
    x, cond = given(model)
    labels = {"class_labels": cond["labels"]} if cond else {}
    config = pipeline.scheduler.config
    steps = 300 if name == "ve" else config.num_train_timesteps
    for i, t in times_of(model, steps):
        alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
        state = sigma * x if name == "ve" else x
        with torch.no_grad():
            expected = model.noise(state, t, **cond)
            told = torch.tensor(sigma) if name == "ve" else torch.tensor(i)
            out = network(state, told, **labels).sample
        assert out.shape[1] == (1 + model.learns_variance) * x.shape[1]
        out = out[:, : x.shape[1]]
        on_x, on_output = {
            "epsilon": (0.0, 1.0), "sample": (1 / sigma, -alpha / sigma), "v_prediction": (sigma, alpha),
        }[config.prediction_type] if name != "ve" else (0.0, -sigma)  # fmt: skip
        noise = on_x * state + on_output * out
        # At σ the Gaussian features are of phases of hundreds, which float32 knows to some 1e-5.
        assert difference(noise, expected) < (5e-5 if name == "ve" else 1e-5)
        if name != "ve":
            assert abs(float(pipeline.scheduler.alphas_cumprod[i]) - alpha**2) < 2e-6
    if not cond:
        images = pipeline(batch_size=2, num_inference_steps=2, output_type="np").images
        assert images.shape == (2, *x.shape[2:], x.shape[1])


@pytest.mark.skipif(not SOURCES.is_dir(), reason="no checkpoints beside the checkout")
@pytest.mark.parametrize("name", ["diffusers_ddpm", "diffusers_ddpm_heads", "diffusers_ncsnpp"])
def test_a_published_folder_is_written_as_it_was(name: str, tmp_path: Path) -> None:
    export_diffusers(load_diffusers(SOURCES / name), tmp_path / "out")
    inner = SOURCES / name / "unet" if (SOURCES / name / "unet").is_dir() else SOURCES / name
    before, after = (load_file(f / "diffusion_pytorch_model.safetensors") for f in (inner, tmp_path / "out" / "unet"))
    new = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    before = {".".join(new.get(part, part) for part in key.split(".")): value for key, value in before.items()}
    assert before.keys() == after.keys()
    assert all(
        v.shape == after[k].shape and v.numpy().tobytes() == after[k].numpy().tobytes() for k, v in before.items()
    )
    old, made = (json.loads((folder / "config.json").read_text()) for folder in (inner, tmp_path / "out" / "unet"))
    unread = ("_diffusers_version", *(("flip_sin_to_cos", "freq_shift") if "ncsn" in name else ()))
    assert {k: v for k, v in old.items() if k not in unread}.items() <= made.items()


PLAIN: dict[str, Any] = {"resample": "conv", "skip_scale": 1.0, "groups": 4}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiT((1, 8, 8), 4, 32, 1, 1), "the network is a DiT, and diffusers' UNet2DModel is a UNet"),
        (lambda: MLP((1, 8, 8)), "the network is a MLP, and"),
        (lambda: UNet((1, 8, 8)), "network.resample is 'pool', as by default, and"),
        (lambda: UNet((2, 16), **PLAIN), r"for samples of shape \(2, 16\), and diffusers' UNet2DModel for images"),
        (lambda: UNet((1, 8, 8), resample="conv"), "network.groups comes to 8, 16, 24, 32 in different layers"),
        (lambda: UNet((1, 8, 8), 8, **{**PLAIN, "skip_scale": 0.5}), "encoder.0.skip_scale of the network is 0.5, and"),
        (lambda: UNet((1, 8, 8), 8, attention=(-1,), **PLAIN), "network.middle_attention is 'level', and"),
        (lambda: UNet((1, 8, 8), 8, stem_channels=4, **PLAIN), "network.stem_channels is 4, and"),
        (lambda: UNet((1, 8, 8), 32, attention=(0,), heads=2, middle_attention="between", **PLAIN),
         "heads of 16 and 32 channels, and"),
        (lambda: UNet((1, 8, 8), 8, num_classes=3, **PLAIN), "network.label_place is 'hidden', with label_scale 1"),
        (lambda: UNet((1, 8, 8), 8, num_classes=3, label_dropout=0.1, label_place="output", **PLAIN),
         "network.label_dropout is 0.1, and"),
        (lambda: UNet((1, 8, 8), 8, augmentations=9, **PLAIN), "network.augmentations is 9, and"),
        (lambda: UNet((1, 8, 8), 8, vector_size=2, **PLAIN), "the network is conditioned on vector, and"),
        (lambda: ddpmpp((1, 8, 8), 128, (1, 1), 1), r"encoder.0.skip_scale of the network is 0\.707"),
        (lambda: song_ddpmpp((1, 8, 8), 16, (1, 1), 1, num_classes=2), "network.label_place is 'features'"),
        (lambda: ncsnpp((3, 8, 8), 16, (1, 1), 1), "network.input_pyramid is 'residual', and"),
        (lambda: ncsnpp((3, 8, 8), 16, (1, 1), 1, input_pyramid="skip"), "an input or an output pyramid, and"),
        (lambda: UNet((1, 8, 8), 32, (1, 1), 1, **SKIP), "the images have 1 channels, and"),
        (lambda: UNet((3, 8, 8), 32, (1, 1), 1, **SKIP | {"taps": [1, 1]}),
         r"downs.0.resample.size of the network is 2"),
        (lambda: adm((1, 8, 8), 32, (1, 2), 1), "network.groups comes to 8, 16, 24, 32 in different layers"),
    ],
)  # fmt: skip
def test_networks_that_diffusers_has_not_are_named(make: Any, message: str, tmp_path: Path) -> None:
    model = NetworkScore(make(), DDPMSDE(), NoisePreconditioning(TableIndex(1000)))
    with pytest.raises(ValueError, match=message) as error:
        export_diffusers(model, tmp_path / "a" / "out")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sde", "preconditioning", "options", "message"),
    [
        (
            VPSDE(),
            EDMPreconditioning(0.5),
            {},
            "preconditioning is EDMPreconditioning.*, by which the network sees its",
        ),
        (
            VPSDE(),
            FlowPreconditioning(),
            {},
            "preconditioning is FlowPreconditioning.*, and diffusers' schedulers take",
        ),
        (SubVPSDE(), NoisePreconditioning(), {}, "sde is SubVPSDE.*, and the schedulers of DDPMPipeline are chains"),
        (EDMSDE(), NoisePreconditioning(), {}, "sde is EDMSDE.*, and the schedulers of DDPMPipeline are chains"),
        (VESDE(), ScorePreconditioning("sigma"), {}, "sde is VESDE.*, which diffusers has with preconditioning=score"),
        (VPSDE(), NoisePreconditioning(), {"embedding": FourierFeatures(64)}, "network.embedding has 64 features, and"),
    ],
)
def test_processes_that_diffusers_has_not_are_named(
    sde: SDE, preconditioning: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export_diffusers(NetworkScore(small(**options), sde, preconditioning), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_folders_steps_and_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("vp")
    model.info = DataInfo("digits", (1, 8, 16), Discrete(17, -0.9, 3.0))
    notes = export_diffusers(model, tmp_path / "out", 20)
    assert notes == [
        "pictures of the pipeline are black at -1 and white at 1: the data are " + repr(model.info.transform)
    ]
    assert len(getattr(load_diffusers(tmp_path / "out").sde, "betas", ())) == 20
    with pytest.raises(ValueError, match="out is there already, and is not replaced: give folder=DIR"):
        export_diffusers(model, tmp_path / "out")
    with pytest.raises(ValueError, match="steps is 20, and the run's SDE is a chain of 1000 steps: leave steps out"):
        export_diffusers(model_of("ddpm"), tmp_path / "other", 20)
    # What is not the model is not kept.
    monkeypatch.setattr("scoresde.interop.diffusers_export._prediction", lambda *given: ("epsilon", -1))
    with pytest.raises(ValueError, match=r"predicts other noise than the model, by 2 of it at t = 0\.001: nothing is"):
        export_diffusers(model_of("ddpm"), tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_published_size_has_a_configuration() -> None:
    with torch.device("meta"):
        network = ddpm((3, 32, 32))
    config = config_of(network)
    assert (config["block_out_channels"], config["norm_num_groups"]) == ([128, 256, 256, 256], 32)
    assert config["up_block_types"] == ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]
