"""From a run or a Keras model to a `.tflite` file that is checked before it is kept.

Every file takes RGB pixel values: uint8 the byte itself, int8 the byte minus 128, float32 the value 0..255.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mnv3_tf.artefacts.card import fingerprint, write_beside
from mnv3_tf.artefacts.open import open_artefact
from mnv3_tf.artefacts.run_folder import RunFolder
from mnv3_tf.data import Preprocessing
from mnv3_tf.errors import CheckFailed, InputError, KitError
from mnv3_tf.export.convert.placement import place
from mnv3_tf.files import check_writable, read_json, write_bytes
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, Ranges
from mnv3_tf.quantization.graph import FoldedGraph, leave_float
from mnv3_tf.quantization.integer_network import QuantizedNetwork
from mnv3_tf.quantization.lowering import FORMER_LOWERINGS, LOWERINGS, LoweredGraph, Lowering, lower
from mnv3_tf.tflite.file import (
    TfliteFile,
    boundary_quantize_problems,
    float_front,
    float_operators,
    has_dynamic_shapes,
    operator_dtype,
    parse_tflite,
)
from mnv3_tf.tflite.runtime import PIXEL_INPUT, LiteRTModel, captured_stderr

Format = Literal["int8", "float16", "dynamic", "float32"]
Io = Literal["uint8", "int8", "float32"]

# A file whose logits are further from the quantized network's, on average over test patterns, is not written. Files that are
# integers throughout are equal; patterns are no photos, so a sick network with float blocks or native hard-swishes may be at 3; a
# wrong file is at tens. `mnv3 verify` looks closer.
_MEAN_STEPS = 8.0


@dataclass(frozen=True)
class Convertible:
    """A model to convert, with what belongs to it.

    Attributes:
        path: the file that holds the weights.
        graph: its folded network.
        ranges: activation ranges, or None for a float model.
        contract: preprocessing.
        labels: class names.
    """

    path: Path
    graph: FoldedGraph
    ranges: Ranges | None
    contract: Preprocessing
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        path: the `.tflite` file; its contract and labels lie beside it (:func:`sidecar`).
        size_bytes: of the file.
        format, io, lowering: as converted.
        partitions: XNNPACK partitions on this machine.
        outside: operators that run outside of the delegate.
        warnings: what a user should know.
    """

    path: Path
    size_bytes: int
    format: Format
    io: Io
    lowering: Lowering
    partitions: int
    outside: tuple[str, ...]
    warnings: tuple[str, ...]

    def __fspath__(self) -> str:
        """The file, so that it can be given wherever a path can."""
        return str(self.path)


def open_source(path: str | Path) -> Convertible:
    """A run folder or `.keras` file as something to convert.

    Raises:
        InputError: it is neither, or its contract or labels are missing.
    """
    if Path(path).suffix == ".tflite":
        raise InputError(f"{path}: is a .tflite file already. Give the run folder or .keras file that it was made from.")
    artefact = open_artefact(path)
    contract, labels = artefact.contract_and_labels()
    graph, ranges = artefact.folded
    return Convertible(artefact.weights, graph, ranges or None, contract, labels)


def convert(source: Convertible, out: str | Path, *, format: Format = "int8", io: Io | None = None,
            lowering: Lowering | None = None) -> Converted:
    """Writes a `.tflite` file, with its contract, labels and card beside it.

    Args:
        source: from :func:`open_source`.
        out: the file to write; replaced if it exists.
        format: "int8" needs a quantized run; "float16" and "dynamic" store smaller weights; "float32" is exact.
        io: of an int8 file: "uint8" (default: picture bytes in, as Android and MediaPipe have them), "int8" or "float32". The
            other formats take and give float32.
        lowering: "xnnpack" (default for int8: additions and multiplications that the XNNPACK delegate takes) or "native"
            (default for the other formats: the native HARD_SWISH operation, which GPU and NPU delegates may prefer).

    Raises:
        InputError: the combination is impossible, or one of the words is unknown.
        CheckFailed: the file would hold float operations outside of the blocks that the run leaves float, stray conversions, or,
            lowered for XNNPACK, more than one partition; or it answers differently from the quantized Keras network.
    """
    out = Path(out)
    if out.suffix != ".tflite":
        raise InputError(f"{out}: the file to write must end in .tflite.")
    lowering = FORMER_LOWERINGS.get(str(lowering), lowering) or ("xnnpack" if format == "int8" else "native")
    for name, value, choices in (("format", format, get_args(Format)), ("io", io, (None, *get_args(Io))),
                                 ("lowering", lowering, LOWERINGS)):
        if value not in choices:
            raise InputError(f"{name} {value!r} is unknown: choose one of {', '.join(filter(None, choices))}.")
    if format == "int8" and source.ranges is None:
        raise InputError(f"{source.path}: is a float model, and int8 needs quantized ranges. Make a quantized run first "
                         "(mnv3 quantize RUN --data PATH --out QRUN), or give --format float16, dynamic or float32.")
    if format != "int8" and io not in (None, "float32"):
        raise InputError(f"--io {io} goes with --format int8 only; a {format} file takes and gives float32.")
    check_writable(out)
    io = io or ("uint8" if format == "int8" else "float32")
    content = convert_graph(source.graph, source.ranges if format == "int8" else None, format=format, io=io,
                            lowering=lowering)
    model = LiteRTModel(content)
    if format == "int8":
        _refuse_unclean(out, content, model, lowering, source)
    warnings = _warnings(source, model, format)
    write_bytes(out, content)
    write_beside(
        out, source.labels, source.contract, kind="tflite", format=format, io=io, lowering=lowering, parent=source.path,
        file=fingerprint(out), preprocessing=source.contract.fingerprint(), classes=source.labels,
        float_blocks=source.graph.float_blocks if format == "int8" else (), partitions=model.partitions,
        form={"split_stem": source.graph.split_stem, "channel_sizes": source.graph.channel_sizes},
        **{side: {"dtype": dtype, "scale": scale, "zero_point": zero_point} for side, dtype, (scale, zero_point) in (
            ("input", model.input_dtype, model.input_quantization), ("output", model.output_dtype, model.output_quantization))})
    return Converted(out, len(content), format, io, lowering, model.partitions, model.undelegated_operators, warnings)


def convert_graph(graph: FoldedGraph, ranges: Ranges | None, *, format: Format, io: Io, lowering: Lowering) -> bytes:
    """The bytes of a `.tflite` file, batch 1; `ranges` belong to int8 alone."""
    import tensorflow as tf

    zero, scale = float(graph.zero_pixel), float(graph.scale)
    offset = graph.offset[0] if len(set(graph.offset)) == 1 else np.asarray(graph.offset, np.float32)
    if ranges is None:
        graph = leave_float(graph, ())
    network = LoweredNetwork(lower(graph, lowering), ranges, exact_input=ranges is None)

    def forward(image: Any) -> Any:
        if ranges is None:
            return network.forward(image * scale + offset)
        return network.forward((image - zero) * scale if io == "float32" else image)

    signature = tf.TensorSpec((1, graph.height, graph.width, 3), tf.float32, name=PIXEL_INPUT)
    function = tf.function(forward, autograph=False).get_concrete_function(signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    if format != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if format == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if format == "int8":
        converter.inference_input_type = converter.inference_output_type = getattr(tf, io)
    try:
        with captured_stderr():
            return converter.convert()
    except Exception as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise KitError(f"TensorFlow's converter failed: {reason}") from error


def check_int8(file: TfliteFile, model: LiteRTModel, lowering: Lowering, graph: FoldedGraph | None = None) -> list[str]:
    """What keeps a file from being a clean int8 file; nothing if it is one.

    Where blocks of `graph` are left float, exactly these must be, with conversions at their borders.
    """
    front, units = float_front(file)
    if graph is not None and graph.float_blocks:
        problems = _mixed_problems(file, lower(graph, lowering), front)
    else:
        problems = [f"the operation {op.name} computes in float" for op in float_operators(file) if op.index not in units]
        problems += boundary_quantize_problems(file, also_input=front)
    if has_dynamic_shapes(file):
        problems.append("it has dynamic shapes, which delegates refuse")
    # The delegate takes no conversion between uint8 and int8; the runtime does it, once at each end.
    outside = [name for name in model.undelegated_operators if name != "QUANTIZE"]
    if lowering == "xnnpack" and (model.partitions != 1 or outside):
        problems.append(f"it falls into {model.partitions} XNNPACK partitions (operations outside: "
                        f"{', '.join(outside) or 'none'})")
    return problems


def _mixed_problems(file: TfliteFile, lowered: LoweredGraph, front: set[int]) -> list[str]:
    """What keeps a file from being float in the blocks that are left float, and clean int8 everywhere else."""
    placed = place(file, lowered)
    if isinstance(placed, str):
        return [placed]
    problems: list[str] = []
    made: set[int] = set()
    taken: set[int] = set()
    for item in placed:
        wanted, found = "float32" if lowered.is_float(item.op) else "int8", operator_dtype(file, item.operator)
        if found != wanted:
            problems.append(f"the operation {item.op.name} is {found} and should be {wanted}")
        if lowered.is_float(item.op):
            made.update(item.operator.outputs)
            taken.update(i for i in item.operator.inputs if i >= 0 and file.tensors[i].dtype == "float32")
    return [*problems, *boundary_quantize_problems(file, also_input=front | made, also_output=taken)]


def output_step(model: LiteRTModel, graph: FoldedGraph, ranges: Ranges) -> float:
    """One step of the 8-bit output of a file, in logits."""
    scale = model.output_quantization[0]
    if scale > 0:
        return float(scale)
    low, high = ranges[[op for op in graph.ops if op.kind == "conv"][-1].name]
    return (high - low) / 255


def _refuse_unclean(out: Path, content: bytes, model: LiteRTModel, lowering: Lowering, source: Convertible) -> None:
    """Raises CheckFailed for an int8 file that is not clean, or does not answer like the quantized network."""
    assert source.ranges is not None
    problems = check_int8(parse_tflite(content), model, lowering, source.graph)
    if problems:
        raise CheckFailed(f"{out}: was not written, because it would not be a clean int8 file: {'; '.join(problems)}. A "
                          "network whose weights were never trained can cause this; otherwise try --lowering native.")
    patterns = _patterns(source.graph)
    expected = QuantizedNetwork(LoweredNetwork(lower(source.graph, lowering), source.ranges)).logits(patterns)
    steps = float(np.abs(model.predict(patterns) - expected).mean()) / output_step(model, source.graph, source.ranges)
    if steps > _MEAN_STEPS:
        raise CheckFailed(
            f"{out}: was not written, because it does not answer like the quantized Keras network: on test patterns a logit "
            f"differs by {steps:.1f} of its 255 steps on average, and {_MEAN_STEPS:g} are allowed. `mnv3 verify QRUN` names the "
            "layer where it begins.")


def _warnings(source: Convertible, model: LiteRTModel, format: Format) -> tuple[str, ...]:
    if format != "int8":
        return () if source.ranges is None else ("the quantized run's weights were written without their 8-bit ranges",)
    blocks, calibration = source.graph.float_blocks, RunFolder(source.path.parent).calibration
    warnings = [f"left float, as the run says: {', '.join(blocks)}"] if blocks else []
    if calibration.exists():
        warnings += read_json(calibration).get("remarks", [])
    constant = _constant_answer(source, model)
    if constant is not None:
        warnings.append(f"the file answers {source.labels[constant]!r} to every test pattern")
    return tuple(warnings)


def _constant_answer(source: Convertible, model: LiteRTModel) -> int | None:
    """The class that the file gives to every one of a few unlike patterns, or None; the float network decides what is unlike."""
    patterns = _patterns(source.graph)
    answers = set(model.predict(patterns).argmax(axis=1).tolist())
    if len(answers) > 1:
        return None
    expected = set(LoweredNetwork(lower(source.graph, "native")).logits(patterns).argmax(axis=1).tolist())
    return answers.pop() if len(expected) > 1 else None


def _patterns(graph: FoldedGraph) -> np.ndarray:
    """Pictures of 1, 4, 16 and 64 random colours, uint8 (16, height, width, 3)."""
    rng, made = np.random.default_rng(0), []
    for cells in np.repeat((1, 2, 4, 8), 4):
        small = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        tile = np.ones((-(-graph.height // cells), -(-graph.width // cells), 1), np.uint8)
        made.append(np.kron(small, tile)[:graph.height, :graph.width])
    return np.stack(made)
