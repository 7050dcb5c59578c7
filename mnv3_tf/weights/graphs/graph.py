"""A file's graph in a form that does not depend on who wrote it; the adapters make it, the walk reads it.

Kinds of operators, with their attributes:

- ``conv``, ``depthwise``, ``fully_connected``: inputs are the picture, the kernel and, where there is one, the bias. Kernels are
  constants (height, width, in, out) or (height, width, channels, multiplier); `stride` (vertical, horizontal), `dilation`
  likewise, `padding` "same", "valid" or (top, bottom, left, right).
- ``add``, ``sub``, ``mul``, ``div``: two inputs. ``neg``. ``rsqrt`` (of constants only).
- ``relu``, ``hard_swish``, ``clip`` (`low`, `high`).
- ``batchnorm``: picture, gamma, beta, mean, variance; `epsilon`.
- ``mean``: `axes`. ``average_pool``: `window` and `stride` (vertical, horizontal), `padding`.
- ``pad``: `pads` (top, bottom, left, right).
- ``reshape``: also squeezes and flattenings; the order of the values stays. `shape` where it is known and matters.
- ``identity``: also conversions between types.
- ``other``: nothing of this; `reason` says why where the kind alone does not.

Pictures are (batch, height, width, channels).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Tensor = int | str


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant in real numbers.

    Attributes:
        value: float32, or int64 for whole numbers that are not quantized.
        step: size of a quantization step, broadcast along `value`'s axes; None where it is not quantized.
    """

    value: np.ndarray
    step: np.ndarray | None = None

    def turned(self, turn: Callable[[np.ndarray], np.ndarray]) -> "Constant":
        """With its axes in another order or number."""
        return Constant(turn(self.value), None if self.step is None else turn(self.step))


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator, in order of execution.

    Attributes:
        place: number, kind in the file's own words, and name, as messages give it.
        kind: see the module.
        inputs, outputs: tensors.
        name: of the operator or its first result.
        attributes: see the module.
        activation: fused after it: None, "relu", "relu6", or the file's own word for something else.
    """

    place: str
    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    name: str
    attributes: dict[str, Any] = field(default_factory=dict)
    activation: str | None = None


@dataclass(frozen=True, eq=False)
class Graph:
    """A file's graph.

    Attributes:
        path: the file.
        format: "tflite" or "tfjs".
        operators: in an order in which they can be executed.
        constants: by tensor.
        input: the tensor that takes the picture.
        outputs: the graph's outputs.
        height, width, channels: of the picture, None where open.
        input_quantization: (dtype, scale, zero point) of an integer input.
    """

    path: str
    format: Literal["tflite", "tfjs"]
    operators: Sequence[Operator]
    constants: dict[Tensor, Constant]
    input: Tensor
    outputs: tuple[Tensor, ...]
    height: int | None
    width: int | None
    channels: int | None
    input_quantization: tuple[str, float, int] | None = None


def zero_pads(amounts: Sequence[int], filled: np.ndarray | None) -> tuple[int, ...]:
    """What a padding by `amounts` (before and after, axis by axis) with a constant adds: (top, bottom, left, right).

    Empty where it is not zeros around a picture.
    """
    is_zero = filled is not None and not np.any(filled)
    return tuple(amounts[2:6]) if is_zero and len(amounts) == 8 and not any((*amounts[:2], *amounts[6:])) else ()
