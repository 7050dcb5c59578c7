"""The forms in which converters write the same function, where a network ends, and what is not understood."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from foreign_models import SIDE, SPEC, answers, build, folded, frozen, noise, relative, write_tfjs

from mnv3_tf import MobileNetV3
from mnv3_tf.errors import InputError
from mnv3_tf.network.spec import NetworkSpec
from mnv3_tf.weights.graphs import read_convolutions
from mnv3_tf.weights.graphs.assign import to_keras
from mnv3_tf.weights.graphs.importing import with_pixels
from mnv3_tf.weights.graphs.match import match_spec, require_match

ops = keras.ops
TWO = NetworkSpec("two", SPEC.blocks[:2], "hard_swish", class_expand=16)
relu6 = ops.relu6


class Written(keras.layers.Layer):
    """An activation as somebody's converter writes it."""

    def __init__(self, function: Callable[[Any], Any], name: str):
        super().__init__(name=name)
        self._function = function

    def call(self, x: Any) -> Any:
        return self._function(x)


def rewritten(model: keras.Model, functions: dict[str, Callable[[Any], Any]]) -> keras.Model:
    """The model with its layers of these endings written otherwise."""
    def layer(old: Any) -> Any:
        function = next((f for ending, f in functions.items() if old.name.endswith(ending)), None)
        return Written(function, old.name) if function else old.__class__.from_config(old.get_config())

    copy = keras.models.clone_model(model, clone_function=layer)
    copy.set_weights(model.get_weights())
    return copy


def graph_file(model: Any, folder: Path) -> Path:
    return write_tfjs(frozen(model, (1, SIDE, SIDE, 3)), folder / "model.json")


SWISHES = {
    "sixth first": lambda x: (x * (1 / 6)) * relu6(x + 3), "sixth on the gate": lambda x: x * (relu6(x + 3) * (1 / 6)),
    "sixth last": lambda x: (x * relu6(x + 3)) * (1 / 6), "divided": lambda x: relu6(3 + x) * x / 6,
    "clipped": lambda x: x * ops.minimum(ops.maximum(x + 3, 0), 6) * 0.16666667,
    "slope": lambda x: x * ops.clip(x / 6 + 0.5, 0, 1), "relu and minimum": lambda x: ops.minimum(ops.relu(x + 3), 6) * x / 6,
    "subtracted": lambda x: x * relu6(x - (-3)) / 6, "negated": lambda x: -((-x) * relu6(x + 3)) / 6,
}


GATES = {"sixth": lambda x: relu6(x + 3) * (1 / 6), "slope": lambda x: ops.clip(x * (1 / 6) + 0.5, 0, 1),
         "left out": lambda x: relu6(x + 3), "of 0.2": lambda x: ops.clip(0.2 * x + 0.5, 0, 1),
         "off centre": lambda x: ops.clip(0.25 * x + 0.1, 0, 1)}


@pytest.mark.slow
@pytest.mark.parametrize(("first", "gates"), [
    (0, ("sixth", "of 0.2")), (4, ("slope", "off centre")), (2, ("left out", "of 0.2"))])
def test_forms_of_hard_swish_and_of_the_gate(network: keras.Model, tmp_path: Path, first: int, gates: tuple[str, str]) -> None:
    """Each activation of the network is written in another form. Whatever slope, middle and factor a gate has: its and the next
    convolution take them, and the logits stay."""
    names = [layer.name for layer in network.layers if layer.name.endswith("_hard_swish")]
    forms = dict(zip(names, [*SWISHES][first:], strict=False))
    assert len(forms) >= 5 and {*SWISHES} == {*[*SWISHES][:len(names)], *[*SWISHES][4:]}
    model = rewritten(network, {**{name: SWISHES[form] for name, form in forms.items()},
                                **{f"block_0{block}_se_expand_hard_sigmoid": GATES[form]
                                   for block, form in zip((2, 3), gates, strict=True)}})
    found = read_convolutions(graph_file(model, tmp_path))
    assert found.stopped is None
    assigned = to_keras(found, require_match(found, specs=[SPEC]))
    assert relative(answers(assigned.model), answers(model)) < 1e-5
    factors = {f"block_0{block}_se_expand": {"of 0.2": 1.2, "off centre": 1.5}.get(form, 1.0)
               for block, form in zip((2, 3), gates, strict=True)}
    for conv, (kernel, bias) in zip(found.convolutions, folded(network), strict=True):
        if conv.layer in factors:
            np.testing.assert_allclose(conv.kernel, kernel * factors[conv.layer], rtol=1e-5)
        elif conv.layer not in ("block_02_project", "block_03_project"):  # those behind the gates
            np.testing.assert_allclose(conv.kernel, kernel, atol=2e-6, rtol=1e-5, err_msg=f"{conv.layer} {forms}")
            np.testing.assert_allclose(conv.bias, bias, atol=2e-6, rtol=1e-5, err_msg=f"{conv.layer} {forms}")


@pytest.mark.slow
def test_channels_that_a_batchnorm_switches_off(tmp_path: Path) -> None:
    model = build()
    for name in ("block_03_expand_bn", "block_03_project_bn", "block_02_expand_bn"):
        gamma, *rest = model.get_layer(name).get_weights()
        gamma[::3] = 0
        model.get_layer(name).set_weights([gamma, *rest])
    found = read_convolutions(graph_file(model, tmp_path))
    assigned = to_keras(found, require_match(found, specs=[SPEC]))
    assert relative(answers(assigned.model), answers(model)) < 1e-5


@pytest.mark.slow
def test_a_swish_with_another_middle_is_none(network: keras.Model, tmp_path: Path) -> None:
    model = rewritten(network, {"block_03_depthwise_hard_swish": lambda x: x * relu6(x + 2.9) / 6})
    path = graph_file(model, tmp_path)
    found = read_convolutions(path)
    assert found.block_count == 2 and "node" in (found.stopped or "")
    with pytest.raises(InputError, match=r"goes on with block_03_expand.*block_03_depthwise.*middle or slope") as error:
        require_match(found, specs=[SPEC])
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "function", "message"), [
    ("block_02_expand_relu", ops.elu, r"node \d+ (Elu|Select).*block_02_expand"),
    ("block_02_depthwise_relu", relu6, r"node \d+ .*block_02.*clipped to 0..6"),
    ("block_02_se_expand_hard_sigmoid", ops.sigmoid, r"node \d+ Sigmoid .*block_02_se_expand")])
def test_the_operator_that_is_not_understood_is_named(two_blocks: keras.Model, tmp_path: Path, name: str,
                                                      function: Callable[[Any], Any], message: str) -> None:
    found = read_convolutions(graph_file(rewritten(two_blocks, {name: function}), tmp_path))
    assert found.block_count == 1
    with pytest.raises(InputError, match=message):
        require_match(found, specs=[TWO])


@pytest.fixture(scope="module")
def two_blocks() -> keras.Model:
    return MobileNetV3(TWO, input_shape=(SIDE, SIDE, 3), classes=2)


@pytest.mark.slow
def test_the_backbone_of_a_detector(network: keras.Model, tmp_path: Path) -> None:
    """Taps inside of blocks and a decoder after the last one are left out."""
    layers = keras.layers
    low = layers.Conv2D(8, 1, activation="relu", name="tap")(network.get_layer("block_04_expand_hard_swish").output)
    low = layers.DepthwiseConv2D(3, padding="same", name="tap_depthwise")(low)
    top = layers.Conv2D(24, 1, activation="hard_silu", name="decoder")(network.get_layer("block_04_project_bn").output)
    top = layers.UpSampling2D(2)(layers.Conv2D(8, 1)(layers.DepthwiseConv2D(3, padding="same")(top)))
    detector = keras.Model(network.input, layers.Conv2D(4, 1)(layers.Add()([low, top])))
    found = read_convolutions(graph_file(detector, tmp_path))
    assert (found.block_count, found.head, found.classes) == (4, (), None)
    assert any("tap_depthwise" in place for place in found.ignored) and any("decoder" in place for place in found.ignored)
    assert not [place for place in found.ignored if "block_0" in place]
    best = match_spec(found, [SPEC])[0]
    assert (best.head, best.classes) == ("none", None)
    backbone = to_keras(found, best)
    wanted = keras.Model(network.input, network.get_layer("block_04_project_bn").output)
    assert relative(answers(backbone.model), answers(wanted)) < 1e-5


@pytest.mark.slow
def test_features_without_the_top(tmp_path: Path) -> None:
    model = build(include_top=False)
    found = read_convolutions(graph_file(model, tmp_path))
    best = match_spec(found, [SPEC])[0]
    assert best.head == "features" and found.stopped is not None and "before the pooling" in found.stopped
    assert relative(answers(to_keras(found, best).model), answers(model)) < 1e-5


@pytest.mark.slow
def test_pixels_of_a_float_input_are_not_guessed(network: keras.Model, tmp_path: Path) -> None:
    """The file takes -1..1; the model takes pixels all the same."""
    model = build(include_preprocessing=False)
    found = read_convolutions(graph_file(model, tmp_path))
    assert found.pixel_scale is None and found.input_scale == (1.0, 1.0, 1.0)
    best = require_match(found, specs=[SPEC])
    with pytest.raises(InputError, match="does not say what its float input holds"):
        to_keras(found, best)
    assigned = to_keras(with_pixels(found, (0.5,) * 3, (0.5,) * 3), best)
    wanted = answers(model, noise() / 127.5 - 1)
    assert relative(answers(assigned.model), wanted) < 1e-5
    # Raw pixels: the same weights see 127.5 times more; only the border knows a difference, and a note says so.
    raw = to_keras(with_pixels(found, (0.0,) * 3, (1 / 255,) * 3), best)
    kernel = np.asarray(raw.model.get_layer("stem_conv").kernel)
    np.testing.assert_allclose(kernel, found.convolutions[0].kernel * 127.5, rtol=1e-6)
    assert raw.border_pixel[0] == (0.0, 0.0, 0.0) and any("stand for pixel 0 in the file and 127.5 here" in note
                                                          for note in raw.notes)


def test_batchnorms_add_a_bias_exactly(network: keras.Model, tfjs: Path) -> None:
    found = read_convolutions(tfjs)
    model = to_keras(found, require_match(found, specs=[SPEC])).model
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 13
    for norm in norms:
        gamma, beta, mean, variance = norm.get_weights()
        assert np.all(gamma == np.sqrt(np.float32(1 + norm.epsilon))) and not mean.any() and np.all(variance == 1)
        x = np.linspace(-3, 3, len(beta), dtype=np.float32).reshape(1, 1, 1, -1)
        np.testing.assert_allclose(np.asarray(norm(x)), x + beta, rtol=3e-7, atol=3e-7)


def test_an_other_alpha_is_refused_with_the_nearest(tfjs: Path) -> None:
    found = read_convolutions(tfjs)
    assert [candidate.dialect for candidate in match_spec(found, [SPEC])] == ["keras", "timm_tf"]
    with pytest.raises(InputError, match=r"with alpha 2. The nearest is four at alpha 2 .*, whose block_01_project has a kernel"):
        require_match(found, alpha=2.0, specs=[SPEC])
    with pytest.raises(InputError, match=r"The nearest is \w+ at alpha"):
        require_match(found)
