"""Why XNNPACK leaves an operator to the runtime's own kernels: rules found by running small files with the pinned runtime.

Tests run a file for each rule and compare what the runtime does with what the rule says. What no rule knows is said so.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mnv3_tf.tflite.file import CONVERSIONS, OperatorInfo, TensorInfo, TfliteFile, operator_dtype, unpacked_constants

# XNNPACK has these for float32, and takes no int8 one.
FLOAT_ONLY = frozenset({
    "ABS", "AVERAGE_POOL_2D", "BATCH_MATMUL", "DIV", "EXP", "GELU", "HARD_SWISH", "LOG", "MAXIMUM", "MINIMUM", "RELU", "RELU6",
    "RSQRT", "SOFTMAX", "SQRT", "SQUARED_DIFFERENCE"})
# It takes these in no type.
NEVER = frozenset({
    "ARG_MAX", "CAST", "CUMSUM", "GATHER", "GATHER_ND", "GREATER", "L2_NORMALIZATION", "LOCAL_RESPONSE_NORMALIZATION",
    "LOG_SOFTMAX", "MIRROR_PAD", "ONE_HOT", "PACK", "POW", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "SELECT_V2", "TILE",
    "TOPK_V2", "UNPACK"})
# The same, of operators that networks for pictures seldom hold.
FLOAT_ONLY_RARE = frozenset({"RELU_N1_TO_1"})
NEVER_RARE = frozenset({
    "ADD_N", "ARG_MIN", "ATAN2", "BATCH_TO_SPACE_ND", "BROADCAST_TO", "COMPLEX_ABS", "CONV_3D", "EQUAL", "FLOOR_DIV", "FLOOR_MOD",
    "LESS", "LOGICAL_AND", "MATRIX_DIAG", "PADV2", "REDUCE_PROD", "RELU_0_TO_1", "RFFT2D", "SCATTER_ND", "SEGMENT_SUM", "SIGN",
    "SPACE_TO_BATCH_ND", "SPLIT_V", "UNIQUE"})
# They run other graphs of the file.
CONTROL = frozenset({"IF", "WHILE", "CALL_ONCE"})
# Their results keep the scale of what they take; XNNPACK moves the integers as they are.
ONE_SCALE = frozenset({"CONCATENATION", "MAX_POOL_2D", "PAD", "RESIZE_BILINEAR", "STRIDED_SLICE", "TRANSPOSE"})
# Inputs that XNNPACK takes as constants only, by their places.
CONSTANTS = {
    "CONV_2D": ("its weights are", (1,)), "DEPTHWISE_CONV_2D": ("its weights are", (1,)),
    "FULLY_CONNECTED": ("its weights are", (1,)), "TRANSPOSE_CONV": ("its weights are", (1,)),
    "RESHAPE": ("its new shape is", (1,)), "RESIZE_BILINEAR": ("its new size is", (1,)), "PAD": ("its padding is", (1,)),
    "TRANSPOSE": ("its order of axes is", (1,)), "MEAN": ("its choice of axes is", (1,)),
    "SLICE": ("where it cuts is", (1, 2)), "STRIDED_SLICE": ("where it cuts is", (1, 2, 3))}
_FUSED = {"RELU": "fuse it into the operator before it", "RELU6": "fuse it into the operator before it",
          "HARD_SWISH": "write it as x * relu6(x + 3) instead (mnv3 convert --lowering xnnpack)",
          "AVERAGE_POOL_2D": "use MEAN where it covers the whole picture"}
# What is measured of the output's scale: against one input's in an addition, against the product of both in a multiplication.
_SCALE_LIMITS = {"ADD": (2.0 ** -8, 2.0 ** 10), "SUB": (2.0 ** -8, 2.0 ** 10), "MUL": (2.0 ** -8, 2.0 ** 16)}
# The input's scale over the output's, also times the slope.
_LEAKY_LIMITS = (2.0 ** -8, 2.0 ** 7)
_MOST_AXES = 6
_MOST_PARTS = {"SPLIT": 4, "CONCATENATION": 5}
_OTHER_TYPES = frozenset({"int16", "int32", "int64", "bool", "complex64"})
# The place of the input that is computed on, where it is not the first.
_DATA = {"SPLIT": 1, "TRANSPOSE_CONV": 2}
_OPEN = b"\xff\xff\xff\xff"


@dataclass(frozen=True)
class Outsider:
    """An operator that the runtime left outside, as rules look at it."""

    file: TfliteFile
    operator: OperatorInfo

    @property
    def name(self) -> str:
        return self.operator.name

    @cached_property
    def dtype(self) -> str:
        return operator_dtype(self.file, self.operator)

    @cached_property
    def tensors(self) -> list[TensorInfo]:
        return [self.file.tensors[i] for i in (*self.operator.inputs, *self.operator.outputs) if i >= 0]

    def given(self, place: int) -> TensorInfo | None:
        """The input at a place, or None."""
        inputs = self.operator.inputs
        return self.file.tensors[inputs[place]] if place < len(inputs) and inputs[place] >= 0 else None

    def option(self, name: str) -> Any:
        return getattr(self.operator.options, name, None)

    def data(self, place: int) -> bytes:
        """Of a constant input at a place; empty where it is computed."""
        tensor = self.given(place)
        return tensor.data.tobytes() if tensor else b""


def reason(file: TfliteFile, operator: OperatorInfo) -> str:
    """Why XNNPACK does not run an operator that the runtime left outside of it; "" where no rule knows."""
    item = Outsider(file, operator)
    return next((said for rule in RULES if (said := rule(item))), "")


def preparation_failure(file: TfliteFile, operator: OperatorInfo) -> str:
    """Why XNNPACK takes an operator and then fails to prepare it, so that the file does not load; "" if not known."""
    bytes_only = [tensor for tensor in Outsider(file, operator).tensors if tensor.dtype in ("int8", "uint8")]
    scales = {scale for tensor in bytes_only for scale in tensor.scales}
    if operator.name in ONE_SCALE and len(scales) > 1:
        return "its tensors have different scales, and XNNPACK moves their integers as they are"
    return ""


def _foreign(item: Outsider) -> str:
    if item.operator.is_flex:
        return "an operator of TensorFlow itself (Flex), which XNNPACK does not know"
    if item.operator.is_custom:
        return "a custom operator, which XNNPACK does not know"
    return "it runs other graphs of the file, and XNNPACK does not take such operators" if item.name in CONTROL else ""


def _conversion(item: Outsider) -> str:
    return "XNNPACK has no conversion between uint8 and int8" if item.name in CONVERSIONS and item.dtype in (
        "uint8->int8", "int8->uint8") else ""


def _never(item: Outsider) -> str:
    return "XNNPACK has no such operator" if item.name in NEVER | NEVER_RARE else ""


def _type(item: Outsider) -> str:
    """A second input of integers is a shape or a place, not what is computed on."""
    first = item.given(_DATA.get(item.name, 0))
    worked_on = [*([first] if first else []), *(item.file.tensors[i] for i in item.operator.outputs if i >= 0)]
    other = next((tensor.dtype for tensor in worked_on if tensor.dtype in _OTHER_TYPES), None)
    return f"it works on {other}, and XNNPACK takes float32 and 8-bit integers" if other else ""


def _float_only(item: Outsider) -> str:
    if item.dtype not in ("int8", "uint8") or item.name not in FLOAT_ONLY | FLOAT_ONLY_RARE:
        return ""
    return "XNNPACK has it for float32 only" + (f": {_FUSED[item.name]}" if item.name in _FUSED else "")


def _hybrid(item: Outsider) -> str:
    if item.dtype == "hybrid" and item.name == "DEPTHWISE_CONV_2D":
        return "XNNPACK takes no depthwise convolution with 8-bit weights and float32 activations"
    return ""


def _axes(item: Outsider) -> str:
    return f"a tensor has more than {_MOST_AXES} axes" if any(len(t.shape) > _MOST_AXES for t in item.tensors) else ""


def _parts(item: Outsider) -> str:
    most = _MOST_PARTS.get(item.name)
    parts = len(item.operator.outputs if item.name == "SPLIT" else item.operator.inputs)
    return f"it has {parts} parts, and XNNPACK takes at most {most}" if most and parts > most else ""


def _computed(item: Outsider) -> str:
    what, places = CONSTANTS.get(item.name, ("", ()))
    unpacked = unpacked_constants(item.file)
    computed = [t for place in places if (t := item.given(place)) and not t.is_constant and t.index not in unpacked]
    return f"{what} computed, and XNNPACK takes constants" if computed else ""


def _reshape(item: Outsider) -> str:
    if item.name != "RESHAPE" or not item.operator.inputs:
        return ""
    if item.data(1) == _OPEN:
        return "its new shape is [-1] alone: write the size itself"
    ends = [tensor.scales for tensor in (item.tensors[0], item.file.tensors[item.operator.outputs[0]])]
    return "its result has another scale than what it takes" if ends[0] != ends[1] else ""


def _slice(item: Outsider) -> str:
    if item.name != "STRIDED_SLICE" or not item.operator.inputs:
        return ""
    if len(item.file.tensors[item.operator.outputs[0]].shape) < len(item.tensors[0].shape):
        return "it drops an axis: keep it, and reshape"
    strides = item.data(3)
    if strides and strides == len(strides) // 4 * (1).to_bytes(4, "little"):
        return ""
    return "it steps over values, and XNNPACK cuts out whole blocks only"


def _options(item: Outsider) -> str:
    if item.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "SUB", "MUL", "MAX_POOL_2D") \
            and item.operator.fused_activation in ("TANH", "SIGN_BIT"):
        return f"{item.operator.fused_activation} is fused into it; XNNPACK fuses ReLU and its kin only"
    beta = item.option("beta")
    if item.name == "SOFTMAX" and beta not in (None, 1.0):
        return f"its beta is {beta:g}, and XNNPACK takes 1"
    if item.name in ("MAX_POOL_2D", "AVERAGE_POOL_2D") and item.option("strideH") is not None:
        stride = item.option("strideH"), item.option("strideW")
        window = item.option("filterHeight"), item.option("filterWidth")
        if stride[0] > window[0] or stride[1] > window[1]:
            return f"its stride {stride[0]}x{stride[1]} is larger than its window {window[0]}x{window[1]}"
    return ""


def _scales(item: Outsider) -> str:
    if item.dtype != "int8":
        return ""
    activations = [tensor for tensor in item.tensors if not tensor.is_constant and tensor.dtype == "int8"]
    if any(not tensor.scales for tensor in activations):
        return "an int8 tensor has no scale"
    limits = _SCALE_LIMITS.get(item.name)
    if limits and len(item.operator.inputs) == 2 and all(len(tensor.scales) == 1 for tensor in item.tensors):
        one, two, output = (tensor.scales[0] for tensor in item.tensors)
        ratios = [output / (one * two)] if item.name == "MUL" else [output / one, output / two]
        if not _within(ratios, limits):
            what = "the product of its inputs' scales" if item.name == "MUL" else "an input's scale"
            return f"its output's scale is {min(ratios):.2g} times {what}, which is beyond XNNPACK's limits"
    slope = item.option("alpha")
    if item.name == "LEAKY_RELU" and slope and all(len(tensor.scales) == 1 for tensor in item.tensors):
        ratio = item.tensors[0].scales[0] / item.tensors[1].scales[0]
        if not _within([ratio, abs(slope) * ratio], _LEAKY_LIMITS):
            return f"its input's scale is {ratio:.2g} times its output's at slope {slope:.2g}, beyond XNNPACK's limits"
    return ""


def _within(ratios: Collection[float], limits: tuple[float, float]) -> bool:
    return all(limits[0] < ratio <= limits[1] for ratio in ratios)


# The first that says something is believed: what it says holds of whatever follows it too.
RULES: tuple[Callable[[Outsider], str], ...] = (
    _foreign, _conversion, _never, _type, _float_only, _hybrid, _axes, _parts, _computed, _reshape, _slice, _options, _scales)
