"""Pickled tensors without pickle: a small reader for `.pth` and `.pdparams` files that nobody has vouched for.

A pickle is a program, and `pickle.load` runs it. Here the standard library only splits the bytes into opcodes
(:func:`pickletools.genops`); a machine of our own executes the few opcodes that tensors and plain containers need. It never
imports anything: a name such as ``torch._utils._rebuild_tensor_v2`` is looked up in a table of this kit's own constructors, and
a name that is not in the table ends the reading with an error that says which it was. Opcodes that reach further (extension
registry, instances of classes, out-of-band buffers) are not there at all. Every opcode takes a time and memory in proportion to
the bytes it stands for, so neither can exceed what the file's size allows.

Source of the opcodes: the documentation of :mod:`pickletools`.
"""

import io
import math
import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.errors import InputError

_MAX_OPCODES = 5_000_000
_MAX_INTEGER_BITS = 128
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
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}


class Machine:
    """Executes one pickle after another from `content`.

    Args:
        path: the file, for messages.
        content: its bytes, or those of the part that is a pickle.
        names: the names that may be mentioned; see :data:`PLAIN_NAMES`.
        persistent: makes the object that a persistent id stands for (torch's storages); None refuses persistent ids.
    """

    def __init__(self, path: str | Path, content: bytes, names: Mapping[str, Callable[..., Any]] = PLAIN_NAMES,
                 persistent: Callable[[Any], Any] | None = None) -> None:
        self.path = path
        self.file = io.BytesIO(content)
        self.names = names
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.copies_left = 4 * len(content) + 1_000_000

    def load(self) -> Any:
        """The next object: dicts, lists, tuples, text, numbers, and what the constructors made.

        Raises:
            InputError: it is damaged, or asks for more than tensors need; nothing of what it asks for was done.
        """
        self.stack, self.marked, self.memo = [], [], {}
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):
                if count > _MAX_OPCODES:
                    raise Refused(f"more than {_MAX_OPCODES} steps, too many for weights")
                if opcode.name == "STOP":
                    return self.stack.pop()
                step = _STEPS.get(opcode.name)
                if opcode.name == "INST":
                    self.find(*argument.split(" ", 1))
                if step is None:
                    raise Refused(f"the opcode {opcode.name}, which tensors do not need")
                step(self, argument)
        except Refused as error:
            raise InputError(f"{self.path}: holds {error}. Nothing in it was run. {remedy(self.path)}") from None
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
            raise InputError(f"{self.path}: the pickle in it is damaged or cut short ({type(error).__name__} near byte "
                             f"{self.file.tell()}). Download or save it again.") from None
        raise InputError(f"{self.path}: the pickle in it is cut short. Download or save it again.")

    # What follows are the opcodes, by their names in pickletools.

    def push(self, value: Any) -> None:
        if type(value) is int and value.bit_length() > _MAX_INTEGER_BITS:
            raise Refused(f"a whole number of {value.bit_length()} bits")
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def spend(self, args: Any) -> None:
        """Counts what a constructor may copy: the same large text used again and again would otherwise fill the memory."""
        if isinstance(args, tuple):
            self.copies_left -= sum(len(arg) for arg in args if isinstance(arg, str | tuple | list | dict))
        if self.copies_left < 0:
            raise Refused("the same values used so often that they would outgrow the file by far")

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("a global whose name is no text")
        full = f"{_OLD_MODULES.get(module, module)}.{name}"
        make = self.names.get(full)
        if make is None:
            raise Refused(_forbidden(full))
        self.stack.append(Global(full, make))

    def call(self, function: Any, args: Any) -> None:
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise Refused(f"a call of something {short(function)}")
        self.spend(args)
        self.stack.append(function.make(*args))

    def reduce(self, _: Any) -> None:
        args = self.stack.pop()
        self.call(self.stack.pop(), args)

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, PickledArray | PickledDtype):
            self.spend(state)
            target.build(state)
        elif not isinstance(target, PickledDict | Ignored):
            raise Refused(f"a state for an object {short(target)}, which has none")

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise Refused(f"items for an object {short(target)}, which is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[checked_key(key)] = value

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise Refused(f"items for an object {short(target)}, which is no list")
        target.extend(items)

    def pop_pair(self) -> list[Any]:
        value = self.stack.pop()
        return [self.stack.pop(), value]

    def take(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count:])
        if len(items) != count:
            raise IndexError
        del self.stack[len(self.stack) - count:]
        self.stack.append(items)

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def drop_to_mark(self, _: Any) -> None:
        self.pop_mark()

    def stack_global(self, _: Any) -> None:
        name = self.stack.pop()
        self.find(self.stack.pop(), name)

    def persistent_id(self, _: Any) -> None:
        if self.persistent is None:
            raise Refused("a reference to data outside of it")
        self.stack.append(self.persistent(self.stack.pop()))

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def dict_of_mark(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.set_items(items)

    def memoize(self, index: Any) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]


def _forbidden(full: str) -> str:
    """What is said of a name that is not in the table."""
    module = full.split(".")[0]
    if module in ("torchvision", "timm", "paddle", "paddleclas", "ppcls", "__main__") or full.startswith("torch.nn.modules"):
        return f"a whole model (an object of the class {full}), not only its tensors"
    if "quantize" in full or re.search(r"\.Q[UI]\w+Storage|_rebuild_qtensor|torch\.qu?int", full):
        return f"quantized tensors ({full}); the float weights are needed"
    if re.fullmatch(r"torch\.(\w+Storage|[a-z]+\d+(_\w+)?)", full):
        return f"tensors of the type {full}; float32, float16, bfloat16, float64 and whole numbers can be read"
    if module in ("posix", "nt", "os", "subprocess", "sys", "builtins", "runpy", "importlib", "shutil", "socket", "pty", "ctypes",
                  "commands", "webbrowser", "code", "pickle", "marshal", "types", "functools", "operator"):
        return (f"a reference to {full}, which can be used to run programs and which no tensor needs; do not open the file with "
                "other tools")
    return f"a reference to {full}, which no tensor needs"


def remedy(path: str | Path) -> str:
    """How somebody who trusts a file turns it into one that needs no trust."""
    name = Path(path).name
    if Path(path).suffix == ".pdparams":
        return ("If you trust its source, load it in Paddle and save the tensors alone: "
                "paddle.save(model.state_dict(), 'weights.pdparams').")
    return ("Ask its author for a .safetensors file; or, only if you trust its source, save the tensors alone where torch and "
            f"the model's code are installed: python -c \"import torch; m = torch.load('{name}', map_location='cpu', "
            "weights_only=False); torch.save(getattr(m, 'module', m).state_dict(), 'weights.pth')\".")


def _constant(value: Any) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine.stack.append(value)


_STEPS: Mapping[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
                     "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
                     "SHORT_BINUNICODE", "BINUNICODE8"), Machine.push),
    "NONE": _constant(None), "NEWTRUE": _constant(True), "NEWFALSE": _constant(False), "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_SET": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "MARK": Machine.mark, "POP": Machine.pop, "POP_MARK": Machine.drop_to_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE1": lambda machine, _: machine.take(1), "TUPLE2": lambda machine, _: machine.take(2),
    "TUPLE3": lambda machine, _: machine.take(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "FROZENSET": lambda machine, _: machine.push(machine.pop_mark()),
    "DICT": Machine.dict_of_mark,
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop_pair()),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine.memoize),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine.stack.append(machine.memo[index])),
    "GLOBAL": lambda machine, pair: machine.find(*pair.split(" ", 1)),
    "STACK_GLOBAL": Machine.stack_global, "BINPERSID": Machine.persistent_id,
    "REDUCE": Machine.reduce, "NEWOBJ": Machine.reduce, "BUILD": Machine.build,
}
