"""torch's `.pth`, `.pt` and `.bin` files without torch: the zip format, and the older one of several pickles and raw storages.

A file holds a pickle that describes tensors (storage, offset, sizes, strides) and, apart from it, the storages' bytes. Tensors
stay descriptions until :meth:`Tensor.array` is asked for, so only what is wanted is read.

Sources: the layout as torch 2.13 writes it (`torch.save`, with and without `_use_new_zipfile_serialization`).
"""

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.weights.formats.constructors import PLAIN_NAMES, Global, Ignored, Refused, checked_shape, short
from mnv3_tf.weights.formats.pickles import Machine, remedy

# What the standard library raises for damaged zips.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, KeyError, OverflowError,
              NotImplementedError, RuntimeError)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x80\x02\x8a\n" + _LEGACY_MAGIC.to_bytes(10, "little") + b"."
_LEGACY_VERSION = 1001

# torch's dtype, its storage class and numpy's dtype.
_KINDS = (("float32", "Float", np.dtype("<f4")), ("float64", "Double", np.dtype("<f8")), ("float16", "Half", np.dtype("<f2")),
          ("bfloat16", "BFloat16", np.dtype(ml_dtypes.bfloat16)), ("int64", "Long", np.dtype("<i8")),
          ("int32", "Int", np.dtype("<i4")), ("int16", "Short", np.dtype("<i2")), ("int8", "Char", np.dtype("i1")),
          ("uint8", "Byte", np.dtype("u1")), ("bool", "Bool", np.dtype("?")))
_STORAGES = {f"torch.{prefix}Storage": dtype for _, prefix, dtype in _KINDS} | {
    "torch.storage.UntypedStorage": np.dtype("u1"), "torch.UntypedStorage": np.dtype("u1")}
_DTYPES = {f"torch.{name}": dtype for name, _, dtype in _KINDS}


class Storage:
    """A run of bytes that tensors look at.

    Attributes:
        key: its name in the file.
        dtype: of its elements.
        size_bytes: as declared by the pickle.
        read: gives the bytes.
        swapped: whether they are in big-endian order.
    """

    def __init__(self, key: str, dtype: np.dtype, count: int, read: Callable[["Storage"], bytes]) -> None:
        self.key = key
        self.dtype = dtype
        self.size_bytes = count * dtype.itemsize
        self.read = read
        self.swapped = False


class Tensor:
    """A tensor as a pickle describes it.

    Args:
        storage: where its values lie.
        offset: of its first element, in elements.
        shape: sizes.
        strides: in elements.
        dtype: of the elements; None for the storage's.

    Raises:
        Refused: it reaches outside of its storage, or has more elements than that.
    """

    __slots__ = ("dtype", "offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: np.dtype | None = None) -> None:
        if not isinstance(storage, Storage):
            raise Refused(f"a tensor whose storage is {short(storage)}")
        self.storage = storage
        self.dtype = storage.dtype if dtype is None else dtype
        self.shape = checked_shape(shape)
        self.strides = checked_shape(strides)
        (self.offset,) = checked_shape((offset,))
        available = storage.size_bytes // self.dtype.itemsize
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=False))
        outside = 0 not in self.shape and last >= available
        if len(self.shape) != len(self.strides) or outside or math.prod(self.shape) > available:
            raise Refused(f"a tensor of shape {short(self.shape)}, strides {short(self.strides)} and offset {self.offset}, which "
                          f"does not fit its storage of {available} elements")

    def array(self) -> np.ndarray:
        """The values, contiguous, in the machine's byte order."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        content = self.storage.read(self.storage)
        stored = np.frombuffer(content, self.dtype, len(content) // self.dtype.itemsize)
        if self.storage.swapped and self.dtype.itemsize > 1:
            stored = stored.view(f"u{self.dtype.itemsize}").byteswap().view(self.dtype)
        step = self.dtype.itemsize
        return np.array(np.lib.stride_tricks.as_strided(
            stored[self.offset:], self.shape, tuple(stride * step for stride in self.strides), writeable=False), order="C")


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """`_rebuild_tensor` and `_rebuild_tensor_v2`: what follows the strides concerns gradients, and marks of lazy negation."""
    if len(rest) > 2 and rest[2]:
        raise Refused("a tensor that is to be conjugated or negated; save tensor.resolve_neg() instead")
    return Tensor(storage, offset, shape, strides)


def _rebuild_with_dtype(storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any,
                        metadata: Any = None) -> Tensor:
    if not isinstance(dtype, Global) or dtype.name not in _DTYPES or metadata:
        raise Refused(f"a tensor of dtype {dtype.name if isinstance(dtype, Global) else short(dtype)}")
    return Tensor(storage, offset, shape, strides, _DTYPES[dtype.name])


def _parameter(tensor: Any, *_: Any) -> Any:
    if not isinstance(tensor, Tensor):
        raise Refused(f"a parameter whose tensor is {short(tensor)}")
    return tensor


def _from_type(function: Any, _kind: Any, args: Any, _state: Any) -> Any:
    """A tensor with attributes of its own; they are left out."""
    if not isinstance(function, Global) or not function.name.startswith("torch._utils._rebuild_") or not isinstance(args, tuple):
        raise Refused("a tensor rebuilt by an unknown function")
    return function.make(*args)


def _ignored(*_: Any) -> Ignored:
    return Ignored()


def _size(*args: Any) -> tuple:
    return checked_shape(args[0] if args else ())


TORCH_NAMES: Mapping[str, Callable[..., Any]] = {
    **PLAIN_NAMES,
    "torch._utils._rebuild_tensor": _rebuild, "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_with_dtype, "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter, "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": _size,
    # Mentioned beside tensors, never needed.
    **dict.fromkeys((*_STORAGES, *_DTYPES, "torch.device", "torch.nn.parameter.Parameter", "torch.Tensor",
                     "torch.serialization._get_layout"), _ignored),
}


def is_legacy(content: bytes) -> bool:
    """Whether bytes begin as torch's older format does."""
    return content.startswith(_LEGACY_START)


class _Storages:
    """Makes storages from persistent ids and keeps one per key."""

    def __init__(self, path: Path, read: Callable[[Storage], bytes]) -> None:
        self.path = path
        self.read = read
        self.found: dict[str, Storage] = {}

    def persistent(self, identity: Any) -> Storage:
        """("storage", class, key, device, element count) and, in the older format, a view of another, never used now."""
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
            raise Refused(f"a persistent id {short(identity[0] if isinstance(identity, tuple) and identity else identity)}")
        _, kind, key, _, count, *view = identity
        if not isinstance(kind, Global) or kind.name not in _STORAGES:
            raise Refused(f"a storage of the class {kind.name if isinstance(kind, Global) else short(kind)}")
        if not isinstance(key, str) or not re.fullmatch(r"\w{1,64}", key) or any(item is not None for item in view):
            raise Refused(f"a storage with the key {short(key)}")
        (count,) = checked_shape((count,))
        known = self.found.setdefault(key, Storage(key, _STORAGES[kind.name], count, self.read))
        if known.dtype != _STORAGES[kind.name] or known.size_bytes != count * known.dtype.itemsize:
            raise Refused(f"the storage {key} twice, with different types or sizes")
        return known


def read_zip(path: Path, archive: zipfile.ZipFile, size_bytes: int) -> Any:
    """What `torch.save` wrote as a zip: the pickled object with :class:`Tensor` in the tensors' place.

    Args:
        path: the file, for messages.
        archive: the open zip; the tensors read from it later.
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

    def read(storage: Storage) -> bytes:
        name = f"{prefix}/data/{storage.key}"
        if name not in entries or entries[name].file_size != storage.size_bytes:
            have = f"{entries[name].file_size} bytes" if name in entries else "missing"
            raise InputError(f"{path}: damaged: the storage {storage.key} should have {storage.size_bytes} bytes and is {have}. "
                             "Download or save it again.")
        return _entry(path, archive, name)

    storages = _Storages(path, read)
    result = Machine(path, _entry(path, archive, pickles[0]), TORCH_NAMES, storages.persistent).load()
    order = _entry(path, archive, f"{prefix}/byteorder") if f"{prefix}/byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise InputError(f"{path}: damaged: its byte order is {order[:20]!r}; little or big is allowed.")
    for storage in storages.found.values():
        storage.swapped = order == b"big"
    return result


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


def _entry(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except ZIP_ERRORS as error:
        raise InputError(f"{path}: damaged: the zip's entry {name!r} cannot be read ({error}). Download or save it again."
                         ) from None


def read_legacy(path: Path, content: bytes) -> Any:
    """What torch wrote before 1.6, or with `_use_new_zipfile_serialization=False`; as :func:`read_zip`.

    The file: magic number, version, facts of the machine, the object, the storages' keys (five pickles), then for each key
    the element count (8 bytes) and the elements.

    Raises:
        InputError: as :func:`read_zip`.
    """
    bodies: dict[str, tuple[int, int]] = {}

    def read(storage: Storage) -> bytes:
        start, size = bodies.get(storage.key, (0, -1))
        if size != storage.size_bytes:
            raise InputError(f"{path}: damaged: the storage {storage.key} should have {storage.size_bytes} bytes. Download or "
                             "save it again.")
        return content[start:start + size]

    storages = _Storages(path, read)
    machine = Machine(path, content, TORCH_NAMES, storages.persistent)
    magic, version, system, result, keys = (machine.load() for _ in range(5))
    if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION or not isinstance(system, dict) or not isinstance(keys, list):
        raise InputError(f"{path}: torch's older format in a version that is not known (version {short(version)}; "
                         f"{_LEGACY_VERSION} is). Load and save it in a current torch.")
    big = system.get("little_endian") is False
    position = machine.file.tell()
    for key in keys:
        storage = storages.found.get(key) if isinstance(key, str) else None
        header = content[position:position + 8]
        if storage is None or len(header) < 8:
            raise InputError(f"{path}: damaged or cut short at byte {position} (storage {short(key)}). Download or save it "
                             "again.")
        (count,) = struct.unpack("<q", header)
        size = count * storage.dtype.itemsize
        position += 8
        if size != storage.size_bytes or position + size > len(content):
            raise InputError(f"{path}: damaged or cut short: the storage {key} should have {storage.size_bytes} bytes at byte "
                             f"{position}; {max(0, len(content) - position)} follow. Download or save it again.")
        bodies[key] = (position, size)
        storage.swapped = big
        position += size
    return result


def open_zip(path: Path, content: bytes) -> zipfile.ZipFile:
    """A zip in memory.

    Raises:
        InputError: it is damaged.
    """
    try:
        return zipfile.ZipFile(io.BytesIO(content))
    except ZIP_ERRORS as error:
        raise InputError(f"{path}: damaged or cut short: {error}. Download or save it again.") from None

