"""What any `.tflite` file is: what it computes in, where float islands lie, and what XNNPACK leaves to slower kernels."""

import json
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mnv3_tf.data.samples import counted
from mnv3_tf.errors import InputError
from mnv3_tf.export.delegate_rules import reason
from mnv3_tf.export.tflite_file import (
    CONVERSIONS,
    FLOAT_TYPES,
    OperatorInfo,
    TensorInfo,
    TfliteFile,
    boundary_quantize_problems,
    bytes_by_dtype,
    float_front,
    float_operators,
    has_dynamic_shapes,
    operator_counts,
    operator_dtype,
    parse_tflite,
    read_tflite_bytes,
    unpacked_constants,
)

Requirement = Literal["int8", "one-partition"]
INT8 = "int8 throughout"
_SECONDS = 120
_SMALLER = 1.5
# Operators that move values without computing: their type is that of what they move.
_INTEGERS = frozenset({"int32", "int64", "bool", "none", "uint32", "string", "resource"})


@dataclass(frozen=True)
class Island:
    """Operators that compute in float and hang together, in a file that mostly computes in integers.

    Attributes:
        operators: how many.
        first, last: "NAME (number)" of the first and last of them.
        tensor: what the first makes.
    """

    operators: int
    first: str
    last: str
    tensor: str


@dataclass(frozen=True)
class Outside:
    """An operator that the runtime runs outside of the delegate.

    Attributes:
        index: its number in the file.
        name, dtype: as in :func:`mnv3_tf.export.tflite_file.operator_counts`.
        tensor: what it makes.
        reason: why the delegate does not take it, or "not known".
    """

    index: int
    name: str
    dtype: str
    tensor: str
    reason: str


@dataclass(frozen=True)
class Run:
    """What the runtime does with a file.

    Attributes:
        refused: why it cannot run it, or "".
        partitions: parts that XNNPACK runs; None where refused.
        outside: numbers of the operators that it leaves.
    """

    refused: str
    partitions: int | None
    outside: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """What was found. The main graph is looked at; others are counted.

    Attributes:
        file: its structure.
        kind: what it computes in, in words; :data:`INT8` is the form that this kit makes.
        run: on this machine's runtime.
        outside: operators that XNNPACK leaves, with reasons.
        islands: of float, in a file that computes in integers too.
        problems: what a person should mend, a line each.
        graphs: (name, operators) of all graphs.
        signatures: names.
        metadata: names of what the file carries beside the graph.
        constant_bytes: by dtype.
        float32_bytes: that the same constants take as float32.
    """

    file: TfliteFile
    kind: str
    run: Run
    outside: tuple[Outside, ...]
    islands: tuple[Island, ...]
    problems: tuple[str, ...]
    graphs: tuple[tuple[str, int], ...]
    signatures: tuple[str, ...]
    metadata: tuple[str, ...]
    constant_bytes: dict[str, int]
    float32_bytes: int

    def failures(self, requirements: Iterable[Requirement]) -> list[str]:
        """What keeps the file from being what is required."""
        found: list[str] = []
        for requirement in requirements:
            if requirement == "int8":
                found += [f"it is {self.kind}, not {INT8}"] if self.kind != INT8 else []
                found += self._conversions()
                found += ["it has open sizes, which delegates refuse"] if has_dynamic_shapes(self.file) else []
            if self.run.refused:
                found.append(f"the runtime refuses it: {self.run.refused}")
                continue
            inside = [f"{item.name} ({item.reason})" for item in self.outside if not self._is_at_border(item)]
            if self.run.partitions != 1 or inside:
                found.append(f"{counted(self.run.partitions or 0, 'XNNPACK partition')} instead of one"
                             + (f"; outside: {', '.join(list(dict.fromkeys(inside))[:5])}" if inside else ""))
        return list(dict.fromkeys(found))

    def _conversions(self) -> list[str]:
        front, _ = float_front(self.file)
        return list(boundary_quantize_problems(self.file, also_input=front))

    def _is_at_border(self, item: Outside) -> bool:
        """A change between uint8 and int8 at the very end costs nothing that counts."""
        operator = self.file.operators[item.index]
        ends = {tensor.index for tensor in (*self.file.inputs, *self.file.outputs)}
        return item.name == "QUANTIZE" and bool(ends.intersection((*operator.inputs, *operator.outputs)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "file": self.file.path, "size_bytes": self.file.size_bytes, "sha256": self.file.sha256, "kind": self.kind,
            "partitions": self.run.partitions, "refused": self.run.refused or None, "problems": list(self.problems),
            "inputs": [_tensor_facts(tensor) for tensor in self.file.inputs],
            "outputs": [_tensor_facts(tensor) for tensor in self.file.outputs],
            "operators": [{"name": name, "dtype": dtype, "count": count}
                          for (name, dtype), count in operator_counts(self.file).items()],
            "outside": [asdict(item) for item in self.outside], "float_islands": [asdict(island) for island in self.islands],
            "stray_conversions": self._conversions(), "dynamic_shapes": has_dynamic_shapes(self.file),
            "custom_operators": sorted({op.name for op in self.file.operators if op.is_custom}),
            "constant_bytes": self.constant_bytes, "float32_bytes": self.float32_bytes,
            "graphs": [{"name": name, "operators": count} for name, count in self.graphs], "signatures": list(self.signatures),
            "metadata": list(self.metadata)}


def inspect_file(path: str | Path, *, threads: int = 1) -> Inspection:
    """Looks at a file, and lets the runtime load and run it once in a process of its own.

    Args:
        path: any `.tflite` file.
        threads: of the runtime.

    Raises:
        InputError: the file is missing, empty, truncated, corrupt, or of another kind.
    """
    content = read_tflite_bytes(path)
    structure = examine(content, path)
    run = _run(content, threads)
    outside = tuple(_outside(structure.file, index) for index in run.outside if index < len(structure.file.operators))
    problems = (*_run_problems(structure.file, run, outside), *structure.problems)
    return replace(structure, run=run, outside=outside, problems=problems)


def examine(content: bytes, name: str | Path = "model") -> Inspection:
    """The structure of a file alone; nothing is run.

    Raises:
        InputError: as :func:`inspect_file`.
    """
    file = parse_tflite(content, name=name)
    try:
        graphs, signatures, metadata = _beside(content, file)
        kind, islands = kind_of(file), _islands(file)
        constants = bytes_by_dtype(file)
        as_float = sum(4 * math.prod(tensor.shape) for tensor in _constants(file) if tensor.dtype not in ("string", "resource"))
        return Inspection(file, kind, Run("", None, ()), (), islands, tuple(_problems(file, kind, islands, constants, as_float)),
                          graphs, signatures, metadata, constants, as_float)
    except (ValueError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{name}: the TFLite file is corrupt ({str(error).splitlines()[0] if str(error) else 'broken links'}). "
                         "Copy or convert it again.") from error


def _beside(content: bytes, file: TfliteFile) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...], tuple[str, ...]]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)

    def text(value: Any) -> str:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")

    graphs = tuple((text(graph.name) or f"graph {number}", len(graph.operators if graph.operators is not None else ()))
                   for number, graph in enumerate(model.subgraphs))
    return graphs, tuple(text(entry.signatureKey) for entry in model.signatureDefs or ()), \
        tuple(text(entry.name) for entry in model.metadata or ())


def _constants(file: TfliteFile) -> list[TensorInfo]:
    """Constant tensors, one for each buffer."""
    return list({tensor.buffer: tensor for tensor in file.tensors if tensor.is_constant}.values())


def kind_of(file: TfliteFile) -> str:
    """What a file computes in, in words."""
    _, units = float_front(file)
    computing = [op for op in file.operators if op.name not in CONVERSIONS and op.index not in units]
    types = Counter(_computes_in(file, op) for op in computing)
    types = Counter({dtype: count for dtype, count in types.items() if dtype not in _INTEGERS})
    floats = sum(count for dtype, count in types.items() if dtype in FLOAT_TYPES)
    stored = {file.tensors[i].dtype for i in unpacked_constants(file).values()}
    integers = sorted(set(types) & {"int8", "uint8", "int16"})
    if not types:
        return "without computing operators"
    if types["hybrid"]:
        rest = f", with {' and '.join(integers)} operators too" if integers else ""
        return f"dynamic range: 8-bit weights, computed in float{rest}"
    if not integers:
        return "float16 weights, computed in float32" if "float16" in stored else " and ".join(sorted(set(types) & FLOAT_TYPES))
    if floats:
        return f"{' and '.join(integers)} with {counted(floats, 'float operator')}"
    if len(integers) > 1:
        return f"mixed integers ({', '.join(integers)})"
    return {"int8": INT8, "uint8": "uint8 throughout", "int16": "int16 activations, 8-bit weights"}[integers[0]]


def _computes_in(file: TfliteFile, operator: OperatorInfo) -> str:
    """As :func:`operator_dtype`; an operator that gives an index or a truth counts by what it takes."""
    found = operator_dtype(file, operator)
    if found in _INTEGERS:
        given = [file.tensors[i].dtype for i in operator.inputs if i >= 0 and not file.tensors[i].is_constant]
        return given[0] if given else found
    return found


def _islands(file: TfliteFile) -> tuple[Island, ...]:
    """Groups of float operators that share float tensors, where the file computes in integers too."""
    if not any(op.name not in CONVERSIONS and operator_dtype(file, op) in ("int8", "uint8", "int16") for op in file.operators):
        return ()
    _, units = float_front(file)
    groups: list[tuple[set[int], list[OperatorInfo]]] = []
    for op in float_operators(file):
        if op.index in units:
            continue
        touched = {i for i in (*op.inputs, *op.outputs) if i >= 0 and file.tensors[i].dtype in FLOAT_TYPES
                   and not file.tensors[i].is_constant}
        joined = [group for group in groups if group[0] & touched]
        groups = [group for group in groups if not group[0] & touched]
        groups.append((touched.union(*(group[0] for group in joined)), [o for group in joined for o in group[1]] + [op]))
    return tuple(Island(len(ops), f"{ops[0].name} ({ops[0].index})", f"{ops[-1].name} ({ops[-1].index})", _made(file, ops[0]))
                 for _, ops in sorted(groups, key=lambda group: group[1][0].index))


def _problems(file: TfliteFile, kind: str, islands: tuple[Island, ...], constants: dict[str, int], as_float: int) -> list[str]:
    lines = [f"float island of {counted(island.operators, 'operator')}, {island.first} to {island.last}, from {island.tensor!r}"
             for island in islands]
    front, _ = float_front(file)
    if kind == INT8 or islands:
        touched = {i for op in float_operators(file) for i in (*op.inputs, *op.outputs)}
        lines += [f"stray conversion: {line}" for line in
                  boundary_quantize_problems(file, also_input=front | touched, also_output=touched)]
    if has_dynamic_shapes(file):
        names = [tensor.name for tensor in file.inputs if any(size < 0 for size in tensor.shape_signature)]
        where = f"the input {names[0]!r}" if names else "tensors inside the graph"
        lines.append(f"open sizes ({where}): delegates other than XNNPACK refuse such a file; convert it with fixed sizes and "
                     "batch 1")
    whole = sum(constants.values())
    if kind.startswith(("int8", "uint8", "int16", "dynamic")) and whole and as_float / whole < _SMALLER:
        largest = next(iter(constants))
        lines.append(f"its constants are only {as_float / whole:.1f} times smaller than as float32: most bytes are {largest}")
    return lines


def _run_problems(file: TfliteFile, run: Run, outside: tuple[Outside, ...]) -> list[str]:
    if run.refused:
        return [run.refused]
    if not run.partitions:
        return ["XNNPACK takes nothing of it: everything runs on the runtime's own kernels"]
    ends = {tensor.index for tensor in (*file.inputs, *file.outputs)}
    left = [item for item in outside if not (item.name == "QUANTIZE" and ends.intersection(
        (*file.operators[item.index].inputs, *file.operators[item.index].outputs)))]
    if run.partitions > 1 or left:
        return [f"{counted(run.partitions, 'XNNPACK partition')} with {counted(len(left), 'operator')} outside of "
                f"{'it' if run.partitions == 1 else 'them'}: every border costs time"]
    return []


def _run(content: bytes, threads: int) -> Run:
    with tempfile.TemporaryDirectory(prefix="mnv3-inspect-") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        found = _child(path, threads, "xnnpack")
        if "refused" in found:
            without = _child(path, threads, "none")
            hint = "" if "refused" in without else " (without XNNPACK it runs)"
            return Run(_plain_refusal(found["refused"]) + hint, None, ())
        return Run("", int(found["partitions"]), tuple(found["outside"]))


def _child(path: Path, threads: int, delegate: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "mnv3_tf.export.inspection_worker", str(path), str(threads), delegate]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, errors="replace")
    except subprocess.TimeoutExpired:
        return {"refused": f"the runtime did not finish one run within {_SECONDS} s"}
    line = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode == 0 and line.startswith("{"):
        return dict(json.loads(line))
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return {"refused": f"the runtime ended its own process ({how}) over this file; it is damaged, or uses what the runtime does "
                       "not know"}


def _plain_refusal(text: str) -> str:
    """The runtime's reason as one line with a remedy, where it is a known one."""
    custom = re.search(r"unresolved custom op: ([\w/-]+)", text)
    if custom:
        remedy = ("it needs the Flex delegate of TensorFlow; convert without SELECT_TF_OPS" if custom[1].startswith("Flex")
                  else "the app must register it, or the model be converted without it")
        return f"the custom operator {custom[1]} is unknown to the runtime: {remedy}"
    flex = re.search(r"Select TensorFlow op\(s\), included in the given model", text)
    if flex:
        return "it holds operators of TensorFlow itself (Flex), unknown to the runtime: convert without SELECT_TF_OPS"
    return f"the runtime refuses it: {text[:300].rstrip('.')}"


def _outside(file: TfliteFile, index: int) -> Outside:
    operator = file.operators[index]
    return Outside(index, operator.name, operator_dtype(file, operator), _made(file, operator),
                   reason(file, operator) or "not known")


def _made(file: TfliteFile, operator: OperatorInfo) -> str:
    return file.tensors[operator.outputs[0]].name if operator.outputs else ""


def _tensor_facts(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape_signature), "dtype": tensor.dtype,
            "scale": tensor.scales[0] if tensor.scales else None,
            "zero_point": tensor.zero_points[0] if tensor.zero_points else None}
