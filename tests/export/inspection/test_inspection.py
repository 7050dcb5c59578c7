"""What is said of a file: ours, foreign ones, and damaged ones; and the rules that look at options and constants."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_lab.waiting import PATIENCE
from operator_files import converted, converted_together, outside, weights

from mnv3_tf.errors import InputError
from mnv3_tf.export.inspection import worker as inspection_worker
from mnv3_tf.export.inspection.inspect import INT8, examine, inspect_file
from mnv3_tf.tflite.delegate_rules import CONSTANTS, FLOAT_ONLY_RARE, NEVER_RARE, ONE_SCALE, reason
from mnv3_tf.tflite.file import operator_dtype


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime runs whole files in this process, which takes less than one of their own."""
    monkeypatch.setattr(inspection_worker, "_apart", inspection_worker.run_here)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("name", "kind", "partitions"), [
    ("plain_int8", INT8, 1), ("swish_int8", INT8, 3), ("plain_float32", "float32", 1),
    ("plain_float16", "float16 weights, computed in float32", 1), ("pixel_uint8", INT8, 1), ("pixel_float_io", INT8, 1)])
def test_kinds_and_partitions(files: dict[str, Path], name: str, kind: str, partitions: int) -> None:
    found = inspect_file(files[name])
    assert (found.kind, found.run.partitions) == (kind, partitions) and not found.run.refused


@pytest.mark.usefixtures("here")
def test_a_dynamic_range_file(files: dict[str, Path]) -> None:
    found = inspect_file(files["plain_dynamic"])
    assert found.kind.startswith("dynamic range (hybrid): 8-bit weights, computed in float")
    assert found.failures(["int8"])[0].startswith("it is dynamic range")


@pytest.mark.usefixtures("here")
def test_hard_swish_cuts_the_graph_and_is_named(files: dict[str, Path]) -> None:
    found = inspect_file(files["swish_int8"])
    assert [(item.name, item.dtype) for item in found.outside] == [("HARD_SWISH", "int8")] * 2
    assert all("float32 only" in item.reason and "--lowering xnnpack" in item.reason for item in found.outside)
    assert found.problems[0].startswith("3 XNNPACK partitions with 2 operators outside")
    failure, = found.failures(["int8", "one-partition"])
    assert failure.startswith("3 XNNPACK partitions instead of one; outside: HARD_SWISH")
    assert found.failures(["int8"]) == []


def test_our_file_is_what_is_required(files: dict[str, Path]) -> None:
    for name in ("plain_int8", "pixel_uint8", "pixel_float_io"):
        found = inspect_file(files[name])
        assert found.failures(["int8", "one-partition"]) == [] and found.problems == (), name


def with_float_part() -> bytes:
    """An int8 network with a float operation in its middle."""
    import tensorflow as tf

    from mnv3_tf.tflite.runtime import captured_stderr

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


@pytest.mark.usefixtures("here")
def test_a_float_island_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(with_float_part())
    found = inspect_file(tmp_path / "m.tflite")
    island, = found.islands
    assert island.operators == 1 and island.first.startswith("SIN (")
    assert found.kind == "int8 with float islands (1 operator)"
    assert any(line.startswith("float island of 1 operator, SIN") for line in found.problems)
    failures = found.failures(["int8"])
    assert any("not int8 throughout" in line for line in failures) and any("float island of 1" in line for line in failures)
    assert found.to_dict()["float_islands"][0]["operators"] == 1


def edited(content: bytes, change: Callable[[Any], None]) -> bytes:
    """A file after a change to what the schema unpacks of it."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


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


@pytest.mark.usefixtures("here")
def test_open_sizes(files: dict[str, Path]) -> None:
    found = inspect_file(files["open_batch"])
    assert found.to_dict()["dynamic_shapes"] is True
    assert any(line.startswith("open sizes (the input") for line in found.problems)


@pytest.mark.usefixtures("here")
def test_int16_activations(tmp_path: Path) -> None:
    import tensorflow as tf

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


@pytest.mark.slow
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
            found = examine(bytes(content), "m.tflite")
            found.to_dict(), found.failures(["int8", "one-partition"])
        except InputError as error:
            assert str(error).startswith("m.tflite: ") and "\n" not in str(error)


@pytest.mark.slow
def test_a_file_that_ends_the_runtime_is_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    """Bits in the structure are flipped: whatever the native runtime does, this process lives and says it in a line."""
    whole = files["plain_int8"].read_bytes()
    rng = random.Random(3)
    seen = 0
    while seen < 5:
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


def test_an_operator_with_broken_links_is_one_line(files: dict[str, Path]) -> None:
    def no_operands(model: Any) -> None:
        model.subgraphs[0].operators[0].inputs = []

    def no_such_tensor(model: Any) -> None:
        model.subgraphs[0].operators[0].outputs = [-7]

    whole = files["pixel_uint8"].read_bytes()
    for change, words in ((no_operands, "operator 0 QUANTIZE has 0 inputs"), (no_such_tensor, "a tensor that is not there")):
        with pytest.raises(InputError, match=words) as caught:
            examine(edited(whole, change), "m.tflite")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("script", "words"), [
    ("kill -SEGV $$", "signal 11, SIGSEGV"), ("kill -ABRT $$", "signal 6, SIGABRT"), ("exit 7", "exit code 7"),
    ("echo no answer", "exit code 0"), ("exec sleep 1000", "did not finish one run within 0 s")])
def test_whatever_becomes_of_the_child_is_one_line(script: str, words: str, files: dict[str, Path], tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child"
    child.write_text(f"#!/bin/sh\n{script}\n")
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    monkeypatch.setattr(inspection_worker, "_SECONDS", 0 if "sleep" in script else PATIENCE)
    found = inspect_file(files["plain_int8"])
    assert found.run.partitions is None and words in found.run.refused and "\n" not in found.run.refused
    assert found.problems[0] == found.run.refused and found.kind == INT8


def control_flow(kind: str) -> bytes:
    """A loop around a float operation or, in int8, around integer ones; and a branch."""
    import tensorflow as tf

    def network(x: Any) -> Any:
        _, y = tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, tf.nn.relu(y) + 1.0), (0, x))
        return tf.cond(tf.reduce_sum(y) > 0.0, lambda: tf.sin(y), lambda: y * 2.0)

    return converted(network, kind)


@pytest.mark.usefixtures("here")
def test_graphs_of_control_flow_count(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(control_flow("int8"))
    found = inspect_file(tmp_path / "m.tflite")
    assert len(found.file.graphs) == 5 and not found.run.refused
    names = {op.name for graph in found.file.others for op in graph.operators}
    assert {"RELU", "ADD", "SIN", "MUL"} <= names and not {"RELU", "SIN"} & {op.name for op in found.file.operators}
    # Seen from the main graph alone there is neither an integer operator in the loop nor the float one in the branch.
    assert found.kind.startswith("int8 with float islands (")
    assert any(island.first.startswith("SIN (") and island.graph.startswith("cond_true") for island in found.islands)
    assert any("is inside the graph 'while_body'" in line for line in found.conversions)
    reasons = {item.name: item.reason for item in found.outside}
    assert "runs other graphs" in reasons["WHILE"] and "runs other graphs" in reasons["IF"]
    facts = found.to_dict()["graphs"]
    assert [entry["operators"] for entry in facts] == [sum(row["count"] for row in entry["types"]) for entry in facts]
    assert examine(control_flow("float32")).kind == "float32"


def test_a_custom_operator_in_another_graph_is_seen() -> None:
    def make_custom(model: Any) -> None:
        number = next(graph for graph in model.subgraphs if graph.name == b"while_body").operators[0].opcodeIndex
        model.operatorCodes[number].builtinCode = model.operatorCodes[number].deprecatedBuiltinCode = 32
        model.operatorCodes[number].customCode = b"Strange"

    found = examine(edited(control_flow("float32"), make_custom))
    assert found.custom_operators == ["Strange"]


# Rules ----------------------------------------------------------------------------------------------------------------

def reasons(content: bytes, name: str) -> list[str]:
    """What is said of the operators of a name that the runtime leaves outside; it leaves at least one."""
    file, left = outside(content)
    found = [reason(file, op) for op in file.operators if op.index in left and op.name == name]
    assert found, [(op.name, op.index in left) for op in file.operators]
    return found


def taken(content: bytes, name: str) -> None:
    """XNNPACK runs every operator of a name, and there is one."""
    file, left = outside(content)
    mine = {op.index for op in file.operators if op.name == name}
    assert mine and not mine & left


def first(model: Any, name: str) -> Any:
    """The first operator of a name."""
    from ai_edge_litert import schema_py_generated as schema

    number = getattr(schema.BuiltinOperator, name)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return next(op for op in model.subgraphs[0].operators if codes[op.opcodeIndex] == number)


def rare() -> dict[str, Callable[[Any], Any]]:
    import tensorflow as tf

    return {
        "ADD_N": lambda x: tf.add_n([x, x, x]), "ARG_MIN": lambda x: tf.argmin(x, 3), "ATAN2": lambda x: tf.atan2(x, x + 1.0),
        "BATCH_TO_SPACE_ND": lambda x: tf.batch_to_space(tf.tile(x, [4, 1, 1, 1]), [2, 2], [[0, 0], [0, 0]]),
        "BROADCAST_TO": lambda x: tf.broadcast_to(x, [3, 8, 8, 4]), "COMPLEX_ABS": lambda x: tf.abs(tf.signal.rfft2d(x[..., 0])),
        "CONV_3D": lambda x: tf.nn.conv3d(x[..., None], weights(3, 3, 3, 1, 2), [1] * 5, "SAME"),
        "EQUAL": lambda x: tf.equal(x, 0.0), "FLOOR_DIV": lambda x: tf.math.floordiv(x, 2.0),
        "FLOOR_MOD": lambda x: tf.math.floormod(x, 2.0), "LESS": lambda x: x < 0.0,
        "LOGICAL_AND": lambda x: tf.logical_and(x > 0.0, x < 1.0), "MATRIX_DIAG": tf.linalg.diag,
        "PADV2": lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=1.0),
        "REDUCE_PROD": lambda x: tf.reduce_prod(x, [3]), "RELU_0_TO_1": lambda x: tf.maximum(0.0, tf.minimum(x, 1.0)),
        "RFFT2D": lambda x: tf.abs(tf.signal.rfft2d(x[..., 0])),
        "SCATTER_ND": lambda x: tf.scatter_nd([[1], [3]], x[0, 0, :2], [8, 4]),
        "SEGMENT_SUM": lambda x: tf.math.segment_sum(x[0], [0, 0, 0, 1, 1, 2, 2, 2]), "SIGN": tf.sign,
        "SPACE_TO_BATCH_ND": lambda x: tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]]),
        "SPLIT_V": lambda x: tf.split(x, [1, 3], 3), "UNIQUE": lambda x: tf.unique(tf.reshape(x, [256]))[0]}


@pytest.mark.slow
def test_rare_operators_are_what_the_runtime_does() -> None:
    import tensorflow as tf

    functions = rare()
    assert set(functions) == NEVER_RARE
    clipped = {"RELU_N1_TO_1": lambda x: tf.maximum(-1.0, tf.minimum(x, 1.0))}
    assert set(clipped) == FLOAT_ONLY_RARE
    floats = converted_together({**functions, **clipped}, "float32")
    for name in functions:
        assert set(reasons(floats[name], name)) == {"XNNPACK has no such operator"}, name
    for name, content in converted_together(clipped, "int8").items():
        taken(floats[name], name)
        assert set(reasons(content, name)) == {"XNNPACK has it for float32 only"}


def computed() -> dict[str, Callable[[Any], Any]]:
    """For each operator, a function where what is a constant elsewhere is computed."""
    import tensorflow as tf

    def kernel(x: Any, *shape: int) -> Any:
        return tf.reshape(tf.reduce_mean(x) * tf.ones([int(np.prod(shape))]), shape)

    def number(x: Any) -> Any:
        return tf.cast(tf.abs(x[0, 0, 0, 0]), tf.int32) % 3

    return {
        "CONV_2D": lambda x: tf.nn.conv2d(x, kernel(x, 3, 3, 4, 4), 1, "SAME"),
        "DEPTHWISE_CONV_2D": lambda x: tf.nn.depthwise_conv2d(x, kernel(x, 3, 3, 4, 1), [1] * 4, "SAME"),
        "FULLY_CONNECTED": lambda x: tf.matmul(tf.reshape(x, [64, 4]), tf.reshape(x, [4, 64])),
        "TRANSPOSE_CONV": lambda x: tf.nn.conv2d_transpose(x, kernel(x, 3, 3, 6, 4), [1, 16, 16, 6], 2, "SAME"),
        "RESHAPE": lambda x: tf.reshape(x, tf.stack([1 + 0 * number(x), 256])),
        "RESIZE_BILINEAR": lambda x: tf.image.resize(x, tf.stack([number(x) + 4, 8])),
        "PAD": lambda x: tf.pad(x, tf.stack([[0, 0], tf.stack([0, number(x)]), [0, 0], [0, 0]])),
        "TRANSPOSE": lambda x: tf.transpose(x, tf.math.top_k(x[0, 0, 0], 4)[1]), "MEAN": lambda x: tf.reduce_mean(x, number(x)),
        "SLICE": lambda x: tf.slice(x, tf.stack([0, number(x), 0, 0]), [1, 2, 8, 4]),
        "STRIDED_SLICE": lambda x: x[:, :number(x) + 1]}


@pytest.mark.slow
def test_what_must_be_constant() -> None:
    functions = computed()
    assert set(functions) == set(CONSTANTS)
    for name, content in converted_together(functions, "float32").items():
        words = f"{CONSTANTS[name][0]} computed, and XNNPACK takes constants"
        assert words in reasons(content, name), name


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_many_parts(kind: str) -> None:
    import tensorflow as tf

    def joined(parts: int) -> Callable[[Any], Any]:
        return lambda x: tf.concat([tf.reshape(x, [1, 8, 8, 4])] + [x * float(part + 2) for part in range(parts - 1)], 3)

    files = converted_together({"split 8": lambda x: tf.split(x, 8, 1), "split 4": lambda x: tf.split(x, 4, 1),
                                "joined 6": joined(6), "joined 5": joined(5)}, kind)
    assert reasons(files["split 8"], "SPLIT") == ["it has 8 parts, and XNNPACK takes at most 4"]
    taken(files["split 4"], "SPLIT")
    assert reasons(files["joined 6"], "CONCATENATION") == ["it has 6 parts, and XNNPACK takes at most 5"]
    taken(files["joined 5"], "CONCATENATION")


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_slices(kind: str) -> None:
    files = converted_together({
        "a row": lambda x: x[:, 0], "a channel": lambda x: x[..., 0], "steps": lambda x: x[:, ::2], "back": lambda x: x[:, ::-1],
        "some": lambda x: x[:, -3:-1]}, kind)

    def said(name: str) -> str:
        found, = reasons(files[name], "STRIDED_SLICE")
        return found

    assert said("a row").startswith("it drops an axis") and said("a channel").startswith("it drops an axis")
    assert said("steps").startswith("it steps over values")
    assert said("back").startswith("it steps over values")
    taken(files["some"], "STRIDED_SLICE")


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_reshapes(kind: str, files: dict[str, Path]) -> None:
    import tensorflow as tf

    files = converted_together({str(shape): lambda x, shape=shape: tf.reshape(x, shape)  # type: ignore[misc]
                                for shape in ([-1], [256], [1, -1], [-1, 4])}, kind)
    assert reasons(files["[-1]"], "RESHAPE")[0].startswith("its new shape is [-1] alone")
    for name in ("[256]", "[1, -1]", "[-1, 4]"):
        taken(files[name], "RESHAPE")


def scale_of_result(name: str, factor: float) -> Callable[[Any], None]:
    """A change of the scale of an operator's result, against that of what it takes."""
    def change(model: Any) -> None:
        tensors, operator = model.subgraphs[0].tensors, first(model, name)
        scale = tensors[operator.inputs[0]].quantization.scale[0]
        tensors[operator.outputs[0]].quantization.scale = np.array([scale * factor], np.float32)
    return change


def test_a_reshape_to_another_scale() -> None:
    import tensorflow as tf

    content = converted(lambda x: tf.reshape(x, [1, 256]), "int8")
    assert reasons(edited(content, scale_of_result("RESHAPE", 1.5)), "RESHAPE") == [
        "its result has another scale than what it takes"]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_operators_that_keep_a_scale_and_are_given_two(tmp_path: Path) -> None:
    """XNNPACK takes them and fails later, so that the file does not load with it."""
    import tensorflow as tf

    functions: dict[str, Callable[[Any], Any]] = {
        "MAX_POOL_2D": lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"), "PAD": lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]),
        "STRIDED_SLICE": lambda x: x[:, 1:5], "RESIZE_BILINEAR": lambda x: tf.image.resize(x, [16, 16]),
        "TRANSPOSE": lambda x: tf.transpose(x, [0, 2, 1, 3]), "CONCATENATION": lambda x: tf.concat([x, tf.sigmoid(x)], 3)}
    assert set(functions) == ONE_SCALE
    for name, content in converted_together(functions, "int8").items():
        (tmp_path / "m.tflite").write_bytes(edited(content, scale_of_result(name, 1.5)))
        found = inspect_file(tmp_path / "m.tflite")
        assert f" {name} and then fails to prepare it: its tensors have different scales" in found.run.refused, found.run


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_options(kind: str) -> None:
    import tensorflow as tf
    from ai_edge_litert import schema_py_generated as schema

    kernel, depthwise = weights(3, 3, 4, 4), weights(3, 3, 4, 1)
    other = [0, 2, 1, 3]
    functions: dict[str, Callable[[Any], Any]] = {
        "CONV_2D": lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"),
        "DEPTHWISE_CONV_2D": lambda x: tf.nn.depthwise_conv2d(x, depthwise, [1] * 4, "SAME"),
        "ADD": lambda x: x + tf.transpose(x, other), "SUB": lambda x: x - tf.transpose(x, other),
        "MUL": lambda x: x * tf.transpose(x, other), "MAX_POOL_2D": lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"),
        "wide": lambda x: tf.nn.max_pool2d(x, 2, 3, "SAME")}
    files = converted_together(functions, kind)
    wide = files.pop("wide")

    def fuse(name: str, activation: str) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            first(model, name).builtinOptions.fusedActivationFunction = getattr(schema.ActivationFunctionType, activation)
        return change

    for name, content in files.items():
        taken(edited(content, fuse(name, "RELU6")), name)
        for activation in ("TANH", "SIGN_BIT"):
            found = reasons(edited(content, fuse(name, activation)), name)
            assert found == [f"{activation} is fused into it; XNNPACK fuses ReLU and its kin only"], name
    assert reasons(wide, "MAX_POOL_2D") == ["its stride 3x3 is larger than its window 2x2"]


def test_options_of_float_operators() -> None:
    import tensorflow as tf

    def sharpen(model: Any) -> None:
        first(model, "SOFTMAX").builtinOptions.beta = 2.0

    files = converted_together({"softmax": tf.nn.softmax, "pool": lambda x: tf.nn.avg_pool2d(x, 1, 2, "VALID")}, "float32")
    taken(files["softmax"], "SOFTMAX")
    assert reasons(edited(files["softmax"], sharpen), "SOFTMAX") == ["its beta is 2, and XNNPACK takes 1"]
    assert reasons(files["pool"], "AVERAGE_POOL_2D") == [
        "its stride 2x2 is larger than its window 1x1"]


def test_scales_of_a_leaky_relu() -> None:
    import tensorflow as tf

    content = converted(lambda x: tf.nn.leaky_relu(x, 0.1), "int8")
    for factor in (2.0 ** -7, 1.0, 2.0 ** 4):
        taken(edited(content, scale_of_result("LEAKY_RELU", factor)), "LEAKY_RELU")
    for factor in (2.0 ** -7 * 0.99, 2.0 ** 5, 2.0 ** 9):
        said, = reasons(edited(content, scale_of_result("LEAKY_RELU", factor)), "LEAKY_RELU")
        assert "at slope 0.1, beyond XNNPACK's limits" in said


def test_other_types() -> None:
    import tensorflow as tf

    functions: dict[str, Callable[[Any], Any]] = {
        "int32 ADD": lambda x: tf.cast(x, tf.int32) + 1, "int64 ADD": lambda x: tf.cast(x, tf.int64) + 1,
        "int32 RESHAPE": lambda x: tf.reshape(tf.cast(x, tf.int32), [1, 256]),
        "bool REDUCE_ANY": lambda x: tf.reduce_any(x > 0.0, 3)}
    for what, content in converted_together(functions, "float32").items():
        dtype, name = what.split()
        assert reasons(content, name) == [f"it works on {dtype}, and XNNPACK takes float32 and 8-bit integers"], what


def test_a_custom_operator_that_the_runtime_knows(tmp_path: Path) -> None:
    from flatbuffers import flexbuffers

    options = flexbuffers.Dumps({"window_size": 16, "stride": 8, "magnitude_squared": True})

    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        graph.tensors[0].shape, graph.tensors[1].shape = [64, 1], [1, 7, 9]
        graph.operators[0].customOptions = list(options)

    (tmp_path / "m.tflite").write_bytes(edited(custom("AudioSpectrogram"), change))
    found = inspect_file(tmp_path / "m.tflite")
    assert found.run.refused == ""
    assert [item.reason for item in found.outside] == ["a custom operator, which XNNPACK does not know"]


@pytest.mark.parametrize("kind", ["int8", "dynamic", "float16"])
def test_what_experiments_showed_to_be_taken(kind: str) -> None:
    """Dilation, means over any axes, sizes that are open, weights of one scale: none of these is a reason."""
    import tensorflow as tf

    kernel = weights(3, 3, 4, 4)
    functions: dict[str, Callable[[Any], Any]] = {"dilated": lambda x: tf.nn.conv2d(x, kernel, 1, "SAME", dilations=2), **{
        str(axes): lambda x, axes=axes: tf.reduce_mean(x, axes) for axes in ([1], [3], [1, 2])}}  # type: ignore[misc]
    for name, content in converted_together(functions, kind).items():
        taken(content, "CONV_2D" if name == "dilated" else "MEAN")
    taken(converted(lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"), kind, (None, 8, 8, 4)), "CONV_2D")


def test_uint8_is_taken_as_int8_is() -> None:
    import tensorflow as tf
    from ai_edge_litert import schema_py_generated as schema

    def to_uint8(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            if tensor.type == schema.TensorType.INT8:
                tensor.type = schema.TensorType.UINT8
                tensor.quantization.zeroPoint = np.array(tensor.quantization.zeroPoint) + 128

    files = converted_together({"pool": lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"), "softmax": tf.nn.softmax}, "int8")
    taken(edited(files["pool"], to_uint8), "MAX_POOL_2D")
    content = edited(files["softmax"], to_uint8)
    file, _ = outside(content)
    assert operator_dtype(file, file.operators[0]) == "uint8"
    assert reasons(content, "SOFTMAX") == ["XNNPACK has it for float32 only"]
    assert examine(content).kind == "uint8 throughout"
