"""Small `.tflite` files of single operators, and what XNNPACK leaves of them."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mnv3_tf.tflite.file import TfliteFile, parse_tflite
from mnv3_tf.tflite.runtime import LiteRTModel, captured_stderr, executed

SHAPE = (1, 8, 8, 4)
Function = Callable[[Any], Any]


def converted(function: Function, kind: str, shape: tuple[int | None, ...] = SHAPE) -> bytes:
    """A function of one float tensor as a file."""
    return _converted([function], kind, shape)[0]


def _converted(functions: Sequence[Function], kind: str, shape: tuple[int | None, ...]) -> tuple[bytes, list[int]]:
    """Functions side by side in a file, each with an input of its own; and how many outputs each has."""
    import tensorflow as tf

    counts: list[int] = []

    def side_by_side(*inputs: Any) -> list[Any]:
        made = [tf.nest.flatten(function(x)) for function, x in zip(functions, inputs, strict=True)]
        counts[:] = map(len, made)
        return tf.nest.flatten(made)

    specs = [tf.TensorSpec(shape, tf.float32, f"x{number}") for number in range(len(functions))]
    call = tf.function(side_by_side, autograph=False).get_concrete_function(*specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call])
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind in ("int8", "int16"):
        rng = np.random.default_rng(0)
        given = tuple(size or 1 for size in shape)
        converter.representative_dataset = lambda: (
            len(functions) * [2 * rng.normal(size=given).astype(np.float32)] for _ in range(4))
        sets = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            sets.TFLITE_BUILTINS_INT8 if kind == "int8" else sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, kind)
    with captured_stderr(lambda line: True):
        return bytes(converter.convert()), counts


def converted_together(functions: Mapping[str, Function], kind: str, shape: tuple[int | None, ...] = SHAPE) -> dict[str, bytes]:
    """Several functions, each as a file of its own. They are converted at once, which takes hardly longer than one of them."""
    content, counts = _converted(list(functions.values()), kind, shape)
    return dict(zip(functions, cut(content, counts), strict=True))


def cut(content: bytes, counts: Sequence[int]) -> Iterator[bytes]:
    """A file for each group of outputs, with the operators and tensors that they need."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph, model.signatureDefs = model.subgraphs[0], None
    operators, tensors, inputs, outputs = graph.operators, graph.tensors, graph.inputs, list(graph.outputs)
    assert len(model.subgraphs) == 1 and len(outputs) == sum(counts)
    for count in counts:
        graph.operators, graph.outputs, outputs = [], outputs[:count], outputs[count:]
        needed = set(graph.outputs)
        for operator in reversed(operators):
            if needed & set(operator.outputs):
                needed |= {*operator.inputs, *operator.outputs}
                graph.operators.insert(0, copy.copy(operator))
        graph.inputs = [index for index in inputs if index in needed]
        places = {index: place for place, index in enumerate(sorted(needed - {-1}))} | {-1: -1}
        graph.tensors = [tensors[index] for index in places if index >= 0]
        for part in (graph, *graph.operators):
            part.inputs, part.outputs = [[places[index] for index in indices] for indices in (part.inputs, part.outputs)]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        yield bytes(builder.Output())


def outside(content: bytes) -> tuple[TfliteFile, set[int]]:
    """The file, and the numbers of the operators that XNNPACK leaves."""
    return parse_tflite(content), {index for index, _ in executed(LiteRTModel(content, fix_batch=True)._interpreter)[1]}


def weights(*shape: int) -> Any:
    import tensorflow as tf

    return tf.constant(np.random.default_rng(0).normal(size=shape).astype(np.float32))
