"""Takes Keras models of all kinds the whole road: trained on digits, saved, imported, quantized, converted, verified.

`make peers` runs it; what it finds is the second table of docs/weights-parity.md. Exit code 3 where a model's answers change on
import, or its int8 file is not verified.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "weights"), str(TESTS.parent / "demo")]

from mnv3_tf.cli.options import quiet_libraries

SHAPE, LIMIT = (64, 64, 3), 1e-5
START, END = "<!-- starting points -->\n", "<!-- end of starting points -->\n"


def main() -> int:
    """Runs all of them; 0, or 3."""
    quiet_libraries()
    from run import write_digits
    from tutorial_models import MODELS

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "digits"
        write_digits(data)
        for name in MODELS:
            rows.append(_row(Path(folder), data, name))
            print(rows[-1], flush=True)
    page = TESTS.parent / "docs" / "weights-parity.md"
    text = page.read_text()
    before, after = (text.partition(START)[0], text.partition(END)[2]) if START in text else (text, "")
    table = "\n".join((*_HEAD, *rows))
    page.write_text(f"{before.rstrip()}\n\n{START}{table}\n{END}{after}")
    return 0


_HEAD = (
    "# Whole Keras models, taken over as they are", "",
    "Each is built as tutorials build it, trained on handwritten digits at 64x64 for a few epochs (with one output: 5 to 9",
    "against 0 to 4), saved, imported, quantized without fine-tuning, converted and verified on 300 pictures. The largest",
    f"difference of a logit is a share of the logits' range on random pictures; allowed is {LIMIT:g}.", "",
    "| Model | File | Largest difference | Top-1, float | int8 | As float | Partitions |", "|---|---|---|---|---|---|---|")


def _row(folder: Path, data: Path, name: str) -> str:
    """A line of the table.

    Raises:
        SystemExit: with code 3, where something differs.
    """
    import json

    from tutorial_models import MODELS, answers_of

    from mnv3_tf.data import write_labels
    from mnv3_tf.metrics import softmax
    from mnv3_tf.tflite.runtime import LiteRTModel
    from mnv3_tf.weights.importing import import_weights

    model, place = MODELS[name], folder / name.replace(" ", "-").replace(",", "")
    place.mkdir()
    pixels, labels = _pictures(data, "train")
    source = model.build(SHAPE, 10)
    binary = source.output_shape[-1] == 1
    _fit(source, pixels, labels // 5 if binary else labels, model.end)
    file = place / f"model{model.suffix}"
    source.save(file)
    classes = ["low", "high"] if binary else [str(digit) for digit in range(10)]
    write_labels(place / "labels.txt", tuple(classes))
    noise = np.random.default_rng(1).integers(0, 256, (16, *SHAPE)).astype(np.float32)
    wanted, given = answers_of(source, noise, model.end), np.asarray(import_weights(file, labels=classes).model(noise))
    given = np.log(softmax(given)) if model.end == "softmax" else given
    difference = float(np.abs(given - wanted).max() / np.ptp(wanted))
    if difference > LIMIT:
        raise SystemExit(3)
    if binary:
        data = _halves(data, folder / "halves")
    for words in (("import-weights", file, "--labels", place / "labels.txt", "--out", place / "run"),
                  ("quantize", place / "run", "--data", data, "--method", "ptq", "--out", place / "ptq"),
                  ("convert", place / "ptq", "--out", place / "m.tflite"),
                  ("verify", place / "m.tflite", "--data", data, "--json")):
        done = subprocess.run([Path(sys.executable).with_name("mnv3"), *map(str, words)], text=True, stdout=subprocess.PIPE)
        if done.returncode:
            raise SystemExit(3)
    stages = json.loads(done.stdout)["rungs"]
    first, last = stages[0], [stage for stage in stages if stage["scores"]][-1]
    top1, int8 = first["scores"]["top1"], last["scores"]["top1"]
    share = last["to_float"]["agreement"]
    return (f"| {name} | {model.suffix} | {difference:.1e} | {top1:.4f} | {int8:.4f} | {share:.1%} | "
            f"{LiteRTModel(place / 'm.tflite').partitions} |")


def _fit(model: Any, pixels: np.ndarray, labels: np.ndarray, end: str) -> None:
    import keras
    import tf_keras

    package = keras if isinstance(model, keras.Model) else tf_keras
    loss = (package.losses.BinaryCrossentropy(from_logits=end == "") if model.output_shape[-1] == 1
            else package.losses.SparseCategoricalCrossentropy(from_logits=end == ""))
    for layer in [*model.layers, *(inner for nested in model.layers for inner in getattr(nested, "layers", ()))]:
        if isinstance(layer, package.layers.BatchNormalization):
            layer.momentum = 0.9  # for few steps
    model.compile(package.optimizers.Adam(2e-3), loss, jit_compile=False)
    model.fit(pixels, labels.astype(np.float32)[:, None] if model.output_shape[-1] == 1 else labels, batch_size=32, epochs=6,
              verbose=0)


def _pictures(data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits at the models' size, float32 0..255, and their labels."""
    from PIL import Image

    files = sorted((data / split).glob("*/*.png"))
    pixels = [np.asarray(Image.open(file).convert("RGB").resize(SHAPE[:2], Image.Resampling.BILINEAR)) for file in files]
    return np.stack(pixels).astype(np.float32), np.array([int(file.parent.name) for file in files])


def _halves(data: Path, target: Path) -> Path:
    """The digits in two classes."""
    import shutil

    if not target.exists():
        for file in sorted(data.glob("*/*/*.png")):
            place = target / file.parts[-3] / ("high" if int(file.parent.name) >= 5 else "low")
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    return target


if __name__ == "__main__":
    sys.exit(main())
