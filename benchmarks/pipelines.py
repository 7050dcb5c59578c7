"""The input pipeline alone, against grain and tf.data on the same work: JPEG decoding, random crop with resizing, mirroring.

Each side has a process of its own that may use so many cores; they take turns of three epochs, of which the first is not timed:
it uses up what was prepared ahead. The files are in the operating system's cache and nothing is kept from one epoch to the next.
Every side makes uint8 batches in an order that a seed gives. The processor's time for a picture is given as well: it depends less
on what else the machine does. grain runs the kit's own transformation, by Pillow, which decodes a large JPEG at a fraction of its
size; tf.data decodes the part that the crop shows.

The last two sides decode nothing: pictures are in memory, and are cropped, mirrored and changed by RandAugment, by the kit's
threads or by Keras's layers (on TensorFlow, in tf.data, batch by batch).
"""

import argparse
import contextlib
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
_STRENGTH = 9.0  # of RandAugment
_TURN = 3  # epochs
SIDES = {"kit": "the kit, threads", "kit-processes": "the kit, processes", "grain": "grain, threads",
         "grain-processes": "grain, processes", "tf": "tf.data", "augment": "RandAugment, the kit",
         "layers": "RandAugment, Keras"}


def main() -> None:
    """Measures all sides and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of class folders with JPEG files; made-up photos by default")
    parser.add_argument("--size", type=int, default=96, help="side of what comes out, in pixels")
    parser.add_argument("--cores", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=8, help="turns of each side")
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--json", type=Path, help="also write the measurements to this file")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # what a process of its own is started with
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, arguments.data, arguments.size, arguments.cores[0])
        return
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or Path(folder) / "photos"
        if not arguments.data:
            from throughput import write_photos

            print(f"{write_photos(data)} made-up JPEG photos of 320x240", flush=True)
        results = {}
        for cores in arguments.cores:
            results[cores] = measure(arguments.sides, data, arguments.size, cores, arguments.rounds)
            for side, (rates, cpu) in results[cores].items():
                text = "not installed"
                if rates:
                    text = (f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) pictures/s, "
                            f"{cpu:.2f} ms of the processor for each")
                print(f"{SIDES[side]:20} {cores} core{'s' if cores > 1 else ''}: {text}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


def measure(sides: list[str], data: Path, size: int, cores: int, rounds: int) -> dict[str, tuple[list[float], float]]:
    """Of every side, by processes that have so many cores: its rate in every round, none where its package is not installed, and
    milliseconds of the processor for a picture."""
    rates: dict[str, list[float]] = {side: [] for side in sides}
    with contextlib.ExitStack() as opened:
        processes = {}
        for side in sides:
            words = ["--side", side, "--data", str(data), "--size", str(size), "--cores", str(cores)]
            processes[side] = opened.enter_context(subprocess.Popen(
                [sys.executable, __file__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0))
            answer(processes[side])
        used = {side: cpu_seconds(process.pid) for side, process in processes.items()}
        pictures = dict.fromkeys(sides, 0)
        for _ in range(rounds):
            for side, process in processes.items():
                rate, count = answer(process)
                rates[side] += [rate] if count else []
                pictures[side] += count
        cpu = {side: 1000 * (cpu_seconds(process.pid) - used[side]) / max(pictures[side], 1)
               for side, process in processes.items()}
        for process in processes.values():
            process.communicate()
    return {side: (rates[side], cpu[side]) for side in sides}


def cpu_seconds(group: int) -> float:
    """What all processes of a group have used."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12]) if int(fields[2]) == group else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def answer(process: "subprocess.Popen[str]") -> tuple[float, int]:
    """The rate of one more turn, and its pictures."""
    assert process.stdin and process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        sys.exit("A process ended; its message is above.")
    return json.loads(line)


def serve(side: str, data: Path, size: int, cores: int) -> None:
    """Takes a turn for every line on standard input, and answers with its rate."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    from mnv3_tf.data import open_dataset

    samples = open_dataset(data, validation_fraction=0).split("train")
    try:
        epochs = {"kit": kit, "kit-processes": kit_in_processes, "grain": grain_in_threads, "grain-processes": grain_in_processes,
                  "tf": tf_data, "augment": augment_alone, "layers": layers_alone}[side](samples, size, cores)
    except ImportError:
        epochs = None
    for _ in sys.stdin:
        began, pictures, untimed = 0.0, 0, 0
        for epoch in range(_TURN):
            if epoch == 1:
                began, untimed = time.perf_counter(), pictures
            for pixels in next(epochs) if epochs else ():
                assert pixels.shape == (BATCH, size, size, 3) and pixels.dtype == "uint8"
                pictures += len(pixels)
        rate = (pictures - untimed) / (time.perf_counter() - began)
        print(json.dumps((rate, pictures)), file=answers, flush=True)


def settings(randaugment: float = 0) -> Any:
    """Random crops with resizing, and mirroring, without anything else, or with RandAugment."""
    from mnv3_tf.config import AugmentConfig

    return AugmentConfig(rotation=0, brightness=0, contrast=0, saturation=0, erase=0, randaugment=randaugment)


def kit(samples: Any, size: int, cores: int, augmentation: Any = None, cache_mb: int = 0) -> Iterator[Any]:
    from mnv3_tf.data import Preprocessing
    from mnv3_tf.training.batches import TrainingBatches

    source, epoch = TrainingBatches(samples, Preprocessing(height=size, width=size), 8, batch_size=BATCH, workers=cores,
                                    augmentation=augmentation or settings(), cache_mb=cache_mb), 0
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

    options = grain.ReadOptions(num_threads=cores, prefetch_buffer_size=2 * cores)
    return grain_epochs(transformed(samples, size).to_iter_dataset(options), samples)


def grain_in_processes(samples: Any, size: int, cores: int) -> Iterator[Any]:
    import grain
    from absl import flags

    flags.FLAGS(sys.argv[:1])  # which grain's processes read
    dataset = transformed(samples, size).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    return grain_epochs(dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=cores, per_worker_buffer_size=1)), samples)


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


def augment_alone(samples: Any, size: int, cores: int) -> Iterator[Any]:
    return kit(samples, size, cores, settings(_STRENGTH), cache_mb=4096)


def layers_alone(samples: Any, size: int, cores: int) -> Iterator[Any]:
    import numpy as np
    import tensorflow as tf
    from keras import layers

    from mnv3_tf.data import Preprocessing

    tf.config.threading.set_inter_op_parallelism_threads(cores)
    tf.config.threading.set_intra_op_parallelism_threads(cores)
    pictures = np.stack([Preprocessing(height=size, width=size).load(sample.path) for sample in samples])
    change = [layers.RandomZoom((-0.4, 0)), layers.RandomFlip("horizontal"), layers.RandAugment(factor=_STRENGTH / 10)]

    def changed(batch: Any) -> Any:
        batch = tf.cast(batch, tf.float32)
        for layer in change:
            batch = layer(batch, training=True)
        return tf.cast(tf.round(batch), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices(pictures).shuffle(len(samples)).batch(BATCH, drop_remainder=True)
    dataset = dataset.map(changed, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
    while True:
        yield dataset.as_numpy_iterator()


if __name__ == "__main__":
    main()
