"""The network in whole numbers against the file that is made of it: every logit, and every tensor, bit by bit."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from mnv3_tf.errors import KitError
from mnv3_tf.export.convert.convert import convert_graph
from mnv3_tf.export.convert.placement import place
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.spec import Block, NetworkSpec
from mnv3_tf.quantization.calibration import calibrate
from mnv3_tf.quantization.cross_layer_equalization import equalize
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, Ranges
from mnv3_tf.quantization.fold import trace
from mnv3_tf.quantization.graph import FoldedGraph, leave_float
from mnv3_tf.quantization.integer_network import IntegerNetwork, QuantizedNetwork, has_integer_form
from mnv3_tf.quantization.lowering import lower
from mnv3_tf.tflite.file import parse_tflite
from mnv3_tf.tflite.runtime import LiteRTModel


def pictures(count: int = 12, side: int = 64) -> np.ndarray:
    """Cloudy pictures with some noise, uint8."""
    rng = np.random.default_rng(3)
    cloudy = rng.integers(0, 226, (count, side // 8, side // 8, 3)).repeat(8, 1).repeat(8, 2)
    return (cloudy + rng.integers(0, 30, cloudy.shape)).astype(np.uint8)


# Everything that the big tables have, in three blocks; the first one's residual adds the stem's output, as in Large.
TABLE = NetworkSpec("short", (
    Block(3, 16, 16, False, "relu", 1), Block(3, 48, 24, True, "relu", 2), Block(5, 64, 24, True, "hard_swish", 1)),
    "hard_swish", class_expand=64)
MINIMALISTIC = dataclasses.replace(TABLE, activation="relu", blocks=tuple(
    dataclasses.replace(block, squeeze_excite=False, activation="relu") for block in TABLE.blocks))


def network(table: NetworkSpec = TABLE, side: int = 64, **options: str) -> FoldedGraph:
    """A network whose BatchNorms know the pictures, so that no activation fades away, and whose channels differ."""
    model = MobileNetV3(table, input_shape=(side, side, 3), classes=7, batchnorm_momentum=0.0, **options)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.path.endswith(("gamma", "beta")):
            variable.assign(np.asarray(variable) * rng.uniform(0.3, 3, variable.shape) + rng.uniform(-0.5, 0.5, variable.shape))
    model(pictures(side=side).astype(np.float32), training=True)
    return trace(model)


def uneven() -> FoldedGraph:
    """The stem's channels differ 60-fold, and its hard-swish is computed from two convolutions."""
    graph = network()
    stem, depthwise = graph["stem_conv"], graph["block_01_depthwise"]
    assert stem.kernel is not None and stem.bias is not None and depthwise.kernel is not None
    factor = np.geomspace(1, 60, len(stem.bias)).astype(np.float32)
    changed = {stem.name: dataclasses.replace(stem, kernel=stem.kernel * factor, bias=stem.bias * factor),
               depthwise.name: dataclasses.replace(depthwise, kernel=depthwise.kernel / factor[:, None])}
    graph = equalize(dataclasses.replace(graph, ops=tuple(changed.get(op.name, op) for op in graph.ops)), [pictures()])
    assert graph.split_stem
    return graph


NETWORKS: dict[str, Callable[[], FoldedGraph]] = {
    "all kinds of blocks": network,
    "minimalistic": lambda: network(MINIMALISTIC),
    "symmetric padding": lambda: network(dialect="torchvision"),
    "a map of one place": lambda: network(dataclasses.replace(TABLE, blocks=(
        *TABLE.blocks, *[Block(3, 48, 32, True, "hard_swish", 2)] * 3)), side=32),
    "split stem": uneven,
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[LoweredNetwork, bytes, np.ndarray]:
    """A fake as a quantized run has it, its file, and pictures."""
    graph = NETWORKS[request.param]()
    pixels = pictures(side=graph.height)
    fake = LoweredNetwork(lower(graph), calibrate(graph, [pixels]).ranges)
    fake.round_biases()
    return fake, convert_graph(fake.folded_graph(), fake.ranges(), format="int8", io="int8", lowering="xnnpack"), pixels


@pytest.mark.slow
def test_logits_are_xnnpacks(case: tuple[LoweredNetwork, bytes, np.ndarray]) -> None:
    fake, content, pixels = case
    file = LiteRTModel(content)
    assert file.partitions == 1
    np.testing.assert_array_equal(IntegerNetwork(fake).logits(pixels), file.predict(pixels))


@pytest.mark.slow
def test_every_tensor_is_the_reference_kernels(case: tuple[LoweredNetwork, bytes, np.ndarray]) -> None:
    fake, content, pixels = case
    placed = place(parse_tflite(content), fake.lowered)
    assert not isinstance(placed, str)
    names = [item.op.name for item in placed]
    network = IntegerNetwork(fake, "reference")
    file = LiteRTModel(content, reference_kernels=True, keep_tensors=True)
    for picture in pixels[:4]:
        file.predict(picture[None])
        for item, found in zip(placed, network.tensors(names, picture[None]), strict=True):
            params = network.quant_params[item.op.name]
            real = (found.astype(np.float64) - params.zero_point) * float(params.scale)
            np.testing.assert_allclose(file.real_values(item.output.index), real, rtol=1e-6, err_msg=item.op.name)


def test_constants_are_the_files(case: tuple[LoweredNetwork, bytes, np.ndarray]) -> None:
    fake, content, _ = case
    file = parse_tflite(content)
    placed = place(file, fake.lowered)
    assert not isinstance(placed, str)
    quant_params = IntegerNetwork(fake).quant_params
    for item in placed:
        params = quant_params[item.op.name]
        assert item.output.scales == (pytest.approx(float(params.scale), abs=0),)
        assert item.output.zero_points == (params.zero_point,)


@pytest.fixture(scope="module")
def calibrated() -> tuple[FoldedGraph, Ranges]:
    graph = network()
    return graph, calibrate(graph, [pictures()]).ranges


def test_it_reads_the_network_again(calibrated: tuple[FoldedGraph, Ranges]) -> None:
    graph, ranges = calibrated
    fake, pixels = LoweredNetwork(lower(graph), ranges), pictures(2)
    read, network = IntegerNetwork(fake), QuantizedNetwork(fake)
    before = read.logits(pixels)
    np.testing.assert_array_equal(network.logits(pixels), before)
    weights = fake.weights()
    fake.set_weights({name: (kernel * 0.7, bias + 0.01) for name, (kernel, bias) in weights.items()})
    np.testing.assert_array_equal(read.logits(pixels), before)
    read.refresh()
    network.refresh()
    after = IntegerNetwork(fake).logits(pixels)
    assert np.abs(after - before).max() > 0
    np.testing.assert_array_equal(read.logits(pixels), after)
    np.testing.assert_array_equal(network.logits(pixels), after)


def test_what_diverged_is_no_number(calibrated: tuple[FoldedGraph, Ranges]) -> None:
    graph, ranges = calibrated
    fake = LoweredNetwork(lower(graph), ranges)
    network = IntegerNetwork(fake)
    kernel, bias = fake.weights()["block_02_project"]
    fake.set_weights({"block_02_project": (np.where(kernel == kernel.max(), np.nan, kernel), bias)})
    network.refresh()
    assert np.isnan(network.logits(pictures(2))).all() and network.logits(pictures(2)).shape == (2, 7)
    fake.set_weights({"block_02_project": (kernel, bias)})
    network.refresh()
    assert np.isfinite(network.logits(pictures(2))).all()


def test_sums_beyond_float32_are_exact_too(calibrated: tuple[FoldedGraph, Ranges]) -> None:
    """A bias of many millions of its steps: the float32 sum would lose its last bits."""
    graph, ranges = calibrated
    op = graph["block_02_project"]
    assert op.kernel is not None and op.bias is not None
    small = dataclasses.replace(op, kernel=op.kernel * np.float32(1e-5), bias=op.bias + np.float32(1.2345))
    graph = dataclasses.replace(graph, ops=tuple(small if o.name == op.name else o for o in graph.ops))
    pixels = pictures()
    fake = LoweredNetwork(lower(graph), ranges)
    fake.round_biases()
    lowered = next(o for o in fake.lowered.ops if o.source == op.name)
    assert np.abs(fake.integers(lowered)[1]).max() > 2 ** 24
    file = LiteRTModel(convert_graph(fake.folded_graph(), fake.ranges(), format="int8", io="int8", lowering="xnnpack"))
    np.testing.assert_array_equal(IntegerNetwork(fake).logits(pixels), file.predict(pixels))


def test_what_has_no_integer_form_is_refused(calibrated: tuple[FoldedGraph, Ranges]) -> None:
    graph, ranges = calibrated
    for lowered in (lower(graph, "native"), lower(leave_float(graph, ["block_01"]))):
        assert not has_integer_form(lowered)
        fake = LoweredNetwork(lowered, ranges)
        with pytest.raises(KitError, match="has no integer form"):
            IntegerNetwork(fake)
        whole = QuantizedNetwork(fake)
        assert not whole.exact
        np.testing.assert_array_equal(whole.logits(pictures(2)), fake.logits(pictures(2)))
