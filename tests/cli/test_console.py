"""Output on terminals, and into pipes, that cannot show every character."""

import io
import sys

import pytest
from tqdm import tqdm

from scoresde.cli import main
from scoresde.cli.console import Verbosity, configure, fail, print_table


class Streams:
    """Standard streams of one encoding, strict as Python makes them."""

    def __init__(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoding = encoding
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding, errors="strict"))

    def text(self, name: str) -> str:
        stream = getattr(sys, name)
        stream.flush()
        return stream.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_characters_that_the_encoding_lacks_are_replaced(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(encoding, monkeypatch)
    main(["list", "samplers"])
    with pytest.raises(SystemExit) as usage:
        main(["--help"])
    assert usage.value.code == 0
    text = streams.text("stdout")
    assert "algorithm 2" in text
    assert ("samplers × numbers" if encoding != "ascii" else "samplers x numbers") in text
    assert "noise levels, 35 evaluations" in text
    assert "σ" not in text


def test_processes_of_a_launcher_replace_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams("ascii", monkeypatch)
    configure(Verbosity.NORMAL)
    print_table(("job", "run"), [["0", "–"], ["1", "λ"]], title="−1 ± 2")
    assert streams.text("stdout").splitlines() == ["-1 +- 2", "job  run", "  0  -", "  1  ?"]
    with pytest.raises(SystemExit):
        fail("σ is “no number”")
    for _ in tqdm(range(2), desc="σ", file=sys.stderr):
        pass
    assert streams.text("stderr").startswith("scoresde: ? is ?no number?\n")
