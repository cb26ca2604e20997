"""Reprs in the words of the shell, on the pages of reports."""

from scoresde.report.png import _plain_words
from scoresde.report.wording import repr_in_words, sampler_in_words


def test_reprs_in_words() -> None:
    assert repr_in_words("TruncatedNormal(mean=0.5, seed=None)") == "truncated normal, mean 0.5"
    assert repr_in_words("VPSDE(beta_max=20.0)") == "VPSDE, beta_max 20.0"
    assert repr_in_words(3) == 3
    assert sampler_in_words("Sampler(MyOwn(order=2), Uneven(steps=7))") == "my own, 7 steps"
    assert _plain_words("Sampler(MyOwn(), Uneven(steps=7)), 14 evaluations") == "my own, 7 steps, 14 evaluations"


def test_a_text_that_is_too_long_to_search_stays_as_it_is() -> None:
    for long in ("Sampler(steps=1 " * 100_000, "Sampler(" + "steps=1 " * 100_000):
        assert sampler_in_words(long) == long
        assert _plain_words(long) == long
