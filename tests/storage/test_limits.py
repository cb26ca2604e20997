import pytest

from scoresde.storage.limits import check_memory, check_steps, gib


def test_memory_has_a_limit_that_the_user_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    check_memory(8 * 2**30, "it")
    with pytest.raises(ValueError, match=r"it would take 12 GiB of memory, the limit is 8 GiB.*SCORESDE_MEMORY=12$"):
        check_memory(12 * 2**30, "it")
    monkeypatch.setenv("SCORESDE_MEMORY", "12")
    check_memory(12 * 2**30, "it")
    with pytest.raises(ValueError, match="SCORESDE_MEMORY=13"):
        check_memory(12 * 2**30 + 1, "it")


def test_steps_have_a_limit_that_the_user_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    check_steps(100_000, "steps")
    with pytest.raises(ValueError, match=r"^steps is 100001, the limit is 100000: .*SCORESDE_STEPS=100001$"):
        check_steps(100_001, "steps")
    monkeypatch.setenv("SCORESDE_STEPS", "100001")
    check_steps(100_001, "steps")


@pytest.mark.parametrize("text", ["x", "0", "-1", "nan", "8 GiB"])
def test_a_limit_is_a_positive_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SCORESDE_MEMORY", text)
    with pytest.raises(ValueError, match=f"SCORESDE_MEMORY is '{text}', expected a positive number"):
        check_memory(1, "it")


def test_sizes_are_readable() -> None:
    assert [gib(n * 2**30) for n in (0.5, 3, 1234, 10**6)] == ["0.5 GiB", "3 GiB", "1.23e+03 GiB", "1e+06 GiB"]
