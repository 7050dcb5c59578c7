"""What a change of an artefact looks like in the check of its card."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from mnv3_tf.artefacts.card import read_card, sidecar
from mnv3_tf.artefacts.card_check import CardRemark, check_cards, check_metrics
from mnv3_tf.data import read_labels, write_labels
from mnv3_tf.errors import InputError
from mnv3_tf.export.convert.convert import convert, open_source
from mnv3_tf.files import read_json, write_json
from mnv3_tf.metrics import Scores

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def file(ptq_run: Path) -> Path:
    return convert(open_source(ptq_run), ptq_run.parent / "carded" / "m.tflite").path


@pytest.fixture
def tree(float_run: Path, ptq_run: Path, file: Path, tmp_path: Path) -> Path:
    """A copy of everything, without the original at hand for the absolute paths."""
    for folder in (float_run, ptq_run, file.parent):
        shutil.copytree(folder, tmp_path / folder.name)
    for card in tmp_path.rglob("*.json"):
        card.write_text(card.read_text().replace(str(float_run.parent.resolve()), "/moved/away"))
    return tmp_path


def only(remarks: tuple[CardRemark, ...]) -> CardRemark:
    assert len(remarks) == 1, remarks
    return remarks[0]


@pytest.mark.slow
def test_nothing_is_said_about_what_was_just_made(file: Path, qat_run: Path) -> None:
    assert check_cards(file) == () and check_cards(qat_run) == () and check_cards(qat_run / "quantized.npz") == ()


def test_nothing_is_said_after_the_tree_was_moved(tree: Path) -> None:
    assert check_cards(tree / "carded" / "m.tflite") == ()


@pytest.mark.parametrize("victim", ["carded/m.tflite", "ptq/quantized.npz", "float/model.keras"])
def test_one_byte_is_noticed(victim: str, tree: Path) -> None:
    path = tree / victim
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    run = path if path.suffix == ".tflite" else path.parent
    remark = only(check_cards(run))
    assert (remark.severity, remark.subject) == ("broken", str(path)) and "SHA-256" in remark.text
    # From the file, the parent's own card is out of reach, and that it is another parent is what is said.
    remark = only(check_cards(tree / "carded" / "m.tflite"))
    assert remark.severity == "broken" and ("SHA-256" in remark.text)
    if run != path:
        assert "do not belong together" in remark.text and "relative path" in remark.text


@pytest.mark.parametrize("victim", ["carded/m.labels.txt", "ptq/labels.txt", "float/labels.txt"])
def test_other_class_names_are_named(victim: str, tree: Path) -> None:
    path = tree / victim
    names = read_labels(path)
    write_labels(path, names[::-1])
    remark = only(check_cards(tree / "carded" / "m.tflite"))
    assert (remark.severity, remark.subject) == ("broken", str(path))
    assert "output 0 is 'blue', the file says 'red' (the same names in another order)" in remark.text
    write_labels(path, (*names, "yellow"))
    assert "3 class names, the file has 4" in only(check_cards(tree / "carded" / "m.tflite")).text
    path.write_text("\r\n".join(names))
    remark = only(check_cards(tree / "carded" / "m.tflite"))
    assert remark.severity == "note" and "harmless" in remark.text
    path.unlink()
    remark = only(check_cards(tree / "carded" / "m.tflite"))
    assert remark.severity == "broken" and "it is gone" in remark.text


def test_another_contract_is_named(tree: Path) -> None:
    path = tree / "float" / "preprocessing.json"
    path.write_text(path.read_text().replace('"stretch"', '"crop"'))
    remark = only(check_cards(tree / "ptq"))
    assert (remark.severity, remark.subject) == ("broken", str(path)) and "prepared in another way" in remark.text


def test_another_configuration_is_named(tree: Path) -> None:
    path = tree / "float" / "config.yaml"
    path.write_text(path.read_text().replace("epochs: 12", "epochs: 80"))
    remark = only(check_cards(tree / "float"))
    assert (remark.severity, remark.subject) == ("broken", str(path)) and "train.epochs is 12, the file says 80" in remark.text


def test_a_parent_that_is_gone_is_a_note(tree: Path) -> None:
    shutil.rmtree(tree / "ptq")
    remark = only(check_cards(tree / "carded" / "m.tflite"))
    assert remark.severity == "note" and "moved alone or deleted" in remark.text
    assert "/moved/away/ptq/quantized.npz (absolute path): there is no such file" in remark.text
    assert f"{tree / 'ptq' / 'quantized.npz'} (relative path): there is no such file" in remark.text


def test_a_renamed_file_is_the_same(tree: Path) -> None:
    for path in (tree / "carded").iterdir():
        path.rename(path.with_name(path.name.replace("m.", "cats.", 1)))
    assert check_cards(tree / "carded" / "cats.tflite") == ()
    write_labels(sidecar(tree / "carded" / "cats.tflite", "labels.txt"), ("a", "b", "c"))
    assert only(check_cards(tree / "carded" / "cats.tflite")).severity == "broken"


def test_missing_damaged_and_old_cards(tree: Path) -> None:
    file = tree / "carded" / "m.tflite"
    card = read_json(sidecar(file, "card.json"))
    old = {key: card[key] for key in ("kind", "format", "io", "lowering", "file", "preprocessing", "classes", "versions")}
    write_json(sidecar(file, "card.json"), {**old, "parent": {key: card["parent"][key] for key in ("file", "sha256")}})
    form, parent = check_cards(file)
    assert form.severity == parent.severity == "note"
    assert "does not hold card_format, files, metrics, machine" in form.text and "not where that was" in parent.text
    with file.open("ab") as handle:
        handle.write(b"\0")
    assert [remark.severity for remark in check_cards(file)] == ["note", "broken", "note"]
    sidecar(file, "card.json").write_text("{")
    assert only(check_cards(file)).severity == "broken"
    sidecar(file, "card.json").unlink()
    remark = only(check_cards(file))
    assert remark.severity == "note" and "has no card (m.card.json)" in remark.text
    with pytest.raises(InputError, match="there is no such"):
        check_cards(tree / "none")


def test_other_versions_are_a_note(tree: Path) -> None:
    card = read_card(tree / "float")
    write_json(sidecar(tree / "float", "card.json"), {**card, "versions": {**card["versions"], "numpy": "1.0", "torch": "9"}})
    remark = only(check_cards(tree / "float"))
    assert remark.severity == "note" and "numpy 1.0 (now " in remark.text and "torch 9 (now not installed)" in remark.text


def _scores(top1: float, samples: int = 36) -> Scores:
    return Scores(samples, top1, 0.0, 1.0, 1.0, 3, 0.1, top1, top1, top1, (), ())


def test_recomputed_accuracy(float_run: Path) -> None:
    card = read_card(float_run)
    card["metrics"] = {"test": {"top1": 30 / 36, "samples": 36, "loss": 0.3}}
    data = card["data"]["test"]["fingerprint"]
    assert check_metrics(card, "test", _scores(30 / 36 + 1e-12), data) == ()
    remark = only(check_metrics(card, "test", _scores(28 / 36), data))
    assert remark.severity == "broken" and "0.8333, now it is 0.7778 on the same 36 pictures: at least 2 of them" in remark.text
    remark = only(check_metrics({**card, "machine": {"cpu": "Abacus 3"}}, "test", _scores(28 / 36), data))
    assert remark.severity == "note" and "Abacus 3" in remark.text
    remark = only(check_metrics(card, "test", _scores(28 / 36), "0" * 64))
    assert remark.severity == "note" and "other pictures" in remark.text
    assert only(check_metrics(card, "train", _scores(0.5), data)).severity == "note"
    assert "which pictures" in only(check_metrics({"metrics": card["metrics"]}, "test", _scores(0.5), data)).text
    assert dataclasses.asdict(remark).keys() == {"severity", "subject", "text"}
