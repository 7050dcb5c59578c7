"""What is said of a file: ours, foreign ones, and damaged ones."""

import random
from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.errors import InputError
from mnv3_tf.export.inspection import INT8, examine, inspect_file


@pytest.mark.parametrize(("name", "kind", "partitions"), [
    ("plain_int8", INT8, 1), ("swish_int8", INT8, 3), ("plain_float32", "float32", 1),
    ("plain_float16", "float16 weights, computed in float32", 1), ("pixel_uint8", INT8, 1), ("pixel_float_io", INT8, 1)])
def test_kinds_and_partitions(files: dict[str, Path], name: str, kind: str, partitions: int) -> None:
    found = inspect_file(files[name])
    assert (found.kind, found.run.partitions) == (kind, partitions) and not found.run.refused


def test_a_dynamic_range_file(files: dict[str, Path]) -> None:
    found = inspect_file(files["plain_dynamic"])
    assert found.kind.startswith("dynamic range: 8-bit weights, computed in float")
    assert found.failures(["int8"])[0].startswith("it is dynamic range")


def test_hard_swish_cuts_the_graph_and_is_named(files: dict[str, Path]) -> None:
    found = inspect_file(files["swish_int8"])
    assert [(item.name, item.dtype) for item in found.outside] == [("HARD_SWISH", "int8")] * 2
    assert all("float32 only" in item.reason and "--lowering xnnpack" in item.reason for item in found.outside)
    assert found.problems[0].startswith("3 XNNPACK partitions with 2 operators outside")
    failure, = found.failures(["int8", "one-partition"])
    assert failure.startswith("3 XNNPACK partitions instead of one; outside: HARD_SWISH")


def test_our_file_is_what_is_required(files: dict[str, Path]) -> None:
    for name in ("plain_int8", "pixel_uint8", "pixel_float_io"):
        found = inspect_file(files[name])
        assert found.failures(["int8", "one-partition"]) == [] and found.problems == (), name


def with_float_part() -> bytes:
    """An int8 network with a float operation in its middle."""
    import tensorflow as tf

    from mnv3_tf.export.runtime import captured_stderr

    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype(np.float32))
    kernel2 = tf.constant(np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32))

    def network(x):
        x = tf.quantization.fake_quant_with_min_max_vars(x, -3.0, 3.0)
        x = tf.quantization.fake_quant_with_min_max_vars(tf.nn.conv2d(x, kernel, 1, "SAME"), -9.0, 9.0)
        other = tf.quantization.fake_quant_with_min_max_vars(tf.sin(x), -5.0, 4.0)
        y = tf.quantization.fake_quant_with_min_max_vars(tf.nn.conv2d(other, kernel2, 1, "SAME"), -20.0, 20.0)
        return tf.quantization.fake_quant_with_min_max_vars(x + y, -25.0, 25.0)

    call = tf.function(network).get_concrete_function(tf.TensorSpec((1, 8, 8, 4), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with captured_stderr(lambda line: True):
        return bytes(converter.convert())


def test_a_float_island_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(with_float_part())
    found = inspect_file(tmp_path / "m.tflite")
    island, = found.islands
    assert island.operators == 1 and island.first.startswith("SIN (")
    assert found.kind == "int8 with 1 float operator"
    assert any(line.startswith("float island of 1 operator, SIN") for line in found.problems)
    assert any("not int8 throughout" in line for line in found.failures(["int8"]))
    assert found.to_dict()["float_islands"][0]["operators"] == 1


def with_stray_conversion(content: bytes) -> bytes:
    """The file with a change of scale between its first two operators."""
    import copy

    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    made = int(graph.operators[0].outputs[0])
    tensor = copy.deepcopy(graph.tensors[made])
    tensor.quantization.scale = tensor.quantization.scale * np.float32(1.5)
    tensor.name = b"other scale"
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    code.version = 2
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = len(model.operatorCodes), [made], [len(graph.tensors)]
    graph.operators[1].inputs = [len(graph.tensors), *graph.operators[1].inputs[1:]]
    graph.tensors.append(tensor)
    model.operatorCodes.append(code)
    graph.operators.insert(1, operator)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_stray_conversion_is_named(files: dict[str, Path]) -> None:
    found = examine(with_stray_conversion(files["plain_int8"].read_bytes()))
    assert found.islands == () and any(line.startswith("stray conversion: operator") for line in found.problems)
    assert any("QUANTIZE (int8->int8) is inside the graph" in line for line in found.failures(["int8"]))


def test_open_sizes(files: dict[str, Path]) -> None:
    found = inspect_file(files["open_batch"])
    assert found.to_dict()["dynamic_shapes"] is True
    assert any(line.startswith("open sizes (the input") for line in found.problems)


def test_int16_activations(tmp_path: Path) -> None:
    import tensorflow as tf
    from test_delegate_rules import converted

    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32))
    (tmp_path / "m.tflite").write_bytes(converted(lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"), "int16"))
    found = inspect_file(tmp_path / "m.tflite")
    assert found.kind == "int16 activations, 8-bit weights" and found.run.partitions == 0
    assert found.problems[0].startswith("XNNPACK takes nothing of it")


def custom(name: str) -> bytes:
    """A file whose only operator is custom."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version = 3
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = name.encode(), 1
    operator = schema.OperatorT()
    operator.inputs, operator.outputs, operator.customOptions = [0], [1], [0]
    graph = schema.SubGraphT()
    graph.tensors = []
    for label in (b"in", b"out"):
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer, tensor.name = [1, 4], schema.TensorType.FLOAT32, 0, label
        graph.tensors.append(tensor)
    graph.inputs, graph.outputs, graph.operators, graph.name = [0], [1], [operator], b"main"
    model.operatorCodes, model.subgraphs, model.buffers = [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(("name", "words"), [
    ("MyOperator", "the custom operator MyOperator is unknown to the runtime: the app must register it"),
    ("FlexErf", "convert without SELECT_TF_OPS")])
def test_an_operator_that_the_runtime_does_not_know(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(custom(name))
    found = inspect_file(tmp_path / "m.tflite")
    assert words in found.run.refused and found.run.partitions is None and "\n" not in found.run.refused
    assert found.to_dict()["custom_operators"] == [name]
    assert any("the runtime refuses it" in line for line in found.failures(["one-partition"]))


def test_a_quantized_file_that_is_not_smaller(files: dict[str, Path]) -> None:
    """Its weights are int8, and a table of float32 beside them takes the bytes."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(files["plain_int8"].read_bytes(), 0)
    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.zeros(400_000, np.uint8)
    tensor.shape, tensor.type, tensor.name, tensor.buffer = [100_000], schema.TensorType.FLOAT32, b"unused", len(model.buffers)
    model.buffers.append(buffer)
    model.subgraphs[0].tensors.append(tensor)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    found = examine(bytes(builder.Output()))
    assert any("only 1.0 times smaller than as float32: most bytes are float32" in line for line in found.problems)
    assert examine(files["plain_int8"].read_bytes()).problems == ()


def test_damaged_files_are_one_line_and_never_a_traceback(files: dict[str, Path]) -> None:
    whole = files["plain_int8"].read_bytes()
    rng = random.Random(0)
    for cut in sorted(rng.randrange(len(whole)) for _ in range(60)):
        with pytest.raises(InputError, match=r"^m\.tflite: ") as caught:
            examine(whole[:cut], "m.tflite")
        assert "\n" not in str(caught.value)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 4, 32))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        try:
            examine(bytes(content), "m.tflite").to_dict()
        except InputError as error:
            assert str(error).startswith("m.tflite: ") and "\n" not in str(error)


def test_a_file_that_ends_the_runtime_is_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    """Bits in the structure are flipped: whatever the native runtime does, this process lives and says it in a line."""
    whole = files["plain_int8"].read_bytes()
    rng = random.Random(3)
    seen = 0
    while seen < 8:
        content = bytearray(whole)
        for _ in range(12):
            content[rng.randrange(len(content) // 2, len(content))] ^= 1 << rng.randrange(8)
        (tmp_path / "m.tflite").write_bytes(content)
        try:
            found = inspect_file(tmp_path / "m.tflite")
        except InputError:
            continue
        seen += 1
        assert "\n" not in found.run.refused and (found.run.partitions is None) == bool(found.run.refused)
