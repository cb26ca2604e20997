"""Problems by name, for samples of any shape."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from scoresde.config.targets import check_targets, instantiate
from scoresde.inverse import GaussianNoise, Inpainting, NoNoise, ProblemChoice, Sensing, SuperResolution, Unmeasured

CONF = Path(__file__).parents[2] / "conf" / "problem"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))


def choice(name: str) -> ProblemChoice:
    config = OmegaConf.create({"problem": OmegaConf.load(CONF / f"{name}.yaml")})
    check_targets(OmegaConf.to_container(config))
    made = instantiate(config, "problem")
    assert isinstance(made, ProblemChoice)
    return made


SHAPES = [(3, 8, 8), (1, 12, 8), (8,), (2,)]
REFUSED = {
    ("jpeg", (8,)): "expected images",
    ("jpeg", (2,)): "expected images",
    ("radon", (8,)): "expected images",
    ("radon", (2,)): "expected images",
    ("grey_scale", (1, 12, 8)): "expected images of several channels",
    ("grey_scale", (8,)): "expected images of several channels",
    ("grey_scale", (2,)): "expected images of several channels",
    ("downsample4", (2,)): "factor 4 does not divide the size 2",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_choice_makes_a_problem_or_says_which_samples_it_is_for(name: str, shape: tuple[int, ...]) -> None:
    made = choice(name)
    if (name, shape) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, shape]):
            made.for_shape(shape)
        return
    problem = made.for_shape(shape)
    if isinstance(made, Unmeasured):
        assert problem is None
        return
    assert problem is not None
    assert problem.operator.shape == shape
    assert problem.noise == GaussianNoise(0.1)
    measurement = problem.measure(torch.rand(2, *shape))
    assert measurement.y.shape[1:] == problem.operator.measured


def test_settings_reach_the_problem() -> None:
    assert isinstance(Inpainting(std=0).for_shape((4,)).noise, NoNoise)
    assert SuperResolution(factor=2).for_shape((1, 8, 8)).operator.measured == (1, 4, 4)
    assert Sensing(share=0.5, orthogonal=True).for_shape((1, 4, 4)).operator.measured == (8,)
    assert repr(Inpainting(std=0.2)) == "Inpainting(std=0.2, share=0.5)"


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"std is -0.1, expected 0, for measurements without noise, or more"):
        Inpainting(std=-0.1)
