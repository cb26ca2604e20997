"""The trained networks of the family of problems: those that are missing in a folder are trained there.

    python benchmarks/networks.py FOLDER [NAME ...]

Each is a run directory `FOLDER/NAME`, which `benchmarks/solvers.py --family --runs FOLDER` reads. They differ in what
makes a network hard for a solver: a plane with parted modes, images, conditions, and features of the noise level that
change slowly or fast. A run that was interrupted is resumed. On one core each takes three to six minutes.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

__all__ = ["NETWORKS", "train"]

FAST = (
    # As in NCSN++ (Song et al. 2021): the highest of these frequencies is a hundred times that of the default.
    "network.embedding._target_=scoresde.networks.GaussianFourierFeatures",
    "~network.embedding.max_frequency",
    "+network.embedding.scale=16.0",
)
NETWORKS: dict[str, tuple[str, ...]] = {
    "toy": ("experiment=ring",),
    "digits": ("experiment=digits", *FAST),
    "digits_smooth": ("experiment=digits",),
    "digits_conditional": ("experiment=digits_conditional",),
}
"""What each run is trained with; `digits_smooth` and `digits_conditional` have the default's slow features."""


def train(folder: Path, name: str) -> Path:
    """The run directory of a network, trained if it is not there or not complete.

    Raises:
        subprocess.CalledProcessError: Training failed.
    """
    run = folder / name
    if (run / "summary.json").is_file():
        return run
    begun = (run / "config.yaml").is_file()
    words = (f"run={run}",) if begun else (f"runs={folder}", f"name={name}", "evaluation.likelihood=0", *NETWORKS[name])
    command = [sys.executable, "-m", "scoresde", "train", *words, "progress=false"]
    print(shlex.join(command), file=sys.stderr)
    subprocess.run(command, check=True)
    return run


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the run directories")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}; all if none is given")
    options = parser.parse_args()
    for name in options.names:
        if name not in NETWORKS:
            parser.error(f"there is no network {name}: give some of {', '.join(NETWORKS)}")
    for name in options.names or NETWORKS:
        try:
            print(train(options.folder, name))
        except subprocess.CalledProcessError as error:
            sys.exit(f"{name} was not trained: `scoresde train` ended with status {error.returncode}")


if __name__ == "__main__":
    main()
