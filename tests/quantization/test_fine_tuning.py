"""Steps of quantization-aware fine-tuning: how far they go, what they average, what they leave alone."""

import numpy as np
import pytest

from mnv3_tf.config import Config, load_config
from mnv3_tf.metrics import score
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.spec import Block, NetworkSpec
from mnv3_tf.quantization.calibration import calibrate
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, input_units
from mnv3_tf.quantization.fine_tuning import BestEpoch, FineTuning
from mnv3_tf.quantization.fold import trace
from mnv3_tf.quantization.lowering import lower

SPEC = NetworkSpec("two", (Block(3, 16, 16, True, "relu", 2), Block(3, 32, 16, False, "hard_swish", 2)), "hard_swish",
                   class_expand=32)
RATE = 0.01
STEPS = 40


@pytest.fixture(scope="module")
def config() -> Config:
    # The labels' gradients: a teacher that computes nearly the same has next to none, and Adam then takes shorter steps.
    return load_config(None, [f"quantize.learning_rate={RATE}", "quantize.teacher_weight=0"])


class Network:
    """A network, its teacher, and a batch that both learn from."""

    def __init__(self) -> None:
        graph = trace(MobileNetV3(SPEC, input_shape=(32, 32, 3), classes=3))
        pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)
        self.fake_quantized = LoweredNetwork(lower(graph), calibrate(graph, [pixels]).ranges)
        self.teacher = LoweredNetwork(lower(graph), exact_input=True)
        self.inputs = input_units(graph, pixels)
        self.labels = np.eye(3, dtype=np.float32)[np.arange(8) % 3]

    def values(self, frozen: frozenset[str] = frozenset()) -> list[np.ndarray]:
        """All that is trained, as it is."""
        return [variable.numpy() for variable in self.fake_quantized.trainable_variables(frozen)]


@pytest.mark.slow
def test_the_rate_rises_and_the_average_is_kept(config: Config) -> None:
    network = Network()
    tuning = FineTuning(network.fake_quantized, network.teacher, config, frozenset(), STEPS)
    start = network.values()
    sizes = [max(float(np.sqrt(np.mean(np.square(value)))), 1e-3) for value in start]
    average, before, moved, ends = start, start, [], []
    for step in range(1, 7):
        assert np.isfinite(tuning.step(network.inputs, network.labels))
        after = network.values()
        steps = [float(np.abs(new - old).max()) / size for new, old, size in zip(after, before, sizes, strict=True)]
        moved.append(max(length for length, value in zip(steps, start, strict=True) if value.shape))
        # The ends of ranges, the only single numbers, move ten times as fast.
        ends.append(max(length for length, value in zip(steps, start, strict=True) if not value.shape))
        decay = min(0.98, step / (step + 9))
        average = [decay * old + (1 - decay) * new for old, new in zip(average, after, strict=True)]
        before = after
    # A tenth of 40 steps: 0, a quarter, a half, three quarters, then the whole rate; Adam's steps are about as long.
    assert moved[0] < 1e-6
    for length, of_ends, share in zip(moved[1:], ends[1:], (0.25, 0.5, 0.75, 1.0, 1.0), strict=True):
        assert 0.2 * share * RATE < length < 1.5 * share * RATE and 2 * share * RATE < of_ends < 15 * share * RATE
    with tuning.averaged():
        for found, wanted, size in zip(network.values(), average, sizes, strict=True):
            assert np.allclose(found, wanted, rtol=0, atol=1e-5 * size)
        assert any(np.abs(now - then).max() > 0 for now, then in zip(network.values(), before, strict=True))
    assert all(np.array_equal(now, then) for now, then in zip(network.values(), before, strict=True))


@pytest.mark.slow
def test_frozen_weights_are_neither_moved_nor_averaged(config: Config) -> None:
    network = Network()
    frozen = frozenset({"stem_conv"})
    tuning = FineTuning(network.fake_quantized, network.teacher, config, frozen, 1)
    kernel, bias = network.fake_quantized.weights()["stem_conv"]
    others = network.values(frozen)
    for _ in range(3):
        tuning.step(network.inputs, network.labels)
    with tuning.averaged():
        assert all(np.array_equal(now, then) for now, then in
                   zip(network.fake_quantized.weights()["stem_conv"], (kernel, bias), strict=True))
    assert len(others) == len(network.values()) - 2


@pytest.mark.slow
def test_parts_of_a_batch_make_the_same_step(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is short, a batch goes through in parts; the gradient is the whole batch's."""
    import keras

    found = []
    for part in (8, 3):
        keras.utils.set_random_seed(0)
        network = Network()
        tuning = FineTuning(network.fake_quantized, network.teacher, config, frozenset(), STEPS)
        monkeypatch.setattr(tuning, "_part", part)
        losses = [tuning.step(network.inputs, network.labels) for _ in range(3)]
        found.append((losses, network.values()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    # Adam makes much of the least difference where a gradient is next to nothing: most values, not all, are the same.
    near = [np.isclose(one, other, rtol=1e-3, atol=1e-5) for one, other in zip(found[0][1], found[1][1], strict=True)]
    assert sum(same.sum() for same in near) > 0.99 * sum(same.size for same in near)


def judged(teacher: np.ndarray, share: float, labels: list[int], epochs: list[np.ndarray]) -> tuple[list[bool], BestEpoch]:
    """Which epochs, each given by its logits, are taken."""
    best = BestEpoch(teacher, share)
    names = tuple("ab")
    return [best.takes(logits, score(logits, np.array(labels), names), 0.0) for logits in epochs], best


def answers(*margins: float) -> np.ndarray:
    """Logits of two classes: positive margins answer the first."""
    return np.array([[margin, 0.0] for margin in margins], np.float32)


def test_the_labels_choose_the_epoch_where_they_teach() -> None:
    right, poor = answers(1, 1, -1, -1), answers(1, 1, -1, 0.1)
    surer, surest, lost = answers(1.5, 1.5, -1.5, -1.5), answers(9, 9, -9, 0.1), answers(np.nan, 1, -1, -1)
    taken, best = judged(right, 0.0, [0, 0, 1, 1], [right, poor, surer, lost, surest, right])
    assert taken == [True, False, True, False, False, False] and best.epoch == 2


def test_the_float_networks_answers_choose_the_epoch_where_they_teach() -> None:
    """Labels count for nothing: the nearest epoch is wrong on one picture more than calibration alone."""
    teacher = answers(1, 1, 0.1, -1)
    calibrated, nearer, nearest_but_one_answer = answers(2, 2, 0.6, -2), answers(1.3, 1.3, 0.2, -1.3), answers(1, 1, -0.01, -1)
    taken, best = judged(teacher, 1.0, [1, 1, 1, 1], [calibrated, nearer, nearest_but_one_answer, teacher])
    assert taken == [True, True, False, True] and best.epoch == 3
    assert [row["val_as_float"] for row in best.history] == [1, 1, 0.75, 1] and best.history[3]["val_distance_to_float"] < 1e-9
    odd = [answers(1.2, 0.8, 0.12, 6), answers(1.01, 0.99, 0.1, 7)]  # one far away, whose divergence is most of the sum
    taken, _ = judged(answers(1, 1, 0.1, 2), 1.0, [1, 1, 1, 1], odd)
    assert taken == [True, True]
    taken, _ = judged(teacher, 1.0, [1, 1, 1, 1], [answers(1, 1, -0.2, -1), answers(1, 1, 0.05, -1)])
    assert taken == [True, True]  # its top-1 fell from 0.5 to 0.25


@pytest.mark.slow
def test_what_is_judged_is_what_a_file_gives_back() -> None:
    network = Network()
    rng = np.random.default_rng(1)
    weights = {name: (kernel * rng.uniform(0.9, 1.1, kernel.shape).astype(np.float32), bias + np.float32(0.01))
               for name, (kernel, bias) in network.fake_quantized.weights().items()}
    network.fake_quantized.set_weights(weights)
    graph, ranges = network.fake_quantized.as_stored()
    again = LoweredNetwork(lower(graph), ranges)
    for ours, theirs in zip(network.fake_quantized.model.variables, again.model.variables, strict=True):
        if "range_" in ours.name or "kernel" in ours.name or "bias" in ours.name:
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.name)
