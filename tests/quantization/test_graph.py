"""Deploy form and lowering: exact in real numbers, refused by name where impossible."""

from pathlib import Path

import keras
import numpy as np
import pytest
from shared import HERE

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.spec import Block, NetworkSpec, read_block_table
from mnv3_tf.quantization.calibration import calibrate
from mnv3_tf.quantization.fake_quantized import LoweredNetwork
from mnv3_tf.quantization.fold import trace
from mnv3_tf.quantization.graph import FoldedGraph, Op, load_graph, save_graph
from mnv3_tf.quantization.lowering import LOWERINGS, lower, range_rule


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """The same network as if trained: unlike weights everywhere, BatchNorm's statistics included."""
    rng = np.random.default_rng(seed)

    def value(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith("kernel"):  # keeps the size of what passes through, whatever the depth
            fan_in = np.prod(shape[:2]) if "depthwise" in path else np.prod(shape[:-1])
            return rng.normal(0, np.sqrt(2 / fan_in), shape)
        return rng.uniform(0.5, 1.5, shape) if path.endswith(("variance", "gamma")) else rng.normal(0, 0.2, shape)

    model.set_weights([value(v.path, v.shape) for v in model.weights])
    return model


@pytest.fixture(scope="module")
def small() -> FoldedGraph:
    """The small network."""
    return trace(randomized(MobileNetV3("small", input_shape=(32, 32, 3), alpha=0.25, classes=3)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["large", "small", "large_minimalistic", "small_minimalistic"])
def test_lowered_networks_compute_the_same_function(name: str) -> None:
    model = randomized(MobileNetV3(name, input_shape=(48, 64, 3), alpha=0.5, classes=5))
    pixels = np.random.default_rng(1).integers(0, 256, (3, 48, 64, 3)).astype(np.float32)
    expected = np.asarray(model(pixels))
    graph = trace(model)
    for lowering in LOWERINGS:
        network = LoweredNetwork(lower(graph, lowering), exact_input=True)
        found = network.logits(pixels)
        assert np.abs(found - expected).max() < 1e-5 * np.ptp(expected), lowering


def test_batchnorm_folds_as_computed_by_hand() -> None:
    image = keras.Input((2, 2, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    x = keras.layers.Conv2D(1, 1, use_bias=False, name="conv")(x)
    x = keras.layers.BatchNormalization(epsilon=0.0, name="bn")(x)
    model = keras.Model(image, x)
    # kernel 1, 2, 3; gamma 4, beta 5, mean 6, variance 0.25: y = (k x - 6) / 0.5 * 4 + 5 = 8 k x - 43
    model.set_weights([np.array([1, 2, 3], np.float32).reshape(1, 1, 3, 1)]
                      + [np.array([v], np.float32) for v in (4, 5, 6, 0.25)])
    graph = trace(model)
    assert [op.kind for op in graph.ops] == ["input", "conv"]
    np.testing.assert_allclose(graph.ops[1].kernel.ravel(), [8, 16, 24], rtol=1e-6)
    np.testing.assert_allclose(graph.ops[1].bias, [-43], rtol=1e-6)


def test_hard_swish_factor_ends_in_the_next_kernel(small: FoldedGraph) -> None:
    lowered = {op.name: op for op in lower(small).ops}
    assert lowered["stem_conv_hard_swish"].factor == 6.0
    assert lowered["block_01_depthwise"].kernel_scale == pytest.approx(1 / 6)
    # A gate (times 6) and a hard-swish (times 6) meet in the product before block 4's projection.
    assert lowered["block_04_se_multiply"].factor == pytest.approx(36)
    assert lowered["block_04_project"].kernel_scale == pytest.approx(1 / 36)
    assert lowered["block_04_se_expand_hard_sigmoid"].bias_shift == 3.0


@pytest.mark.slow
def test_residual_on_the_stem_shares_its_factor() -> None:
    """Large's first block adds to the stem's hard-swish, which is six times too large: so is the projection then."""
    graph = trace(MobileNetV3("large", input_shape=(32, 32, 3), alpha=0.25, classes=3, inplanes=8))
    lowered = {op.name: op for op in lower(graph).ops}
    assert lowered["block_01_add"].factor == 6.0
    assert lowered["block_01_project"].factor == 6.0
    assert lowered["block_02_expand"].kernel_scale == pytest.approx(1 / 6)


@pytest.mark.slow
def test_the_mean_of_one_place_is_no_operation() -> None:
    """At 32x32 the last map has one place. The converter leaves its mean out; the network must have the same operations."""
    from mnv3_tf.export.convert.convert import convert_graph
    from mnv3_tf.export.convert.placement import place
    from mnv3_tf.export.verify.layers import examine_layers
    from mnv3_tf.tflite.file import parse_tflite

    blocks = (Block(3, 16, 16, True, "relu", 2), Block(3, 32, 16, False, "hard_swish", 2),
              Block(3, 32, 24, True, "relu", 2), Block(5, 32, 24, True, "hard_swish", 2))
    spec = NetworkSpec("four", blocks, "hard_swish", class_expand=32)
    graph = trace(randomized(MobileNetV3(spec, input_shape=(32, 32, 3), classes=3)))
    assert [op.name for op in graph.ops if op.kind == "pool"] == ["block_01_se_pool", "block_03_se_pool"]
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)
    ranges = calibrate(graph, [pixels]).ranges
    content = convert_graph(graph, ranges, format="int8", io="int8", lowering="xnnpack")
    placed = place(parse_tflite(content), lower(graph))
    assert not isinstance(placed, str) and [item.op.name for item in placed][-1] == "logits"
    assert examine_layers(content, graph, None, pixels).refused == ""


def test_no_factor_is_needed_without_hard_swish() -> None:
    graph = trace(MobileNetV3("small_minimalistic", input_shape=(32, 32, 3), alpha=0.25, classes=3))
    assert all(op.factor == 1.0 and op.kernel_scale == 1.0 for op in lower(graph).ops)


def test_range_rules(small: FoldedGraph) -> None:
    assert range_rule(small, small["stem_conv"]) == (-3.0, None)
    assert range_rule(small, small["stem_conv_hard_swish"]) == (-0.375, None)
    assert range_rule(small, small["block_02_expand"]) == (0.0, None)
    assert range_rule(small, small["block_01_se_expand_hard_sigmoid"]) == (0.0, 1.0)
    assert range_rule(small, small["block_01_project"]) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), [
    ({"classifier_activation": "softmax"}, "softmax.*logits"),
    ({"include_top": False}, "GlobalAverage|output|last"),
    ({"include_preprocessing": False}, "include_preprocessing=True"),
    ({"outputs": "pyramid"}, "5 outputs"),
    ({"input_shape": (None, None, 3)}, "fixed size"),
])
def test_models_without_an_integer_form_are_refused(arguments: dict, message: str) -> None:
    network = "small" if "outputs" in arguments else read_block_table(HERE / "two_blocks.yaml")
    model = MobileNetV3(network, **({"input_shape": (32, 32, 3), "alpha": 0.25, "classes": 3} | arguments))
    with pytest.raises(KitError, match=message):
        lower(trace(model))


def test_an_unknown_layer_is_named() -> None:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.UpSampling2D(name="upsample_here")(x)
    with pytest.raises(InputError, match="upsample_here"):
        trace(keras.Model(image, x))


@pytest.mark.slow
def test_mixed_precision_models_are_traced_in_float32() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = MobileNetV3(read_block_table(HERE / "two_blocks.yaml"), input_shape=(32, 32, 3), classes=3)
    finally:
        keras.config.set_dtype_policy("float32")
    graph = trace(model)
    assert all(op.kernel.dtype == np.float32 for op in graph.ops if op.kernel is not None)


def test_saved_graphs_come_back_whole(small: FoldedGraph, tmp_path: Path) -> None:
    ranges = {"stem_conv": (-3.0, 2.5)}
    save_graph(tmp_path / "q.npz", small, ranges)
    again, ranges_again = load_graph(tmp_path / "q.npz")
    assert ranges_again == ranges and (again.height, again.scale) == (small.height, small.scale)
    for ours, theirs in zip(again.ops, small.ops, strict=True):
        assert (ours.name, ours.kind, ours.inputs, ours.activation, ours.stride) == \
            (theirs.name, theirs.kind, theirs.inputs, theirs.activation, theirs.stride)
        if theirs.kernel is not None:
            assert np.array_equal(ours.kernel, theirs.kernel) and np.array_equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nonsense", b"no zip at all"])
def test_a_damaged_graph_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "q.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"q\.npz"):
        load_graph(tmp_path / "q.npz")


def test_an_addition_in_two_units_is_refused() -> None:
    ones = np.ones((1, 1, 3, 3), np.float32)
    zeros = np.zeros(3, np.float32)
    graph = FoldedGraph((
        Op("image", "input"), Op("a", "conv", ("image",), ones, zeros), Op("swish", "hard_swish", ("a",)),
        Op("relu", "conv", ("image",), ones, zeros, activation="relu"), Op("sum", "add", ("swish", "relu")),
        Op("out", "conv", ("sum",), ones, zeros)), 4, 4, 1 / 127.5, -1.0)
    with pytest.raises(KitError, match="sum: adds tensors in different units"):
        lower(graph)


def test_a_model_with_operators_is_sent_to_the_import() -> None:
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(keras.layers.Rescaling(1 / 255)(image))
    with pytest.raises(InputError, match=r"operators among its layers.*mnv3 import-weights"):
        trace(keras.Model(image, keras.layers.Flatten()(x + 3.0)))
