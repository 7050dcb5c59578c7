"""Reads a .tflite file: its tensors, operators, and what they say about how far the file is really quantized.

Needs neither TensorFlow nor a run of the model: the schema that ships with `ai_edge_litert` unpacks the flatbuffer.
The main subgraph is read unless another is asked for (image classifiers have no other); :attr:`TfliteFile.subgraph_count` says
when there are more.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv3_tf.errors import InputError
from mnv3_tf.files import read_bytes

IDENTIFIER = b"TFL3"
FLOAT_TYPES = frozenset({"float16", "float32", "float64", "bfloat16"})
CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the graph.

    Attributes:
        index: the tensor's number in the file; operators name tensors by it.
        shape: the shape that memory is planned for.
        shape_signature: the shape as converted; -1 where a size was left open.
        dtype: numpy's name of the type, such as "int8".
        scales: empty (not quantized), one (per tensor) or one for each channel.
        zero_points: as many as scales.
        quantized_dimension: the axis that `scales` runs along, when there are several.
        buffer_bytes: size of the constant data, 0 for activations.
        buffer: number of the buffer that holds the data; tensors may share one.
        is_constant: the data is in the file.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    quantized_dimension: int
    buffer_bytes: int
    buffer: int
    is_constant: bool


@dataclass(frozen=True)
class OperatorInfo:
    """One operator, in order of execution. An optional input that is left out has the tensor index -1."""

    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    fused_activation: str
    is_custom: bool
    is_flex: bool


@dataclass(frozen=True)
class TfliteFile:
    """What a .tflite file holds; `inputs` and `outputs` are the graph's own, in the order of the file."""

    path: str
    size_bytes: int
    sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    tensors: tuple[TensorInfo, ...]
    operators: tuple[OperatorInfo, ...]
    subgraph_count: int = 1


def check_tflite_bytes(name: str | Path, content: bytes) -> None:
    """Refuses what is recognizably no TFLite file.

    Raises:
        InputError: empty, a zip or .keras archive, HDF5, or without the identifier TFL3.
    """
    if not content:
        raise InputError(f"{name}: the file is empty (0 bytes), not a TFLite file. Convert the model again.")
    if content[4:8] == IDENTIFIER:
        return
    if content[:4] == b"PK\x03\x04" and Path(name).suffix == ".keras":
        reason = "this is a Keras model, not a TFLite file. Convert it first: mnv3 convert"
    elif content[:4] == b"PK\x03\x04":
        reason = "this is a zip archive, not a TFLite file. Unpack it and give the .tflite inside"
    elif content[:8] == b"\x89HDF\r\n\x1a\n":
        reason = "this is an HDF5 file (an old Keras model or weights), not a TFLite file. Convert it: mnv3 convert"
    else:
        reason = ("not a TFLite file (no TFL3 identifier at byte 4). Give a .tflite file; mnv3 convert makes one from "
                  "a Keras model")
    raise InputError(f"{name}: {reason}.")


def read_tflite_bytes(path: str | Path) -> bytes:
    """Reads a file that should be a TFLite model; see :func:`check_tflite_bytes` for what is refused."""
    if Path(path).is_dir():
        raise InputError(f"{path}: this is a folder, not a TFLite file. Convert a run folder first with mnv3 convert, "
                         "and give the .tflite file.")
    content = read_bytes(path)
    check_tflite_bytes(path, content)
    return content


def read_tflite(path: str | Path) -> TfliteFile:
    """Reads the structure of a .tflite file.

    Raises:
        InputError: the file is missing, empty, truncated, corrupt, or of another kind; one line that names it.
    """
    return parse_tflite(read_tflite_bytes(path), name=path)


def parse_tflite(content: bytes, *, name: str | Path = "model", subgraph: int = 0) -> TfliteFile:
    """Like :func:`read_tflite`, for bytes; `name` is what errors call them, `subgraph` which of the graphs is read."""
    from ai_edge_litert import schema_py_generated as schema

    check_tflite_bytes(name, content)
    try:
        # Unpacks every table and vector of the file, so a cut anywhere is met here.
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        graph = model.subgraphs[subgraph]
        sizes = [_buffer_bytes(buffer, len(content)) for buffer in model.buffers]
        tensors = tuple(_tensor(index, tensor, sizes) for index, tensor in enumerate(graph.tensors))
        operators = tuple(_operator(index, operator, model.operatorCodes)
                          for index, operator in enumerate(graph.operators))
        inputs = tuple(tensors[index] for index in _integers(graph.inputs))
        outputs = tuple(tensors[index] for index in _integers(graph.outputs))
    except Exception as error:  # flatbuffers raises struct.error, ValueError, IndexError, TypeError and its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name}: the TFLite file is truncated or corrupt ({len(content)} bytes; {reason}). "
                         "Copy or convert it again.") from error
    return TfliteFile(path=str(name), size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(),
                      inputs=inputs, outputs=outputs, tensors=tensors, operators=operators,
                      subgraph_count=len(model.subgraphs))


def constant_data(content: bytes) -> tuple[bytes, ...]:
    """The data of every buffer of a file that :func:`parse_tflite` reads, by the buffer's number; empty for activations."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return tuple(bytes(bytearray(buffer.data)) if buffer.data is not None else
                 content[buffer.offset:buffer.offset + buffer.size] if buffer.offset > 1 else b"" for buffer in model.buffers)


def operator_options(content: bytes, subgraph: int = 0) -> tuple[Any, ...]:
    """The options of every operator of a file that :func:`parse_tflite` reads, as the schema unpacks them; None without."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return tuple(operator.builtinOptions for operator in model.subgraphs[subgraph].operators)


def bytes_by_dtype(file: TfliteFile) -> dict[str, int]:
    """Bytes of constant data for each dtype, largest first; a buffer that several tensors share counts once.

    What is left of `size_bytes` is structure: names, options, quantization parameters, metadata.
    """
    seen: dict[int, TensorInfo] = {}
    for tensor in file.tensors:
        if tensor.is_constant:
            seen.setdefault(tensor.buffer, tensor)
    totals: Counter[str] = Counter()
    for tensor in seen.values():
        totals[tensor.dtype] += tensor.buffer_bytes
    return dict(totals.most_common())


def operator_dtype(file: TfliteFile, operator: OperatorInfo) -> str:
    """What an operator computes in: the dtype of its result, "hybrid", or "from->to" for QUANTIZE and DEQUANTIZE.

    "hybrid" is a float result with integer constant weights: dynamic-range quantization.
    """
    result = file.tensors[operator.outputs[0]].dtype if operator.outputs else "none"
    given = [file.tensors[index] for index in operator.inputs if index >= 0]
    if operator.name in CONVERSIONS and given:
        return f"{given[0].dtype}->{result}"
    if result in FLOAT_TYPES and any(tensor.is_constant and tensor.scales for tensor in given):
        return "hybrid"
    return result


def operator_counts(file: TfliteFile) -> dict[tuple[str, str], int]:
    """How often each (operator name, dtype as in :func:`operator_dtype`) occurs, most frequent first."""
    counts = Counter((operator.name, operator_dtype(file, operator)) for operator in file.operators)
    return dict(counts.most_common())


def float_operators(file: TfliteFile) -> tuple[OperatorInfo, ...]:
    """The operators that compute on float activations: none, in a file that is quantized throughout.

    QUANTIZE and DEQUANTIZE only convert and are not listed; see :func:`boundary_quantize_problems` for those.
    """
    def is_float(operator: OperatorInfo) -> bool:
        touched = [file.tensors[index] for index in (*operator.inputs, *operator.outputs) if index >= 0]
        return any(tensor.dtype in FLOAT_TYPES and not tensor.is_constant for tensor in touched)

    return tuple(operator for operator in file.operators if operator.name not in CONVERSIONS and is_float(operator))


def boundary_quantize_problems(file: TfliteFile, *, also_input: Collection[int] = (),
                               also_output: Collection[int] = ()) -> tuple[str, ...]:
    """One line for each QUANTIZE or DEQUANTIZE that is not directly at an input or output of the graph.

    Tensors in `also_input` and `also_output` count as inputs and outputs of the graph.

    Such an operator is a seam between integer and float, or a second scale for one tensor: the file is not integer
    throughout. Unpacking of constants (float16 weights) is storage and not listed.
    """
    inputs = {tensor.index for tensor in file.inputs}.union(also_input)
    outputs = {tensor.index for tensor in file.outputs}.union(also_output)
    problems = []
    for operator in file.operators:
        if operator.name not in CONVERSIONS or inputs & set(operator.inputs) or outputs & set(operator.outputs):
            continue
        source, result = file.tensors[operator.inputs[0]], file.tensors[operator.outputs[0]]
        if not source.is_constant:
            problems.append(f"operator {operator.index} {operator.name} ({source.dtype}->{result.dtype}) is inside the "
                            f"graph, after {source.name!r}")
    return tuple(problems)


def unpacked_constants(file: TfliteFile) -> dict[int, int]:
    """Tensors that a DEQUANTIZE makes from a constant (weights stored as float16) -> that constant."""
    return {operator.outputs[0]: operator.inputs[0] for operator in file.operators
            if operator.name == "DEQUANTIZE" and file.tensors[operator.inputs[0]].is_constant}


def float_front(file: TfliteFile) -> tuple[set[int], set[int]]:
    """What brings float32 pixels into the input's units, in front of the QUANTIZE: its tensors and its operations."""
    tensors = {tensor.index for tensor in file.inputs if tensor.dtype == "float32"}
    operations = set()
    constant = {tensor.index for tensor in file.tensors if tensor.is_constant}.union(unpacked_constants(file))
    for op in file.operators:
        variable = {i for i in op.inputs if i >= 0 and i not in constant}
        if op.name in ("SUB", "MUL", "ADD") and variable and variable <= tensors:
            operations.add(op.index)
            tensors.update(op.outputs)
    return tensors, operations


def has_dynamic_shapes(file: TfliteFile) -> bool:
    """Whether any tensor has a size that was left open (delegates refuse these)."""
    return any(size < 0 for tensor in file.tensors for size in tensor.shape_signature)


@functools.cache
def _names(enumeration: str) -> dict[int, str]:
    """Number -> name of an enumeration of the schema."""
    from ai_edge_litert import schema_py_generated as schema

    members = vars(getattr(schema, enumeration))
    return {value: name for name, value in members.items() if isinstance(value, int)}


def _integers(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", errors="replace")


def _buffer_bytes(buffer: Any, file_bytes: int) -> int:
    """Size of a buffer, inside the flatbuffer or, in files above 2 GB, appended to it."""
    if buffer.data is not None and len(buffer.data):
        return len(buffer.data)
    if buffer.offset > 1:
        if buffer.offset + buffer.size > file_bytes:
            raise ValueError("a buffer ends beyond the file's end")
        return int(buffer.size)
    return 0


def _tensor(index: int, tensor: Any, sizes: list[int]) -> TensorInfo:
    shape = _integers(tensor.shape)
    signature = _integers(tensor.shapeSignature)
    quantization = tensor.quantization
    scales = () if quantization is None or quantization.scale is None else tuple(map(float, quantization.scale))
    zero_points = () if quantization is None else _integers(quantization.zeroPoint)
    return TensorInfo(
        index=index, name=_text(tensor.name), shape=shape, shape_signature=signature or shape,
        dtype=_names("TensorType").get(tensor.type, f"type {tensor.type}").lower(), scales=scales,
        zero_points=zero_points if scales else (),
        quantized_dimension=0 if quantization is None else int(quantization.quantizedDimension),
        buffer_bytes=sizes[tensor.buffer], buffer=int(tensor.buffer), is_constant=sizes[tensor.buffer] > 0)


def _operator(index: int, operator: Any, codes: list[Any]) -> OperatorInfo:
    code = codes[operator.opcodeIndex]
    # Files written before the enumeration outgrew one byte hold the number in the older field.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    custom = _text(code.customCode)
    is_custom = _names("BuiltinOperator").get(number) == "CUSTOM"
    activation = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
    return OperatorInfo(
        index=index, name=custom if is_custom else _names("BuiltinOperator").get(number, f"BUILTIN_{number}"),
        version=int(code.version), inputs=_integers(operator.inputs), outputs=_integers(operator.outputs),
        fused_activation=_names("ActivationFunctionType").get(activation, str(activation)), is_custom=is_custom,
        is_flex=is_custom and custom.startswith("Flex"))
