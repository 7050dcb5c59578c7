"""Where each operation of the network is in a `.tflite` file that was made of it."""

from dataclasses import dataclass

import numpy as np

from mnv3_tf.quantization.lowering import LoweredGraph, LoweredOp, Lowering
from mnv3_tf.tflite.file import CONVERSIONS, OperatorInfo, TensorInfo, TfliteFile, float_front, unpacked_constants

# What the converter makes of each kind of operation.
_MADE_OF = {"conv": ("CONV_2D",), "depthwise": ("DEPTHWISE_CONV_2D",), "gate": ("ADD",), "multiply": ("MUL",), "add": ("ADD",),
            "hard_swish": ("HARD_SWISH",), "pool": ("MEAN", "AVERAGE_POOL_2D"), "flatten": ("RESHAPE",), "negate": ("NEG",)}


@dataclass(frozen=True)
class Placed:
    """Where an operation of the network is in the file."""

    op: LoweredOp
    operator: OperatorInfo
    output: TensorInfo

    def kernel_and_bias(self, content: "Constants") -> tuple[np.ndarray, np.ndarray]:
        """The file's kernel (as the folded network has it) and bias, dequantized, as the lowered operation uses them."""
        # A file has (out, h, w, in), and (1, h, w, channels) for a depthwise convolution.
        return content.real(self.operator.inputs[1]).transpose(1, 2, 3, 0), content.real(self.operator.inputs[2])


class Constants:
    """The constant tensors of a file, dequantized."""

    def __init__(self, content: bytes, file: TfliteFile):
        from ai_edge_litert import schema_py_generated as schema

        self._model = schema.ModelT.InitFromPackedBuf(content, 0)
        self._file = file
        self._unpacked = unpacked_constants(file)

    def scales(self, index: int) -> tuple[float, ...]:
        """The scales of a constant, one or one for each channel; empty where it is not quantized."""
        return self._file.tensors[self._unpacked.get(index, index)].scales

    def real(self, index: int) -> np.ndarray:
        """A constant as float32, in its stored shape."""
        tensor = self._file.tensors[self._unpacked.get(index, index)]
        data = self._model.buffers[tensor.buffer].data
        raw = np.frombuffer(np.asarray(data, np.uint8).tobytes(), tensor.dtype).reshape(tensor.shape)
        if not tensor.scales:
            return raw.astype(np.float32)
        shape = [1] * raw.ndim
        shape[tensor.quantized_dimension] = -1
        scales = np.asarray(tensor.scales, np.float64)
        zeros = np.asarray(tensor.zero_points or [0] * len(scales), np.float64)
        scales, zeros = (v.reshape(shape) if len(scales) > 1 else v.reshape([1] * raw.ndim) for v in (scales, zeros))
        return ((raw - zeros) * scales).astype(np.float32)


def detect_lowering(file: TfliteFile) -> Lowering:
    """Which form of hard-swish the file has."""
    return "native" if any(operator.name == "HARD_SWISH" for operator in file.operators) else "xnnpack"


def place(file: TfliteFile, lowered: LoweredGraph) -> list[Placed] | str:
    """Each operation of the network with the operator of the file that computes it, or why they do not correspond."""
    computing = _computing(file)
    operators = [operator for operator in computing if operator.name != "PAD"]
    pads, padded = len(computing) - len(operators), sum(op.padding == "symmetric" for op in lowered.ops)
    if pads != padded:
        return f"the file pads {pads} times where the network does {padded} times"
    ops = [op for op in lowered.ops if op.kind != "input"]
    if len(operators) != len(ops):
        return f"the file has {len(operators)} operations where the network has {len(ops)}"
    placed = []
    for op, operator in zip(ops, operators, strict=True):
        if operator.name not in _MADE_OF[op.kind]:
            return f"the file has {operator.name} where the network has {op.name} ({op.kind})"
        output = file.tensors[operator.outputs[0]]
        if op.kind in ("conv", "depthwise"):
            kernel = lowered.folded[op.source or ""].kernel
            assert kernel is not None
            expected = (kernel.shape[3], *kernel.shape[:3])
            if file.tensors[operator.inputs[1]].shape != expected:
                return (f"{op.name}: the file's kernel is {file.tensors[operator.inputs[1]].shape} where the network's is "
                        f"{expected}")
        placed.append(Placed(op, operator, output))
    return placed


def _computing(file: TfliteFile) -> list[OperatorInfo]:
    """The operators between the conversions at the ends, in order."""
    _, units = float_front(file)
    return [operator for operator in file.operators if operator.name not in CONVERSIONS and operator.index not in units]
