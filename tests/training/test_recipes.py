"""Settings that reach published accuracy: those that come with the kit, and what they are made of."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from shared import ONE_BLOCK

from mnv3_tf.config import Config, TrainConfig, load_config
from mnv3_tf.data import open_dataset
from mnv3_tf.errors import InputError
from mnv3_tf.files import read_json
from mnv3_tf.progress import Silent
from mnv3_tf.training import defaults
from mnv3_tf.training.defaults import decide, make_loss, make_optimizer
from mnv3_tf.training.trainer import train


@pytest.mark.parametrize(("name", "randaugment"), [("large", 9.0), ("small", 0.0)])
def test_settings_that_come_with_the_kit(name: str, randaugment: float) -> None:
    config = load_config(f"mnv3:imagenet-{name}", ["train.epochs=10"])
    assert config.model.name == name and config.augment.randaugment == randaugment
    assert (config.train.epochs, config.train.batch_size, config.train.learning_rate) == (10, 2048, 1.3)
    assert config.train.ema_decay == 0.9999 and config.data.resize == "crop"
    choices = decide(config.train, 2048, 625)
    rates = [float(make_optimizer(config.train, choices)._learning_rate(step)) for step in (0, 3125, 6250)]
    assert rates == pytest.approx([0, 1.3, 0], abs=1e-6)


def test_unknown_settings_are_named() -> None:
    with pytest.raises(InputError, match=r"mnv3:imagenet-larg: there are no such .*'imagenet-large'.*mnv3:imagenet-small"):
        load_config("mnv3:imagenet-larg")


def test_binary_cross_entropy_by_hand() -> None:
    """Labels (1, 0, 0, 0) smoothed by 0.2 are (0.85, 0.05, 0.05, 0.05); of logit z the loss is ln(1 + e^z) - label * z."""
    loss = make_loss(TrainConfig(loss="bce", label_smoothing=0.2), 4)
    logits = np.array([[2.0, 0.0, -1.0, 0.5]], np.float32)
    labels = np.array([[1, 0, 0, 0]], np.float32)
    smoothed = np.array([0.85, 0.05, 0.05, 0.05])
    expected = (np.log1p(np.exp(logits[0])) - smoothed * logits[0]).mean()
    assert np.asarray(loss(labels, logits)) == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("by_layer", [False, True])
def test_large_gradients_are_clipped_together(optimizer: str, by_layer: bool) -> None:
    config = dataclasses.replace(TrainConfig(), optimizer=optimizer, clip_norm=5.0)  # type: ignore[arg-type]
    made = make_optimizer(config, decide(config, 64, 10), rate_of=(lambda name: 1.0) if by_layer else None)
    assert made.global_clipnorm == 5.0
    assert make_optimizer(TrainConfig(), decide(TrainConfig(), 64, 10)).global_clipnorm is None


def test_with_clipping_a_step_has_the_length_asked_for() -> None:
    config = dataclasses.replace(TrainConfig(), optimizer="sgd", clip_norm=1.0, weight_decay=0.0, learning_rate=1.0, epochs=1,
                                 warmup_epochs=0.0)
    made = make_optimizer(config, decide(config, 64, 1000))
    made.momentum = 0.0
    variables = [keras.Variable(np.zeros(2, np.float32)), keras.Variable(np.zeros(1, np.float32))]
    made.build(variables)
    made.apply([keras.ops.array([30.0, 0.0]), keras.ops.array([40.0])], variables)
    moved = np.concatenate([np.asarray(variable) for variable in variables])
    assert moved / np.linalg.norm(moved) == pytest.approx([-0.6, 0, -0.8], abs=1e-5)


def test_a_teacher_has_a_loss_of_its_own(pictures: Path, one_block_run: Path, tmp_path: Path) -> None:
    config = load_config(None, [f"train.teacher={one_block_run}", "train.loss=bce"], Config())
    with pytest.raises(InputError, match="with a teacher the loss is the cross-entropy"):
        train(open_dataset(pictures), config, tmp_path / "run", progress=Silent())


@pytest.mark.parametrize(("asked", "accelerator", "has", "chosen"), [
    (None, False, False, False), (None, True, False, "float16"), (None, True, True, "bfloat16"), (False, True, True, False),
    (True, False, False, "float16"), (True, True, True, "bfloat16"), ("float16", True, True, "float16"),
    ("bfloat16", False, False, "bfloat16")])
def test_the_arithmetic_of_a_device(asked: Any, accelerator: bool, has: bool, chosen: Any,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "has_accelerator", lambda: accelerator)
    monkeypatch.setattr(defaults, "has_bfloat16", lambda: has)
    found = decide(dataclasses.replace(TrainConfig(), mixed_precision=asked), 64, 10)
    assert found.mixed_precision == chosen
    assert any(f"{chosen or 'float32'} arithmetic" in note for note in found.notes)


@pytest.mark.slow
def test_all_of_it_together_trains(pictures: Path, tmp_path: Path) -> None:
    settings = [*ONE_BLOCK, "train.epochs=4", "train.loss=bce", "train.clip_norm=5", "augment.randaugment=3",
                "augment.cutmix=0.5", "augment.mixup=0.2", "train.ema_decay=0.9", "train.mixed_precision=bfloat16"]
    run = train(open_dataset(pictures), load_config(None, settings), tmp_path / "run", progress=Silent())
    assert read_json(run.path / "metrics.json")["test"]["top1"] > 0.6
