"""Weights that make up for what 8 bits cost: layer by layer, on unlabelled pictures.

Each convolution is given what it really gets, the quantized tensor before it, and the output that the float network has there.
Its kernel is first moved to where it comes nearest to that output (least squares, held near the trained kernel), then rounded
one input at a time, each rounding error being spread over the inputs that are not rounded yet (Frantar et al., "GPTQ", 2023;
Hassibi and Stork, "Second order derivatives for network pruning", 1993). The bias takes what is left of the mean. Pictures
on which a tensor is larger than on most count for less: a few where it is ten times as large would decide alone.

No label is looked at and nothing is trained by gradient.
"""

from collections.abc import Callable, Collection

import numpy as np

from mnv3_tf.quantization.fake_quantized import LoweredNetwork, Ranges, input_shift, input_units, picture_weights
from mnv3_tf.quantization.graph import FoldedGraph
from mnv3_tf.quantization.lowering import LoweredOp, lower, walk

# Rows of the least-squares problem of a convolution, at most: pictures times places.
_ROWS = 10_000
_DEPTHWISE_ROWS = 2_000
# Channels of a depthwise convolution that are fitted together: memory stays small for wide layers.
_CHANNELS_AT_ONCE = 64
# How strongly a kernel is held where training left it, as a share of the mean square of its inputs.
_HOLD = 0.5
# The same, while errors of rounding are spread.
_DAMP = 0.01
_LEVELS = 127


def reconstruct_weights(graph: FoldedGraph, ranges: Ranges, pixels: np.ndarray, *, kept: Collection[str] = (),
                        advance: Callable[[int], None] = lambda done: None) -> FoldedGraph:
    """Chooses kernels and biases for the integer form.

    Args:
        graph: the trained network.
        ranges: of its activations, from calibration.
        pixels: uint8 (n, height, width, 3), about a hundred unlabelled pictures.
        kept: operations whose weights must stay as they are.
        advance: told the number of operations done.

    Returns:
        The network with kernels that 8 bits per channel hold exactly.
    """
    lowered = lower(graph)
    exact, network = LoweredNetwork(lowered, exact_input=True), LoweredNetwork(lowered, ranges)
    inputs = input_units(graph, pixels)
    first = lowered.ops[0]

    def fit(op: LoweredOp, taken: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """What the float network has here, and what the quantized one makes with the weights that are chosen."""
        if op is first:
            return inputs + input_shift(graph), network.apply(op, [inputs])
        if op.kind in ("conv", "depthwise") and not lowered.is_float(op) and op.source not in kept:
            (right, given), shift = taken[0], input_shift(graph) if op.inputs[0] == first.name else 0.0
            fitted = _fit(op, given, right, *lowered.weights(op), shift=shift, floor=network.kernel_floor(op))
            network.set_weights({op.name: fitted})
        return exact.apply(op, [wanted for wanted, _ in taken]), network.apply(op, [found for _, found in taken])

    for index, _ in enumerate(walk(lowered.ops, fit)):
        advance(index)
    return network.folded_graph()


def _padding(op: LoweredOp, side: int, kernel: int) -> tuple[int, int]:
    """Zeros before and after one axis of a convolution's input."""
    if op.padding == "symmetric":
        return kernel // 2, kernel // 2
    if op.padding == "valid":
        return 0, 0
    total = max((-(-side // op.stride) - 1) * op.stride + kernel - side, 0)
    return total // 2, total - total // 2


class _Places:
    """Places of a convolution's output, chosen by chance, and what enters it there."""

    def __init__(self, op: LoweredOp, shape: tuple[int, ...], kernel: np.ndarray):
        self._kernel = kernel.shape[:2]
        self._pads = [_padding(op, side, size) for side, size in zip(shape[1:3], self._kernel, strict=True)]
        sides = [(side + sum(pad) - size) // op.stride + 1
                 for side, pad, size in zip(shape[1:3], self._pads, self._kernel, strict=True)]
        total = shape[0] * sides[0] * sides[1]
        limit = _DEPTHWISE_ROWS if op.kind == "depthwise" else _ROWS
        places = np.arange(total) if total <= limit else np.random.default_rng(0).choice(total, limit, replace=False)
        picture, place = np.divmod(places, sides[0] * sides[1])
        row, column = np.divmod(place, sides[1])
        self._at = picture, row * op.stride, column * op.stride

    def weights(self, right: np.ndarray) -> np.ndarray:
        """How much each place counts, (places,): by the inverse power of its picture's input, if that is large."""
        return picture_weights(np.square(right, dtype=np.float64).mean(axis=(1, 2, 3)))[self._at[0]]

    def rows(self, inputs: np.ndarray) -> np.ndarray:
        """(places, h * w, channels) float32."""
        padded = np.pad(inputs, ((0, 0), *self._pads, (0, 0))) if any(map(any, self._pads)) else inputs
        picture, row, column = (values[:, None, None] for values in self._at)
        height, width = self._kernel
        found = padded[picture, row + np.arange(height)[:, None], column + np.arange(width)]
        return found.reshape(len(found), height * width, -1)


def _fit(op: LoweredOp, given: np.ndarray, right: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *,
         shift: np.ndarray | float, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias, the kernel on the grid of 8 bits, that make of `given` what the float ones make of `right`."""
    places = _Places(op, given.shape, kernel)
    height, width, channels = kernel.shape[:3]
    weights = places.weights(right)
    if op.kind != "depthwise":
        # The padding of an integer file is the zero of its units, not the float network's.
        rows, right_rows = places.rows(given) + np.float32(shift), places.rows(right)
        start = kernel.reshape(1, -1, kernel.shape[-1])
        rounded, moved = _solve(rows.reshape(1, len(rows), -1), right_rows.reshape(1, len(rows), -1), weights, start, bias[None],
                                floor)
        return rounded[0].reshape(kernel.shape), moved[0]
    # One small problem for each channel: (channels, rows, h * w).
    start = kernel[..., 0].reshape(height * width, channels).T[:, :, None]
    parts = []
    for first in range(0, channels, _CHANNELS_AT_ONCE):
        part = slice(first, first + _CHANNELS_AT_ONCE)
        of_part = shift[part] if isinstance(shift, np.ndarray) else shift
        rows = np.moveaxis(places.rows(given[..., part]) + np.float32(of_part), 2, 0)
        right_rows = np.moveaxis(places.rows(right[..., part]), 2, 0)
        parts.append(_solve(rows, right_rows, weights, start[part], bias[part, None], floor))
    rounded, moved = (np.concatenate(values) for values in zip(*parts, strict=True))
    return rounded[..., 0].T.reshape(kernel.shape), moved[:, 0]


def _solve(given: np.ndarray, right: np.ndarray, weights: np.ndarray, start: np.ndarray, bias: np.ndarray,
           floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Separate problems of :func:`_fit`.

    Args:
        given, right: (problems, rows, inputs).
        weights: how much each row counts, (rows,).
        start: (problems, inputs, outputs).
        bias: (problems, outputs).

    Returns:
        Kernels and biases, float32, in the shapes of `start` and `bias`.
    """
    problems, start = given.astype(np.float64), start.astype(np.float64)
    shares = (weights / weights.sum()).astype(np.float64)[:, None]
    wanted = np.matmul(right, start) + bias[:, None]
    mean_in, mean_out = ((values * shares).sum(axis=1, keepdims=True) for values in (problems, wanted))
    centred = problems - mean_in
    size, weighed = centred.shape[2], (centred * shares).transpose(0, 2, 1)
    hessian = np.matmul(weighed, centred)
    hold = _HOLD * np.maximum(np.trace(hessian, axis1=1, axis2=2) / size, 1e-12)[:, None, None] * np.eye(size)
    slope = np.matmul(weighed, wanted - mean_out)
    best = np.linalg.solve(hessian + hold, slope + np.matmul(hold, start))
    rounded = _round(best, hessian + hold * (_DAMP / _HOLD), floor)
    moved = (mean_out - np.matmul(mean_in, rounded))[:, 0]
    return rounded.astype(np.float32), moved.astype(np.float32)


def _round(kernels: np.ndarray, hessians: np.ndarray, floor: float) -> np.ndarray:
    """Rounds kernels (problems, inputs, outputs) to 127 steps either way for each output, one input at a time."""
    order = np.argsort(-np.einsum("pii->pi", hessians).sum(axis=0))
    inverse = np.linalg.inv(hessians[:, order][:, :, order])
    upper = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)
    least = floor / _LEVELS
    step = np.maximum(np.abs(kernels).max(axis=1, keepdims=True) / _LEVELS, least)
    for _ in range(4):
        levels, used = _round_once(kernels[:, order].copy(), upper, step), step
        most = np.abs(levels).max(axis=1, keepdims=True)
        at_end = (most == _LEVELS) | (step <= least)
        if at_end.all():
            break
        step = np.where(at_end, step, np.maximum(step * np.maximum(most, 1) / _LEVELS, least))
    step = used
    # A file's scale comes from the largest weight, or the floor: the largest weight must be at the end of the grid.
    largest = np.abs(levels).argmax(axis=1)[:, None]
    value = np.take_along_axis(levels, largest, 1)
    end = np.where(value < 0, -1.0, 1.0) * _LEVELS
    np.put_along_axis(levels, largest, np.where(step <= least, value, end), 1)
    rounded = np.empty_like(levels)
    rounded[:, order] = levels * step
    return rounded


def _round_once(kernels: np.ndarray, upper: np.ndarray, step: np.ndarray) -> np.ndarray:
    levels = np.zeros_like(kernels)
    for i in range(kernels.shape[1]):
        levels[:, i] = np.clip(np.rint(kernels[:, i] / step[:, 0]), -_LEVELS, _LEVELS)
        error = (kernels[:, i] - levels[:, i] * step[:, 0]) / upper[:, i, i, None]
        kernels[:, i + 1:] -= upper[:, i, i + 1:, None] * error[:, None]
    return levels

