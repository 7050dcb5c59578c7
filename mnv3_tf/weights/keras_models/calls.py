"""The calls of a functional Keras model's layers in the order of computation, with the models within it taken apart.

Keras 3 and tf_keras keep the same graph under other names; what comes after sees one form of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mnv3_tf.errors import InputError

# What operators of Keras 2 (layers of the class TFOpLambda) are called in Keras 3.
_SYMBOLS = {"__operators__.add": "Add", "math.add": "Add", "math.subtract": "Subtract", "math.multiply": "Multiply",
            "math.truediv": "TrueDivide", "math.divide": "TrueDivide", "nn.relu": "Relu", "nn.relu6": "Relu6",
            "nn.softmax": "Softmax", "math.sigmoid": "Sigmoid", "nn.sigmoid": "Sigmoid", "reshape": "Reshape", "cast": "Cast",
            "identity": "Identity"}


@dataclass(frozen=True, eq=False)
class Call:
    """A layer or an operator at one place of the network.

    Attributes:
        name: of the layer.
        kind: the layer's class, or Keras 3's class of the operator ("Add", "TrueDivide").
        layer: the Keras object.
        operands: tensors, as whole numbers, and constants, in the order of the call.
        output: the tensor that it makes.
        shape: of `output` without the batch, None where open.
    """

    name: str
    kind: str
    layer: Any
    operands: tuple[Any, ...]
    output: "Tensor"
    shape: tuple[int | None, ...]


class Tensor(int):
    """The number of a tensor of the network, to tell it from constants."""


def read_calls(model: Any) -> tuple[list[Call], Tensor, Tensor]:
    """Every call of a model's layers, input and output.

    Args:
        model: of Keras 3 or tf_keras.

    Raises:
        InputError: it is no functional or sequential model, or has several inputs or outputs.
    """
    if type(model).__name__ == "Sequential" and not model.built:
        raise InputError(f"{model.name}: does not know its input yet. Begin it with keras.Input((height, width, 3)).")
    if not _is_graph(model):
        raise InputError(f"{model.name}: is a model of the class {type(model).__name__}, whose layers are called by code; only "
                         "functional and sequential models say how. Build it as `keras.Model(inputs, outputs)`, with the same "
                         "layers.")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(f"{model.name}: has {len(model.inputs)} inputs and {len(model.outputs)} outputs; a network with one "
                         "picture and one result is needed.")
    reader = _Reader()
    image = reader.number()
    return list(reader.calls(model, [image])), image, reader.outputs[0]


def _is_graph(layer: Any) -> bool:
    inner = getattr(layer, "_functional", layer)
    return hasattr(inner, "_nodes_by_depth") and bool(getattr(inner, "inputs", None))


class _Reader:
    """Numbers tensors; `outputs` are those of the model that was read last."""

    def __init__(self) -> None:
        self._count = 0
        self.outputs: list[Tensor] = []

    def number(self) -> Tensor:
        self._count += 1
        return Tensor(self._count)

    def calls(self, model: Any, inputs: list[Tensor]) -> Iterator[Call]:
        model = getattr(model, "_functional", model)
        known = {id(tensor): number for tensor, number in zip(model.inputs, inputs, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                layer = node.operation if hasattr(node, "operation") else node.layer
                outputs = _flat(node.output_tensors if hasattr(node, "output_tensors") else node.outputs)
                if all(id(tensor) in known for tensor in outputs):  # the model's own input
                    continue
                operands = [known.get(id(value), value) for value in _operands(node)]
                if _is_graph(layer):
                    yield from self.calls(layer, [value for value in operands if isinstance(value, Tensor)])
                    known.update(zip(map(id, outputs), self.outputs, strict=True))
                    continue
                symbol = getattr(layer, "symbol", None)
                kind = _SYMBOLS.get(str(symbol), str(symbol)) if symbol else type(layer).__name__
                for tensor in outputs:
                    known[id(tensor)] = self.number()
                yield Call(layer.name, kind, layer, tuple(operands), known[id(outputs[0])], tuple(outputs[0].shape[1:]))
        self.outputs = [known[id(tensor)] for tensor in model.outputs]


def _operands(node: Any) -> list[Any]:
    """Tensors and constants that a layer is called with, without the arguments that say how."""
    arguments = node.arguments.args if hasattr(node, "arguments") else node.call_args
    settings = node.arguments.kwargs if hasattr(node, "arguments") else node.call_kwargs
    named = [value for key, value in settings.items() if key not in ("training", "mask", "name", "dtype") and value is not None]
    return [value for argument in (*arguments, *named) for value in _flat(argument)]


def _flat(values: Any) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else [values]
