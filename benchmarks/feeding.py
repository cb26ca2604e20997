"""What feeding 32×32 pictures costs a training step of DDPM++: from an image folder and parquet, against memory.

    python benchmarks/feeding.py [--steps 3] [--batch 16] [--pictures 2000] [--workers 2]

The same steps are made on the same pictures in memory, from a folder of PNG files and from parquet, a step of each in
turn, so that whatever else the machine does meets all of them. Printed are the times of a step (of the processor, where
there is no accelerator), the median and the standard error of the ratio to memory, pair by pair, and what reading a
batch alone takes of the processor.
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet as pq

from scoresde.data import Data, image_folder, parquet
from scoresde.data.order import batch_indices
from scoresde.data.rows import is_lazy
from scoresde.networks import ddpmpp
from scoresde.preconditioning import EDMPreconditioning
from scoresde.score import NetworkScore
from scoresde.sde import VPSDE
from scoresde.training import make_trainer


def written(place: Path, count: int) -> tuple[Path, Path]:
    """A folder of PNG files, and a parquet file of the same pictures: smooth ones with noise, as photographs are."""
    rng = np.random.default_rng(0)
    folder, table = place / "folder", place / "table.parquet"
    folder.mkdir()
    encoded = []
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
            (32, 32), Image.Resampling.BICUBIC
        )
        pixels = np.clip(np.asarray(small) + rng.integers(-6, 7, (32, 32, 3)), 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        (folder / f"{i:06}.png").write_bytes(stream.getvalue())
        encoded.append(stream.getvalue())
    pq.write_table(pa.table({"image": encoded}), table)
    return folder, table


def reading(data: Data, batch: int, repeats: int = 20) -> float:
    """Seconds of the processor that reading a batch alone takes."""
    began = time.process_time()
    for step in range(repeats):
        data.train[batch_indices(len(data.train), batch, step, 0)]
    return (time.process_time() - began) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("steps", 3), ("batch", 16), ("pictures", 2000), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, table = written(Path(place), options.pictures)
        sets = {
            "memory": image_folder(str(folder), in_memory=True),
            "folder": image_folder(str(folder), in_memory=False),
            "parquet": parquet(str(table), in_memory=False),
        }
        assert [is_lazy(data.train) for data in sets.values()] == [False, True, True]
        steps = {}
        for name, data in sets.items():
            torch.manual_seed(0)
            model = NetworkScore(ddpmpp((3, 32, 32)), VPSDE(), EDMPreconditioning())
            trainer = make_trainer(model, data, options.steps + 2, batch_size=options.batch, workers=options.workers)
            steps[name] = trainer.steps()
        # On a CPU the processor time of all threads, which other programs do not change.
        clock = time.perf_counter if torch.accelerator.is_available() else time.process_time
        times: dict[str, list[float]] = {name: [] for name in sets}
        for _ in range(options.steps + 1):
            for name, each in steps.items():
                began = clock()
                next(each)
                times[name].append(clock() - began)
        for each in steps.values():
            each.close()
        print(f"DDPM++, batches of {options.batch}, {options.steps} steps each, {torch.get_num_threads()} threads")
        print(f"{'data':<8}  {'s/step':>8}  {'ratio':>6}  {'stderr':>6}  {'ms to read a batch':>18}")
        for name, own in times.items():
            ratios = [a / b for a, b in zip(own[1:], times["memory"][1:], strict=True)]  # the first starts the threads
            error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else float("nan")
            print(
                f"{name:<8}  {statistics.median(own[1:]):8.3f}  {statistics.median(ratios):6.3f}  {error:6.3f}  "
                f"{1000 * reading(sets[name], options.batch):18.2f}"
            )


if __name__ == "__main__":
    main()
