"""All steps on real data that scikit-learn ships: train, quantize, convert, verify, bundle, benchmark, and a closing table.

Every command is printed before it runs; the results stay in demo/out.
"""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnv3_tf.metrics import Agreement

HERE = Path(__file__).parent
OUT = HERE / "out"
DATA, RUN = OUT / "digits", OUT / "run"
MNV3 = Path(sys.executable).with_name("mnv3")
CALIBRATION = 512  # training pictures for the standard recipe, as many as the kit calibrates with
# The counts are those of benchmarks/arm_instructions.py.
WHY = (
    "- int8 may be no faster than float32 here, for two reasons. In a network this small, the fixed cost of every operator "
    "and the rounding of its results to 8 bits count as much as the multiplications. And an x86 processor without integer "
    "dot products multiplies 8-bit integers no faster than float32 numbers.",
    "- A phone's ARM cores have integer dot products since about 2018 (Cortex-A55, A75 and later). Counted on an emulated "
    "Cortex-A76, float32 takes 1.85 times the instructions of this network's int8 file, and keras.applications' int8 takes "
    "1.11 times (Large at 224: 2.24 and 1.06 times). On x86 the latter is much slower, because TFLite's int8 HARD_SWISH has"
    " vector code on ARM only.",
)


def main() -> None:
    """Runs the demo."""
    began = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    with timed(f"Writing scikit-learn's handwritten digits to {os.path.relpath(DATA)}"):
        write_digits(DATA)
    mnv3("train", "--data", DATA, "--out", RUN, "-c", HERE / "config.yaml")
    files = {"float32": OUT / "float32.tflite"}
    mnv3("convert", RUN, "--out", files["float32"], "--format", "float32")
    for method in ("ptq", "qat"):
        quantized = OUT / f"run-{method}"
        files[f"int8 ({method})"] = OUT / f"{method}.tflite"
        mnv3("quantize", RUN, "--data", DATA, "--out", quantized, "--method", method)
        mnv3("convert", quantized, "--out", files[f"int8 ({method})"], "--io", "int8")
    mnv3("inspect", OUT / "qat.tflite", "--require", "int8", "--require", "one-partition")
    mnv3("verify", OUT / "qat.tflite", "--data", DATA, "--report", OUT / "verify")
    mnv3("predict", OUT / "qat.tflite", *sorted((DATA / "test" / "7").iterdir())[:2], "--top-k", "2")
    mnv3("convert", OUT / "run-qat", "--out", OUT / "phone.tflite")
    mnv3("bundle", OUT / "phone.tflite", "--out", OUT / "bundle", "--data", DATA)
    mnv3("bundle", "--check", OUT / "bundle")
    scores = {name: evaluate(path, files["float32"]) for name, path in files.items()}
    with timed("The same trained weights in keras.applications, converted by TFLite's standard recipe"):
        peers = convert_peer(RUN / "model.keras")
        scores |= {name: evaluate_peer(path, files["float32"]) for name, path in peers.items()}
    files |= peers
    report(files, scores, benchmark(list(files.values())), time.monotonic() - began)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Prints what is done, and afterwards how long it took."""
    print(f"\n{what}", flush=True)
    began = time.monotonic()
    yield
    print(f"({time.monotonic() - began:.0f} s)", flush=True)


def write_digits(folder: Path) -> None:
    """1797 real digits of 8x8 pixels (from UCI) as PNG files in class folders; every sixth is for testing, every sixth
    for validation."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = {0: "test", 1: "val"}.get(number % 6, "train")
        target = folder / split / str(label) / f"digit_{number:04d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * (255 / 16)).round().astype("uint8")).save(target)


def mnv3(*arguments: object, capture: bool = False) -> str:
    """Shows and runs one command; its output is returned where asked for."""
    words = [os.path.relpath(a) if isinstance(a, Path) else str(a) for a in arguments]
    with timed(f"$ mnv3 {shlex.join(words)}"):
        done = subprocess.run([str(MNV3), *words], text=True, stdout=subprocess.PIPE if capture else None)
        if done.returncode:
            sys.exit(f"The command failed with exit code {done.returncode}.")
    return done.stdout or ""


def evaluate(model: Path, float_file: Path) -> tuple[float, "Agreement"]:
    """Test accuracy, and on how many pictures the answer is the float network's, by `mnv3 evaluate`."""
    from mnv3_tf.metrics import Agreement

    scores = json.loads(mnv3("evaluate", model, "--data", DATA, "--against", float_file, "--json", capture=True))
    same = Agreement(**{key: value for key, value in scores["agreement"].items() if key != "model"})
    print(f"top-1 {scores['top1']:.4f} on {scores['samples']} pictures, the float network's answer on {same.in_words()}",
          flush=True)
    return float(scores["top1"]), same


def convert_peer(model: Path) -> dict[str, Path]:
    """keras.applications' MobileNetV3Small with our weights, as float32 and as standard post-training int8."""
    from mnv3_tf.cli.options import quiet_libraries

    quiet_libraries()
    import keras

    sys.path.append(str(HERE.parent))
    from benchmarks.peers.keras_applications import convert_model_standard
    from mnv3_tf.config import load_config
    from mnv3_tf.tflite.runtime import captured_stderr

    ours = keras.models.load_model(model)
    peer = keras.applications.MobileNetV3Small(
        input_shape=ours.input_shape[1:], alpha=load_config(HERE / "config.yaml").model.alpha, weights=None,
        classes=ours.output_shape[-1], classifier_activation=None)
    peer.set_weights(ours.get_weights())
    pixels, _ = split_pixels("train")
    made = {}
    with captured_stderr(is_noise=lambda line: line.startswith("fully_quantize")):
        for format in ("float32", "int8"):
            made[f"keras.applications {format}"] = path = OUT / f"keras-applications-{format}.tflite"
            path.write_bytes(convert_model_standard(peer, format, calibration=pixels[:CALIBRATION].astype("float32")))
    return made


def split_pixels(split: str) -> tuple[Any, Any]:
    """A split as the run's preprocessing makes it, in random order: pixels uint8 (n, h, w, 3) and labels (n,)."""
    import numpy as np

    from mnv3_tf.artefacts.run_folder import RunFolder
    from mnv3_tf.data import open_dataset
    from mnv3_tf.data.batches import ContractPictures

    pictures = ContractPictures(open_dataset(DATA).split(split), RunFolder(RUN).contract())
    pixels = np.concatenate(list(pictures))
    order = np.random.default_rng(0).permutation(len(pixels))
    return pixels[order], pictures.labels[order]


def evaluate_peer(path: Path, float_file: Path) -> tuple[float, "Agreement"]:
    """The same of a file of keras.applications; its input's scale is what the converter chose."""
    from mnv3_tf.metrics import compare_answers
    from mnv3_tf.tflite.runtime import LiteRTModel

    pixels, labels = split_pixels("test")
    logits, wanted = (LiteRTModel(file).predict_real(pixels.astype("float32")) for file in (path, float_file))
    return float((logits.argmax(axis=1) == labels).mean()), compare_answers(logits, wanted)


def benchmark(files: list[Path]) -> list[dict]:
    """Latency of all files in one interleaved run."""
    return json.loads(mnv3("benchmark", *files, "--runs", "100", "--json", capture=True))["rows"]


def report(files: dict[str, Path], scores: dict[str, tuple[float, "Agreement"]], rows: list[dict], seconds: float) -> None:
    """Prints the table and writes it as Markdown."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from mnv3_tf.machine import processor_in_words

    headings = ("file", "test accuracy", "answers as float (95%)", "size kB", "partitions", "median ms here", "ratio here")
    by_file = {row["file"]: row for row in rows}
    own = by_file[os.path.relpath(files["int8 (qat)"])]["median_ms"]
    lines = []
    for name, path in files.items():
        row = by_file[os.path.relpath(path)]
        top1, same = scores[name]
        lines.append((name, f"{top1:.4f}", f"{same.top1:.1%} ({same.top1_low:.1%} to {same.top1_high:.1%})",
                      f"{path.stat().st_size / 1000:.0f}", str(row["partitions"]), f"{row['median_ms']:.3f}",
                      f"{row['median_ms'] / own:.2f}x"))
    title = f"MobileNetV3-Small on handwritten digits; here: one thread of {processor_in_words()}"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True, justify="left" if heading == "file" else "right")
    for line in lines:
        table.add_row(*line)
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=130)).print(table)
    notes = remarks(files)
    markdown = ["| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *lines)]
    target = OUT / "report.md"
    target.write_text("\n".join([f"# {title}", "", *markdown, "", *notes, ""]), encoding="utf-8")
    print("\n".join(notes))
    print(f"\nDone in {seconds:.0f} s. This table: {os.path.relpath(target)}. The comparison of Keras and TFLite, picture by "
          f"picture: {os.path.relpath(OUT / 'verify' / 'index.html')}. The files for a phone: {os.path.relpath(OUT / 'bundle')}.")


def remarks(files: dict[str, Path]) -> list[str]:
    """How to read the table."""
    from mnv3_tf.machine import processor_in_words

    pictures = sum(1 for _ in (DATA / "test").rglob("*.png"))
    notes = [f"- Accuracy, size and partitions are the same on a phone. All files come from one training; one of the {pictures} "
             f"test pictures is {1 / pictures:.4f} of the accuracy.",
             f"- Times and their ratios are those of this processor ({processor_in_words()}), not a phone's.", *WHY]
    if files["int8 (qat)"].read_bytes() == files["int8 (ptq)"].read_bytes():
        notes.append("- The two int8 files of the kit are the same: no epoch of fine-tuning was better than calibration alone, "
                     "so calibration alone was kept.")
    return notes


if __name__ == "__main__":
    main()
