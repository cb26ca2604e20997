"""Files of every project, written here with random numbers: which model they are, and what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scoresde.data import Discrete
from scoresde.interop import (
    diffusers_names,
    edm_names,
    guided_names,
    load_diffusers,
    load_edm,
    load_guided_diffusion,
    load_score_sde,
    read_checkpoint,
    score_sde_names,
)
from scoresde.interop.published import GUIDED as PUBLISHED_GUIDED
from scoresde.interop.published import SCORE_SDE
from scoresde.networks import UNet
from scoresde.score import NetworkScore
from scoresde.sde import DDPMSDE, EDMSDE, NCSNSDE, SDE, VESDE, VPSDE, CosineDDPMSDE, DiscreteVESDE, SubVPSDE
from scoresde.storage.bounded import CheckpointError
from tests.interop.containers import EasyDict, module, nested, write_pickle, write_torch
from tests.interop.test_unet_names import ADM, DDPM, GUIDED, SONG, file_of, song

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net(family: Any, config: dict[str, Any]) -> Callable[..., Tensor]:
    """The network of a file of `file_of`, as a function of x, the number that it is told, and conditions."""
    network = UNet(**family.network_options(config)).eval()
    network.load_state_dict(family.converted(file_of(family, config), config))

    def call(x: Tensor, label: float | Tensor, **cond: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = network(x, torch.as_tensor(label, dtype=torch.float32).expand(len(x)), **cond)
            return out[:, : x.shape[1]]

    return call


def close(found: Tensor, expected: Tensor) -> bool:
    found, expected = found.detach(), expected.to(found.dtype).detach()
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# -- score_sde ------------------------------------------------------------------------------------------------


def song_config(sde: str, continuous: bool = True, **changed: Any) -> dict[str, Any]:
    exploding = sde == "vesde"
    changed = {
        "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "num_scales": 20, "beta_min": 0.1,
        "beta_max": 20.0, "sigma_min": 0.01, "sigma_max": 50, "scale_by_sigma": exploding,
        "embedding_type": "fourier" if exploding and continuous else "positional",
    } | changed  # fmt: skip
    return song(**changed) | {
        "data": {"image_size": 8, "num_channels": 3, "centered": not exploding, "dataset": "CIFAR10"},
        "training": {"sde": sde, "continuous": continuous},
    }


def song_file(path: Path, config: dict[str, Any], old: bool = False, **changes: Any) -> Path:
    """A `.pth`: raw weights by name, twice as large, and averages without names."""
    state = file_of(score_sde_names, config)
    names = ["all_modules.0.W"] if "all_modules.0.W" in state else []
    model = {f"module.{n}": (v if n in names else 2 * v) for n, v in state.items()}
    high, low, n = (config["model"][key] for key in ("sigma_max", "sigma_min", "num_scales"))
    model = {"module.sigmas": torch.linspace(math.log(high), math.log(low), n, dtype=torch.float64).exp(), **model}
    averages = [v for n, v in state.items() if n not in names]
    content = {"optimizer": {}, "model": model, "ema": {"decay": 0.9, "shadow_params": averages}, "step": 77}
    return write_torch(path, content | changes, old)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("config", "sde", "label"),
    [
        (song_config("vpsde"), VPSDE(), lambda t: 999 * t),
        (song_config("subvpsde"), SubVPSDE(), lambda t: 999 * t),
        (song_config("vpsde", False), DDPMSDE(20, 0.1 / 20, 20 / 20 - 1e-9), lambda t: 20 * t - 1),
    ],
)
def test_vp_models_predict_the_noise(tmp_path: Path, config: dict[str, Any], sde: SDE, label: Any, old: bool) -> None:
    config["model"]["beta_max"] = 20 - 2e-8 if not config["training"]["continuous"] else 20.0
    model = load_score_sde(song_file(tmp_path / "f.pth", config, old), config)
    assert type(model.sde) is type(sde)
    call = net(score_sde_names, config)
    for t in (0.05, 0.5, 1.0):
        expected = -call(X, label(t)) / model.sde.sigma(torch.tensor(t, dtype=torch.float64))
        assert close(model.score(X, torch.tensor(t, dtype=torch.float64)), expected)
    raw = load_score_sde(tmp_path / "f.pth", config, weights="raw")
    assert not close(raw.score(X, torch.tensor(0.5)), model.score(X, torch.tensor(0.5)))
    assert model.info is not None
    assert (model.info.transform, model.info.shape, model.info.name) == (Discrete(256), (3, 8, 8), "cifar10")


@pytest.mark.parametrize("continuous", [True, False])
def test_ve_models_are_divided_by_sigma(tmp_path: Path, continuous: bool) -> None:
    """The network sees 2x − 1, and its output is −ε; a discrete model is told the index, 0 being the largest σ."""
    config = song_config("vesde", continuous)
    model = load_score_sde(song_file(tmp_path / "f.pth", config), config)
    assert type(model.sde) is (VESDE if continuous else NCSNSDE)
    call = net(score_sde_names, config)
    for index in (0, 7, 19):
        sigma = 50 * (0.01 / 50) ** (index / 19)
        t = model.sde.time(torch.tensor(-math.log(sigma), dtype=torch.float64)).clamp(1e-5, 1)
        sigma = float(model.sde.sigma(t))
        expected = call(X, math.log(sigma) if continuous else index) / sigma
        assert close(model.score(X, t), expected)
    assert model.info is not None
    assert model.info.transform == Discrete(256, 0.0, 1.0)
    with torch.no_grad():
        centred = UNet(**(score_sde_names.network_options(config) | {"center_input": False})).eval()
        centred.load_state_dict(score_sde_names.converted(file_of(score_sde_names, config), config))
        assert close(call(X, 0.5), centred(2 * X - 1, torch.full((2,), 0.5)))


def test_a_table_of_the_file_goes_before_that_of_the_configuration(tmp_path: Path) -> None:
    config = song_config("vesde", False)
    sigmas = torch.linspace(50, 0.01, 20, dtype=torch.float64)
    path = song_file(tmp_path / "f.pth", config)
    content = torch.load(path, weights_only=True)
    content["model"]["module.sigmas"] = sigmas
    model = load_score_sde(write_torch(path, content), config)
    assert type(model.sde) is DiscreteVESDE
    assert torch.allclose(torch.tensor(model.sde.sigmas, dtype=torch.float64), sigmas.flip(0))


def test_published_configurations_have_the_published_sizes() -> None:
    sizes = {
        "ve/cifar10_ncsnpp_continuous": 62_758_915,
        "vp/cifar10_ncsnpp_continuous": 62_693_251, "vp/cifar10_ddpmpp_continuous": 61_804_419,
        "vp/cifar10_ddpmpp_deep_continuous": 106_632_579, "vp/ddpm/cifar10": 35_218_947,
        "ve/celebahq_256_ncsnpp_continuous": 65_574_549, "ve/ffhq_ncsnpp_continuous": 105_785_896,
    }  # fmt: skip
    for name, size in sizes.items():
        with torch.device("meta"):
            network = UNet(**score_sde_names.network_options(SCORE_SDE[name]))
        count = sum(v.numel() for v in network.state_dict().values())
        assert count == size, name
    assert all(guided_names.network_options(arguments)["learn_variance"] for arguments, _ in PUBLISHED_GUIDED.values())
    with torch.device("meta"):
        network = UNet(**guided_names.network_options(PUBLISHED_GUIDED["64x64_diffusion"][0]))
    assert sum(p.numel() for p in network.parameters()) == 295_904_454  # EDM's, with 3 more channels of output


@pytest.mark.parametrize(
    ("changes", "config", "problem"),
    [
        ({"ema": {"shadow_params": [torch.zeros(1)]}}, {}, "has 1 EMA weights, expected 156, one for each parameter"),
        ({"ema": None}, {}, r"has no EMA weights \('ema'\): weights='raw'"),
        ({"model": 3}, {}, "has no 'model', as files of score_sde_pytorch do"),
        ({}, {"nf": 16}, r"has shape \(32, 8\) in the file, expected \(64, 16\)"),
        ({}, {"progressive_input": "input_skip"}, "no tensor all_modules"),
        ({}, {"embedding_type": "fourier"}, "vpsde with Fourier features of the time"),
        ({}, {"scale_by_sigma": True}, "vpsde with an output divided by the noise levels"),
        ({}, {"conditional": False}, "conditional is False"),
        ({}, {"beta_max": "much"}, "config.model.beta_max is 'much', expected a number"),
    ],
)
def test_what_score_sde_does_not_hold_together(
    tmp_path: Path, changes: dict[str, Any], config: dict[str, Any], problem: str
) -> None:
    path = song_file(tmp_path / "f.pth", song_config("vpsde"), **changes)
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_score_sde(path, song_config("vpsde", **config))
    assert "\n" not in str(caught.value)


def test_an_average_of_another_shape_is_named(tmp_path: Path) -> None:
    path = song_file(tmp_path / "f.pth", song_config("vpsde"))
    content = torch.load(path, weights_only=True)
    content["ema"]["shadow_params"][2] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"all_modules.1.weight has shape \(3,\), expected \(32, 32\)"):
        load_score_sde(write_torch(path, content), song_config("vpsde"))


def test_a_configuration_that_lacks_something(tmp_path: Path) -> None:
    path = song_file(tmp_path / "f.pth", song_config("vpsde"))
    config = song_config("vpsde")
    del config["training"]
    with pytest.raises(CheckpointError, match="config has no training, which is needed to rebuild the model"):
        load_score_sde(path, config)
    with pytest.raises(ValueError, match="is no published configuration: did you mean vp/cifar10_ddpmpp"):
        load_score_sde(path, "vp/cifar10_ddpmp")
    with pytest.raises(CheckpointError, match="does not hold its configuration: give config=NAME"):
        read_checkpoint(path)
    assert read_checkpoint(path, {"config": song_config("vpsde")}).step == 77


# -- EDM ------------------------------------------------------------------------------------------------------


def edm_file(path: Path, config: dict[str, Any], extra: dict[str, Any] | None = None, **attributes: Any) -> Path:
    arguments = {key: value for key, value in config.items() if key != "class_name"}
    buffers = {"u": extra["u"]} if extra else {}
    net = module(config["class_name"], buffers=buffers, parts=nested(file_of(edm_names, config)), made_with=arguments)
    net.meta["state"] |= attributes
    if path.suffix == ".pt":
        return write_torch(path, {"net": net, "optimizer_state": {}})
    content = EasyDict(ema=net, loss_fn=None, augment_pipe=None, dataset_kwargs=EasyDict(path="b/digits.zip"))
    return write_pickle(path, content)


SIGMAS = torch.tensor([0.05, 30.0], dtype=torch.float64)


@pytest.mark.parametrize("name", ["f.pkl", "training-state-1.pt"])
def test_edm_by_its_own_formula(tmp_path: Path, name: str) -> None:
    model = load_edm(edm_file(tmp_path / name, SONG, sigma_data=0.7))
    assert model.sde == EDMSDE(0.002, 80.0)
    s, call = SIGMAS.float()[:, None, None, None], net(edm_names, SONG)
    x = torch.randn(2, 2, 8, 8)
    cond = {"labels": torch.tensor([0, 2]), "augment_labels": torch.randn(2, 4)}
    output = call(x / (s**2 + 0.49).sqrt(), SIGMAS.log() / 4, **cond)
    expected = 0.49 / (s**2 + 0.49) * x + s * 0.7 / (s**2 + 0.49).sqrt() * output
    assert close(model.denoise(x, SIGMAS, **cond), expected)
    assert (model.shape, model.classes) == ((2, 8, 8), 3)
    weights = read_checkpoint(tmp_path / name).weights
    assert weights == ("EMA weights" if name.endswith("pkl") else "raw weights of a training state")


@pytest.mark.parametrize(
    ("kind", "attributes", "c_in", "label", "sign", "ends"),
    [
        (
            "VEPrecond", {"sigma_min": 0.02, "sigma_max": 100}, lambda s: 1 + 0 * s, lambda s: (s / 2).log(), 1,
            (0.02, 100),
        ),
        (
            "VPPrecond", {"beta_d": 19.9, "beta_min": 0.1, "M": 100, "epsilon_t": 1e-5},
            lambda s: 1 / (s**2 + 1).sqrt(),
            lambda s: 99 * ((0.1**2 + 2 * 19.9 * (1 + s**2).log()).sqrt() - 0.1) / 19.9, -1,
            (math.sqrt(math.expm1(0.5 * 19.9 * 1e-10 + 0.1 * 1e-5)), math.sqrt(math.expm1(10.05))),
        ),
        (
            "iDDPMPrecond", {"M": 5, "C_1": 1e-3, "C_2": 8e-3}, lambda s: 1 / (s**2 + 1).sqrt(),
            lambda s: torch.tensor([0.0, 4.0]), -1, (0.04, 40.0),
        ),
    ],
)  # fmt: skip
def test_edm_baselines_by_their_own_formulas(
    tmp_path: Path, kind: str, attributes: dict[str, Any], c_in: Any, label: Any, sign: int, ends: tuple[float, float]
) -> None:
    config = (ADM if kind == "iDDPMPrecond" else SONG) | {"class_name": kind}
    levels = {"u": torch.tensor([40.0, 20.0, 5.0, 1.0, 0.04, 0.0])} if kind == "iDDPMPrecond" else None
    model = load_edm(edm_file(tmp_path / "f.pkl", config, levels, **attributes))
    assert math.isclose(model.sde.t_min, ends[0], rel_tol=1e-6)
    assert math.isclose(model.sde.t_max, ends[1], rel_tol=1e-6)
    x, s = torch.randn(2, 2, 8, 8), SIGMAS.float()[:, None, None, None]
    output = net(edm_names, config)(c_in(s) * x, label(SIGMAS), labels=torch.tensor([0, 1]))
    expected = x + sign * s * output
    assert close(model.denoise(x, SIGMAS, labels=torch.tensor([0, 1])), expected)


def test_what_is_no_network_of_edm(tmp_path: Path) -> None:
    path = edm_file(tmp_path / "f.pkl", SONG)
    for made, problem in (
        (
            write_pickle(tmp_path / "g.pkl", {"ema": module("Odd")}),
            "has a network of class Odd, expected one of",
        ),
        (write_pickle(tmp_path / "h.pkl", {"other": 1}), "has neither an 'ema' nor a 'net' that is a module"),
    ):
        with pytest.raises(CheckpointError, match=problem):
            load_edm(made)
    odd = module("EDMPrecond", parts=nested(file_of(edm_names, SONG)), made_with=dict(SONG) | {"width": 3})
    del odd.meta["state"]["_init_kwargs"]["class_name"]
    with pytest.raises(CheckpointError, match="is not understood: the arguments have width"):
        load_edm(write_pickle(tmp_path / "g.pkl", {"ema": odd}))
    with pytest.raises(CheckpointError, match="has no 'model', as files of score_sde_pytorch do"):
        load_score_sde(path, song_config("vpsde"))


# -- guided-diffusion -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
def test_chains_of_openai(tmp_path: Path, old: bool) -> None:
    path = write_torch(tmp_path / "f.pt", file_of(guided_names, GUIDED), old)
    call, cond = net(guided_names, GUIDED), {"labels": torch.tensor([0, 2])}
    for steps, schedule, rescaled, kind in (
        (1000, "linear", False, DDPMSDE), (50, "cosine", True, CosineDDPMSDE), (50, "linear", False, DDPMSDE),
    ):  # fmt: skip
        chain = {"steps": steps, "noise_schedule": schedule, "learn_sigma": True, "rescale_timesteps": rescaled}
        model = load_guided_diffusion(path, GUIDED, chain)
        assert type(model.sde) is kind
        assert model.learns_variance
        assert math.isclose(model.sde.betas[0], {"linear": 0.1 / steps, "cosine": model.sde.betas[0]}[schedule])  # type: ignore[attr-defined]
        for step in (0, 9, steps - 1):
            t = torch.tensor((step + 1) / steps, dtype=torch.float64)
            expected = call(X, step * (1000 / steps if rescaled else 1), **cond)
            assert close(model.noise(X, t, **cond), expected)
        mean = load_guided_diffusion(path, GUIDED, chain | {"predict_xstart": True})
        assert close(mean.denoise(X, t, **cond), call(X, step * (1000 / steps if rescaled else 1), **cond))
    assert (model.shape, model.classes) == ((3, 8, 8), 3)


def test_improved_diffusion_does_not_know_the_size_of_its_images(tmp_path: Path) -> None:
    arguments = {k: v for k, v in GUIDED.items() if k not in ("image_size", "resblock_updown")}
    path = write_torch(tmp_path / "f.pt", file_of(guided_names, arguments))
    model = load_guided_diffusion(path, arguments, {"steps": 1000, "noise_schedule": "linear"})
    assert model.shape is None
    assert model.info is None
    with torch.no_grad():
        assert model.noise(torch.zeros(1, 3, 4, 12), torch.tensor(0.5), labels=torch.tensor([1])).shape == (1, 3, 4, 12)
    model = load_guided_diffusion(path, arguments, {"steps": 1000, "noise_schedule": "linear"}, image_size=8)
    assert model.shape == (3, 8, 8)
    described = {"network_arguments": arguments, "diffusion": {"steps": 1000, "noise_schedule": "linear"}}
    known = read_checkpoint(path, described | {"input_shape": [3, 16, 16]}).info
    assert known is not None
    assert known.shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "diffusion", "problem"),
    [
        (GUIDED, None, "diffusion is missing"),
        (GUIDED, {"noise_schedule": "linear"}, "diffusion has no steps, which is needed"),
        (GUIDED, {"steps": 9, "noise_schedule": "odd"}, "noise_schedule is 'odd', expected one of linear, cosine"),
        (GUIDED, {"steps": 9, "noise_schedule": "linear"}, "diffusion has no rescale_timesteps, which is needed"),
        (GUIDED, {"steps": 1000, "noise_schedule": "linear", "learn_sigma": False}, "out_channels is 6, expected 3"),
        (GUIDED | {"model_channels": 64}, {"steps": 1000, "noise_schedule": "linear"}, "time_embed.0.weight has"),
        ("65x65_diffusion", None, "is no published configuration: did you mean 64x64_diffusion"),
    ],
)  # fmt: skip
def test_what_does_not_describe_a_chain(tmp_path: Path, arguments: Any, diffusion: Any, problem: str) -> None:
    path = write_torch(tmp_path / "f.pt", file_of(guided_names, GUIDED))
    with pytest.raises(ValueError, match=problem) as caught:
        load_guided_diffusion(path, arguments, diffusion)
    assert "\n" not in str(caught.value)


# -- diffusers --------------------------------------------------------------------------------------------------

CHAIN = {
    "_class_name": "DDPMScheduler", "num_train_timesteps": 50, "beta_start": 1e-3, "beta_end": 0.2,
    "beta_schedule": "linear", "trained_betas": None, "prediction_type": "epsilon",
}  # fmt: skip


def folder(
    path: Path,
    scheduler: dict[str, Any] | None = CHAIN,
    config: dict[str, Any] = DDPM,
    layout: str = "flat",
    **more: Any,
) -> Path:
    inner, beside = (path / "unet", path / "scheduler") if layout == "pipeline" else (path, path)
    for place in (inner, beside):
        place.mkdir(parents=True, exist_ok=True)
    (inner / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **config}))
    if scheduler is not None:
        (beside / "scheduler_config.json").write_text(json.dumps(scheduler))
    state = file_of(diffusers_names, config)
    if layout == "bin":
        torch.save(state, inner / "diffusion_pytorch_model.bin")
    else:
        save_file(state, inner / "diffusion_pytorch_model.safetensors")
    (path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", **more}))
    return path


@pytest.mark.parametrize("layout", ["flat", "pipeline", "bin"])
def test_folders_of_diffusers(tmp_path: Path, layout: str) -> None:
    model = load_diffusers(folder(tmp_path / "ddpm", layout=layout))
    assert model.sde == DDPMSDE(50, 1e-3, 0.2)
    call = net(diffusers_names, DDPM)
    t = torch.tensor(8 / 50, dtype=torch.float64)
    assert close(model.noise(X, t), call(X, 7))
    assert model.info is not None
    assert (model.info.name, model.info.shape) == ("ddpm", (3, 8, 8))


def of(path: Path, **scheduler: Any) -> NetworkScore:
    return load_diffusers(folder(path, CHAIN | scheduler))


def test_schedules_and_predictions_of_diffusers(tmp_path: Path) -> None:
    t, call = torch.tensor(8 / 50, dtype=torch.float64), net(diffusers_names, DDPM)
    for schedule, first, last in (("scaled_linear", 1e-3, 0.2), ("sigmoid", 1e-3 + 0.199 / (1 + math.exp(6)), None)):
        betas = of(tmp_path / schedule, beta_schedule=schedule).sde.betas  # type: ignore[attr-defined]
        assert math.isclose(betas[0], first, rel_tol=1e-9)
        assert last is None or math.isclose(betas[-1], last, rel_tol=1e-9)
    middle = of(tmp_path / "scaled_linear").sde.betas[24]  # type: ignore[attr-defined]
    assert math.isclose(middle, 1e-3 + 0.199 * 24 / 49)
    assert type(of(tmp_path / "c", beta_schedule="squaredcos_cap_v2").sde) is CosineDDPMSDE
    own = [0.1 + i / 100 for i in range(50)]
    assert of(tmp_path / "t", trained_betas=own).sde.betas == tuple(own)  # type: ignore[attr-defined]
    assert close(of(tmp_path / "x", prediction_type="sample").denoise(X, t), call(X, 7))
    model = of(tmp_path / "v", prediction_type="v_prediction")
    alpha, sigma = (v.float() for v in (model.sde.alpha(t), model.sde.sigma(t)))
    assert close(model.denoise(X, t), alpha * X - sigma * call(X, 7))
    assert close(model.noise(X, t), sigma * X + alpha * call(X, 7))


@pytest.mark.parametrize(
    ("scheduler", "config", "more", "problem"),
    [
        (CHAIN, {}, {"vae": ["diffusers", "AutoencoderKL"]}, r"latents of an autoencoder \(vae\)"),
        (CHAIN, {}, {"text_encoder": ["transformers", "CLIP"]}, r"a pipeline with text \(text_encoder\)"),
        (CHAIN, {"_class_name": "UNet2DConditionModel"}, {}, "UNet2DConditionModel .* only UNet2DModel is"),
        (None, {}, {}, "has no scheduler_config.json"),
        (CHAIN | {"rescale_betas_zero_snr": True}, {}, {}, "no signal is left at the last step: not supported"),
        (CHAIN | {"beta_schedule": "odd"}, {}, {}, "beta_schedule is 'odd', expected one of linear"),
        (CHAIN | {"trained_betas": [0.1]}, {}, {}, "trained_betas is .*, expected a list of 50 numbers"),
        (CHAIN | {"prediction_type": "odd"}, {}, {}, "prediction_type is 'odd'"),
        ({"_class_name": "EDMEulerScheduler"}, {}, {}, "is of a EDMEulerScheduler without β's"),
        ({"_class_name": "ScoreSdeVeScheduler"}, {}, {}, "which number it is to be given is not known"),
        (CHAIN | {"num_train_timesteps": 10**12}, {}, {}, "num_train_timesteps is '1000000000000', expected"),
        (CHAIN | {"num_train_timesteps": 2, "trained_betas": [0.1, None]}, {}, {}, "expected numbers between 0 and 1"),
        (CHAIN | {"beta_end": 2.0}, {}, {}, "f: β_.* of 50 is .*, expected numbers between 0 and 1"),
        (CHAIN, {"time_embedding_type": "learned", "num_train_timesteps": 9}, {}, "50 num_train_timesteps, and .* 9"),
        # Refused before anything is made of them: they would take hours, or all memory.
        (CHAIN, {"layers_per_block": 10**9}, {}, "layers_per_block is 1e[+]09, expected a number of at most 1048576"),
        (CHAIN, {"layers_per_block": 10**6}, {}, "and the network of its configuration 2000000 residual blocks"),
        (CHAIN, {"block_out_channels": [10**6, 8]}, {}, "residual blocks of up to 1000000 channels: give the"),
        (CHAIN, {"out_channels": 6}, {}, "from 3 channels to others|out_channels"),
    ],
)  # fmt: skip
def test_folders_that_are_not_supported(
    tmp_path: Path, scheduler: Any, config: dict[str, Any], more: dict[str, Any], problem: str
) -> None:
    path = folder(tmp_path / "f", scheduler, **more)
    (path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **DDPM, **config}))
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_diffusers(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda value: value * math.nan, "of .*f has values that are not finite: the file is damaged, or training"),
        (lambda value: value.long(), "has dtype int64 in the file, expected floating point"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path: Path, change: Any, problem: str) -> None:
    path = folder(tmp_path / "f")
    file = path / "diffusion_pytorch_model.safetensors"
    save_file({name: change(value) for name, value in load_file(file).items()}, file)
    with pytest.raises(CheckpointError, match=problem):
        load_diffusers(path)


def test_folders_that_lack_something(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_diffusers(tmp_path / "none")
    path = folder(tmp_path / "f")
    weights = path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="cannot be read as a safetensors file"):
        load_diffusers(path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="has neither diffusion_pytorch_model.safetensors nor"):
        load_diffusers(path)
    (path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="has no config.json"):
        load_diffusers(path)
