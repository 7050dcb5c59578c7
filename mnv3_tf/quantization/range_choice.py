"""Which of several ranges each tensor gets: that with which the network's logits come nearest to the float network's.

The mean difference of a logit is what counts, not its square: a picture whose answer is lost cannot be lost twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mnv3_tf.quantization.fake_quantized import LoweredNetwork, Ranges, count_values, input_units
from mnv3_tf.quantization.graph import FoldedGraph
from mnv3_tf.quantization.lowering import LoweredOp, lower

# Ranges whose widths differ by less are as good as the same.
_ALIKE = 1.1
# A change must make the error less by this share.
_GAIN = 1e-3
# Memory for the tensors of all pictures, if all of them were held.
_BYTES = 4_000_000_000


def choose_ranges(graph: FoldedGraph, tried: Mapping[str, Sequence[tuple[float, float]]], pixels: np.ndarray) -> Ranges:
    """Chooses tensor by tensor, in order of computation, starting from the best choice that is the same for all of them.

    Args:
        graph: the network.
        tried: ranges by tensor, in the network's own units: as many for each, or a single one where there is no choice.
        pixels: uint8 (n, height, width, 3) of pictures that decide; fewer are taken where memory is short.

    Returns:
        The ranges, those of hard-sigmoids included.
    """
    gates = {op.name: (0.0, 1.0) for op in graph.ops if op.kind == "hard_sigmoid"}
    count = max(map(len, tried.values()))
    rules: list[Ranges] = [{name: ranges[min(i, len(ranges) - 1)] for name, ranges in tried.items()} | gates
                           for i in range(count)]
    if count == 1:
        return rules[0]
    lowered = lower(graph)
    inputs = tf.constant(input_units(graph, pixels[:max(8, _BYTES // (count_values(lowered) * 4))]))
    wanted = LoweredNetwork(lowered).forward(inputs)
    last_use = {name: op.name for op in lowered.ops for name in op.inputs}

    def advance(network: LoweredNetwork, ops: Sequence[LoweredOp], outputs: dict[str, Any]) -> Any:
        """Computes operations, given the outputs before them that are still needed; returns the last one's."""
        for op in ops:
            outputs[op.name] = network.apply(op, [outputs[name] for name in op.inputs] or [inputs])
            for name in set(op.inputs):
                if last_use[name] == op.name:
                    del outputs[name]
        return outputs[ops[-1].name]

    def error(network: LoweredNetwork, ops: Sequence[LoweredOp], outputs: Mapping[str, Any]) -> float:
        return float(tf.reduce_mean(tf.abs(advance(network, ops, dict(outputs)) - wanted)))

    errors = [error(LoweredNetwork(lowered, rule), lowered.ops, {}) for rule in rules]
    least = min(errors)
    chosen: Ranges = dict(rules[errors.index(least)])
    network, before = LoweredNetwork(lowered, chosen), dict[str, Any]()
    for place, op in enumerate(lowered.ops):
        for ends in dict.fromkeys(tried.get(op.name, ())):
            wide, narrow = sorted((_width(ends), _width(chosen[op.name])), reverse=True)
            if wide < _ALIKE * narrow:
                continue
            network.set_ranges({**chosen, op.name: ends})
            if (found := error(network, lowered.ops[place:], before)) < (1 - _GAIN) * least:
                least, chosen[op.name] = found, ends
        network.set_ranges(chosen)
        advance(network, [op], before)
    return chosen


def _width(ends: tuple[float, float]) -> float:
    return ends[1] - ends[0]
