"""A model of any kind, and what lies beside it."""

from pathlib import Path

import pytest

from mnv3_tf.artefacts.open import open_artefact
from mnv3_tf.config import Config, save_config
from mnv3_tf.data import Preprocessing, write_labels
from mnv3_tf.errors import InputError
from mnv3_tf.files import write_json


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A float run, a quantized run, an imported and a bare `.keras` file, and a `.tflite` file; none of them holds a network."""
    for name in ("float/model.keras", "float/bare.keras", "quantized/quantized.npz", "imported.keras", "m.tflite", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    save_config(tmp_path / "float" / "config.yaml", Config())
    for folder, stem in (("float", ""), ("", "m."), ("", "imported.")):
        write_labels(tmp_path / folder / f"{stem}labels.txt", (stem or "run", "other"))
        Preprocessing(height=32, width=48).save(tmp_path / folder / f"{stem}preprocessing.json")
    write_json(tmp_path / "imported.card.json", {"classes": ["a", "b"]})
    write_json(tmp_path / "float" / "run.json", {"kind": "float run"})
    return tmp_path


@pytest.mark.parametrize(("name", "kind", "form", "weights", "classes"), [
    ("float", "float run", "keras", "float/model.keras", ("run", "other")),
    ("float/model.keras", ".keras file", "keras", "float/model.keras", ("run", "other")),
    ("float/bare.keras", ".keras file", "keras", "float/bare.keras", None),  # which may have other classes than its run
    ("quantized", "quantized run", "quantized", "quantized/quantized.npz", None),
    ("quantized/quantized.npz", "quantized run", "quantized", "quantized/quantized.npz", None),
    ("imported.keras", ".keras file", "keras", "imported.keras", ("a", "b")),
    ("m.tflite", ".tflite file", "tflite", "m.tflite", ("m.", "other"))])
def test_kinds(models: Path, name: str, kind: str, form: str, weights: str, classes: tuple[str, ...] | None) -> None:
    found = open_artefact(models / name)
    assert (found.kind, found.form, found.weights, found.classes) == (kind, form, models / weights, classes)
    assert (found.config is not None) == name.startswith("float") and bool(found.card) == (name in (
        "float", "float/model.keras", "imported.keras"))


def test_what_lies_beside_it_is_there_or_missing_with_its_place(models: Path) -> None:
    contract, labels = open_artefact(models / "m.tflite").contract_and_labels()
    assert (contract.height, contract.width, labels) == (32, 48, ("m.", "other"))
    (models / "m.labels.txt").unlink()
    (models / "float" / "preprocessing.json").unlink()
    for name, what, place in (("m.tflite", "class names", "m.labels.txt"),
                              ("float", "preprocessing contract", "float/preprocessing.json")):
        with pytest.raises(InputError, match=rf"its {what} is missing; {models / place} was expected"):
            open_artefact(models / name).contract_and_labels()


@pytest.mark.parametrize(("name", "message"), [
    ("none", "no such run folder or file"), ("none.tflite", "no such file"), ("notes.txt", "is not a run folder"),
    ("", "holds neither")])
def test_what_is_no_model(models: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_artefact(models / name)
