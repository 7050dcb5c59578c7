"""Training throughput on this machine: the kit's training against Keras as its tutorials show it, from JPEG files.

Small 0.5 at 96x96. The sides:

- the kit: TrainingBatches and the model compiled as `mnv3 train` does, default batch, optimizer and augmentation.
- Keras, defaults: image_dataset_from_directory, keras.applications.MobileNetV3Small, compile and fit, with nothing
  chosen: batches of 32, no augmentation, jit_compile="auto".
- Keras, augmented: the same with Keras's own layers in front of the network for what the kit changes by default, computed with
  the step: mirroring, turning, zooming (for cropping), brightness, contrast, saturation, erasing.
- Keras, jit_compile=True: the defaults with XLA, which is what "auto" means where there is a GPU or on JAX.

Each side lives in a process of its own and trains in slices of whole epochs, taking turns; only one works at a time, on
all cores. Timed is a fit from its start to the end of its last epoch. Building, compiling and two epochs to warm up are
not timed, and nor are validation, saving and the end of fit, where TensorFlow may idle for as long as it has trained.
The files are in the operating system's cache for all sides.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ALPHA, SIZE = 0.5, 96
CLASSES, PER_CLASS = 8, 64
SIDES = {"kit": "the kit", "keras": "Keras, defaults", "keras-augmented": "Keras, augmented",
         "keras-xla": "Keras, jit_compile=True"}
LOG_EPOCHS = 4


def main() -> None:
    """Measures all sides and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of class folders; made-up photos by default")
    parser.add_argument("--rounds", type=int, default=4, help="slices of each side")
    parser.add_argument("--slice-seconds", type=float, default=5, help="least length of a slice; at least one epoch")
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES), help="of these; the kit is always one")
    parser.add_argument("--json", type=Path, help="also write the measurements to this file")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # what a process of its own is started with
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, arguments.data)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            data = Path(folder) / "photos"
            count = write_photos(data)
            print(f"{count} made-up JPEG photos of 320x240 in {CLASSES} classes", flush=True)
        chosen = [side for side in SIDES if side == "kit" or side in arguments.sides]
        results = measure(data, chosen, arguments.rounds, arguments.slice_seconds)
    show(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


def measure(data: Path, chosen: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """All measurements: rates in pictures per second."""
    results: dict[str, Any] = {"xla": {}, "slices": {side: [] for side in chosen}}
    sides: dict[str, Side] = {}
    try:
        for name in chosen:
            sides[name] = Side(name, data)
            ready = sides[name].ask("prepare")
            results["xla"][name] = ready["xla"]
            print(f"{SIDES[name]} ({'with' if ready['xla'] else 'without'} XLA): ready after {ready['seconds']:.0f} s "
                  "of building, compiling and two epochs to warm up (not timed)", flush=True)
        for index in range(rounds):
            for position in range(len(chosen)):
                name = chosen[(index + position) % len(chosen)]
                answer = sides[name].ask(f"train {seconds}")
                results["slices"][name].append(answer["pictures"] / answer["seconds"])
            print(f"round {index + 1} of {rounds}: " + ", ".join(
                f"{SIDES[name]} {results['slices'][name][-1]:.0f}" for name in chosen) + " pictures/s", flush=True)
        results["pipeline"] = {name: sides[name].ask("pipeline")["rates"] for name in chosen[:2]}
        results["log"] = sides["kit"].ask("log")["rates"]
    finally:
        for side in sides.values():
            side.close()
    return results


def show(results: dict[str, Any]) -> None:
    """Prints what was found."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from mnv3_tf.export.benchmark.statistics import ratio_with_interval

    slices = results["slices"]
    # The statistics want times of the same rounds: seconds per picture.
    times = {name: [[1 / rate] for rate in rates] for name, rates in slices.items()}
    ratios = {name: ratio_with_interval(times[name], times["kit"]) for name in slices}
    table = Table("training", "XLA", "pictures/s", "slices", "the kit is faster by (95%)", box=box.SIMPLE_HEAD,
                  pad_edge=False, title=f"MobileNetV3-Small {ALPHA} at {SIZE}x{SIZE} from JPEG files, {cores()} cores")
    for name in slices:
        text = "{:.1f}x ({:.1f} to {:.1f})".format(*ratios[name]) if name != "kit" else "1"
        table.add_row(SIDES[name], "yes" if results["xla"][name] else "no", f"{median(slices[name]):.0f}",
                      f"{min(slices[name]):.0f} to {max(slices[name]):.0f}", text)
    pipelines = Table("input pipeline alone", "first epoch (decoding)", "later epochs", box=box.SIMPLE_HEAD,
                      pad_edge=False, title="pictures/s")
    for name, (first, *later) in results["pipeline"].items():
        pipelines.add_row(SIDES[name], f"{first:.0f}", f"{median(later):.0f}")
    console = Console(highlight=False, width=110)
    console.print(table)
    console.print(pipelines)
    training, (first, *later) = median(slices["kit"]), results["pipeline"]["kit"]
    print(f"The kit's pipeline gives {first / training:.1f} times what training takes in the first epoch, and "
          f"{median(later) / training:.1f} times in later ones.")
    print(f"The log of a real `mnv3 train` of {LOG_EPOCHS} epochs says, from the second on: "
          f"{', '.join(f'{rate:.0f}' for rate in results['log'])} pictures/s (with averaged weights and callbacks).")
    for name in list(slices)[1:]:
        print(f"Small {ALPHA} at {SIZE}: the kit trains {says(ratios[name])} as fast as {SIDES[name]}.")


def says(ratio: tuple[float, float, float]) -> str:
    """A ratio with its interval."""
    return "{:.1f}x (95% interval {:.1f} to {:.1f})".format(*ratio)


def median(values: list[float]) -> float:
    """The middle, or the mean of the two in the middle."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def cores() -> int:
    """Usable ones."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_photos(folder: Path) -> int:
    """Smooth colours at several scales with some grain, the same on every machine; returns how many."""
    import numpy as np
    from PIL import Image

    size = (320, 240)
    for label in range(CLASSES):
        (folder / f"class_{label}").mkdir(parents=True)
        for number in range(PER_CLASS):
            rng = np.random.default_rng([label, number])
            pixels = rng.normal(128 + 6 * label, 10, (size[1], size[0], 3))
            for cells, strength in ((2, 60), (6, 40), (20, 25), (60, 15)):
                small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
                smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.float32)
                pixels += (smooth - 128) * (strength / 128)
            picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            picture.save(folder / f"class_{label}" / f"{number:03d}.jpg", quality=88)
    return CLASSES * PER_CLASS


class Side:
    """A process that trains when it is asked to."""

    def __init__(self, name: str, data: Path):
        self.name = name
        self._process = subprocess.Popen([sys.executable, __file__, "--side", name, "--data", str(data)], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, request: str) -> dict[str, Any]:
        """Sends a request and waits for the answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{SIDES[self.name]}: the process ended; its message is above.")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def serve(name: str, data: Path) -> None:
    """Answers requests on standard input, one JSON line each on standard output."""
    from mnv3_tf.cli.options import quiet_libraries

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    quiet_libraries()
    worker: Worker = Kit(data) if name == "kit" else Keras(data, jit_compile=True if name == "keras-xla" else "auto",
                                                           augmented=name == "keras-augmented")
    for line in sys.stdin:
        request, *numbers = line.split()
        print(json.dumps(getattr(worker, request)(*map(float, numbers))), file=answers, flush=True)


class Worker:
    """What trains in a process of its own; subclasses say how."""

    model: Any
    epoch_seconds = 0.0

    def build(self) -> None:
        """Opens the data, builds and compiles the model."""
        raise NotImplementedError

    def fit(self, epochs: int, callbacks: list[Any]) -> int:
        """Trains whole epochs and returns the number of pictures."""
        raise NotImplementedError

    def prepare(self) -> dict[str, Any]:
        """Builds, and trains two epochs: the first compiles every shape of batch, the second tells how long one takes.
        """
        began = time.perf_counter()
        self.build()
        self._timed_fit(1)
        self.epoch_seconds = self._timed_fit(1)["seconds"]
        return {"seconds": time.perf_counter() - began, "xla": bool(self.model.jit_compile)}

    def train(self, seconds: float) -> dict[str, float]:
        """One slice: as many whole epochs as take about `seconds`, in one fit."""
        return self._timed_fit(max(1, round(seconds / self.epoch_seconds)))

    def _timed_fit(self, epochs: int) -> dict[str, float]:
        import keras

        ends: list[float] = []
        at_the_end = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
        began = time.perf_counter()
        pictures = self.fit(epochs, [at_the_end])
        return {"pictures": pictures, "seconds": ends[-1] - began, "idle": time.perf_counter() - ends[-1]}


class Kit(Worker):
    """Training as mnv3_tf.training.trainer does it."""

    def __init__(self, data: Path):
        from mnv3_tf.config import Config, load_config

        self.data = data
        self.config: Config = load_config(overrides=[
            "model.name=small", f"model.alpha={ALPHA}", f"data.image_size={SIZE}", f"train.epochs={LOG_EPOCHS}"])
        self.epoch = 0

    def build(self) -> None:
        import keras

        from mnv3_tf.models import MobileNetV3
        from mnv3_tf.training.defaults import decide, make_optimizer

        self.batches, classes = self._batches()
        settings = self.config.train
        choices = decide(settings, self.batches.batch_size, self.batches.steps_per_epoch)
        self.model = MobileNetV3(
            self.config.model.name, input_shape=(SIZE, SIZE, 3), alpha=ALPHA, classes=classes,
            dropout_rate=self.config.model.dropout, batchnorm_momentum=choices.batchnorm_momentum)
        self.model.compile(
            make_optimizer(settings, choices),
            keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=settings.label_smoothing),
            metrics=[keras.metrics.CategoricalAccuracy("accuracy")], jit_compile=choices.xla)

    def _batches(self) -> tuple[Any, int]:
        from mnv3_tf.artefacts.run_folder import contract_from
        from mnv3_tf.data import open_dataset
        from mnv3_tf.training.batches import TrainingBatches

        dataset = open_dataset(self.data, validation_fraction=0)
        settings = self.config
        classes = len(dataset.class_names)
        return TrainingBatches(
            dataset.split("train"), contract_from(settings), classes, batch_size=settings.train.batch_size,
            augmentation=settings.augment, seed=settings.train.seed, cache_mb=settings.data.cache_mb,
            workers=settings.data.workers), classes

    def fit(self, epochs: int, callbacks: list[Any]) -> int:
        def stream() -> Iterator[Any]:
            for epoch in range(self.epoch, self.epoch + epochs):
                yield from self.batches.epoch(epoch)

        self.model.fit(stream(), steps_per_epoch=self.batches.steps_per_epoch, epochs=epochs, shuffle=False, verbose=0,
                       callbacks=callbacks)
        self.epoch += epochs
        return epochs * self.batches.steps_per_epoch * self.batches.batch_size

    def pipeline(self) -> dict[str, list[float]]:
        """Rates of the batches alone, epoch by epoch, from an empty cache."""
        batches, _ = self._batches()
        rates = []
        for epoch in range(4):
            began = time.perf_counter()
            pictures = sum(len(pixels) for pixels, _, _ in batches.epoch(epoch))
            rates.append(pictures / (time.perf_counter() - began))
        return {"rates": rates}

    def log(self) -> dict[str, list[float]]:
        """What the log of a real training run says, without its first epoch, which compiles."""
        import csv

        from mnv3_tf.data import open_dataset
        from mnv3_tf.progress import Silent
        from mnv3_tf.training.trainer import train

        dataset = open_dataset(self.data, validation_fraction=self.config.data.validation_fraction)
        with tempfile.TemporaryDirectory() as folder:
            run = train(dataset, self.config, Path(folder) / "run", progress=Silent())
            with open(run.path / "log.csv", encoding="utf-8") as file:
                return {"rates": [float(row["pictures_per_second"]) for row in csv.DictReader(file)][1:]}


def augmenting_layers() -> list[Any]:
    """Keras's layers for the kit's default augmentation."""
    from keras import layers

    from mnv3_tf.config import AugmentConfig

    kit, pixels = AugmentConfig(), (0, 255)
    nearest = 1 - kit.smallest_area ** 0.5
    return [layers.RandomFlip("horizontal"), layers.RandomRotation(kit.rotation / 360), layers.RandomZoom((-nearest, 0)),
            layers.RandomBrightness(kit.brightness, pixels), layers.RandomContrast(kit.contrast, pixels),
            layers.RandomSaturation((0.5 - kit.saturation / 2, 0.5 + kit.saturation / 2), pixels),
            layers.RandomErasing(kit.erase, scale=(0.02, 0.2), value_range=pixels)]


class Keras(Worker):
    """Training as the Keras tutorials show it."""

    def __init__(self, data: Path, jit_compile: bool | str, augmented: bool):
        self.data = data / "train" if (data / "train").is_dir() else data
        self.jit_compile, self.augmented = jit_compile, augmented

    def build(self) -> None:
        import keras

        self.dataset = keras.utils.image_dataset_from_directory(self.data, image_size=(SIZE, SIZE), verbose=False)
        self.pictures = len(self.dataset.file_paths)
        self.model = keras.applications.MobileNetV3Small(
            input_shape=(SIZE, SIZE, 3), alpha=ALPHA, weights=None, classes=len(self.dataset.class_names))
        if self.augmented:
            self.model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *augmenting_layers(), self.model])
        self.model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"],
                           jit_compile=self.jit_compile)

    def fit(self, epochs: int, callbacks: list[Any]) -> int:
        self.model.fit(self.dataset, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
        return epochs * self.pictures

    def pipeline(self) -> dict[str, list[float]]:
        """Rates of the batches alone, epoch by epoch; nothing is kept from one to the next."""
        rates = []
        for _ in range(2):
            began = time.perf_counter()
            pictures = sum(len(pixels) for pixels, _ in self.dataset)
            rates.append(pictures / (time.perf_counter() - began))
        return {"rates": rates}


if __name__ == "__main__":
    main()
