"""A normalising flow in the unit cube of a pixel's cell, given the image: the q(u|k) of variational dequantisation.

The density q(u|k) of the noise u that is added to the integers k is learned (Ho et al. 2019, section 3.1). The bound
log P(k) ≥ E_q[log p(k + u) − log q(u|k)] is an equality if q is the density p in the cell divided by its mass there
(Theis et al. 2016). Here q is uniform noise that is transformed by monotone rational-quadratic splines of [0, 1]
(Durkan et al. 2019), which neither leave the cell nor have tails, and start as the identity.

References:
    Flow++: improving flow-based generative models with variational dequantization and architecture design (Ho et al.
    2019), https://arxiv.org/abs/1902.00275
    Neural spline flows (Durkan et al. 2019), https://arxiv.org/abs/1906.04032
"""

import itertools
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from scoresde import shell
from scoresde.arguments import checked
from scoresde.numerics.values import whole_number
from scoresde.storage.bounded import parse_json
from scoresde.storage.bounded_tensors import read_tensor_header
from scoresde.storage.digests import is_intact

__all__ = ["CellFlow"]

_FORMAT = "scoresde-dequantisation-1"
# Least width and height of a spline's bins, and least slope at its knots.
_LEAST_BIN, _LEAST_SLOPE = 1e-3, 1e-3
_MAX_LAYERS = 64  # couplings, blocks or bins that a file may ask for
_MAX_PARAMETERS = 2**25  # parameters of splines that are computed at once


def _command(file: Path) -> str:
    return shell.command("dequantise", shell.override("run", file.parent))


@checked
class CellFlow(nn.Module):
    """An invertible map of the unit cube onto itself, given integers of the same shape.

    The first layer moves every element by a spline of its own, which depends on the integers alone. Each of the other
    layers moves every second element, in a checkerboard of rows, columns and channels, given the integers and the rest
    of u. The parameters of the splines come from 3 × 3 convolutions for images `(C, H, W)`, and from perceptrons on the
    flattened sample for any other shape. A new flow is exactly the identity, that is uniform dequantisation.

    Nothing depends on the batch. Parameters are float32; call `double()` for densities.

    Args:
        shape: Shape of a sample.
        levels: Number of values of an integer.
        couplings: Number of layers after the first.
        width: Channels of the layers that compute the splines' parameters.
        blocks: Number of residual blocks on the integers.
        bins: Number of bins of a spline.

    Raises:
        ValueError: An empty shape, or numbers that are too small.
    """

    def __init__(
        self, shape: tuple[int, ...], levels: int, couplings: int = 4, width: int = 32, blocks: int = 2, bins: int = 8
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape is {self.shape}, expected one or more positive sizes")
        for name, value, least in (
            ("levels", levels, 2),
            ("couplings", couplings, 0),
            ("width", width, 1),
            ("blocks", blocks, 0),
            ("bins", bins, 1),
        ):
            whole_number(name, value, at_least=least)
        self.levels, self.couplings, self.width, self.blocks, self.bins = levels, couplings, width, blocks, bins
        image = len(self.shape) == 3
        # Channels and pixels; every element is a channel if there are no pixels.
        self._inner = self.shape if image else (math.prod(self.shape),)
        channels = self._inner[0]
        splines = (3 * bins + 1) * channels
        self.image = _layer(3 * channels + (2 if image else 0), width, image)
        self.residuals = nn.ModuleList(
            nn.Sequential(nn.SiLU(), _layer(width, width, image), nn.SiLU(), _layer(width, width, image))
            for _ in range(blocks)
        )
        self.first = _to_zero(_layer(width, splines, image))
        self.layers = nn.ModuleList(
            nn.Sequential(
                _layer(width + 2 * channels, width, image),
                nn.SiLU(),
                _layer(width, width, image),
                nn.SiLU(),
                _to_zero(_layer(width, splines, image)),
            )
            for _ in range(couplings)
        )

    def forward(self, pixels: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """The noise u `(B, *shape)` and log|det du/d base| `(B,)`, which is −log q(u|k) for a uniform base.

        Args:
            pixels: The integers k, `(B, *shape)`.
            base: Base noise `(B, *shape)` in [0, 1], in the dtype of the parameters.
        """
        return self._in_parts(pixels, base, inverse=False)

    def inverse(self, pixels: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The base noise `(B, *shape)` of u, and log|det d base/du| `(B,)`, which is log q(u|k) in nats."""
        return self._in_parts(pixels, u, inverse=True)

    def check(self, shape: tuple[int, ...], levels: int | None) -> None:
        """Check that the flow is for data of this shape and number of levels.

        Raises:
            ValueError: Data of another shape or number of levels.
        """
        if tuple(shape) != self.shape or levels != self.levels:
            raise ValueError(
                f"the dequantisation is for shape {self.shape} and {self.levels} levels, the data have shape "
                f"{tuple(shape)} and {levels} levels: train one for these, by `scoresde dequantise run=DIR`"
            )

    def metadata(self) -> dict[str, str]:
        """The settings that `load` needs in addition to the tensors."""
        names = ("shape", "levels", "couplings", "width", "blocks", "bins")
        return {"format": _FORMAT, "flow": json.dumps({name: getattr(self, name) for name in names})}

    @classmethod
    def load(cls, path: str | Path) -> "CellFlow":
        """A flow from a safetensors file of its `state_dict` and `metadata`; no code in it is run.

        Raises:
            ValueError: No such file, another kind of file, or tensors that are not those that were written.
        """
        file = Path(path)
        if not file.is_file():
            raise ValueError(f"there is no file {file}: make it by `{_command(file)}`")
        foreign = f"{file} is not a file that `scoresde dequantise` wrote"
        try:
            read_tensor_header(file)  # the declared sizes are checked before any tensor is read
            with safe_open(file, framework="pt") as content:
                known = content.metadata() or {}
                if known.get("format") != _FORMAT:
                    raise ValueError(foreign)
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (no mapping)
            options = parse_json(known["flow"].encode(), file)
            options["shape"] = tuple(options["shape"])
            if max(options[name] for name in ("couplings", "blocks", "bins")) > _MAX_LAYERS:
                raise ValueError(foreign)
            # No memory is allocated for the sizes in a damaged file until its tensors prove to have them.
            with torch.device("meta"):
                flow = cls(**options)
            flow.load_state_dict(tensors, assign=True)
        except (SafetensorError, OSError, KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise ValueError(foreign) from error
        if not is_intact(tensors, known):
            raise ValueError(f"{file} is damaged: make it again by `{_command(file)}`")
        return flow.eval()

    def _in_parts(self, pixels: Tensor, u: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        if pixels.shape != u.shape or tuple(u.shape[1:]) != self.shape:
            raise ValueError(
                f"pixels have shape {tuple(pixels.shape)} and u {tuple(u.shape)}, expected (B, *{self.shape}) of both"
            )
        rows = max(1, _MAX_PARAMETERS // ((3 * self.bins + 1) * math.prod(self.shape)))
        parts = [self._map(k, v, inverse) for k, v in zip(pixels.split(rows), u.split(rows), strict=True)]
        moved, log_det = (torch.cat(each) for each in zip(*parts, strict=True))
        return moved.reshape(u.shape), log_det

    def _map(self, pixels: Tensor, u: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        u = u.reshape(-1, *self._inner)
        context = self._context(pixels.reshape(-1, *self._inner).to(u.dtype))
        total = torch.zeros(len(u), dtype=torch.float64, device=u.device)
        steps = list(zip((None, *self.layers), itertools.chain((None,), itertools.cycle((0, 1))), strict=False))
        for layer, parity in reversed(steps) if inverse else steps:
            if layer is None or parity is None:
                moved, log_slope = _spline(u, self._split(self.first(context)), inverse)
            else:
                given = self._checkerboard(parity, u)
                known = torch.cat((context, (2 * u - 1) * given, given.expand_as(u)), 1)
                moved, log_slope = _spline(u, self._split(layer(known)), inverse)
                moved, log_slope = torch.lerp(moved, u, given), log_slope * (1 - given)
            u = moved
            total = total + log_slope.double().flatten(1).sum(1)
        return u, total

    def _context(self, pixels: Tensor) -> Tensor:
        """The features `(B, width, ...)` of the integers: their values, the ends of the range, and the position."""
        features = [
            2 * pixels / (self.levels - 1) - 1,
            (pixels == 0).to(pixels),
            (pixels == self.levels - 1).to(pixels),
        ]
        if len(self._inner) == 3:
            grids = torch.meshgrid(*(torch.linspace(-1, 1, n).to(pixels) for n in self._inner[1:]), indexing="ij")
            features.append(torch.stack(grids).expand(len(pixels), -1, -1, -1))
        h: Tensor = self.image(torch.cat(features, 1))
        for block in self.residuals:
            h = h + block(h)
        return F.silu(h)

    def _split(self, output: Tensor) -> Tensor:
        """Parameters `(B, C, ..., 3 bins + 1)` of the splines."""
        return output.reshape(len(output), -1, *self._inner).movedim(1, -1)

    def _checkerboard(self, parity: int, like: Tensor) -> Tensor:
        """A mask `(1, C, ...)` with 1 for the elements that stay."""
        grids = torch.meshgrid(*(torch.arange(n, device=like.device) for n in self._inner), indexing="ij")
        return (torch.stack(grids).sum(0) % 2 == parity).to(like)[None]


def _layer(inputs: int, outputs: int, image: bool) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1) if image else nn.Linear(inputs, outputs)


def _to_zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _spline(x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """A monotone rational-quadratic spline of [0, 1] and the logarithm of its slope (Durkan et al. 2019, eq. 4 to 8).

    Args:
        x: Arguments `(...)` in [0, 1].
        parameters: Parameters `(..., 3 K + 1)` of K bins: widths, heights and slopes at the knots. Zeros give the
            identity.
        inverse: Apply the inverse map, and return the slope of the inverse.
    """
    bins = (parameters.shape[-1] - 1) // 3
    widths, heights, slopes = parameters.split((bins, bins, bins + 1), -1)
    across, up = _knots(widths), _knots(heights)
    # Zeros give slopes of 1.
    slopes = _LEAST_SLOPE + F.softplus(slopes + math.log(math.expm1(1 - _LEAST_SLOPE)))
    x = x.clamp(0, 1)[..., None]
    bin_of = torch.searchsorted((up if inverse else across)[..., 1:-1].contiguous(), x.detach(), right=True)

    def at(values: Tensor) -> tuple[Tensor, Tensor]:
        return values.gather(-1, bin_of), values.gather(-1, bin_of + 1)

    (x0, x1), (y0, y1), (d0, d1) = at(across), at(up), at(slopes)
    width, height = x1 - x0, y1 - y0
    s = height / width
    curve = d0 + d1 - 2 * s
    if inverse:
        # The position in the bin is the root of a quadratic, computed without cancellation (eq. 6 to 8).
        rise = x - y0
        a = height * (s - d0) + rise * curve
        b = height * d0 - rise * curve
        c = -s * rise
        place = (2 * c / (-b - (b.square() - 4 * a * c).clamp_min(0).sqrt())).clamp(0, 1)
        value = x0 + place * width
    else:
        place = (x - x0) / width
        value = y0 + height * (s * place.square() + d0 * place * (1 - place)) / (s + curve * place * (1 - place))
    below = s + curve * place * (1 - place)
    top = s.square() * (d1 * place.square() + 2 * s * place * (1 - place) + d0 * (1 - place).square())
    log_slope = top.log() - 2 * below.log()
    return value[..., 0].clamp(0, 1), (-log_slope if inverse else log_slope)[..., 0]


def _knots(sizes: Tensor) -> Tensor:
    """The knots `(..., K + 1)` from 0 to 1 between bins whose sizes are the softmax of `sizes` `(..., K)`."""
    count = sizes.shape[-1]
    inner = (_LEAST_BIN + (1 - _LEAST_BIN * count) * sizes.softmax(-1))[..., :-1].cumsum(-1)
    return torch.cat((torch.zeros_like(sizes[..., :1]), inner, torch.ones_like(sizes[..., :1])), -1)
