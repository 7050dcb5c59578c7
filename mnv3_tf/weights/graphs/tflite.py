"""Reads a `.tflite` file into the neutral graph, with every constant in real numbers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.tflite.file import OperatorInfo, TfliteFile, read_tflite
from mnv3_tf.weights.graphs.graph import Constant, Graph, Operator, Tensor, zero_pads

_FLOATS = ("float32", "float16", "float64")
_WHOLE = ("int8", "uint8", "int16", "int32", "int64", "bool")
_KINDS = {"ADD": "add", "SUB": "sub", "MUL": "mul", "DIV": "div", "NEG": "neg", "RELU": "relu", "HARD_SWISH": "hard_swish",
          "RSQRT": "rsqrt", "MINIMUM": "minimum", "MAXIMUM": "maximum"}
_CLIPS = {"RELU6": 6.0, "RELU_0_TO_1": 1.0}
_SAME_VALUES = {"QUANTIZE": "identity", "DEQUANTIZE": "identity", "CAST": "identity", "RESHAPE": "reshape",
                "SQUEEZE": "reshape", "EXPAND_DIMS": "reshape"}
_ACTIVATIONS = {"NONE": None, "RELU": "relu", "RELU6": "relu6", "0": None}


def read_tflite_graph(path: str | Path) -> Graph:
    """Reads a file with one picture as its input; constants that a DEQUANTIZE, RESHAPE or TRANSPOSE unpacks stay constants.

    Raises:
        InputError: the file is missing, damaged or of another kind, has several inputs, or a constant of a type that is not read.
    """
    file = read_tflite(path)
    if len(file.inputs) != 1 or len(file.inputs[0].shape) != 4:
        raise InputError(f"{path}: its inputs are {', '.join(f'{t.name} {t.shape}' for t in file.inputs) or 'none'}; a network "
                         "that takes one picture (batch, height, width, channels) is needed.")
    reader = _Reader(file)
    picture = file.inputs[0]
    operators = reader.operators()
    height, width, channels = (size if size > 0 else None for size in picture.shape_signature[1:])
    quantization = (picture.dtype, picture.scales[0], picture.zero_points[0]) if picture.scales else None
    if picture.dtype == "uint8" and quantization is None:
        quantization = ("uint8", 1.0, 0)  # the picture's bytes, which the graph itself turns into floats
    return Graph(str(path), "tflite", operators, reader.constants, picture.index,
                 tuple(tensor.index for tensor in file.outputs), height, width, channels, quantization)


class _Reader:
    def __init__(self, file: TfliteFile):
        self._file = file
        self.constants: dict[Tensor, Constant] = {
            tensor.index: self._constant(tensor.index) for tensor in file.tensors
            if tensor.is_constant and tensor.dtype in (*_FLOATS, *_WHOLE)}

    def _constant(self, index: int) -> Constant:
        value, steps = self._file.real(index), self._file.steps(index)
        return Constant(value.astype(np.float32 if value.dtype.kind == "f" else np.int64) if steps is None else value, steps)

    def operators(self) -> list[Operator]:
        """All operators that do not only unpack constants."""
        return [self._operator(info) for info in self._file.operators if not self._unpack(info)]

    def _unpack(self, info: OperatorInfo) -> bool:
        """Carries a constant through an operator that only changes how it is stored."""
        source = self.constants.get(info.inputs[0]) if info.inputs else None
        if source is None:
            return False
        unpack: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "DEQUANTIZE": lambda a: a, "QUANTIZE": lambda a: a, "CAST": lambda a: a,
            "RESHAPE": lambda a: a.reshape(self._file.tensors[info.outputs[0]].shape),
            "TRANSPOSE": lambda a: a.transpose(self._whole(info, 1))}
        if info.name not in unpack:
            return False
        self.constants[info.outputs[0]] = source.turned(lambda a: unpack[info.name](np.broadcast_to(a, source.value.shape)))
        return True

    def _whole(self, info: OperatorInfo, index: int) -> list[int]:
        """A constant input of whole numbers; empty where it is none."""
        constant = self.constants.get(info.inputs[index]) if len(info.inputs) > index else None
        return [] if constant is None else [int(value) for value in np.ravel(constant.value)]

    def _operator(self, info: OperatorInfo) -> Operator:
        name = self._file.tensors[info.outputs[0]].name if info.outputs else ""
        place = f"operator {info.index} {info.name} {name!r}"
        options = info.options
        inputs: tuple[Tensor, ...] = tuple(tensor for tensor in info.inputs if tensor >= 0)
        activation = _ACTIVATIONS.get(info.fused_activation, info.fused_activation)

        def made(kind: str, take: int | None = None, **values: Any) -> Operator:
            return Operator(place, kind, inputs[:take], info.outputs, name, values, activation)

        if info.name in _KINDS:
            return made(_KINDS[info.name])
        if info.name in _CLIPS:
            return made("clip", low=0.0, high=_CLIPS[info.name])
        if info.name in _SAME_VALUES:
            return made(_SAME_VALUES[info.name], take=1)
        if info.name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            return self._convolution(info, made, options)
        if info.name == "FULLY_CONNECTED":
            if options.weightsFormat:
                return made("other", reason="its weights are shuffled")
            return made("fully_connected", transposed=True)
        if info.name == "MEAN":
            return made("mean", take=1, axes=tuple(self._whole(info, 1)))
        if info.name == "AVERAGE_POOL_2D":
            return made("average_pool", window=(options.filterHeight, options.filterWidth),
                        stride=(options.strideH, options.strideW), padding=_padding(options))
        if info.name in ("PAD", "PADV2"):
            filled = self.constants.get(info.inputs[2]) if info.name == "PADV2" else Constant(np.zeros(()))
            if pads := zero_pads(self._whole(info, 1), None if filled is None else filled.value):
                return made("pad", take=1, pads=pads)
        return made("other")

    def _convolution(self, info: OperatorInfo, made: Callable[..., Operator], options: Any) -> Operator:
        """A convolution; its kernel's axes are put in the neutral form's order."""
        is_depthwise = info.name == "DEPTHWISE_CONV_2D"
        kernel = info.inputs[1]
        if kernel not in self.constants:
            return made("other", reason="its kernel is not constant or of a type that is not read")
        turned = f"{kernel} turned"
        self.constants[turned] = self.constants[kernel].turned(lambda a: a.transpose(1, 2, 3, 0))
        operator = made("depthwise" if is_depthwise else "conv", stride=(options.strideH, options.strideW),
                        dilation=(options.dilationHFactor, options.dilationWFactor), padding=_padding(options))
        return replace(operator, inputs=(operator.inputs[0], turned, *operator.inputs[2:]))


def _padding(options: Any) -> str:
    return "same" if options.padding == 0 else "valid"
