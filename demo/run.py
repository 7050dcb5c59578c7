"""The whole road on real data that scikit-learn ships: train, quantize, convert, evaluate, benchmark, and a table.

Every command is printed before it runs; what it makes stays in demo/out.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE / "out"
DATA, RUN = OUT / "digits", OUT / "run"
MNV3 = Path(sys.executable).with_name("mnv3")


def main() -> None:
    """Runs the demo."""
    began = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    write_digits(DATA)
    mnv3("train", "--data", DATA, "--out", RUN, "-c", HERE / "config.yaml")
    files: dict[str, Path] = {}
    for method in ("ptq", "qat"):
        quantized = OUT / f"run-{method}"
        mnv3("quantize", RUN, "--data", DATA, "--out", quantized, "--method", method)
        files[f"int8 ({method})"] = OUT / f"{method}.tflite"
        mnv3("convert", quantized, "--out", files[f"int8 ({method})"], "--io", "int8")
    files = {"float32": OUT / "float32.tflite", **files}
    mnv3("convert", RUN, "--out", files["float32"], "--format", "float32")
    mnv3("predict", OUT / "qat.tflite", *sorted((DATA / "test" / "7").iterdir())[:2], "--top-k", "2")
    accuracy = {name: evaluate(path) for name, path in files.items()}
    print("\nThe same trained weights in keras.applications, converted the standard way:", flush=True)
    files |= convert_peer(RUN / "model.keras")
    accuracy |= {name: accuracy_of_peer(files[name]) for name in files if name not in accuracy}
    rows = benchmark(list(files.values()))
    report(files, accuracy, rows, time.monotonic() - began)


def write_digits(folder: Path) -> None:
    """scikit-learn's handwritten digits (1797 scans of 8x8, from UCI) as PNG files in class folders; every sixth picture is
    for testing, every sixth for validation."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = {0: "test", 1: "val"}.get(number % 6, "train")
        target = folder / split / str(label) / f"digit_{number:04d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * (255 / 16)).round().astype("uint8")).save(target)
    print(f"{len(digits.images)} handwritten digits written to {folder}", flush=True)


def mnv3(*arguments: object, capture: bool = False) -> str:
    """Shows and runs one command; its output is returned where asked for."""
    words = [os.path.relpath(a) if isinstance(a, Path) else str(a) for a in arguments]
    print(f"\n$ mnv3 {shlex.join(words)}", flush=True)
    began = time.monotonic()
    done = subprocess.run([str(MNV3), *words], text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        sys.exit(f"The command failed with exit code {done.returncode}.")
    print(f"({time.monotonic() - began:.0f} s)", flush=True)
    return done.stdout or ""


def evaluate(model: Path) -> float:
    """Test accuracy by `mnv3 evaluate`."""
    return float(json.loads(mnv3("evaluate", model, "--data", DATA, "--json", capture=True))["top1"])


def convert_peer(model: Path) -> dict[str, Path]:
    """keras.applications' MobileNetV3Small with our weights, as float32 and by the standard post-training int8 recipe."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from mnv3_tf.cli.options import quiet_libraries

    quiet_libraries()
    import keras
    import numpy as np

    from mnv3_tf.export.reference import convert_model_standard

    ours = keras.models.load_model(model)
    peer = keras.applications.MobileNetV3Small(
        input_shape=ours.input_shape[1:], alpha=0.5, weights=None, classes=ours.output_shape[-1], classifier_activation=None)
    peer.set_weights(ours.get_weights())
    pixels, _ = split_pixels("train")
    made = {}
    for format in ("float32", "int8"):
        made[f"keras.applications {format}"] = path = OUT / f"keras-applications-{format}.tflite"
        path.write_bytes(convert_model_standard(peer, format, calibration=pixels[:200].astype(np.float32)))
    return made


def split_pixels(split: str):
    """A split as the run's contract makes it: pixels and labels."""
    import numpy as np

    from mnv3_tf.data import open_dataset
    from mnv3_tf.training.batches import ContractPictures
    from mnv3_tf.training.run_folder import RunFolder

    pictures = ContractPictures(open_dataset(DATA).split(split), RunFolder(RUN).contract())
    return np.concatenate(list(pictures)), pictures.labels


def accuracy_of_peer(path: Path) -> float:
    """Test accuracy of a peer's file, run by TFLite's own rule for its input scale."""
    from mnv3_tf.export.runtime import LiteRTModel

    pixels, labels = split_pixels("test")
    return float((LiteRTModel(path).predict_real(pixels.astype("float32")).argmax(axis=1) == labels).mean())


def benchmark(files: list[Path]) -> list[dict]:
    """Latency of all files in one interleaved run."""
    return json.loads(mnv3("benchmark", *files, "--runs", "100", "--json", capture=True))["rows"]


def report(files: dict[str, Path], accuracy: dict[str, float], rows: list[dict], seconds: float) -> None:
    """Prints the table and writes it as Markdown."""
    from rich.console import Console
    from rich.table import Table

    headings = ("file", "test accuracy", "size kB", "median ms", "int8 (qat) is faster by", "XNNPACK partitions")
    by_file = {row["file"]: row for row in rows}
    own = by_file[os.path.relpath(files["int8 (qat)"])]["median_ms"]
    lines = []
    for name, path in files.items():
        row = by_file[os.path.relpath(path)]
        lines.append((name, f"{accuracy[name]:.4f}", f"{path.stat().st_size / 1000:.0f}", f"{row['median_ms']:.3f}",
                      f"{row['median_ms'] / own:.2f}x", str(row["partitions"])))
    table = Table(*headings, title="MobileNetV3-Small 0.5 at 64x64 on handwritten digits, one thread of this machine")
    for line in lines:
        table.add_row(*line)
    Console().print(table)
    markdown = ["| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *lines)]
    (OUT / "report.md").write_text("\n".join(markdown) + "\n")
    print(f"Done in {seconds:.0f} s. The table is also in {os.path.relpath(OUT / 'report.md')}; "
          f"the model for a phone is {os.path.relpath(files['int8 (qat)'])}, with its contract and labels beside it.")


if __name__ == "__main__":
    main()
