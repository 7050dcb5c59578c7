"""The network with blocks left float: which tensors are quantized, which weights, and what a saved network says of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.errors import InputError
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.layer_names import block_of
from mnv3_tf.quantization.calibration import calibrate
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, Ranges
from mnv3_tf.quantization.fold import trace
from mnv3_tf.quantization.graph import FoldedGraph, leave_float, load_graph, save_graph
from mnv3_tf.quantization.lowering import lower

SIDE = (32, 48)


def network(name: str) -> FoldedGraph:
    import keras

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = MobileNetV3(name, input_shape=(*SIDE, 3), alpha=0.25, classes=3)
    model.set_weights([w + np.abs(rng.normal(0, 0.05, w.shape)) for w in model.get_weights()])
    return trace(model)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (16, *SIDE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def graph() -> FoldedGraph:
    return network("small")


@pytest.fixture(scope="module")
def ranges(graph: FoldedGraph, noise: np.ndarray) -> Ranges:
    return calibrate(graph, [noise]).ranges


@pytest.fixture(scope="module")
def plain(graph: FoldedGraph) -> FoldedGraph:
    """The minimalistic network: its stem is one convolution."""
    return network("small_minimalistic")


def test_every_operation_belongs_to_the_block_it_is_named_after() -> None:
    names = {"stem_conv_hard_swish/gate": "stem", "block_07_se_expand_hard_sigmoid": "block_07", "head_pool": "head",
             "classifier": "classifier", "block_11_add": "block_11"}
    assert {name: block_of(name) for name in names} == names


def test_blocks_are_those_with_a_convolution(graph: FoldedGraph) -> None:
    assert graph.blocks == ("stem", *(f"block_{i:02}" for i in range(1, 12)), "head", "classifier")


def test_left_float_is_in_the_networks_order_and_knows_its_blocks(graph: FoldedGraph) -> None:
    assert leave_float(graph, ["head", "block_02"]).float_blocks == ("block_02", "head")
    with pytest.raises(InputError, match=r"'blok_02' is not a block.*did you mean 'block_02'.*Blocks: stem, block_01"):
        leave_float(graph, ["blok_02"])


@pytest.mark.parametrize(("blocks", "ranged"), [
    # Only what the next block takes: the sum, or the projection where there is no residual.
    (["block_03"], {"block_03_add"}), (["block_04"], {"block_04_project"}),
    # Between two float blocks nothing is quantized.
    (["block_02", "block_03"], {"block_03_add"}),
    (["stem"], {"stem_conv_hard_swish"}), (["head"], {"head_expand_hard_swish"}),
    # The logits are what the file gives.
    (["classifier"], {"classifier"}), (["head", "classifier"], {"classifier"}),
])
def test_a_float_block_quantizes_what_others_take_of_it(graph: FoldedGraph, blocks: list[str], ranged: set[str]) -> None:
    lowered = lower(leave_float(graph, blocks))
    mine = [op for op in lowered.ops if block_of(op.name) in blocks]
    assert {op.name for op in mine if lowered.has_range(op)} == ranged
    others = [op for op in lowered.ops if op not in mine and op.kind != "flatten"]
    assert all(lowered.has_range(op) and not lowered.is_float(op) for op in others)


@pytest.mark.slow
def test_a_mixed_network_is_quantized_where_it_should(graph: FoldedGraph, ranges: Ranges) -> None:
    """tfmot's wrappers hold a range exactly where the rule wants one, and a quantized kernel outside of the float blocks."""
    blocks = ["stem", "block_03", "block_05", "block_06", "classifier"]
    lowered = lower(leave_float(graph, blocks))
    network = LoweredNetwork(lowered, ranges)
    for op in lowered.ops:
        wrapper = network.model.get_layer(f"quant_{op.name.replace('/', '_')}")
        assert bool(wrapper.quantize_config.output) == lowered.has_range(op), op.name
        assert bool(wrapper._weight_vars) == (op.kind in ("conv", "depthwise") and block_of(op.name) not in blocks), op.name


def test_all_blocks_float_is_the_float_network_with_8_bit_logits(graph: FoldedGraph, ranges: Ranges, noise: np.ndarray) -> None:
    """The input loses nothing in 8 bits: every pixel value is one step of it."""
    found = LoweredNetwork(lower(leave_float(graph, graph.blocks)), ranges).logits(noise)
    expected = LoweredNetwork(lower(graph)).logits(noise)
    low, high = ranges["classifier"]
    step = (high - low) / 255
    assert np.abs(found - np.clip(expected, low, high)).max() <= step * 0.51
    assert np.ptp(expected) > 20 * step


def test_a_lone_float_convolution_computes_the_same_negated(plain: FoldedGraph, noise: np.ndarray) -> None:
    """The converter would quantize it; behind a negation it does not. The stem's bias, shifted input and padding included."""
    ranges = calibrate(plain, [noise]).ranges
    lowered = lower(leave_float(plain, ["stem", "classifier"]))
    kinds = [(op.name, op.kernel_scale) for op in lowered.ops if op.kind == "negate" or block_of(op.name) == "classifier"]
    assert kinds == [("stem_conv/negated", 1.0), ("classifier/negated", 1.0), ("classifier", -1.0)]
    np.testing.assert_allclose(LoweredNetwork(lowered).logits(noise), LoweredNetwork(lower(plain)).logits(noise),
                               rtol=1e-5, atol=1e-6)
    mixed = LoweredNetwork(lowered, ranges)
    again = mixed.folded_graph()
    for name in ("stem_conv", "classifier"):
        assert np.array_equal(again[name].kernel, plain[name].kernel)
        np.testing.assert_allclose(again[name].bias, plain[name].bias, atol=1e-6)


def test_weights_and_ranges_come_back_whole(graph: FoldedGraph, ranges: Ranges) -> None:
    network = LoweredNetwork(lower(leave_float(graph, ["block_05", "classifier"])), ranges)
    for name, ends in ranges.items():
        np.testing.assert_allclose(network.ranges()[name], ends, rtol=1e-5, atol=1e-6)
    again = network.folded_graph()
    assert again.float_blocks == ("block_05", "classifier")
    for ours, theirs in zip(again.ops, graph.ops, strict=True):
        if theirs.kernel is not None:
            np.testing.assert_allclose(ours.kernel, theirs.kernel, rtol=1e-5, atol=1e-6)


def test_float_blocks_keep_their_biases(graph: FoldedGraph, ranges: Ranges) -> None:
    network = LoweredNetwork(lower(leave_float(graph, ["block_05"])), ranges)
    network.round_biases()
    again = network.folded_graph()
    assert np.array_equal(again["block_05_expand"].bias, graph["block_05_expand"].bias)
    assert not np.array_equal(again["block_06_expand"].bias, graph["block_06_expand"].bias)


def test_a_saved_network_says_what_is_float(graph: FoldedGraph, ranges: Ranges, tmp_path: Path) -> None:
    mixed = leave_float(graph, ["stem", "block_07"])
    save_graph(tmp_path / "mixed.npz", mixed, ranges)
    assert load_graph(tmp_path / "mixed.npz")[0].float_blocks == ("stem", "block_07")


def test_a_file_from_before_has_no_float_blocks(graph: FoldedGraph, ranges: Ranges, tmp_path: Path) -> None:
    import json

    path = tmp_path / "old.npz"
    save_graph(path, dataclasses.replace(graph, float_blocks=("stem",)), ranges)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    head = json.loads(arrays["graph.json"].tobytes())
    del head["float_blocks"]
    arrays["graph.json"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    np.savez(path, **arrays)
    assert load_graph(path)[0].float_blocks == ()
