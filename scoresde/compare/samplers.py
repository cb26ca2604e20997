"""Samplers at several numbers of steps, on one model, in one table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from scoresde.arguments import ArgumentError, checked, shown
from scoresde.compare.comparison import Comparison, SamplerOf, ignores_steps
from scoresde.compare.frame import to_frame
from scoresde.metrics import PCA, PrincipalDirections
from scoresde.metrics.features import FeatureMap
from scoresde.progress import Progress
from scoresde.sampling import Adaptive, Sampler
from scoresde.score import ScoreModel

__all__ = ["compare"]


@checked
def compare(
    model: ScoreModel,
    samplers: Mapping[str, SamplerOf],
    steps: int | Sequence[int],
    data: Tensor | None = None,
    *,
    n: int | None = None,
    seeds: Sequence[int] = (0,),
    features: PCA | FeatureMap | None = None,
    reference: Adaptive | None = None,
    batch_size: int | None = None,
    shape: tuple[int, ...] | None = None,
    postprocess: Callable[[Tensor], Tensor] | None = None,
    floor: Tensor | None = None,
    directions: PrincipalDirections | None = None,
    likelihood: int = 0,
    progress: bool = True,
    **cond: Any,
) -> pd.DataFrame:
    """Compare samplers at every number of steps and every seed.

    A sampler that fails has the reason in the column `problem`, and the others are still compared.

        frame = compare(model, {"heun": lambda n: Sampler(Heun(), KarrasGrid(n))}, [5, 10, 20], data)
        summarise(frame)

    Args:
        model: The score model.
        samplers: Samplers by name; either a function of the number of steps, or a `Sampler`, which has one row for each
            seed: without `steps` if its tolerance decides on them, and with those of its grid otherwise.
        steps: The numbers of steps, or one.
        data: Held-out data, `(N, ...)`; this and the arguments that are not listed here are those of `Comparison`.
        seeds: The seeds of starts and noise.
        progress: Whether to show a progress bar.

    Returns:
        A row for each sampler, number of steps and seed, with `COLUMNS`. `nfe` is counted, denoising included, and is
        the mean over the samples if they differ. `seconds` are the wall time of sampling alone, after a trial of one
        start. `attrs` are those of `Comparison.attrs`.

    Raises:
        ValueError: Nothing to compare, or an error of `Comparison`.
        ArithmeticError: The reference cannot be solved.
    """
    steps = [steps] if isinstance(steps, int) else steps
    for name, make in samplers.items():
        if not isinstance(make, Sampler) and (isinstance(make, type) or not callable(make)):
            raise ArgumentError(
                f"samplers[{name!r}] is {shown(make)}, expected a Sampler or a function that makes one of a number of "
                "steps: write lambda n: Sampler(Heun(), KarrasGrid(n))"
            )
    if not samplers or not seeds:
        raise ValueError(f"nothing to compare: {len(samplers)} samplers, {len(seeds)} seeds")
    if not steps and not all(isinstance(s, Sampler) for s in samplers.values()):
        raise ValueError("steps is empty, but there are samplers that are functions of it")
    base = Comparison(
        model,
        data,
        shape=shape,
        n=n,
        features=features,
        postprocess=postprocess,
        floor=floor,
        reference=reference,
        batch_size=batch_size,
        directions=directions,
        likelihood=likelihood,
        **cond,
    )
    cells: list[tuple[str, SamplerOf, int | None]] = []
    for name, make in samplers.items():
        if isinstance(make, Sampler):
            cells.append((name, make, None if ignores_steps(make) else make.grid.steps))
        else:
            cells += [(name, make, count) for count in steps]
    rows = []
    with Progress(len(cells) * len(seeds), "comparing", "cell", shown=progress) as bar:
        for name, make, count in cells:
            sampler = _made(make, count)
            for seed in seeds:
                bar.note(name if count is None else f"{name}, {count} steps")
                rows.append(base.row(name, sampler, count, seed))
                bar.update()
    return to_frame(rows, base.attrs())


def _made(make: SamplerOf, steps: int | None) -> Sampler | Exception:
    if isinstance(make, Sampler):
        return make
    assert steps is not None
    try:
        return make(steps)
    except Exception as error:  # such as too few steps for a grid, which is the row's problem alone
        return error
