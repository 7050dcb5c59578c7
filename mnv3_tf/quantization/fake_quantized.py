"""The tf_keras side: the lowered network as a float model, or fake-quantized with tfmot's layers.

tfmot's wrappers are put around the layers here. Its own `quantize_apply` does that too, but builds the network four times
over, and loses a quantizer in silence whose configuration does not survive cloning.

The input of both is in units of ``(pixel - zero_pixel) * scale``, so that the zero that convolutions pad with stands for a
pixel value and every pixel value is one step of the 8-bit input. What the first convolution expects instead,
``scale * pixel + offset``, differs by a constant for each channel that goes into its bias; at the picture's border, where the
padding is, something of it remains: half a grey level where pixels are mapped to [-1, 1], up to 11 where ImageNet's mean colour
is taken off.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import QuantizeWrapperV2

from mnv3_tf.backend import own_settings
from mnv3_tf.quantization.graph import FoldedGraph
from mnv3_tf.quantization.integer_arithmetic import QuantParams
from mnv3_tf.quantization.lowering import GATE_RANGE, LoweredGraph, LoweredOp, range_rule, walk
from mnv3_tf.quantization.operations import compute
from mnv3_tf.quantization.quantizers import BITS, KernelQuantizer, OpConfig, Operation

Ranges = dict[str, tuple[float, float]]
_LEAST_KERNEL = 1e-8
# The converter names tensors after operations; by this name a file's input is known to take pixels.
INPUT_SCOPE = "quant_input_units"
# A bias may be so many steps; 32 bits have four times as many.
_BIAS_LEVELS = 2.0 ** 29


def input_units(graph: FoldedGraph, pixels: np.ndarray) -> np.ndarray:
    """Pixels 0..255 as the model takes them: float32 ``(pixel - zero_pixel) * scale``."""
    return (np.asarray(pixels, np.float32) - np.float32(graph.zero_pixel)) * np.float32(graph.scale)


def input_shift(graph: FoldedGraph) -> np.ndarray:
    """What the first convolution expects beyond the model's input units: float32, for each of the 3 channels."""
    return np.asarray([graph.zero_pixel * graph.scale + offset for offset in graph.offset], np.float32)


def shifted_bias(kernel: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """What a convolution with kernel (h, w, in, out) makes of an input that is `shift`, (in,), everywhere."""
    return shift @ kernel.sum(axis=(0, 1))


def picture_weights(power: np.ndarray) -> np.ndarray:
    """How much each picture counts by its power, (n, ...): the same for all, but less for the few that have more than four times
    the power that 97% of them keep within."""
    return 1 / np.maximum(power, np.maximum(4 * np.quantile(power, 0.97, axis=0), 1e-12))


def input_range(graph: FoldedGraph) -> tuple[float, float]:
    """The model's input range, every pixel value of which is one quantization step."""
    return -graph.zero_pixel * graph.scale, (255 - graph.zero_pixel) * graph.scale


class _Value:
    """What a variable is to a network that is not trained: a float32 array that can be set, without the price of a variable."""

    def __init__(self, value: Any):
        self.assign(value)

    def assign(self, value: Any) -> None:
        self._value = np.array(value, np.float32)
        self._value.flags.writeable = False

    def numpy(self) -> np.ndarray:
        return self._value


class LoweredNetwork:
    """A lowered network in TensorFlow, float or fake-quantized; blocks that the folded network leaves float are not quantized.

    It is computed operation by operation, in eager mode or while a `tf.function` is traced. What is trained is :attr:`model`,
    the same network of tfmot's layers, which is built when it is first asked for: building it takes longer than most uses of
    the network do.

    Args:
        lowered: the network.
        ranges: activation ranges by folded tensor, in the network's own units; None makes the float form.
        exact_input: the float form only: the input is ``scale * pixel + offset``, as the Keras network has it, padding
            included.

    Attributes:
        lowered: as given.
    """

    def __init__(self, lowered: LoweredGraph, ranges: Ranges | None = None, *, exact_input: bool = False):
        self.lowered = lowered
        self._exact_input = exact_input
        self._shift = np.zeros(3, np.float32) if exact_input else input_shift(lowered.folded)
        self._quantized = ranges is not None
        self._given: Ranges = ranges or {}
        self._has_range = {op.name: self._quantized and lowered.has_range(op) for op in lowered.ops}
        self._floors = {op.name: self.kernel_floor(op) for op in lowered.ops if self._has_quantized_kernel(op)}
        weights = {op.name: lowered.weights(op) for op in lowered.ops if op.kind in ("conv", "depthwise")}
        self._parameters: dict[str, tuple[Any, Any]] = {name: (_Value(kernel), _Value(bias))
                                                        for name, (kernel, bias) in weights.items()}
        self._ends: dict[str, dict[str, Any]] = {
            name: {"low": _Value(GATE_RANGE[0]), "high": _Value(GATE_RANGE[1])}
            for name, ranged in self._has_range.items() if ranged}
        if ranges is not None:
            self.set_ranges(ranges)
        self.set_weights(weights)

    @cached_property
    @own_settings()
    @tf.autograph.experimental.do_not_convert  # no layer's code depends on values; converting it takes as long as building
    def model(self) -> Any:
        """The fake-quantized network in tfmot's wrappers, tf_keras, from input units to logits; both have the same variables."""
        shapes = tensor_shapes(self.lowered)
        image = tf_keras.Input(shapes[self.lowered.ops[0].name], name="image")
        tensors: dict[str, Any] = {}
        for op in self.lowered.ops:
            kernel, _ = self._parameters.get(op.name, (None, None))
            layer = QuantizeWrapperV2(Operation(op, shapes[op.name], None if kernel is None else kernel.numpy().shape),
                                      self._config(op))
            tensors[op.name] = layer([tensors[name] for name in op.inputs] or image)
            self._take_variables(op, layer)
        return tf_keras.Model(image, tensors[self.lowered.ops[-1].name])

    def _take_variables(self, op: LoweredOp, wrapper: Any) -> None:
        """Lets the variables of a wrapped layer be those of an operation, with the values that it had so far.

        The wrapper keeps the kernel, whose attribute it replaces while it computes.
        """
        if op.name in self._parameters:
            kernel = wrapper._weight_vars[0][0] if self._has_quantized_kernel(op) else wrapper.layer.kernel
            variables = kernel, wrapper.layer.bias
            for variable, value in zip(variables, self._parameters[op.name], strict=True):
                variable.assign(value.numpy())
            self._parameters[op.name] = variables
        if op.name in self._ends:
            own_ends = wrapper._output_quantizer_vars
            for end, value in self._ends[op.name].items():
                own_ends[end].assign(value.numpy())
            self._ends[op.name] = own_ends

    def _config(self, op: LoweredOp) -> OpConfig:
        kernel = op.kind if self._has_quantized_kernel(op) else None
        floor_of_kernel = self._floors.get(op.name, _LEAST_KERNEL)
        if not self._has_range[op.name]:
            return OpConfig(kernel, kernel_floor=floor_of_kernel)
        if op.kind == "gate":
            return OpConfig(output={"floor": GATE_RANGE[0], "ceiling": GATE_RANGE[1], "fixed": True})
        if op.kind == "input":
            return OpConfig(output={"fixed": True})
        floor, ceiling = range_rule(self.lowered.folded, self.lowered.folded[op.name])
        factor, fixed = op.tensor_factor, op.is_hard_sigmoid
        # The range of a relu6 may end below 6, and is trained there.
        return OpConfig(kernel, {"floor": None if floor is None else floor * factor,
                                 "ceiling": ceiling * factor if fixed and ceiling is not None else None, "fixed": fixed},
                        floor_of_kernel)

    def kernel_floor(self, op: LoweredOp) -> float:
        """What the largest weight of a channel counts as at least, so that the biases fit an integer file's 32 bits.

        It matters where a kernel is next to nothing beside its bias, such as that of a gate that is always open. A weight below
        it changes the output by less than 1e-4 of the bias.
        """
        source = self.lowered[op.inputs[0]]
        if not self.lowered.has_range(source):
            return _LEAST_KERNEL
        low, high = input_range(self.lowered.folded) if source.kind == "input" else self._given[source.name]
        step = max((high - low) * abs(source.tensor_factor) / 255, 1e-12)
        return max(_LEAST_KERNEL, float(np.abs(self.lowered.weights(op)[1]).max()) * 127 / (step * _BIAS_LEVELS))

    def _has_quantized_kernel(self, op: LoweredOp) -> bool:
        return self._quantized and op.kind in ("conv", "depthwise") and not self.lowered.is_float(op)

    def _ranged(self) -> list[LoweredOp]:
        return [op for op in self.lowered.ops if op.kind != "gate" and self._has_range[op.name]]

    def set_ranges(self, ranges: Ranges) -> None:
        """Sets the activation ranges, given in the network's own units."""
        for op in self._ranged():
            variables = self._ends[op.name]
            low, high = input_range(self.lowered.folded) if op.kind == "input" else ranges[op.name]
            variables["low"].assign(low * op.tensor_factor)
            variables["high"].assign(high * op.tensor_factor)
        self._given = ranges

    def ranges(self) -> Ranges:
        """The activation ranges, in the network's own units; of a tensor that is left float, as they were given."""
        own: Ranges = {}
        for op in self._ranged():
            if op.kind != "input":
                low, high = (float(self._ends[op.name][end].numpy()) / op.tensor_factor for end in ("low", "high"))
                own[op.name] = low, min(high, 6.0) if op.activation == "relu6" else high
        return {**self._given, **own}

    def _shift_of(self, op: LoweredOp) -> np.ndarray | None:
        """What a convolution's input lacks, by channel: the first one's is shifted, and perhaps negated."""
        (name,), shift = op.inputs, self._shift
        source = self.lowered[name]
        if source.kind == "negate":
            (name,), shift = source.inputs, -shift
        return shift if name == self.lowered.ops[0].name else None

    def set_weights(self, weights: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Sets kernels and biases of the named convolutions, as the lowered operations use them."""
        for op in self.lowered.ops:
            if op.name in weights:
                kernel, bias = weights[op.name]
                if (shift := self._shift_of(op)) is not None:
                    bias = bias + shifted_bias(kernel, shift)
                kernel_variable, bias_variable = self._parameters[op.name]
                kernel_variable.assign(kernel)
                bias_variable.assign(bias)

    def weights(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Kernels and biases of all convolutions, as the lowered operations use them."""
        found = {}
        for op in self.lowered.ops:
            if op.kind in ("conv", "depthwise"):
                kernel, bias = (v.numpy() for v in self._parameters[op.name])
                if (shift := self._shift_of(op)) is not None:
                    bias = bias - shifted_bias(kernel, shift)
                found[op.name] = (kernel, bias)
        return found

    def quant_params(self, op: LoweredOp) -> QuantParams:
        """The quantization parameters of an operation's output, as an integer file has it."""
        low, high = (float(self._ends[op.name][end].numpy()) for end in ("low", "high"))
        return QuantParams.of_range(low, high)

    def places(self, name: str) -> int:
        """Height times width of a tensor."""
        height, width, _ = tensor_shapes(self.lowered)[name]
        return height * width

    def kernel_steps(self, op: LoweredOp) -> np.ndarray:
        """The step of an 8-bit kernel for each of its channels, float64 (channels,)."""
        kernel, _ = self._parameters[op.name]
        axes = (0, 1, 3) if op.kind == "depthwise" else (0, 1, 2)
        largest = np.maximum(np.abs(kernel.numpy()).max(axis=axes), np.float32(self.kernel_floor(op)))
        return 2 * largest.astype(np.float64) / 254

    def integers(self, op: LoweredOp) -> tuple[np.ndarray, np.ndarray]:
        """Kernel and bias of a quantized convolution as an integer file has them, int64, in the folded network's shapes."""
        kernel, bias = self._parameters[op.name]
        steps = self.kernel_steps(op)
        fake = KernelQuantizer(op.kind == "depthwise", self.kernel_floor(op))(_tensor(kernel), False, {}).numpy()
        levels = np.rint(fake / (steps[:, None] if op.kind == "depthwise" else steps))
        return levels.astype(np.int64), np.rint(bias.numpy() / self._bias_steps(op)).astype(np.int64)

    def _bias_steps(self, op: LoweredOp) -> np.ndarray:
        source = self.lowered[op.inputs[0]]
        return np.maximum(self.quant_params(source).step * self.kernel_steps(op), 1e-30)

    def round_biases(self) -> None:
        """Moves the biases of what is quantized to an integer file's grid: multiples of input scale times kernel scale."""
        for op in self.lowered.ops:
            if self._has_quantized_kernel(op):
                _, bias = self._parameters[op.name]
                steps = self._bias_steps(op)
                bias.assign(np.rint(bias.numpy() / steps) * steps)

    def round_kernels(self) -> None:
        """Moves the kernels of a float form to the values that 8 bits leave of them."""
        for op in self.lowered.ops:
            if op.kind in ("conv", "depthwise"):
                kernel, _ = self._parameters[op.name]
                kernel.assign(KernelQuantizer(op.kind == "depthwise")(_tensor(kernel), False, {}))

    def folded_graph(self) -> FoldedGraph:
        """The folded network with this model's weights."""
        return self.lowered.with_weights(self.weights())

    def as_stored(self) -> tuple[FoldedGraph, Ranges]:
        """Gives weights and ranges the values that they come back with from a file, which may differ in their last bits.

        Returns:
            The folded network and the ranges that a file of this network holds.
        """
        graph, ranges = self.folded_graph(), self.ranges()
        stored = dataclasses.replace(self.lowered, folded=graph)
        self.set_weights({op.name: stored.weights(op) for op in self.lowered.ops if op.kind in ("conv", "depthwise")})
        self.set_ranges(ranges)
        return graph, ranges

    def trainable_variables(self, frozen: Collection[str]) -> list[Any]:
        """What fine-tuning may change: weights and ranges, without the weights of the operations named in `frozen`."""
        trainable = self.model.trainable_variables
        held = {id(variable) for op in self.lowered.ops
                if op.kind in ("conv", "depthwise") and op.source in frozen for variable in self._parameters[op.name]}
        return [variable for variable in trainable if id(variable) not in held]

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits float32 (n, classes) of pixels (n, height, width, 3) in 0..255."""
        graph = self.lowered.folded
        inputs = graph.stem_input(pixels) if self._exact_input else input_units(graph, pixels)
        return np.asarray(self.forward(tf.constant(inputs)), np.float32)

    def tensors(self, names: Sequence[str], inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs of some operations, in the lowered network's units, for inputs in input units."""
        found = {op.name: np.asarray(tensor) for op, tensor in self.walk(inputs) if op.name in names}
        return [found[name] for name in names]

    def forward(self, inputs: Any) -> Any:
        """The last operation's output."""
        for _, tensor in self.walk(inputs):
            last = tensor
        return last

    def walk(self, inputs: Any) -> Iterator[tuple[LoweredOp, Any]]:
        """Every operation with its output, a tensor in the lowered network's units, for inputs in input units."""
        return walk(self.lowered.ops, lambda op, taken: self._compute(op, taken or [inputs]))

    def apply(self, op: LoweredOp, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """One operation alone, on inputs in the lowered network's units."""
        return np.asarray(self._compute(op, inputs))

    def _compute(self, op: LoweredOp, inputs: Sequence[Any]) -> Any:
        with tf.name_scope(INPUT_SCOPE if op.kind == "input" else op.name):
            if op.kind in ("conv", "depthwise"):
                kernel, bias = (_tensor(value) for value in self._parameters[op.name])
                if op.name in self._floors:
                    kernel = KernelQuantizer(op.kind == "depthwise", self._floors[op.name])(kernel, False, {})
                value = compute(op, inputs, kernel, bias)
            else:
                value = compute(op, inputs)
            if not self._has_range[op.name]:
                return value
            low, high = (_tensor(self._ends[op.name][end]) for end in ("low", "high"))
            return tf.quantization.fake_quant_with_min_max_vars(value, low, high, num_bits=BITS)


def _tensor(value: Any) -> Any:
    """What a variable holds; while a function is traced, a constant of its graph where nothing is trained."""
    return tf.convert_to_tensor(value.numpy() if isinstance(value, _Value) else value)


def tensor_shapes(lowered: LoweredGraph) -> dict[str, tuple[int, ...]]:
    """The shape of every operation's output for one picture: (height, width, channels), or (channels,) when flattened."""
    shapes: dict[str, tuple[int, ...]] = {}
    for op in lowered.ops:
        if op.kind == "input":
            shapes[op.name] = lowered.folded.height, lowered.folded.width, 3
            continue
        given = shapes[op.inputs[0]]
        if op.kind in ("conv", "depthwise"):
            kernel = lowered.folded[op.source or ""].kernel
            assert kernel is not None
            # "symmetric" keeps what "same" keeps, for kernels are odd.
            lost = [side - 1 if op.padding == "valid" else 0 for side in kernel.shape[:2]]
            height, width = (-(-(side - less) // op.stride) for side, less in zip(given[:2], lost, strict=True))
            shapes[op.name] = height, width, kernel.shape[2] if op.kind == "depthwise" else kernel.shape[3]
        elif op.kind == "pool":
            shapes[op.name] = 1, 1, given[2]
        elif op.kind == "flatten":
            shapes[op.name] = (math.prod(given),)
        else:  # of a tensor and a gate of one place, the larger
            shapes[op.name] = max((shapes[name] for name in op.inputs), key=math.prod)
    return shapes


def count_values(lowered: LoweredGraph) -> int:
    """How many numbers all tensors of one picture have."""
    return sum(math.prod(shape) for shape in tensor_shapes(lowered).values())
