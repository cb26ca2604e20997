"""Steps of training on 3×32×32 images: time and memory of each network, beside its authors' own code.

    python benchmarks/training.py [--reference DIR ...] [--save FOLDER]

A step is that of training: the passes forward and back, clipping, the optimiser and the average of the weights. Each
contender is a process of its own, and they take turns, so that what else a machine does meets all of them. A ratio is
that of medians of processor time, or of seconds on an accelerator. Memory is the most that tensors have had in a step:
weights, averages, the optimiser's state, gradients and activations. Beside it stands the most that a process has held
above what it had before there was a network, which on a CPU includes about 150 MiB of kernels and what the C library
keeps of freed memory.

`--reference` takes checkouts of https://github.com/yang-song/score_sde_pytorch and https://github.com/NVlabs/edm. Their
own model, loss, optimiser and average run, unmodified, in a process that imports nothing of this package
(`training_reference.py`).
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from training_clock import serve

NETWORKS = ("ncsnpp", "ddpmpp", "edm_ddpmpp", "edm_ncsnpp", "adm")
CONTENDERS = ("fp32", "bf16", "checkpointing", "accumulate")
REFERENCE = "reference"


class Contender:
    """A process that makes steps.

    Args:
        command: Command that serves them.

    Raises:
        RuntimeError: It cannot.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.parameters = int(self._answer()["parameters"])
        self.times: list[float] = []
        self.memory = 0  # resident, or the device's
        self.tensors = 0

    def step(self, key: str, count: bool) -> None:
        """Make a step, and note its time by `key` if it is to `count`."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        answer = self._answer()
        self.memory = int(answer["memory"])
        if count:
            self.times.append(float(answer[key]))

    def weigh(self) -> None:
        """Make a step, and note the memory of its tensors."""
        assert self.process.stdin is not None
        print("tensors", file=self.process.stdin, flush=True)
        self.tensors = int(self._answer()["tensors"])

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line.strip() else {"error": f"status {self.process.wait()}"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def measure(contenders: dict[str, Contender], turns: int, key: str) -> None:
    """Let the contenders take turns, after one that does not count."""
    for turn in range(turns + 1):
        for contender in contenders.values():
            contender.step(key, count=turn > 0)
    for contender in contenders.values():
        contender.weigh()


def row(network: str, name: str, one: Contender, base: Contender) -> list[str]:
    """Cells of a contender, with ratios to `base`: how much faster, and what share of the memory."""
    time, other = statistics.median(one.times), statistics.median(base.times)
    cells = [network, name, f"{one.parameters / 1e6:.2f}M", f"{time:.3f}", f"{other / time:.2f}"]
    for own, others in ((one.tensors, base.tensors), (one.memory, base.memory)):
        cells += [f"{own / 2**20:.0f}", f"{own / others:.2f}"]
    return cells


def checkout_of(network: str, references: Sequence[Path]) -> Path | None:
    """The checkout that has the network's own code, if it was given."""
    file = "training/networks.py" if network.startswith(("edm", "adm")) else "models/ncsnpp.py"
    return next((path for path in references if (path / file).is_file()), None)


# -- this package ---------------------------------------------------------------------------------------


Make = Callable[[], tuple[torch.nn.Module, Callable[[], object]]]


def own(network: str, contender: str, channels: int, batch: int) -> Make:
    """Makes a network and a step of its training by `Trainer`."""
    from scoresde.data import Data
    from scoresde.data.transforms import Discrete
    from scoresde.networks import published
    from scoresde.score import NetworkScore
    from scoresde.score.preconditioning import EDMPreconditioning
    from scoresde.sde import VESDE
    from scoresde.statistics import Statistics
    from scoresde.training import make_trainer

    shape = (3, 32, 32)
    networks: dict[str, Callable[..., torch.nn.Module]] = {
        "ncsnpp": published.ncsnpp,
        "ddpmpp": published.ddpmpp,
        "edm_ddpmpp": partial(published.song_ddpmpp, multipliers=(2, 2, 2), dropout=0.13),
        "edm_ncsnpp": partial(published.song_ncsnpp, multipliers=(2, 2, 2), dropout=0.13),
        "adm": partial(published.adm, multipliers=(1, 2, 3), dropout=0.1),
    }
    images = torch.randint(0, 256, (2 * batch, *shape), dtype=torch.uint8)
    data = Data("noise", images, images[:batch], Discrete(256))
    options: dict[str, Any] = {"batch_size": batch, "clip": 1.0, "bf16": contender == "bf16"}
    options["accumulate"] = 4 if contender == "accumulate" else 1
    optimizer = partial(torch.optim.Adam, lr=2e-4, fused=True)

    def make() -> tuple[torch.nn.Module, Callable[[], object]]:
        built = networks[network](shape, channels=channels, checkpointing=contender == "checkpointing")
        # Given, since the covariance of 3072 values, which is estimated else, is 72 MiB of float64.
        statistics = Statistics(torch.zeros(shape), 0.5)
        model = NetworkScore(built, VESDE(), EDMPreconditioning(0.5), statistics)
        trainer = make_trainer(model, data, 10**9, optimizer=optimizer, **options)
        return trainer.bare, partial(next, trainer.steps())

    return make


# -- the program ----------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    out.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS[:3]))
    out.add_argument("--reference", nargs="+", type=Path, default=[], help="checkouts of the authors' code")
    out.add_argument("--channels", type=int, default=32, help="base channels")
    out.add_argument("--batch", type=int, default=16, help="images in a step")
    out.add_argument("--turns", type=int, default=7, help="steps of each that count")
    out.add_argument("--threads", type=int, default=1, help="threads of each process")
    out.add_argument("--device", default="cpu", help="cpu or cuda")
    out.add_argument("--save", type=Path, help="folder for training.md")
    out.add_argument("--serve", nargs=2, metavar=("NETWORK", "CONTENDER"), help=argparse.SUPPRESS)
    return out


def table(network: str, options: argparse.Namespace) -> list[list[str]]:
    """Rows of a network's contenders."""
    sizes = [str(options.channels), str(options.batch), str(options.threads), options.device]
    here = Path(__file__).resolve()
    started: dict[str, Contender] = {}
    try:
        checkout = checkout_of(network, options.reference)
        if checkout is not None:
            file = here.with_name("training_reference.py")
            started[REFERENCE] = Contender([sys.executable, str(file), str(checkout), network, *sizes])
        for name in options.contenders:
            keys = ("channels", "batch", "threads", "device")
            flags = [f"--{key}={value}" for key, value in zip(keys, sizes, strict=True)]
            started[name] = Contender([sys.executable, str(here), *flags, "--serve", network, name])
        measure(started, options.turns, "seconds" if options.device != "cpu" else "processor")
        base = next(iter(started.values()))
        return [row(network, name, one, base) for name, one in started.items()]
    finally:
        for one in started.values():
            one.close()


def main() -> None:
    """Measure and print."""
    options = parser().parse_args()
    if options.serve:
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        network, contender = options.serve
        serve(own(network, contender, options.channels, options.batch), options.device)
        return
    head = [
        "network",
        "step",
        "parameters",
        "seconds",
        "times as fast",
        "MiB of tensors",
        "ratio",
        "MiB in all",
        "ratio",
    ]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    print(*lines, sep="\n", flush=True)
    for network in options.networks:
        try:
            rows = table(network, options)
        except RuntimeError as error:
            sys.exit(f"{network}: {error}")
        lines += [f"| {' | '.join(cells)} |" for cells in rows]
        print(*lines[-len(rows) :], sep="\n", flush=True)
    note = (
        f"{options.channels} base channels, batch {options.batch}, {options.threads} thread(s), {options.device}; "
        f"medians of {options.turns} steps in turns, ratios to the first step of each network."
    )
    print(note)
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        (options.save / "training.md").write_text("\n".join([*lines, "", note, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
