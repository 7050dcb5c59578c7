"""Which blocks quantization hurts: each block quantized alone, each block left float, and the fewest that need float.

Answers are compared by the Kullback-Leibler divergence of the classes' probabilities from the float model's: it moves with
every picture, where top-1 moves in steps of one picture and may do so by chance.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mnv3_tf.data.batches import ContractPictures
from mnv3_tf.errors import InputError
from mnv3_tf.metrics import softmax
from mnv3_tf.network.layer_names import block_of
from mnv3_tf.progress import Progress
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, Ranges, input_range, input_units
from mnv3_tf.quantization.graph import FoldedGraph, leave_float
from mnv3_tf.quantization.lowering import GATE_RANGE, LoweredGraph, LoweredOp, lower, walk
from mnv3_tf.quantization.quantizers import BITS

_LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Answers:
    """How a form of the network answers, against the float model.

    Attributes:
        divergence: mean Kullback-Leibler divergence from the float model's probabilities, in nats.
        agreement: share of pictures with the float model's best class, in 0..1.
        top1: share of pictures whose best class is the label, in 0..1.
    """

    divergence: float
    agreement: float
    top1: float


@dataclass(frozen=True)
class BlockSensitivity:
    """What quantizing one block does.

    Attributes:
        block: its name.
        alone: the network with this block quantized and all others float.
        left_float: the network with this block float and all others quantized.
        gain: the divergence that leaving it float takes away from the wholly quantized network's, in nats.
        int8_bytes, float_bytes: of its weights and biases.
    """

    block: str
    alone: Answers
    left_float: Answers
    gain: float
    int8_bytes: int
    float_bytes: int


@dataclass(frozen=True)
class Sensitivity:
    """The analysis of a network.

    Attributes:
        pictures: how many were looked at.
        float_top1: of the float model.
        unquantized: the quantized run's weights without any quantization; fine-tuning moves them away from the float model.
        quantized: everything quantized.
        blocks: the most damaging block first, by its divergence alone.
    """

    pictures: int
    float_top1: float
    unquantized: Answers
    quantized: Answers
    blocks: tuple[BlockSensitivity, ...]

    def drop_points(self, answers: Answers) -> float:
        """How many points of top-1 a form loses against the float model."""
        return 100 * (self.float_top1 - answers.top1)


@dataclass(frozen=True)
class Step:
    """One step of the search: the block that was left float in addition, and the answers then."""

    block: str
    answers: Answers


@dataclass(frozen=True)
class Recipe:
    """Which blocks to leave float.

    Attributes:
        float_blocks: in the network's order; empty where the wholly quantized network is good enough.
        answers: of the network with these blocks float.
        drop_points: top-1 that it loses against the float model.
        budget_points: what was allowed.
        agreement: share of equal best classes that was asked for, in 0..1; None where it was not.
        asked: the blocks, or their number, were asked for; the budget chose nothing.
        needed: the wholly quantized network is beyond the budget.
        meets: it is within the budget.
        steps: of the search, in order.
    """

    float_blocks: tuple[str, ...]
    answers: Answers
    drop_points: float
    budget_points: float
    agreement: float | None
    asked: bool
    needed: bool
    meets: bool
    steps: tuple[Step, ...]


class SwitchedNetwork:
    """The fake-quantized network with any of its blocks switched to float, without building it again.

    The layers of two float models compute it, one with whole kernels and one with kernels in 8 bits; the outputs are quantized
    in between, where a :class:`LoweredNetwork` of the same blocks would do it.

    Args:
        graph: the network; which of its blocks are float does not matter.
        ranges: activation ranges, in the network's own units.
        pictures: what it answers to.
    """

    def __init__(self, graph: FoldedGraph, ranges: Ranges, pictures: ContractPictures):
        self.graph = leave_float(graph, ())
        self._lowered, self._pictures = lower(self.graph), pictures
        self._whole, self._rounded = LoweredNetwork(self._lowered), LoweredNetwork(self._lowered)
        self._rounded.round_kernels()
        self._ends = {op.name: (low * op.tensor_factor, high * op.tensor_factor) for op in self._lowered.ops
                      if op.kind not in ("gate", "flatten")
                      for low, high in [input_range(graph) if op.kind == "input" else ranges[op.name]]}

    def logits(self, float_blocks: Collection[str]) -> np.ndarray:
        """Logits float32 (pictures, classes) with these blocks float and all others quantized."""
        plan = dataclasses.replace(self._lowered, folded=leave_float(self.graph, float_blocks))
        return np.concatenate([self._forward(plan, input_units(self.graph, pixels)) for pixels in self._pictures])

    def _forward(self, plan: LoweredGraph, inputs: np.ndarray) -> np.ndarray:
        def compute(op: LoweredOp, taken: list[Any]) -> Any:
            value = (self._whole if plan.is_float(op) else self._rounded).apply(op, taken or [inputs])
            if plan.has_range(op):
                low, high = self._ends.get(op.name, GATE_RANGE)
                value = tf.quantization.fake_quant_with_min_max_vars(value, low, high, num_bits=BITS)
            return value

        *_, (_, logits) = walk(plan.ops, compute)
        return np.asarray(logits, np.float32)


def compare_answers(logits: np.ndarray, float_logits: np.ndarray, labels: np.ndarray) -> Answers:
    """Compares logits (n, classes) with the float model's for the same pictures, of these labels (n,)."""
    found, expected = (softmax(np.asarray(values, np.float64)) for values in (logits, float_logits))
    logs = [np.log(np.maximum(values, _LEAST_PROBABILITY)) for values in (expected, found)]
    best = logits.argmax(axis=1)
    return Answers(float((expected * (logs[0] - logs[1])).sum(axis=1).mean()),
                   float((best == float_logits.argmax(axis=1)).mean()), float((best == labels).mean()))


def analyse(network: SwitchedNetwork, float_logits: np.ndarray, labels: np.ndarray, progress: Progress) -> Sensitivity:
    """Quantizes every block alone, and leaves every block float alone.

    Args:
        network: the calibrated or fine-tuned network.
        float_logits: the float model's (n, classes), of the network's pictures.
        labels: int (n,).
        progress: told of everything.

    Raises:
        InputError: there are no pictures.
    """
    if not len(labels):
        raise InputError("The analysis needs pictures, and there are none. Give a data set with a validation split.")
    blocks = network.graph.blocks

    def answers(float_blocks: Collection[str]) -> Answers:
        return compare_answers(network.logits(float_blocks), float_logits, labels)

    with progress.task("Analysing blocks", 2 * len(blocks) + 2) as advance:
        unquantized, quantized = answers(blocks), answers(())
        advance(2, "")
        rows = []
        for place, block in enumerate(blocks):
            alone, left_float = answers([name for name in blocks if name != block]), answers([block])
            rows.append(BlockSensitivity(block, alone, left_float, quantized.divergence - left_float.divergence,
                                         *_weight_bytes(network.graph, block)))
            advance(2 * place + 4, block)
    return Sensitivity(len(labels), float((float_logits.argmax(axis=1) == labels).mean()), unquantized, quantized,
                       tuple(sorted(rows, key=lambda row: -row.alone.divergence)))


def _weight_bytes(graph: FoldedGraph, block: str) -> tuple[int, int]:
    """Of a block's weights in 8 bits (biases take four bytes), and in float32."""
    kernels, biases = (sum(int(values.size) for op in graph.ops if block_of(op.name) == block
                           for values in [getattr(op, key)] if values is not None) for key in ("kernel", "bias"))
    return kernels + 4 * biases, 4 * (kernels + biases)


class RecipeSearch:
    """Leaves blocks float until an accuracy budget is met.

    Args:
        network, sensitivity, float_logits, labels: of :func:`analyse`.
        budget: largest loss of top-1 against the float model, in points.
        agreement: least share of pictures with the float model's best class, in 0..1; None asks for none.
    """

    def __init__(self, network: SwitchedNetwork, sensitivity: Sensitivity, float_logits: np.ndarray, labels: np.ndarray, *,
                 budget: float = 0.5, agreement: float | None = None):
        self._network, self._sensitivity, self._float_logits, self._labels = network, sensitivity, float_logits, labels
        self.budget, self.agreement = budget, agreement

    def _measure(self, blocks: Collection[str]) -> Answers:
        return compare_answers(self._network.logits(blocks), self._float_logits, self._labels)

    def meets(self, answers: Answers) -> bool:
        """Whether a form of the network is good enough."""
        # Pictures are counted: what is left over of a floating-point number must not decide.
        agreed = self.agreement is None or answers.agreement >= self.agreement - 1e-12
        return agreed and self._sensitivity.drop_points(answers) <= self.budget + 1e-9

    def _recipe(self, blocks: Collection[str], answers: Answers, steps: Sequence[Step] = (), *, asked: bool = False) -> Recipe:
        return Recipe(leave_float(self._network.graph, blocks).float_blocks, answers, self._sensitivity.drop_points(answers),
                      self.budget, self.agreement, asked, not self.meets(self._sensitivity.quantized), self.meets(answers),
                      tuple(steps))

    def of(self, blocks: Collection[str]) -> Recipe:
        """The recipe of these blocks, whatever they bring."""
        return self._recipe(blocks, self._measure(blocks), asked=True)

    def greedy(self, count: int | None, progress: Progress) -> Recipe:
        """Leaves one block after another float, each time the one that takes the most away from the divergence.

        Every block that is still quantized is measured at every step, together with those chosen before it. Top-1 says when it
        is enough, and never which block: on a few hundred pictures it would choose by chance.

        Args:
            count: so many blocks, whatever the budget; None: until it is met, or no block brings anything.
            progress: told of everything.
        """
        chosen: tuple[str, ...] = ()
        best, steps = self._sensitivity.quantized, []
        blocks = self._network.graph.blocks
        first = {row.block: row.left_float for row in self._sensitivity.blocks}
        with progress.task("Choosing blocks", len(blocks) if count is None else count) as advance:
            while len(chosen) < len(blocks) and (len(chosen) < count if count is not None else not self.meets(best)):
                found = {block: self._measure((*chosen, block)) if chosen else first[block]
                         for block in blocks if block not in chosen}
                block = min(found, key=lambda name: found[name].divergence)
                if count is None and found[block].divergence >= best.divergence:
                    break
                chosen, best = (*chosen, block), found[block]
                steps.append(Step(block, best))
                advance(len(chosen), ", ".join(chosen))
        return self._recipe(chosen, best, steps, asked=count is not None)
