"""Proves imported weights against the packages that they come from: `make peers`.

Every package builds its networks in an environment of its own, fills them with seeded weights, saves them in its own format and
answers to seeded pictures. The files are imported here, and the answers compared. Exit code 3 where one differs.
"""

import argparse
import gzip
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from mnv3_tf.cli.options import quiet_libraries
from mnv3_tf.errors import KitError
from mnv3_tf.files import atomic_path, cache_folder, write_text
from mnv3_tf.weights.importing import import_weights
from peers.environments import PEERS, run_worker
from peers.generate import pictures

LIMIT = 1e-4
PAGE = HERE.parents[1] / "docs" / "weights-parity.md"
GOLDENS = HERE.parent / "weights" / "goldens"
# Of the answers in the goldens. At odd sizes, TensorFlow's SAME and symmetric padding would be the same.
GOLDEN_SIZE = "128x96"


@dataclass(frozen=True)
class Row:
    """One network of a package.

    Attributes:
        difference: largest difference of an output, as a share of the outputs' range, over all sizes and pictures.
        spread: mean difference between the outputs of two pictures, as a share of the same range; near zero if the input has no
            effect.
    """

    package: str
    model: str
    alpha: float
    file: str
    difference: float
    spread: float


def main() -> int:
    """Runs the comparison; 0, or 3 where a network's answers differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("keras", *PEERS), action="append", help="these packages' environments alone")
    parser.add_argument("--goldens", action="store_true", help="write what the quick tests compare with")
    arguments = parser.parse_args()
    quiet_libraries()
    rows, versions = [], {}
    for name in arguments.only or ("keras", *PEERS):
        folder = cache_folder() / "peers" / "out" / name
        manifest = _run_keras(folder) if name == "keras" else run_worker(PEERS[name], folder)
        versions.update(manifest["versions"])
        rows += [_compare(folder, variant) for variant in manifest["variants"]]
        if arguments.goldens:
            _write_goldens(folder, manifest)
    _print(rows)
    if not arguments.only:
        write_text(PAGE, _page(rows, versions))
    worst = max(rows, key=lambda row: row.difference)
    print(f"{len(rows)} networks; the largest difference is {worst.difference:.1e} ({worst.file}), allowed: {LIMIT:g}.")
    return 0 if worst.difference < LIMIT else 3


def _run_keras(folder: Path) -> dict[str, Any]:
    """keras.applications needs no other environment than this one; a process of its own, for the two Keras do not mix."""
    done = subprocess.run([sys.executable, HERE / "worker_keras.py", folder], capture_output=True, text=True)
    if done.returncode:
        raise KitError(f"keras: worker_keras.py failed.\n{done.stderr[-3000:]}")
    return json.loads((folder / "manifest.json").read_text())


def _compare(folder: Path, variant: dict[str, Any]) -> Row:
    import keras

    worst, spread = 0.0, np.inf
    origin = {"tf_keras": "keras"}.get(variant["package"], variant["package"])
    with np.load(folder / variant["logits"]) as answers:
        for size, wanted in answers.items():
            keras.backend.clear_session()
            height, width = map(int, size.split("x"))
            model = import_weights(folder / variant["file"], origin, name=variant["name"], alpha=variant["alpha"],
                                   dialect=variant["dialect"], input_size=(height, width)).model
            given = np.asarray(model.predict_on_batch(pictures(len(wanted), height, width).astype(np.float32)))
            extent = float(wanted.max() - wanted.min())
            worst = max(worst, float(np.abs(given - wanted).max()) / extent)
            spread = min(spread, float(np.abs(wanted[0] - wanted[1]).mean()) / extent)
    network = variant["model_name"]
    if variant["name"].endswith("_minimalistic") and origin == "keras":
        network += ", minimalistic"
    return Row(variant["package"], network, variant["alpha"], variant["file"], worst, spread)


def _print(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("package", "network", "alpha", "file", "largest difference", "between pictures")
    for row in rows:
        table.add_row(row.package, row.model, f"{row.alpha:g}", row.file.partition(".")[2] or row.file, f"{row.difference:.1e}",
                      f"{row.spread:.1%}", style="" if row.difference < LIMIT else "bold red")
    Console(width=140).print(table)


def _page(rows: list[Row], versions: dict[str, str]) -> str:
    lines = [
        "# Imported weights against the packages that they come from",
        "",
        "Written by `make peers`. Each network is built by the package itself, filled with seeded weights and BatchNorm",
        "statistics, saved in the package's own format and imported; both process two seeded pictures at 224x224, 97x129 and",
        f"128x96 pixels. The largest difference of an output is a share of the outputs' range; allowed is {LIMIT:g}. The last",
        "column is how much the outputs of the two pictures differ on average, as a share of the same range: if the largest",
        "difference is far below it, everything from the pixels on is the same.",
        "",
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        "",
        "| Package | Network | Alpha | File | Largest difference | Between pictures |",
        "|---|---|---|---|---|---|"]
    lines += [f"| {row.package} | {row.model} | {row.alpha:g} | {row.file} | {row.difference:.1e} | {row.spread:.1%} |"
              for row in rows]
    return "\n".join(lines) + "\n"


def _write_goldens(folder: Path, manifest: dict[str, Any]) -> None:
    """Names and shapes of every network's tensors, and its answers at one size, by package."""
    for package in sorted({variant["package"] for variant in manifest["variants"]}):
        variants = []
        for variant in manifest["variants"]:
            if variant["package"] == package:
                with np.load(folder / variant["logits"]) as answers:
                    wanted = answers[GOLDEN_SIZE]
                kept = {key: variant[key] for key in ("model_name", "name", "alpha", "dialect", "classes", "tensors")}
                logits = [[round(float(value), 6) for value in row] for row in wanted] if wanted.ndim == 2 else None
                variants.append({**kept, "size": GOLDEN_SIZE, "logits": logits})
        text = json.dumps({"versions": manifest["versions"], "variants": variants}, separators=(",", ":"))
        with atomic_path(GOLDENS / f"{package}.json.gz") as temporary:
            temporary.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KitError as error:
        sys.exit(f"Error: {error}")
