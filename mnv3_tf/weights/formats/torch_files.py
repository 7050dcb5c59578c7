"""torch's `.pth`, `.pt` and `.bin` files without torch: the zip format, and the older one of several pickles and raw storages.

A file holds a pickle that describes tensors (storage, offset, sizes, strides) and, apart from it, the storages' bytes. A tensor
is a view of its storage, which is read once.

Sources: the layout as torch 2.13 writes it (`torch.save`, with and without `_use_new_zipfile_serialization`).
"""

import math
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.weights.formats.pickles import PLAIN_NAMES, Refused, SafeUnpickler, StandIn, checked_shape, remedy, short
from mnv3_tf.weights.formats.zips import read_entry

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x80\x02\x8a\n" + _LEGACY_MAGIC.to_bytes(10, "little") + b"."
_LEGACY_VERSION = 1001

# torch's dtype, its storage class and numpy's dtype.
_KINDS = (("float32", "Float", np.dtype("<f4")), ("float64", "Double", np.dtype("<f8")), ("float16", "Half", np.dtype("<f2")),
          ("bfloat16", "BFloat16", np.dtype(ml_dtypes.bfloat16)), ("int64", "Long", np.dtype("<i8")),
          ("int32", "Int", np.dtype("<i4")), ("int16", "Short", np.dtype("<i2")), ("int8", "Char", np.dtype("i1")),
          ("uint8", "Byte", np.dtype("u1")), ("bool", "Bool", np.dtype("?")))


@dataclass
class _Storage:
    """A run of bytes that tensors look at; its elements are of `dtype`."""

    raw: bytes | bytearray
    dtype: np.dtype


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: np.dtype | None = None) -> np.ndarray:
    """A view of a storage; offset and strides count elements.

    Raises:
        Refused: it reaches outside of its storage, or has more elements than that.
    """
    if not isinstance(storage, _Storage):
        raise Refused(f"a tensor whose storage is {short(storage)}")
    dtype = dtype or storage.dtype
    shape, strides, (offset,) = checked_shape(shape), checked_shape(strides), checked_shape((offset,))
    available = len(storage.raw) // dtype.itemsize
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=False))
    outside = 0 not in shape and last >= available
    if len(shape) != len(strides) or outside or math.prod(shape) > available:
        raise Refused(f"a tensor of shape {short(shape)}, strides {short(strides)} and offset {offset}, which does not fit its "
                      f"storage of {available} elements")
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.ndarray(shape, dtype, storage.raw, offset * dtype.itemsize, [stride * dtype.itemsize for stride in strides])


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> np.ndarray:
    """`_rebuild_tensor` and `_rebuild_tensor_v2`: what follows the strides concerns gradients, and marks of lazy negation."""
    if len(rest) > 2 and rest[2]:
        raise Refused("a tensor that is to be conjugated or negated; save tensor.resolve_neg() instead")
    return _tensor(storage, offset, shape, strides)


def _rebuild_with_dtype(storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any,
                        metadata: Any = None) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or metadata:
        raise Refused(f"a tensor of dtype {short(dtype)}")
    return _tensor(storage, offset, shape, strides, dtype)


def _parameter(tensor: Any, *_: Any) -> np.ndarray:
    if not isinstance(tensor, np.ndarray):
        raise Refused(f"a parameter whose tensor is {short(tensor)}")
    return tensor


def _from_type(function: Any, _kind: Any, args: Any, _state: Any) -> np.ndarray:
    """A tensor with attributes of its own; they are left out."""
    if function not in (_rebuild, _rebuild_with_dtype, _parameter) or not isinstance(args, tuple):
        raise Refused("a tensor rebuilt by an unknown function")
    return function(*args)


TORCH_NAMES: Mapping[str, Any] = {
    **PLAIN_NAMES,
    "torch._utils._rebuild_tensor": _rebuild, "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_with_dtype, "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter, "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": lambda *args: checked_shape(args[0] if args else ()),
    "torch.storage.UntypedStorage": np.dtype("u1"), "torch.UntypedStorage": np.dtype("u1"),
    **{name: dtype for kind, prefix, dtype in _KINDS for name in (f"torch.{kind}", f"torch.{prefix}Storage")},
    # Mentioned beside tensors, never needed.
    **dict.fromkeys(("torch.device", "torch.nn.parameter.Parameter", "torch.Tensor", "torch.serialization._get_layout"), StandIn),
}


class _TorchUnpickler(SafeUnpickler):
    """Keeps one storage per key; `read_storage` gives its bytes by the key and how many they must be."""

    names = TORCH_NAMES

    def __init__(self, path: Path, content: bytes, read_storage: Callable[[str, int], bytes | bytearray], big: bool = False
                 ) -> None:
        super().__init__(path, content)
        self.read_storage = read_storage
        self.big = big
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, identity: Any) -> _Storage:
        """("storage", class, key, device, element count) and, in the older format, a view of another, never used now."""
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
            raise Refused(f"a persistent id {short(identity[0] if isinstance(identity, tuple) and identity else identity)}")
        _, dtype, key, _, count, *view = identity
        if not isinstance(dtype, np.dtype):
            raise Refused(f"a storage of the class {short(dtype)}")
        if not isinstance(key, str) or not re.fullmatch(r"\w{1,64}", key) or any(item is not None for item in view):
            raise Refused(f"a storage with the key {short(key)}")
        (count,) = checked_shape((count,))
        size_bytes = count * dtype.itemsize
        if key not in self.storages:
            self.storages[key] = _Storage(_little(self.read_storage(key, size_bytes), dtype, self.big), dtype)
        known = self.storages[key]
        if known.dtype != dtype or len(known.raw) != size_bytes:
            raise Refused(f"the storage {key} twice, with different types or sizes")
        return known


def _little(raw: bytes | bytearray, dtype: np.dtype, big: bool) -> bytes | bytearray:
    return np.frombuffer(raw, f"u{dtype.itemsize}").byteswap().tobytes() if big and raw else raw


def read_zip(path: Path, archive: zipfile.ZipFile, size_bytes: int) -> Any:
    """What `torch.save` wrote as a zip: the pickled object with arrays in the tensors' place.

    Args:
        path: the file, for messages.
        archive: the open zip.
        size_bytes: the file's size.

    Raises:
        InputError: it is damaged, no plain torch file, or not safe to read.
    """
    pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise InputError(f"{path}: a zip, but not one of torch.save or Keras (it has {len(pickles)} entries data.pkl; 1 is "
                         "needed).")
    prefix = pickles[0].split("/")[0]
    if f"{prefix}/constants.pkl" in archive.namelist():
        raise InputError(f"{path}: a TorchScript program, not only tensors. Save these alone: python -c \"import torch; "
                         f"torch.save(torch.jit.load('{path.name}', map_location='cpu').state_dict(), 'weights.pth')\".")

    entries = _checked_entries(path, archive, size_bytes)
    order = read_entry(path, archive, f"{prefix}/byteorder", size_bytes) if f"{prefix}/byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise InputError(f"{path}: damaged: its byte order is {order[:20]!r}; little or big is allowed.")

    def read(key: str, size: int) -> bytes:
        name = f"{prefix}/data/{key}"
        if name not in entries or entries[name].file_size != size:
            have = f"{entries[name].file_size} bytes" if name in entries else "missing"
            raise InputError(f"{path}: damaged: the storage {key} should have {size} bytes and is {have}. Download or save it "
                             "again.")
        return read_entry(path, archive, name, size_bytes)

    return _TorchUnpickler(path, read_entry(path, archive, pickles[0], size_bytes), read, order == b"big").load()


def _checked_entries(path: Path, archive: zipfile.ZipFile, size_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The zip's entries by name, none of which can surprise."""
    entries: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in archive.infolist():
        name = info.filename
        if name in entries or name.startswith("/") or "\\" in name or ".." in name.split("/") or not name.isprintable():
            raise InputError(f"{path}: the zip holds an entry {name[:80]!r}, as torch.save never writes. {remedy(path)}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise InputError(f"{path}: the zip's entry {name[:80]!r} is compressed or encrypted, which torch.save never does. "
                             "Save it again with torch.save.")
        total += info.file_size
        entries[name] = info
    if total > size_bytes:
        raise InputError(f"{path}: the zip declares {total} bytes of content in a file of {size_bytes}: damaged, or made to "
                         "fill the memory.")
    return entries


def read_legacy(path: Path, content: bytes) -> Any:
    """What torch wrote before 1.6, or with `_use_new_zipfile_serialization=False`; as :func:`read_zip`.

    The file: magic number, version, facts of the machine, the object, the storages' keys (five pickles), then for each key
    the element count (8 bytes) and the elements.

    Raises:
        InputError: as :func:`read_zip`.
    """
    left = len(content)

    def make_room(key: str, size: int) -> bytearray:
        nonlocal left
        left -= size
        if left < 0:
            raise InputError(f"{path}: damaged or cut short: the storage {key} should have {size} bytes, and the file has "
                             f"{len(content)} in all. Download or save it again.")
        return bytearray(size)

    unpickler = _TorchUnpickler(path, content, make_room)
    magic, version, system, result, keys = (unpickler.load() for _ in range(5))
    if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION or not isinstance(system, dict) or not isinstance(keys, list):
        raise InputError(f"{path}: torch's older format in a version that is not known (version {short(version)}; "
                         f"{_LEGACY_VERSION} is). Load and save it in a current torch.")
    position = unpickler.file.tell()
    missing = set(unpickler.storages)
    for key in keys:
        storage = unpickler.storages.get(key) if isinstance(key, str) else None
        header = content[position:position + 8]
        if storage is None or len(header) < 8:
            raise InputError(f"{path}: damaged or cut short at byte {position} (storage {short(key)}). Download or save it "
                             "again.")
        position += 8
        body = content[position:position + len(storage.raw)]
        if int.from_bytes(header, "little") * storage.dtype.itemsize != len(storage.raw) or len(body) < len(storage.raw):
            raise InputError(f"{path}: damaged or cut short: the storage {key} should have {len(storage.raw)} bytes at byte "
                             f"{position}; {len(content) - position} follow. Download or save it again.")
        storage.raw[:] = _little(body, storage.dtype, system.get("little_endian") is False)  # type: ignore[index]
        position += len(body)
        missing.discard(key)
    if missing:
        raise InputError(f"{path}: damaged: the storage {min(missing)} has no bytes. Download or save it again.")
    return result
