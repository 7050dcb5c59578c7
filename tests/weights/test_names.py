"""Which tensor is which variable, for every network of every package."""

from typing import Any

import numpy as np
import pytest
from seeded import PACKAGES, golden, goldens
from shared import without_values

from mnv3_tf.network.plan import expected_shapes
from mnv3_tf.network.spec import find_spec
from mnv3_tf.weights.sources.names import Entry, is_bookkeeping, source_entries

EVERY = [pytest.param(package, variant, id=f"{package}-{variant['model_name']}-{variant['name']}-{variant['alpha']:g}-{number}")
         for package in PACKAGES for number, variant in enumerate(goldens(package))]


def entries_of(package: str, variant: dict[str, Any]) -> tuple[Entry, ...]:
    origin = "keras" if package == "tf_keras" else package
    return source_entries(origin, find_spec(variant["name"], variant["dialect"]), variant["alpha"], variant["classes"],
                          [name for name, _ in variant["tensors"]])


@pytest.mark.parametrize(("package", "variant"), EVERY)
def test_every_tensor_of_every_published_network_has_its_place(package: str, variant: dict[str, Any]) -> None:
    origin = "keras" if package == "tf_keras" else package
    saved = {name: tuple(shape) for name, shape in variant["tensors"] if not is_bookkeeping(origin, name)}
    entries = entries_of(package, variant)
    assert {entry.source: entry.source_shape for entry in entries} == saved
    assert len({entry.target for entry in entries}) == len(entries) == len(saved)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dialect", "alpha", "classes"), [
    ("large", "paddle", 0.35, 5), ("small", "timm", 0.5, 3), ("large", "torchvision", 1.25, None),
    ("small_minimalistic", "keras", 0.75, 4), ("small", "timm_tf", 1.5, 2)])
def test_expected_shapes_are_those_of_the_built_network(name: str, dialect: str, alpha: float, classes: int | None) -> None:
    from mnv3_tf.models import MobileNetV3

    model = without_values(MobileNetV3, name, dialect=dialect, alpha=alpha, classes=classes or 1,
                           include_top=classes is not None, input_shape=(32, 32, 3))
    built = {f"{layer.name}/{weight.name}": tuple(weight.shape) for layer in model.layers for weight in layer.weights}
    expected = expected_shapes(find_spec(name, dialect), alpha, classes)
    assert expected == built
    # In the network's order, as far as Keras lists it: a convolution before its own BatchNorm, block after block.
    assert next(iter(expected)) == "stem_conv/kernel" and [n for n in expected if n.endswith("_project/kernel")] == sorted(
        n for n in expected if n.endswith("_project/kernel"))


def test_layouts_by_hand() -> None:
    oihw = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    kernel = Entry("k", "t", "OIHW", (2, 2, 3, 2))
    assert kernel.source_shape == oihw.shape
    assert kernel.convert(oihw)[1, 0, 2, 1] == oihw[1, 2, 1, 0] == 22
    depthwise = Entry("k", "t", "depthwise OIHW", (3, 2, 4, 1))
    source = np.arange(24, dtype=np.float32).reshape(4, 1, 3, 2)
    assert depthwise.source_shape == source.shape
    assert depthwise.convert(source)[2, 1, 3, 0] == source[3, 0, 2, 1] == 23
    out_in = Entry("k", "t", "linear (out, in)", (1, 1, 3, 2))
    assert out_in.convert(np.array([[1, 2, 3], [4, 5, 6]], np.float32))[0, 0].tolist() == [[1, 4], [2, 5], [3, 6]]
    in_out = Entry("k", "t", "linear (in, out)", (1, 1, 3, 2))
    assert in_out.convert(np.array([[1, 2], [3, 4], [5, 6]], np.float32))[0, 0].tolist() == [[1, 2], [3, 4], [5, 6]]
    scaled = Entry("k", "t", "same", (2,), 1.2, "slope")
    assert scaled.convert(np.array([1, -2], np.float64)).tolist() == [np.float32(1.2), np.float32(-2.4)]
    assert scaled.convert(np.zeros(2)).dtype == np.float32


def test_what_paddle_multiplies_when_it_predicts_is_in_the_weights() -> None:
    variant = golden("paddle", "MobileNetV3_small_x1_0", 1.0)
    factors = {entry.target: (round(entry.factor, 6), entry.transform) for entry in entries_of("paddle", variant)}
    changed = {target: factor for target, (factor, _) in factors.items() if factor != 1}
    gates = [f"block_{n:02d}_se_expand/{v}" for n in (1, 4, 5, 6, 7, 8, 9, 10, 11) for v in ("kernel", "bias")]
    assert changed == {**dict.fromkeys(gates, 1.2), "classifier/kernel": 0.8}  # not the classifier's bias
    assert factors["block_01_se_expand/kernel"][1] == "OIHW -> HWIO, times 1.2 (hard-sigmoid of slope 0.2)"
    assert factors["classifier/kernel"][1].startswith("(in, out) -> (1, 1, in, out), times 0.8 (dropout of 0.2")
    undropped = source_entries("paddle", find_spec("small", "paddle"), 1.0, 12, [], dropout=0.0)
    assert [e.target for e in undropped if e.factor != 1] == gates


@pytest.mark.parametrize("package", ["torchvision", "timm", "keras", "tf_keras"])
def test_nothing_else_is_multiplied(package: str) -> None:
    for variant in goldens(package):
        assert {entry.factor for entry in entries_of(package, variant)} == {1.0}


@pytest.mark.parametrize(("name", "target"), [
    ("conv/kernel", "stem_conv/kernel"), ("conv/0", "stem_conv/kernel"), ("Conv/kernel", "stem_conv/kernel"),
    ("conv2d/0", "stem_conv/kernel"), ("conv2d_42/1", "classifier/bias"), ("logits/bias", "classifier/bias"),
    ("Logits/1", "classifier/bias"), ("expanded_conv/squeeze_excite/Conv_1/bias", "block_01_se_expand/bias"),
    ("expanded_conv_10_depthwise_bn/moving_variance", "block_11_depthwise_bn/moving_variance"),
    ("expanded_conv_10/depthwise/BatchNorm/3", "block_11_depthwise_bn/moving_variance"),
    ("batch_normalization_33/3", "head_conv_bn/moving_variance"), ("depthwise_conv2d_10/0", "block_11_depthwise/kernel")])
def test_every_naming_of_keras(name: str, target: str) -> None:
    """By the one tensor that the file has, its layout is known. The numbers are counted by hand: small has 1 + 11 projections +
    10 expansions + 2 x 9 in squeeze-and-excite + 3 in the head = 43 plain convolutions, 34 BatchNorms, 11 depthwise ones."""
    entries = source_entries("keras", find_spec("small"), 1.0, 10, [name])
    assert next(entry.target for entry in entries if entry.source == name) == target


def test_keras2_calls_the_depthwise_kernel_otherwise() -> None:
    names = ["Conv/kernel", "expanded_conv/depthwise/depthwise_kernel"]
    entries = {entry.target: entry.source for entry in source_entries("keras", find_spec("small"), 1.0, None, names)}
    assert entries["block_01_depthwise/kernel"] == names[1]


def test_timms_own_grouping_of_a_users_table() -> None:
    """A table says nothing of stages: they are the file's, in the order of their numbers (10 after 9)."""
    from mnv3_tf.network.spec import NetworkSpec

    table = find_spec("small", "timm")
    spec = NetworkSpec("own", (*table.blocks[:1], *table.blocks[1:3] * 6), "hard_swish", 64, dialect=table.dialect)
    names = ["blocks.0.0.conv_dw.weight", *(f"blocks.1.{n}.conv_pw.weight" for n in range(12)), "blocks.2.0.conv.weight"]
    sources = {entry.target: entry.source for entry in source_entries("timm", spec, 1.0, 2, names)}
    assert sources["block_01_project/kernel"] == "blocks.0.0.conv_pw.weight"
    assert sources["block_13_expand/kernel"] == "blocks.1.11.conv_pw.weight"
    assert sources["head_conv/kernel"] == "blocks.2.0.conv.weight"
