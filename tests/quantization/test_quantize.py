"""The fake-quantized network: its quantizers, its calibration, and quantized runs."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from shared import HERE, ONE_BLOCK, QUANTIZE, quantize_run, without_folders

from mnv3_tf.artefacts.card import read_card
from mnv3_tf.artefacts.card_check import check_cards
from mnv3_tf.artefacts.run_folder import RunFolder
from mnv3_tf.config import Config, load_config
from mnv3_tf.data import open_dataset
from mnv3_tf.data.batches import ContractPictures
from mnv3_tf.errors import CheckFailed, InputError, KitError
from mnv3_tf.files import read_json
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.keras_io import load_keras
from mnv3_tf.network.spec import read_block_table
from mnv3_tf.progress import Silent
from mnv3_tf.quantization import quantize as quantize_module
from mnv3_tf.quantization.calibration import _best_range, calibrate
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, count_values, input_range, input_units, tensor_shapes
from mnv3_tf.quantization.fine_tuning import FineTuning
from mnv3_tf.quantization.fold import trace
from mnv3_tf.quantization.graph import leave_float, load_graph
from mnv3_tf.quantization.integer_network import QuantizedNetwork
from mnv3_tf.quantization.lowering import lower
from mnv3_tf.quantization.quantize import quantize
from mnv3_tf.quantization.quantizers import KernelQuantizer, OpConfig, RangeQuantizer

pytestmark = pytest.mark.usefixtures("loaded_once")


def test_kernels_are_quantized_per_channel() -> None:
    # Channel 0 in steps of 1/127, channel 1 in steps of 100/127: each keeps its own extremes exactly.
    kernel = np.array([[1.0, 100.0], [0.3, -30.2]], np.float32).reshape(1, 1, 2, 2)
    fake = KernelQuantizer(depthwise=False)(tf.constant(kernel), False, {}).numpy()
    expected = np.rint(kernel / (np.array([1.0, 100.0]) / 127)) * (np.array([1.0, 100.0]) / 127)
    np.testing.assert_allclose(fake, expected, rtol=1e-5)


def test_depthwise_kernels_too() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 5, 1)).astype(np.float32) * np.logspace(-2, 2, 5)[:, None]
    kernel = kernel.astype(np.float32)
    fake = KernelQuantizer(depthwise=True)(tf.constant(kernel), False, {}).numpy()
    step = np.abs(kernel).max(axis=(0, 1, 3), keepdims=True) / 127
    np.testing.assert_allclose(fake, np.rint(kernel / step) * step, atol=step.max() * 1e-4)
    assert np.all(np.abs(fake - kernel) <= step / 2 * 1.001)


@pytest.mark.parametrize("made", [KernelQuantizer(True), RangeQuantizer(-3.0, None), RangeQuantizer(0.0, 6.0, True),
                                  OpConfig("depthwise", {"floor": -3.0, "ceiling": None, "fixed": False})])
def test_quantizers_survive_cloning(made) -> None:
    again = type(made)(**json.loads(json.dumps(made.get_config())))
    assert again.get_config() == made.get_config()


@pytest.fixture(scope="module")
def short_config() -> Config:
    """Settings that quantize the run of one block."""
    return load_config(None, (*ONE_BLOCK, *QUANTIZE))


@pytest.fixture(scope="module")
def random_graph():
    import keras

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = MobileNetV3(read_block_table(HERE / "four_blocks.yaml"), input_shape=(32, 48, 3), classes=3)
    model.set_weights([w + np.abs(rng.normal(0, 0.05, w.shape)) for w in model.get_weights()])
    return trace(model)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (32, 32, 48, 3)).astype(np.uint8)


@pytest.mark.slow
def test_every_pixel_value_is_one_step_of_the_input(random_graph) -> None:
    low, high = input_range(random_graph)
    units = input_units(random_graph, np.arange(256))
    fake = tf.quantization.fake_quant_with_min_max_vars(units, low, high).numpy()
    np.testing.assert_allclose(fake, units, atol=1e-6)
    assert units[128] == 0.0


def test_ranges_are_in_the_networks_own_units(random_graph, noise: np.ndarray) -> None:
    """Whatever factor the lowering gives a tensor, its range is that of the float network's tensor."""
    calibration = calibrate(random_graph, [noise])
    network = LoweredNetwork(lower(random_graph, "native"))
    values = network.tensors(["block_01_se_multiply"], input_units(random_graph, noise))[0] / 6.0
    low, high = calibration.ranges["block_01_se_multiply"]
    assert low <= 0 and 0.4 * values.max() <= high <= values.max() * 1.001
    for lowering in ("xnnpack", "native"):
        again = LoweredNetwork(lower(random_graph, lowering), calibration.ranges).ranges()
        for name, ends in calibration.ranges.items():
            np.testing.assert_allclose(again[name], ends, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("lowering", "float_blocks"), [("xnnpack", ()), ("native", ()), ("xnnpack", ("block_02", "stem"))])
def test_what_is_trained_computes_what_is_scored(random_graph, noise: np.ndarray, lowering: str, float_blocks: tuple) -> None:
    """The network of tfmot's layers takes over weights and ranges, and gives the same numbers."""
    graph = leave_float(random_graph, float_blocks)
    network = LoweredNetwork(lower(graph, lowering), calibrate(random_graph, [noise]).ranges)
    before, weights, ranges = network.logits(noise), network.weights(), network.ranges()
    np.testing.assert_array_equal(np.asarray(network.model(input_units(graph, noise), training=False)), before)
    np.testing.assert_array_equal(network.logits(noise), before)
    assert network.ranges() == ranges
    for name, values in network.weights().items():
        np.testing.assert_array_equal(values[0], weights[name][0])
    network.set_weights({"classifier": (weights["classifier"][0] * 0, weights["classifier"][1] * 0)})
    assert not np.asarray(network.model(input_units(graph, noise), training=False)).any()


def test_shapes_and_sizes_are_those_of_the_tensors(random_graph, noise: np.ndarray) -> None:
    lowered = lower(random_graph)
    found = {op.name: tuple(tensor.shape[1:]) for op, tensor in LoweredNetwork(lowered).walk(input_units(random_graph, noise))}
    assert found == tensor_shapes(lowered)
    assert count_values(lowered) == sum(int(np.prod(shape)) for shape in found.values())


def test_weights_come_back_in_the_networks_own_units(random_graph, noise: np.ndarray) -> None:
    again = LoweredNetwork(lower(random_graph), calibrate(random_graph, [noise]).ranges).folded_graph()
    for ours, theirs in zip(again.ops, random_graph.ops, strict=True):
        if theirs.kernel is not None:
            np.testing.assert_allclose(ours.kernel, theirs.kernel, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(ours.bias, theirs.bias, rtol=1e-4, atol=1e-5)


def test_both_lowerings_answer_alike(random_graph, noise: np.ndarray) -> None:
    ranges = calibrate(random_graph, [noise]).ranges
    first, second = (LoweredNetwork(lower(random_graph, lowering), ranges).logits(noise) for lowering in ("xnnpack", "native"))
    assert np.abs(first - second).max() < 0.25 * max(np.ptp(first), 1e-3)


def test_calibration_covers_what_it_has_seen() -> None:
    # All values within [0, 1] and spread evenly: nothing is worth clipping.
    assert _best_range(np.ones(100), 0.0, 1.0, None, None) == (0.0, 1.0)


def test_calibration_cuts_a_lonely_outlier() -> None:
    counts = np.zeros(2048)
    counts[:400] = 10_000
    counts[-1] = 1
    assert _best_range(counts, 0.0, 10.0, None, None)[1] < 6.0


def test_values_below_the_floor_do_not_widen_the_range() -> None:
    assert _best_range(np.ones(2000), -100.0, 2.0, -3.0, None)[0] == -3.0


def test_calibration_needs_pictures(random_graph) -> None:
    with pytest.raises(InputError, match="no pictures"):
        calibrate(random_graph, [])


def test_biases_land_on_the_integer_grid(random_graph, noise: np.ndarray) -> None:
    network = LoweredNetwork(lower(random_graph), calibrate(random_graph, [noise]).ranges)
    network.round_biases()
    op = next(op for op in network.lowered.ops if op.name == "block_02_expand")
    low, high = network.ranges()["block_01_project"]
    kernel, bias = network.weights()["block_02_expand"]
    step = (high - low) / 255 * np.abs(kernel).max(axis=(0, 1, 2)) / 127
    assert op.kind == "conv"
    np.testing.assert_allclose(bias / step, np.rint(bias / step), atol=1e-2)


def test_a_quantized_run_is_scored_and_carded(ptq_run: Path, qat_run: Path, float_run: Path) -> None:
    for path, method in ((ptq_run, "ptq"), (qat_run, "qat")):
        card = read_json(path / "run.json")
        assert card["method"] == method and card["deploy_form_difference"] < 1e-4
        assert card["parent"]["run"] == str(float_run.resolve())
        assert read_json(path / "metrics.json")["test"]["top1"] >= 0.9
        same = card["as_float"]["test"]
        assert set(card["as_float"]) == {"val", "test"} and same["top1"] >= 0.9 and 0 < same["mean_difference"] < 1
        assert same["top1_low"] < same["top1"] <= same["top1_high"] <= 1
        assert (path / "labels.txt").read_text() == (float_run / "labels.txt").read_text()
        assert (path / "preprocessing.json").read_text() == (float_run / "preprocessing.json").read_text()
    assert [row["epoch"] for row in read_json(qat_run / "run.json")["history"]] == [0, 1, 2]


def test_fine_tuning_changes_weights_and_ranges(ptq_run: Path, qat_run: Path) -> None:
    (before, ranges), (after, learned) = (load_graph(RunFolder(path).quantized) for path in (ptq_run, qat_run))
    assert any(not np.allclose(a.kernel, b.kernel) for a, b in zip(before.ops, after.ops, strict=True) if a.kernel is not None)
    assert ranges != learned
    fixed = [name for name in ranges if name.endswith("hard_sigmoid")]
    assert fixed and all(learned[name] == pytest.approx((0.0, 1.0)) for name in fixed)
    assert all(low == pytest.approx(-3.0) for name, (low, _) in learned.items() if f"{name}_hard_swish" in learned)


@pytest.mark.slow
def test_a_quantized_run_scores_the_same_in_a_new_process(qat_run: Path, pictures: Path) -> None:
    from mnv3_tf.export.evaluate.classifier import Classifier

    classifier = Classifier(qat_run)
    pixels = next(iter(ContractPictures(open_dataset(pictures).split("test"), classifier.contract)))
    script = ("import sys, numpy as np; from mnv3_tf.cli.options import quiet_libraries; quiet_libraries(); "
              "from mnv3_tf.export.evaluate.classifier import Classifier; "
              "np.save(sys.argv[2] + '.out.npy', Classifier(sys.argv[1]).logits(np.load(sys.argv[2])))")
    file = qat_run.parent / "pixels.npy"
    np.save(file, pixels)
    subprocess.run([sys.executable, "-c", script, str(qat_run), str(file)], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(f"{file}.out.npy"), classifier.logits(pixels), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flat", "nested", "other classes"])
def test_calibration_needs_no_labels(kind: str, one_block_run: Path, pictures: Path, short_config: Config,
                                     tmp_path: Path) -> None:
    """The quantized network is as good as one that was calibrated on labelled pictures, and claims no accuracy."""
    data = tmp_path / "photos"
    if kind == "flat":
        without_folders(pictures / "train", data)
    elif kind == "nested":
        without_folders(pictures / "train", data / "2024" / "may")
    else:
        for split in ("train", "test"):
            for number, name in enumerate(("red", "green", "blue")):
                shutil.copytree(pictures / split / name, data / split / f"cow {number}")
    progress = Silent()
    dataset = open_dataset(data, class_names=("blue", "green", "red"), labels_needed=False)
    unchecked = kind == "nested"
    config = dataclasses.replace(short_config, data=dataclasses.replace(short_config.data, check="none" if unchecked else None))
    run = quantize(one_block_run, dataset, config, tmp_path / "run", method="ptq", progress=progress)
    said, card = "\n".join(progress.lines), read_card(run.path)
    assert "no labels are used: " in said and "not scored, for lack of labels" in said and "top-1" not in said
    split, held_out = ("test", 36) if kind == "other classes" else ("val", 96 - len(dataset.split("train")))
    total = len(dataset.split("train"))
    assert card["calibration"]["pictures"] == total - total // 5 and card["data"][split]["pictures"] == held_out
    assert card["data"][split]["fingerprint"].startswith("names-") == unchecked == ("data.check=none" in said)
    assert not card["calibration"]["fingerprint"].startswith("names-")  # what decides ranges is decoded all the same
    assert card["metrics"] == {} and read_json(run.path / "metrics.json")[split] is None
    assert card["as_float"][split]["top1"] >= 0.9 and check_cards(run.path) == ()
    assert read_json(run.calibration)["classes"] == {} and "no calibration picture of" not in said
    judged = ContractPictures(open_dataset(pictures, class_names=run.labels()).split("test"), run.contract())
    network = QuantizedNetwork.of(*load_graph(run.quantized))
    answers = np.concatenate([network.logits(pixels).argmax(axis=1) for pixels in judged])
    assert (answers == judged.labels).mean() >= 0.9


@pytest.mark.slow
def test_fine_tuning_needs_labels_only_where_it_learns_from_them(one_block_run: Path, pictures: Path, short_config: Config,
                                                                 tmp_path: Path) -> None:
    dataset = open_dataset(without_folders(pictures / "train", tmp_path / "photos"), labels_needed=False)
    with pytest.raises(InputError, match=r"in no class folder, and fine-tuning .* Set it to 1, give --method ptq"):
        quantize(one_block_run, dataset, short_config, tmp_path / "run", progress=Silent())
    config = load_config(None, ("quantize.teacher_weight=1", "quantize.epochs=1"), base=short_config)
    run = quantize(one_block_run, dataset, config, tmp_path / "run", progress=Silent())
    history = read_card(run.path)["history"]
    assert [row["val_top1"] for row in history] == [None, None] and history[1]["val_as_float"] >= 0.8
    assert "NaN" not in (run.path / "metrics.json").read_text()


def test_a_quantized_run_cannot_be_quantized_again(ptq_run: Path, pictures: Path, tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="quantized run already"):
        quantize(ptq_run, open_dataset(pictures), tiny_config, tmp_path / "again", progress=Silent())


def test_a_used_folder_is_refused(ptq_run: Path, float_run: Path, pictures: Path, tiny_config: Config) -> None:
    with pytest.raises(InputError, match="already holds files"):
        quantize(float_run, open_dataset(pictures), tiny_config, ptq_run, progress=Silent())


def test_a_stem_that_cannot_be_split_is_said(float_run: Path, pictures: Path, tiny_config: Config, tmp_path: Path) -> None:
    config = load_config(None, ["quantize.equalize=false", "quantize.split_stem=true"], base=tiny_config)
    with pytest.raises(InputError, match=r"quantize.split_stem is true, but .* quantize.equalize is false"):
        quantize(float_run, open_dataset(pictures), config, tmp_path / "q", method="ptq", progress=Silent())
    assert not (tmp_path / "q").exists()


@pytest.mark.slow
def test_a_wrong_folding_stops_everything(float_run: Path, pictures: Path, tiny_config: Config, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """One bias of the folded network off by a little: nothing is written."""
    def planted(model):
        graph = trace(model)
        graph["block_03_project"].bias[0] += 0.05
        return graph

    monkeypatch.setattr(quantize_module, "trace", planted)
    with pytest.raises(CheckFailed, match="folded network differs"):
        quantize(float_run, open_dataset(pictures), tiny_config, tmp_path / "out", progress=Silent())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_interrupted_fine_tuning_keeps_the_best_epoch(one_block_run: Path, pictures: Path, short_config: Config,
                                                      tmp_path: Path) -> None:
    import os
    import signal

    from mnv3_tf.interrupts import Interrupted

    class StopInSecondEpoch(Silent):
        def say(self, text: str) -> None:
            if text.startswith("epoch 1:"):
                os.kill(os.getpid(), signal.SIGINT)

    config = load_config(None, ["quantize.epochs=5"], short_config)
    with pytest.raises(Interrupted, match="epoch 2 of 5"):
        quantize(one_block_run, open_dataset(pictures), config, tmp_path / "out", progress=StopInSecondEpoch())
    run = RunFolder(tmp_path / "out")
    graph, ranges = load_graph(run.quantized)
    assert graph.classes == 3 and "stem_conv" in ranges
    card = read_card(run.path)
    assert card["kind"] == "quantized run" and [row["epoch"] for row in card["history"]] == [0, 1] and card["metrics"] == {}
    assert read_json(run.calibration)["remarks"] == [] and check_cards(run.path) == ()


@pytest.mark.slow
def test_fine_tuning_that_diverges_stops_and_keeps_the_last_good_epoch(
        one_block_run: Path, pictures: Path, short_config: Config, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters are made NaN in the second step of the first epoch: what is kept is calibration alone."""
    real, taken = FineTuning.step, []

    def poisoned(self, inputs, labels):
        loss = real(self, inputs, labels)
        taken.append(loss)
        if len(taken) == 2:
            self._relative.assign(self._relative * math.nan)
            self._put(self._relative)
        return loss

    quantize_run(pictures, one_block_run, short_config, tmp_path / "ptq", "ptq")
    monkeypatch.setattr(FineTuning, "step", poisoned)
    with pytest.raises(KitError, match=r"fine-tuning diverged in epoch 1, step 3, at a learning rate of 0\.\d+: the loss or the "
                       r"weights are not finite \(NaN\)\. The best finished epoch .* -o quantize\.learning_rate=0\.0001$"
                       ) as caught:
        quantize_run(pictures, one_block_run, short_config, tmp_path / "run", "qat")
    assert caught.value.exit_code == 1 and len(taken) == 3
    kept, calibrated = (load_graph(run / "quantized.npz")[1] for run in (tmp_path / "run", tmp_path / "ptq"))
    assert {name: pytest.approx(ends, rel=1e-4) for name, ends in kept.items()} == calibrated
    assert json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)["history"][0]["train_loss"] is None


def test_a_float_run_of_nan_is_named(float_run: Path, pictures: Path, tiny_config: Config, tmp_path: Path) -> None:
    run = Path(shutil.copytree(float_run, tmp_path / "run"))
    model = load_keras(run / "model.keras")
    kernel = model.get_layer("classifier").kernel
    kernel.assign(kernel * math.nan)
    model.save(run / "model.keras")
    with pytest.raises(InputError, match=r"model\.keras: its weights are not finite \(NaN in classifier/kernel\)"):
        quantize_run(pictures, run, tiny_config, tmp_path / "out", "ptq")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_frozen_layers_keep_their_weights_bit_by_bit(source_run: Path, pictures: Path, tiny_config: Config, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    from mnv3_tf.network.keras_io import load_keras

    config = dataclasses.replace(tiny_config, quantize=dataclasses.replace(tiny_config.quantize, epochs=1, freeze="block_01"))

    def keep(self, *_, **__) -> None:
        self.kept = self.fake_quantized.folded_graph(), self.fake_quantized.ranges()

    monkeypatch.setattr(quantize_module._Quantization, "_judge", keep)  # the last epoch, be it good or bad
    said = Silent()
    run = quantize(source_run, open_dataset(pictures), config, tmp_path / "q", progress=said)
    assert "no epoch of fine-tuning was better than calibration alone, which is kept" in said.lines  # none was judged
    before, (after, _) = trace(load_keras(RunFolder(source_run).model)), load_graph(run.quantized)
    frozen = quantize_module.frozen_layers(before, "block_01")
    changed = {op.name: not np.array_equal(op.kernel, after[op.name].kernel) for op in before.ops if op.kernel is not None}
    assert {name for name, differs in changed.items() if differs} == {name for name in changed if name not in frozen}
    assert "block_01_project" in frozen and "block_02_expand" not in frozen and "stem_conv" in frozen


def test_an_unknown_block_to_freeze_is_named(random_graph) -> None:
    with pytest.raises(InputError, match=r"quantize.freeze is 'blok_04'.*did you mean 'block_04'"):
        quantize_module.frozen_layers(random_graph, "blok_04")
    assert quantize_module.frozen_layers(random_graph, None) == frozenset()
    assert quantize_module.frozen_layers(random_graph, "stem") < quantize_module.frozen_layers(random_graph, "block_01")
