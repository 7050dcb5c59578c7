"""Reads a .tflite file: its tensors, operators, and what they say about how far the file is really quantized.

Needs neither TensorFlow nor a run of the model: the schema that ships with `ai_edge_litert` unpacks the flatbuffer, once.
What is read is the main graph (image classifiers have no other); :attr:`TfliteFile.others` has those of control flow and
signatures.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.files import read_bytes
from mnv3_tf.weights.formats.foreign import describe, no_model

IDENTIFIER = b"TFL3"
FLOAT_TYPES = frozenset({"float16", "float32", "float64", "bfloat16"})
CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
TFLITE_METADATA = "TFLITE_METADATA"
_NOTHING = np.zeros(0, np.uint8)


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
        data: of a constant, as bytes (uint8); empty for activations.
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
    data: np.ndarray = field(default_factory=lambda: _NOTHING, compare=False, repr=False)


@dataclass(frozen=True)
class OperatorInfo:
    """One operator, in order of execution. An optional input that is left out has the tensor index -1.

    `options` are its own, as the schema unpacks them, or None.
    """

    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    fused_activation: str
    is_custom: bool
    is_flex: bool
    options: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class TfliteFile:
    """What a .tflite file holds, or one of its graphs.

    Attributes:
        inputs, outputs: the graph's own, in the order of the file.
        name: of the graph.
        others: the file's other graphs; empty in each of these.
        signatures: names.
        metadata: name -> content of what the file carries beside the graphs.
    """

    path: str
    size_bytes: int
    sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    tensors: tuple[TensorInfo, ...]
    operators: tuple[OperatorInfo, ...]
    name: str = ""
    others: tuple["TfliteFile", ...] = ()
    signatures: tuple[str, ...] = ()
    metadata: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    @property
    def graphs(self) -> tuple["TfliteFile", ...]:
        """All graphs of the file, the main one first."""
        return self, *self.others

    def stored(self, index: int) -> TensorInfo:
        """The constant that a tensor is: itself, or what a DEQUANTIZE unpacks (weights stored as float16)."""
        return self.tensors[unpacked_constants(self).get(index, index)]

    def numbers(self, index: int) -> np.ndarray:
        """A constant as it is stored, in its shape.

        Raises:
            InputError: its bytes are not what its shape and type need.
        """
        tensor = self.stored(index)
        dtype, count = np.dtype(tensor.dtype).newbyteorder("<"), int(np.prod(tensor.shape))
        if len(tensor.data) != count * dtype.itemsize:
            raise InputError(f"{self.path}: tensor {tensor.index} ({tensor.name!r}) holds {len(tensor.data)} bytes where its "
                             f"shape {tensor.shape} of {tensor.dtype} needs {count * dtype.itemsize}; sparse or packed "
                             "constants are not read.")
        return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)

    def steps(self, index: int) -> np.ndarray | None:
        """The size of a quantization step of a constant, broadcast along its axes; None where it is not quantized."""
        tensor = self.stored(index)
        return _along(tensor, tensor.scales) if tensor.scales else None

    def real(self, index: int) -> np.ndarray:
        """A constant in real numbers, in its shape: float64 where it is quantized."""
        tensor, numbers = self.stored(index), self.numbers(index)
        zero_points = tensor.zero_points or (0,) * len(tensor.scales)
        return dequantize(numbers, _along(tensor, tensor.scales), _along(tensor, zero_points)) if tensor.scales else numbers


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
        found = describe(name) or no_model(content)
        reason = f"not a TFLite file, but {found}" if found else (
            "not a TFLite file (no TFL3 identifier at byte 4). Give a .tflite file; mnv3 convert makes one from a Keras model")
    raise InputError(f"{name}: {reason}.")


def read_tflite_bytes(path: str | Path) -> bytes:
    """Reads a file that should be a TFLite model; see :func:`check_tflite_bytes` for what is refused."""
    if Path(path).is_dir():
        what = describe(path)
        if what and not what.startswith(("a folder", "a run")):
            raise InputError(f"{path}: {what}.")
        raise InputError(f"{path}: this is a folder, not a TFLite file. Convert a run folder first with mnv3 convert, "
                         "and give the .tflite file.")
    content = read_bytes(path)
    check_tflite_bytes(path, content)
    return content


def read_tflite(path: str | Path) -> TfliteFile:
    """Reads a .tflite file.

    Raises:
        InputError: the file is missing, empty, truncated, corrupt, or of another kind; one line that names it.
    """
    return parse_tflite(read_tflite_bytes(path), name=path)


def parse_tflite(content: bytes, *, name: str | Path = "model") -> TfliteFile:
    """Like :func:`read_tflite`, for bytes; `name` is what errors call them."""
    check_tflite_bytes(name, content)
    try:
        model = unpack_model(content)
        data = [_data(buffer, content) for buffer in model.buffers]
        path, digest = str(name), hashlib.sha256(content).hexdigest()
        graphs = []
        for number, graph in enumerate(model.subgraphs):
            tensors = tuple(_tensor(index, tensor, data) for index, tensor in enumerate(graph.tensors))
            operators = tuple(_operator(index, operator, model.operatorCodes) for index, operator in enumerate(graph.operators))
            inputs, outputs = (tuple(tensors[i] for i in _integers(ends)) for ends in (graph.inputs, graph.outputs))
            graphs.append(TfliteFile(path, len(content), digest, inputs, outputs, tensors, operators,
                                     _text(graph.name) or f"graph {number}"))
        return replace(graphs[0], others=tuple(graphs[1:]),
                       signatures=tuple(_text(entry.signatureKey) for entry in model.signatureDefs or ()),
                       metadata={_text(entry.name): data[entry.buffer].tobytes() for entry in model.metadata or ()})
    except Exception as error:  # flatbuffers raises struct.error, ValueError, IndexError, TypeError and its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name}: the TFLite file is truncated or corrupt ({len(content)} bytes; {reason}). "
                         "Copy or convert it again.") from error


def unpack_model(content: bytes) -> Any:
    """A file as the schema's `ModelT`, for what changes it; every table and vector is unpacked, so a cut anywhere is met here."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(content, 0)


def dequantize(numbers: np.ndarray, scale: float | np.ndarray, zero_point: int | np.ndarray) -> np.ndarray:
    """A tensor in real numbers, float64; scale 0 says that it holds real numbers already, which come back as they are."""
    return numbers if np.all(scale == 0) else (numbers.astype(np.float64) - zero_point) * scale


def constants(file: TfliteFile) -> list[TensorInfo]:
    """The constant tensors; of several that share a buffer, the first."""
    seen: dict[int, TensorInfo] = {}
    for tensor in file.tensors:
        if tensor.is_constant:
            seen.setdefault(tensor.buffer, tensor)
    return list(seen.values())


def bytes_by_dtype(file: TfliteFile) -> dict[str, int]:
    """Bytes of constant data for each dtype, largest first; a buffer that several tensors share counts once.

    What is left of `size_bytes` is structure: names, options, quantization parameters, metadata.
    """
    totals: Counter[str] = Counter()
    for tensor in constants(file):
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


def _along(tensor: TensorInfo, values: Collection[float]) -> np.ndarray:
    """One value, or one for each channel, broadcast along a tensor's axes."""
    shape = [1] * len(tensor.shape)
    if len(values) > 1:
        shape[tensor.quantized_dimension] = len(values)
    return np.reshape(np.asarray(values, np.float64), shape)


def _data(buffer: Any, content: bytes) -> np.ndarray:
    """Bytes of a buffer, inside the flatbuffer or, in files above 2 GB, appended to it."""
    if buffer.data is not None and len(buffer.data):
        return np.asarray(buffer.data, np.uint8)
    if buffer.offset > 1:
        if buffer.offset + buffer.size > len(content):
            raise ValueError("a buffer ends beyond the file's end")
        return np.frombuffer(content, np.uint8, int(buffer.size), int(buffer.offset))
    return _NOTHING


def _tensor(index: int, tensor: Any, data: list[np.ndarray]) -> TensorInfo:
    own = data[tensor.buffer]
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
        buffer_bytes=len(own), buffer=int(tensor.buffer), is_constant=len(own) > 0, data=own)


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
        is_flex=is_custom and custom.startswith("Flex"), options=operator.builtinOptions)
