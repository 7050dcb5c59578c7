"""The network: parameters, MACs, shapes and outputs equal to keras.applications', and what it offers beyond."""

import math
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from shared import HERE, answers_with, random_values, without_values

import mnv3_tf
from mnv3_tf.errors import InputError
from mnv3_tf.models import MobileNetV3, MobileNetV3Large, MobileNetV3Small
from mnv3_tf.network.layer_names import display_name
from mnv3_tf.network.profile import count_macs, profile
from mnv3_tf.network.spec import SPECS, Block, NetworkSpec, read_block_table

# (network, alpha, (height, width)): (parameters, MACs) at 1000 classes, counted on keras.applications 3.15.
GOLDENS = {
    ("large", 0.5, (224, 224)): (2702512, 73663088),
    ("large", 0.75, (224, 224)): (4012616, 154560624),
    ("large", 0.75, (96, 160)): (4012616, 49469072),
    ("large", 1.0, (224, 224)): (5507432, 216589760),
    ("large", 1.25, (224, 224)): (8286760, 349904800),
    ("large_minimalistic", 0.5, (224, 224)): (2288256, 69850736),
    ("large_minimalistic", 0.75, (224, 224)): (3069400, 148802544),
    ("large_minimalistic", 1.0, (224, 224)): (3948688, 209136704),
    ("large_minimalistic", 1.0, (96, 160)): (3948688, 65762240),
    ("large_minimalistic", 1.25, (224, 224)): (5788928, 340095904),
    ("small", 0.5, (224, 224)): (1599720, 24188688),
    ("small", 0.5, (96, 160)): (1599720, 8407792),
    ("small", 0.75, (224, 224)): (2051552, 43399344),
    ("small", 1.0, (224, 224)): (2554968, 56510400),
    ("small", 1.25, (224, 224)): (3660640, 87703648),
    ("small_minimalistic", 0.5, (224, 224)): (1451976, 21942032),
    ("small_minimalistic", 0.75, (224, 224)): (1742192, 40072880),
    ("small_minimalistic", 1.0, (224, 224)): (2056848, 52288448),
    ("small_minimalistic", 1.25, (224, 224)): (2886208, 82287200),
    ("small_minimalistic", 1.25, (96, 160)): (2886208, 26717600),
}


def reference(name: str, **arguments) -> keras.Model:
    """keras.applications' network of the same arguments."""
    maker = keras.applications.MobileNetV3Large if name.startswith("large") else keras.applications.MobileNetV3Small
    return maker(weights=None, minimalistic=name.endswith("minimalistic"), **arguments)


# Channels of the maps at strides 2, 4, 8, 16 and 32, taken from keras.applications 3.15.
CHANNELS = {
    ("large", 0.5): (8, 16, 24, 56, 480), ("large", 0.75): (16, 24, 32, 88, 720), ("large", 1.0): (16, 24, 40, 112, 960),
    ("large", 1.25): (24, 32, 48, 144, 1200), ("small", 0.5): (16, 8, 16, 24, 288), ("small", 0.75): (16, 16, 24, 40, 432),
    ("small", 1.0): (16, 16, 24, 48, 576), ("small", 1.25): (16, 24, 32, 64, 720),
}
# For what is the same for every table.
FOUR = read_block_table(HERE / "four_blocks.yaml")
SIDES = {(224, 224): ((112, 112), (56, 56), (28, 28), (14, 14), (7, 7)),
         (96, 160): ((48, 80), (24, 40), (12, 20), (6, 10), (3, 5))}


def same(ours: object, theirs: object) -> None:
    """Equal to a hundred-thousandth of the largest value, which must not be a trivial one."""
    found, expected = np.asarray(ours), np.asarray(theirs)
    assert found.shape == expected.shape and np.isfinite(expected).all() and np.ptp(expected) > 0
    assert np.abs(found - expected).max() < 1e-5 * max(np.abs(expected).max(), 1)


def pixels_of(height: int, width: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3)).astype(np.float32)


def reference_stages(model: keras.Model) -> list[object]:
    """The maps of keras.applications' network just before each halving, the last before pooling, and the logits."""
    layers = {layer.name: layer for layer in model.layers}
    firsts = []
    for name, layer in layers.items():
        if isinstance(layer, keras.layers.DepthwiseConv2D) and layer.strides == (2, 2):
            stem = name.removesuffix("depthwise")
            firsts.append(next(layers[stem + end] for end in ("expand", "depthwise_pad", "depthwise") if stem + end in layers))
    pools = [layer for layer in layers.values() if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
    return [*(layer.input for layer in firsts), pools[-1].input, model.output]


def macs_of(model: keras.Model) -> int:
    """Convolutions' multiply-accumulates, from kernels and output shapes alone."""
    return sum(math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape) for layer in model.layers
               if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "alpha", "size"), GOLDENS)
def test_parameters_macs_and_stages(name: str, alpha: float, size: tuple[int, int]) -> None:
    model = without_values(MobileNetV3, name, input_shape=(*size, 3), alpha=alpha, outputs=["stride_*", "logits"])
    assert (model.count_params(), count_macs(model)) == GOLDENS[name, alpha, size]
    shapes = {key: tuple(tensor.shape) for key, tensor in model.output.items()}
    assert shapes.pop("logits") == (None, 1000)
    assert shapes == {f"stride_{2 ** number}": (None, *side, channels) for number, (side, channels) in enumerate(
        zip(SIDES[size], CHANNELS[name.removesuffix("_minimalistic"), alpha], strict=True), start=1)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "alpha", "classes", "size"), [
    ("large", 1.0, 7, (97, 65)), ("large", 0.6, 1, (64, 96)), ("large", 0.35, 7, (32, 48)),
    ("small", 1.0, 7, (97, 65)), ("small", 1.4, 2, (64, 64)), ("small", 0.5, 1000, (32, 32)),
    ("large_minimalistic", 0.75, 7, (65, 33)), ("large_minimalistic", 0.35, 1, (32, 64)),
    ("small_minimalistic", 1.25, 1000, (97, 65)), ("small_minimalistic", 0.9, 7, (32, 47)),
])
def test_every_map_and_the_logits_equal_keras_applications(name: str, alpha: float, classes: int, size: tuple[int, int]) -> None:
    arguments = {"input_shape": (*size, 3), "alpha": alpha, "classes": classes}
    theirs = without_values(reference, name, classifier_activation=None, **arguments)
    ours = without_values(MobileNetV3, name, outputs=["stride_*", "logits"], **arguments)
    assert (ours.count_params(), count_macs(ours)) == (theirs.count_params(), macs_of(theirs))
    values, pixels = random_values(theirs), pixels_of(*size)
    *expected, logits = answers_with(keras.Model(theirs.input, reference_stages(theirs)), values, pixels)
    maps = answers_with(ours, values, pixels)
    given = maps.pop("logits")
    assert given.shape == (2, classes)
    same(given, logits)
    assert len(maps) == len(expected) == 5
    for number, (found, wanted) in enumerate(zip(maps.values(), expected, strict=True), start=1):
        assert found.shape[1:3] == tuple(math.ceil(side / 2**number) for side in size)
        same(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pooling", "size"), [
    ("small", None, (64, 96)), ("large", "avg", (97, 65)), ("small_minimalistic", "max", (32, 33))])
def test_without_the_top(name: str, pooling: str | None, size: tuple[int, int]) -> None:
    arguments = {"input_shape": (*size, 3), "alpha": 0.5, "include_top": False, "pooling": pooling,
                 "include_preprocessing": False}
    theirs, ours = without_values(reference, name, **arguments), without_values(MobileNetV3, name, **arguments)
    assert (ours.count_params(), count_macs(ours)) == (theirs.count_params(), macs_of(theirs))
    values, pixels = random_values(theirs), pixels_of(*size) / 127.5 - 1
    same(answers_with(ours, values, pixels), answers_with(theirs, values, pixels))


def test_feature_pyramid() -> None:
    arguments = {"alpha": 0.5, "outputs": "pyramid", "include_top": False}
    model = without_values(MobileNetV3Large, input_shape=(96, 160, 3), **arguments)
    wanted = {"stride_2": (None, 48, 80, 8), "stride_4": (None, 24, 40, 16), "stride_8": (None, 12, 20, 24),
              "stride_16": (None, 6, 10, 56), "stride_32": (None, 3, 5, 480)}
    assert [(name, tuple(tensor.shape)) for name, tensor in model.output.items()] == list(wanted.items())
    maps = answers_with(model, random_values(model), np.zeros((1, 96, 160, 3), np.float32))
    assert maps["stride_16"].shape == (1, 6, 10, 56)
    anything = without_values(MobileNetV3Large, input_shape=(None, None, 3), **arguments)
    assert [(name, tuple(shape)) for name, shape in anything.compute_output_shape((None, 96, 160, 3)).items()] == list(
        wanted.items())


def test_outputs_by_pattern() -> None:
    model = without_values(MobileNetV3Small, input_shape=(32, 32, 3), outputs=["stride_8", "block_0[56]_add"])
    assert list(model.output) == ["stride_8", "block_05_add", "block_06_add"]
    with pytest.raises(InputError, match=r"block_05_ad.*did you mean 'block_05_add'"):
        without_values(MobileNetV3Small, input_shape=(32, 32, 3), outputs="block_05_ad")


def test_head_widths_and_dropout() -> None:
    model = without_values(MobileNetV3Small, input_shape=(32, 32, 3), alpha=0.5, class_squeeze=200, class_expand=77,
                           inplanes=24, classes=2, dropout_rate=0)
    assert model.get_layer("head_conv").output.shape[-1] == 104  # 200 * 0.5 to a multiple of 8, not below 90%
    assert model.get_layer("head_expand").output.shape[-1] == 77
    assert model.get_layer("stem_conv").output.shape[-1] == 24
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in model.layers)


def test_a_users_own_table() -> None:
    spec = NetworkSpec("own", (Block(3, 16, 16, False, "relu", 2), Block(5, 48, 24, True, "hard_swish", 2),
                               Block(5, 96, 24, True, "hard_swish", 1)), "hard_swish", class_expand=64)
    model = MobileNetV3(spec, input_shape=(32, 32, 3), classes=3)
    assert model(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 3)
    assert model.get_layer("block_03_add").output.shape == (None, 4, 4, 24)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"input_shape": (31, 64, 3)}, "at least 32"), ({"input_shape": (64, 64)}, "height, width, channels"),
    ({"alpha": 0}, "alpha"), ({"classes": 0}, "classes"), ({"dropout_rate": 1.0}, "dropout_rate"),
    ({"pooling": "mean"}, "pooling"), ({"inplanes": 0}, "inplanes"), ({"spec": "larg"}, "did you mean 'large'"),
])
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MobileNetV3(**arguments)


def test_the_package_is_cheap_to_import() -> None:
    script = "import sys, mnv3_tf; assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert set(mnv3_tf.__all__) <= set(dir(mnv3_tf)) and all(getattr(mnv3_tf, name) for name in mnv3_tf.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mnv3_tf.nothing  # noqa: B018


def test_softmax_on_request_only() -> None:
    arguments = {"input_shape": (32, 32, 3), "classes": 5}
    logits = without_values(MobileNetV3, FOUR, **arguments)
    shares = without_values(MobileNetV3, FOUR, classifier_activation="softmax", **arguments)
    values, pixels = random_values(logits), pixels_of(32, 32)
    powers = np.exp(np.asarray(answers_with(logits, values, pixels)))
    np.testing.assert_allclose(np.asarray(answers_with(shares, values, pixels)), powers / powers.sum(axis=1, keepdims=True),
                               rtol=1e-4)
    assert logits.layers[-1].name == "logits" and shares.layers[-1].name == "predictions"


@pytest.mark.slow
def test_an_open_size_gives_what_a_fixed_one_gives() -> None:
    anything = without_values(MobileNetV3, FOUR, input_shape=(None, None, 3), classes=3)
    values = random_values(anything)
    for size in ((32, 32), (70, 45)):
        fixed = without_values(MobileNetV3, FOUR, input_shape=(*size, 3), classes=3)
        same(answers_with(anything, values, pixels_of(*size)), answers_with(fixed, values, pixels_of(*size)))


def test_minimalistic_by_argument() -> None:
    small = without_values(MobileNetV3Small, input_shape=(32, 32, 3), alpha=0.5, minimalistic=True)
    large = without_values(MobileNetV3Large, input_shape=(32, 32, 3), alpha=0.5, minimalistic=True)
    assert (small.name, large.name) == ("mobilenet_v3_small_minimalistic", "mobilenet_v3_large_minimalistic")
    assert (small.count_params(), large.count_params()) == (1451976, 2288256)


@pytest.mark.slow
def test_pixels_are_scaled_exactly_once() -> None:
    """Scaled twice, a picture would be nearly black for the network; not at all, it would saturate it."""
    pixels = np.stack([np.zeros((32, 32, 3)), np.full((32, 32, 3), 255), np.full((32, 32, 3), 127.5)]).astype(np.float32)
    model = without_values(MobileNetV3, FOUR, input_shape=(32, 32, 3))
    sees = keras.Model(model.input, model.get_layer("stem_conv").input)
    np.testing.assert_allclose(np.asarray(sees(pixels)).mean(axis=(1, 2, 3)), [-1, 1, 0], atol=1e-6)
    for pixel, expected in ((0, -1.0), (255, 1.0)):
        np.testing.assert_allclose(np.asarray(sees(np.full((1, 32, 32, 3), pixel, np.uint8))), expected, atol=1e-6)
    assert sum(isinstance(layer, keras.layers.Rescaling) for layer in model.layers) == 1
    bare = without_values(MobileNetV3, FOUR, input_shape=(32, 32, 3), include_preprocessing=False)
    assert bare.get_layer("stem_conv").input is bare.input and "rescale" not in [layer.name for layer in bare.layers]
    values = random_values(model)
    same(answers_with(bare, values, pixels / 127.5 - 1), answers_with(model, values, pixels))


READABLE = (r"image|rescale|(stem|head)_conv(_bn|_relu|_hard_swish)?|block_\d\d_(expand|depthwise)(_bn|_relu|_hard_swish)?|"
            r"block_\d\d_project(_bn)?|block_\d\d_add|block_\d\d_se_(pool|reduce|reduce_relu|expand|expand_hard_sigmoid|multiply)|"
            r"head_(pool|dropout|expand|expand_relu|expand_hard_swish)|classifier|logits")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SPECS))
def test_layers_of_every_variant_are_built_in_with_readable_names(name: str) -> None:
    model = without_values(MobileNetV3, name, input_shape=(32, 32, 3), alpha=0.35, classes=2)
    names = [layer.name for layer in model.layers]
    assert [n for n in names if not re.fullmatch(READABLE, n)] == [] and len(set(names)) == len(names)
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    rows = profile(model)
    assert [row.name for row in rows] == [display_name(n) for n in names]
    assert {"block_07/depthwise", "stem/conv", "classifier"} <= {row.name for row in rows}
    assert sum(row.parameters for row in rows) == model.count_params()


@pytest.mark.parametrize(("layer", "shown"), [
    ("block_07_depthwise", "block_07/depthwise"), ("block_12_se_reduce_relu", "block_12/se_reduce_relu"),
    ("block_07_se_expand_hard_sigmoid", "block_07/se_expand_hard_sigmoid"), ("classifier", "classifier"),
    ("stem_conv_bn", "stem/conv_bn"), ("head_expand", "head/expand"), ("logits", "logits"), ("image", "image"),
    ("my_block_07_conv", "my_block_07_conv"),
])
def test_names_in_reports(layer: str, shown: str) -> None:
    assert display_name(layer) == shown


def test_profile_by_hand() -> None:
    model = without_values(MobileNetV3Small, input_shape=(32, 64, 3), classes=10)
    rows = {row.name: row for row in profile(model)}
    stem = rows["stem/conv"]  # 3x3x3x16 weights at each of 16 x 32 places
    assert (stem.kind, stem.output, stem.parameters, stem.macs) == ("Conv2D", (16, 32, 16), 432, 432 * 16 * 32)
    depthwise = rows["block_01/depthwise"]  # 3x3 for 16 channels, stride 2
    assert (depthwise.output, depthwise.parameters, depthwise.macs) == ((8, 16, 16), 144, 144 * 8 * 16)
    assert (rows["block_01/se_reduce"].parameters, rows["block_01/se_reduce"].macs) == (16 * 8 + 8, 16 * 8)
    assert (rows["classifier"].parameters, rows["classifier"].macs) == (1024 * 10 + 10, 1024 * 10)
    assert (rows["stem/conv_bn"].parameters, rows["stem/conv_bn"].macs) == (4 * 16, 0)


def test_dropout_and_momentum_reach_their_layers() -> None:
    model = without_values(MobileNetV3, FOUR, input_shape=(32, 32, 3), dropout_rate=0.35, batchnorm_momentum=0.9)
    assert model.get_layer("head_dropout").rate == 0.35
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.momentum, layer.epsilon) for layer in norms} == {(0.9, 1e-3)}


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "widths"), [
    ({"class_squeeze": 64}, (16, 64, 64)), ({"class_expand": 100}, (16, 192, 100)),
    ({"inplanes": 8, "class_squeeze": 100, "class_expand": 1}, (8, 104, 1)),
    ({"class_squeeze": 64, "class_expand": 100, "alpha": 1.25}, (16, 80, 128)),
])
def test_widths_of_stem_and_head(arguments: dict, widths: tuple[int, int, int]) -> None:
    model = without_values(MobileNetV3, FOUR, input_shape=(32, 32, 3), classes=2, **arguments)
    assert tuple(model.get_layer(n).output.shape[-1] for n in ("stem_conv", "head_conv", "head_expand")) == widths
    assert np.asarray(answers_with(model, random_values(model), pixels_of(32, 32))).shape == (2, 2)


@pytest.mark.slow
def test_a_table_from_yaml_builds_runs_and_counts_by_hand(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "name: tiny\nactivation: relu\ninplanes: 8\nclass_squeeze: 32\nclass_expand: 40\nblocks:\n"
        "  - [3, 8, 8, false, relu, 1]\n"
        "  - {kernel: 5, expansion: 24, out: 16, squeeze_excite: true, activation: hard_swish, stride: 2}\n")
    model = MobileNetV3(read_block_table(tmp_path / "own.yaml"), input_shape=(32, 48, 3), classes=3)
    assert model.name == "mobilenet_v3_tiny" and "block_01_add" in [layer.name for layer in model.layers]
    full, half = 16 * 24, 8 * 12
    assert count_macs(model) == (
        27 * 8 * full + 9 * 8 * full + 8 * 8 * full  # stem; depthwise and projection of the first block
        + 8 * 24 * full + 25 * 24 * half + 2 * 24 * 8 + 24 * 16 * half  # the second block, squeezed to 8
        + 16 * 32 * half + 32 * 40 + 40 * 3)  # head and classifier
    assert model.count_params() == (
        216 + 72 + 64 + 192 + 600 + (24 * 8 + 8) + (8 * 24 + 24) + 384 + 512 + (32 * 40 + 40) + (40 * 3 + 3)
        + 4 * (8 + 8 + 8 + 24 + 24 + 16 + 32))  # four numbers a channel in each BatchNorm
    model.set_weights(random_values(model))
    assert np.ptp(np.asarray(model(pixels_of(32, 48)))) > 0
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_layer("stem_conv").get_weights()[0]
    assert np.isfinite(model.train_on_batch(pixels_of(32, 48), np.array([0, 2])))
    assert np.abs(model.get_layer("stem_conv").get_weights()[0] - before).max() > 0


@pytest.mark.slow
def test_outputs_of_all_kinds() -> None:
    arguments = {"input_shape": (64, 32, 3), "classes": 3}
    whole = without_values(MobileNetV3, FOUR, **arguments)
    values, pixels = random_values(whole), pixels_of(64, 32)
    wanted = ["stride_16", "logits", "block_0[12]_project_bn", "stride_1*"]
    model = without_values(MobileNetV3, FOUR, outputs=wanted, **arguments)
    assert list(model.output) == ["stride_16", "logits", "block_01_project_bn", "block_02_project_bn"]
    assert model.output["stride_16"].shape == (None, 4, 2, 192)
    same(answers_with(model, values, pixels)["logits"], answers_with(whole, values, pixels))
    adds = without_values(MobileNetV3Small, input_shape=(32, 32, 3), alpha=0.35, outputs="block_*_add")
    assert list(adds.output) == [f"block_{number:02}_add" for number in (3, 5, 6, 7, 8, 10, 11)]  # 7 and 8 are as wide as 6


@pytest.mark.slow
@pytest.mark.parametrize(("outputs", "message"), [
    ("stride_7", r"nothing is called 'stride_7'; did you mean 'stride_\d+'.*Stages: stride_2, stride_4"),
    (["stride_8", "clasifier"], "nothing is called 'clasifier'; did you mean 'classifier'"),
    ("zzz*", r"nothing is called 'zzz\*'\. Stages: stride_2.*a pattern with \*"), ("pyramids", "nothing is called 'pyramids'"),
])
def test_unknown_outputs(outputs: str | list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        without_values(MobileNetV3, FOUR, input_shape=(32, 32, 3), outputs=outputs)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"input_shape": (64, 31, 3)}, "The input is 64x31; both sides must be at least 32"),
    ({"input_shape": (64, 64, None)}, "height, width, channels"), ({"input_shape": (64, 64, 0)}, "height, width, channels"),
    ({"input_shape": (1, 64, 64, 3)}, "height, width, channels"), ({"input_shape": (None, 16, 3)}, "at least 32"),
    ({"alpha": -1}, "alpha is -1; the width multiplier must be above 0"), ({"alpha": float("nan")}, "alpha is nan"),
    ({"alpha": float("inf")}, "alpha is inf"),
    ({"classes": -2}, "classes is -2; at least 1"), ({"dropout_rate": float("nan")}, "dropout_rate is nan"),
    ({"dropout_rate": -0.1}, "dropout_rate is -0.1; it must be at least 0 and below 1"),
    ({"pooling": "MAX"}, "pooling is 'MAX'; allowed: None, 'avg', 'max'"),
    ({"class_squeeze": 0}, "class_squeeze is 0; at least 1 channel"), ({"class_expand": -3}, "class_expand is -3"),
    ({"spec": "medium"}, "Allowed: large, small, large_minimalistic, small_minimalistic"),
    ({"input_tensor": np.zeros((1, 64, 64, 3))}, r"input_tensor is ndarray; .* such as keras\.Input"),
    ({"input_tensor": keras.Input((64, 64, 3)), "input_shape": (64, 32, 3)},
     r"input_shape is \(64, 32, 3\), but input_tensor has \(64, 64, 3\)"),
    ({"input_tensor": keras.Input((31, 64, 3))}, "The input is 31x64"), ({"input_tensor": keras.Input((64,))}, "height, width"),
])
def test_more_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MobileNetV3(**arguments)


def test_a_network_on_a_tensor_of_ones_own() -> None:
    """The model begins where the tensor's graph begins, and computes what the network computes on that tensor."""
    pixels, arguments = pixels_of(48, 64), {"classes": 3}
    image = keras.Input((48, 64, 3), name="photo")
    model = without_values(MobileNetV3, FOUR, input_tensor=keras.layers.Rescaling(0.5, name="darker")(image), **arguments)
    alone = without_values(MobileNetV3, FOUR, input_shape=(48, 64, 3), **arguments)
    assert model.input is image and [layer.name for layer in model.layers[:3]] == ["photo", "darker", "rescale"]
    values = random_values(alone)
    same(answers_with(model, values, pixels), answers_with(alone, values, pixels * 0.5))
    directly = without_values(MobileNetV3, FOUR, input_tensor=image, input_shape=(48, 64, 3), outputs="pyramid", **arguments)
    assert directly.input is image and directly.output["stride_8"].shape == (None, 6, 8, 24)
