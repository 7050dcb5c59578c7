"""Training throughput from JPEG files, Small 0.5 at 96: the kit against keras.applications with plain `fit`.

Both sides train in processes of their own, in alternating slices, so that the machine's drift hits both alike. Start-up,
compilation and the first epoch's steps before the first slice are left out on both sides. The kit trains as `mnv3 train` does
by default (batch 64, augmentation, averaged weights aside); the other side is keras.applications.MobileNetV3Small with
`image_dataset_from_directory` and `fit`, all of Keras's defaults (batch 32, adam, jit_compile="auto").
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZE, ALPHA, CLASSES = 96, 0.5, 4
SLICES, SLICE_SECONDS = 4, 12


def main() -> None:
    """Runs the comparison and prints the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of class folders with JPEG files; made where not given")
    parser.add_argument("--side", choices=["kit", "keras"], help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if arguments.side:
        serve(kit_steps(arguments.data) if arguments.side == "kit" else keras_steps(arguments.data))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or make_pictures(Path(folder))
        figures = compare(data)
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


def make_pictures(folder: Path, count: int = 1200) -> Path:
    """JPEG files of 320x240 with smooth and fine detail, so that decoding costs what photographs cost."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth, np.int16) + rng.normal(0, 12, (240, 320, 1)).astype(np.int16)
        target = folder / f"class_{number % CLASSES}" / f"{number:05d}.jpg"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(target, quality=90)
    return folder


def compare(data: Path) -> dict[str, Any]:
    """Alternating slices of both sides, and the kit's input pipeline alone."""
    sides = {side: subprocess.Popen([sys.executable, __file__, "--side", side, "--data", str(data)], stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
             for side in ("keras", "kit")}
    for process in sides.values():
        ask(process, "ready")
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(SLICES):
        for side, process in sides.items():
            rates[side].append(float(ask(process, "go")))
    for process in sides.values():
        process.communicate("stop\n")
    ratios = sorted(kit / keras for kit, keras in zip(rates["kit"], rates["keras"], strict=True))
    return {"kit_pictures_per_second": [round(rate, 1) for rate in rates["kit"]],
            "keras_applications_pictures_per_second": [round(rate, 1) for rate in rates["keras"]],
            "ratio_median": round(sum(ratios[1:3]) / 2, 2), "ratio_least": round(ratios[0], 2),
            **pipeline_rates(data)}


def ask(process: subprocess.Popen, word: str) -> str:
    """One request and its answer."""
    assert process.stdin and process.stdout
    process.stdin.write(word + "\n")
    process.stdin.flush()
    answer = process.stdout.readline().strip()
    if not answer:
        sys.exit(f"One side ended early (exit code {process.wait()}).")
    return answer.removeprefix("ANSWER ")


def serve(steps: Any) -> None:
    """Trains for a slice of time whenever asked; answers with pictures per second. `steps` yields pictures per step."""
    for _ in range(6):
        next(steps)  # compilation and warm-up
    for line in sys.stdin:
        if line.strip() == "ready":
            print("ANSWER ready", flush=True)
        elif line.strip() == "go":
            began, pictures = time.perf_counter(), 0
            while time.perf_counter() - began < SLICE_SECONDS:
                pictures += next(steps)
            print(f"ANSWER {pictures / (time.perf_counter() - began)}", flush=True)
        else:
            return


def stepwise(model: Any, data: Any, **arguments: Any) -> Any:
    """`fit` run in a thread that waits at every step until the next is asked for; yields the pictures of each step."""
    import queue
    import threading

    import keras

    permits: queue.Queue[None] = queue.Queue()
    done: queue.Queue[int] = queue.Queue()

    class Gate(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            permits.get()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            done.put(1)

    threading.Thread(target=lambda: model.fit(data, epochs=10**6, verbose=0, callbacks=[Gate()], **arguments),
                     daemon=True).start()
    while True:
        permits.put(None)
        done.get()
        yield None


def kit_steps(data: Path) -> Any:
    """The kit's batches and training step, as the trainer puts them together."""
    import keras

    from mnv3_tf.config import Config
    from mnv3_tf.network import MobileNetV3
    from mnv3_tf.training.choices import make_optimizer, settle

    batches = make_batches(data)
    config = Config().train
    choices = settle(config, batches.batch_size, batches.steps_per_epoch)
    model = MobileNetV3("small", input_shape=(SIZE, SIZE, 3), alpha=ALPHA, classes=CLASSES,
                        batchnorm_momentum=choices.batchnorm_momentum)
    model.compile(make_optimizer(config, choices),
                  keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing),
                  metrics=[keras.metrics.CategoricalAccuracy("accuracy")], jit_compile=choices.xla)

    def forever() -> Any:
        epoch = 0
        while True:
            yield from batches.epoch(epoch)
            epoch += 1

    for _ in stepwise(model, forever(), steps_per_epoch=batches.steps_per_epoch):
        yield batches.batch_size


def keras_steps(data: Path) -> Any:
    """keras.applications, image_dataset_from_directory and fit, with their defaults."""
    import keras

    dataset = keras.utils.image_dataset_from_directory(data, image_size=(SIZE, SIZE), verbose=False)
    model = keras.applications.MobileNetV3Small(input_shape=(SIZE, SIZE, 3), alpha=ALPHA, weights=None, classes=CLASSES)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    for _ in stepwise(model, dataset):
        yield 32


def make_batches(data: Path) -> Any:
    """The kit's batches over all pictures of a folder."""
    from mnv3_tf.config import Config
    from mnv3_tf.data import Preprocessing, open_dataset
    from mnv3_tf.training.batches import TrainingBatches

    dataset = open_dataset(data)
    return TrainingBatches(dataset.split("train"), Preprocessing(height=SIZE, width=SIZE), len(dataset.class_names),
                           batch_size=Config().train.batch_size, augmentation=Config().augment)


def pipeline_rates(data: Path) -> dict[str, float]:
    """Pictures per second of the input pipeline alone: the first epoch decodes, later ones take what is in memory."""
    batches = make_batches(data)
    rates = {}
    for epoch, name in enumerate(("first_epoch", "later_epochs")):
        began = time.perf_counter()
        pictures = sum(len(labels) for _, labels, _ in batches.epoch(epoch))
        rates[f"input_alone_{name}_pictures_per_second"] = round(pictures / (time.perf_counter() - began), 1)
    return rates


if __name__ == "__main__":
    main()
