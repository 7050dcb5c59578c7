"""Runs, cards and files that version 0.1 wrote are read, and still mean the same.

`version_0_1/` was made by it: two blocks at 32x32, trained on pictures like those of the fixture `pictures`, quantized after
training, and converted with both lowerings.
"""

from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.artefacts.card_check import check_cards
from mnv3_tf.artefacts.run_folder import open_run
from mnv3_tf.export.convert.convert import convert, open_source
from mnv3_tf.export.diff.compare import compare
from mnv3_tf.export.evaluate.classifier import Classifier

HERE = Path(__file__).parent / "version_0_1"
RUNS, FILES = (HERE / "float", HERE / "ptq"), (HERE / "files" / "int8.tflite", HERE / "files" / "native.tflite")


@pytest.mark.parametrize("artefact", [*RUNS, *FILES], ids=lambda path: path.name)
def test_its_card_holds(artefact: Path) -> None:
    assert [remark for remark in check_cards(artefact) if remark.severity == "broken"] == []


def test_its_runs_are_opened() -> None:
    for folder in RUNS:
        run = open_run(folder)
        assert (run.labels(), run.contract().width, run.config().train.epochs) == (("blue", "green", "red"), 32, 10)
        assert run.is_quantized == (folder.name == "ptq")


def test_its_models_answer() -> None:
    """The quantized run is computed in whole numbers: its logits are those of the file that version 0.1 made of it."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
    floats, quantized, file, native = (np.asarray(Classifier(artefact).logits(pixels)) for artefact in (*RUNS, *FILES))
    np.testing.assert_array_equal(quantized, file)
    for close in (quantized, native):
        assert np.ptp(floats) > 1 and np.abs(close - floats).max() < 0.15 * np.ptp(floats)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("int8", {}), ("native", {"lowering": "native", "io": "int8"})])
def test_its_run_becomes_the_same_file(name: str, options: dict, tmp_path: Path) -> None:
    """Operators, scales and constants; tensors have shorter names today. The former `fused` lowering is `native`."""
    new = convert(open_source(HERE / "ptq"), tmp_path / f"{name}.tflite", **options).path
    found = compare(HERE / "files" / f"{name}.tflite", new)
    assert {group.heading for group in found.groups} <= {"Size", "Library versions"}, found.lines()
    assert len(found.compared) >= 7
