"""Channels of one size, and weights fitted to what 8 bits cost: exact where they must be, better where they should."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from mnv3_tf.export.convert.convert import check_int8, convert_graph
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.spec import Block, NetworkSpec
from mnv3_tf.quantization.calibration import calibrate
from mnv3_tf.quantization.cross_layer_equalization import SPLIT_RATIO, equalize, like
from mnv3_tf.quantization.fake_quantized import LoweredNetwork
from mnv3_tf.quantization.fold import trace
from mnv3_tf.quantization.graph import FoldedGraph, Op, load_graph, save_graph
from mnv3_tf.quantization.lowering import LOWERINGS, LoweredOp, lower, range_rule
from mnv3_tf.quantization.weight_reconstruction import _Places, _round, reconstruct_weights
from mnv3_tf.tflite.file import parse_tflite
from mnv3_tf.tflite.runtime import LiteRTModel

# The first block's residual adds the stem's output, as in Large.
TABLE = NetworkSpec("short", (
    Block(3, 16, 16, False, "relu", 1), Block(3, 32, 24, False, "relu", 2), Block(5, 64, 24, True, "hard_swish", 1)),
    "hard_swish", class_expand=32)


def pictures(count: int = 12) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 6, 6, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)


# As in Small, only a depthwise convolution takes it.
PLAIN = dataclasses.replace(TABLE, blocks=(dataclasses.replace(TABLE.blocks[0], stride=2), *TABLE.blocks[1:]))


def uneven(spread: float, table: NetworkSpec = TABLE) -> keras.Model:
    """A network whose stem's channels differ `spread`-fold, each as important for what follows as the others."""
    pixels = pictures()
    model = MobileNetV3(table, input_shape=(48, 48, 3), classes=5, batchnorm_momentum=0.0)
    model(pixels.astype(np.float32), training=True)
    factor = np.geomspace(1, spread, 16).astype(np.float32)
    bn = model.get_layer("stem_conv_bn")
    gamma, beta, mean, variance = bn.get_weights()
    bn.set_weights([gamma * factor, beta, mean, variance])
    model.get_layer("block_01_depthwise").set_weights(
        [model.get_layer("block_01_depthwise").get_weights()[0] / factor[:, None]])
    return model


def error(model: keras.Model, graph: FoldedGraph, ranges: dict[str, tuple[float, float]]) -> float:
    """Root mean square of the fake-quantized network's logits against the float network's, as a share of their spread."""
    pixels = pictures()
    expected = np.asarray(model(pixels.astype(np.float32)))
    return float(np.sqrt(np.mean((LoweredNetwork(lower(graph), ranges).logits(pixels) - expected) ** 2)) / expected.std())


@pytest.mark.slow
def test_a_split_stem_is_the_same_function_in_one_partition(tmp_path: Path) -> None:
    pixels = pictures()
    model = uneven(60.0)
    expected = np.asarray(model(pixels.astype(np.float32)))
    traced = trace(model)
    graph = equalize(traced, [pixels])
    assert graph.split_stem and graph.channel_sizes["stem_conv_hard_swish"].shape == (16,)
    assert {op.kind for op in graph.consumers("stem_conv_hard_swish")} == {"depthwise"}
    for lowering in LOWERINGS:
        found = LoweredNetwork(lower(graph, lowering), exact_input=True).logits(pixels)
        assert np.abs(found - expected).max() < 1e-5 * np.ptp(expected)

    ranges = calibrate(graph, [pixels]).ranges
    save_graph(tmp_path / "g.npz", graph, ranges)
    loaded, _ = load_graph(tmp_path / "g.npz")
    assert loaded.split_stem and np.array_equal(loaded.channel_sizes["stem_conv_hard_swish"],
                                                graph.channel_sizes["stem_conv_hard_swish"])
    network = LoweredNetwork(lower(loaded), ranges)
    network.round_biases()
    content = convert_graph(network.folded_graph(), ranges, format="int8", io="int8", lowering="xnnpack")
    assert check_int8(parse_tflite(content), LiteRTModel(content), "xnnpack") == []


def test_it_is_split_only_where_channels_differ_much() -> None:
    model = uneven(1.0)
    even = equalize(trace(model), [pictures()])
    assert not even.split_stem and "stem_conv_hard_swish" not in even.channel_sizes
    assert SPLIT_RATIO == 16.0
    assert equalize(trace(model), [pictures()], split_stem=True).split_stem
    assert not equalize(trace(uneven(60.0)), [pictures()], split_stem=False).split_stem


def test_channels_of_one_size_lose_less() -> None:
    model = uneven(200.0, PLAIN)
    traced = trace(model)
    before = error(model, traced, calibrate(traced, [pictures()]).ranges)
    graph = equalize(traced, [pictures()])
    after = error(model, graph, calibrate(graph, [pictures()]).ranges)
    assert after < 0.6 * before, (before, after)


def test_relu_channels_before_a_depthwise_convolution_get_one_size() -> None:
    graph = equalize(trace(uneven(1.0)), [pictures()])
    maximum = LoweredNetwork(lower(graph)).tensors(["block_02_expand"], pictures_in(graph))[0].max(axis=(0, 1, 2))
    np.testing.assert_allclose(maximum, maximum.max(), rtol=1e-4)


def pictures_in(graph: FoldedGraph) -> np.ndarray:
    from mnv3_tf.quantization.fake_quantized import input_units

    return input_units(graph, pictures())


def test_what_is_kept_is_kept() -> None:
    traced = trace(uneven(60.0))
    kept = frozenset(op.name for op in traced.ops if op.name.startswith(("stem", "block_01")))
    graph = equalize(traced, [pictures()], kept=kept)
    assert not graph.split_stem
    ranges = calibrate(graph, [pictures()]).ranges
    fitted = reconstruct_weights(graph, ranges, pictures(), kept=kept)
    for op in traced.ops:
        if op.kernel is not None:
            assert np.array_equal(fitted[op.name].kernel, op.kernel) == (op.name in kept), op.name


def test_fitted_weights_lose_less_and_lie_on_the_grid() -> None:
    model = uneven(4.0)
    graph = trace(model)
    ranges = calibrate(graph, [pictures()]).ranges
    fitted = reconstruct_weights(graph, ranges, pictures())
    assert error(model, fitted, ranges) < 0.8 * error(model, graph, ranges)
    lowered = lower(fitted)
    network = LoweredNetwork(lowered, ranges)
    for op in lowered.ops:
        if op.kind == "conv":
            kernel = lowered.weights(op)[0]
            step = np.maximum(np.abs(kernel).max(axis=(0, 1, 2)), network.kernel_floor(op)) / 127
            np.testing.assert_allclose(kernel / step, np.rint(kernel / step), atol=2e-3, err_msg=op.name)


def test_rounding_spreads_its_error() -> None:
    # Two inputs that are always equal: only the sum of their weights counts. 63.5 + 63.5 steps are 127 and 0, or 63 and 64.
    kernel = np.array([[[127.0], [0.4], [0.4]]])
    hessian = np.array([[[1.0, 0, 0], [0, 1.0, 1.0], [0, 1.0, 1.0]]]) + 1e-6 * np.eye(3)
    levels = _round(kernel, hessian, floor=1e-8)[0, :, 0]
    assert levels[0] == 127 and sorted(levels[1:]) == [0, 1]
    # By itself each would have been rounded to 0, and 0.8 lost.


def test_rows_are_what_the_convolution_sees() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2, 7, 6, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    for padding in ("same", "symmetric", "valid"):
        op = LoweredOp("conv", "conv", ("x",), "conv", stride=2, padding=padding)
        rows = _Places(op, inputs.shape, kernel).rows(inputs)
        layer = keras.layers.Conv2D(4, 3, strides=2, padding="same" if padding == "same" else "valid", use_bias=False)
        padded = np.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0))) if padding == "symmetric" else inputs
        layer.build(padded.shape)
        layer.set_weights([kernel])
        expected = np.asarray(layer(padded)).reshape(-1, 4)
        np.testing.assert_allclose(rows.reshape(len(rows), -1) @ kernel.reshape(-1, 4), expected, atol=1e-5)


def test_a_bias_far_above_its_kernel_fits_the_file() -> None:
    """A gate that is always open: weights of 1e-9 beside a bias of 5."""
    small, zeros = np.full((1, 1, 3, 3), 1e-9, np.float32), np.zeros(3, np.float32)
    graph = FoldedGraph((
        Op("image", "input"), Op("a", "conv", ("image",), np.eye(3, dtype=np.float32)[None, None], zeros),
        Op("b", "conv", ("a",), small, np.array([5.0, -2.0, 0.3], np.float32)), Op("logits", "flatten", ("b",))),
        4, 4, 1 / 127.5, (-1.0, -1.0, -1.0))
    ranges = {"a": (-0.01, 0.01), "b": (-2.0, 5.0)}
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype(np.uint8)
    file = LiteRTModel(convert_graph(graph, ranges, format="int8", io="int8", lowering="xnnpack"))
    answers = file.predict(pixels).reshape(-1, 3)
    np.testing.assert_allclose(answers, np.broadcast_to([5.0, -2.0, 0.3], answers.shape), atol=7 / 255)


def test_ranges_of_a_split_stem_end_where_the_product_is_zero() -> None:
    graph = equalize(trace(uneven(60.0)), [pictures()])
    floor, ceiling = range_rule(graph, graph["stem_conv"])
    assert floor == -float(graph.channel_sizes["stem_conv_hard_swish"].max()) and ceiling is None
    assert range_rule(dataclasses.replace(graph, split_stem=False), graph["stem_conv"]) == (None, None)


@pytest.mark.parametrize("key", ["equalize=false", "compensate_pictures=0"])
def test_both_can_be_switched_off(key: str) -> None:
    from mnv3_tf.config import load_config

    settings = load_config(None, [f"quantize.{key}"]).quantize
    assert (settings.equalize, settings.compensate_pictures) in ((False, 128), (True, 0))


@pytest.mark.slow
def test_a_form_that_a_network_has_not_is_none() -> None:
    traced = trace(uneven(60.0))
    graph = equalize(traced, [pictures()])
    again = like(traced, graph.channel_sizes, split_stem=graph.split_stem)
    assert again is not None
    assert all(np.array_equal(a.kernel, b.kernel) for a, b in zip(again.ops, graph.ops, strict=True) if a.kernel is not None)
    minimal = trace(MobileNetV3("small_minimalistic", alpha=0.25, input_shape=(32, 32, 3), classes=5))
    assert like(minimal, graph.channel_sizes, split_stem=True) is None
    wider = trace(MobileNetV3(TABLE, alpha=2.0, input_shape=(48, 48, 3), classes=5))
    assert like(wider, graph.channel_sizes, split_stem=True) is None
    # A hard-swish between a convolution and the depthwise one lets no factor through.
    assert like(traced, {"block_03_expand": np.ones(64, np.float32)}, split_stem=False) is None
