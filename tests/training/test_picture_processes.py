"""Batches by processes: the same as by threads, and what happens when one of them ends."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.config import AugmentConfig
from mnv3_tf.data import Preprocessing, open_dataset
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.training import batches, picture_processes
from mnv3_tf.training.batches import TrainingBatches

CONTRACT = Preprocessing(height=32, width=48)


@pytest.fixture(autouse=True)
def _two_are_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_THREADS", 1)


def batches_of(data: Path, workers: int, **options) -> TrainingBatches:
    settings = {"batch_size": 16, "augmentation": AugmentConfig(mixup=0.2, cutmix=0.5), "seed": 3} | options
    return TrainingBatches(open_dataset(data).split("train"), CONTRACT, 3, workers=workers, **settings)


def test_processes_give_the_batches_of_threads(pictures: Path) -> None:
    """Also after an epoch that was left in the middle, from the middle of one, and as a part of every batch."""
    for part in ((0, 1), (1, 2)):
        threads, processes = batches_of(pictures, 1, part=part), batches_of(pictures, 2, part=part)
        left = processes.epoch(0)
        next(left)
        left.close()
        for epoch, first in ((1, 0), (2, 3)):
            pairs = list(zip(threads.epoch(epoch, first), processes.epoch(epoch, first), strict=True))
            assert len(pairs) == 6 - first
            for expected, found in pairs:
                for one, other in zip(expected, found, strict=True):
                    assert np.array_equal(one, other)
        processes.close()


def test_broken_pictures_are_replaced_and_named_as_by_threads(pictures: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for copy in range(3):  # one in a hundred may be broken
        for path in (pictures / "train").glob("*/*.png"):
            (target := data / "train" / path.parent.name / f"{copy}{path.name}").parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (data / "train" / "red" / "0red_7.png").write_bytes(b"no picture")
    said: dict[int, list[str]] = {1: [], 2: []}
    sources = [batches_of(data, workers, augmentation=None, say=said[workers].append) for workers in said]
    for epoch in (0, 1):
        for expected, found in zip(*(source.epoch(epoch) for source in sources), strict=True):
            assert np.array_equal(expected[0], found[0]) and np.array_equal(expected[1], found[1])
    sources[1].close()
    assert said[1] == said[2] and len(said[2]) == 1 and "0red_7.png" in said[2][0] and len(sources[1].broken) == 1
    (data / "train" / "red" / "0red_8.png").write_bytes(b"no picture")
    (data / "train" / "red" / "0red_9.png").write_bytes(b"no picture")
    source = batches_of(data, 2)
    with pytest.raises(InputError, match="more than 1%"):
        list(source.epoch(0))
    source.close()


def test_a_process_that_is_killed_is_one_line(pictures: Path) -> None:
    source = batches_of(pictures, 2)
    assert len(list(source.epoch(0))) == 6
    assert source._processes
    os.kill(source._processes._children[1]._process.pid, signal.SIGKILL)
    with pytest.raises(KitError, match=r"A process that prepares training pictures ended \(signal 9, SIGKILL"):
        list(source.epoch(1))
    source.close()


def test_the_path_of_the_temporary_folder_may_be_long(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / ("long" * 30)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    source = batches_of(pictures, 2)
    assert len(list(source.epoch(0))) == 6
    source.close()


def test_a_process_that_does_not_come_up_is_one_line() -> None:
    with pytest.raises(KitError, match=r"A process that prepares training pictures ended \(exit code 3"):
        picture_processes.PictureProcesses(2, os._exit, (3,), (1, 2, 2), owner=lambda epoch, place: 0, ahead=1)


def test_nothing_is_left(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_processes, "_place", lambda size: str(tmp_path))
    source = batches_of(pictures, 2)
    next(source.epoch(0))
    assert source._processes and len(list(tmp_path.iterdir())) == 1
    children = [child._process for child in source._processes._children]
    source.close()
    assert not list(tmp_path.iterdir()) and all(child.poll() is not None for child in children)


def test_without_room_it_is_one_line(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_processes, "_place", lambda size: str(tmp_path / "none"))
    with pytest.raises(KitError, match=r"has room for training batches.*data\.workers"):
        next(batches_of(pictures, 2).epoch(0))
