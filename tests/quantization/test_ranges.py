"""Ranges that a few odd pictures cannot spend, and the look at them that `quantize` shares with `verify`."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from shared import HERE, random_values

from mnv3_tf.config import Config, VerifyConfig, load_config
from mnv3_tf.data import open_dataset
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.spec import read_block_table
from mnv3_tf.progress import Silent
from mnv3_tf.quantization.calibration import calibrate
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, input_units
from mnv3_tf.quantization.fold import trace
from mnv3_tf.quantization.graph import FoldedGraph
from mnv3_tf.quantization.lowering import lower
from mnv3_tf.quantization.quantize import quantize
from mnv3_tf.quantization.range_check import RangeCheck, judge_range, spread
from mnv3_tf.quantization.range_choice import choose_ranges
from mnv3_tf.quantization.weight_reconstruction import reconstruct_weights

pytestmark = pytest.mark.usefixtures("loaded_once")

GATE = "block_01_se_reduce"


def pictures(count: int, seed: int) -> np.ndarray:
    """Cloudy pictures, uint8 (count, 32, 32, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3))
    return coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)


def high_values(graph: FoldedGraph, pixels: np.ndarray, name: str = GATE) -> np.ndarray:
    return LoweredNetwork(lower(graph, "native")).tensors([name], input_units(graph, pixels))[0].reshape(len(pixels), -1).max(1)


@pytest.fixture(scope="module")
def odd() -> np.ndarray:
    """Two flat, bright pictures."""
    return np.stack([np.full((32, 32, 3), value, np.uint8) for value in (255, 250)])


@pytest.fixture(scope="module")
def network(odd: np.ndarray) -> FoldedGraph:
    """A network one channel of whose gate explodes on flat pictures, 40 times beyond what all others need; no answer depends on
    that channel."""
    import keras

    keras.utils.set_random_seed(0)
    model = MobileNetV3(read_block_table(HERE / "four_blocks.yaml"), input_shape=(32, 32, 3), classes=5)
    values = random_values(model)
    model.set_weights(values)
    graph = trace(model)
    seen = np.concatenate([odd, pictures(62, 1)])
    pooled, lowered = graph[GATE].inputs[0], lower(graph, "native")
    pool = LoweredNetwork(lowered).tensors([pooled], input_units(graph, seen))[0].reshape(64, -1) / lowered[pooled].tensor_factor
    # What tells flat pictures from all others: 0 on all of these, and 40 times their largest value on the former.
    apart = np.linalg.solve(np.cov(pool[2:].T) + 1e-6 * np.eye(pool.shape[1]), pool[:2].mean(axis=0) - pool[2:].mean(axis=0))
    least, most = (pool[2:] @ apart).max(), (pool[:2] @ apart).min()
    scale = 40 * high_values(graph, seen[2:]).max() / (most - least)
    ops = []
    for op in graph.ops:
        if op.name in (GATE, "block_01_se_expand"):
            kernel, bias = op.kernel.copy(), op.bias.copy()
            if op.name == GATE:
                kernel[0, 0, :, 0], bias[0] = scale * apart, -scale * least
            else:
                kernel[0, 0, 0] = 0.0
            op = dataclasses.replace(op, kernel=kernel, bias=bias)
        ops.append(op)
    return dataclasses.replace(graph, ops=tuple(ops))


def test_few_odd_pictures_cannot_spend_a_range(network: FoldedGraph, odd: np.ndarray) -> None:
    """Half a percent of odd pictures drive one tensor to 40 times what all others need."""
    calibrating, others = np.concatenate([odd[:1], pictures(126, 1), odd[1:]]), pictures(64, 2)
    needed = high_values(network, others).max()
    assert high_values(network, odd).min() > 20 * needed
    calibration = calibrate(network, [calibrating[:64], calibrating[64:]], deciding=others[:32])
    assert 0.2 * needed < calibration.ranges[GATE][1] < 4 * needed
    checked = RangeCheck(network, others[32:], VerifyConfig())
    assert checked.problems(calibration.ranges) == []
    # The fitted weights are as good as if the odd pictures had not been there.
    exact = LoweredNetwork(lower(network), exact_input=True).logits(others)

    def error(pixels: np.ndarray) -> float:
        ranges = calibration.ranges
        fitted = reconstruct_weights(network, ranges, pixels)
        return float(np.abs(LoweredNetwork(lower(fitted), ranges).logits(others) - exact).mean())

    assert error(calibrating) < 1.3 * error(pictures(128, 1))


def test_the_check_finds_and_narrows_what_is_too_wide(network: FoldedGraph, odd: np.ndarray) -> None:
    others = pictures(16, 3)
    ranges = calibrate(network, [others]).ranges
    needed = high_values(network, others).max()
    checked = RangeCheck(network, others, VerifyConfig())
    assert checked.problems(ranges) == []
    ranges[GATE] = (0.0, 40.0 * needed)
    line, = checked.problems(ranges)
    assert line.startswith("range, block_01/se_reduce: its range 0 to ") and "is 40.0 times wider than what the pictures" in line
    done, = checked.narrow(ranges)
    assert "narrowed, for its range" in done and ranges[GATE][1] == pytest.approx(3 * needed, rel=1e-5)
    assert checked.problems(ranges) == []
    ranges[GATE] = (0.0, 0.0001)
    assert any("cuts off" in line for line in checked.problems(ranges)) and checked.narrow(ranges) == []


def test_one_rule_judges_ranges_everywhere() -> None:
    limits = VerifyConfig()
    assert judge_range("a", (-1.0, 4.0), (0.0, 2.0), 0.05, limits) == []
    wide, cut = judge_range("a", (-1.0, 9.0), (-0.5, 1.5), 0.06, limits)
    assert wide.score == 5.0 and wide.fitting == (-1.0, 4.5) and "only 51 of 255 steps" in wide.text
    assert cut.fitting is None and "cuts off 6.0% of its values" in cut.text
    assert spread(100, 3) == [0, 49, 99] and spread(2, 32) == [0, 1] and spread(1, 4) == [0]


def test_each_tensor_gets_the_range_with_the_least_error(network: FoldedGraph) -> None:
    """A tensor whose good range is in another list than all others'."""
    pixels = pictures(16, 4)
    good = calibrate(network, [pixels]).ranges
    free = [name for name in good if not name.endswith("hard_sigmoid")]
    poor = {name: (8 * good[name][0], 30 * good[name][1]) for name in free}
    exact = LoweredNetwork(lower(network)).logits(pixels)

    def error(ranges: dict) -> float:
        return float(np.abs(LoweredNetwork(lower(network), ranges).logits(pixels) - exact).mean())

    other = max(free[2::4], key=lambda name: error({**good, name: poor[name]}))
    tried = {name: (poor[name], good[name]) if name == other else (good[name], poor[name]) for name in free}
    chosen = choose_ranges(network, tried, pixels)
    assert chosen.keys() == good.keys() and all(chosen[name] in tried[name] for name in free)
    # The best choice that is the same for all has one poor range; tensor by tensor, most of its harm goes.
    assert error(chosen) < 0.4 * error({**good, other: poor[other]})


@pytest.mark.slow
def test_quantize_checks_what_verify_checks_and_acts_on_it(float_run: Path, pictures: Path, tiny_config: Config,
                                                          tmp_path: Path) -> None:
    said = Silent()
    config = load_config(None, ["verify.range_excess=1"], tiny_config)
    quantize(float_run, open_dataset(pictures), config, tmp_path / "q", method="ptq", progress=said)
    narrowed = [line for line in said.lines if line.startswith("range")]
    assert sum("narrowed, for its range" in line for line in narrowed) >= 3
    assert any("more of this kind" in line for line in narrowed)
