"""Tensors that do not fit: what is said of them, and which network is named instead."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seeded import PACKAGES, golden, goldens, tensors_of
from shared import without_values

from mnv3_tf.errors import InputError
from mnv3_tf.weights.importing import import_tensors
from mnv3_tf.weights.matching import identify, nearest_variants

FILE = Path("weights.pth")


def empty(variant: dict[str, Any]) -> dict[str, np.ndarray]:
    """Tensors of the right shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(1), shape) for name, shape in variant["tensors"]}


def message(tensors: dict[str, np.ndarray], origin: str, **wanted: Any) -> str:
    with pytest.raises(InputError) as caught:
        import_tensors(tensors, FILE, origin, **wanted)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_the_shapes_say_which_network_it_is(package: str) -> None:
    """Also for what no package publishes, as long as the packages can build it; and never two of them."""
    origin = "keras" if package == "tf_keras" else package
    for variant in goldens(package)[:6]:
        found = nearest_variants(empty(variant))
        assert [(v.origin, v.name, v.alpha, v.problems) for v in found] == [(origin, variant["name"], variant["alpha"], 0)]
        assert variant["dialect"] in found[0].dialects


@pytest.mark.parametrize("origin", ["keras", "torchvision", "timm", "paddle"])
def test_no_two_published_alphas_look_alike(origin: str) -> None:
    from mnv3_tf.network.plan import expected_shapes
    from mnv3_tf.network.spec import ALPHAS, SPECS, find_spec
    from mnv3_tf.weights.sources.names import ORIGINS

    shapes = [tuple(expected_shapes(find_spec(name, ORIGINS[origin][0]), alpha, None).values())
              for name in SPECS for alpha in ALPHAS]
    assert len(set(shapes)) == len(shapes)


def test_timms_two_kinds_cannot_be_told_apart_and_are_asked_for() -> None:
    tensors = tensors_of(golden("timm", "tf_mobilenetv3_small_minimal_100", 1.0))
    text = message(tensors, "timm")
    for part in (str(FILE), "other padding, BatchNorm epsilon and normalization", "--dialect timm or --dialect timm_tf",
                 "--model-name"):
        assert part in text
    assert [v.dialects for v in nearest_variants(tensors)] == [("timm", "timm_tf")]


def test_a_wrong_alpha_names_tensors_and_the_right_one() -> None:
    tensors = empty(golden("torchvision", "mobilenet_v3_large", 0.75))
    text = message(tensors, "torchvision", name="large", alpha=1.0)
    assert "weights.pth: these are not the weights of large at alpha 1 as torchvision saves them" in text
    assert "features.2.block.0.0.weight: shape (48, 16, 1, 1), but (64, 16, 1, 1) is needed" in text
    assert text.count("is needed") == 20 and "more" in text  # not all of them
    assert "These shapes are large at alpha 0.75: give --model large --alpha 0.75." in text


def test_a_wrong_network_and_a_wrong_package() -> None:
    small = empty(golden("torchvision", "mobilenet_v3_small", 1.0))
    text = message(small, "torchvision", name="large", alpha=1.0)
    assert "features.13.block.0.0.weight: is missing" in text or "and" in text
    assert "give --model small --alpha 1." in text
    text = message(small, "paddle", name="small", alpha=1.0)
    assert "conv.conv.weight: is missing (shape (16, 3, 3, 3), for stem_conv/kernel)" in text
    assert "small at alpha 1, saved by torchvision: give --from torchvision --model small --alpha 1" in text


def test_an_unpublished_alpha_is_found_too() -> None:
    from mnv3_tf.network.spec import find_spec
    from mnv3_tf.weights.sources.names import source_entries

    entries = source_entries("paddle", find_spec("large", "paddle"), 0.6, 7, [])
    tensors = {entry.source: np.broadcast_to(np.float32(1), entry.source_shape) for entry in entries}
    assert "These shapes are large at alpha 0.6: give" in message(tensors, "paddle", name="large", alpha=0.5)


def test_missing_and_superfluous_tensors() -> None:
    variant = golden("torchvision", "mobilenet_v3_small", 1.0)
    tensors = empty(variant)
    del tensors["features.4.block.1.1.running_var"]
    tensors["head.extra.weight"] = np.zeros((3, 4), np.float32)
    text = message(tensors, "torchvision", name="small", alpha=1.0)
    assert "2 tensors do not fit:" in text
    assert "features.4.block.1.1.running_var: is missing (shape (96,), for block_04_depthwise_bn/moving_variance)" in text
    assert "head.extra.weight: shape (3, 4), which this network has no place for" in text
    assert "Nothing fits as it is; small at alpha 1, saved by torchvision, is nearest (2 tensors do not fit)" in text


def test_a_transposed_tensor_is_called_that() -> None:
    tensors = empty(golden("torchvision", "mobilenet_v3_small", 1.0))
    tensors["classifier.0.weight"] = np.broadcast_to(np.float32(1), (576, 1024))
    text = message(tensors, "torchvision", name="small", alpha=1.0)
    assert ("1 tensor does not fit:\n  classifier.0.weight: shape (576, 1024), but (1024, 576) is needed; it is transposed: "
            "axes 0 and 1 are swapped") in text
    tensors["classifier.0.weight"] = np.broadcast_to(np.float32(1), (1024, 576))
    tensors["features.0.0.weight"] = np.broadcast_to(np.float32(1), (3, 3, 3, 16))
    assert "axes 0 and 3 are swapped" in message(tensors, "torchvision", name="small", alpha=1.0)


def test_values_that_no_trained_network_has() -> None:
    tensors = dict(empty(golden("torchvision", "mobilenet_v3_small", 1.0)))
    broken = np.ones((16, 3, 3, 3), np.float32)
    broken[2, 1, 0, 0], broken[3, 0, 0, 0] = np.nan, np.inf
    tensors["features.0.0.weight"] = broken
    tensors["features.1.block.0.1.running_var"] = np.linspace(-0.5, 1, 16).astype(np.float32)
    tensors["features.1.block.0.1.bias"] = np.full(16, 1e300)
    tensors["features.1.block.0.1.running_mean"] = np.linspace(-5, 1, 16).astype(np.float32)  # a mean may be negative
    text = message(tensors, "torchvision")
    assert "features.0.0.weight: 2 of 432 values are not finite" in text
    assert "features.1.block.0.1.running_var: 5 of 16 variances are negative (the least is -0.5)" in text
    assert "features.1.block.0.1.bias: 16 of 16 values are not finite (NaN, or infinite in float32)" in text
    assert "3 tensors do not fit" in text and "running_mean" not in text


def test_quantized_tensors_are_refused() -> None:
    tensors = empty(golden("torchvision", "mobilenet_v3_small", 1.0))
    tensors["features.0.0.weight"] = np.ones((16, 3, 3, 3), np.int8)
    assert "features.0.0.weight: holds int8; floating-point weights are needed" in message(tensors, "torchvision", name="small",
                                                                                           alpha=1.0)


def test_tensors_of_something_else() -> None:
    text = message({"fc.weight": np.ones((3, 4), np.float32)}, "torchvision")
    assert "do not say which network they are of" in text and "No tensor of any MobileNetV3" in text
    assert "Give --model (large, small, large_minimalistic, small_minimalistic) and --alpha" in text


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dialect", "alpha", "changes"), [
    ("small", "keras", 0.75, {}), ("large", "torchvision", 0.5, {}), ("large_minimalistic", "timm", 1.0, {}),
    ("small", "paddle", 0.35, {}), ("small", "timm_tf", 0.75, {}), ("small", "keras", 1.0, {"class_expand": 256}),
    ("small", "torchvision", 0.5, {"inplanes": 32, "class_squeeze": 400}), ("small", "keras", 0.6, {})])
def test_a_network_is_identified_by_its_layers(name: str, dialect: str, alpha: float, changes: dict[str, int]) -> None:
    from mnv3_tf.models import MobileNetV3

    same = {"input_shape": (32, 32, 3), "classes": 4, "dropout_rate": 0.3}
    model = without_values(MobileNetV3, name, dialect=dialect, alpha=alpha, **same, **changes)
    found = identify(model)
    assert found.dropout == 0.3
    again = without_values(MobileNetV3, found.name, dialect=found.dialect, alpha=found.alpha, inplanes=found.inplanes,
                           class_squeeze=found.class_squeeze, class_expand=found.class_expand, **same)
    # timm_tf at 0.75 is another network than keras's by the width before pooling alone; where nothing differs, either will do.
    own, other = (_layers(each) for each in (model, again))
    assert own == other
    if not changes:
        assert (found.name, found.alpha) == (name, alpha)


def _layers(model: Any) -> list[Any]:
    configs = [(layer.name, type(layer).__name__, {k: v for k, v in layer.get_config().items() if k != "name"})
               for layer in model.layers]
    return [(name, kind, repr(config)) for name, kind, config in configs]


def test_a_network_without_a_head_is_identified() -> None:
    from mnv3_tf.models import MobileNetV3

    model = without_values(MobileNetV3, "large", dialect="paddle", alpha=0.5, input_shape=(32, 32, 3), include_top=False)
    found = identify(model)
    assert (found.name, found.dialect, found.alpha) == ("large", "paddle", 0.5)


def test_another_network_is_not_identified() -> None:
    import keras

    model = keras.Sequential([keras.layers.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, name="stem_conv")], name="mine")
    with pytest.raises(InputError, match=r"mine: its layers are not the blocks of large, small.*Give the card"):
        identify(model)


def test_a_normalization_of_no_dialect_does_not_hide_the_network() -> None:
    from mnv3_tf.models import MobileNetV3
    from mnv3_tf.network.spec import find_spec

    spec = find_spec("small", "timm")
    plain = dataclasses.replace(spec.dialect, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    model = without_values(MobileNetV3, dataclasses.replace(spec, dialect=plain), alpha=0.5, input_shape=(32, 32, 3), classes=2)
    assert identify(model).dialect == "timm"
