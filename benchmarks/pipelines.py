"""The input pipeline alone, against grain and tf.data on the same work: JPEG decoding, random crop with resizing, mirroring.

Each side runs in a process of its own that may use so many cores, one after the other, round after round; the files are in the
operating system's cache and nothing is kept from one epoch to the next. One epoch is not timed. Every side makes uint8 batches in
an order that a seed gives. grain runs the kit's own transformation, by Pillow, which decodes a large JPEG at a fraction of its
size; tf.data decodes the part that the crop shows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH = 64
SIDES = {"kit": "the kit, threads", "kit-processes": "the kit, processes", "grain": "grain, threads",
         "grain-processes": "grain, processes", "tf": "tf.data"}


def main() -> None:
    """Measures all sides and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of class folders with JPEG files; made-up photos by default")
    parser.add_argument("--size", type=int, default=96, help="side of what comes out, in pixels")
    parser.add_argument("--cores", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--json", type=Path, help="also write the measurements to this file")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # what a process of its own is started with
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.data, arguments.size, arguments.cores[0])))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or Path(folder) / "photos"
        if not arguments.data:
            from throughput import write_photos

            print(f"{write_photos(data)} made-up JPEG photos of 320x240", flush=True)
        rates: dict[str, dict[int, list[float]]] = {side: {cores: [] for cores in arguments.cores} for side in arguments.sides}
        for _ in range(arguments.rounds):
            for side in arguments.sides:
                for cores in arguments.cores:
                    rates[side][cores] += ask(side, data, arguments.size, cores)
    for side, by_cores in rates.items():
        for cores, found in by_cores.items():
            text = "not installed"
            if found:
                text = f"{statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f}) pictures/s"
            print(f"{SIDES[side]:20} {cores} core{'s' if cores > 1 else ''}: {text}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rates, indent=2))


def ask(side: str, data: Path, size: int, cores: int) -> list[float]:
    """Rates of a side, in a process that has so many cores; none where its package is not installed."""
    words = ["--side", side, "--data", str(data), "--size", str(size), "--cores", str(cores)]
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{SIDES[side]}: the process ended; its message is above.")
    return json.loads(done.stdout.splitlines()[-1])


def measure(side: str, data: Path, size: int, cores: int) -> list[float]:
    """Rates of three epochs, after one that is not timed."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    from mnv3_tf.data import open_dataset

    samples = open_dataset(data, validation_fraction=0).split("train")
    try:
        epochs = {"kit": kit, "kit-processes": kit_in_processes, "grain": grain_in_threads, "grain-processes": grain_in_processes,
                  "tf": tf_data}[side](samples, size, cores)
    except ImportError:
        return []
    rates = []
    for _ in range(4):
        began, pictures = time.perf_counter(), 0
        for pixels in next(epochs):
            assert pixels.shape == (BATCH, size, size, 3) and pixels.dtype == "uint8"
            pictures += len(pixels)
        rates.append(pictures / (time.perf_counter() - began))
    return rates[1:]


def settings() -> Any:
    """Random crops with resizing, and mirroring, alone."""
    from mnv3_tf.config import AugmentConfig

    return AugmentConfig(rotation=0, brightness=0, contrast=0, saturation=0, erase=0)


def kit(samples: Any, size: int, cores: int) -> Iterator[Any]:
    from mnv3_tf.data import Preprocessing
    from mnv3_tf.training.batches import TrainingBatches

    source, epoch = TrainingBatches(samples, Preprocessing(height=size, width=size), 8, batch_size=BATCH, workers=cores,
                                    augmentation=settings(), cache_mb=0), 0
    while True:
        yield (pixels for pixels, _, _ in source.epoch(epoch))
        epoch += 1


def kit_in_processes(samples: Any, size: int, cores: int) -> Iterator[Any]:
    from mnv3_tf.training import batches

    batches.MOST_THREADS = 0
    return kit(samples, size, cores)


class Transformation:
    """The kit's own, as grain calls it; each of grain's processes has a source of its own."""

    def __init__(self, samples: Any, size: int):
        self.samples, self.size = samples, size
        self.source: Any = None

    def __call__(self, index: int, rng: Any) -> Any:
        from mnv3_tf.data import Preprocessing
        from mnv3_tf.training.augment import augment
        from mnv3_tf.training.batches import SourceCache

        contract = Preprocessing(height=self.size, width=self.size)
        self.source = self.source or SourceCache(self.samples, contract, 0)
        return augment(self.source[index], contract, settings(), rng)


def transformed(samples: Any, size: int) -> Any:
    """grain's data set of one epoch after the other, in its own order and batches."""
    import grain

    pictures = grain.MapDataset.range(len(samples)).seed(0).shuffle().repeat()
    return pictures.random_map(Transformation(samples, size)).batch(BATCH)


def grain_epochs(stream: Any, samples: Any) -> Iterator[Any]:
    iterator = iter(stream)
    while True:
        yield (next(iterator) for _ in range(len(samples) // BATCH))


def grain_in_threads(samples: Any, size: int, cores: int) -> Iterator[Any]:
    import grain

    options = grain.ReadOptions(num_threads=cores, prefetch_buffer_size=4 * cores)
    return grain_epochs(transformed(samples, size).to_iter_dataset(options), samples)


def grain_in_processes(samples: Any, size: int, cores: int) -> Iterator[Any]:
    import grain
    from absl import flags

    flags.FLAGS(sys.argv[:1])  # which grain's processes read
    dataset = transformed(samples, size).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))
    return grain_epochs(dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=cores, per_worker_buffer_size=2)), samples)


def tf_data(samples: Any, size: int, cores: int) -> Iterator[Any]:
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(cores)
    tf.config.threading.set_intra_op_parallelism_threads(cores)
    augment = settings()
    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])

    def prepare(path: Any) -> Any:
        content = tf.io.read_file(path)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(content), whole, area_range=(augment.smallest_area, 1.0),
            aspect_ratio_range=(1 / (1 + augment.aspect), 1 + augment.aspect))
        window = tf.concat([begin[:2], extent[:2]], axis=0)
        picture = tf.io.decode_and_crop_jpeg(content, window, channels=3)
        picture = tf.image.random_flip_left_right(tf.image.resize(picture, (size, size)))
        return tf.cast(tf.round(picture), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices([str(sample.path) for sample in samples]).shuffle(len(samples))
    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH, drop_remainder=True).prefetch(2)
    while True:
        yield dataset.as_numpy_iterator()


if __name__ == "__main__":
    main()
