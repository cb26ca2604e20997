"""Classifiers of noised samples, by which a score model is guided to a class."""

import copy
import itertools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scoresde.arguments import checked
from scoresde.data.affine import Identity
from scoresde.data.info import DataInfo
from scoresde.data.transforms import Transform
from scoresde.numerics.modes import evaluating
from scoresde.score.preconditioning import Preconditioning
from scoresde.score.samples_text import sample_lines
from scoresde.sde import SDE, expand_to
from scoresde.statistics import Statistics

__all__ = ["NoisyClassifier"]


@checked
class NoisyClassifier(nn.Module):
    """p(c | x_t), the class of a noised sample, by a network (Song et al. 2021, section 5; Dhariwal & Nichol 2021).

    `classifier(x, t)` gives logits `(B, K)` of states x `(B, ...)` in model space at times t `()` or `(B,)`, as
    `scoresde.guidance.ClassifierGuidance` takes them. The network sees c_in(t) x and c_noise(t), as that of a score
    model does.

    Args:
        network: Module that maps (c_in x, c_noise) to logits `(B, K)`. Its attributes `num_classes` and, where it has
            it, `shape` say the number of classes and the shape of a sample, and `classifies` is True.
        sde: The forward SDE.
        preconditioning: Scaling of the network's input.
        statistics: Moments of the training data in model space.

    Raises:
        ValueError: A network without a number of classes.

    References:
        Dhariwal & Nichol 2021, Diffusion models beat GANs on image synthesis, https://arxiv.org/abs/2105.05233
        Song et al. 2021, Score-based generative modeling through stochastic differential equations,
            https://arxiv.org/abs/2011.13456
    """

    condition_shapes: Mapping[str, Any] = {}
    _info: DataInfo | None = None

    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        preconditioning: Preconditioning,
        statistics: Statistics | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(getattr(network, "num_classes", None), int):
            raise ValueError(
                f"{type(network).__name__} does not say of how many classes it gives logits: give it an integer "
                "attribute num_classes, or take MLPClassifier or UNetClassifier"
            )
        self.network = network
        self.sde = sde
        self._states = sde
        self.statistics = statistics
        self.preconditioning = (
            preconditioning if statistics is None else preconditioning.with_data_std(float(statistics.std))
        )

    @property
    def unwrapped(self) -> nn.Module:
        """The network without the wrapper that training in several processes puts around it."""
        module = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        assert isinstance(module, nn.Module)
        return module

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return int(self.unwrapped.num_classes)  # type: ignore[arg-type]

    @property
    def classes(self) -> int:
        """The same as `num_classes`; a score model has None where it takes no labels."""
        return self.num_classes

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape `(...)` of one sample; None if unknown."""
        shape = getattr(self.unwrapped, "shape", None)
        if isinstance(shape, tuple):
            return shape
        return None if self.statistics is None else self.statistics.shape

    @property
    def info(self) -> DataInfo | None:
        """Facts about the model's data; None if not known. It can be set, and is not part of the state dict."""
        return self._info

    @info.setter
    def info(self, info: DataInfo | None) -> None:
        self._info = info

    @property
    def transform(self) -> Transform | None:
        """The map between continuous data and model space; None if they are in model space, or are discrete."""
        transform = None if self.info is None else self.info.transform
        return (
            None if transform is None or transform.levels is not None or isinstance(transform, Identity) else transform
        )

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next((v.device for v in itertools.chain(self.parameters(), self.buffers())), torch.device("cpu"))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """The smallest and the largest λ = log(α/σ) that the classifier was made for."""
        ends = torch.tensor([self.sde.t_max, self.sde.t_min], dtype=torch.float64)
        low, high = self.sde.log_snr(ends).tolist()
        return low, high

    def takes_condition(self, name: str) -> bool:
        """True for `labels`, which training needs."""
        return name == "labels"

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluation mode inside the block; afterwards each module is in the mode that it had."""
        return evaluating(self)

    def under(self, sde: SDE) -> "NoisyClassifier":
        """The classifier for states and times of another SDE, by matching the log-SNR; the network is shared.

        x_t/α has the same distribution under all SDEs at times of the same log-SNR. States with less noise than the
        classifier knows are taken as of its least, and those with more are scaled to its most.

        Args:
            sde: The SDE.

        Raises:
            ValueError: An SDE without a noise level in common with the classifier.
        """
        low, high = self.log_snr_range
        ends = torch.tensor([sde.t_max, sde.t_min], dtype=torch.float64)
        least, most = sde.log_snr(ends).tolist()
        if not (least < high and low < most):
            raise ValueError(
                f"{sde} has no noise level in common with the classifier, whose log-SNR runs from {low:g} to {high:g}"
            )
        moved = copy.copy(self)
        moved._states = sde
        return moved

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits of the classes, `(B, K)`.

        Args:
            x: States `(B, ...)` in model space.
            t: Times `()` or `(B,)`.

        Raises:
            ValueError: States of another shape, or a network that returns another.
        """
        if x.ndim < 2 or (self.shape is not None and tuple(x.shape[1:]) != self.shape):
            expected = "..." if self.shape is None else ", ".join(map(str, self.shape))
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {expected})")
        time, scale = self._own_time(self._states.check_time(t).double())
        c_in = self.preconditioning.c_in(self.sde, time) * scale
        c_noise = self.preconditioning.c_noise(self.sde, time)
        dtype = next((p.dtype for p in self.network.parameters()), x.dtype)
        level = c_noise.to(x.device, torch.float64 if dtype == torch.float64 else torch.float32).expand(len(x))
        logits: Tensor = self.network((expand_to(c_in, x) * x).to(dtype), level)
        if logits.shape != (len(x), self.num_classes):
            raise ValueError(
                f"the network returned shape {tuple(logits.shape)}, expected ({len(x)}, {self.num_classes}), a logit "
                "for each class"
            )
        return logits.to(x.dtype)

    def _own_time(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The time under the classifier's own SDE, and the factor from a state of the other to one of its own."""
        if self._states == self.sde:
            return t, torch.ones_like(t)
        low, high = self.log_snr_range
        known = self._states.log_snr(t)
        inside = known.clamp(low, high)
        time = self.sde.time(inside).clamp(self.sde.t_min, self.sde.t_max)  # round-off at the ends
        # Where there is more noise than the classifier knows, x/α is scaled to have the most.
        return time, self.sde.alpha(time) / self._states.alpha(t) * (known - inside).clamp(max=0.0).exp()

    def __repr__(self) -> str:
        """The parts of the classifier, and the shape, units and classes of its samples."""
        count = sum(p.numel() for p in self.network.parameters())
        name = f"{type(self.unwrapped).__name__} of {count:,} parameters"
        transform = None if self.info is None else self.info.transform
        head = f"NoisyClassifier({name}, {self._states!r}, {self.preconditioning!r})"
        return "\n".join([head, *sample_lines(self.shape, transform, self.info, False, self.num_classes)])

    def check_fits(self, shape: tuple[int, ...] | None, classes: int | None, info: DataInfo | None) -> None:
        """Check that a score model can be guided by the classifier.

        Args:
            shape: Shape of a sample of the model; None if unknown.
            classes: Number of classes of the model; None if it takes no labels.
            info: Facts about the model's data; None if unknown.

        Raises:
            ValueError: Samples of another shape or in other units, or other classes.
        """
        if None not in (shape, self.shape) and shape != self.shape:
            raise ValueError(f"the classifier is of samples of shape {self.shape}, and the model's have shape {shape}")
        if classes is not None and classes != self.num_classes:
            raise ValueError(f"the classifier is of {self.num_classes} classes, and the model has {classes}")
        own = self.info
        if own is None or info is None:
            return
        if repr(own.transform) != repr(info.transform):
            raise ValueError(
                f"the classifier has its data in other units, {own.transform!r}, than the model, {info.transform!r}: "
                "train both on one data set, in one transform"
            )
        if None not in (own.class_names, info.class_names) and own.class_names != info.class_names:
            raise ValueError(
                f"the classifier has the classes {_few(own.class_names)}, and the model {_few(info.class_names)}: "
                "train both on data of the same classes"
            )


def _few(names: tuple[str, ...] | None) -> str:
    shown = ", ".join((names or ())[:4])
    return shown if names is None or len(names) <= 4 else f"{shown}, ..."
