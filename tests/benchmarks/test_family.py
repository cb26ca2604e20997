"""The benchmark on the family of problems: what it counts, what it stores, and what it says of targets."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import Case, Store, Truth, problem_case, true_endpoints
from cells import Cell, cells
from contenders import Budget, Contender, Counted, Failures, our_contenders, peer_contenders
from low_rank import LowRankMixtureScore
from noisy import Noisy, estimates, noisy_cells, noisy_targets, reference
from peers import Peer
from problems import DEVELOPMENT, HELD_OUT, KINDS, make_problem
from targets import Target, targets
from truth import own_endpoints

from scoresde.sampling import AutoAdams, DataStraight, Sampler
from scoresde.sampling.plain_rule import plain_rule
from scoresde.score import GaussianMixtureScore, ScoreModel, StepRule, StepRules
from scoresde.sde import EDMSDE, SDE, VPSDE
from tests.problems import F64, SDES

CONTINUOUS = [SDES[name] for name in ("vp", "subvp", "ve", "cosine", "edm", "flow")]


def test_families_are_kept_apart_and_have_every_kind() -> None:
    assert not set(DEVELOPMENT) & set(HELD_OUT)
    assert not {seed for _, seed in DEVELOPMENT} & {seed for _, seed in HELD_OUT}
    for family in (DEVELOPMENT, HELD_OUT):
        assert {kind for kind, _ in family} == set(KINDS)


@pytest.mark.parametrize("method", ["denoise", "noise", "score"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_low_rank_has_the_numbers_of_full_rotations(method: str, share: float) -> None:
    draw = torch.Generator().manual_seed(0)
    sde = EDMSDE(0.002, 80.0)
    bases = torch.randn(3, 12, 2, dtype=F64, generator=draw)
    covariances = bases @ bases.mT + 0.02**2 * torch.eye(12, dtype=F64)
    args = torch.rand(3, dtype=F64, generator=draw), torch.randn(3, 12, dtype=F64, generator=draw), covariances, sde
    full, quick = GaussianMixtureScore(*args), LowRankMixtureScore(*args)
    assert quick.base.shape == (3, 12, 2)
    t = torch.tensor(80.0 ** (1 - share) * 0.002**share, dtype=F64)
    x = full.sample(20, t, draw)
    expected, found = getattr(full, method)(x, t), getattr(quick, method)(x, t)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-10


# ---------------------------------------------------------------- counts


def test_counts_do_not_depend_on_the_number_of_rows() -> None:
    problem = make_problem("many modes", 0)
    counted = Counted(problem.model)
    counted.rows = 3
    x, t = problem.starts(7), torch.tensor(1.0, dtype=F64)
    assert torch.equal(counted.denoise(x, t), Counted(problem.model).denoise(x, t))
    assert counted.calls[0] == 1
    each = torch.linspace(0.1, 1, 7, dtype=F64)
    parts = [problem.model.noise(row[None], time) for row, time in zip(x, each, strict=True)]
    torch.testing.assert_close(counted.noise(x, each), torch.cat(parts), rtol=1e-12, atol=1e-12)
    assert counted.calls[0] == 2


def test_exactness_can_be_hidden_from_solvers() -> None:
    model = make_problem("ring", 0).model
    assert Counted(model).exact
    assert not Counted(model, exact=False).exact


def test_the_default_is_measured_as_users_have_it() -> None:
    """With the rules of an exact score, and with no evaluation for a first prediction that needs none."""
    case = problem_case("tight pair", 0, 4)
    contender = next(iter(our_contenders("^default$", (), Failures())))
    sampler = Sampler(AutoAdams(), DataStraight(6), denoise=False)
    made, plain = contender.run(case.counted(exact=False), case.starts, 6)
    rule = plain_rule(6)
    without = Sampler(AutoAdams(rule=rule), DataStraight(6, rule.bend, top=rule.top, narrow=rule.narrow), denoise=False)
    out = without(case.model, x_init=case.starts)
    assert torch.equal(plain, out.x)
    assert made == out.nfe == 5
    case.model.step_rules = StepRules({6: StepRule("data", 2, 2, 0.1, 0.4)})
    made, ruled = contender.run(case.counted(), case.starts, 6)
    out = sampler(case.model, x_init=case.starts)
    assert torch.equal(ruled, out.x)
    assert made == out.nfe
    assert not torch.equal(ruled, plain)
    assert torch.equal(contender.run(case.counted(exact=False), case.starts, 6)[1], plain)


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "default"])
def test_a_budget_buys_the_most_steps_within_it(name: str) -> None:
    case = problem_case("tight pair", 0, 4)
    contender = next(iter(our_contenders(f"^{name}$", (), Failures())))
    budget = Budget(contender, case.counted(exact=False), case.starts)
    for evaluations in (1, 5, 8):
        runs = [contender.run(case.counted(exact=False), case.starts, steps) for steps in range(1, evaluations + 3)]
        within = [end for made, end in runs if made <= evaluations]
        found = budget.end(evaluations)
        assert (found is None) == (not within)
        assert found is None or torch.equal(found, within[-1])


@pytest.mark.parametrize("sde", CONTINUOUS, ids=lambda sde: type(sde).__name__)
def test_peers_reach_the_true_endpoint_under_every_sde(sde: SDE) -> None:
    """A peer that solves x̂ = x/α along σ/α exactly, on one Gaussian, has the endpoint of each SDE's own flow."""
    mean, std = 0.7, 0.3
    model = GaussianMixtureScore(torch.ones(1), torch.full((1, 2), mean), torch.full((1,), std**2), sde)

    def run(denoise: object, x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        first, last = (math.hypot(std, float(levels[i])) for i in (0, -1))
        # What is denoised is the posterior mean at that level.
        out = denoise(x, float(levels[0]))
        torch.testing.assert_close(out, mean + (x - mean) * (std / first) ** 2, rtol=1e-6, atol=1e-9)
        return mean + (x - mean) * last / first

    (contender,) = peer_contenders([Peer("some exact", run, ("λ",))], False)
    counted, x = Counted(model), 3 * torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([sde.t_max, sde.t_min_sampling], dtype=F64)
    alpha, sigma = sde.alpha(ends), sde.sigma(ends)
    spread = ((alpha * std) ** 2 + sigma**2).sqrt()
    true = alpha[1] * mean + (x - alpha[0] * mean) * spread[1] / spread[0]
    made, end = contender.run(counted, x, 8)
    assert made == 1
    torch.testing.assert_close(end, true, rtol=1e-9, atol=1e-12)


class Classes(ScoreModel):
    """One Gaussian of variance 0.09 for each class, at its label."""

    def takes_condition(self, name: str) -> bool:
        return name == "labels"

    def denoise(self, x: torch.Tensor, t: torch.Tensor, **cond: Any) -> torch.Tensor:
        level = self.sde.noise_level(torch.as_tensor(t, dtype=F64)).reshape(-1, 1)
        mean = cond["labels"].to(x)[:, None]
        return mean + (x - mean) * 0.09 / (0.09 + level**2)


def test_starts_keep_their_conditions() -> None:
    """Also in a solver that lets go of samples that have arrived, in parts of a batch, and in a peer."""
    sde = EDMSDE(0.002, 20.0)
    cond = {"labels": torch.tensor([-3, 0, 1, 50, 7])}
    x = 20 * torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    case = Case("network", "classes", "classes", Classes(sde), x, None, cond)
    mean = cond["labels"][:, None].double()
    true = mean + (x - mean) * math.sqrt((0.09 + 0.002**2) / (0.09 + 20.0**2))
    truth = true_endpoints(case)
    torch.testing.assert_close(truth.ends, true, rtol=1e-7, atol=1e-7)
    assert truth.error < 1e-6
    model = case.counted()
    model.rows = 2
    peer = Peer("some DDIM", lambda denoise, x, levels: denoise(x, 0.002), ("λ",))
    (contender,) = peer_contenders([peer], False)
    torch.testing.assert_close(contender.run(model, x, 6)[1], mean + (x - mean) * 0.09 / (0.09 + 0.002**2))
    ours = next(iter(our_contenders("^dpmpp_2m$", ("λ",), Failures())))
    assert float((ours.run(model, x, 200)[1] - true).abs().max()) < 0.01


# ---------------------------------------------------------------- stored


def test_what_is_stored_is_of_the_same_field_and_starts(tmp_path: object) -> None:
    case = problem_case("tight pair", 0, 8)
    store = Store(tmp_path, case)
    truth = store.truth(case)
    assert truth.error < 1e-8
    store.errors("libraries")["some peer"] = {5: [0.5, 0.25]}
    store.save()
    again = Store(tmp_path, case)
    assert torch.equal(again.truth(case).ends, truth.ends)
    assert again.errors("libraries") == {"some peer": {5: [0.5, 0.25]}}
    assert again.errors("other libraries") == {}
    assert Store(tmp_path, problem_case("tight pair", 0, 9)).values == {}
    moved = replace(case, model=make_problem("tight pair", 0, VPSDE()).model)
    assert Store(tmp_path, moved).values == {}


# ---------------------------------------------------------------- targets


def _cells(default: dict[int, float], peer: dict[int, float], ours: dict[int, float], case: str = "a") -> list[Cell]:
    groups = {"default": ("default", default), "peers": ("theirs", peer), "ours": ("another", ours)}
    return [
        Cell(case, group, name, budget, error, error, 1e-9)
        for group, (name, errors) in groups.items()
        for budget, error in errors.items()
    ]


def _found(of: list[Cell], what: str) -> Target:
    (line,) = [t for t in targets(of) if t.what.startswith("RMS") and what in t.what]
    return line


def test_ratios_and_rises_are_those_of_the_cells() -> None:
    found = _cells({5: 0.2, 10: 0.28}, {5: 0.1, 10: 0.4}, {5: 0.2, 10: 0.1})
    found += _cells({5: 0.1, 10: 0.05}, {5: 0.4, 10: 0.05}, {5: 0.1, 10: 0.05}, "b")
    median = _found(found, "best peer, median")
    assert median.value == "5: 1.12 · 10: 0.85"
    assert not median.reached
    worst = _found(found, "best peer, worst")
    assert worst.value == "5: 2.00 (a) · 10: 1.00 (b)"
    assert not worst.reached
    assert _found(found, "share").value == "75.0% of 4"
    assert _found(found, "best of ours, worst").value.startswith("2.80 (a at 10)")
    rise = _found(found, "rise")
    assert rise.value == "1.40 (a, 5 to 10)"
    assert not rise.reached


def test_round_off_is_no_error() -> None:
    found = _cells({100: 2e-12, 200: 8e-12}, {100: 1e-12, 200: 1e-12}, {100: 1e-12, 200: 1e-13})
    assert all(target.reached for target in targets(found))
    assert _found(found, "rise").value.startswith("1.00")


def test_the_best_of_a_group_is_taken_for_each_measure() -> None:
    found = _cells({5: 0.2}, {5: 0.1}, {5: 0.2})
    found.append(Cell("a", "peers", "one start astray", 5, 0.4, 0.05, 1e-9))
    by = {t.what: t.value for t in targets(found)}
    assert by["RMS: error / best peer, worst problem"] == "5: 2.00 (a)"
    assert by["median: error / best peer, worst problem"] == "5: 4.00 (a)"


def test_a_contender_that_fails_leaves_the_others() -> None:
    case = problem_case("tight pair", 0, 4)
    truth = Truth(own_endpoints(case.counted(), case.starts), 0.0, 1.0)

    def stuck(model: Counted, x: torch.Tensor, steps: int, seed: int) -> torch.Tensor:
        raise RuntimeError("no")

    good = next(iter(our_contenders("^ddim$", (), Failures())))
    failures = Failures()
    bound = [(Contender("lib", "bad", "λ", stuck, False), case.counted()), (good, case.counted())]
    found = list(cells("ours", bound, case, truth, [5], failures))
    assert [cell.name for cell in found] == [str(good)]
    assert list(failures.lines) == [f"{case.name}: lib bad, λ"]


def test_what_is_far_behind_is_not_run_for_long() -> None:
    case = problem_case("tight pair", 0, 4)
    truth = Truth(torch.zeros_like(case.starts), 0.0, 1.0)
    tried: dict[str, list[int]] = {"first": [], "turns": [], "behind": []}
    errors = {"first": lambda n: 1 / n, "turns": lambda n: 1 if n < 30 else 3 / n, "behind": lambda n: 6 / n}

    def make(name: str) -> Contender:
        def solve(model: Counted, x: torch.Tensor, steps: int, seed: int) -> torch.Tensor:
            for _ in range(steps):
                model.denoise(x, torch.tensor(1.0, dtype=F64))
            if len(x) == 4:
                tried[name].append(steps)
            return torch.full_like(x, errors[name](steps) / math.sqrt(x.shape[1]))

        return Contender("lib", name, "λ", solve, False)

    bound = [(make(name), case.counted()) for name in tried]
    found = list(cells("peers", bound, case, truth, [10, 20, 30, 50, 100], Failures()))
    assert tried == {"first": [10, 20, 30, 50, 100], "turns": [10, 20, 30, 50, 100], "behind": [10, 20, 30]}
    by = {(cell.name, cell.budget): cell.rms for cell in found}
    assert by["lib behind, λ", 30] == pytest.approx(6 / 30)
    assert by["lib turns, λ", 100] == pytest.approx(3 / 100)
    assert ("lib behind, λ", 50) not in by


# ---------------------------------------------------------------- samples


def _noisy(name: str, group: str, budget: int, nats: float, error: float, left: float = 1.0) -> Noisy:
    values = {"nats_lost": [nats, error], "noise_left": [left, 0.01], "sliced_wasserstein": [0.02, 0.001]}
    return Noisy("a", group, name, budget, values)


def test_samples_are_judged_beside_the_best_named_solver() -> None:
    rows = [_noisy("default_sde", "default", n, nats, 0.3, left) for n, nats, left in ((5, 3, 2.0), (20, 1.2, 1.04))]
    rows += [
        _noisy("one", "ours", 5, -2.5, 0.4),
        _noisy("two", "peers", 5, 0.5, 0.4),
        _noisy("one", "ours", 20, 0, 0.4),
    ]
    by = {t.what: t for t in noisy_targets(rows)}
    lost = by["nats lost above the best named solver"]
    # 2.5 ± 0.5 at 5 is beyond 1 nat, 1.2 ± 0.5 at 20 is not to two standard errors.
    assert lost.value == "2.5 ± 0.5 (a at 5, two); 50% of 2 within"
    assert not lost.reached
    assert by["noise left, from 15 evaluations"].value == "1.04 ± 0.01 (a at 20); 100% of 1 within"
    assert by["sliced Wasserstein distance / best named solver"].reached


def test_exact_samples_are_at_no_distance() -> None:
    case = problem_case("ring", 0, 4)
    exact, starts = reference(case, 400)
    assert starts.shape == (400, 2)
    found = estimates(exact.floor)
    assert abs(found["nats_lost"][0]) < 4 * found["nats_lost"][1]
    contender = next(iter(our_contenders("^default_sde$", (), Failures())))
    (row,) = noisy_cells("ours", [(contender, case.counted())], case, exact, starts, [20], Failures())
    assert set(row.values) == set(found)
