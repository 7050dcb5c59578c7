"""Files of weights, of whatever framework: tensors by the names that their source gives them.

The format is found by content, never by the suffix. Nothing in a file is run: pickles are read by
:mod:`mnv3_tf.weights.formats.pickles`, safetensors by its own library, HDF5 by h5py.
"""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.files import read_bytes
from mnv3_tf.text import nearest
from mnv3_tf.weights.formats import torch_files
from mnv3_tf.weights.formats.foreign import describe, no_model
from mnv3_tf.weights.formats.hdf5 import Group, WholeModel, read_h5
from mnv3_tf.weights.formats.keras_archive import read_keras_archive
from mnv3_tf.weights.formats.pickles import PickledArray, SafeUnpickler, remedy
from mnv3_tf.weights.formats.zips import most_bytes, open_zip

_MAX_BYTES = 1 << 31
# Where checkpoints of training scripts keep a model's tensors; averaged weights first, as they are what is evaluated.
_PARTS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model_state", "model", "net",
          "network", "params", "module")
# What training code wraps a network in, outermost or within each other.
_PREFIXES = ("module.", "_orig_mod.", "model.", "ema_model.", "model_ema.", "ema.", "net.", "network.", "_model.", "student.",
             "base_model.")
_COUNTERS = re.compile(r"(^|[./])(num_batches_tracked|n_averaged|iterations?|step|seed_generator_state)$|seed_generator")
_SAFE_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "I64": "<i8", "I32": "<i4", "I16": "<i2",
                "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}
_STARTS = ((b"PK\x03\x04", "zip"), (b"\x89HDF\r\n\x1a\n", "h5"), (torch_files.LEGACY_START, "torch legacy"),
           *((b"\x80" + bytes([protocol]), "pickle") for protocol in range(2, 6)))
_PADDLE_NAMES = "StructuredToParameterName@@"
_PADDLE_SLICES = "UnpackBigParamInfor@@"


@dataclass(frozen=True)
class Source:
    """What a file of weights holds.

    Attributes:
        path: the file.
        format: "torch", "torch legacy", "pickle" (`.pdparams` and other dicts of numpy arrays), "safetensors", "h5" (Keras's
            older layout), "keras h5" (Keras 3's) or "keras" (a whole model's archive).
        tensors: float32, by the source's names, in file order. From HDF5 the name is ``layer/tensor``.
        groups: the same by layer, for HDF5; in the order of :func:`~mnv3_tf.weights.formats.hdf5.read_h5`. Else empty.
        notes: what was chosen, renamed, converted or left out, one sentence each; to be shown.
        whole: how a file that holds a whole Keras model describes it.
    """

    path: Path
    format: str
    tensors: dict[str, np.ndarray]
    groups: tuple[Group, ...] = ()
    notes: tuple[str, ...] = ()
    whole: WholeModel | None = None


def read_source(path: str | Path, part: str | None = None) -> Source:
    """Reads a file of weights.

    Args:
        path: `.pth`, `.pt`, `.bin`, `.pdparams`, `.safetensors`, `.h5`, `.weights.h5` or `.keras`, by any name.
        part: of a checkpoint with several dicts of tensors, the key of the one to take; None takes averaged weights where there
            are some, else the model's, and says so in the notes.

    Raises:
        InputError: it is not one of these, damaged, not safe to read, or holds no weights.
    """
    path = Path(path)
    refuse_foreign(path)
    content = _content(path)
    kind = sniff(path, content)
    if kind == "zip":
        with open_zip(path, content) as archive:
            if "model.weights.h5" in archive.namelist():
                return _from_groups(path, *read_keras_archive(path, archive, len(content)), part)
            return _from_object(path, "torch", torch_files.read_zip(path, archive, len(content)), part)
    if kind == "h5":
        return _from_groups(path, *read_h5(path, content), part)
    if kind == "safetensors":
        return _from_object(path, kind, _safetensors(path, content), part)
    if kind == "torch legacy":
        return _from_object(path, kind, torch_files.read_legacy(path, content), part)
    return _from_object(path, kind, _joined(path, SafeUnpickler(path, content).load()), part)


def refuse_foreign(path: str | Path) -> None:
    """Refuses what another framework exported, and archives, by their name.

    Raises:
        InputError: what it is, and the way out.
    """
    what = describe(path)
    if what:
        raise InputError(f"{path}: {what}.")


def sniff(path: str | Path, content: bytes) -> str:
    """The container that bytes are: "zip", "h5", "safetensors", "torch legacy" or "pickle".

    Raises:
        InputError: they are not weights; the message says what they look like instead.
    """
    if content[8:9] == b"{" and 2 <= int.from_bytes(content[:8], "little") <= len(content) - 8:
        return "safetensors"
    for start, kind in _STARTS:
        if content.startswith(start):
            return kind
    raise InputError(f"{path}: {_looks_like(content)}. Allowed: .pth, .pt and .bin of torch, .safetensors, .pdparams, .h5, "
                     ".weights.h5 and .keras of Keras.")


def _looks_like(content: bytes) -> str:
    known = no_model(content)
    if known:
        return known
    if content[4:8] == b"TFL3":
        return "a TFLite model, not a file of weights; --from tflite takes the MobileNetV3 in it"
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in content[:512]):
        return f"text ({content[:60].decode('ascii', 'replace')!r}), not weights"
    return "no known format of weights, or cut short at its start"


def _content(path: Path) -> bytes:
    if os.path.isdir(path):
        raise InputError(f"{path}: a folder; the file of weights in it is needed.")
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if size > _MAX_BYTES:
        raise InputError(f"{path}: {size} bytes, far more than any MobileNetV3 has; at most {_MAX_BYTES} are read. Save the "
                         "model's tensors alone.")
    return read_bytes(path)


def _safetensors(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """The tensors, in the order of their place in the file."""
    import safetensors

    try:
        entries = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: damaged or cut short ({error}). Download or save it again.") from None
    header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
    tensors = {}
    for name, entry in sorted(entries, key=lambda item: header[item[0]]["data_offsets"]):
        if entry["dtype"] not in _SAFE_DTYPES:
            raise InputError(f"{path}: {name} has the dtype {entry['dtype']}; allowed: {', '.join(_SAFE_DTYPES)}.")
        dtype: Any = _SAFE_DTYPES[entry["dtype"]]
        tensors[name] = np.frombuffer(entry["data"], np.dtype(dtype)).reshape(entry["shape"])
    return tensors


def _joined(path: Path, value: Any) -> Any:
    """A dict of Paddle without its table of names, and with big tensors, which protocol 2 stores in slices, put together."""
    if not isinstance(value, dict):
        return value
    value = {key: item for key, item in value.items() if key != _PADDLE_NAMES}
    sliced = value.pop(_PADDLE_SLICES, {})
    try:
        for name, facts in sliced.items():
            parts = [_array(path, key, value.pop(key)) for key in facts["slices"]]
            value[name] = np.concatenate(parts).reshape(facts["OriginShape"])
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: damaged: the slices of a big tensor do not fit together ({error}). Save it again.") from None
    return value


@dataclass
class _Notes:
    """Sentences for the user, and the names that a sentence is about."""

    sentences: list[str] = field(default_factory=list)
    converted: dict[str, int] = field(default_factory=dict)
    counters: list[str] = field(default_factory=list)

    def all(self) -> tuple[str, ...]:
        converted = [f"tensors converted from {dtype} to float32: {count}" for dtype, count in self.converted.items()]
        if self.counters:
            converted.append(f"counters left out: {len(self.counters)}, such as {self.counters[0]}")
        return tuple(self.sentences + converted)


def _from_object(path: Path, kind: str, value: Any, part: str | None) -> Source:
    """Finds the dict of tensors in what a file holds, and makes float32 of it."""
    notes = _Notes()
    chosen = _choose(path, value, part, notes)
    others = [str(key) for key, item in chosen.items() if not _is_tensor(item)]
    if others:
        notes.sentences.append(f"entries left out that are not tensors: {len(others)}, such as {others[0][:80]}")
    named = {str(key): item for key, item in chosen.items() if _is_tensor(item)}
    named = _unwrapped(named, notes)
    left = most_bytes(path.stat().st_size)  # a storage can be described any number of times
    tensors = {}
    for name, item in named.items():
        array = _floats(path, name, _array(path, name, item), notes, bfloat16=kind == "pickle")
        if array is not None:
            left -= array.nbytes
            if left < 0:
                raise InputError(f"{path}: describes far more tensors than a file of its size can hold: damaged, or made to "
                                 "fill the memory.")
            tensors[name] = array
    if not tensors:
        raise InputError(f"{path}: holds no weights, only counters.")
    return Source(path, kind, tensors, notes=notes.all())


def _unwrapped(named: dict[str, Any], notes: _Notes) -> dict[str, Any]:
    """The tensors without the prefixes of what the network was wrapped in; of two copies of it, the averaged one."""
    while True:
        names = [name for name in named if not _COUNTERS.search(name) or name.startswith(_PREFIXES)]
        used = [prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in names)]
        if not used or not all(name.startswith(_PREFIXES) for name in names):
            return named
        chosen = next((prefix for prefix in used if "ema" in prefix), used[0])
        others = [prefix for prefix in used if prefix != chosen]
        if others and ("ema" not in chosen or len(others) > 1):
            return named
        named = {name.removeprefix(chosen): item for name, item in named.items()
                 if name.startswith(chosen) or not name.startswith(_PREFIXES)}
        notes.sentences.append(f"the averaged tensors, with the prefix {chosen!r}, were taken, and not those with {others[0]!r}"
                               if others else f"the prefix {chosen!r} of every name is left out")


def _from_groups(path: Path, kind: str, groups: tuple[Group, ...], whole: WholeModel | None, part: str | None) -> Source:
    """Makes float32 of the layers of an HDF5 file."""
    if part is not None:
        raise InputError(f"{path}: a Keras file has no parts; {part!r} was asked for.")
    notes = _Notes()
    floats = []
    for group in groups:
        arrays = {name: _floats(path, f"{group.path}/{group.name}/{name}", array, notes) for name, array in group.tensors.items()}
        kept = {name: array for name, array in arrays.items() if array is not None}
        if kept:
            floats.append(Group(group.name, group.path, kept))
    tensors: dict[str, np.ndarray] = {}
    for group in floats:
        for name, array in group.tensors.items():
            full = f"{group.name}/{name}" if group.name else name
            tensors[f"{group.path}/{name}" if full in tensors else full] = array
    return Source(path, kind, tensors, tuple(floats), notes.all(), whole)


def _is_tensor(value: Any) -> bool:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):  # how Paddle pickles a single tensor
        value = value[1]
    return isinstance(value, PickledArray | np.ndarray)


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(_is_tensor(item) for item in value.values())


def _choose(path: Path, value: Any, part: str | None, notes: _Notes) -> dict[Any, Any]:
    """The dict of tensors: the object itself, or one of its parts."""
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds an object of type {type(value).__name__}; a dict of tensors is needed. {remedy(path)}")
    found = {str(key): item for key, item in value.items() if _has_tensors(item)}
    for key, item in value.items():  # one level more, as in {"model": {"state_dict": ...}}
        if isinstance(item, dict) and not _has_tensors(item):
            found.update({f"{key}.{inner}": below for inner, below in item.items() if inner in _PARTS and _has_tensors(below)})
    if part is not None:
        if part not in found:
            raise InputError(f"{path}: has no part {part!r}{nearest(part, found)}. Allowed: {', '.join(found) or 'none'}.")
        return found[part]
    known = [key for name in _PARTS for key in found if key.split(".")[0] == name]
    if known:
        rest = [key for key in found if key != known[0]]
        notes.sentences.append(f"the tensors are those of its part {known[0]!r}" + (
            f" (it also has {', '.join(map(repr, rest[:5]))})" if rest else ""))
        return found[known[0]]
    if _has_tensors(value):
        return value
    if len(found) == 1:
        key, only = next(iter(found.items()))
        notes.sentences.append(f"the tensors are those of its part {key!r}")
        return only
    if found:
        raise InputError(f"{path}: has several dicts of tensors ({', '.join(list(found)[:8])}). Say which to take with --part.")
    keys = ", ".join(str(key)[:40] for key in list(value)[:8])
    raise InputError(f"{path}: holds no tensors (its keys: {keys or 'none'}). Save model.state_dict().")


def _array(path: Path, name: Any, item: Any) -> np.ndarray:
    if isinstance(item, tuple):
        item = item[1]
    if isinstance(item, PickledArray):
        item = item.value
    if item is None:
        raise InputError(f"{path}: {name}: a numpy array without values.")
    return item


def _floats(path: Path, name: str, array: np.ndarray, notes: _Notes, bfloat16: bool = False) -> np.ndarray | None:
    """float32 of an array; None for a counter. `bfloat16`: 16-bit whole numbers are those, as Paddle writes them."""
    if bfloat16 and array.dtype == np.uint16:
        array = array.astype("<u2").view(ml_dtypes.bfloat16)
    if array.dtype.kind in "iub":
        if array.size <= 1 or _COUNTERS.search(name):
            notes.counters.append(name)
            return None
        raise InputError(f"{path}: {name} holds {array.dtype} of shape {array.shape}; these are quantized weights or no weights "
                         "at all. The float weights are needed.")
    if array.dtype != np.float32:
        notes.converted[array.dtype.name] = notes.converted.get(array.dtype.name, 0) + 1
    with np.errstate(over="ignore"):  # infinities are for the reader of the tensors to judge
        return np.array(array, np.float32, order="C")
