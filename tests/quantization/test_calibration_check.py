"""The look at the pictures that calibrate."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv3_tf.config import Config
from mnv3_tf.data import open_dataset, scan_dataset
from mnv3_tf.errors import InputError
from mnv3_tf.files import read_json
from mnv3_tf.progress import Silent
from mnv3_tf.quantization.calibration_check import (
    CalibrationCheck,
    Content,
    RangeGrowth,
    check_calibration,
    measure_content,
    refuse_nonsense,
)
from mnv3_tf.quantization.quantize import quantize

pytestmark = pytest.mark.usefixtures("loaded_once")

RNG = np.random.default_rng(0)


def noise(count: int, side: int = 64) -> np.ndarray:
    return RNG.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def clouds(count: int, side: int = 64) -> np.ndarray:
    small = RNG.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BICUBIC)) for p in small])


def resized_noise(count: int) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(p).resize((64, 64), Image.Resampling.BILINEAR)) for p in noise(count, 224)])


@pytest.mark.parametrize("make", [noise, resized_noise])
def test_random_numbers_are_recognised(make) -> None:
    content = measure_content([make(8), make(4)])
    assert content.pictures == 12 and content.constant == 0 and abs(content.likeness) < 0.1
    with pytest.raises(InputError, match=r"look like random numbers.*--smoke"):
        refuse_nonsense(content, Path("data"), smoke=False)
    refuse_nonsense(content, Path("data"), smoke=True)


def test_blank_pictures_are_recognised() -> None:
    blank = np.full((6, 64, 64, 3), (10, 200, 30), np.uint8)
    content = measure_content([blank, clouds(4)])
    assert (content.pictures, content.constant) == (10, 6)
    with pytest.raises(InputError, match="6 of 10 pictures are one colour all over"):
        refuse_nonsense(content, Path("data"), smoke=False)


def test_pictures_pass() -> None:
    content = measure_content([clouds(8)])
    assert content.likeness > 0.5 and content.problem() is None


def test_what_is_wrong_with_the_choice_of_pictures(pictures: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    shutil.copy(root / "train/red/red_0.png", root / "train/red/again.png")
    shutil.copy(root / "train/red/red_1.png", root / "test/red/known.png")
    dataset = open_dataset(root)
    red = tuple(sample for sample in dataset.split("train") if sample.path.parent.name == "red")
    steps = (RangeGrowth(16, 0.1, 0.5), RangeGrowth(33, 1.0, 1.0))
    found = check_calibration(dataset, red, scan_dataset(dataset).contents, Content(33, 0, 0.9), steps, smoke=False)
    assert found.classes == {"blue": 0, "green": 0, "red": 33}
    assert [{Path(p).name for p in group} for group in found.duplicates] == [{"again.png", "red_0.png"}]
    assert len(found.overlaps) == 1 and "red_1.png (test: known.png)" in found.overlaps[0]
    remarks = found.remarks()
    assert "no calibration picture of blue, green" in remarks[0] and len(remarks) == 4
    assert "the ranges still grow: half of the pictures reach 50%" in remarks[3]


def test_nothing_to_remark() -> None:
    growth = (RangeGrowth(32, 0.9, 0.97), RangeGrowth(64, 1, 1))
    fine = CalibrationCheck("data", Content(64, 0, 0.8), {"a": 30, "b": 34}, (), (), growth, False)
    assert fine.remarks() == [] and fine.to_dict()["remarks"] == []


@pytest.mark.slow
def test_a_quantized_run_says_what_calibrated_it(ptq_run: Path, pictures: Path) -> None:
    facts = read_json(ptq_run / "calibration.json")
    assert facts["source"] == str(pictures) and facts["content"]["pictures"] == 77 and facts["smoke"] is False
    assert sum(facts["classes"].values()) == 77 and set(facts["classes"]) == {"blue", "green", "red"}
    steps = facts["convergence"]
    assert [step["pictures"] for step in steps] == [16, 32, 64, 77] and steps[-1] == {"pictures": 77, "worst": 1.0, "median": 1.0}
    assert all(a["median"] <= b["median"] for a, b in itertools.pairwise(steps))


@pytest.mark.slow
def test_random_pictures_calibrate_only_as_a_smoke_test(float_run: Path, tiny_config: Config, tmp_path: Path) -> None:
    for split, count in (("train", 8), ("val", 3)):
        for name in ("blue", "green", "red"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number, pixels in enumerate(noise(count)):
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
    dataset = open_dataset(tmp_path / "data")
    with pytest.raises(InputError, match="random numbers"):
        quantize(float_run, dataset, tiny_config, tmp_path / "q", method="ptq", progress=Silent())
    assert not (tmp_path / "q").exists()
    run = quantize(float_run, dataset, tiny_config, tmp_path / "q", method="ptq", smoke=True, progress=Silent())
    facts = read_json(run.calibration)
    assert facts["smoke"] is True and "calibrated for a smoke test only" in facts["remarks"][0]
