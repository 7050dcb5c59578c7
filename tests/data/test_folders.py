"""Folders as people and machines leave them: split folders by other names, leftovers, names that are not UTF-8."""

import os
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from mnv3_tf.data import open_dataset, scan_dataset
from mnv3_tf.data.samples import LabelError
from mnv3_tf.data.split_names import split_of
from mnv3_tf.errors import InputError
from mnv3_tf.files import read_json, write_json

FRUITS = ("apple", "banana", "cherry")


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (7, 7, 7)).save(path)
    return path


def fruits(*folders: Path) -> None:
    for folder in folders:
        for name in FRUITS:
            picture(folder / name / "a.png")
            picture(folder / name / "b.png")


@pytest.mark.parametrize(("name", "split"), [
    ("train", "train"), ("Training", "train"), ("TRAIN", "train"), ("training_set", "train"), ("Train_data", "train"),
    ("trainset", "train"), ("TrainSet", "train"), ("imgs-train2017", "train"), ("val", "val"), ("valid", "val"),
    ("Validation Set", "val"), ("dev", "val"), ("eval", "val"), ("Test", "test"), ("Testing", "test"), ("testdata", "test"),
])
def test_names_of_splits(name: str, split: str) -> None:
    assert split_of(name) == (split, ())


@pytest.mark.parametrize("name", ["trains", "latest", "trainval", "train_test", "contest", "cat", "images", "1"])
def test_names_of_no_split(name: str) -> None:
    assert split_of(name) is None


@pytest.mark.parametrize(("train", "test"), [
    ("Training", "Test"), ("Training", "Testing"), ("training_set", "test_set"), ("train_images", "test_images"),
    ("Train", "test"), ("seg_train", "seg_test"), ("fruits train", "fruits test"), ("seg_train/seg_train", "seg_test/seg_test"),
    ("train/images", "test/images"),
])
def test_split_folders_by_other_names(train: str, test: str, tmp_path: Path) -> None:
    fruits(tmp_path / train, tmp_path / test)
    dataset = open_dataset(tmp_path, validation_fraction=0)
    assert dataset.class_names == FRUITS and dataset.layout == "split folders"
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 6, "test": 6}
    assert {sample.path.relative_to(tmp_path).parts[0] for sample in dataset.split("test")} == {Path(test).parts[0]}


def test_every_split_by_another_name(tmp_path: Path) -> None:
    fruits(tmp_path / "Training", tmp_path / "dev", tmp_path / "Testing")
    (tmp_path / "Extra").mkdir()
    dataset = open_dataset(tmp_path)
    assert set(dataset.splits) == {"train", "val", "test"} and any("Extra/" in note for note in dataset.notes)


def test_two_folders_for_one_split_are_named(tmp_path: Path) -> None:
    fruits(tmp_path / "train", tmp_path / "valid", tmp_path / "dev")
    with pytest.raises(InputError, match="both dev/ and valid/ would be the val split"):
        open_dataset(tmp_path)


def test_a_test_folder_without_labels_is_left_out(tmp_path: Path) -> None:
    fruits(tmp_path / "train")
    picture(tmp_path / "test" / "1.png")
    dataset = open_dataset(tmp_path, validation_fraction=0)
    assert set(dataset.splits) == {"train"}
    assert "test/ is beside the split folders and was left out, for it has no class folders" in dataset.notes


@pytest.mark.parametrize("names", [("fold1", "fold2", "fold3"), ("known", "Test"), ("2023", "2024")])
def test_folders_with_the_same_classes_are_no_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    fruits(*(tmp_path / name for name in names))
    with pytest.raises(LabelError, match=r"hold the same class folders.*Name the split folders train, val and test") as caught:
        open_dataset(tmp_path)
    assert all(f"{name}/" in str(caught.value) for name in names)
    (tmp_path / "labels.txt").write_text("\n".join(names))  # what somebody writes who means it
    assert set(open_dataset(tmp_path).class_names) == set(names)
    assert open_dataset(tmp_path, class_names=names).class_names == names


def test_splits_inside_of_classes_are_refused(tmp_path: Path) -> None:
    for name in ("cat/train", "cat/test", "dog/train", "dog/test"):
        picture(tmp_path / name / "a.png")
    with pytest.raises(LabelError, match=re.escape("train/cat/..., not cat/train/...")):
        open_dataset(tmp_path)


def test_classes_may_be_named_like_splits(tmp_path: Path) -> None:
    """Vehicles, and what a person does: pictures lie directly in these folders."""
    for name in ("train", "bus", "Testing", "training"):
        picture(tmp_path / name / "a.png")
    assert open_dataset(tmp_path).class_names == ("Testing", "bus", "train", "training")


def test_folders_inside_of_classes_that_differ_are_fine(tmp_path: Path) -> None:
    for name in ("cat/may", "cat/june", "dog/june", "dog/july", "cow"):
        picture(tmp_path / name / "a.png")
    assert open_dataset(tmp_path).class_names == ("cat", "cow", "dog")


LEFTOVERS = (".DS_Store", "._a.png", "Thumbs.db", "desktop.ini", "@eaDir/a.png/x.jpg", "__MACOSX/x.jpg",
             ".ipynb_checkpoints/a.png", "#recycle/old.png", "lost+found/x", ".Trash-1000/files/a.png", ".git/HEAD",
             "$RECYCLE.BIN/x.png", "System Volume Information/x", "a.png:Zone.Identifier", "a.png@SynoEAStream", "a.png~")


@pytest.mark.parametrize("where", ["", "apple", "train", "train/apple"])
def test_what_systems_leave_behind_is_ignored_and_counted(where: str, tmp_path: Path) -> None:
    splits = where.startswith("train")
    fruits(tmp_path / "train" if splits else tmp_path)
    for name in LEFTOVERS:
        path = tmp_path / where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    dataset = open_dataset(tmp_path)
    assert dataset.class_names == FRUITS and sum(map(len, dataset.splits.values())) == 6
    notes = [note for note in dataset.notes if "hidden" in note]
    assert len(notes) == 1 and notes[0].startswith(f"{len(LEFTOVERS)} hidden files and folders") and "1 #recycle" in notes[0]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    fruits(tmp_path)
    os.rename(tmp_path / "apple" / "a.png", os.fsencode(tmp_path / "apple") + b"/caf\xe9.png")
    dataset = open_dataset(tmp_path)
    assert sum(map(len, dataset.splits.values())) == 6
    (broken,) = (path for path in map(Path, map(os.fsdecode, os.listdir(os.fsencode(tmp_path / "apple")))) if "caf" in str(path))
    (tmp_path / "apple" / broken).write_bytes(b"no picture")
    report = scan_dataset(dataset, cache_path=tmp_path / "cache")
    write_json(tmp_path / "scan.json", report)  # valid UTF-8, and the name comes back
    assert read_json(tmp_path / "scan.json")["broken"][0]["place"]["path"] == str(tmp_path / "apple" / broken)
    assert scan_dataset(dataset, cache_path=tmp_path / "cache").decoded == 0
    os.rename(tmp_path / "banana", os.fsencode(tmp_path) + b"/\xb9\xb7")
    with pytest.raises(InputError, match=re.escape(r"\xb9\xb7")) as caught:
        open_dataset(tmp_path)
    assert str(caught.value).isascii() and "not UTF-8" in str(caught.value)
