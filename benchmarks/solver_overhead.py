"""Time of a solve beyond its network calls.

    python benchmarks/solver_overhead.py [--peers] [--threads 1 2] [--solvers REGEX]

First table: microseconds per evaluation at a score that costs nothing, on a float32 state of 512 x 64, and as a
ratio to k-diffusion's DPM-Solver++ 2M in the same run. Runs of all take turns, and the median counts: the speed of a
shared machine changes from one second to the next, ratios within a turn hardly.

Second: what a solve takes beyond the time spent inside its network, the default MLP on a batch for which a call
takes about a millisecond: the first solve of its kind, which makes its coefficients, and another one after it.
"""

import argparse
import math
import operator
import re
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from contenders import Failures, adapts, presets
from hydra.utils import instantiate
from peers import GRIDS, Denoiser, load_peers
from rows import markdown
from solvers import SIGMA_MIN
from torch import Tensor

from scoresde.networks import MLP
from scoresde.preconditioning import EDMPreconditioning
from scoresde.sampling import Euler, KarrasGrid, Sampler, Solver
from scoresde.sampling.adams_plan import adams_plan
from scoresde.score import NetworkScore, Prediction, ScoreModel
from scoresde.sde import EDMSDE

SHAPE = (512, 64)
RULER = "k-diffusion DPM++ 2M"
SDE = EDMSDE(SIGMA_MIN, 80.0)
# Of a solve from a state in so many steps: seconds and evaluations
Timed = Callable[[Tensor, int], tuple[float, int]]


class Nothing(ScoreModel):
    """A score of 0 that no time is spent on."""

    def __init__(self) -> None:
        super().__init__(SDE)
        self.zero = torch.zeros(SHAPE)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.zero if x.shape == self.zero.shape else torch.zeros_like(x)

    noise = score = velocity = denoise

    def prediction(self, times: Tensor, p: Tensor, q: Tensor) -> Prediction:
        return lambda x, i, **cond: self.denoise(x, times[i])


def timed_solve(solver: Solver, model: ScoreModel, x: Tensor, steps: int) -> tuple[float, int]:
    sampler = Sampler(solver, KarrasGrid(steps), denoise=False)
    start = time.perf_counter()
    nfe = sampler(model, x_init=x).nfe
    return time.perf_counter() - start, nfe


def timed_peer(run: Callable[..., Tensor], denoiser: Denoiser, x: Tensor, steps: int) -> tuple[float, int]:
    calls = 0

    def denoise(y: Tensor, level: float) -> Tensor:
        nonlocal calls
        calls += 1
        return denoiser(y, level)

    levels = GRIDS["Karras 7"](steps, SDE.t_min, SDE.t_max)
    start = time.perf_counter()
    with torch.no_grad():
        run(denoise, x, levels)
    return time.perf_counter() - start, calls


def timed_randn(x: Tensor, draws: int) -> tuple[float, int]:
    start = time.perf_counter()
    for _ in range(draws):
        torch.randn_like(x)
    return time.perf_counter() - start, draws


class Clocked(torch.nn.Module):
    """A network, and the seconds spent in it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.spent = [0.0]

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        start = time.perf_counter()
        out: Tensor = self.network(x, level)
        self.spent[0] += time.perf_counter() - start
        return out


@dataclass(frozen=True)
class Costs:
    """Medians over the turns.

    Attributes:
        each: microseconds per evaluation.
        once: microseconds of a solve that do not grow with its steps.
        relative: `each`, as a ratio to the ruler's in the same turn; not a number without a ruler.
    """

    each: float
    once: float
    relative: float


def in_turns(timed: dict[str, Timed], x: Tensor, ruler: str, steps: int, turns: int) -> dict[str, Costs]:
    """Costs of all, the cheapest first."""
    each: dict[str, list[float]] = {name: [] for name in timed}
    once: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(turns + 1):
        for name, run in timed.items():
            (short, few), (long, many) = run(x, max(4, steps // 5)), run(x, steps)
            if turn:  # the first warms up
                each[name].append(1e6 * long / many)
                once[name].append(1e6 * (short - few * (long - short) / (many - few)))
    against = each.get(ruler, [math.nan] * turns)
    median = statistics.median
    out = {
        name: Costs(median(each[name]), median(once[name]), median(map(operator.truediv, each[name], against)))
        for name in timed
    }
    return dict(sorted(out.items(), key=lambda item: item[1].each))


def loop_table(solvers: dict[str, Solver], peers: dict[str, Any], steps: int, turns: int) -> str:
    model, zero = Nothing(), torch.zeros(SHAPE)
    timed: dict[str, Timed] = {name: partial(timed_peer, run, lambda y, level: zero) for name, run in peers.items()}
    timed |= {name: partial(timed_solve, solver, model) for name, solver in solvers.items()}
    timed["one randn_like"] = timed_randn
    found = in_turns(timed, torch.randn(SHAPE), RULER, steps, turns)
    rows = [[name, f"{c.each:.0f}", f"{c.once:.0f}", f"{c.relative:.2f}"] for name, c in found.items()]
    return markdown(["solver", "µs per evaluation", "µs once per solve", f"to {RULER}"], rows)


def network_table(solvers: dict[str, Solver], peers: dict[str, Any], steps: int, turns: int) -> str:
    clocked = Clocked(MLP(SHAPE[1:]).eval())
    model = NetworkScore(clocked, SDE, EDMPreconditioning(0.5))

    def denoise(x: Tensor, level: float) -> Tensor:
        """The same model for a peer, with nothing that is not needed."""
        norm = math.hypot(level, 0.5)
        out = clocked(x / norm, torch.full((len(x),), 0.25 * math.log(level)))
        mixed: Tensor = (0.5 / norm) ** 2 * x + 0.5 * level / norm * out
        return mixed

    timed: dict[str, Timed] = {name: partial(timed_peer, run, denoise) for name, run in peers.items()}
    timed |= {name: partial(timed_solve, solver, model) for name, solver in solvers.items()}

    def solved(run: Timed, x: Tensor, steps: int) -> tuple[float, float]:
        """Microseconds of an evaluation within the network, and per cent beyond it."""
        clocked.spent[0] = 0.0
        total, nfe = run(x, steps)
        return 1e6 * clocked.spent[0] / nfe, 100 * (total / clocked.spent[0] - 1)

    euler = partial(timed_solve, Euler(), model)
    states = [torch.randn(rows, *SHAPE[1:]) for rows in (4, 8, 16, 32, 64, 128, 256, 512)]
    x = min(states, key=lambda x: abs(statistics.median(solved(euler, x, 10)[0] for _ in range(5)) - 1000))
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in timed}
    for turn in range(turns + 1):
        for name, run in timed.items():
            adams_plan.cache_clear()  # or a solver would have the coefficients of the last turn
            solved(run, x, steps + 1)
            (inside, first), (_, again) = solved(run, x, steps), solved(run, x, steps)
            if turn:
                found[name].append((inside, first, again))
    medians = {name: list(map(statistics.median, zip(*runs, strict=True))) for name, runs in found.items()}
    rows = [
        [name, f"{inside:.0f}", f"{first:.1f} %", f"{again:.1f} %"]
        for name, (inside, first, again) in sorted(medians.items(), key=lambda item: item[1][2])
    ]
    head = ["solver", f"µs in the network, batch of {len(x)}", f"beyond it, first solve of {steps} steps", "again"]
    return markdown(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="the same of other libraries, and ratios")
    parser.add_argument(
        "--peer-path", nargs="+", default=[], metavar="CLONE", help="of libraries that are not packages"
    )
    parser.add_argument("--solvers", default="", metavar="REGEX", help="of our presets, those whose name matches")
    default = torch.get_num_threads()
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, default}), help="1 and all if not given")
    parser.add_argument("--steps", type=int, default=50, help="of a solve")
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", UserWarning)
    failures, solvers = Failures(), {}
    for name, config in presets().items():
        if not re.search(options.solvers, name) or "solver" not in config:
            continue
        try:
            solver = instantiate(config.solver, _convert_="all")
            if not adapts(solver):
                timed_solve(solver, Nothing(), torch.zeros(SHAPE), options.steps)
                solvers[name] = solver
        except Exception as error:
            failures.add(f"preset {name}", error)
    peers: dict[str, Any] = {}
    if options.peers:
        found, missing = load_peers(options.peer_path)
        # Those that cost the least of each library, and what draws noise.
        wanted = (
            "DPM\\+\\+ 2M$|Euler$|k-diffusion ancestral$|2M SDE midpoint|xEAB-4|UniPC-2 bh2$|iPNDM-4|torchsde euler"
        )
        peers = {peer.name: peer.run for peer in found if re.search(wanted, peer.name)}
        if missing:
            print("Missing: " + "; ".join(missing) + "\n")
    for threads in options.threads:
        torch.set_num_threads(threads)
        print(f"## Threads: {threads}\n\nA score of no cost:\n")
        print(loop_table(solvers, peers, options.steps, options.turns))
        print("\nA network:\n")
        print(network_table(solvers, peers, 20, options.turns) + "\n")
    if failures.lines:
        print("Not run:\n\n" + "\n".join(f"- {name}: {why}" for name, why in failures.lines.items()))


if __name__ == "__main__":
    main()
