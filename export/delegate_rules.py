"""Why XNNPACK leaves an operator to the runtime's own kernels: rules found by running small files with the pinned runtime.

A test runs one file for each rule and compares what the runtime does with what the rule says.
"""

from mnv3_tf.export.tflite_file import CONVERSIONS, OperatorInfo, TfliteFile, operator_dtype

# XNNPACK has these for float32, and takes no int8 one.
FLOAT_ONLY = frozenset({
    "ABS", "AVERAGE_POOL_2D", "BATCH_MATMUL", "DIV", "EXP", "GELU", "HARD_SWISH", "LOG", "MAXIMUM", "MINIMUM", "RELU", "RELU6",
    "RSQRT", "SOFTMAX", "SQRT", "SQUARED_DIFFERENCE"})
# It takes these in no type.
NEVER = frozenset({
    "ARG_MAX", "CAST", "CUMSUM", "GATHER", "GATHER_ND", "GREATER", "L2_NORMALIZATION", "LOCAL_RESPONSE_NORMALIZATION",
    "LOG_SOFTMAX", "MIRROR_PAD", "ONE_HOT", "PACK", "POW", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "SELECT_V2", "TILE",
    "TOPK_V2", "UNPACK"})
_FUSED = {"RELU": "fuse it into the operator before it", "RELU6": "fuse it into the operator before it",
          "HARD_SWISH": "write it as x * relu6(x + 3) instead (mnv3 convert --lowering xnnpack)",
          "AVERAGE_POOL_2D": "use MEAN where it covers the whole picture"}
# What is measured of the output's scale: against one input's in an addition, against the product of both in a multiplication.
_SCALE_LIMITS = {"ADD": (2.0 ** -8, 2.0 ** 10), "SUB": (2.0 ** -8, 2.0 ** 10), "MUL": (2.0 ** -8, 2.0 ** 16)}
_MOST_AXES = 6
_OTHER_TYPES = frozenset({"int16", "int32", "int64", "bool", "string"})


def reason(file: TfliteFile, operator: OperatorInfo) -> str:
    """Why XNNPACK does not run an operator that the runtime left outside of it; "" where no rule knows."""
    if operator.is_flex:
        return "an operator of TensorFlow itself, which no delegate knows"
    if operator.is_custom:
        return "a custom operator, which no delegate knows"
    dtype = operator_dtype(file, operator)
    activations = [file.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0 and not file.tensors[i].is_constant]
    if operator.name in CONVERSIONS:
        return "XNNPACK has no conversion between uint8 and int8" if dtype in ("uint8->int8", "int8->uint8") else ""
    if operator.name in NEVER:
        return "XNNPACK has no such operator"
    # A second input of integers is a shape or a place, not what is computed on.
    worked_on = [file.tensors[i].dtype for i in (*operator.inputs[:1], *operator.outputs) if i >= 0]
    other = next((dtype for dtype in worked_on if dtype in _OTHER_TYPES), None)
    if other:
        return f"it works on {other}, and XNNPACK takes float32 and int8"
    if dtype in ("int8", "uint8") and operator.name in FLOAT_ONLY:
        remedy = f": {_FUSED[operator.name]}" if operator.name in _FUSED else ""
        return f"XNNPACK has it for float32 only{remedy}"
    if dtype == "hybrid" and operator.name == "DEPTHWISE_CONV_2D":
        return "XNNPACK takes no depthwise convolution with 8-bit weights and float32 activations"
    if dtype == "int8" and any(not tensor.scales for tensor in activations if tensor.dtype == "int8"):
        return "an int8 tensor has no scale"
    return _by_shape_and_scale(file, operator, dtype)


def _by_shape_and_scale(file: TfliteFile, operator: OperatorInfo, dtype: str) -> str:
    tensors = [file.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
    if any(len(tensor.shape) > _MOST_AXES for tensor in tensors):
        return f"a tensor has more than {_MOST_AXES} axes"
    second = file.tensors[operator.inputs[1]] if len(operator.inputs) > 1 and operator.inputs[1] >= 0 else None
    if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D") and second is not None and not second.is_constant:
        return "its weights are computed, and XNNPACK takes constants"
    if operator.name == "RESHAPE" and second is not None and not second.is_constant:
        return "its new shape is computed, and XNNPACK takes constants"
    if operator.name == "STRIDED_SLICE":
        return "it steps over values, and XNNPACK cuts out whole blocks only"
    limits = _SCALE_LIMITS.get(operator.name)
    if dtype == "int8" and limits and len(operator.inputs) == 2 and all(len(tensor.scales) == 1 for tensor in tensors):
        one, two, output = (tensor.scales[0] for tensor in tensors)
        ratios = [output / (one * two)] if operator.name == "MUL" else [output / one, output / two]
        if not all(limits[0] < ratio <= limits[1] for ratio in ratios):
            what = "the product of its inputs' scales" if operator.name == "MUL" else "an input's scale"
            return f"its output's scale is {min(ratios):.2g} times {what}, which is beyond XNNPACK's limits"
    return ""
