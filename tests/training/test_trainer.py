"""Training runs: what they leave, how they resume, what they refuse."""

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from shared import ONE_BLOCK, StopAfter, weights

from mnv3_tf.config import Config, load_config
from mnv3_tf.data import open_dataset
from mnv3_tf.errors import InputError
from mnv3_tf.files import read_json
from mnv3_tf.interrupts import Interrupted
from mnv3_tf.progress import Silent
from mnv3_tf.training.defaults import balanced_weights, decide
from mnv3_tf.training.trainer import train


def test_a_run_holds_what_later_stations_read(float_run: Path) -> None:
    names = {path.name for path in float_run.iterdir()}
    assert {"model.keras", "labels.txt", "preprocessing.json", "config.yaml", "metrics.json", "log.csv", "curves.png", "run.json",
            "scan.json", "state", "tensorboard"} <= names
    assert (float_run / "labels.txt").read_text() == "blue\ngreen\nred\n"
    assert list((float_run / "tensorboard").glob("events*"))
    rows = list(csv.DictReader((float_run / "log.csv").open()))
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 13)]
    assert {"train_loss", "raw_val_top1", "ema_val_top1", "learning_rate", "pictures_per_second"} <= set(rows[0])


def test_it_learns_and_validation_follows_training(float_run: Path) -> None:
    """BatchNorm's momentum suits the few steps there are: validation is not at chance while training succeeds."""
    metrics = read_json(float_run / "metrics.json")
    assert metrics["val"]["top1"] >= 0.9 and metrics["test"]["top1"] >= 0.9
    rows = list(csv.DictReader((float_run / "log.csv").open()))
    assert float(rows[5]["raw_val_top1"]) > 0.9


def test_averaged_weights_are_of_use_from_the_first_epochs(float_run: Path) -> None:
    """Their decay starts low: after 12 steps they are no mixture with the random weights of the start any more."""
    rows = list(csv.DictReader((float_run / "log.csv").open()))
    assert all(float(row["ema_val_top1"]) >= float(row["raw_val_top1"]) - 0.25 for row in rows[1:])
    assert float(rows[5]["ema_val_top1"]) > 0.9


@pytest.mark.slow
def test_the_saved_model_is_the_one_that_was_scored(float_run: Path, pictures: Path) -> None:
    from mnv3_tf.export.evaluate.classifier import Classifier
    from mnv3_tf.export.evaluate.evaluate import evaluate

    result = evaluate(Classifier(float_run), pictures, progress=Silent())
    recorded = read_json(float_run / "metrics.json")["test"]
    assert result.split == "test" and result.scores.top1 == recorded["top1"]
    assert result.scores.loss == pytest.approx(recorded["loss"], rel=1e-5)


# `mnv3 train` that ends by SIGKILL once so many steps are done.
KILLED = """
import contextlib, os, signal, sys
from mnv3_tf import progress
from mnv3_tf.cli import main

class Killed(progress.Terminal):
    @contextlib.contextmanager
    def task(self, description, total):
        def advance(done, note):
            if description == "Training" and done == 20:
                os.kill(os.getpid(), signal.SIGKILL)
        yield advance

progress.Terminal = Killed
main.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_stopped_and_killed_it_goes_on_as_if_nothing_had_happened(pictures: Path, one_block_run: Path, tmp_path: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped inside the first epoch, killed in the fourth, of which nothing is left, and stopped at the end of the fifth:
    weights, optimizer, averages and scores equal the uninterrupted run's."""
    from mnv3_tf.cli.main import main

    dataset, config, run = open_dataset(pictures), load_config(None, ONE_BLOCK), tmp_path / "run"
    with pytest.raises(Interrupted, match="--resume"):
        train(dataset, config, run, progress=StopAfter(3))

    command = ["train", "--data", str(pictures), "--out", str(run), "--resume"]
    for setting in ONE_BLOCK:
        command += ["-o", setting]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    log = run / "log.csv"
    assert len(log.read_text().splitlines()) == 1 + 3

    with pytest.raises(Interrupted, match="--resume"):
        train(dataset, config, run, resume=True, progress=StopAfter(30))
    assert len(log.read_text().splitlines()) == 1 + 5
    with pytest.raises(SystemExit) as ended:
        main(command)
    errors = capsys.readouterr().err
    assert not ended.value.code, errors
    assert "resuming after" in errors

    for ours, theirs in zip(weights(run), weights(one_block_run), strict=True):
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=1e-3, atol=1e-4)
    ours, theirs = (list(csv.DictReader(file.open())) for file in (log, one_block_run / "log.csv"))
    assert [int(row["epoch"]) for row in ours] == list(range(1, 11))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["learning_rate"] == other["learning_rate"]
        assert float(mine["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-3)
        assert float(mine["raw_val_loss"]) == pytest.approx(float(other["raw_val_loss"]), rel=1e-2)


def test_a_used_folder_is_refused(pictures: Path, tiny_config: Config, float_run: Path) -> None:
    with pytest.raises(InputError, match="--resume"):
        train(open_dataset(pictures), tiny_config, float_run, progress=Silent())


def test_resume_needs_a_run(pictures: Path, tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run to resume"):
        train(open_dataset(pictures), tiny_config, tmp_path / "none", resume=True, progress=Silent())


def test_resume_with_other_settings_is_refused(pictures: Path, tiny_config: Config, float_run: Path) -> None:
    other = load_config(None, ["train.seed=7"], tiny_config)
    with pytest.raises(InputError, match=r"train\.seed: 0 -> 7"):
        train(open_dataset(pictures), other, float_run, resume=True, progress=Silent())


def test_a_damaged_state_is_named(pictures: Path, tiny_config: Config, float_run: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(float_run, run)
    state = run / "state" / "state.npz"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"state\.npz"):
        train(open_dataset(pictures), tiny_config, run, resume=True, progress=Silent())


@pytest.mark.slow
def test_broken_pictures_are_named_and_left_out(pictures: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    (root / "train" / "red" / "broken.jpg").write_bytes(b"no picture")
    (root / "train" / "yellow").mkdir()
    (root / "train" / "beside.jpg").write_bytes(b"of no class")
    progress = Silent()
    train(open_dataset(root), load_config(None, [*ONE_BLOCK, "train.epochs=1"]), tmp_path / "run", progress=progress)
    for words in ("broken.jpg", "train/yellow/: no pictures in it, so it is not a class",
                  "1 file beside the class folders left out"):
        assert any(words in line for line in progress.lines), words
    strict = load_config(None, [*ONE_BLOCK, "train.epochs=1", "data.strict=true"])
    with pytest.raises(InputError, match=r"broken\.jpg"):
        train(open_dataset(root), strict, tmp_path / "strict", progress=Silent())


def test_signals_are_given_back() -> None:
    from mnv3_tf.interrupts import stop_on_signals

    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
    assert signal.getsignal(signal.SIGINT) is before


def test_training_in_a_thread_needs_no_signals() -> None:
    from mnv3_tf.interrupts import stop_on_signals

    seen = []
    thread = threading.Thread(target=lambda: seen.append(stop_on_signals().__enter__()))
    thread.start()
    thread.join()
    assert seen == [[]]


@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.8), (20, 0.9), (50, 0.96), (100, 0.98), (10_000, 0.99)])
def test_batchnorm_momentum_follows_the_steps(steps: int, momentum: float) -> None:
    assert decide(Config().train, 64, steps).batchnorm_momentum == pytest.approx(momentum)


def test_the_default_rate_scales_with_the_batch_and_says_so() -> None:
    small, large = (decide(load_config(None, ["train.optimizer=sgd"]).train, batch, 100) for batch in (64, 256))
    assert large.learning_rate == pytest.approx(4 * small.learning_rate)
    assert any("scaled to 256" in note for note in large.notes)
    given = decide(load_config(None, ["train.learning_rate=0.5"]).train, 256, 100)
    assert given.learning_rate == 0.5


def test_balanced_weights() -> None:
    # 10 + 30 pictures: weights 2 and 2/3, so that each class weighs 20.
    np.testing.assert_allclose(balanced_weights(np.array([10, 30])), [2.0, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
def test_schedule_warms_up_and_ends_at_zero(optimizer: str) -> None:
    from mnv3_tf.training.defaults import make_optimizer

    config = load_config(None, [f"train.optimizer={optimizer}", "train.epochs=10", "train.warmup_epochs=2",
                                "train.learning_rate=0.5"]).train
    optimizer_ = make_optimizer(config, decide(config, 64, 10))
    rates = [float(optimizer_._learning_rate(step)) for step in (0, 10, 20, 60, 100)]
    np.testing.assert_allclose(rates, [0.0, 0.25, 0.5, 0.25, 0.0], atol=1e-6)
