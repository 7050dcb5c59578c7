"""How long a command that needs no TensorFlow takes from start to end, on the smallest work there is for it.

Each command runs in a process of its own on a small `.tflite` file, several times, in turn with the others and with a process
that only imports what nearly all of them need: ``python -c "import numpy, PIL, ai_edge_litert"``. A time is given as a multiple
of that import in the same round, so that a machine that is busy or slow is fair to all. CPU time counts the process and its
children, and depends little on what else the machine does.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

IMPORT = "import numpy, PIL, ai_edge_litert"
SIZE = 64
CLASSES = ("one", "two", "three")
# What stands in braces is a path in the folder of samples.
COMMANDS = {
    "--help": "--help",
    "predict": "predict {a.tflite} {pictures/one/0.jpg}",
    "evaluate": "evaluate {a.tflite} --data {pictures}",
    "summary": "summary {a.tflite}",
    "inspect": "inspect {a.tflite}",
    "diff": "diff {a.tflite} {b.tflite}",
    "bundle": "bundle {a.tflite} --out {new} --force",
    "bundle --data": "bundle {a.tflite} --out {new} --force --data {pictures}",
    "bundle --check": "bundle --check {bundle}",
    "benchmark": "benchmark {a.tflite} --runs 1 --rounds 1 --warmup 0 --min-seconds 0",
    "report": "report {results} --out {page}",
    "compare": "compare {results} {results}",
}


@dataclass(frozen=True)
class Run:
    """Seconds of one process: by the clock, and of the CPU with its children."""

    wall: float
    cpu: float


def main() -> None:
    """Makes the samples, runs the commands in turn, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="runs of each command")
    parser.add_argument("--only", action="append", choices=COMMANDS, help="this command; may be given again")
    parser.add_argument("--samples", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.samples:
        make_samples(arguments.samples)
        return
    with tempfile.TemporaryDirectory(prefix="mnv3-start-up-") as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        # Compiled once, as an installed package is, whatever the environment says of that; the round that is not counted does it.
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        run([sys.executable, __file__, "--samples", name])
        show(measure(folder, arguments.only or list(COMMANDS), arguments.rounds), arguments.rounds)


def make_samples(folder: Path) -> None:
    """Two `.tflite` files of a small untrained network, pictures, a bundle and results of a benchmark."""
    from mnv3_tf.cli.options import quiet_libraries

    quiet_libraries()
    import numpy as np
    from PIL import Image

    from mnv3_tf.data import Preprocessing
    from mnv3_tf.export.convert.convert import Convertible, Format, convert
    from mnv3_tf.models import MobileNetV3
    from mnv3_tf.network.keras_io import save_keras
    from mnv3_tf.quantization.fold import trace

    model = MobileNetV3("small", alpha=0.25, input_shape=(SIZE, SIZE, 3), classes=len(CLASSES))
    save_keras(model, folder / "model.keras")
    source = Convertible(folder / "model.keras", trace(model), None, Preprocessing(SIZE, SIZE), CLASSES)
    formats: dict[str, Format] = {"a": "float32", "b": "float16"}
    for name, format in formats.items():
        convert(source, folder / f"{name}.tflite", format=format)
    random = np.random.default_rng(0)
    for name in CLASSES:
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 256, (120, 160, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{number}.jpg")
    run(words("bundle {a.tflite} --out {bundle}", folder))
    run(words("benchmark {a.tflite} --runs 8 --rounds 4 --min-seconds 0 --out {results}", folder))


def words(command: str, folder: Path) -> list[str]:
    """The command line of a command."""
    arguments = [str(folder / word[1:-1]) if word.startswith("{") else word for word in command.split()]
    return [sys.executable, "-m", "mnv3_tf.cli.main", *arguments]


def measure(folder: Path, names: Sequence[str], rounds: int) -> dict[str, list[Run]]:
    """The runs of the import ("") and of each command, round by round; one round before them is not counted."""
    lines = {"": [sys.executable, "-c", IMPORT], **{name: words(COMMANDS[name], folder) for name in names}}
    runs: dict[str, list[Run]] = {name: [] for name in lines}
    for number in range(rounds + 1):
        for name, line in lines.items():
            found = run(line)
            if number:
                runs[name].append(found)
    return runs


def run(line: list[str]) -> Run:
    """One process from start to end; one that fails ends the benchmark with what it said."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} ended with {done.returncode}:\n{done.stderr}")
    return Run(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def show(runs: dict[str, list[Run]], rounds: int) -> None:
    """Medians, and the middle half of the rounds."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    imports = runs.pop("")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("command", no_wrap=True)
    for heading in ("s", "CPU s", "time / import (middle half)", "CPU time / import (middle half)"):
        table.add_column(heading, justify="right")
    table.add_row("import", f"{statistics.median(one.wall for one in imports):.2f}",
                  f"{statistics.median(one.cpu for one in imports):.2f}", "1", "1")
    for name, found in runs.items():
        table.add_row(name, f"{statistics.median(one.wall for one in found):.2f}",
                      f"{statistics.median(one.cpu for one in found):.2f}",
                      spread([one.wall / base.wall for one, base in zip(found, imports, strict=True)]),
                      spread([one.cpu / base.cpu for one, base in zip(found, imports, strict=True)]))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=110)
    console.print(f"Whole processes on a small .tflite file, {rounds} rounds, against `python -c \"{IMPORT}\"`")
    console.print(table)


def spread(ratios: Sequence[float]) -> str:
    """Such as "3.1 (3.0 to 3.3)"."""
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (*ratios, *ratios, *ratios)
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
