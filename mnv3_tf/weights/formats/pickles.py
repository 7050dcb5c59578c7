"""Pickled tensors with nothing run: `.pth` and `.pdparams` files that nobody has vouched for.

A pickle is a program, and `pickle.load` runs it. :class:`SafeUnpickler` is the standard library's own reader in Python, as the
one in C follows a key of nested tuples until it crashes. It never imports anything: a name such as
``torch._utils._rebuild_tensor_v2`` is looked up in a table of this kit's own constructors, each of which makes data only, and a
name that is not in the table ends the reading with an error that says which it was. Opcodes that reach further (extension
registry, instances of classes, out-of-band buffers) are refused. Every opcode takes a time and memory in proportion to the bytes
it stands for, so neither can exceed what the file's size allows.

Sources: the opcodes as :mod:`pickletools` documents them; how numpy pickles arrays and Python its containers
(`ndarray.__reduce__`, `dtype.__reduce__`, `OrderedDict.__reduce__`).
"""

import functools
import io
import math
import pickle
import pickletools
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mnv3_tf.errors import InputError

_MOST_READS = 10_000_000
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
_DTYPE = re.compile(r"[<>=|]?(f2|f4|f8|i1|i2|i4|i8|u1|u2|u4|u8|b1|\?)")
_NEEDLESS = ("PERSID", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "LONG4", "NEXT_BUFFER", "READONLY_BUFFER")


class Refused(ValueError):
    """What stands in a pickle is not of a kind that this reader accepts; the reason is the message."""


class StandIn:
    """Stands for an object that weights do not need, such as the arguments of a training script; holds nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def build(self, state: Any) -> None:
        """Takes what else the pickle says of the object, or leaves it out."""


class PickledDict(dict, StandIn):
    """A dict or one of its kin; what else was attached to it (such as torch's `_metadata`) is left out.

    A key is text or a small number, as nested tuples could take forever to hash.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        if key is not None and not isinstance(key, str | bool | bytes) and (type(key) is not int or abs(key) >= 2**60):
            raise Refused(f"a dict with a key {short(key)}; text or a whole number is needed")
        super().__setitem__(key, value)


class PickledDtype(StandIn):
    """A numeric numpy dtype while it is read: first its letters, then its byte order."""

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


class PickledArray(StandIn):
    """A numpy array while it is read: named first, its values given later or never."""

    value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        """numpy's own state: (version, shape, dtype, Fortran order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("a numpy array with an unknown state")
        _, shape, dtype, fortran, raw = state
        self.value = _numpy(raw, dtype, shape, "F" if fortran is True else "C")


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
        return repr(value)[:400]
    return f"of type {type(value).__name__}"


def _numpy(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """An array whose values are as many as its shape says; not to be written to."""
    if isinstance(raw, str):  # how Python 2 wrote bytes
        raw = raw.encode("latin-1")
    if not isinstance(dtype, PickledDtype) or not isinstance(raw, bytes) or order not in ("C", "F"):
        raise Refused("a numpy array without a numeric dtype and plain bytes")
    sizes = checked_shape(shape)
    if math.prod(sizes) * dtype.dtype.itemsize != len(raw):
        raise Refused(f"a numpy array of shape {short(sizes)} and dtype {dtype.dtype} with {len(raw)} bytes of values")
    return np.frombuffer(raw, dtype.dtype).reshape(sizes, order=order)


def _ndarray(*_: Any) -> Any:
    raise Refused("a numpy array made by calling numpy.ndarray")


def _reconstruct(kind: Any, *_: Any) -> PickledArray:
    if kind is not _ndarray:
        raise Refused("a numpy array of a class other than numpy.ndarray")
    return PickledArray()


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 writes bytes: as text to be encoded."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("bytes in an encoding other than latin1")
    return text.encode("latin-1")


def _mapping(*args: Any) -> PickledDict:
    """OrderedDict, Counter or defaultdict: empty, of a dict, or of pairs."""
    made = PickledDict()
    for arg in args:
        if not callable(arg):  # as the factory of a defaultdict is
            for key, value in arg.items() if isinstance(arg, dict) else arg:
                made[key] = value
    return made


def _sequence(*args: Any) -> tuple:
    """A tuple, list or set: the items as a tuple."""
    if len(args) > 1 or not all(isinstance(arg, tuple | list) for arg in args):
        raise Refused("a sequence made of something else")
    return tuple(args[0]) if args else ()


# Every name that a pickle without torch in it may mention, and what stands for it.
PLAIN_NAMES: Mapping[str, Any] = {
    "numpy.dtype": PickledDtype, "numpy.ndarray": _ndarray, "_codecs.encode": _bytes,
    **{f"numpy.{core}.{name}": make for core in ("core", "_core") for name, make in (
        ("multiarray._reconstruct", _reconstruct), ("multiarray.scalar", lambda dtype, raw: _numpy(raw, dtype, (), "C")),
        ("numeric._frombuffer", _numpy))},
    **dict.fromkeys(("collections.OrderedDict", "collections.Counter", "collections.defaultdict", "builtins.dict"), _mapping),
    **dict.fromkeys(("builtins.tuple", "builtins.list", "builtins.set", "builtins.frozenset"), _sequence),
    **dict.fromkeys(("builtins.int", "builtins.float", "argparse.Namespace", "pathlib.Path", "pathlib.PosixPath",
                     "pathlib.WindowsPath", "pathlib.PurePosixPath"), StandIn),
}


class _Bytes(io.BytesIO):
    """Bytes whose end comes as an error; nobody needs more than so many steps through them."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > _MOST_READS:
            raise Refused(f"more than {_MOST_READS // 2} steps, too many for weights")
        found = super().read(size)
        if len(found) < (size or 0):
            raise EOFError
        return found

    def readline(self, size: int | None = -1) -> bytes:
        found = super().readline(size)
        if not found.endswith(b"\n"):
            raise EOFError
        return found


def _refuse(opcode: str, _: "SafeUnpickler") -> None:
    raise Refused(f"the opcode {opcode}, which tensors do not need")


_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class SafeUnpickler(_Unpickler):
    """Reads one pickle after another from `content`.

    Args:
        path: the file, for messages.
        content: its bytes, or those of the part that is a pickle.

    Attributes:
        names: those that may be mentioned, with what stands for each. A function or class among them may be called, and is one
            of ours; so nothing else that can be called is ever there to be.
        file: the bytes, at the end of the last pickle.
    """

    names = PLAIN_NAMES

    def __init__(self, path: str | Path, content: bytes) -> None:
        self.path = path
        self.file = _Bytes(content)
        self.copies_left = 4 * len(content) + 1_000_000
        super().__init__(self.file, encoding="latin-1")

    def load(self) -> Any:
        """The next object: dicts, lists, tuples, text, numbers, and what the constructors made.

        Raises:
            InputError: it is damaged, or asks for more than tensors need; nothing of what it asks for was done.
        """
        self.memo: dict[int, Any] = {}
        try:
            return super().load()
        except Refused as error:
            raise InputError(f"{self.path}: holds {error}. Nothing in it was run. {remedy(self.path)}") from None
        except (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError,
                struct.error) as error:
            raise InputError(f"{self.path}: the pickle in it is damaged or cut short ({type(error).__name__} near byte "
                             f"{self.file.tell()}). Download or save it again.") from None

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name."""
        full = f"{_OLD_MODULES.get(module, module)}.{name}"
        if full not in self.names:
            raise Refused(_forbidden(full))
        return self.names[full]

    def persistent_load(self, identity: Any) -> Any:
        """What an id stands for."""
        raise Refused("a reference to data outside of it")

    def _spend(self, args: Any) -> None:
        """Counts what a constructor may copy: the same large text used again and again would otherwise fill the memory."""
        if isinstance(args, tuple):
            self.copies_left -= len(args) + sum(len(arg) for arg in args if isinstance(arg, str | tuple | list | dict))
        if self.copies_left < 0:
            raise Refused("the same values used so often that they would outgrow the file by far")

    def _reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if not callable(function) or not isinstance(args, tuple):
            raise Refused(f"a call of something {short(function)}")
        self._spend(args)
        self.append(function(*args))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, StandIn):
            raise Refused(f"a state for an object {short(target)}, which has none")
        self._spend(state)
        target.build(state)

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append(_mapping(zip(items[::2], items[1::2], strict=True)))

    def _inst(self) -> None:
        self.find_class(*(self.readline()[:-1].decode() for _ in range(2)))  # a name may be the better reason
        _refuse("INST", self)

    # A set is a list here, as its items need no hash then; a bytearray is bytes, and a frame nothing but its content.
    dispatch: ClassVar[dict[int, Any]] = {
        **{ord(opcode.code): _Unpickler.dispatch[ord(opcode.code)] for opcode in pickletools.opcodes if opcode.proto <= 5},
        **{getattr(pickle, name)[0]: functools.partial(_refuse, name) for name in _NEEDLESS},
        pickle.INST[0]: _inst, pickle.REDUCE[0]: _reduce, pickle.NEWOBJ[0]: _reduce, pickle.BUILD[0]: _build,
        pickle.EMPTY_DICT[0]: lambda self: self.append(PickledDict()), pickle.DICT[0]: _dict,
        pickle.EMPTY_SET[0]: _Unpickler.load_empty_list, pickle.FROZENSET[0]: _Unpickler.load_list,
        pickle.ADDITEMS[0]: _Unpickler.load_appends, pickle.BYTEARRAY8[0]: _Unpickler.load_binbytes8,
        pickle.FRAME[0]: lambda self: self.read(8)}


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
