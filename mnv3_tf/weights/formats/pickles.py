"""Pickled tensors without pickle: a small reader for `.pth` and `.pdparams` files that nobody has vouched for.

A pickle is a program, and `pickle.load` runs it. Here the standard library only splits the bytes into opcodes
(:func:`pickletools.genops`); a machine of our own executes the few opcodes that tensors and plain containers need. It never
imports anything: a name such as ``torch._utils._rebuild_tensor_v2`` is looked up in a table of this kit's own constructors
(:mod:`mnv3_tf.weights.formats.constructors`), and a name that is not in the table ends the reading with an error that says
which it was. Opcodes that reach further (extension registry, instances of classes, out-of-band buffers) are not there at all.
Every opcode takes a time and memory in proportion to the bytes it stands for, so neither can exceed what the file's size allows.

Source of the opcodes: the documentation of :mod:`pickletools`.
"""

import io
import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mnv3_tf.errors import InputError
from mnv3_tf.weights.formats.constructors import (
    PLAIN_NAMES,
    Global,
    Ignored,
    PickledArray,
    PickledDict,
    PickledDtype,
    Refused,
    checked_key,
    short,
)

_MAX_OPCODES = 5_000_000
_MAX_INTEGER_BITS = 128
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
                    self.find(*str(argument).split(" ", 1))
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
            raise Refused("a global whose name is not text")
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
            raise Refused(f"items for an object {short(target)}, which is not a dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[checked_key(key)] = value

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise Refused(f"items for an object {short(target)}, which is not a list")
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
