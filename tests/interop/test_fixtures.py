"""Checkpoints that the projects' own code wrote, with what that code computed: every number is reproduced.

They lie beside the checkout, and these tests are left out where they do not.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from scoresde.chains import GaussianChainModel
from scoresde.interop import (
    load_diffusers,
    load_edm,
    load_edm2,
    load_guided_diffusion,
    load_score_sde,
)
from scoresde.interop.records import module_state, read_modules
from scoresde.likelihood import decode, log_likelihood
from scoresde.numerics.jacobian import jacobian_products
from scoresde.numerics.trace import Divergence, Traces
from scoresde.preconditioning import UnscaledNoisePreconditioning
from scoresde.sampling import DDIM, ExplicitTimes, Heun, KarrasGrid, NoiseLevel, Sampler
from scoresde.score import NetworkScore
from scoresde.sde import SDE, VPSDE, DiscreteVPSDE, SubVPSDE
from scoresde.storage.torch_files import read_torch_file
from tests.interop.containers import SOURCES

NAMES = sorted(path.stem for path in SOURCES.glob("*.json"))
pytestmark = pytest.mark.skipif(not NAMES, reason="the checkpoints are not beside this checkout")


def described(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SOURCES / f"{name}.json").read_text())
    return found


def place(about: dict[str, Any]) -> Path:
    return SOURCES / (about.get("checkpoint") or about["folder"])


def loaded(name: str, **options: Any) -> NetworkScore:
    about = described(name)
    path = place(about)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is a model of latents")
        if about["family"] == "score_sde":
            return load_score_sde(path, about["config"], **options)
        if about["family"] == "EDM":
            return load_edm(path)
        if about["family"] == "EDM2":
            return load_edm2(path)
        if about["family"] == "diffusers":
            return load_diffusers(path)
        return load_guided_diffusion(path, about["network_arguments"], about["diffusion"])


def reference(name: str) -> dict[str, Tensor]:
    return load_file(SOURCES / f"{name}.reference.safetensors")


def bound(about: dict[str, Any]) -> float:
    """As their README states it."""
    return max([1e-5, *(5 * value for value in about.get("rounding", {}).values())])


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference of a sample from what is expected, relative to the sample's largest value."""
    found, expected = found.double().flatten(1), expected.double().flatten(1)
    return float(((found - expected).abs().amax(1) / expected.abs().amax(1)).max())


def times(model: NetworkScore, about: dict[str, Any], known: dict[str, Tensor]) -> Tensor:
    """The time of each stored sample under the model's SDE."""
    if about["family"] == "score_sde":
        kind, steps = about["sde"]["kind"], about["sde"]["N"]
        if about["sde"]["continuous"]:
            return known["t"].double()
        label = known["network_input_label"].double()
        return (steps - label) / steps if kind == "VE" else (label + 1) / steps
    if isinstance(model.sde, DiscreteVPSDE):
        return (known["timestep"].double() + 1) / len(model.sde.betas)
    sigma = known["sigma"].double()
    return model.sde.time(-sigma.log()).clamp(model.sde.t_min, model.sde.t_max)


def conditions(model: NetworkScore, labels: Tensor | None) -> dict[str, Any]:
    if labels is None or model.classes is None:
        return {}
    return {"labels": labels if labels.ndim == 1 else labels.argmax(1)}


def digest(items: Iterable[tuple[str, Tensor]]) -> str:
    total = hashlib.sha256()
    for name, value in items:
        for text in (name, str(value.dtype).removeprefix("torch."), str(list(value.shape))):
            total.update(text.encode())
        total.update(value.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_read(name: str) -> None:
    about = described(name)
    path = place(about)
    if about["family"] == "diffusers":
        (file,) = path.rglob("*.safetensors")
        state = load_file(file)
        assert digest(sorted(state.items())) == about["state"]["sha256"]
    elif about["family"] in ("EDM", "EDM2"):
        assert digest(module_state(read_modules(path)["ema"]).items()) == about["state"]["sha256"]
    elif about["family"] == "score_sde":
        content = read_torch_file(path)
        model = content["model"]
        assert digest(model.items()) == about["model_state"]["sha256"]
        names = [n for n in model if n not in ("module.sigmas", *about["not_in_ema"])]
        pairs = list(zip(names, content["ema"]["shadow_params"], strict=True))
        assert digest(pairs) == about["ema_state"]["sha256"]
    else:
        assert digest(read_torch_file(path).items()) == about["state"]["sha256"]


@pytest.mark.parametrize("name", NAMES)
def test_every_output_is_reproduced(name: str) -> None:
    about, known, model = described(name), reference(name), loaded(name)
    x, t = known["x"], times(model, about, known)
    cond = conditions(model, known.get("class_labels"))
    most, channels = bound(about), x.shape[1]
    with torch.no_grad():
        raw = model.raw(x, t, **cond)
        for key in ("network_output", "F_output", "model_output"):
            if key in known and about["family"] != "diffusers":
                assert error(raw, known[key][:, :channels]) < most, key
        alpha = known.get("alpha", torch.ones(len(x))).double()[:, None, None, None]
        sigma = known["sigma"].double()[:, None, None, None]
        if about["family"] == "score_sde" and about["sde"]["kind"] != "VE":
            # By the stored σ: the original's is rounded, and in discrete models that of the entry below t.
            score = -raw / sigma
            assert error(score, known["score"]) < most
            assert error((x + sigma**2 * score) / alpha, known["denoised"]) < most
        else:
            assert error(model.denoise(x, t, **cond), known["denoised"]) < most
            if "score" in known:
                assert error(model.score(x, t), known["score"]) < most
        if about["family"] == "diffusers":
            output = model.score(x, t) if about["prediction"].startswith("score") else raw
            assert error(output, known["model_output"]) < most
        if "denoised_without_label" in known:
            assert error(model.denoise(x, t), known["denoised_without_label"]) < most
        if "denoised_augmented" in known:
            found = model.denoise(x, t, augment_labels=known["augment_labels"], **cond)
            assert error(found, known["denoised_augmented"]) < most
        if "logvar" in known:
            log_variance: Any = model.network.log_variance
            assert error(log_variance(known["c_noise"])[:, None], known["logvar"][:, None]) < most
        if "posterior_mean" in known:
            assert isinstance(model.sde, DiscreteVPSDE)
            chain = GaussianChainModel(model, model.sde.chain(), "learned")
            step = chain.reverse(x, known["timestep"] + 1, **cond)
            assert error(step.mean, known["posterior_mean"]) < most
            # Not the logarithm, which is 0 but for rounding where the variance is almost 1.
            assert error(step.variance, known["posterior_log_variance"].double().exp()) < most
        if "score_raw_weights" in known:
            other = loaded(name, weights="raw")
            expected = known["score_raw_weights"]
            found = other.score(x, t) if about["sde"]["kind"] == "VE" else -other.raw(x, t) / sigma
            assert error(found, expected) < most


@pytest.mark.parametrize("name", [n for n in NAMES if "sampler_output" in reference(n)])
def test_samples_are_the_originals(name: str) -> None:
    """Ten steps of Heun's method, or of DDIM, from a stored latent."""
    about, known, model = described(name), reference(name), loaded(name)
    cond = conditions(model, known.get("sampler_class_labels"))
    start = known["sampler_latent"]
    if isinstance(model.sde, DiscreteVPSDE):
        steps = known["sampler_timesteps"].double().sort(descending=True).values
        grid = ExplicitTimes(((steps + 1) / len(model.sde.betas)).tolist())
        out = Sampler(DDIM(), grid)(model, x_init=start, **cond)
    else:
        assert about["sampler"]["num_steps"] == 10
        out = Sampler(Heun(coordinate=NoiseLevel()), KarrasGrid(9))(model, x_init=80 * start, **cond)
        assert out.nfe == 19
    assert error(out.x, known["sampler_output"]) < 1e-4


class Probe(Divergence):
    """The trace by one probe, the same everywhere, as score_sde has it."""

    def __init__(self, probe: Tensor) -> None:
        self.probe = probe

    def products(self, size: int) -> int:
        return 1

    def traces(self, function: Any, x: Tensor, seed: int, indices: Tensor, known: Any = None) -> Traces:
        probe = self.probe.to(x).flatten()
        field, products = jacobian_products(function, x, probe.expand(len(x), 1, -1))
        value = (products[:, 0] * probe).double().sum(1)
        return Traces(value, torch.zeros_like(value), None, 1, field.flatten(1))


class RoundedStd(UnscaledNoisePreconditioning):
    """score_sde's own: its σ = √(1 − e^{2c}) in float32, which is 0.6 % off at t = 1e-5."""

    def target(self, sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(sde, VPSDE | SubVPSDE)
        short = t.float()
        rest = 1 - (-0.5 * short**2 * (sde.beta_max - sde.beta_min) - short * sde.beta_min).exp()
        std = rest.sqrt() if isinstance(sde, VPSDE) else rest
        return torch.zeros_like(t), std.double() / sde.sigma(t)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if "likelihood_data" in reference(n)])
def test_likelihoods_are_the_originals(name: str) -> None:
    """Those at the smaller tolerance, with the stored probe and the original's rounding of σ."""
    about, known, model = described(name), reference(name), loaded(name)
    if about["sde"]["kind"] != "VE":
        model.preconditioning = RoundedStd("time")
    data, assumed = known["likelihood_data"], about["likelihood"]
    info = model.info
    assert info is not None
    offset = info.transform.log_det(data.shape[1:]) / (-math.log(2) * data[0].numel())
    assert math.isclose(offset, assumed["offset"])
    for i in range(len(data)):
        probe = Probe(known["likelihood_epsilon"][i])
        out = log_likelihood(model, data[i : i + 1], divergence=probe, prior="plain", tol=1e-3)
        bits = -float(out.log_prob) / (math.log(2) * data[0].numel()) + offset
        assert abs(bits - float(known["likelihood_bits_per_dim_tight"][i])) < 1e-3
        assert error(out.latent, known["likelihood_latent_tight"][i : i + 1]) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if "ode_sample_tight" in reference(n)])
def test_samples_of_the_ode_are_the_originals(name: str) -> None:
    about, known, model = described(name), reference(name), loaded(name)
    if about["sde"]["kind"] != "VE":
        model.preconditioning = RoundedStd("time")
    found = decode(model, known["ode_latent"], t_min=about["ode_sampler"]["t_end"], rtol=1e-6, atol=1e-6)
    if about["data_range"] == [-1, 1]:
        found = (found + 1) / 2  # as the original returns them
    assert error(found, known["ode_sample_tight"]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_weight_is_unused(name: str) -> None:
    """Each tensor changes the output if its numbers are a tenth larger, but for those that have no effect at all."""
    about, known, model = described(name), reference(name), loaded(name)
    one = slice(None, None, 2)  # of each noise level
    x, t, cond = known["x"][one], times(model, about, known)[one], conditions(model, known.get("class_labels"))
    cond |= {"augment_labels": known["augment_labels"]} if "augment_labels" in known else {}
    cond = {name: value[one] for name, value in cond.items()}

    def output() -> Tensor:
        with torch.no_grad():
            raw = model.network(x, model.preconditioning.c_noise(model.sde, t).float(), **cond).flatten()
            more: Any = getattr(model.network, "log_variance", None)
            return raw if more is None else torch.cat((raw, more(known["c_noise"])))

    before, silent, generator = output(), 0, torch.Generator().manual_seed(0)
    for value in model.network.state_dict().values():
        kept = value.clone()
        # Each number by another factor, since EDM2's weights are normalised.
        value.mul_(1.1 + 0.1 * torch.rand(value.shape, generator=generator))
        silent += int((output() - before).abs().max() <= 1e-7 * before.abs().max())
        value.copy_(kept)
    assert silent <= len(about["sensitivity"]["not_noticed"])
