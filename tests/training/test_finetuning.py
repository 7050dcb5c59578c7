"""Fine-tuning: what is taken over, what stays as it is, what comes when, and that an interruption changes nothing."""

import csv
import dataclasses
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from shared import HERE, ONE_BLOCK, Shared, StopAfter, weights

from mnv3_tf.artefacts.run_folder import contract_from
from mnv3_tf.config import Config, load_config
from mnv3_tf.data import open_dataset
from mnv3_tf.errors import InputError
from mnv3_tf.files import read_json, sha256
from mnv3_tf.interrupts import Interrupted
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.keras_io import load_keras
from mnv3_tf.network.spec import network_spec
from mnv3_tf.progress import Silent
from mnv3_tf.training.batches import TrainingBatches
from mnv3_tf.training.defaults import decide, make_optimizer
from mnv3_tf.training.freezing import make_plan
from mnv3_tf.training.trainer import train
from mnv3_tf.training.transfer import is_folded, take_over, transfer
from mnv3_tf.weights.starting import StartingWeights, starting_model

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def start(tuned_config: Config) -> StartingWeights:
    return starting_model(tuned_config)


def from_one_block(run: Path) -> tuple[str, ...]:
    """Overrides that begin with a network of one block instead, for two epochs."""
    return ONE_BLOCK[0], f"model.weights={run}", "train.epochs=2"


def build(config: Config, classes: int = 3, **changes) -> keras.Model:
    return MobileNetV3(network_spec(config.model), input_shape=(32, 48, 3), classes=classes, **changes)


def tensors(path: Path) -> dict[str, np.ndarray]:
    layers = load_keras(path).layers
    return {f"{layer.name}/{variable.name}": np.asarray(variable) for layer in layers for variable in layer.weights}


def last_weights(run: Path, config: Config) -> dict[str, np.ndarray]:
    """The raw weights at the end, by name, without the seeds of dropout."""
    names = [f"{layer.name}/{variable.name}" for layer in build(config).layers for variable in layer.weights]
    with np.load(run / "state" / "state.npz") as archive:
        saved = [archive[name] for name in sorted(archive.files) if name.startswith("variable_")]
    floats = [values for values in saved if values.dtype == np.float32 or values.dtype == np.float16]
    return dict(zip(names, floats, strict=False))


# Transfer -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_layers_are_taken_with_the_same_classes(tuned_config: Config, start: StartingWeights, source_run: Path) -> None:
    model = build(tuned_config)
    taken = transfer(model, start, CLASSES)
    assert not taken.new and "nothing is new" in taken.notes[0]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(model(pixels)), np.asarray(load_keras(source_run / "model.keras")(pixels)))


@pytest.mark.slow
def test_the_classifier_follows_the_datas_order(tuned_config: Config, start: StartingWeights, source_run: Path) -> None:
    model = build(tuned_config)
    taken = transfer(model, start, ("red", "blue", "green"))
    assert not taken.new and "order" in taken.notes[1]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3)).astype(np.uint8)
    expected = np.asarray(load_keras(source_run / "model.keras")(pixels))[:, [2, 0, 1]]
    np.testing.assert_allclose(np.asarray(model(pixels)), expected, atol=1e-5)


@pytest.mark.parametrize("names", [("blue", "green"), ("blue", "green", "yellow")])
def test_the_classifier_is_new_where_the_classes_differ(tuned_config: Config, start: StartingWeights, names: tuple) -> None:
    model = build(tuned_config, len(names))
    before = np.asarray(model.get_layer("classifier").kernel)
    taken = transfer(model, start, names)
    assert taken.new == ("classifier",) and "head_expand" in taken.taken and "new: classifier" in taken.notes[0]
    np.testing.assert_array_equal(np.asarray(model.get_layer("classifier").kernel), before)


def test_another_width_after_pooling_makes_both_layers_new(tuned_config: Config, start: StartingWeights) -> None:
    config = dataclasses.replace(tuned_config, model=dataclasses.replace(tuned_config.model, class_expand=48))
    taken = transfer(build(config), start, CLASSES)
    assert taken.new == ("head_expand", "classifier")
    assert any("head_expand starts from new values" in note for note in taken.notes)


def test_a_wrong_shape_is_named(tuned_config: Config, start: StartingWeights) -> None:
    damaged = {**start.tensors, "block_02_expand": {"kernel": np.zeros((1, 1, 16, 40), np.float32)}}
    with pytest.raises(InputError, match=r"block_02_expand has kernel 1x1x16x40, where .* kernel 1x1x16x48"):
        transfer(build(tuned_config), dataclasses.replace(start, tensors=damaged), CLASSES)


def test_missing_and_foreign_layers_are_named(tuned_config: Config, start: StartingWeights) -> None:
    fewer = {name: values for name, values in start.tensors.items() if name != "block_02_project"}
    with pytest.raises(InputError, match="lacks the weights of block_02_project"):
        transfer(build(tuned_config), dataclasses.replace(start, tensors=fewer), CLASSES)
    with pytest.raises(InputError, match="layers that the network of the configuration lacks: block_09_expand"):
        transfer(build(tuned_config), dataclasses.replace(start, tensors={**start.tensors, "block_09_expand": {}}), CLASSES)


# Stages and rates ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three_blocks(tuned_config: Config) -> Config:
    """Settings of a network that has more to freeze; nothing reads its weights."""
    return load_config(None, [f"model.block_table={HERE / 'three_blocks.yaml'}"], tuned_config)


def plan(config: Config, *overrides: str, **changes):
    return make_plan(load_config(None, overrides, config), **changes)


def test_stages_from_the_top_downwards(three_blocks: Config) -> None:
    stages = plan(three_blocks, "train.epochs=10", "train.unfreeze_epochs=[2,5]", "train.freeze=stem")
    assert stages.units == ("stem", "block_01", "block_02", "block_03", "head_conv", "top")
    assert [stages.stage(epoch) for epoch in (0, 1, 2, 4, 5, 9)] == [0, 0, 1, 1, 2, 2]
    assert stages.trained(0) == {"top"}
    assert stages.trained(1) == {"top", "head_conv", "block_03"}
    assert stages.trained(2) == {"top", "head_conv", "block_03", "block_02", "block_01"}
    assert [stages.ends(stage, 10) for stage in range(3)] == [2, 5, 10]
    one = plan(three_blocks, "train.unfreeze_epochs=1")
    assert one.trained(0) == {"top"} and one.trained(1) == set(one.units)


def test_a_new_head_conv_is_trained_with_the_top(three_blocks: Config) -> None:
    stages = plan(three_blocks, "train.unfreeze_epochs=1", inference_batchnorm=True, new_head_conv=True)
    model = build(three_blocks)
    stages.apply(model, 0)
    trained = {variable.path for variable in model.trainable_variables}
    assert trained == {"head_conv/kernel", "head_conv_bn/gamma", "head_conv_bn/beta", "head_expand/kernel", "head_expand/bias",
                       "classifier/kernel", "classifier/bias"}
    stages.apply(model, 1)
    normalizing = [layer.name for layer in model.layers if layer.name.endswith("_bn") and layer.trainable]
    assert normalizing == ["head_conv_bn"]


@pytest.mark.parametrize(("overrides", "message"), [
    (["train.freeze=block_9"], r"'block_9', which is not a block; did you mean 'block_0\d'\? ?.*stem, block_01"),
    (["train.unfreeze_epochs=[2,2]", "train.epochs=9"], "later than the one before"),
    (["train.unfreeze_epochs=3"], "there are 3 epochs"),
    (["train.unfreeze_epochs=[1,2,3,4,5,6]", "train.epochs=9"], "only 5 blocks"),
])
def test_wrong_plans(three_blocks: Config, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(three_blocks, *overrides)


@pytest.mark.parametrize("override", ["train.freeze=stem", "train.unfreeze_epochs=2", "train.batchnorm=frozen",
                                      "train.batchnorm=reestimate"])
def test_settings_that_need_weights_say_so(override: str, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Give model\.weights"):
        train(open_dataset(pictures), load_config(None, [override]), tmp_path / "run", progress=Silent())
    assert not (tmp_path / "run").exists()


def test_rates_fall_from_block_to_block(three_blocks: Config) -> None:
    rates = plan(three_blocks).rates(0.5, 0.8)
    assert rates == pytest.approx({"top": 1, "head_conv": 0.5 * 0.8, "block_03": 0.5 * 0.8 ** 2, "block_02": 0.5 * 0.8 ** 3,
                                   "block_01": 0.5 * 0.8 ** 4, "stem": 0.5 * 0.8 ** 5})


@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop"])
def test_the_whole_step_is_scaled_not_the_gradient(name: str) -> None:
    """A tenth of the rate moves a variable a tenth as far, weight decay included; at rate 1, as Keras's own optimizer does."""
    config = load_config(None, [f"train.optimizer={name}", "train.learning_rate=0.01", "train.warmup_epochs=0",
                                "train.weight_decay=0.5"]).train
    choices = decide(config, 64, 10)

    def moved(rate_of) -> tuple[np.ndarray, np.ndarray]:
        layers = [keras.layers.Dense(2, name=layer) for layer in ("slow", "fast")]
        for layer in layers:
            layer.build((None, 3))
            layer.kernel.assign(np.full((3, 2), 2.0))
        variables = [variable for layer in layers for variable in layer.trainable_variables]
        optimizer = make_optimizer(config, choices, rate_of=rate_of)
        optimizer.build(variables)
        optimizer.apply([keras.ops.ones(variable.shape) * 3 for variable in variables], variables)
        return tuple(np.asarray(layer.kernel) - 2 for layer in layers), np.asarray(layers[1].bias)

    (slow, fast), bias = moved(lambda layer: 0.1 if layer == "slow" else 1.0)
    (_, own), own_bias = moved(None)
    np.testing.assert_allclose(slow, 0.1 * fast, rtol=1e-3)
    np.testing.assert_allclose(fast, own, rtol=1e-3)
    np.testing.assert_allclose(bias, own_bias, rtol=1e-5)


def test_a_later_stage_goes_on_in_the_schedule() -> None:
    config = load_config(None, ["train.learning_rate=0.5", "train.epochs=10", "train.warmup_epochs=2"]).train
    choices = decide(config, 64, 10)
    whole, later = make_optimizer(config, choices), make_optimizer(config, choices, first_step=30)
    assert float(later.learning_rate) == pytest.approx(float(whole._learning_rate(30)))


# Defaults by what there is ------------------------------------------------------------------------------------------------


def chosen(*overrides: str, batch_size: int = 64, steps: int = 20, **facts):
    return decide(load_config(None, overrides).train, batch_size, steps, tuned=True, **facts)


def test_defaults_of_fine_tuning() -> None:
    folded = chosen(folded=True)
    assert (folded.batchnorm, folded.learning_rate, folded.backbone_rate) == ("reestimate", 1e-3, 1.0)
    assert any("folded into the weights" in note for note in folded.notes)
    small = chosen(batch_size=8)
    assert small.batchnorm == "frozen" and small.backbone_rate == 0.03
    assert any("batch of 8 is too small" in note for note in small.notes)


def test_few_pictures_train_the_lower_blocks_slowly() -> None:
    few = chosen(steps=3)
    assert few.layer_decay == 0.8 and any("192 pictures are fewer than 500" in note for note in few.notes)
    assert chosen(steps=8).layer_decay == 1.0
    for given in ("train.layer_decay=1", "train.freeze=stem", "train.batchnorm=frozen"):
        assert chosen(given, steps=3).layer_decay == 1.0
    assert decide(load_config(None, []).train, 64, 3).layer_decay == 1.0  # from scratch


def test_unfreezing_keeps_batchnorm_in_inference_mode_unless_asked() -> None:
    gradual = chosen("train.unfreeze_epochs=2", folded=True)
    assert gradual.batchnorm == "frozen" and any("also in what is unfrozen" in note for note in gradual.notes)
    assert chosen("train.unfreeze_epochs=2", "train.batchnorm=train").batchnorm == "train"


@pytest.mark.slow
def test_folded_weights_without_a_head_conv(pictures: Path, tuned_config: Config, start: StartingWeights) -> None:
    """What is there keeps its function with statistics of the pictures; what is new gets normalized values."""
    folded = {name: dict(values) for name, values in start.tensors.items() if not name.startswith("head_conv")}
    for values in folded.values():
        if "moving_mean" in values:
            values |= {"moving_mean": np.zeros_like(values["gamma"]), "moving_variance": np.ones_like(values["gamma"])}
    weights = dataclasses.replace(start, tensors=folded)
    assert is_folded(weights) and not is_folded(start)
    dataset = open_dataset(pictures)
    contract = contract_from(tuned_config)
    batches = TrainingBatches(dataset.split("train"), contract, 3, batch_size=32, augmentation=None)
    model, plain = build(tuned_config), build(tuned_config)
    choices = chosen(folded=True)
    facts = take_over(model, weights, CLASSES, make_plan(tuned_config, new_head_conv=True), choices, batches, 0, Silent())
    transfer(plain, weights, CLASSES)
    assert facts["new"] == ["head_conv", "head_conv_bn"] and facts["lacks_head_conv"] and facts["folded"]
    pixels = np.concatenate([pixels for pixels, _, _ in batches.epoch(0)])
    before, after = (np.asarray(keras.Model(net.input, net.get_layer("block_02_add").output)(pixels))
                     for net in (plain, model))
    np.testing.assert_allclose(after, before, atol=1e-4 * np.ptp(before))
    values = np.asarray(keras.Model(model.input, model.get_layer("head_conv").output)(pixels))
    gamma, beta, mean, variance = model.get_layer("head_conv_bn").get_weights()
    assert (gamma == 1).all() and (beta == 0).all()
    np.testing.assert_allclose(mean, values.mean(axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(variance, values.var(axis=(0, 1, 2)), rtol=1e-3, atol=1e-6)


# Whole runs ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unfrozen(pictures: Path, tuned_config: Config, source_run: Path, shared: Shared) -> Path:
    """A folder with a copy of the weights, the run `whole` that started from them, and what it said. Frozen up to block 1; the
    rest is re-estimated, and trained in two stages."""
    def make(folder: Path) -> None:
        shutil.copytree(source_run, folder / "weights")
        keras.utils.set_random_seed(1)
        progress = Silent()
        train(open_dataset(pictures), unfreezing(tuned_config, folder), folder / "whole", progress=progress)
        (folder / "said.txt").write_text("\n".join(progress.lines))

    return shared("unfrozen", make)


def unfreezing(config: Config, folder: Path) -> Config:
    return load_config(None, [f"model.weights={folder / 'weights'}", "train.freeze=block_01", "train.epochs=2",
                              "train.unfreeze_epochs=1", "train.batchnorm=reestimate", "train.layer_decay=0.9"], config)


@pytest.mark.slow
def test_what_is_frozen_keeps_every_bit(unfrozen: Path, tuned_config: Config, source_run: Path) -> None:
    before, after = tensors(source_run / "model.keras"), last_weights(unfrozen / "whole", tuned_config)
    for name in before:
        frozen = name.startswith(("stem", "block_01"))
        assert np.array_equal(before[name], after[name]) == frozen, name
    for name, values in tensors(unfrozen / "whole" / "model.keras").items():
        assert not name.startswith(("stem", "block_01")) or np.array_equal(before[name], values), name


@pytest.mark.slow
def test_the_run_says_what_it_started_from(unfrozen: Path, source_run: Path) -> None:
    card = read_json(unfrozen / "whole" / "run.json")["weights"]
    assert card["source"] == str(unfrozen / "weights") and card["sha256"] == sha256(source_run / "model.keras")
    assert card["new"] == [] and "block_02_project_bn" in card["taken"]
    assert load_config(unfrozen / "whole" / "config.yaml").model.weights == str(unfrozen / "weights")
    said = (unfrozen / "said.txt").read_text()
    assert "nothing is new" in said and "to the end of block_01" in said and "BatchNorm's statistics measured on 96" in said


@pytest.mark.slow
def test_fine_tuning_starts_where_the_weights_were(unfrozen: Path) -> None:
    """After each epoch of 6 steps, the network is still as good as the one it started from."""
    rows = list(csv.DictReader((unfrozen / "whole" / "log.csv").open()))
    assert len(rows) == 2 and all(float(row["raw_val_top1"]) > 0.8 for row in rows)


@pytest.mark.slow
def test_unfreezing_and_resuming_is_the_same_bit_for_bit(pictures: Path, tuned_config: Config, tmp_path: Path,
                                                         unfrozen: Path) -> None:
    """Stopped at the end of the epoch before a stage, and again within that stage; gone on without the weights that it started
    from."""
    dataset, config, whole = open_dataset(pictures), unfreezing(tuned_config, unfrozen), unfrozen / "whole"
    with pytest.raises(Interrupted, match="--resume"):
        train(dataset, config, tmp_path / "parts", progress=StopAfter(6))
    (unfrozen / "weights").rename(tmp_path / "gone")
    try:
        with pytest.raises(Interrupted, match="--resume"):
            train(dataset, config, tmp_path / "parts", resume=True, progress=StopAfter(8))
        train(dataset, config, tmp_path / "parts", resume=True, progress=Silent())
    finally:
        (tmp_path / "gone").rename(unfrozen / "weights")
    for ours, theirs in zip(weights(tmp_path / "parts"), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    rows = [[{key: row[key] for key in ("learning_rate", "raw_val_loss", "ema_val_loss")} for row in csv.DictReader(file.open())]
            for file in (tmp_path / "parts" / "log.csv", whole / "log.csv")]
    assert rows[0] == rows[1]
    assert read_json(tmp_path / "parts" / "run.json")["weights"] == read_json(whole / "run.json")["weights"]


@pytest.mark.slow
def test_unfreezing_trains_kernels_and_leaves_batchnorm_alone(pictures: Path, tuned_config: Config, tmp_path: Path,
                                                               one_block_run: Path) -> None:
    """Accuracy drops where an unfrozen BatchNorm starts to use batch statistics; unless asked, it does not, nor is it trained."""
    config = load_config(None, [*from_one_block(one_block_run), "train.unfreeze_epochs=1"], tuned_config)
    train(open_dataset(pictures), config, tmp_path / "run", progress=Silent())
    before, after = tensors(one_block_run / "model.keras"), last_weights(tmp_path / "run", config)
    for name in before:
        assert np.array_equal(before[name], after[name]) == ("_bn/" in name), name
    scores = [float(row["raw_val_top1"]) for row in csv.DictReader((tmp_path / "run" / "log.csv").open())]
    assert scores[1] >= scores[0] - 0.05


@pytest.mark.slow
def test_float16_arithmetic_leaves_a_float32_model(pictures: Path, tuned_config: Config, one_block_run: Path,
                                                   tmp_path: Path) -> None:
    """With rates by layer, stages and loss scaling together; what is saved is traced and lowered in float32."""
    from mnv3_tf.quantization.fold import trace

    config = load_config(None, [*from_one_block(one_block_run), "train.mixed_precision=true", "data.image_size=[32,32]",
                                "train.unfreeze_epochs=1", "train.batchnorm=reestimate", "train.layer_decay=0.9"], tuned_config)
    train(open_dataset(pictures), config, tmp_path / "run", progress=Silent())
    model = load_keras(tmp_path / "run" / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert {values.dtype for values in last_weights(tmp_path / "run", config).values()} == {np.dtype(np.float32)}
    with np.load(tmp_path / "run" / "state" / "state.npz") as archive:  # a resumed run goes on with the scale of the loss
        values = [archive[name] for name in archive.files if name.startswith("variable")]
    assert any(value.shape == () and value == 2.0**15 for value in values)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    assert np.isfinite(np.asarray(model(pixels))).all() and trace(model).ops
    assert read_json(tmp_path / "run" / "metrics.json")["test"]["top1"] > 0.8
