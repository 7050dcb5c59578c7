"""What stands for the names that a pickle of tensors may mention: constructors of this kit's own, each of which makes data only.

Sources: how numpy and torch pickle arrays and containers (`ndarray.__reduce__`, `dtype.__reduce__`, `OrderedDict.__reduce__`).
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_DTYPE = re.compile(r"[<>=|]?(f2|f4|f8|i1|i2|i4|i8|u1|u2|u4|u8|b1|\?)")


class Refused(ValueError):
    """What stands in a pickle is not of a kind that this reader accepts; the reason is the message."""


class Global:
    """A name that a pickle mentions, with the constructor of ours that stands for it."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        self.name = name
        self.make = make


class Ignored:
    """Stands for an object that weights do not need, such as the arguments of a training script; holds nothing."""

    __slots__ = ()


class PickledDict(dict):
    """An OrderedDict or one of its kin; what else was attached to it (such as torch's `_metadata`) is left out."""


class PickledDtype:
    """A numeric numpy dtype while it is read: first its letters, then its byte order."""

    __slots__ = ("dtype",)

    def __init__(self, spec: Any, *_: Any) -> None:
        if not isinstance(spec, str) or not _DTYPE.fullmatch(spec):
            what = " (Python objects, which could be anything)" if isinstance(spec, str) and spec.strip("<>=|")[:1] == "O" else ""
            raise Refused(f"an array of dtype {short(spec)}{what}; numbers are needed")
        self.dtype = np.dtype(spec)

    def build(self, state: Any) -> None:
        """numpy's own state: (version, byte order, subtype, names, fields, size, alignment, ...)."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "=", "|") or any(
                item is not None for item in state[2:5]):
            raise Refused("a structured numpy dtype; plain numbers are needed")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """A numpy array while it is read; :meth:`array` gives it."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        """numpy's own state: (version, shape, dtype, Fortran order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("a numpy array with an unknown state")
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, "F" if fortran is True else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: Any) -> None:
        """Takes the values, whose number must be that of the shape."""
        if isinstance(raw, str):  # how Python 2 wrote bytes
            raw = raw.encode("latin-1")
        if not isinstance(dtype, PickledDtype) or not isinstance(raw, bytes | bytearray) or order not in ("C", "F"):
            raise Refused("a numpy array without a numeric dtype and plain bytes")
        sizes = checked_shape(shape)
        if math.prod(sizes) * dtype.dtype.itemsize != len(raw):
            raise Refused(f"a numpy array of shape {short(sizes)} and dtype {dtype.dtype} with {len(raw)} bytes of values")
        self._value = np.frombuffer(raw, dtype.dtype).reshape(sizes, order=order)

    def array(self) -> np.ndarray:
        """The values.

        Raises:
            Refused: the pickle named an array and never gave it values.
        """
        if self._value is None:
            raise Refused("a numpy array without values")
        return self._value


def checked_shape(shape: Any) -> tuple[int, ...]:
    """A shape: whole numbers, none negative, at most 32 of them."""
    if not isinstance(shape, tuple | list) or len(shape) > 32 or not all(
            type(size) is int and 0 <= size < 2**48 for size in shape):
        raise Refused(f"a tensor of shape {short(shape)}")
    return tuple(shape)


def short(value: Any) -> str:
    """A name, number or short tuple of them for a message; of anything else the type, since a file may hold monsters."""
    if isinstance(value, str):
        return repr(value[:80])
    if value is None or isinstance(value, bool | int | float) or (
            isinstance(value, tuple | list) and len(value) <= 32 and all(type(item) is int for item in value)):
        return repr(value)
    return f"of type {type(value).__name__}"


def _reconstruct(kind: Any, *_: Any) -> PickledArray:
    if not isinstance(kind, Global) or kind.name != "numpy.ndarray":
        raise Refused("a numpy array of a class other than numpy.ndarray")
    return PickledArray()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    array = PickledArray()
    array.fill(raw, dtype, shape, order)
    return array


def _scalar(dtype: Any, raw: Any) -> PickledArray:
    return _from_buffer(raw, dtype, (), "C")


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 writes bytes: as text to be encoded."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("bytes in an encoding other than latin1")
    return text.encode("latin-1")


def _mapping(*args: Any) -> PickledDict:
    """OrderedDict, Counter or defaultdict: empty, of a dict, or of a list of pairs."""
    made = PickledDict()
    for arg in args:
        if isinstance(arg, Global):  # the factory of a defaultdict
            continue
        pairs = arg.items() if isinstance(arg, dict) else arg
        for key, value in pairs:
            made[checked_key(key)] = value
    return made


def _sequence(*args: Any) -> tuple:
    """A tuple, list, set or torch.Size: the items as a tuple."""
    if len(args) > 1 or not all(isinstance(arg, tuple | list) for arg in args):
        raise Refused("a sequence made of something else")
    return tuple(args[0]) if args else ()


def _ignored(*_: Any) -> Ignored:
    return Ignored()


def _ndarray(*_: Any) -> Any:
    raise Refused("a numpy array made by calling numpy.ndarray")


def checked_key(key: Any) -> Any:
    """A key of a dict: text or a small number. Nested tuples could take forever to hash."""
    if key is None or isinstance(key, str | bool | bytes) or (type(key) is int and abs(key) < 2**60):
        return key
    raise Refused(f"a dict with a key {short(key)}; text or a whole number is needed")


def _numpy_names() -> dict[str, Callable[..., Any]]:
    names: dict[str, Callable[..., Any]] = {"numpy.dtype": PickledDtype, "numpy.ndarray": _ndarray}
    for package in ("numpy.core", "numpy._core"):
        names[f"{package}.multiarray._reconstruct"] = _reconstruct
        names[f"{package}.multiarray.scalar"] = _scalar
        names[f"{package}.numeric._frombuffer"] = _from_buffer
    return names


# Every name that a pickle without torch in it may mention, and what is made instead.
PLAIN_NAMES: Mapping[str, Callable[..., Any]] = {
    **_numpy_names(),
    "_codecs.encode": _bytes,
    **dict.fromkeys(("collections.OrderedDict", "collections.Counter", "collections.defaultdict", "builtins.dict"), _mapping),
    **dict.fromkeys(("builtins.tuple", "builtins.list", "builtins.set", "builtins.frozenset"), _sequence),
    **dict.fromkeys(("builtins.int", "builtins.float", "argparse.Namespace", "pathlib.Path", "pathlib.PosixPath",
                     "pathlib.WindowsPath", "pathlib.PurePosixPath"), _ignored),
}
