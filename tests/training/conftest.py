"""Runs that tests of training look at: a student of a teacher, whole, and stopped and gone on."""

from pathlib import Path

import pytest
from shared import ONE_BLOCK, Shared, StopAfter, Told, train_run

from mnv3_tf.config import Config, load_config
from mnv3_tf.data import open_dataset
from mnv3_tf.files import write_json
from mnv3_tf.interrupts import Interrupted
from mnv3_tf.progress import Silent


@pytest.fixture(scope="session")
def student_config(source_run: Path, tiny_config: Config) -> Config:
    """A student without labels' share: all it learns, it learns from the teacher."""
    return load_config(None, [f"train.teacher={source_run}", "train.teacher_weight=1", "data.image_size=[40,40]",
                              "model.alpha=0.5", "train.epochs=6", ONE_BLOCK[0]], tiny_config)


@pytest.fixture(scope="session")
def student_run(pictures: Path, student_config: Config, shared: Shared) -> Path:
    """The student's run."""
    return shared("student", lambda out: train_run(pictures, student_config, out))


@pytest.fixture(scope="session")
def resumed_student(pictures: Path, student_config: Config, shared: Shared) -> Path:
    """A folder with the same run, stopped in its second epoch and gone on, and with what a tracker was told meanwhile."""
    from mnv3_tf.training.trainer import train

    def make(folder: Path) -> None:
        tracker, run = Told(), folder / "run"
        with pytest.raises(Interrupted):
            train(open_dataset(pictures), student_config, run, progress=StopAfter(9), tracker=tracker)
        train(open_dataset(pictures), student_config, run, resume=True, progress=Silent(), tracker=tracker)
        write_json(folder / "told.json", tracker.calls)

    return shared("resumed", make)
