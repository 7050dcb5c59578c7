"""Data sets in every layout, and the scan before training."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mnv3_tf.data import check, clamp_top_k, evaluation_split, open_dataset, read_labels, scan, scan_dataset, write_labels
from mnv3_tf.data.labels import split_list_line
from mnv3_tf.data.samples import NO_LABEL, LabelError, PictureDataset
from mnv3_tf.data.scan import Place
from mnv3_tf.errors import InputError
from mnv3_tf.metrics import score
from mnv3_tf.progress import Silent


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade % 256, shade // 256, 7)).save(path)
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Class folders: class1, class2, class10 with ten pictures each."""
    for index, name in enumerate(("class10", "class2", "class1")):
        for number in range(10):
            picture(tmp_path / name / f"{number}.png", index * 10 + number)
    return tmp_path


def test_class_folders_in_natural_order(classes: Path) -> None:
    dataset = open_dataset(classes, validation_fraction=0.2)
    assert dataset.class_names == ("class1", "class2", "class10")
    assert len(dataset.split("train")) + len(dataset.split("val")) == 30
    assert all(count >= 1 for count in dataset.counts()["val"].values())
    assert all(sample.path.parent.name == dataset.class_names[sample.label] for sample in dataset.split("train"))


def test_the_split_is_stable_when_pictures_are_added(classes: Path) -> None:
    before = {s.path for s in open_dataset(classes).split("val")}
    for number in range(10, 14):
        picture(classes / "class2" / f"{number}.png", 900 + number)
    after = {s.path for s in open_dataset(classes).split("val")}
    assert before == {s.path for s in open_dataset(classes).split("val") if int(s.path.stem) < 10} <= after
    assert {s.path for s in open_dataset(classes, seed=5).split("val")} != after


def test_split_folders(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        for name in ("cat", "dog"):
            picture(tmp_path / split / name / "a.png")
    dataset = open_dataset(tmp_path)
    assert set(dataset.splits) == {"train", "val", "test"} and evaluation_split(dataset) == "test"


def test_a_class_that_training_lacks_is_named(tmp_path: Path) -> None:
    for place in ("train/cat", "train/dog", "val/cat", "val/dgo"):
        picture(tmp_path / place / "a.png")
    with pytest.raises(InputError, match=r"dgo.*did you mean 'dog'"):
        open_dataset(tmp_path)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """A PaddleClas layout with spaces and other alphabets in the paths."""
    names = ["images/a b.png", "images/ü/c.png", "images/d.png"]
    for number, name in enumerate(names):
        picture(tmp_path / name, number)
    (tmp_path / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
    (tmp_path / "train_list.txt").write_bytes(b"\xef\xbb\xbf" + f"{names[0]} 0\r\n{names[1]}\t1\r\n\r\n".encode())
    (tmp_path / "val_list.txt").write_text(f"{names[2]} 1\n")
    return tmp_path


def test_label_lists(lists: Path) -> None:
    """Byte-order mark, Windows line ends, a tab, spaces in paths, a blank line at the end: all read."""
    dataset = open_dataset(lists)
    assert dataset.class_names == ("cat", "dog")
    assert [(s.path.name, s.label) for s in dataset.split("train")] == [("a b.png", 0), ("c.png", 1)]
    assert dataset.split("val")[0].line == "val_list.txt:1"


@pytest.mark.parametrize(("line", "reason"), [
    ("images/d.png", "no class id"), ("images/d.png two", "not a whole number"),
    ("images/d.png 7", "out of range, which is 0 to 1"),
    ("images/gone.png 0", "no file"), ("images/d.png -1", "out of range"),
])
def test_bad_lines_are_named(lists: Path, line: str, reason: str) -> None:
    with (lists / "train_list.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=rf"train_list\.txt, line 4: .*{reason}"):
        open_dataset(lists)


def test_all_bad_lines_are_listed_at_once(lists: Path) -> None:
    (lists / "val_list.txt").write_text("x 0\ny 1\nimages/d.png 9\n")
    with pytest.raises(InputError, match=r"(?s)3 lines.*line 1.*line 2.*line 3"):
        open_dataset(lists)


@settings(deadline=None)
@given(path=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).map(lambda s: f"a {s} b.jpg"),
       label=st.integers(0, 99999), separator=st.sampled_from([" ", "\t", "  "]))
def test_any_path_survives_a_list_line(path: str, label: int, separator: str) -> None:
    assert split_list_line(f"{path}{separator}{label}") == (path, str(label))


def test_lists_without_labels_txt_use_ids(lists: Path) -> None:
    (lists / "labels.txt").unlink()
    dataset = open_dataset(lists)
    assert dataset.class_names == ("0", "1") and any("labels.txt" in note for note in dataset.notes)


def test_a_models_labels_decide_the_order(classes: Path) -> None:
    names = ("class10", "class1", "other", "class2")
    dataset = open_dataset(classes, class_names=names)
    assert dataset.class_names == names
    assert all(names[s.label] == s.path.parent.name for s in dataset.split("train"))
    with pytest.raises(InputError, match="class2"):
        open_dataset(classes, class_names=("class1", "class10", "class3"))


def test_junk_is_left_alone(classes: Path) -> None:
    (classes / "class1" / ".DS_Store").write_bytes(b"x")
    (classes / "class1" / "notes.txt").write_text("x")
    (classes / "__MACOSX").mkdir()
    assert sum(len(split) for split in open_dataset(classes).splits.values()) == 30


@pytest.mark.parametrize("what", ["missing", "file", "zip", "empty", "one class"])
def test_unusable_roots(tmp_path: Path, what: str) -> None:
    root = tmp_path / "data"
    messages = {"missing": "no such folder", "file": "is a file", "zip": "archive", "empty": "no pictures",
                "one class": "only one class"}
    if what == "file":
        root.write_text("x")
    elif what == "zip":
        zipfile.ZipFile(root, "w").close()
    elif what == "empty":
        root.mkdir()
    elif what == "one class":
        picture(root / "cat" / "a.png")
    with pytest.raises(InputError, match=messages[what]):
        open_dataset(root)


def test_labels_round_trip(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.txt", ("ä b", "c", "10"))
    assert read_labels(tmp_path / "labels.txt") == ("ä b", "c", "10")
    (tmp_path / "labels.txt").write_bytes("\ufeffcat\r\ndog\r\n\r\n".encode())
    assert read_labels(tmp_path / "labels.txt") == ("cat", "dog")
    with pytest.raises(InputError, match="line 2"):
        (tmp_path / "labels.txt").write_text("cat\ncat\n")
        read_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize("count", [2, 3, 4])
def test_top_k_is_clamped_and_said(count: int) -> None:
    k, note = clamp_top_k(count, 5)
    assert k == count and note and f"top-{count}" in note
    assert clamp_top_k(10, 5) == (5, None)


def test_a_clean_scan(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("scan") / "cache"
    seen: list[tuple[int, int]] = []
    report = scan_dataset(open_dataset(classes), cache_path=cache, progress=lambda done, total: seen.append((done, total)))
    assert not report.broken and not report.overlaps and report.pictures == 30 and report.decoded == 30
    assert seen[-1] == (30, 30)
    again = scan_dataset(open_dataset(classes), cache_path=cache)
    assert again.decoded == 0


def test_the_scan_names_what_is_wrong(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    dataset = open_dataset(classes)
    validation, training = dataset.split("val")[0], dataset.split("train")[0]
    validation.path.write_bytes(training.path.read_bytes())
    broken = dataset.split("train")[3].path
    broken.write_bytes(b"")
    report = scan_dataset(dataset, cache_path=tmp_path_factory.mktemp("scan") / "cache")
    assert [remark.place.path for remark in report.broken] == [broken]
    assert {place.path for place in report.overlaps[0].places} == {validation.path, training.path}
    assert len(report.clean(dataset).split("train")) == len(dataset.split("train")) - 1
    report.raise_if(strict=False)
    with pytest.raises(InputError, match="same content in two splits"):
        report.raise_if(strict=True)


def test_a_changed_picture_is_scanned_again(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("scan") / "cache"
    scan_dataset(open_dataset(classes), cache_path=cache)
    (classes / "class1" / "3.png").write_bytes(b"broken now")
    report = scan_dataset(open_dataset(classes), cache_path=cache)
    assert [remark.place.path.name for remark in report.broken] == ["3.png"]


def test_a_scan_that_is_stopped_keeps_what_it_did(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("scan") / "cache"

    def stop(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_dataset(open_dataset(classes), cache_path=cache, progress=stop)
    assert scan_dataset(open_dataset(classes), cache_path=cache).decoded == 10


def test_a_scan_that_is_killed_keeps_what_it_saved(classes: Path, tmp_path_factory: pytest.TempPathFactory,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file holds after twelve pictures is what a process leaves that never comes to its end."""
    cache = tmp_path_factory.mktemp("scan") / "cache"
    monkeypatch.setattr(scan, "_SAVED_EVERY", 6)
    kept: list[bytes] = []

    def look(done: int, total: int) -> None:
        if done == 13:
            kept.append(cache.read_bytes())

    scan_dataset(open_dataset(classes), cache_path=cache, progress=look)
    cache.write_bytes(kept[0])
    again = scan_dataset(open_dataset(classes), cache_path=cache)
    assert again.decoded == 18 and not again.notes


def test_a_damaged_cache_is_rebuilt_and_said(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("scan") / "cache"
    scan_dataset(open_dataset(classes), cache_path=cache)
    cache.write_bytes(b"\x00\xff garbage")
    report = scan_dataset(open_dataset(classes), cache_path=cache)
    assert report.decoded == 30 and report.notes


def test_less_than_a_full_scan(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(classes, validation_fraction=0.2)
    train = dataset.split("train")
    train[1].path.write_bytes(b"no picture")
    train[2].path.write_bytes(train[2].path.read_bytes()[:-30])  # its header is good
    monkeypatch.setattr(scan, "SAMPLE", 8)
    found = {level: scan_dataset(dataset, cache_path=tmp_path / f"{level}.npz", level=level)  # type: ignore[arg-type]
             for level in ("full", "sample", "headers", "none")}
    assert {level: (report.pictures, len(report.broken)) for level, report in found.items()} == {
        "full": (30, 2), "sample": (8 + len(dataset.split("val")), 0), "headers": (30, 1), "none": (0, 0)}
    assert found["headers"].clean(dataset).split("train")[1] == train[2]
    prints = {level: report.fingerprints for level, report in found.items()}
    assert prints["sample"]["val"] == prints["full"]["val"] and prints["sample"]["train"] == prints["none"]["train"]
    assert prints["none"]["train"].startswith("names-") and prints["none"]["train"] != prints["none"]["val"]
    again = scan_dataset(dataset, cache_path=tmp_path / "headers.npz", level="headers")
    assert again.decoded == 0 and again.to_dict()["broken"] == found["headers"].to_dict()["broken"]


def test_how_pictures_are_checked_follows_from_their_number_and_is_said(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, level in ((30, "full"), (29, "sample")):
        monkeypatch.setattr(check, "_FULL", limit)
        progress = Silent()
        _, report = check.check_pictures(open_dataset(classes), strict=False, progress=progress, level=None)
        assert report.level == level and any("(data.check=sample)" in line for line in progress.lines) == (level == "sample")


def test_a_split_without_a_usable_picture_is_an_error(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for shade, place in enumerate(("train/a", "train/b", "val/a", "val/b")):
        picture(tmp_path / place / "x.png", shade)
    for name in ("a", "b"):
        (tmp_path / "val" / name / "x.png").write_bytes(b"no")
    report = scan_dataset(open_dataset(tmp_path), cache_path=tmp_path_factory.mktemp("scan") / "cache")
    with pytest.raises(InputError, match="split val has no usable picture"):
        report.raise_if(strict=False)


def names_of(dataset: PictureDataset) -> dict[str, list[str]]:
    return {split: [sample.path.relative_to(dataset.root).as_posix() for sample in samples]
            for split, samples in dataset.splits.items()}


@pytest.mark.parametrize(("files", "why"), [
    (["a.png", "b.png", "c.png"], "its pictures are in no class folder"),
    (["2024/may/a.png", "2024/june/b.png", "2025/c.png"], "2 classes that the model does not have: '2024', '2025'"),
    (["test/a.png", "test/b.png", "test/c.png"], "no class folders in it"),
    (["only/a.png", "only/b.png", "only/c.png"], "1 class that the model does not have: 'only'"),
])
def test_any_folder_of_pictures_where_no_labels_are_needed(files: list[str], why: str, tmp_path: Path) -> None:
    for shade, name in enumerate(files):
        picture(tmp_path / name, shade)
    with pytest.raises(LabelError, match=re.escape(why)):
        open_dataset(tmp_path, class_names=("cat", "dog"))
    dataset = open_dataset(tmp_path, class_names=("cat", "dog"), labels_needed=False)
    assert not dataset.labelled and dataset.layout == "pictures" and why in dataset.notes[0]
    assert sorted(name for names in names_of(dataset).values() for name in names) == sorted(files)
    assert len(dataset.split("val")) == 1 and {sample.label for sample in dataset.split("train")} == {NO_LABEL}
    report = scan_dataset(dataset)
    assert report.problems() == [] and report.pictures == 3
    assert str(Place("val", "", Path("a.png"))) == "a.png (val)"


def test_a_single_unknown_class_is_a_mistake_even_where_no_labels_are_needed(tmp_path: Path) -> None:
    for shade, name in enumerate(("cat/a.png", "dgo/b.png")):
        picture(tmp_path / name, shade)
    with pytest.raises(InputError, match=r"'dgo' \(did you mean 'dog'"):
        open_dataset(tmp_path, class_names=("cat", "dog"), labels_needed=False)


def test_splits_are_kept_without_labels(tmp_path: Path) -> None:
    for shade, name in enumerate(("train/cow/a.png", "train/b.png", "test/c.png", "other/d.png")):
        picture(tmp_path / name, shade)
    dataset = open_dataset(tmp_path, class_names=("cat", "dog"), labels_needed=False, validation_fraction=0)
    assert names_of(dataset) == {"train": ["train/b.png", "train/cow/a.png"], "test": ["test/c.png"]}


def test_label_lists_of_other_classes(lists: Path) -> None:
    (lists / "val_list.txt").unlink()
    dataset = open_dataset(lists, class_names=("cow", "pig"), labels_needed=False, validation_fraction=0)
    assert names_of(dataset) == {"train": ["images/a b.png", "images/ü/c.png"]} and dataset.class_names == ()


def test_labels_that_fit_are_kept_where_none_are_needed(classes: Path) -> None:
    wanted = open_dataset(classes, class_names=("class10", "class1", "class2"))
    assert open_dataset(classes, class_names=("class10", "class1", "class2"), labels_needed=False) == wanted
    assert wanted.labelled
    with pytest.raises(InputError, match="no pictures found"):
        (classes / "empty").mkdir()
        open_dataset(classes / "empty", labels_needed=False)


def test_pictures_without_labels_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="without labels"):
        score(np.zeros((2, 3)), np.array([0, NO_LABEL]), ("a", "b", "c"))
