"""TFRecord and tar shards: read where they lie, indexed once, and made by `mnv3 pack`."""

import gzip
import io
import json
import random
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv3_tf.data import PictureDataset, evaluation_split, open_dataset, read_picture, scan, scan_dataset, shards
from mnv3_tf.data.decode import picture_bytes
from mnv3_tf.data.pack import pack
from mnv3_tf.data.sample_list import NO_LABEL, Listing, Member, Sample, Samples
from mnv3_tf.data.samples import LabelError
from mnv3_tf.data.tfrecord import crc32c, masked_crc
from mnv3_tf.errors import InputError
from mnv3_tf.progress import Silent

NAMES = ("tench", "goldfish", "shark")


def jpeg(shade: int, size: tuple[int, int] = (12, 8)) -> bytes:
    store = io.BytesIO()
    Image.new("RGB", size, (shade % 256, shade // 256, 40)).save(store, "JPEG", quality=90)
    return store.getvalue()


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: dict[str, bytes | list[int] | float]) -> bytes:
    """A tf.train.Example; whole numbers are written packed, as TensorFlow does."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            kind = field(1, field(1, value))
        elif isinstance(value, float):
            kind = field(2, field(1, struct.pack("<f", value)))
        else:
            kind = field(3, field(1, b"".join(map(varint, value))))
        entries += field(1, field(1, name.encode()) + field(2, kind))
    return field(1, entries)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def write_tfrecord(path: Path, pictures: list[tuple[bytes, int]], keys: tuple[str, str] = ("image/encoded", "image/class/label")
                   ) -> None:
    features = [{"image/height": [8], keys[0]: content, "image/object/bbox/xmin": 0.5, keys[1]: [label]}
                for content, label in pictures]
    path.write_bytes(b"".join(record(example(dict(sorted(entry.items(), reverse=number % 2 == 0))))
                              for number, entry in enumerate(features)))


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))


def write_set(folder: Path, kind: str) -> None:
    """Two train shards and a val shard, of 3 + 2 + 2 pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in NAMES))
    names = {"tf": ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"),
             "tfds": tuple(f"fish-{split}" for split in ("train.tfrecord-00000-of-00002", "train.tfrecord-00001-of-00002",
                                                         "validation.tfrecord-00000-of-00001"))}.get(
        kind, tuple(f"{stem}.{'tfrecord' if kind == 'tfrecord' else 'tar'}" for stem in ("train-0", "train-1", "val-0")))
    start = 0
    for name, count in zip(names, (3, 2, 2), strict=True):
        pictures = [(jpeg(number), number % 3) for number in range(start, start + count)]
        start += count
        if kind in ("tf", "tfrecord"):
            write_tfrecord(folder / name, pictures)
        elif kind == "tfds":
            write_tfrecord(folder / name, pictures, ("image", "label"))
        else:
            members: dict[str, bytes] = {}
            for number, (content, label) in enumerate(pictures):
                members[f"some.dir/{number:08d}.jpg"] = content
                members[f"some.dir/{number:08d}.{kind}"] = {
                    "cls": str(label).encode(), "json": json.dumps({"width": 12, "label": NAMES[label]}).encode()}[kind]
            write_tar(folder / name, members)


def held(dataset: PictureDataset) -> dict[str, list[tuple[bytes, str]]]:
    return {split: [(picture_bytes(sample.path), dataset.class_of(sample)) for sample in samples]
            for split, samples in dataset.splits.items()}


EXPECTED = {"train": [(jpeg(number), NAMES[number % 3]) for number in range(5)],
            "val": [(jpeg(number), NAMES[number % 3]) for number in (5, 6)]}


@pytest.mark.parametrize("kind", ["tf", "tfds", "tfrecord", "cls", "json"])
def test_every_kind_of_shard_gives_its_pictures(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, kind)
    dataset = open_dataset(tmp_path)
    assert dataset.class_names == NAMES and dataset.layout == "shards" and dataset.notes == () and held(dataset) == EXPECTED
    assert np.asarray(read_picture(dataset.split("val")[1].path)).shape == (8, 12, 3)
    name = str(dataset.split("train")[4].path)
    assert name.endswith({"cls": "/train-1.tar: some.dir/00000001.jpg", "json": "/train-1.tar: some.dir/00000001.jpg",
                          "tfrecord": "/train-1.tfrecord: record 1"}.get(kind, "-00001-of-00002: record 1"))
    report = scan_dataset(dataset)
    assert report.decoded == 7 and not report.broken
    monkeypatch.setattr(shards, "_index_shard", None)  # the index is kept
    again = open_dataset(tmp_path)
    assert again == dataset and scan_dataset(again).decoded == 0


def test_only_shards_that_changed_are_indexed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, "cls")
    open_dataset(tmp_path)
    read: list[str] = []
    index_shard = shards._index_shard
    monkeypatch.setattr(shards, "_index_shard", lambda path: (read.append(path.name), index_shard(path))[1])
    write_tar(tmp_path / "train-0.tar", {"x.jpg": jpeg(70), "x.cls": b"shark\n", "only.txt": b"a fish"})
    write_tar(tmp_path / "test-0.tar", {"y.png": jpeg(71), "y.cls": b"goldfish", "y.json": b'{"label": 2}', "z.jpg": jpeg(72)})
    dataset = open_dataset(tmp_path)
    assert sorted(read) == ["test-0.tar", "train-0.tar"] and evaluation_split(dataset) == "test"
    assert held(dataset) == {"train": [(jpeg(70), "shark"), *EXPECTED["train"][3:]], "val": EXPECTED["val"],
                             "test": [(jpeg(71), "goldfish")]}
    assert dataset.notes == ("train-0.tar: 1 entry without a picture left out", "test: 1 picture without a label left out")


@pytest.mark.parametrize(("labels", "ids", "classes", "note"), [
    ("a\nb\nc\n", (1, 2, 3), ("a", "b", "c"), "labels are 1 to 3, as in TensorFlow's ImageNet: 1 is the first class, 'a'"),
    ("0:background\n1:a\n2:b\n3:c\n", (1, 2, 3), ("a", "b", "c"), "class 0, 'background', has no pictures"),
    ("a\nb\nc\nd\n", (0, 1, 2), ("a", "b", "c", "d"), None),
    ("a\nb\nc\nd\n", (1, 2, 1), ("a", "b", "c", "d"), "no label is 0: labels are taken to count from 0, so that 1 is 'b'"),
    (None, (1, 2, 3), ("1", "2", "3"), "no labels.txt"),
    (None, (0, 2, 2), ("0", "1", "2"), "no labels.txt"),
])
def test_ids_that_count_from_one_are_recognised_and_said(labels: str | None, ids: tuple[int, ...], classes: tuple[str, ...],
                                                         note: str | None, tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "train-0.tfrecord", [(jpeg(number), label) for number, label in enumerate(ids)])
    if labels:
        (tmp_path / "labels.txt").write_text(labels)
    dataset = open_dataset(tmp_path, validation_fraction=0)
    assert dataset.class_names == classes and ((not note and not dataset.notes) or note in dataset.notes[0])  # type: ignore[operator]
    assert [dataset.class_of(sample) for sample in dataset.split("train")] == [
        classes[label - (ids[0] == 1 and len(classes) == 3)] for label in ids]
    assert open_dataset(tmp_path, class_names=(*classes, "more")).class_names == (*classes, "more")


def damage(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("how", "kind", "message"), [
    ("length", "tfrecord", r"train-0\.tfrecord: record 0: the length is damaged"),
    ("cut", "tfrecord", r"train-0\.tfrecord: ends within record 2\. Copy"),
    ("cut", "cls", r"train-0\.tar: is damaged or no tar archive"),
    ("keys", "tfrecord", r"record 0: no picture in image/encoded\. It has picture, label"),
    ("several", "tfrecord", r"record 0.*multi-label"),
    ("no example", "tfrecord", r"record 0: no tf\.train\.Example"),
    ("id", "cls", r"train-0\.tar: a\.jpg: class id 3 is out of range, which is 0 to 2\. Correct labels\.txt"),
    ("name", "cls", r"train-0\.tar: a\.jpg: label 'whale' is not a class name"),
    ("no labels", "cls", "no picture in its shards has a label"),
    ("json", "json", r"train-0\.tar: a\.json: no label can be read"),
    ("gzip", "cls", r"train-0\.tar\.gz: is compressed.*Unpack it"),
    ("gzip", "tfrecord", r"train-0\.tfrecord\.gz: is compressed.*Unpack it"),
    ("two kinds", "cls", "holds tar and TFRecord shards of the train split"),
    ("two sets", "tf", r"shards of train are of sets of 2, 3"),
])
def test_shards_that_cannot_be_used_are_named(how: str, kind: str, message: str, tmp_path: Path) -> None:
    write_set(tmp_path, kind)
    first = min(tmp_path.glob("train-*"))
    content = first.read_bytes()
    if how == "length":
        damage(first, 3)
    elif how == "cut":
        first.write_bytes(content[:-3 if kind == "tfrecord" else len(content) // 2 + 100])
    elif how == "keys":
        first.write_bytes(record(example({"picture": b"", "label": [1]})))
    elif how == "several":
        first.write_bytes(record(example({"image": jpeg(1), "label": [1, 2]})))
    elif how == "no example":
        first.write_bytes(record(b"\xff" * 30))
    elif how in ("id", "name"):
        write_tar(first, {"a.jpg": jpeg(1), "a.cls": b"3" if how == "id" else b"whale"})
    elif how == "json":
        write_tar(first, {"a.jpg": jpeg(1), "a.json": b"{"})
    elif how == "no labels":
        for path in tmp_path.glob("*.tar"):
            write_tar(path, {"a.jpg": jpeg(1)})
    elif how == "gzip":
        first.with_name(f"{first.name}.gz").write_bytes(gzip.compress(content))
    elif how == "two kinds":
        write_tfrecord(tmp_path / "train-9.tfrecord", [(jpeg(1), 1)])
    else:
        (tmp_path / "train-00002-of-00003").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_shards_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        write_tfrecord(tmp_path / f"train-{number}.tfrecord", [(jpeg(number), number % 2)])
    assert [sample.path.path.name for sample in open_dataset(tmp_path, validation_fraction=0).split("train")  # type: ignore[union-attr]
            ] == ["train-1.tfrecord", "train-9.tfrecord", "train-10.tfrecord"]


def test_shards_that_are_missing_are_said(tmp_path: Path) -> None:
    write_set(tmp_path, "tf")
    (tmp_path / "train-00001-of-00002").rename(tmp_path / "old-00001-of-00002")
    assert open_dataset(tmp_path).notes == ("train: 1 of 2 shards are here",
                                            "not read, for their names say no split: old-00001-of-00002")


@pytest.mark.parametrize("name", ["train.tar", "train.tar.gz", "photos_train.tgz"])
def test_archives_beside_the_folders_they_held_are_left_alone(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"an archive")
    assert open_dataset(folder).layout == "class folders" and len(open_dataset(folder).split("all")) == 21


def test_shards_without_labels_where_none_are_needed(tmp_path: Path) -> None:
    write_set(tmp_path, "cls")
    with pytest.raises(LabelError, match="3 classes that the model does not have"):
        open_dataset(tmp_path, class_names=("cat", "dog"))
    dataset = open_dataset(tmp_path, class_names=("cat", "dog"), labels_needed=False)
    assert set(dataset.split("all").labels) == {NO_LABEL} and {name: len(part) for name, part in dataset.splits.items()} == {
        "train": 5, "val": 2}


def test_validation_pictures_are_set_aside_from_shards(tmp_path: Path) -> None:
    write_set(tmp_path, "tf")
    (tmp_path / "validation-00000-of-00001").unlink()
    dataset = open_dataset(tmp_path, validation_fraction=0.5)
    assert len(dataset.split("train")) + len(dataset.split("val")) == 5 and len(dataset.split("val")) >= 2


@pytest.mark.parametrize("length", [0, 1, 9, 1023, 1024, 1300, 40_001])
def test_checksums(length: int) -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    content = random.Random(length).randbytes(length)
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    assert crc32c(content) == crc ^ 0xFFFFFFFF


def test_the_scan_finds_bytes_that_changed_in_a_record(tmp_path: Path) -> None:
    write_set(tmp_path, "tfrecord")
    member = open_dataset(tmp_path).split("train")[1].path
    assert isinstance(member, Member)
    damage(member.path, member.offset + member.length - 3)
    read_picture(member)  # the JPEG itself does not show it
    report = scan_dataset(open_dataset(tmp_path))
    assert [str(remark.place.path) for remark in report.broken] == [f"{member.path}: record 1"]
    assert "checksum of its record is wrong" in report.broken[0].text
    assert report.to_dict()["broken"][0]["place"]["path"] == f"{member.path}: record 1"


def test_samples_are_what_they_were_made_of(tmp_path: Path) -> None:
    rows = [Sample(Path("a/b c.png"), 1, "train_list.txt:12"), Sample(Member(tmp_path / "s", "x", 7, 9), 0),
            Sample(tmp_path / "ü.png", NO_LABEL, "d/t.csv:2"), Sample(Member(tmp_path / "t", "record 2", 90, 9, 30), 2)]
    samples = Samples.of(rows)
    assert list(samples) == rows and list(samples[1:3]) == rows[1:3] and samples[-1] == rows[-1]
    assert list(samples.take([3, 0])) == [rows[3], rows[0]] and samples == Samples.of(rows) != Samples.of(rows[:3])
    listing = Listing(tmp_path)
    listing.add(tmp_path / "c.png")
    listing.add(Path("/elsewhere.png"), "e.csv:7")
    others = listing.samples([1, 0], [4, 5])
    assert Samples.joined([samples.take([3, 0]), others, samples[1:3], Samples.of([])]) == Samples.of(
        [rows[3], rows[0], *others, *rows[1:3]]) and others[0] == Sample(Path("/elsewhere.png"), 4, "e.csv:7")
    assert list(Samples.joined([samples, samples[:1]])) == [*rows, rows[0]] and not len(Samples.joined([]))
    assert len(set(samples.keys().tolist())) == 4
    assert samples.keys()[0] == Samples.of([Sample(Path("a/b c.png").absolute(), 0)]).keys()[0]


def test_a_picture_in_a_shard_takes_few_bytes(tmp_path: Path) -> None:
    count = 1000
    write_tar(tmp_path / "train-0.tar", {name: content for number in range(count) for name, content in (
        (f"{number:08d}.jpg", b"x"), (f"{number:08d}.cls", b"%d" % (number % 3)))})
    samples = open_dataset(tmp_path, validation_fraction=0).split("train")
    table = samples.table
    taken = len(table.names) + sum(part.nbytes for part in (table.ends, table.places, samples.rows, samples.labels))
    assert len(samples) == count and taken / count < 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders: 20 pictures, one of them a PNG, one that turns by EXIF, and one that is no picture."""
    for number in range(20):
        path = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number, (64, 48)))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48), (200, 0, 0)).save(tmp_path / "photos/cat/0.jpg", exif=exif)
    Image.new("RGB", (64, 48), (0, 200, 0)).save(tmp_path / "photos/dog/1.png")
    return tmp_path / "photos"


def test_what_is_packed_is_the_same_dataset(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnv3_tf.data.pack.SHARD_PICTURES", 10)
    source, out = open_dataset(folder, validation_fraction=0.3), tmp_path / "shards"
    packed = pack(source, out, progress=Silent())
    assert packed.pictures == 21 and packed.broken == () and packed.shards == len(list(out.glob("*.tar"))) == 3
    found = open_dataset(out)
    assert found.class_names == source.class_names and list(found.splits) == ["train", "val"] and held(found) == held(source)
    names = [str(sample.path) for sample in found.split("train")]
    assert names[10] == f"{out / 'train-000001.tar'}: 00000010.jpg"
    assert {name.rpartition(".")[2] for name in map(str, (sample.path for sample in found.split("all")))} == {"jpg", "png"}
    assert scan_dataset(found).fingerprints == scan_dataset(source).fingerprints

    kept, lost = out / "train-000000.tar", out / "train-000001.tar"
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    (out / ".train-000001-xyz.tar").touch()
    with pytest.raises(InputError, match="not all of its shards are here"):
        open_dataset(out)
    pack(source, out, progress=Silent())
    assert lost.read_bytes() == before and kept.stat().st_mtime_ns == stamp and not list(out.glob(".*"))
    with pytest.raises(InputError, match="shards of other pictures or another --side"):
        pack(source, out, side=32, progress=Silent())
    with pytest.raises(InputError, match="already holds files"):
        pack(source, folder, progress=Silent())


def test_packing_shrinks_pictures_and_names_the_broken(folder: Path, tmp_path: Path) -> None:
    (folder / "cat/2.jpg").write_bytes(b"no picture")
    (folder / "cat/small.png").write_bytes(small := jpeg(9, (20, 40)))
    packed = pack(open_dataset(folder, validation_fraction=0), tmp_path / "out", side=24, progress=Silent())
    assert len(packed.broken) == 1 and "cat/2.jpg: not a picture" in packed.broken[0]
    dataset = open_dataset(tmp_path / "out", validation_fraction=0)
    sizes = [read_picture(sample.path).size for sample in dataset.split("train")]
    assert sizes[0] == (24, 32) and sizes.count((32, 24)) == 19 and sizes.count((20, 40)) == 1
    assert small in {picture_bytes(sample.path) for sample in dataset.split("train")}
    assert len(dataset.split("train")) == 21


@pytest.mark.slow
def test_tensorflow_writes_and_reads_the_same_records(tmp_path: Path) -> None:
    import tensorflow as tf

    def feature(value: bytes | int) -> "tf.train.Feature":
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    big = random.Random(0).randbytes(100_000)
    with tf.io.TFRecordWriter(str(tmp_path / "train-00000-of-00001")) as writer:
        for content, label in ((jpeg(1), 1), (big, 2)):
            named = {"image/encoded": feature(content), "image/class/label": feature(label), "image/filename": feature(b"a.jpg")}
            writer.write(tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString())
    dataset = open_dataset(tmp_path, validation_fraction=0)
    assert held(dataset) == {"train": [(jpeg(1), "1"), (big, "2")]}
    report = scan_dataset(dataset)
    assert len(report.broken) == 1 and "not a picture" in report.broken[0].text  # and its checksum is right

    write_tfrecord(tmp_path / "own", [(jpeg(3), 300), (big, 5)])
    parsed = [tf.train.Example.FromString(entry.numpy()) for entry in tf.data.TFRecordDataset(str(tmp_path / "own"))]
    assert [entry.features.feature["image/class/label"].int64_list.value[0] for entry in parsed] == [300, 5]
    assert parsed[1].features.feature["image/encoded"].bytes_list.value[0] == big


def test_pictures_are_looked_at_in_processes(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (folder / "cat/2.jpg").write_bytes(b"no picture")
    dataset = open_dataset(folder)
    expected = scan_dataset(dataset, cache_path=tmp_path / "a.npz", workers=2)
    monkeypatch.setattr(scan, "_MANY", 5)
    monkeypatch.setattr(scan, "_BLOCK", 11)
    monkeypatch.setattr(scan, "MOST_THREADS", 1)
    found = scan_dataset(dataset, cache_path=tmp_path / "b.npz", workers=2)
    assert found.to_dict() == expected.to_dict() and found.decoded == 21
    assert scan_dataset(dataset, cache_path=tmp_path / "b.npz", workers=2).decoded == 0
