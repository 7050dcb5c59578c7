"""Labels in files: lists under other names, tables, several labels a picture, and containers that are named for what they are."""

import re
import struct
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from mnv3_tf.data import PictureDataset, open_dataset
from mnv3_tf.data.samples import NO_LABEL, LabelError
from mnv3_tf.errors import InputError


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (7, 7, 7)).save(path)
    return path


def labels_of(dataset: PictureDataset) -> dict[str, dict[str, str]]:
    """Split -> file name -> class name."""
    return {split: {sample.path.name: dataset.class_of(sample) for sample in samples}
            for split, samples in dataset.splits.items()}


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Six pictures in a folder that is named for nothing."""
    for number in range(1, 7):
        picture(tmp_path / "images" / f"x{number}.jpg")
    return tmp_path


def lists(root: Path, prefix: str, labels: tuple[str, ...], names: tuple[str, str] = ("train.txt", "val.txt"),
          by: str = " ") -> None:
    for at, name in enumerate(names):
        rows = [f"{prefix}x{number}.jpg{by}{labels[number % len(labels)]}" for number in range(1 + 3 * at, 4 + 3 * at)]
        (root / name).write_text("\n".join(rows) + "\n")


TRAIN, VAL = {"x1.jpg": "dog", "x2.jpg": "cat", "x3.jpg": "dog"}, {"x4.jpg": "cat", "x5.jpg": "dog", "x6.jpg": "cat"}


@pytest.mark.parametrize("names", [("train.txt", "val.txt"), ("train_list.txt", "val_list.txt"), ("train_label.txt", "valid.txt"),
                                   ("Train.txt", "eval.txt")])
@pytest.mark.parametrize("label_file", ["labels.txt", "classes.txt", "flowers_label_list.txt"])
def test_lists_by_other_names(names: tuple[str, str], label_file: str, flat: Path) -> None:
    lists(flat, "images/", ("0", "1"), names)
    (flat / label_file).write_text("0 cat\n1 dog\n")
    dataset = open_dataset(flat)
    assert dataset.class_names == ("cat", "dog") and labels_of(dataset) == {"train": TRAIN, "val": VAL}
    assert any(label_file in note for note in dataset.notes) == (label_file != "labels.txt")


@pytest.mark.parametrize(("prefix", "remark"), [
    ("x", ""), ("images\\", "with backslashes"), ("D:\\data\\flowers\\images\\", "by their last parts"),
    ("/home/me/flowers/images/", "by their last parts"), ("ROOT/images/", "by their last parts"),
])
def test_paths_as_other_machines_write_them(prefix: str, remark: str, flat: Path) -> None:
    lists(flat, "" if prefix == "x" else prefix.replace("ROOT", flat.name), ("cat", "dog"))
    dataset = open_dataset(flat)
    assert labels_of(dataset) == {"train": TRAIN, "val": VAL}
    assert not remark or any(note.startswith("6 paths") and remark in note for note in dataset.notes)


def test_names_with_blanks_after_a_tab(flat: Path) -> None:
    lists(flat, "images/", ("pink primrose", "sword lily"), by="\t")
    assert open_dataset(flat).class_names == ("pink primrose", "sword lily")


def test_lists_decide_the_split_of_class_folders(tmp_path: Path) -> None:
    for name in ("airplane", "beach"):
        for number in range(1, 5):
            picture(tmp_path / name / f"{name}{number}.png")
    (tmp_path / "labels.txt").write_text("airplane\nbeach\n")
    for split, numbers in (("train", (1, 2)), ("val", (3, 4))):
        (tmp_path / f"{split}.txt").write_text("".join(f"{name}/{name}{number}.png {label}\n" for label, name in
                                                      enumerate(("airplane", "beach")) for number in numbers))
    expected = {"train": {f"{name}{number}.png": name for name in ("airplane", "beach") for number in (1, 2)},
                "val": {f"{name}{number}.png": name for name in ("airplane", "beach") for number in (3, 4)}}
    assert labels_of(open_dataset(tmp_path)) == expected
    for split in ("train", "val"):  # without labels: the folders say them
        text = (tmp_path / f"{split}.txt").read_text()
        (tmp_path / f"{split}.txt").write_text(re.sub(r" \d", "", text))
    assert labels_of(open_dataset(tmp_path)) == expected


def test_a_text_that_is_no_list_is_none(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        picture(tmp_path / name)
    (tmp_path / "train.txt").write_text("How the network was trained: patiently.\n")
    assert open_dataset(tmp_path).layout == "class folders"


@pytest.mark.parametrize("line", ["images/x1.jpg\t1,0,1", "images/x1.jpg 0 1 1", "images/x1.jpg\t3,7", "images/x1.jpg -1 1",
                                  "images/x1.jpg cat,dog\nimages/x2.jpg cat\nimages/x3.jpg dog", "images/x1.jpg\tcat;dog"])
def test_lists_with_several_labels_a_picture(line: str, flat: Path) -> None:
    (flat / "train_list.txt").write_text(f"{line}\n")
    with pytest.raises(LabelError, match=r"train_list\.txt, line 1: .*several labels a picture \(multi-label\)") as caught:
        open_dataset(flat)
    assert "\n" not in str(caught.value)
    dataset = open_dataset(flat, labels_needed=False, validation_fraction=0)
    assert len(dataset.split("train")) == 6 and dataset.split("train")[0].label == NO_LABEL


TABLES = {
    "names": "filename,label\nx1.jpg,dog\nx2.jpg,cat\n", "ids without endings": "image_id,breed\nx1,dog\nx2,cat\n",
    "no headings": "images/x1.jpg,dog\nimages/x2.jpg,cat\n", "semicolons": "file;class\nx1.jpg;dog\nx2.jpg;cat\n",
    "quoted": '"Image Path","Class Name"\r\n"images/x1.jpg","dog"\r\n"images/x2.jpg","cat"\r\n',
    "byte-order mark": "\ufeffpath,target\nimages/x1.jpg,dog\nimages/x2.jpg,cat\n",
    "index": ",path,y\n0,x1.jpg,dog\n1,x2.jpg,cat\n",
    "more columns": "id,width,height,label,file_name\n7,8,8,dog,x1.jpg\n8,8,8,cat,x2.jpg\n",
    "ids and names": "class id,filepaths,labels\n1,images/x1.jpg,dog\n0,images/x2.jpg,cat\n",
    "one-hot": "image, cat, dog\nx1,0,1\nx2,1.0,0.0\n", "tabs": "path\tlabel\nx1.jpg\tdog\nx2.jpg\tcat\n",
    "absolute": "path,label\nC:\\data\\images\\x1.jpg,dog\nC:\\data\\images\\x2.jpg,cat\n",
}


@pytest.mark.parametrize("name", ["train.csv", "labels.csv"])
@pytest.mark.parametrize("table", TABLES)
def test_tables(table: str, name: str, flat: Path) -> None:
    (flat / name).write_text(TABLES[table], encoding="utf-8", newline="")
    dataset = open_dataset(flat, validation_fraction=0)
    assert dataset.class_names == ("cat", "dog") and labels_of(dataset) == {"train": {"x1.jpg": "dog", "x2.jpg": "cat"}}
    assert {f"labels are from {name}", "4 files without a label left out"} <= set(dataset.notes)
    assert re.fullmatch(rf"{name}:\d", dataset.split("train")[0].line or "")


def test_a_table_is_opened_by_its_name_too(flat: Path) -> None:
    (flat / "a.csv").write_text(TABLES["names"])
    (flat / "b.csv").write_text(TABLES["names"])
    with pytest.raises(InputError, match=r"both a\.csv and b\.csv give labels"):
        open_dataset(flat)
    assert open_dataset(flat / "b.csv", validation_fraction=0).class_names == ("cat", "dog")


def test_a_table_for_every_split(tmp_path: Path) -> None:
    for split, folder, names in (("train", "train_images", ("a", "b")), ("test", "test_images", ("a", "c"))):
        for name in names:
            picture(tmp_path / folder / f"{name}.png")
        (tmp_path / f"{split}.csv").write_text("image_id,label\n" + "".join(f"{name},{name > 'a'}\n" for name in names))
    (tmp_path / "sample_submission.csv").write_text("image_id,label\na,0\n")
    dataset = open_dataset(tmp_path, validation_fraction=0)
    assert labels_of(dataset) == {"train": {"a.png": "False", "b.png": "True"}, "test": {"a.png": "False", "c.png": "True"}}
    assert [sample.path.parent.name for sample in dataset.split("test")] == ["test_images", "test_images"]


def test_a_column_of_splits_and_tables_in_split_folders(flat: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = "".join(f"x{n}.jpg,{'cat' if n % 2 else 'dog'},{'Training' if n < 5 else 'valid'}\n" for n in range(1, 7))
    (flat / "all.csv").write_text(f"filename,label,split\n{rows}")
    dataset = open_dataset(flat)
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 4, "val": 2}
    other = tmp_path_factory.mktemp("other")
    for split in ("train", "valid"):
        for name in ("a", "b"):
            picture(other / split / f"{name}.jpg")
        (other / split / "_classes.csv").write_text("filename, cat, dog\na.jpg, 0, 1\nb.jpg, 1, 0\n")
    assert labels_of(open_dataset(other)) == {split: {"a.jpg": "dog", "b.jpg": "cat"} for split in ("train", "val")}


@pytest.mark.parametrize(("table", "message"), [
    ("path,label,split\nx1.jpg,a,train\nx2.jpg,b,extra\n", "line 3: split 'extra' is none of train, val and test"),
    ('path,label\nx1.jpg,"a\nx2.jpg,b\n', "line 3: a line end inside of a cell"),
])
def test_tables_that_are_half_right(table: str, message: str, flat: Path) -> None:
    (flat / "all.csv").write_text(table)
    with pytest.raises(InputError, match=rf"all\.csv, {message}"):
        open_dataset(flat)


def test_a_table_without_splits_beside_others_is_left_out(flat: Path) -> None:
    (flat / "train.csv").write_text("path,label\nx1.jpg,a\nx2.jpg,b\n")
    (flat / "val.csv").write_text("path,label\nx3.jpg,a\n")
    (flat / "all.csv").write_text("path,label\nx4.jpg,a\n")
    dataset = open_dataset(flat)
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {"train": 2, "val": 1}
    assert "left out: all.csv does not say the split, as others do" in dataset.notes


def test_numbers_are_names_or_ids(flat: Path) -> None:
    (flat / "train.csv").write_text("image,level\nx1.jpg,10\nx2.jpg,2\n")
    dataset = open_dataset(flat, validation_fraction=0)
    assert dataset.class_names == ("2", "10") and labels_of(dataset)["train"] == {"x1.jpg": "10", "x2.jpg": "2"}
    (flat / "train.csv").write_text("image,level\nx1.jpg,1\nx2.jpg,0\n")
    (flat / "labels.txt").write_text("healthy\nill\n")
    assert labels_of(open_dataset(flat, validation_fraction=0))["train"] == {"x1.jpg": "ill", "x2.jpg": "healthy"}
    (flat / "labels.txt").unlink()
    assert open_dataset(flat, class_names=("sound", "ill")).class_names == ("sound", "ill")


@pytest.mark.parametrize(("row", "reason"), [
    ("x9.jpg,cat", "no file 'x9.jpg'"), ("x2.jpg,", "no label"), (",cat", "no picture"), ("twice.jpg,cat", "2 files are named"),
])
def test_bad_rows_are_named(row: str, reason: str, flat: Path) -> None:
    picture(flat / "images/a/twice.jpg")
    picture(flat / "images/b/twice.jpg")
    (flat / "train.csv").write_text(f"image,label\nx1.jpg,dog\n{row}\n")
    with pytest.raises(InputError, match=rf"train\.csv, line 3: {reason}"):
        open_dataset(flat)


@pytest.mark.parametrize("table", [
    "image,tags\nx1.jpg,clear primary\nx2.jpg,haze primary\nx3.jpg,clear\nx4.jpg,haze\n", "Id,Target\nx1,0 16\nx2,3\n",
    "image,labels\nx1.jpg,cat;dog\nx2.jpg,cat\n", 'image,labels\nx1.jpg,"[1, 4]"\n',
    'image,label\nx1.jpg,"cat,dog"\nx2.jpg,"dog,cow"\n'
    'x3.jpg,"cow,cat"\n', "image,person,dog\nx1.jpg,1,1\nx2.jpg,0,1\n", "image,person,dog\nx1.jpg,0,0\nx2.jpg,0,1\n",
    "image,label\nx1.jpg,cat\nx1.jpg,dog\n",
])
def test_tables_with_several_labels_a_picture(table: str, flat: Path) -> None:
    (flat / "train.csv").write_text(table)
    with pytest.raises(LabelError, match=r"train\.csv, line \d: .*several labels a picture \(multi-label\)") as caught:
        open_dataset(flat)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", ["pink primrose", "tench, Tinca tinca"])
def test_one_label_of_several_words(label: str, flat: Path) -> None:
    (flat / "train.csv").write_text(f'image,labels\nx1.jpg,"{label}"\nx2.jpg,"sword lily"\n')
    assert set(open_dataset(flat).class_names) == {label, "sword lily"}


@pytest.mark.parametrize(("table", "why"), [
    ("image,xmin,ymin,label\nx1.jpg,1,1,cat\n", "is a table of boxes"), ("a,b\n1,2\n", "has no column of pictures"),
    ("image,height,weight\nx1.jpg,3,4\n", "has no column of labels"),
    ("image,label\nfar.jpg,cat\n", "its first picture, 'far.jpg', is not here"),
    ("image,label\n", "has no rows"), ("", "has no rows"),
    ("image,text\n" + "".join(f"x{number}.jpg,number {number}\n" for number in range(1, 20)), "a label of its own"),
])
def test_tables_that_do_not_help_are_said(table: str, why: str, flat: Path) -> None:
    (flat / "x.csv").write_text(table)
    with pytest.raises(LabelError, match=rf"(?s)only one class.*x\.csv .*{why}"):
        open_dataset(flat)
    for name in ("a/1.png", "b/1.png"):  # class folders are good without it
        picture(flat / name)
    dataset = open_dataset(flat)
    assert dataset.class_names == ("a", "b", "images") and any(why in note for note in dataset.notes)


def test_tables_that_are_no_text_are_named(flat: Path) -> None:
    (flat / "train.csv").write_bytes("image,label\nx1.jpg,grün\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"train\.csv, line 2: not UTF-8"):
        open_dataset(flat)


def record(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 500) + b"\1\2\3\4\x0a\xf0" + b"x" * 600)


@pytest.mark.parametrize(("name", "what"), [
    ("train-00000-of-00002", "a TFRecord shard"), ("a.tfrecord", "a TFRecord shard"), ("train-0001.tar", "WebDataset"),
    ("train.parquet", "Parquet"), ("data.mdb", "LMDB"), ("data.zip", "an archive"), ("train.h5", "HDF5"),
    ("train.rec", "RecordIO"),
])
def test_containers_are_named_for_what_they_are(name: str, what: str, tmp_path: Path) -> None:
    root = tmp_path / "records"
    (root / "train").mkdir(parents=True)
    path = root / "train" / name
    if "TFRecord" in what:
        record(path)
    elif path.suffix == ".tar":
        with tarfile.open(path, "w") as shard:
            shard.add(picture(tmp_path / "0.jpg"), "0.jpg")
    else:
        heads = {".parquet": b"PAR1", ".mdb": b"\0" * 16 + b"\xde\xc0\xef\xbe", ".zip": b"PK\3\4", ".h5": b"\x89HDF\r\n",
                 ".rec": b"\x0a\x23\xd7\xce"}
        path.write_bytes(heads[path.suffix] + b"x" * 600)
    with pytest.raises(InputError, match=rf"{re.escape(name)} is .*{what}.*, which is not read") as caught:
        open_dataset(root)
    assert str(caught.value).endswith(("into class folders.", "val-0000.tar).")) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match=f"is .*{what}.*, not a folder"):
        open_dataset(path)
