"""Where each operation of the network is in a `.tflite` file that was made of it."""

from dataclasses import dataclass

import numpy as np

from mnv3_tf.quantization.lowering import LoweredGraph, LoweredOp, Lowering
from mnv3_tf.tflite.file import CONVERSIONS, OperatorInfo, TensorInfo, TfliteFile, float_front

# What the converter makes of each kind of operation.
_MADE_OF = {"conv": ("CONV_2D",), "depthwise": ("DEPTHWISE_CONV_2D",), "gate": ("ADD",), "multiply": ("MUL",), "add": ("ADD",),
            "hard_swish": ("HARD_SWISH",), "pool": ("MEAN", "AVERAGE_POOL_2D"), "flatten": ("RESHAPE",), "negate": ("NEG",)}


@dataclass(frozen=True)
class Placed:
    """Where an operation of the network is in the file."""

    op: LoweredOp
    operator: OperatorInfo
    output: TensorInfo

    def kernel_and_bias(self, file: TfliteFile) -> tuple[np.ndarray, np.ndarray]:
        """The file's kernel (as the folded network has it) and bias, float32, as the lowered operation uses them."""
        kernel, bias = (file.real(index).astype(np.float32) for index in self.operator.inputs[1:3])
        # A file has (out, h, w, in), and (1, h, w, channels) for a depthwise convolution.
        return kernel.transpose(1, 2, 3, 0), bias


def detect_lowering(file: TfliteFile) -> Lowering:
    """Which form of hard-swish the file has."""
    return "native" if any(operator.name == "HARD_SWISH" for operator in file.operators) else "xnnpack"


def place(file: TfliteFile, lowered: LoweredGraph) -> list[Placed] | str:
    """Each operation of the network with the operator of the file that computes it, or why they do not correspond."""
    _, units = float_front(file)
    computing = [operator for operator in file.operators if operator.name not in CONVERSIONS and operator.index not in units]
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
        if op.kind in ("conv", "depthwise"):
            kernel = lowered.folded[op.source or ""].kernel
            assert kernel is not None
            found, expected = file.tensors[operator.inputs[1]].shape, (kernel.shape[3], *kernel.shape[:3])
            if found != expected:
                return f"{op.name}: the file's kernel is {found} where the network's is {expected}"
        placed.append(Placed(op, operator, file.tensors[operator.outputs[0]]))
    return placed
