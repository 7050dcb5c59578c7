"""Batches: order, augmentation and their independence of threads."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv3_tf.config import AugmentConfig
from mnv3_tf.data import Preprocessing, open_dataset
from mnv3_tf.data.batches import ContractPictures, ordered_parallel
from mnv3_tf.data.pack import pack
from mnv3_tf.errors import InputError
from mnv3_tf.progress import Silent
from mnv3_tf.training import batches as module
from mnv3_tf.training.augment import augment
from mnv3_tf.training.batches import TrainingBatches, cut_mix

CONTRACT = Preprocessing(height=32, width=48)
OFF = AugmentConfig(smallest_area=1.0, aspect=0.0, horizontal_flip=False, rotation=0, brightness=0, contrast=0, saturation=0,
                    erase=0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def gradient() -> Image.Image:
    rows, columns = np.mgrid[0:64, 0:96]
    return Image.fromarray(np.stack([rows * 3, columns * 2, rows + columns], axis=-1).astype(np.uint8))


def test_no_augmentation_is_the_contract() -> None:
    assert np.array_equal(augment(gradient(), CONTRACT, OFF, rng()), CONTRACT.prepare(gradient()))


def test_flips_mirror_the_contract() -> None:
    flip = dataclasses.replace(OFF, horizontal_flip=True, vertical_flip=True)
    plain = CONTRACT.prepare(gradient())
    versions = {b"": plain, b"h": plain[:, ::-1], b"v": plain[::-1], b"hv": plain[::-1, ::-1]}
    seen = set()
    for seed in range(40):
        changed = augment(gradient(), CONTRACT, flip, rng(seed))
        seen.update(name for name, version in versions.items() if np.array_equal(changed, version))
    assert seen == set(versions)


def test_brightness_scales_pixels() -> None:
    grey = Image.new("RGB", (50, 40), (100, 100, 100))
    values = {int(augment(grey, CONTRACT, dataclasses.replace(OFF, brightness=0.3), rng(s))[0, 0, 0]) for s in range(60)}
    assert min(values) >= 70 and max(values) <= 130 and max(values) - min(values) > 30


def test_crop_keeps_the_asked_area() -> None:
    # Columns hold their own number: the span of a crop's pixels tells how wide it was.
    columns = Image.fromarray(np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3)).copy())
    config = dataclasses.replace(OFF, smallest_area=0.25)
    spans = [np.ptp(augment(columns, CONTRACT, config, rng(s))[0, :, 0].astype(int)) for s in range(80)]
    assert 90 <= min(spans) < 115 and max(spans) > 180


def test_erase_blanks_one_rectangle() -> None:
    white = Image.new("RGB", (48, 32), (255, 255, 255))
    pixels = augment(white, CONTRACT, dataclasses.replace(OFF, erase=1.0), rng(3))
    changed = (pixels != 255).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert changed[rows.min():rows.max() + 1, columns.min():columns.max() + 1].all()
    assert 0.01 < changed.mean() < 0.25


def batches(pictures: Path, workers: int, **changes) -> TrainingBatches:
    dataset = open_dataset(pictures)
    settings = {"batch_size": 16, "augmentation": AugmentConfig(mixup=0.2), "seed": 3, "workers": workers} | changes
    return TrainingBatches(dataset.split("train"), CONTRACT, 3, **settings)


def test_threads_do_not_change_batches(pictures: Path) -> None:
    one, four = batches(pictures, 1), batches(pictures, 4)
    for _ in range(2):
        for first, second in zip(one.epoch(5), four.epoch(5), strict=True):
            for a, b in zip(first, second, strict=True):
                assert np.array_equal(a, b)


def test_epoch_from_the_middle_continues_it(pictures: Path) -> None:
    whole = list(batches(pictures, 2).epoch(1))
    rest = list(batches(pictures, 2).epoch(1, first_step=4))
    assert len(whole) == 6 and len(rest) == 2
    for a, b in zip(whole[4:], rest, strict=True):
        assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def test_epochs_differ(pictures: Path) -> None:
    source = batches(pictures, 2)
    assert not np.array_equal(next(source.epoch(0))[0], next(source.epoch(1))[0])


def test_every_picture_once_and_no_remainder(pictures: Path) -> None:
    source = batches(pictures, 2, batch_size=40, augmentation=None)
    labels = [labels for _, labels, _ in source.epoch(0)]
    assert [len(chunk) for chunk in labels] == [40, 40]  # 96 pictures: the last 16 wait for another epoch


def test_fewer_pictures_than_a_batch_make_one_batch(pictures: Path) -> None:
    source = batches(pictures, 2, batch_size=1000)
    assert source.batch_size == 96 and source.steps_per_epoch == 1


def test_cut_mix_puts_a_rectangle_of_another_picture_into_each() -> None:
    black, white = np.zeros((4, 32, 48, 3), np.uint8), np.full((4, 32, 48, 3), 255, np.uint8)
    one, other = np.tile(np.float32([1, 0]), (4, 1)), np.tile(np.float32([0, 1]), (4, 1))
    shares = []
    for seed in range(200):
        pixels, labels = cut_mix((black, one), (white, other), rng(seed), alpha=1.0)
        rows, columns = np.nonzero(pixels[0, ..., 0])
        if len(rows):
            assert (pixels[:, rows.min():rows.max() + 1, columns.min():columns.max() + 1] == 255).all()
        assert np.allclose(labels[:, 1], (pixels[..., 0] == 255).mean(axis=(1, 2))) and np.allclose(labels.sum(axis=1), 1)
        shares.append(labels[0, 1])
    # Half of the area, uniformly, less what lies beyond the borders.
    assert 0.2 < np.mean(shares) < 0.4 and max(shares) > 0.7 and min(shares) < 0.03


def test_with_both_ways_of_mixing_a_batch_has_one(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []
    for way in ("mix_up", "cut_mix"):
        monkeypatch.setattr(module, way, lambda batch, others, rng, alpha, way=way: (asked.append((way, alpha)), batch)[1])
    source = batches(pictures, 1, augmentation=dataclasses.replace(AugmentConfig(), mixup=0.2, cutmix=1.0))
    for epoch in range(4):
        assert len(list(source.epoch(epoch))) == 6
    assert len(asked) == 24 and set(asked) == {("mix_up", 0.2), ("cut_mix", 1.0)}


def test_class_weights_reach_the_loss(pictures: Path) -> None:
    source = batches(pictures, 1, class_weights=np.array([1.0, 2.0, 3.0]), augmentation=None)
    _, labels, weights = next(source.epoch(0))
    assert np.array_equal(weights, labels.argmax(axis=1) + 1)


def test_a_small_cache_changes_nothing(pictures: Path) -> None:
    cached, uncached = batches(pictures, 2), batches(pictures, 2, cache_mb=0)
    for epoch in (0, 1):
        for a, b in zip(cached.epoch(epoch), uncached.epoch(epoch), strict=True):
            assert np.array_equal(a[0], b[0])


@pytest.mark.parametrize("augmentation", [None, OFF])
def test_the_next_picture_takes_the_place_of_a_broken_one(augmentation: AugmentConfig | None, tmp_path: Path) -> None:
    for number in range(200):
        path = tmp_path / ("a", "b")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (48, 32), (number, 0, 0)).save(path)
    samples = open_dataset(tmp_path, validation_fraction=0).split("train")
    whole = list(TrainingBatches(samples, CONTRACT, 2, batch_size=50, augmentation=augmentation, seed=3).epoch(1))
    order = np.random.default_rng([3, 1]).permutation(200)
    for place in (70, 71):
        samples[int(order[place])].path.write_bytes(b"no picture")
    said: list[str] = []
    source = TrainingBatches(samples, CONTRACT, 2, batch_size=50, augmentation=augmentation, seed=3, workers=3, cache_mb=0,
                             say=said.append)
    found = list(source.epoch(1))
    assert len(source.broken) == 2 and sorted(said) == sorted(
        f"broken, the next picture takes its place: {samples[int(order[place])].path}: not a picture of an allowed format "
        "(JPEG, PNG, WebP, BMP, GIF, TIFF)." for place in (70, 71))
    for (pixels, labels, _), (before, labels_before, _), step in zip(found, whole, range(4), strict=True):
        same = np.ones(50, bool)
        if step == 1:
            same[20:22] = False
            assert (pixels[20:22] == before[22]).all() and (labels[20:22] == labels_before[22]).all()
        assert np.array_equal(pixels[same], before[same]) and np.array_equal(labels[same], labels_before[same])
    list(source.epoch(2))
    assert len(said) == 2  # named once
    samples[int(order[0])].path.unlink()
    with pytest.raises(InputError, match=r"3 broken pictures of 200 to train on, which is more than 1%.*data\.check=full"):
        list(source.epoch(1))


def test_shards_give_the_batches_of_their_pictures(pictures: Path, tmp_path: Path) -> None:
    pack(open_dataset(pictures), tmp_path / "shards", progress=Silent())
    for a, b in zip(batches(pictures, 2).epoch(1), batches(tmp_path / "shards", 2).epoch(1), strict=True):
        assert all(np.array_equal(*parts) for parts in zip(a, b, strict=True))


def test_contract_pictures_are_bit_identical_each_time(pictures: Path) -> None:
    held = ContractPictures(open_dataset(pictures).split("val"), CONTRACT, batch_size=7)
    first, second = np.concatenate(list(held)), np.concatenate(list(held))
    direct = np.stack([CONTRACT.load(sample.path) for sample in held.samples])
    assert np.array_equal(first, direct) and np.array_equal(second, direct)


def test_ordered_parallel_passes_errors_on() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    with pytest.raises(ValueError, match="three"):
        list(ordered_parallel(work, range(10), workers=2, ahead=2))


def test_parts_of_a_batch_are_its_rows(pictures: Path) -> None:
    """Also where pictures are mixed with others of the batch, which other parts have."""
    samples = open_dataset(pictures).split("train")
    mixed = dataclasses.replace(AugmentConfig(), mixup=0.4)
    whole, *parts = (TrainingBatches(samples, CONTRACT, 3, batch_size=12, augmentation=mixed, part=part, seed=3,
                                     class_weights=np.array([1, 2, 3])) for part in ((0, 1), (0, 3), (1, 3), (2, 3)))
    together = zip(*(part.epoch(1, first_step=5) for part in parts), strict=True)
    for expected, rows in zip(whole.epoch(1, first_step=5), together, strict=True):
        for value, *found in zip(expected, *rows, strict=True):
            assert len(found[0]) == 4 and np.array_equal(np.concatenate(found), value)
