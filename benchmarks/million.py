"""What it takes to open a million pictures: time, memory, and random access in the order of an epoch.

Makes a tar shard of 1000 tiny pictures and hard links to it, which are read as shards of their own. Each line is a process of its
own: the first makes the index, the second reads it from the cache, the others look at pictures too.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mnv3_tf.data import open_dataset, scan_dataset
from mnv3_tf.data.decode import picture_bytes

SHARD = 1000
READ = 10_000


def main() -> None:
    """Makes the shards and opens them again and again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_300_000)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--share", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--scan", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        measure(arguments.open, arguments.share, arguments.scan)
        return
    with tempfile.TemporaryDirectory(prefix="mnv3-million-") as name:
        folder = Path(name) / "shards"
        make_shards(folder, arguments.pictures // SHARD)
        for title, options in (("the index is made", ()), ("from the cache", ()),
                               ("4% set aside for validation", ("--share=0.04",)),
                               ("the same, data.check=none", ("--share=0.04", "--scan"))):
            print(f"{title}: ", end="", flush=True)
            subprocess.run([sys.executable, __file__, f"--open={folder}", *options], check=True,
                           env=os.environ | {"XDG_CACHE_HOME": name})


def make_shards(folder: Path, count: int) -> None:
    """One shard and links to it, with `labels.txt` for 1000 classes."""
    folder.mkdir()
    (folder / "labels.txt").write_text("".join(f"class {number}\n" for number in range(SHARD)))
    with tarfile.open(folder / "train-000000.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
        for number in range(SHARD):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(picture, "JPEG")
            for name, content in ((f"{number:08d}.jpg", picture.getvalue()), (f"{number:08d}.cls", str(number).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    for number in range(1, count):
        os.link(folder / "train-000000.tar", folder / f"train-{number:06d}.tar")


def measure(folder: Path, share: float, scan: bool) -> None:
    """Opens the folder and prints what that took."""
    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

    before, began, used = resident_mb(), time.perf_counter(), cpu_seconds()
    dataset = open_dataset(folder, validation_fraction=share)
    if scan:
        scan_dataset(dataset, level="none")
    seconds, cpu, held = time.perf_counter() - began, cpu_seconds() - used, resident_mb() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before
    samples = dataset.split("train")
    order = np.random.default_rng([0, 0]).permutation(len(samples))
    began = time.perf_counter()
    for index in order[:READ].tolist():
        sample = samples[index]
        if not picture_bytes(sample.path).startswith(b"\xff\xd8") or (sample.label != index % SHARD and not share):
            raise SystemExit(f"{sample} is not what was written")
    rate = min(READ, len(order)) / (time.perf_counter() - began)
    print(f"{len(dataset.split('all')):,} pictures in {seconds:.1f} s ({cpu:.1f} s of the processor), {held:.0f} MB held, "
          f"{peak:.0f} MB at most; read in the order of an epoch: {rate:,.0f} pictures/s")


def cpu_seconds() -> float:
    """Of this process and its children."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


if __name__ == "__main__":
    main()
