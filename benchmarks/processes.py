"""Seconds of one process and of two: steps of training, samples and likelihoods of a U-Net on the digits.

    python benchmarks/processes.py [--repeats 3]

Each process has one thread. Of the seconds are left out imports, reading and what a command does once: what is measured
is what the commands themselves print. Where other programs run, the ratio says more of them than of this; the load of
the machine is printed beside it.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

NETWORK = ["data=digits", "network=unet", "network.channels=32", "evaluation.samples=0", "evaluation.likelihood=0"]
TRAIN = ["train", *NETWORK, "evaluation.pictures=false", "training.batch_size=128", "training.checkpoint_every=null"]
STEPS = 60
COMMANDS = {
    "sample": ["sample", "run=run", "n=1024", "batch_size=64", "sampler=ddim", "overwrite=true"],
    "likelihood": ["likelihood", "run=run", "n=128", "batch_size=16", "divergence=hutchinson", "name=again"],
}


def command(arguments: list[str], processes: int, folder: Path) -> str:
    """What a command says that runs in a folder."""
    launcher = (
        [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    )
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "scoresde.cli", *arguments, "progress=false"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def seconds_of_training(processes: int, folder: Path) -> float:
    """Seconds of a step, from the log, without the first entry, in which threads and memory are made ready."""
    name = f"trained-{processes}"
    shutil.rmtree(folder / "runs" / name, ignore_errors=True)
    command([*TRAIN, f"training.steps={STEPS}", "training.log_every=10", f"name={name}"], processes, folder)
    lines = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if "steps_per_second" in entry]
    at: dict[int, float] = {entry["step"]: entry["step"] / entry["steps_per_second"] for entry in entries}
    return (at[STEPS] - at[10]) / (STEPS - 10)


def seconds_of(name: str, processes: int, folder: Path) -> float:
    """Seconds of a step of training, or those that a command says that its work took."""
    if name == "training step":
        return seconds_of_training(processes, folder)
    for table in (folder / "run").glob("likelihood-test*"):
        table.unlink()
    said = command(COMMANDS[name], processes, folder)
    found = re.findall(r"([\d.]+) s\b", said)
    return float(found[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each, in turn, of which the median counts")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        command([*TRAIN, "training.steps=20", "name=first"], 1, folder)
        (folder / "runs" / "first").rename(folder / "run")
        print(f"load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; medians of {repeats}")
        print(f"{'':<16}{'one, s':>10}{'two, s':>10}{'ratio':>8}")
        for name in ("training step", *COMMANDS):
            found: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(repeats):
                for processes in found:
                    found[processes].append(seconds_of(name, processes, folder))
            one, two = (statistics.median(found[processes]) for processes in (1, 2))
            print(f"{name:<16}{one:>10.3f}{two:>10.3f}{two / one:>8.2f}", flush=True)
        print(f"load of the machine {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
