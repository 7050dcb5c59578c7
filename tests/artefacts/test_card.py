"""The cards of artefacts: complete, and a chain that can be walked wherever the tree lies."""

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mnv3_tf.artefacts.card import CARD_FORMAT, find_float_run, find_parent, parent_entry, read_card, sidecar
from mnv3_tf.data import PictureDataset, Sample, fingerprint_samples, open_dataset, scan_dataset
from mnv3_tf.errors import InputError
from mnv3_tf.export.convert.convert import convert, open_source
from mnv3_tf.files import plain, read_json, sha256, write_json

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def tree(float_run: Path, ptq_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/float, runs/ptq and files/m.tflite, all made in this tree."""
    root = tmp_path_factory.mktemp("tree")
    for run in (float_run, ptq_run):
        shutil.copytree(run, root / "runs" / run.name)
    card = root / "runs" / "ptq" / "run.json"
    entry = parent_entry(root / "runs" / "float" / "model.keras", card.parent)
    write_json(card, {**read_json(card), "parent": entry})
    convert(open_source(root / "runs" / "ptq"), root / "files" / "m.tflite")
    return root


@pytest.fixture
def own(tree: Path, tmp_path: Path) -> Path:
    """A copy of the tree, without the original at hand for the absolute paths."""
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    for card in copy.rglob("*.json"):
        card.write_text(card.read_text().replace(str(tree.resolve()), "/moved/away"))
    return copy


@pytest.mark.slow
def test_every_kind_of_card_is_complete(tree: Path, tiny_config, pictures: Path) -> None:
    cards = {place: read_card(tree / place) for place in ("runs/float", "runs/ptq", "files/m.tflite")}
    weights = {"runs/float": "model.keras", "runs/ptq": "quantized.npz", "files/m.tflite": "m.tflite"}
    for place, card in cards.items():
        folder = (tree / place) if (tree / place).is_dir() else (tree / place).parent
        assert card["card_format"] == CARD_FORMAT and card["classes"] == ["blue", "green", "red"]
        assert datetime.fromisoformat(card["written"]).tzinfo == UTC
        assert {"python", "keras", "numpy"} <= card["versions"].keys()
        assert card["machine"].keys() == {"cpu", "architecture", "system"}
        assert card["files"].keys() >= {weights[place]} and len(card["files"]) == 3
        assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in card["files"].items())
        assert card["preprocessing"] == open_source(tree / "runs" / "float").contract.fingerprint()
    assert [card["kind"] for card in cards.values()] == ["float run", "quantized run", "tflite"]
    assert [cards[place]["parent"] is None for place in cards] == [True, False, False]
    assert cards["files/m.tflite"]["metrics"] == {}
    fingerprints = scan_dataset(open_dataset(pictures)).fingerprints
    for place in ("runs/float", "runs/ptq"):
        card = cards[place]
        assert card["config"] == plain(tiny_config)
        assert card["data"] == {split: {"fingerprint": fingerprints[split], "pictures": count}
                                for split, count in (("train", 96), ("val", 36), ("test", 36))}
        assert set(card["metrics"]) == {"val", "test"} and card["metrics"]["test"].keys() == {
            "top1", "samples", "loss", "balanced_accuracy", "precision", "f1"}
    assert cards["runs/float"]["seeds"] == {"train": 0} and cards["runs/ptq"]["seeds"] == {"train": 0, "quantize": 0}
    assert cards["runs/ptq"]["calibration"]["pictures"] == 77


def test_a_file_knows_both_runs_above_it(tree: Path) -> None:
    parent = read_card(tree / "files" / "m.tflite")["parent"]
    assert parent == {
        "kind": "quantized run", "run": str((tree / "runs" / "ptq").resolve()), "relative": "../runs/ptq",
        "file": "quantized.npz", "sha256": sha256(tree / "runs" / "ptq" / "quantized.npz"),
        "parent": {"kind": "float run", "run": str((tree / "runs" / "float").resolve()), "relative": "../runs/float",
                   "file": "model.keras", "sha256": sha256(tree / "runs" / "float" / "model.keras")}}


def test_the_chain_is_walked(tree: Path) -> None:
    first = find_parent(tree / "files" / "m.tflite")
    assert first == (tree / "runs" / "ptq").resolve()
    assert find_parent(first) == (tree / "runs" / "float").resolve() and find_parent(tree / "runs" / "float") is None
    assert find_float_run(tree / "files" / "m.tflite") == (tree / "runs" / "float").resolve()
    assert find_float_run(tree / "runs" / "float") == tree / "runs" / "float"
    assert find_parent(tree / "runs" / "ptq" / "quantized.npz") == (tree / "runs" / "float").resolve()


def test_the_chain_is_walked_after_the_tree_was_moved(own: Path) -> None:
    assert find_parent(own / "files" / "m.tflite") == own / "runs" / "ptq"
    assert find_parent(own / "runs" / "ptq") == own / "runs" / "float"


def test_without_the_quantized_run_the_float_run_is_found(own: Path) -> None:
    shutil.rmtree(own / "runs" / "ptq")
    assert find_float_run(own / "files" / "m.tflite") == own / "runs" / "float"
    with pytest.raises(InputError, match=r"npz \(absolute path\): there is no such file; .*\(relative path\): there is no"):
        find_parent(own / "files" / "m.tflite")


def test_a_parent_that_was_changed_is_not_taken(own: Path) -> None:
    with (own / "runs" / "float" / "model.keras").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r"relative path\): holds another file \(SHA-256 [0-9a-f]{12}\.\.\.\)"):
        find_parent(own / "runs" / "ptq")


def test_no_card_and_old_cards(own: Path, tmp_path: Path) -> None:
    file = own / "files" / "m.tflite"
    card = read_card(file)
    write_json(sidecar(file, "card.json"), {**card, "parent": {"file": "quantized.npz", "sha256": card["parent"]["sha256"]}})
    with pytest.raises(InputError, match="the card does not say where it was"):
        find_parent(file)
    sidecar(file, "card.json").unlink()
    assert find_parent(file) is None and find_float_run(file) is None
    run_card = sidecar(own / "runs" / "ptq", "card.json")
    assert run_card == own / "runs" / "ptq" / "run.json"
    entry = {"run": str(own / "runs" / "float"), "file": "model.keras", "sha256": sha256(own / "runs" / "float" / "model.keras")}
    write_json(run_card, {"kind": "quantized run", "parent": entry})
    assert find_float_run(own / "runs" / "ptq") == own / "runs" / "float"
    run_card.write_text("[]")
    with pytest.raises(InputError, match="is not a card"):
        find_parent(own / "runs" / "ptq")
    assert sidecar("a/m.tflite", "card.json") == Path("a/m.card.json") == sidecar(Path("a/m.tflite"), "card.json")


def test_the_data_fingerprint_sees_classes_and_contents_only(pictures: Path, tmp_path: Path) -> None:
    files = sorted(pictures.glob("train/blue/*.png"))[:3]

    def made(*parts: tuple[str, Path, str]) -> str:
        root = tmp_path / hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
        samples = []
        for name, source, class_name in parts:
            (root / class_name).mkdir(parents=True, exist_ok=True)
            samples.append(Sample(Path(shutil.copy(source, root / class_name / name)), ("x", "y").index(class_name)))
        dataset = PictureDataset(root, ("x", "y"), {"train": tuple(samples)}, "class folders")
        report = scan_dataset(dataset, cache_path=root / "cache")
        scanned = report.fingerprints["train"]
        for order in (samples, samples[::-1]):
            assert fingerprint_samples(order, ("x", "y"), report.contents) == scanned
        return scanned

    first = made(("1.png", files[0], "x"), ("2.png", files[1], "y"))
    assert first == made(("b.png", files[1], "y"), ("a.png", files[0], "x")) and len(first) == 64
    assert first != made(("1.png", files[0], "y"), ("2.png", files[1], "x"))  # other labels
    assert first != made(("1.png", files[0], "x"), ("2.png", files[2], "y"))  # another picture
    assert first != made(("1.png", files[0], "x"), ("2.png", files[1], "y"), ("3.png", files[1], "y"))  # one of them twice
    digests = [hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest() for file in files]
    text = json.dumps([["x", digests[0]], ["y", digests[1]]], separators=(",", ":"))
    assert first == hashlib.sha256(text.encode()).hexdigest()


def test_broken_pictures_are_no_part_of_the_fingerprint(pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data" / "val" / "red" / "broken.png").write_bytes(b"no picture")
    before, after = (scan_dataset(open_dataset(root)).fingerprints for root in (pictures, tmp_path / "data"))
    assert before == after and len(set(before.values())) == 3
