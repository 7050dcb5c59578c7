"""Every dialect down the road: folded network, int8 in one partition, float file; padding and normalization by hand."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
from shared import TWO_BLOCKS

from mnv3_tf.config import Config, load_config
from mnv3_tf.data import open_dataset
from mnv3_tf.errors import InputError
from mnv3_tf.export.convert.convert import check_int8, convert, convert_graph, open_source
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.spec import DIALECTS, Block, NetworkSpec
from mnv3_tf.progress import Silent
from mnv3_tf.quantization.calibration import calibrate
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, input_shift, input_units
from mnv3_tf.quantization.fold import trace
from mnv3_tf.quantization.graph import FoldedGraph, load_graph, save_graph
from mnv3_tf.quantization.integer_network import IntegerNetwork
from mnv3_tf.quantization.lowering import lower
from mnv3_tf.tflite.file import parse_tflite
from mnv3_tf.tflite.runtime import LiteRTModel

# What a dialect's stem takes for zero, as a pixel's byte: the mean of its three channels' means.
ZERO_PIXELS = {"keras": 128, "timm_tf": 128, "torchvision": 114, "timm": 114, "paddle": 114}

# Everything that the big tables have, in four blocks.
TABLE = NetworkSpec("short", (
    Block(3, 16, 16, True, "relu", 2), Block(3, 32, 24, False, "relu", 2), Block(3, 48, 24, False, "hard_swish", 1),
    Block(5, 64, 32, True, "hard_swish", 2)), "hard_swish", class_expand=64)


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Cloudy pictures, uint8."""
    coarse = np.random.default_rng(3).integers(0, 256, (count, height // 8, width // 8, 3))
    return coarse.repeat(8, 1).repeat(8, 2).astype(np.uint8)


def as_if_trained(dialect: str, pixels: np.ndarray) -> keras.Model:
    """A short network whose BatchNorms know these pictures, so that its activations have the sizes of a trained one's."""
    model = MobileNetV3(TABLE, dialect=dialect, input_shape=pixels.shape[1:], classes=7, batchnorm_momentum=0.0)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.path.endswith(("gamma", "beta")):
            variable.assign(np.asarray(variable) + rng.uniform(-0.3, 0.3, variable.shape))
    model(pixels.astype(np.float32), training=True)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_road(dialect: str, tmp_path: Path) -> None:
    pixels = pictures(8, 64, 96)
    model = as_if_trained(dialect, pixels)
    expected = np.asarray(model(pixels.astype(np.float32)))
    span = np.ptp(expected)
    graph = trace(model)
    assert graph.zero_pixel == ZERO_PIXELS[dialect]
    assert np.abs(LoweredNetwork(lower(graph), exact_input=True).logits(pixels) - expected).max() < 1e-5 * span

    ranges = calibrate(graph, [pixels]).ranges
    save_graph(tmp_path / "graph.npz", graph, ranges)
    graph, ranges = load_graph(tmp_path / "graph.npz")
    network = LoweredNetwork(lower(graph), ranges)
    network.round_biases()
    exact = {kernels: IntegerNetwork(network, kernels).logits(pixels) for kernels in ("xnnpack", "reference")}
    graph = network.folded_graph()
    content = convert_graph(graph, ranges, format="int8", io="int8", lowering="xnnpack")
    file = LiteRTModel(content)
    assert check_int8(parse_tflite(content), file, "xnnpack") == []
    assert file.partitions == 1 and file.input_quantization[1] == ZERO_PIXELS[dialect] - 128
    answers = file.predict(pixels)
    np.testing.assert_array_equal(answers, exact["xnnpack"])
    np.testing.assert_array_equal(LiteRTModel(content, reference_kernels=True).predict(pixels), exact["reference"])
    assert np.corrcoef(answers.ravel(), expected.ravel())[0, 1] > 0.99

    plain = LiteRTModel(convert_graph(trace(model), None, format="float32", io="float32", lowering="xnnpack"))
    answers = np.concatenate([plain.predict(picture[None]) for picture in pixels])
    assert np.abs(answers - expected).max() < 1e-5 * span


def stem_of(dialect: str, size: tuple[int, int] = (32, 32)) -> tuple[keras.Model, FoldedGraph]:
    """The first convolution alone, its kernel all ones for one output channel, and the whole folded network."""
    model = MobileNetV3(TABLE, dialect=dialect, input_shape=(*size, 3), classes=2)
    layer = model.get_layer("stem_conv")
    layer.set_weights([np.ones_like(layer.get_weights()[0])])
    return keras.Model(model.input, layer.output), trace(model)


@pytest.mark.slow
def test_strided_padding_is_symmetric_or_tensorflows() -> None:
    # An even side with stride 2: TensorFlow's SAME pads the far side only, the others the near side.
    black = np.zeros((1, 32, 32, 3), np.float32)
    model, _ = stem_of("keras")
    corners = np.asarray(model(black))[0, :, :, 0]
    np.testing.assert_allclose((corners[0, 0], corners[-1, -1]), (-27, -12), rtol=1e-6)
    model, _ = stem_of("torchvision")
    corners = np.asarray(model(black))[0, :, :, 0]
    zero = -(0.485 / 0.229 + 0.456 / 0.224 + 0.406 / 0.225)
    np.testing.assert_allclose((corners[0, 0], corners[-1, -1]), (4 * zero, 9 * zero), rtol=1e-5)


def test_different_scales_of_channels_go_into_the_kernel() -> None:
    _, graph = stem_of("torchvision")
    stem = graph["stem_conv"]
    assert stem.padding == "symmetric" and stem.kernel is not None
    scale = np.array([1 / (255 * std) for std in (0.229, 0.224, 0.225)])
    np.testing.assert_allclose(stem.kernel[0, 0, :, 0] * graph.scale, scale / np.sqrt(1 + 1e-3), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(graph.offset) / graph.scale, [-255 * m for m in (0.485, 0.456, 0.406)], rtol=1e-6)
    # The mean colour is the first convolution's zero, in both units.
    mean = np.array([[123.675, 116.28, 103.53]])
    np.testing.assert_allclose(graph.stem_input(mean), 0, atol=1e-6)
    np.testing.assert_allclose(input_units(graph, mean) + input_shift(graph), 0, atol=1e-5)


def test_what_the_border_costs_is_small() -> None:
    pixels = pictures(8, 64, 96)
    model = as_if_trained("torchvision", pixels)
    graph = trace(model)
    expected, inside = np.asarray(model(pixels.astype(np.float32))), LoweredNetwork(lower(graph)).logits(pixels)
    assert 0 < np.abs(inside - expected).max() < 0.05 * np.ptp(expected)
    # Padding with the pixel value 128 instead costs more.
    worse = LoweredNetwork(lower(_with_zero_pixel_of_128(graph))).logits(pixels)
    assert np.abs(worse - expected).mean() > np.abs(inside - expected).mean()


class _ZeroAt128(FoldedGraph):
    @property
    def zero_pixel(self) -> int:
        return 128


def _with_zero_pixel_of_128(graph: FoldedGraph) -> FoldedGraph:
    return _ZeroAt128(**{field.name: getattr(graph, field.name) for field in dataclasses.fields(graph)})


def test_other_padding_is_refused_by_name() -> None:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name="far_side")(x)
    model = keras.Model(image, keras.layers.Conv2D(2, 3, strides=2, padding="valid")(x))
    with pytest.raises(InputError, match="far_side"):
        trace(model)


def test_folded_networks_of_the_first_versions_are_read(tmp_path: Path) -> None:
    _, graph = stem_of("keras")
    save_graph(tmp_path / "old.npz", dataclasses.replace(graph, offset=-1.0), {})  # type: ignore[arg-type]
    assert load_graph(tmp_path / "old.npz")[0].offset == (-1.0, -1.0, -1.0)


@pytest.mark.slow
def test_a_trained_run_in_another_dialect_is_proved(pictures: Path, tiny_config: Config, tmp_path: Path) -> None:
    from mnv3_tf.export.verify import open_chain, verify
    from mnv3_tf.quantization.quantize import quantize
    from mnv3_tf.training.trainer import train

    config = load_config(None, ["model.dialect=paddle", TWO_BLOCKS[0], "train.epochs=8"], tiny_config)
    keras.utils.set_random_seed(0)
    train(open_dataset(pictures), config, tmp_path / "float", progress=Silent())
    quantize(tmp_path / "float", open_dataset(pictures), config, tmp_path / "ptq", method="ptq", progress=Silent())
    made = convert(open_source(tmp_path / "ptq"), tmp_path / "m.tflite")
    assert made.partitions == 1
    result = verify(open_chain(made.path), pictures, progress=Silent())
    assert result.layers.refused == ""
    assert result.passed, [str(finding) for finding in result.findings]
