"""What any `.tflite` file is: what it computes in, where float islands lie, and what XNNPACK leaves to slower kernels."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mnv3_tf.errors import InputError
from mnv3_tf.export.inspection.worker import OPEN_SIZES, Run, run_apart
from mnv3_tf.files import plain
from mnv3_tf.text import counted
from mnv3_tf.tflite.delegate_rules import CONTROL, reason
from mnv3_tf.tflite.file import (
    CONVERSIONS,
    FLOAT_TYPES,
    TFLITE_METADATA,
    OperatorInfo,
    TensorInfo,
    TfliteFile,
    boundary_quantize_problems,
    bytes_by_dtype,
    constants,
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
        graph: the graph that they are in; "" for the main one.
    """

    operators: int
    first: str
    last: str
    tensor: str
    graph: str = ""


@dataclass(frozen=True)
class Outside:
    """An operator that the runtime runs outside of the delegate.

    Attributes:
        index: its number in the file.
        name, dtype: as in :func:`mnv3_tf.tflite.file.operator_counts`.
        tensor: what it makes.
        reason: why the delegate does not take it, or "not known".
    """

    index: int
    name: str
    dtype: str
    tensor: str
    reason: str


@dataclass(frozen=True)
class Inspection:
    """What was found. Kind, islands, conversions and constants are those of all graphs; the run is the main one's.

    Attributes:
        file: its graphs, signatures and metadata.
        kind: what it computes in, in words; :data:`INT8` is the form that this kit makes.
        run: on this machine's runtime.
        outside: operators that XNNPACK leaves, with reasons.
        islands: of float, in a file that computes in integers too.
        conversions: QUANTIZE and DEQUANTIZE that are not at an input or output of the file, a line each.
        problems: what a person should mend, a line each.
        constant_bytes: by dtype.
        float32_bytes: that the same constants take as float32.
    """

    file: TfliteFile
    kind: str
    run: Run
    outside: tuple[Outside, ...]
    islands: tuple[Island, ...]
    conversions: tuple[str, ...]
    problems: tuple[str, ...]
    constant_bytes: dict[str, int]
    float32_bytes: int

    @property
    def dynamic_shapes(self) -> bool:
        """Whether a size is open anywhere."""
        return any(map(has_dynamic_shapes, self.file.graphs))

    @property
    def custom_operators(self) -> list[str]:
        """Their names, Flex operators too."""
        return sorted({op.name for graph in self.file.graphs for op in graph.operators if op.is_custom})

    def failures(self, requirements: Iterable[Requirement]) -> list[str]:
        """What keeps the file from being what is required, a reason each."""
        found: list[str] = []
        for requirement in requirements:
            if requirement == "int8":
                found += [f"it is {self.kind}, not {INT8}"] if self.kind != INT8 else []
                found += [_island_text(island) for island in self.islands]
                found += self.conversions
                found += ["it has open sizes, which delegates refuse"] if self.dynamic_shapes else []
            if self.run.refused:
                is_open = self.run.refused.startswith(OPEN_SIZES)
                found.append(self.run.refused if is_open else f"the runtime refuses it: {self.run.refused}")
            if requirement != "one-partition" or self.run.refused:
                continue
            left = dict.fromkeys(f"{item.name} ({item.reason})" for item in _inside(self.file, self.outside))
            if self.run.partitions != 1 or left:
                found.append(f"{counted(self.run.partitions or 0, 'XNNPACK partition')} instead of one"
                             + (f"; outside: {', '.join(left)}" if left else ""))
        return list(dict.fromkeys(found))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return plain({
            "file": self.file.path, "size_bytes": self.file.size_bytes, "sha256": self.file.sha256, "kind": self.kind,
            "partitions": self.run.partitions, "refused": self.run.refused or None, "problems": self.problems,
            "inputs": [_tensor_facts(tensor) for tensor in self.file.inputs],
            "outputs": [_tensor_facts(tensor) for tensor in self.file.outputs], "operators": _counts(self.file),
            "outside": self.outside, "float_islands": self.islands,
            "stray_conversions": self.conversions, "dynamic_shapes": self.dynamic_shapes,
            "custom_operators": self.custom_operators, "constant_bytes": self.constant_bytes,
            "float32_bytes": self.float32_bytes,
            "graphs": [{"name": graph.name, "operators": len(graph.operators), "types": _counts(graph)}
                       for graph in self.file.graphs],
            "signatures": list(self.file.signatures), "metadata": list(self.file.metadata),
            "tflite_metadata": TFLITE_METADATA in self.file.metadata})


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
    run = run_apart(content, threads, structure.file)
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
        for graph in file.graphs:
            _check_links(graph)
        everything = replace(file, tensors=tuple(tensor for graph in file.graphs for tensor in graph.tensors))
        kind, sizes = kind_of(file), bytes_by_dtype(everything)
        islands = tuple(island for graph in file.graphs for island in _islands(graph, file))
        as_float = sum(4 * math.prod(tensor.shape) for tensor in constants(everything)
                       if tensor.dtype not in ("string", "resource"))
        return Inspection(file, kind, Run("", None, ()), (), islands, tuple(_conversions(file)),
                          tuple(_problems(file, kind, islands, sizes, as_float)), sizes, as_float)
    except (ValueError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{name}: the TFLite file is corrupt ({str(error).splitlines()[0] if str(error) else 'broken links'}). "
                         "Copy or convert it again.") from error


def _check_links(file: TfliteFile) -> None:
    """Refuses operators that name tensors which are not there, or convert nothing."""
    for op in file.operators:
        if any(not -1 <= index < len(file.tensors) for index in (*op.inputs, *op.outputs)) or -1 in op.outputs:
            raise ValueError(f"operator {op.index} {op.name} names a tensor that is not there")
        if op.name in CONVERSIONS and (len(op.inputs), len(op.outputs)) != (1, 1):
            raise ValueError(f"operator {op.index} {op.name} has {len(op.inputs)} inputs and {len(op.outputs)} outputs")
        if op.name in CONVERSIONS and op.inputs[0] < 0:
            raise ValueError(f"operator {op.index} {op.name} has no input")


def kind_of(main: TfliteFile) -> str:
    """What the graphs of a file compute in, in words."""
    _, units = float_front(main)
    computing = [(file, op) for file in main.graphs for op in file.operators
                 if op.name not in CONVERSIONS | CONTROL and (file is not main or op.index not in units)]
    types = Counter(dtype for file, op in computing if (dtype := _computes_in(file, op)) not in _INTEGERS)
    floats = sum(count for dtype, count in types.items() if dtype in FLOAT_TYPES)
    stored = {file.tensors[i].dtype for file in main.graphs for i in unpacked_constants(file).values()}
    integers = sorted(set(types) & {"int8", "uint8", "int16"})
    if not types:
        return "without computing operators"
    if types["hybrid"]:
        rest = f", with {' and '.join(integers)} operators too" if integers else ""
        return f"dynamic range (hybrid): 8-bit weights, computed in float{rest}"
    if not integers:
        return "float16 weights, computed in float32" if "float16" in stored else \
            " and ".join(sorted(set(types) & FLOAT_TYPES) or sorted(types))
    if floats:
        return f"{' and '.join(integers)} with float islands ({counted(floats, 'operator')})"
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


def _islands(file: TfliteFile, main: TfliteFile) -> list[Island]:
    """Groups of float operators of a graph that share float tensors, where the file computes in integers too."""
    if not any(op.name not in CONVERSIONS and operator_dtype(graph, op) in ("int8", "uint8", "int16")
               for graph in main.graphs for op in graph.operators):
        return []
    units = float_front(file)[1] if file is main else set()
    groups: list[tuple[set[int], list[OperatorInfo]]] = []
    for op in float_operators(file):
        if op.index in units or op.name in CONTROL:
            continue
        touched = {i for i in (*op.inputs, *op.outputs) if i >= 0 and file.tensors[i].dtype in FLOAT_TYPES
                   and not file.tensors[i].is_constant}
        joined = [group for group in groups if group[0] & touched]
        groups = [group for group in groups if not group[0] & touched]
        groups.append((touched.union(*(group[0] for group in joined)), [o for group in joined for o in group[1]] + [op]))
    name = "" if file is main else file.name
    return [Island(len(ops), f"{ops[0].name} ({ops[0].index})", f"{ops[-1].name} ({ops[-1].index})", _made(file, ops[0]), name)
            for _, ops in sorted(((touched, sorted(ops, key=lambda op: op.index)) for touched, ops in groups),
                                 key=lambda group: group[1][0].index)]


def _island_text(island: Island) -> str:
    where = f" of graph {island.graph!r}" if island.graph else ""
    return (f"float island of {counted(island.operators, 'operator')}, {island.first} to {island.last}, from {island.tensor!r}"
            f"{where}")


def _conversions(main: TfliteFile, *, beside_islands: bool = True) -> list[str]:
    """Conversions inside the graphs; one at the border of another graph than the main one is inside of the file."""
    lines: list[str] = []
    for graph in main.graphs:
        front = float_front(graph)[0] if graph is main else set()
        file = graph if graph is main else replace(graph, inputs=(), outputs=())
        touched = set() if beside_islands else {i for op in float_operators(file) for i in (*op.inputs, *op.outputs)}
        found = boundary_quantize_problems(file, also_input=front | touched, also_output=touched)
        lines += [line if graph is main else line.replace("is inside the graph,", f"is inside the graph {graph.name!r},")
                  for line in found]
    return lines


def _problems(file: TfliteFile, kind: str, islands: tuple[Island, ...], sizes: dict[str, int],
              as_float: int) -> list[str]:
    lines = [_island_text(island) for island in islands]
    if kind == INT8 or islands:
        lines += [f"stray conversion: {line}" for line in _conversions(file, beside_islands=False)]
    if any(map(has_dynamic_shapes, file.graphs)):
        names = [tensor.name for tensor in file.inputs if any(size < 0 for size in tensor.shape_signature)]
        where = f"the input {names[0]!r}" if names else "tensors inside the graph"
        lines.append(f"open sizes ({where}): delegates other than XNNPACK refuse such a file; convert it with fixed sizes and "
                     "batch 1")
    whole = sum(sizes.values())
    if kind.startswith(("int8", "uint8", "int16", "dynamic")) and whole and as_float / whole < _SMALLER:
        largest = next(iter(sizes))
        lines.append(f"its constants are only {as_float / whole:.1f} times smaller than as float32: most bytes are {largest}")
    return lines


def _inside(file: TfliteFile, outside: Iterable[Outside]) -> list[Outside]:
    """Without changes between uint8 and int8 at the very ends, which cost nothing that counts."""
    ends = {tensor.index for tensor in (*file.inputs, *file.outputs)}
    return [item for item in outside if item.name != "QUANTIZE"
            or ends.isdisjoint((*file.operators[item.index].inputs, *file.operators[item.index].outputs))]


def _run_problems(file: TfliteFile, run: Run, outside: tuple[Outside, ...]) -> list[str]:
    if run.refused:
        return [run.refused]
    if not run.partitions:
        return ["XNNPACK takes nothing of it: everything runs on the runtime's own kernels"]
    left = _inside(file, outside)
    if run.partitions > 1 or left:
        return [f"{counted(run.partitions, 'XNNPACK partition')} with {counted(len(left), 'operator')} outside of "
                f"{'it' if run.partitions == 1 else 'them'}: every border costs time"]
    return []


def _outside(file: TfliteFile, index: int) -> Outside:
    operator = file.operators[index]
    return Outside(index, operator.name, operator_dtype(file, operator), _made(file, operator),
                   reason(file, operator) or "not known")


def _counts(file: TfliteFile) -> list[dict[str, Any]]:
    return [{"name": name, "dtype": dtype, "count": count} for (name, dtype), count in operator_counts(file).items()]


def _made(file: TfliteFile, operator: OperatorInfo) -> str:
    return file.tensors[operator.outputs[0]].name if operator.outputs else ""


def _tensor_facts(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape_signature), "dtype": tensor.dtype,
            "scale": tensor.scales[0] if tensor.scales else None,
            "zero_point": tensor.zero_points[0] if tensor.zero_points else None}
