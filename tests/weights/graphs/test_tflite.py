"""Files that TensorFlow's converter and this kit write, read back and compared with the network that they were made from."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from foreign_models import SIDE, SPEC, answers, build, folded, noise, randomize, relative
from tutorial_models import short

from benchmarks.peers.keras_applications import convert_model_standard
from mnv3_tf import MobileNetV3
from mnv3_tf.data.synthetic import synthetic_pictures
from mnv3_tf.errors import InputError
from mnv3_tf.network.spec import Block, NetworkSpec
from mnv3_tf.tflite.file import TensorInfo, TfliteFile, parse_tflite
from mnv3_tf.weights.graphs import ForeignNetwork, read_convolutions
from mnv3_tf.weights.graphs.assign import Assigned, to_keras
from mnv3_tf.weights.graphs.match import match_spec, require_match

WIDE = 64
LIMITS = {"float32": 1e-4, "float16": 1e-2}


def check_steps(network: ForeignNetwork, assigned: Assigned, source: keras.Model) -> None:
    """Kernels within half a quantization step of the source's, each; biases within a step."""
    assert len(network.convolutions) == len(folded(source))
    pairs = zip(network.convolutions, folded(assigned.model), folded(source), strict=True)
    for conv, (kernel, bias), (wanted_kernel, wanted_bias) in pairs:
        assert conv.kernel_step is not None
        step = conv.kernel_step[:, None] if conv.kind == "depthwise" else conv.kernel_step
        assert np.all(np.abs(kernel - wanted_kernel) <= 0.502 * step), conv.layer
        assert np.any(kernel != wanted_kernel), conv.layer
        assert conv.bias_step is not None
        if conv.role == "stem":
            # The file's bias holds what its pixels lack, times the kernel before it was rounded.
            assert network.pixel_offset is not None
            bias, wanted_bias = conv.bias, wanted_bias + wanted_kernel.sum((0, 1)).T @ (-1.0 - np.asarray(network.pixel_offset))
        assert np.all(np.abs(bias - wanted_bias) <= conv.bias_step), conv.layer


@pytest.fixture(scope="module")
def standard() -> keras.Model:
    """keras.applications' own network, small."""
    keras.utils.set_random_seed(2)
    return randomize(keras.applications.MobileNetV3Small(
        input_shape=(WIDE, WIDE, 3), alpha=0.35, weights=None, classes=7, classifier_activation=None, dropout_rate=0.0))


@pytest.fixture(scope="module")
def short_standard() -> keras.Model:
    """Two blocks of it."""
    keras.utils.set_random_seed(2)
    return randomize(short(keras, input_shape=(WIDE, WIDE, 3), alpha=0.5, classes=7, classifier_activation=None,
                           dropout_rate=0.0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "float32", "float16", "dynamic"])
@pytest.mark.usefixtures("short_is_known")
def test_standard_converter(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    whole = kind == "dynamic"  # which takes kernels that are big enough
    standard = request.getfixturevalue("standard" if whole else "short_standard")
    path = tmp_path / "m.tflite"
    path.write_bytes(convert_model_standard(standard, kind, synthetic_pictures(8, WIDE)))
    network = read_convolutions(path)
    best = require_match(network)
    assert (best.name, best.alpha, best.dialect, best.head, best.classes) == (
        *(("small", 0.35) if whole else ("short", 0.5)), "keras", "classifier", 7)
    assert best.rescaling_fits and network.ignored == () and network.stopped is None
    assert network.pixel_scale == pytest.approx((1 / 127.5,) * 3, rel=1e-3)
    assert network.pixel_offset == pytest.approx((-1,) * 3, rel=1e-3)
    assigned = to_keras(network, best)
    assert assigned.notes == ()
    if kind in LIMITS:
        wanted = answers(standard, noise(2, WIDE))
        assert relative(answers(assigned.model, noise(2, WIDE)), wanted) < LIMITS[kind]
        assert network.convolutions[0].kernel_step is None
    elif kind == "int8":
        check_steps(network, assigned, standard)
    else:
        # Too few weights to be worth it: the converter leaves small kernels float.
        quantized = [conv for conv in network.convolutions if conv.kernel_step is not None]
        assert len(quantized) >= 30 and all(conv.bias_step is None for conv in network.convolutions)
        for conv, (kernel, _) in zip(network.convolutions, folded(standard), strict=True):
            step = 0 if conv.kernel_step is None else (
                conv.kernel_step[:, None] if conv.kind == "depthwise" else conv.kernel_step)
            assert np.all(np.abs(conv.kernel - kernel) <= 0.502 * step + 1e-6), conv.layer


# At 32x32 the maps of its last two blocks have one place.
DEEP = NetworkSpec("deep", (Block(3, 16, 16, False, "relu", 2), Block(3, 32, 24, True, "hard_swish", 2),
                            Block(3, 48, 24, False, "hard_swish", 2), Block(5, 48, 24, True, "hard_swish", 2),
                            Block(3, 48, 24, True, "relu", 1)), "hard_swish", class_expand=64)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_maps_of_one_place(tmp_path: Path, kind: str) -> None:
    """The converter leaves the means of such maps out, in the gates and in the head."""
    keras.utils.set_random_seed(2)
    model = randomize(MobileNetV3(DEEP, input_shape=(32, 32, 3), classes=7))
    path = tmp_path / "m.tflite"
    path.write_bytes(convert_model_standard(model, kind, synthetic_pictures(8, 32)))
    assert [operator.name for operator in parse_tflite(path.read_bytes()).operators].count("MEAN") == 1
    network = read_convolutions(path)
    best = require_match(network, specs=[DEEP])
    assert (best.name, best.alpha, best.dialect, best.head, best.classes) == ("deep", 1.0, "keras", "classifier", 7)
    assigned = to_keras(network, best)
    if kind == "int8":
        check_steps(network, assigned, model)
    else:
        assert relative(answers(assigned.model, noise(2, 32)), answers(model, noise(2, 32))) < 1e-4


@pytest.fixture(scope="module")
def deployed(network: keras.Model) -> tuple[Any, Any]:
    """Deploy form and ranges of the four blocks."""
    from mnv3_tf.quantization.calibration import calibrate
    from mnv3_tf.quantization.fold import trace

    graph = trace(network)
    return graph, calibrate(graph, [noise(16)]).ranges


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "io", "lowering"), [
    ("float32", "float32", "xnnpack"), ("float16", "float32", "native"), ("int8", "uint8", "xnnpack"),
    ("int8", "float32", "native"), pytest.param("int8", "int8", "xnnpack", marks=pytest.mark.slow)])
def test_own_files(network: keras.Model, deployed: tuple[Any, Any], tmp_path: Path, kind: str, io: str, lowering: str) -> None:
    """hard_swish without its 1/6, gates inside of convolutions, a residual six times too large, pixels minus 128."""
    from mnv3_tf.export.convert.convert import convert_graph

    graph, ranges = deployed
    path = tmp_path / "own.tflite"
    path.write_bytes(convert_graph(graph, ranges if kind == "int8" else None, format=kind, io=io, lowering=lowering))
    found = read_convolutions(path)
    best = require_match(found, specs=[SPEC])
    assert (best.dialect, best.rescaling_fits, found.residual_adds, found.stopped) == ("keras", True, (1, 3), None)
    zero = 128 / 127.5 if kind == "int8" else 1.0
    assert found.pixel_offset == pytest.approx((-zero,) * 3, rel=1e-3)
    assigned = to_keras(found, best)
    if kind == "int8":
        check_steps(found, assigned, network)
        limit = 0.05
    else:
        limit = LIMITS[kind]
    assert relative(answers(assigned.model), answers(network)) < limit


@pytest.mark.slow
def test_symmetric_padding_and_a_dense_head(tmp_path: Path) -> None:
    """What comes of PyTorch networks: explicit PADs before VALID convolutions, fully connected layers after pooling."""
    body = build(dialect="torchvision", include_top=False)
    x = keras.layers.GlobalAveragePooling2D()(body.output)
    x = keras.layers.Dense(64, activation="hard_silu")(x)
    model = randomize(keras.Model(body.input, keras.layers.Dense(5)(x)))
    path = tmp_path / "m.tflite"
    path.write_bytes(convert_model_standard(model, "float32", synthetic_pictures(1, SIDE)))
    found = read_convolutions(path)
    assert {conv.padding for conv in found.convolutions if conv.stride == 2} == {"symmetric"}
    best = match_spec(found, [SPEC])[0]
    assert (best.dialect, best.head, best.rescaling_fits) == ("torchvision", "classifier", True)
    with pytest.raises(InputError, match=r"stem_conv is padded same; the file's symmetric \(1, 1, 1, 1\) \(operator \d+ CONV_2D"):
        require_match(found, specs=[SPEC], dialect="keras")
    body_weights = to_keras(found, best)
    assert relative(answers(body_weights.model), answers(model)) < 1e-5


def test_constants_of_older_files() -> None:
    """By hand: uint8 with a zero point, one scale for all; int8 with scales along the last axis."""
    def file(dtype: str, scales: tuple[float, ...], zeros: tuple[int, ...], axis: int, values: list[int]) -> TfliteFile:
        data = np.array(values, dtype).view(np.uint8)
        tensor = TensorInfo(0, "w", (2, 2), (2, 2), dtype, scales, zeros, axis, 4, 1, True, data)
        return TfliteFile("x.tflite", 0, "", (), (), (tensor,), ())

    uint8 = file("uint8", (0.5,), (3,), 0, [3, 4, 0, 255])
    steps = uint8.steps(0)
    assert uint8.real(0).tolist() == [[0.0, 0.5], [-1.5, 126.0]] and steps is not None and steps.tolist() == [[0.5]]
    int8 = file("int8", (0.5, 2.0), (0, 0), 1, [1, -1, -128, 127])
    assert int8.real(0).tolist() == [[0.5, -2.0], [-64.0, 254.0]]
    with pytest.raises(InputError, match=r"x.tflite: tensor 0 \('w'\) holds 3 bytes"):
        file("int8", (), (), 0, [1, 2, 3]).real(0)


def test_files_without_such_a_network(files: dict[str, Path]) -> None:
    """Files of other networks are refused by the operator that ends the search."""
    with pytest.raises(InputError, match=r"plain_int8.tflite: operator \d+ CONV_2D .* is not a convolution with a ReLU"):
        read_convolutions(files["plain_int8"])
    with pytest.raises(InputError, match=r"swish_int8.tflite: no inverted residual block follows the first convolution"):
        read_convolutions(files["swish_int8"])
