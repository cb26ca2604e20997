"""Names of results, and what keeps them from being replaced."""

from typing import Any

import pytest

from scoresde.options.errors import ConfigError
from scoresde.runs.results import choose_name, differences, digest_of, further_name, identity_of, is_of, key_of
from scoresde.sampling import Euler, KarrasGrid, Sampler

OWN = {
    "data": "digits",
    "tol": 0.0064,
    "draws": 1,
    "bound": "average",
    "seed": 0,
    "model": "m",
    "data_hash": "12345678ab",
}


def other(**changes: Any) -> dict[str, Any]:
    return {**OWN, **changes}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, ""),
        ({"draws": 4}, "draws4"),
        ({"bound": "importance", "seed": 3, "tol": 0.5}, "tol0.5-importance-seed3"),
        ({"model": "n"}, ""),
        ({"data_hash": "87654321cd"}, "digits-87654321"),
        ({"data": "my/data set", "data_hash": "87654321cd"}, "my_data_set-87654321"),
    ],
)
def test_names_are_made_of_what_differs(changes: dict[str, Any], name: str) -> None:
    assert further_name(other(**changes), OWN) == name


def test_names_stay_short_and_apart() -> None:
    names = [further_name(other(sampler="x" * 300 + end), OWN) for end in "ab"]
    assert len(set(names)) == 2
    assert all(len(name) < 100 for name in names)
    assert further_name(other(sampler="x" * 300), OWN, {"sampler": "heun"}) == "heun"


def test_every_result_has_a_name_of_its_own() -> None:
    """In whatever order results come: none takes the place of one with other settings."""
    variants = [
        OWN,
        other(draws=4),
        other(draws=4, model="n"),
        other(seed=3),
        other(model="n"),
        other(data_hash="0" * 10),
    ]
    for first in range(len(variants)):
        known: dict[str, Any] = {}
        for settings in [*variants[first:], *variants[:first]] * 2:
            name = choose_name("likelihood-test", known, settings, OWN)
            assert known.setdefault(name, settings) == settings
        assert len(known) == len(variants)
        assert known["likelihood-test"] == OWN


def test_the_first_result_is_the_runs_own_where_there_is_none() -> None:
    assert choose_name("comparison", {}, other(draws=4), None) == "comparison"
    assert choose_name("comparison", {}, other(draws=4), OWN) == "comparison-draws4"
    # One whose settings are not known is there all the same.
    # Beside a table of a few columns a name of all that it lacks would be long.
    part: dict[str, Any] = {key: OWN[key] for key in list(OWN)[:-5]}
    assert choose_name("comparison", {"comparison": part}, OWN, None) == f"comparison-{digest_of(OWN)}"
    unknown = choose_name("comparison", {"comparison": None}, OWN, None)
    assert unknown == f"comparison-{digest_of(OWN)}"
    name = choose_name("comparison", {"comparison": None}, OWN, OWN)
    assert name == f"comparison-{digest_of(OWN)}"


def test_only_the_user_replaces() -> None:
    known = {"likelihood-test": OWN, "likelihood-test-mine": other(draws=4)}
    assert choose_name("likelihood-test", known, other(seed=1), OWN, overwrite=True) == "likelihood-test"
    chosen = choose_name("likelihood-test", known, other(draws=4), OWN, given="mine")
    assert chosen == "likelihood-test-mine"
    with pytest.raises(ConfigError, match="mine is there already, with draws 4 instead of 1: give another name, or ov"):
        choose_name("likelihood-test", known, OWN, OWN, given="mine")
    assert choose_name("likelihood-test", known, OWN, OWN, given="mine", overwrite=True) == "likelihood-test-mine"
    for name in ("../x", "a/b", ".."):
        with pytest.raises(ConfigError, match="expected a name without slashes"):
            choose_name("likelihood-test", known, OWN, OWN, given=name)


def test_differences_in_words() -> None:
    assert differences(OWN, other(draws=2, seed=1)) == "with draws 1 instead of 2, seed 0 instead of 1"
    assert differences({}, {"n": 3}) == "with n None instead of 3"
    assert differences(None, OWN) == "with settings that are not known"


def test_entries_of_older_versions_are_of_other_settings() -> None:
    assert is_of({**OWN, "n": 5}, OWN)
    assert not is_of({k: v for k, v in OWN.items() if k != "data_hash"}, OWN)
    assert not is_of(None, OWN)
    assert key_of("likelihood-test") == "likelihood"
    assert key_of("likelihood-test-draws4") == "likelihood-test-draws4"


def test_a_sampler_is_known_by_its_settings() -> None:
    def made(steps: int, t_max: float | None = None) -> str:
        return identity_of(Sampler(Euler(), KarrasGrid(steps, t_max=t_max)))

    assert made(3) == made(3)
    assert len({made(3), made(4), made(3, 0.9)}) == 3
