"""`scoresde certify`: its tables resume by the cell, and what cannot be certified is refused before any drawing."""

import csv
import json
from pathlib import Path

import pytest

from scoresde.certificate import PosteriorCertificate
from scoresde.cli import main

OWN = """
import torch
from scoresde.inverse import DPS

class Mine(DPS):
    pass

def zeros(n, operator):
    return torch.zeros(n, *operator.shape, dtype=torch.float64)

def breaks(n):
    raise RuntimeError("no luck")

def euler(denoiser, x, sigmas):
    for a, b in zip(sigmas, sigmas[1:]):
        x = x + (b - a) * (x - denoiser(x, a)) / a
    return x
"""
QUICK = ["prior=ring", "measurements=3", "samples=40", "progress=false", "allow=[own_parts]"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_parts.py").write_text(OWN)
    return tmp_path


def rows(file: str) -> list[dict[str, str]]:
    with Path(file).open(encoding="utf-8") as text:
        return list(csv.DictReader(text))


def test_posteriors_are_certified_and_resumed(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["certify", *QUICK, "methods=[own_parts.zeros,own_parts.Mine]", "noises=[0.1,0.5]", "steps=3"]
    computed: list[str] = []
    known = PosteriorCertificate.row

    def row(self: PosteriorCertificate, cell: tuple[str, ...]) -> object:
        if len(computed) == 4:
            raise KeyboardInterrupt
        computed.append(cell[0])
        return known(self, cell)  # type: ignore[arg-type]

    monkeypatch.setattr(PosteriorCertificate, "row", row)
    with pytest.raises(SystemExit):
        main(command)
    assert "the same command resumes" in capsys.readouterr().err
    assert [r["method"] for r in rows("certificate/posteriors.csv")] == computed
    before = Path("certificate/posteriors.csv").read_text()
    computed.clear()
    main(command)
    assert computed == ["own_parts.zeros", "own_parts.Mine"]
    assert Path("certificate/posteriors.csv").read_text().startswith(before)
    out = capsys.readouterr().out
    assert "4 + 3 vjp" in out
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["exact", "own_parts.zeros", "own_parts.Mine"]
    assert Path("certificate/posteriors.png").is_file()
    page = Path("certificate/posteriors.html").read_text()
    assert "Certificate of posterior samplers" in page
    assert "sliced 2-Wasserstein" in page
    # A picture of distances, and one of ranks for each problem and noise.
    ranks = {path.name for path in work.glob("certificate/*-ranks-*.png")}
    assert ranks == {"posteriors-ranks-inpaint-0.1.png", "posteriors-ranks-inpaint-0.5.png"}
    assert page.count("<figure") == 3
    assert "Ranks: inpaint, noise 0.5" in page
    assert all(sum(map(int, r["ranks_distance"].split())) == 24 for r in rows("certificate/posteriors.csv"))
    assert json.loads(Path("certificate/posteriors.json").read_text())["settings"]["measurements"] == 3
    computed.clear()
    main(command)
    assert computed == []
    # A method whose code has changed is examined again, and other settings have files of their own.
    (work / "own_parts.py").write_text(OWN + "\n")
    monkeypatch.setattr(PosteriorCertificate, "row", known)
    main([*command, "seed=1"])
    assert len(list(work.glob("certificate/posteriors*.csv"))) == 2


def test_samplers_are_certified_without_measurements(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["certify", *QUICK, "problems=none", "samplers=[dpmpp_2m,own_parts.euler]"])
    head, first, second, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "sampler"
    assert first.startswith("dpmpp_2m")
    assert first.split()[-1] == second.split()[-1] == "nothing"
    found = {(r["sampler"], r["check"]): r for r in rows("certificate/samplers.csv")}
    assert abs(float(found["dpmpp_2m", "order"]["value"]) - 2) < 0.1
    assert abs(float(found["own_parts.euler", "order"]["value"]) - 1) < 0.1
    assert found["dpmpp_2m", "order"]["passed"] == "yes"  # its order is that of conf/sampler
    assert found["own_parts.euler", "order"]["passed"] == ""
    assert Path("certificate/samplers.png").is_file()
    assert "true ends of the probability flow" in Path("certificate/samplers.html").read_text()


def test_a_method_that_breaks_leaves_the_others(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["certify", *QUICK, "methods=[own_parts.breaks,own_parts.zeros]", "steps=3"])
    told = capsys.readouterr()
    assert "1 of 3 cells failed, the first own_parts.breaks inpaint 3: RuntimeError: no luck" in told.err
    assert [r["failure"] != "" for r in rows("certificate/posteriors.csv")] == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["problems=nothing"], "unknown problem 'nothing', did you mean 'none'?"),
        (["problems=[none,inpaint]"], "none is for samplers without measurements, by itself"),
        (["problems=clip", "methods=own_parts.zeros"], "is not linear"),
        (["methods=other.f"], "'other.f' is not allowed: name its package, allow=[other]"),
        (["methods=own_parts.f"], "does not exist"),
        (["methods=own_parts.zeros", "samplers=heun"], "heun: no method of own_parts.zeros is a field"),
        (["problems=none", "methods=own_parts.zeros"], "methods are for inverse problems"),
        (["problems=none", "samplers=own_parts.zeros"], "expected a function of a number of steps, or"),
        (["sde=binomial"], "sde=BinomialChain is a chain"),
        (["prior=nowhere.npz"], "there is no such prior: it is ring, digits or a file"),
        (["noises=-1"], "noises is -1, expected a number of at least 0"),
        (["samples=9"], "samples is 9, expected an integer of at least 40"),
        (["problem=none"], "certify has no 'problem', did you mean problems="),
    ],
)
def test_what_cannot_be_certified_is_refused(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["certify", *QUICK, *arguments])
    assert message in capsys.readouterr().err
    assert not list(work.glob("certificate/*.csv"))


def test_a_prior_is_fitted_to_data(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["certify", *QUICK, "data=two_moons", "components=3", "methods=own_parts.zeros", "steps=2"])
    assert "own_parts.zeros" in capsys.readouterr().out
    assert "fitted to the data" in Path("certificate/posteriors.html").read_text()
