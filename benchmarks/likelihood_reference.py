"""Log-likelihoods by another checkout of this repository, in a process of its own, for `likelihood.py`.

Started as a script with that checkout before everything else on the path, this file answers requests: the name of a
file on a line of the standard input, `torch.save`d arguments of `Reference.run`; it writes the answer beside it, and
then a line.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from likelihood_models import Counted, Source, clock, make_model
from torch import Tensor

__all__ = ["Reference"]


class Reference:
    """The package of another checkout.

    Args:
        checkout: A worktree of this repository, at any revision whose `log_likelihood` takes a tolerance in nats.

    Raises:
        RuntimeError: The process does not run that checkout's package.
    """

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout.resolve()
        self.folder = tempfile.TemporaryDirectory()
        environment = {**os.environ, "PYTHONPATH": str(self.checkout)}
        command = [sys.executable, str(Path(__file__).resolve()), str(torch.get_num_threads())]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        found = self._line()
        if not Path(found).is_relative_to(self.checkout):
            self.close()
            raise RuntimeError(f"the reference runs {found}, expected the package in {self.checkout}")

    @property
    def revision(self) -> str:
        """Hash and subject of the commit."""
        command = ["git", "-C", str(self.checkout), "log", "-1", "--format=%h %s"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def run(self, *, source: Source, sde: str | None, x: Tensor, **options: Any) -> dict[str, Any]:
        """Log-densities `(B,)`, means of counts, and seconds.

        Args:
            source: What the model is made of, with `sde`.
            sde: Name of its SDE; None for a run's own.
            x: Points, in model space.
            **options: `tol` in nats, whether the state is scaled by the `covariance`, whether the trace is `exact`, and
                `seed` of the probes.

        Raises:
            RuntimeError: The reference failed, with its message.
        """
        file = Path(self.folder.name) / "request.pt"
        torch.save({"source": source, "sde": sde, "x": x, **options}, file)
        assert self.process.stdin is not None
        print(file, file=self.process.stdin, flush=True)
        told = self._line()
        if told != "done":
            raise RuntimeError(told)
        answer: dict[str, Any] = torch.load(file.with_suffix(".answer"), weights_only=True)
        return answer

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"the reference in {self.checkout} ended with status {self.process.wait()}")
        return line


@torch.no_grad()
def _answer(request: dict[str, Any], models: dict[Any, Counted]) -> dict[str, Any]:
    from scoresde.likelihood import CovarianceScaling, Exact, Hutchinson, log_likelihood

    source, sde = request["source"], request["sde"]
    name = (source if isinstance(source, Path) else tuple(source[0].tolist()), sde)
    if name not in models:
        models[name] = Counted(make_model(source, sde))
    options: dict[str, Any] = {name: request[name] for name in ("tol", "seed")}
    if request["covariance"]:
        options["scaling"] = CovarianceScaling()
    divergence = Exact() if request["exact"] else Hutchinson()
    start = clock()
    out = log_likelihood(models[name], request["x"], divergence=divergence, **options)
    seconds = clock() - start
    forwards, divergences, products = (float(v.double().mean()) for v in (out.nfe, out.divergences, out.products))
    counts = {"forwards": forwards, "divergences": divergences, "products": products}
    return {"log_prob": out.log_prob, "seconds": seconds, **counts}


def _serve() -> None:
    import scoresde

    torch.set_num_threads(int(sys.argv[1]))
    print(Path(scoresde.__file__).resolve(), flush=True)
    models: dict[Any, Counted] = {}
    for line in sys.stdin:
        file = Path(line.strip())
        try:
            torch.save(_answer(torch.load(file, weights_only=False), models), file.with_suffix(".answer"))
        except Exception as error:  # of another revision, whatever it is; the asker tells of it
            print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
            continue
        print("done", flush=True)


if __name__ == "__main__":
    _serve()
