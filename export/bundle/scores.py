"""Probabilities instead of logits, inside the graph: DEQUANTIZE and a float SOFTMAX at its end, both of which XNNPACK takes."""

import copy
from typing import Any

from mnv3_tf.errors import InputError
from mnv3_tf.export.bundle.metadata import pack_model


def with_scores(content: bytes) -> bytes:
    """A `.tflite` classifier whose output is float32 probabilities that add up to 1.

    An int8 SOFTMAX would be outside of the delegate, and 1/256 is too coarse for scores of many classes.

    Raises:
        InputError: the file has several outputs, or gives probabilities already.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    if len(graph.outputs) != 1:
        raise InputError(f"it has {len(graph.outputs)} outputs, and an image classifier has one.")
    old = int(graph.outputs[0])
    last = next((op for op in graph.operators if old in list(op.outputs)), None)
    if last is None or _name(model, last, schema) == "SOFTMAX":
        raise InputError("it gives probabilities already.")
    logits = old
    if _name(model, last, schema) in ("QUANTIZE", "DEQUANTIZE"):
        logits = int(last.inputs[0])
        graph.operators.remove(last)
    if graph.tensors[logits].type != schema.TensorType.FLOAT32:
        logits = _append(schema, model, "DEQUANTIZE", logits, b"logits")
    scores = _append(schema, model, "SOFTMAX", logits, b"scores")
    graph.outputs = [scores]
    for signature in model.signatureDefs or []:
        for entry in signature.outputs or []:
            if int(entry.tensorIndex) == old:
                entry.tensorIndex = scores
    return pack_model(model)


def _name(model: Any, operator: Any, schema: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return next((name for name, value in vars(schema.BuiltinOperator).items() if value == number), "")


def _append(schema: Any, model: Any, name: str, source: int, label: bytes) -> int:
    """Adds an operator on one tensor, and gives the float32 tensor that it makes."""
    graph = model.subgraphs[0]
    tensor = schema.TensorT()
    tensor.shape = copy.copy(graph.tensors[source].shape)
    tensor.type, tensor.buffer, tensor.name = schema.TensorType.FLOAT32, 0, label
    tensor.hasRank = graph.tensors[source].hasRank
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 2 if name == "DEQUANTIZE" else 1
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes)
    operator.inputs, operator.outputs = [source], [len(graph.tensors)]
    if name == "SOFTMAX":
        operator.builtinOptionsType = schema.BuiltinOptions.SoftmaxOptions
        operator.builtinOptions = schema.SoftmaxOptionsT()
        operator.builtinOptions.beta = 1.0
    model.operatorCodes.append(code)
    graph.tensors.append(tensor)
    graph.operators.append(operator)
    return len(graph.tensors) - 1
