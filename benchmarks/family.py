"""How near to the true probability flow, and to exact samples, the defaults come on a family of problems.

    python benchmarks/solvers.py --family [development] [--peers few --peer-path CLONE ...] [--runs DIRECTORY ...]
        [--out DIRECTORY]

Problems are drawn from seeds (`problems.py`). Those kept apart, the default here, are for one look when a rule stands;
`--family development` is for everything before. Trained networks are problems too: `--runs` takes run directories.

Deterministic solvers: the distance of endpoints to the true ones, without a last denoising, by its root mean square
over the starts, which one start that ends in another mode may carry, and by its median. A budget buys as many steps as
stay within it, by a count of the calls of the model. Stochastic solvers: how far samples are from the exact density, in
nats, by direction, by mode and by sliced Wasserstein distance.

With `--out`, true endpoints and results of peers are stored beside the tables, and are not computed again for the same
problem, starts and versions of libraries.
"""

import argparse
import csv
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from cases import Case, Store, libraries, problem_case, run_case
from cells import Cell, Prepared, cells, prepared
from contenders import OUR_GRIDS, Contender, Counted, Failures, our_contenders, peer_contenders
from noisy import Noisy, estimates, noisy_cells, noisy_prepared, noisy_table, noisy_targets, reference
from peers import GRIDS, load_peers
from problems import DEVELOPMENT, HELD_OUT, KINDS
from rows import markdown
from targets import error_table, picture, ratio_table, targets

BUDGETS = (5, 8, 10, 15, 20, 30, 50, 100, 200)
MOST_NOISY = 30  # evaluations of stochastic solvers
FAMILIES = {"development": DEVELOPMENT, "held-out": HELD_OUT}
# Of ours and of peers, those that come first on some problem of the family for development.
FEW_OURS = (
    r"^(angle|straight|ipndm|unipc|(angle|straight|data) \((2, 2|2, 3|3, 4|4, 3)\)|"
    r"angle \((2, 2|2, 3|3, 4|4, 3)\), Gaussian start)$"
)
FEW_OUR_GRIDS = ("λ", "Karras 7", "flow", "data × 0.35", "data × 0.25")
FEW_PEERS = r"diff-sampler iPNDM-[34]$|[vx](E)?AB-[34]$|UniPC-[23] bh2$|DPM\+\+ 2M$|LMS-4$|DEIS tAB-3$|accelerated$"
FEW_PEER_GRIDS = ("λ", "Karras 5", "Karras 7", "Karras 20", "flow", "VP")

Row = TypeVar("Row", Cell, Noisy)
Default = tuple[Contender, Counted, Prepared]
"""A default, the model that it was measured on, and what that took."""


@dataclass
class Result:
    """What was found of one case."""

    text: str
    cells: list[Cell] = field(default_factory=list)
    noisy: list[Noisy] = field(default_factory=list)
    prepared: list[Prepared] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def contenders(options: argparse.Namespace, failures: Failures) -> tuple[list[Contender], list[Contender]]:
    """Ours and peers that are asked for. A stochastic solver is run on its own grid alone, or those that serve it."""
    few = options.ours == "few"
    ours = our_contenders(FEW_OURS if few else "", FEW_OUR_GRIDS if few else OUR_GRIDS, failures)
    noisy = (c for c in our_contenders("", (), failures) if c.stochastic and not c.solver.startswith("default"))
    mine = [*(c for c in ours if not c.stochastic), *noisy]
    if options.peers is None:
        return mine, []
    found, every = load_peers(options.peer_path)[0], options.peers == "all"
    theirs = list(peer_contenders((p for p in found if p.stochastic), False))
    still = [p for p in found if not p.stochastic and (every or re.search(FEW_PEERS, p.name))]
    grids = tuple(GRIDS) if every else FEW_PEER_GRIDS
    return mine, theirs + [c for c in peer_contenders(still, True) if c.grid in grids]


def measure(make: "partial[Case]", options: argparse.Namespace) -> Result:
    """Everything that is asked for of one case; in a process of its own if there are workers."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    case, failures = make(), Failures()
    out, store = Result(case.text), Store(None if options.out is None else options.out / "family-cache", case)
    mine, theirs = contenders(options, failures)
    groups = (("peers", theirs, libraries(options.peer_path)), ("ours", mine, "ours"))
    if not options.keep_ours:
        for kind in ("ours", f"ours, {options.samples} samples"):
            store.values.pop(kind, None)

    def compare(
        found: list[Row], rows: Callable[..., Iterable[Row]], defaults: Iterable[Default], noisy: bool, kept: str = ""
    ) -> None:
        """Add rows of the defaults, and then of the named solvers of each group, whose results are stored."""
        begin = time.perf_counter()
        for contender, model, spent in defaults:
            out.prepared.append(spent)
            found.extend(rows("default", [(contender, model)]))
        _note(case, f"defaults{kept}", begin)
        model = case.counted()
        for group, every, kind in groups:
            bound = ((c, model) for c in every if c.stochastic == noisy)
            found.extend(rows(group, bound, stored=store.errors(kind + kept), save=store.save))
            _note(case, f"{group}{kept}", begin)

    if "deterministic" in options.tables:
        truth = store.truth(case)
        out.text += f", endpoints known to {truth.error / truth.scale:.0e} of their size"
        rows = partial(cells, case=case, truth=truth, budgets=options.nfe, failures=failures)
        compare(out.cells, rows, prepared(case, options.exact_as_network), noisy=False)
    if "stochastic" in options.tables and case.density is not None:
        exact, starts = reference(case, options.samples)
        out.noisy.append(Noisy(case.name, "exact", "exact samples", 0, estimates(exact.floor)))
        budgets = [n for n in options.nfe if n <= MOST_NOISY]
        draws = partial(noisy_cells, case=case, exact=exact, starts=starts, budgets=budgets, failures=failures)
        compare(out.noisy, draws, noisy_prepared(case), noisy=True, kept=f", {options.samples} samples")
    out.failures = failures.lines
    return out


def _note(case: Case, what: str, begin: float) -> None:
    print(f"{case.name}: {what}, {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- output


def report(results: Sequence[Result], missing: Sequence[str]) -> Iterator[str]:
    """The parts of the text, the summary first."""
    found = [cell for result in results for cell in result.cells]
    noisy = [row for result in results for row in result.noisy]
    yield "Problems: " + "; ".join(result.text for result in results)
    if missing:
        yield "Missing: " + "; ".join(missing)
    lines = [t.row() for t in (*targets(found), *noisy_targets(noisy))]
    yield "## Targets\n\n" + markdown(["contender", "what", "found", "target", "reached"], lines)
    spent = [p for result in results for p in result.prepared]
    costs = [[p.case, p.name, str(p.evaluations), f"{p.seconds:.2f}"] for p in spent if p.evaluations]
    if costs:
        head = ["problem", "contender", "evaluations", "seconds"]
        yield "## Measured of each model before the first call\n\n" + markdown(head, costs)
    for default in dict.fromkeys(cell.name for cell in found if cell.group == "default"):
        for group, label in (("peers", "the best peer"), ("ours", "the best of ours")):
            for measure in ("rms", "median") if any(cell.group == group for cell in found) else ():
                head, lines = ratio_table(found, default, group, measure)
                yield f"## `{default}` / {label}, by {measure}\n\n" + markdown(head, lines)
    if found:
        yield "## Errors: RMS (median) of the distance to the true endpoint\n\n" + markdown(*error_table(found))
    if noisy:
        yield "## Samples; the best named solvers are those nearest to exact in nats\n\n" + markdown(
            *noisy_table(noisy)
        )
    failures = {what: why for result in results for what, why in result.failures.items()}
    if failures:
        yield "Not run:\n\n" + "\n".join(f"- {what}: {why}" for what, why in failures.items())


def save(folder: Path, text: str, results: Sequence[Result]) -> None:
    """family.md, family.csv, family-samples.csv and family.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "family.md").write_text(text + "\n", encoding="utf-8")
    found = [cell for result in results for cell in result.cells]
    names = [f.name for f in fields(Cell)]
    _table(folder / "family.csv", names, ([getattr(cell, n) for n in names] for cell in found))
    noisy = [row for result in results for row in result.noisy]
    if noisy:
        rows = ([r.case, r.group, r.name, r.budget, n, *v] for r in noisy for n, v in r.values.items())
        head = ["case", "group", "name", "budget", "measure", "value", "standard error"]
        _table(folder / "family-samples.csv", head, rows)
    if found:
        picture(found, folder / "family.png")


def _table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--family", nargs="?", const="held-out", choices=list(FAMILIES), required=True)
    out.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="of problems")
    out.add_argument("--seeds", nargs="+", type=int, help="of problems; those of the family if not given")
    out.add_argument("--runs", nargs="+", type=Path, default=[], metavar="DIRECTORY", help="of trained networks")
    out.add_argument("--only-runs", action="store_true", help="no problems but the networks")
    out.add_argument(
        "--tables", nargs="+", choices=("deterministic", "stochastic"), default=["deterministic", "stochastic"]
    )
    out.add_argument("--nfe", nargs="+", type=int, default=list(BUDGETS), metavar="N")
    out.add_argument("--starts", type=int, default=256, help="of deterministic solves; fewer in many dimensions")
    out.add_argument("--run-starts", type=int, default=16, help="of deterministic solves of networks")
    out.add_argument("--samples", type=int, default=2000, help="of stochastic solves; fewer in many dimensions")
    out.add_argument("--ours", choices=("few", "all"), default="few", help="of our solvers and grids")
    out.add_argument("--peers", nargs="?", const="few", choices=("few", "all"), help="of other libraries")
    out.add_argument("--peer-path", nargs="+", default=[], metavar="CLONE", help="of libraries that are not packages")
    out.add_argument("--exact-as-network", action="store_true", help="defaults also without being told of exact scores")
    out.add_argument("--keep-ours", action="store_true", help="results of named solvers that an earlier run stored")
    out.add_argument("--workers", type=int, default=1, help="processes")
    out.add_argument("--out", type=Path, metavar="DIRECTORY", help="for tables, a picture, and what is stored")
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    problems = [(k, s) for k, s in FAMILIES[options.family] if k in options.kinds]
    if options.seeds is not None:
        problems = [(kind, seed) for seed in options.seeds for kind in options.kinds]
    makes = [] if options.only_runs else [partial(problem_case, k, s, options.starts) for k, s in problems]
    makes += [partial(run_case, directory, options.run_starts) for directory in options.runs]
    missing = load_peers(options.peer_path)[1] if options.peers else []
    if options.workers == 1:
        results = [measure(make, options) for make in makes]
    else:
        with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
            results = list(pool.map(measure, makes, [options] * len(makes)))
    text = "\n\n".join(report(results, missing))
    print(text)
    if options.out is not None:
        save(options.out, text, results)
