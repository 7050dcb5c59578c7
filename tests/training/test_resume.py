"""Going on with a run: more epochs, what must be the same, what diverged, and what is monitored."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from shared import ONE_BLOCK, StopAfter, files_of_at_most, weights

from mnv3_tf.config import load_config
from mnv3_tf.data import open_dataset
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.files import read_json
from mnv3_tf.interrupts import Interrupted
from mnv3_tf.progress import Silent
from mnv3_tf.training import defaults, trainer
from mnv3_tf.training.defaults import decide, make_optimizer
from mnv3_tf.training.state import SavedState
from mnv3_tf.training.trainer import train


def copied(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run"))


def rows_of(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "log.csv").open()))


def config_with(*settings: str):
    return load_config(None, [*ONE_BLOCK, *settings])


def no_bare_nan(path: Path) -> object:
    def refuse(word: str) -> None:
        raise AssertionError(f"{path} holds {word}")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.slow
def test_a_finished_run_goes_on_for_more_epochs(one_block_run: Path, pictures: Path, tmp_path: Path) -> None:
    """Two more after ten: what was done stays, and the learning rate is that of a run of twelve epochs."""
    run, progress = copied(one_block_run, tmp_path), Silent()
    train(open_dataset(pictures), config_with("train.epochs=12"), run, resume=True, progress=progress)
    rows, before = rows_of(run), rows_of(one_block_run)
    assert rows[:10] == before and [row["epoch"] for row in rows[10:]] == ["11", "12"]
    settings = config_with("train.epochs=12").train
    schedule = make_optimizer(settings, decide(settings, 16, 6))._learning_rate
    found = [float(row["learning_rate"]) for row in rows[10:]]
    assert found == pytest.approx([float(schedule(66)), float(schedule(72))], abs=1e-7)
    assert float(rows[10]["learning_rate"]) > float(rows[9]["learning_rate"]) == pytest.approx(0, abs=1e-7)
    assert "from here on train.epochs: 10 -> 12, with the learning rate of a run of so many" in progress.lines
    assert read_json(run / "run.json")["config"]["train"]["epochs"] == 12
    assert load_config(run / "config.yaml").train.epochs == 12


def test_with_several_steps_at_once_a_run_goes_on_in_mid_epoch(one_block_run: Path, pictures: Path, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """As with an accelerator: of the six steps of an epoch, four are done."""
    config, run = config_with("train.mixed_precision=false", "train.xla=false"), tmp_path / "run"
    with pytest.raises(Interrupted, match="0 epochs and 4 steps"):
        train(open_dataset(pictures), config, run, progress=StopAfter(4))
    monkeypatch.setattr(defaults, "has_accelerator", lambda: True)
    assert [defaults.steps_at_once(steps) for steps in (1, 6, 13, 2502)] == [1, 6, 1, 6]
    called, real = [], trainer._Steps.on_train_batch_end
    monkeypatch.setattr(trainer._Steps, "on_train_batch_end",
                        lambda self, step, logs=None: (called.append(step), real(self, step, logs)))
    train(open_dataset(pictures), config, run, resume=True, progress=Silent())
    assert called == [1] + [1, 3, 5] * 9
    for ours, theirs in zip(weights(run), weights(one_block_run), strict=True):
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=1e-3, atol=1e-4)
    for mine, other in zip(rows_of(run), rows_of(one_block_run), strict=True):
        assert mine["learning_rate"] == other["learning_rate"]
        assert float(mine["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-3)


@pytest.mark.parametrize(("setting", "says"), [
    ("train.epochs=9", "train.epochs is 9, but the run has 10: it can be given more, not fewer"),
    ("train.optimizer=sgd", "train.optimizer: adamw -> sgd. Give the same settings, or none \\(only train.epochs"),
    ("train.monitor=f1", "-o model.weights=.*/run begins with these weights"),
])
def test_other_settings_are_refused_with_the_way_out(one_block_run: Path, pictures: Path, tmp_path: Path, setting: str, says: str
                                                     ) -> None:
    with pytest.raises(InputError, match=says):
        train(open_dataset(pictures), config_with(setting), copied(one_block_run, tmp_path), resume=True, progress=Silent())


def test_other_pictures_or_classes_are_refused(one_block_run: Path, pictures: Path, tmp_path: Path) -> None:
    run, data = copied(one_block_run, tmp_path), Path(shutil.copytree(pictures, tmp_path / "data"))
    shutil.copy(next((data / "test" / "red").iterdir()), data / "train" / "red" / "new.png")
    with pytest.raises(InputError, match=r"the split train has other pictures than the run was .*\(96 then, 97 now\)"):
        train(open_dataset(data), config_with(), run, resume=True, progress=Silent())
    (run / "labels.txt").write_text("green\nblue\nred\n")
    with pytest.raises(InputError, match="other classes than the run, or in another order"):
        train(open_dataset(pictures), config_with(), run, resume=True, progress=Silent())


def test_a_state_without_its_model_is_named(one_block_run: Path, pictures: Path, tmp_path: Path) -> None:
    run = copied(one_block_run, tmp_path)
    (run / "model.keras").unlink()
    with pytest.raises(InputError, match=r"model\.keras: is gone"):
        train(open_dataset(pictures), config_with(), run, resume=True, progress=Silent())


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_the_run_goes_on_with_a_lower_rate(
        pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the second epoch are made NaN after its second step; what the first left is kept."""
    run, config = tmp_path / "run", config_with("train.epochs=2", "train.learning_rate=0.02")
    real = trainer._Steps.on_train_batch_end

    def poisoned(self, batch, logs=None):
        real(self, batch, logs)
        if (self.training.counters.epoch, self.training.counters.step) == (1, 2):
            kernel = self.model.get_layer("stem_conv").kernel
            kernel.assign(np.full(kernel.shape, math.nan))

    monkeypatch.setattr(trainer._Steps, "on_train_batch_end", poisoned)
    with pytest.raises(KitError, match=r"diverged in epoch 2, by step [3-6] of 6, with a peak learning rate of 0\.02: the loss "
                       r"is not finite \(NaN\)\. The state after epoch 1 is kept: go on from there with a lower rate, by mnv3 "
                       r"train \.\.\. --out .*run --resume -o train\.learning_rate=0\.002$") as caught:
        train(open_dataset(pictures), config, run, progress=Silent())
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    state = SavedState.read(run / "state" / "state.npz")
    assert (state.counters.epoch, state.counters.step) == (1, 0) and all(np.isfinite(value).all() for value in state.variables)
    monkeypatch.undo()
    slower = config_with("train.epochs=2", "train.learning_rate=0.002")
    train(open_dataset(pictures), slower, run, resume=True, progress=Silent())
    assert len(rows_of(run)) == 2 and float(rows_of(run)[0]["learning_rate"]) > 0.002
    for name in ("run.json", "metrics.json"):
        no_bare_nan(run / name)


@pytest.mark.slow
def test_a_rate_without_measure_is_stopped(pictures: Path, tmp_path: Path) -> None:
    """Nothing is poisoned here: a rate of 100 makes the loss, the validation loss or the weights infinite by itself."""
    config = config_with("train.epochs=8", "train.optimizer=sgd", "train.learning_rate=100", "train.weight_decay=10")
    with pytest.raises(KitError, match=r"diverged in epoch .* not finite"):
        train(open_dataset(pictures), config, tmp_path / "run", progress=Silent())
    model = tmp_path / "run" / "model.keras"
    if model.exists():
        from mnv3_tf.network.keras_io import load_keras

        assert all(np.isfinite(value).all() for value in load_keras(model).get_weights())


@pytest.mark.slow
def test_float16_skips_steps_and_goes_on_with_the_scale_of_its_loss(pictures: Path, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale that makes gradients infinite is halved and the step skipped, which is no error; a resumed run keeps the scale,
    its counter, and float16, whatever this machine would choose."""
    from keras.optimizers import LossScaleOptimizer

    real = LossScaleOptimizer.__init__
    monkeypatch.setattr(LossScaleOptimizer, "__init__",
                        lambda self, inner, initial_scale=2.0 ** 60, **rest: real(self, inner, initial_scale, **rest))
    run = tmp_path / "run"
    settings = ("train.epochs=1", "train.mixed_precision=true", "train.xla=false")
    train(open_dataset(pictures), config_with(*settings), run, progress=Silent())
    monkeypatch.undo()
    counters = SavedState.read(run / "state" / "state.npz").counters
    assert counters.mixed_precision and math.isfinite(float(rows_of(run)[0]["train_loss"]))

    seen = {}

    def entered(self, stage):
        real_enter(self, stage)
        seen["training"] = self

    real_enter = trainer._Training._enter
    monkeypatch.setattr(trainer._Training, "_enter", entered)
    train(open_dataset(pictures), config_with(*settings), run, resume=True, progress=Silent())
    optimizer = seen["training"].model.optimizer
    # Six steps, each of which halved the scale.
    assert float(np.asarray(optimizer.dynamic_scale)) == 2.0 ** 54 and int(np.asarray(optimizer.step_counter)) == 0


def test_arithmetic_is_kept_where_another_machine_would_choose_another(one_block_run: Path, pictures: Path, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnv3_tf.training.defaults.has_accelerator", lambda: True)
    progress = Silent()
    train(open_dataset(pictures), config_with(), copied(one_block_run, tmp_path), resume=True, progress=progress)
    assert SavedState.read(tmp_path / "run" / "state" / "state.npz").counters.mixed_precision is False
    assert any("float32 arithmetic" in line for line in progress.lines)


def scores(top1: float, f1: float, loss: float) -> dict[str, float]:
    return {"top1": top1, "f1": f1, "loss": loss, "balanced_accuracy": f1}


@pytest.mark.parametrize(("monitor", "best"), [("top1", 0), ("f1", 1), ("balanced_accuracy", 1), ("loss", 2)])
def test_the_monitored_score_chooses_the_epoch(monitor: str, best: int) -> None:
    training = object.__new__(trainer._Training)
    training.config = config_with(f"train.monitor={monitor}")
    epochs = [scores(0.95, 0.49, 0.3), scores(0.9, 0.8, 0.25), scores(0.9, 0.7, 0.2), scores(0.95, 0.49, 0.31)]
    assert max(range(4), key=lambda epoch: training._standing(epochs[epoch])) == best


@pytest.mark.slow
def test_training_stops_without_a_better_epoch_and_stays_stopped(pictures: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    run, progress = tmp_path / "run", Silent()
    stopped = "no better loss on the validation pictures for 2 epochs: stopped after epoch 3"
    falling = iter(range(99))
    monkeypatch.setattr(trainer._Training, "_standing", lambda self, found: next(falling))  # the best is asked for second
    settings = ("train.epochs=9", "train.monitor=loss", "train.patience=2", "train.ema_decay=0")
    train(open_dataset(pictures), config_with(*settings), run, progress=progress)
    assert len(rows_of(run)) == 3 and f"{stopped} of 9" in progress.lines and read_json(run / "run.json")["best"]["epoch"] == 1
    train(open_dataset(pictures), config_with(*settings), run, resume=True, progress=progress)
    assert len(rows_of(run)) == 3
    longer = config_with(*settings[:-2], "train.ema_decay=0", "train.patience=3")
    train(open_dataset(pictures), longer, run, resume=True, progress=progress)
    assert len(rows_of(run)) == 4


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_line_and_it_goes_on_later(pictures: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", config_with("train.epochs=1")
    with files_of_at_most(20_000), pytest.raises(KitError, match=r"run/model\.keras: cannot be written \(File too large\)"):
        train(open_dataset(pictures), config, run, progress=Silent())
    assert not [path for path in run.rglob(".*")] and not (run / "model.keras").exists()
    train(open_dataset(pictures), config, run, resume=True, progress=Silent())
    assert read_json(run / "metrics.json")["val"]["samples"] == 36
