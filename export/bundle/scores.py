"""Probabilities instead of logits, inside the graph: DEQUANTIZE and a float SOFTMAX at its end, both of which XNNPACK takes."""

import copy
from typing import Any

from mnv3_tf.errors import InputError
from mnv3_tf.export.bundle.metadata import pack_model
from mnv3_tf.tflite.file import CONVERSIONS, parse_tflite, unpack_model


def with_scores(content: bytes) -> bytes:
    """A `.tflite` classifier whose output is float32 probabilities that add up to 1.

    An int8 SOFTMAX would be outside of the delegate, and 1/256 is too coarse for scores of many classes.

    Raises:
        InputError: the file has several outputs, or gives probabilities already.
    """
    file = parse_tflite(content)
    if len(file.outputs) != 1:
        raise InputError(f"it has {len(file.outputs)} outputs, and an image classifier has one.")
    logits = output = file.outputs[0]
    last = next((op for op in file.operators if output.index in op.outputs), None)
    if last is None or last.name == "SOFTMAX":
        raise InputError("it gives probabilities already.")
    model = unpack_model(content)
    if last.name in CONVERSIONS:
        logits = file.tensors[last.inputs[0]]
        del model.subgraphs[0].operators[last.index]
    scores = logits.index
    if logits.dtype != "float32":
        scores = _append(model, "DEQUANTIZE", scores, b"logits")
    scores = _append(model, "SOFTMAX", scores, b"scores")
    model.subgraphs[0].outputs = [scores]
    for signature in model.signatureDefs or []:
        for entry in signature.outputs or []:
            if int(entry.tensorIndex) == output.index:
                entry.tensorIndex = scores
    return pack_model(model)


def _append(model: Any, name: str, source: int, label: bytes) -> int:
    """Adds an operator on one tensor, and gives the float32 tensor that it makes."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    number = getattr(schema.BuiltinOperator, name)
    model.operatorCodes.append(schema.OperatorCodeT(deprecatedBuiltinCode=number, builtinCode=number,
                                                    version=2 if name == "DEQUANTIZE" else 1))
    operator = schema.OperatorT(opcodeIndex=len(model.operatorCodes) - 1, inputs=[source], outputs=[len(graph.tensors)])
    if name == "SOFTMAX":
        operator.builtinOptionsType = schema.BuiltinOptions.SoftmaxOptions
        operator.builtinOptions = schema.SoftmaxOptionsT(beta=1.0)
    graph.operators.append(operator)
    graph.tensors.append(schema.TensorT(shape=copy.copy(graph.tensors[source].shape), type=schema.TensorType.FLOAT32, name=label,
                                        hasRank=graph.tensors[source].hasRank))
    return len(graph.tensors) - 1
