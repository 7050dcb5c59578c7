"""Every rule beside the runtime: small files of one operator each, and what XNNPACK really does with them."""

from typing import Any

import numpy as np
import pytest
from operator_files import Function, converted, converted_together, outside, weights

from mnv3_tf.tflite.delegate_rules import FLOAT_ONLY, NEVER, reason
from mnv3_tf.tflite.file import operator_dtype, parse_tflite


def operators() -> dict[str, Function]:
    """For each operator that the tables name, a function that becomes it."""
    import tensorflow as tf

    def hard_swish(x: Any) -> Any:
        return x * tf.nn.relu6(x + 3) * (1 / 6)

    return {
        "ABS": tf.abs, "AVERAGE_POOL_2D": lambda x: tf.nn.avg_pool2d(x, 2, 2, "SAME"),
        "BATCH_MATMUL": lambda x: tf.matmul(tf.reshape(x, [1, 64, 4]), tf.reshape(x, [1, 4, 64])),
        "DIV": lambda x: x / (tf.nn.relu(x) + 1.0), "EXP": tf.exp, "GELU": tf.nn.gelu, "HARD_SWISH": hard_swish,
        "LOG": lambda x: tf.math.log(tf.abs(x) + 1.0), "MAXIMUM": lambda x: tf.maximum(x, 0.5),
        "MINIMUM": lambda x: tf.minimum(x, 0.5), "RELU": tf.nn.relu, "RELU6": tf.nn.relu6,
        "RSQRT": lambda x: tf.math.rsqrt(tf.abs(x) + 1.0), "SOFTMAX": tf.nn.softmax, "SQRT": lambda x: tf.sqrt(tf.abs(x)),
        "SQUARED_DIFFERENCE": lambda x: tf.math.squared_difference(x, tf.nn.relu(x)),
        "ARG_MAX": lambda x: tf.argmax(x, 3), "CAST": lambda x: tf.cast(tf.cast(x, tf.int32), tf.float32),
        "CUMSUM": lambda x: tf.cumsum(x, 1), "GATHER": lambda x: tf.gather(x, [0, 2], axis=3),
        "GATHER_ND": lambda x: tf.gather_nd(x, [[0, 1]]), "GREATER": lambda x: tf.where(x > 0.0, x, tf.zeros_like(x)),
        "L2_NORMALIZATION": lambda x: tf.nn.l2_normalize(x, 3), "LOCAL_RESPONSE_NORMALIZATION": tf.nn.lrn,
        "LOG_SOFTMAX": tf.nn.log_softmax, "MIRROR_PAD": lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT"),
        "ONE_HOT": lambda x: tf.one_hot(tf.cast(x[0, 0, :, 0], tf.int32), 4), "PACK": lambda x: tf.stack([x, x], 0),
        "POW": lambda x: tf.pow(tf.abs(x) + 1.0, 2.5),
        "RESIZE_NEAREST_NEIGHBOR": lambda x: tf.image.resize(x, [16, 16], "nearest"), "REVERSE_V2": lambda x: tf.reverse(x, [1]),
        "SELECT_V2": lambda x: tf.where(x > 0.0, x, tf.zeros_like(x)), "TILE": lambda x: tf.tile(x, [1, 2, 1, 1]),
        "TOPK_V2": lambda x: tf.math.top_k(x, 2)[0], "UNPACK": lambda x: tf.unstack(x, axis=3)}


@pytest.mark.slow
def test_the_tables_are_what_the_runtime_does() -> None:
    functions = operators()
    assert set(functions) == FLOAT_ONLY | NEVER
    floats = converted_together(functions, "float32")
    integers = converted_together({name: functions[name] for name in FLOAT_ONLY}, "int8")
    for name in functions:
        file, left = outside(floats[name])
        mine = {op.index for op in file.operators if op.name == name}
        assert mine, name
        assert mine <= left if name in NEVER else not mine & left, name
        if name in FLOAT_ONLY:
            file, left = outside(integers[name])
            mine = {op.index for op in file.operators if op.name == name and operator_dtype(file, op) == "int8"}
            assert mine and mine <= left, name
        for op in file.operators:
            if op.index in mine:
                said = reason(file, op)
                assert said == "XNNPACK has no such operator" if name in NEVER else "float32 only" in said, name


def check(content: bytes, name: str, words: str) -> None:
    """An operator is outside, and the rule says why."""
    file, left = outside(content)
    found = [reason(file, op) for op in file.operators if op.index in left and op.name == name]
    assert found, [(op.name, op.index in left) for op in file.operators]
    assert all(words in line for line in found), found


def test_int16_activations() -> None:
    import tensorflow as tf

    kernel = weights(3, 3, 4, 4)
    check(converted(lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"), "int16"), "CONV_2D", "works on int16")


def test_hybrid_depthwise_convolution() -> None:
    import tensorflow as tf

    depthwise, kernel = weights(5, 5, 64, 1), weights(3, 3, 64, 64)
    files = converted_together({"depthwise": lambda x: tf.nn.depthwise_conv2d(x, depthwise, [1, 1, 1, 1], "SAME"),
                                "plain": lambda x: tf.nn.conv2d(x, kernel, 1, "SAME")}, "dynamic", (1, 8, 8, 64))
    check(files["depthwise"], "DEPTHWISE_CONV_2D", "8-bit weights and float32 activations")
    # A plain convolution of that kind is taken.
    assert outside(files["plain"])[1] == set()


def test_computed_weights_shapes_and_many_axes() -> None:
    import tensorflow as tf

    def own_kernel(x: Any) -> Any:
        return tf.nn.conv2d(x, tf.reshape(tf.reduce_mean(x) * tf.ones([144]), [3, 3, 4, 4]), 1, "SAME")

    floats = converted_together({"kernel": own_kernel, "axes": lambda x: tf.reshape(x, [1, 2, 2, 2, 2, 2, 8])}, "float32")
    check(floats["kernel"], "CONV_2D", "its weights are computed")
    check(floats["axes"], "RESHAPE", "more than 6 axes")
    content = converted(lambda x: tf.reshape(x, [tf.shape(x)[0], 256]), "float32", (None, 8, 8, 4))
    check(content, "RESHAPE", "its new shape is computed")
    check(content, "SHAPE", "works on int32")


def test_steps() -> None:
    files = converted_together({"steps": lambda x: x[:, ::2], "slice": lambda x: x[:, 1:5]}, "int8")
    check(files["steps"], "STRIDED_SLICE", "steps over values")
    assert outside(files["slice"])[1] == set()


def test_bytes_of_the_other_sign(files) -> None:
    check(files["pixel_uint8"].read_bytes(), "QUANTIZE", "no conversion between uint8 and int8")


def scaled(content: bytes, name: str, factor: float) -> bytes:
    """The file with another scale at the output of an operator: `factor` times the first input's, or the product for MUL."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    index = next(op.index for op in parse_tflite(content).operators if op.name == name)
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    tensors, operator = model.subgraphs[0].tensors, model.subgraphs[0].operators[index]
    base = tensors[operator.inputs[0]].quantization.scale[0]
    if name == "MUL":
        base = base * tensors[operator.inputs[1]].quantization.scale[0]
    tensors[operator.outputs[0]].quantization.scale = np.array([base * factor], np.float32)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.fixture(scope="module")
def sums() -> dict[str, bytes]:
    """Additions, subtractions and multiplications in int8."""
    import tensorflow as tf

    def turned(x: Any) -> Any:
        return tf.transpose(x, [0, 2, 1, 3])

    return converted_together({"ADD": lambda x: x + turned(x), "SUB": lambda x: x - turned(x), "MUL": lambda x: x * turned(x)},
                              "int8")


@pytest.mark.parametrize(("name", "beyond", "within"), [("ADD", 2.0 ** -9, 2.0 ** -6), ("SUB", 2.0 ** -9, 2.0 ** -6),
                                                        ("ADD", 2.0 ** 11, 2.0 ** 9), ("SUB", 2.0 ** 11, 2.0 ** 9),
                                                        ("MUL", 2.0 ** -9, 2.0 ** -7), ("MUL", 2.0 ** 17, 2.0 ** 15)])
def test_scales_beyond_the_limits(name: str, beyond: float, within: float, sums: dict[str, bytes]) -> None:
    check(scaled(sums[name], name, beyond), name, "beyond XNNPACK's limits")
    assert outside(scaled(sums[name], name, within))[1] == set()
