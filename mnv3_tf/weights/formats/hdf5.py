"""Keras weights in HDF5: the older layout of `model.save_weights("x.h5")`, and Keras 3's `.weights.h5`.

Only datasets are read, with h5py.

Sources: the layouts as keras 3.15 writes them (`keras.src.legacy.saving.legacy_h5_format`, `keras.src.saving.saving_lib`).
"""

import io
import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mnv3_tf.child import Child, ChildFailed
from mnv3_tf.errors import InputError
from mnv3_tf.weights.formats.zips import most_bytes

# 100 MB take about a second; the rest is for machines with much other work.
_SECONDS, _BYTES_A_SECOND = 240, 4 << 20
_GROUPS, _DEPTH = 100_000, 32
# Top-level groups of a Keras 3 file that hold no layer.
_NO_LAYERS = ("optimizer", "metrics", "loss")


@dataclass(frozen=True)
class Group:
    """One layer's tensors, in the order in which Keras lists them.

    Attributes:
        name: of the layer; where a Keras 3 file does not keep it, of its class with a number (`conv2d_3`).
        path: of its group in the file.
        tensors: by name within the layer (`kernel`, or the number that Keras 3 gives).
    """

    name: str
    path: str
    tensors: dict[str, np.ndarray]


@dataclass(frozen=True)
class WholeModel:
    """How a file describes the model whose weights it holds.

    Attributes:
        config: as Keras serializes a model.
        version: of the Keras that wrote it, such as "3.15.1".
    """

    config: dict[str, Any]
    version: str


def read_h5(path: Path, content: bytes) -> tuple[str, tuple[Group, ...], WholeModel | None]:
    """Every layer that has tensors, in file order.

    It is read in a process of its own: over a damaged file libhdf5 may end its process, or not come to an end.

    Returns:
        "h5" and groups for the older layout, whose order is that of the network, or "keras h5" and groups for Keras 3's, whose
        order is by the layers' class and number; and of a whole model, how it describes it.

    Raises:
        InputError: it is damaged, holds no weights, or declares more than its size allows; or the reading process failed or did
            not end.
    """
    seconds = _SECONDS + len(content) // _BYTES_A_SECOND
    try:
        with Child(_read_groups, path, content, _GROUPS) as child:
            return child.answer(seconds)
    except subprocess.TimeoutExpired:
        raise InputError(f"{path}: damaged: reading it did not end within {seconds} s. Download or save it again.") from None
    except ChildFailed as error:
        if error.how.endswith("SIGKILL"):
            raise InputError(f"{path}: what read it was killed (SIGKILL), as where memory runs out. Close other programs, or "
                             "take a smaller file.") from None
        if error.code < 0:
            raise InputError(f"{path}: damaged: HDF5 itself failed over it ({error.how.split()[-1]}). Download or "
                             "save it again.") from None
        raise InputError(f"{path}: cannot be read ({(error.said or error.how)[:150]}). It is damaged, or there is too little "
                         "memory for it. Download or save it again.") from None


def _read_groups(path: Path, content: bytes, most_groups: int) -> tuple[str, tuple[Group, ...], WholeModel | None]:
    import h5py

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            root = file["model_weights"] if "layer_names" not in file.attrs and "model_weights" in file else file
            reader = _Reader(path, len(content), most_groups)
            if "layer_names" in root.attrs or "layer_names0" in root.attrs:
                kind, groups = "h5", tuple(reader.older(root))
            else:
                kind, groups = "keras h5", tuple(reader.keras3(file, "", 0))
            whole = _whole_model(file.attrs)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: damaged, or HDF5 of a kind that Keras does not write ({str(error).splitlines()[0][:150]}). "
                         "Download or save it again.") from None
    if not groups:
        raise InputError(f"{path}: an HDF5 file without Keras weights. Save them with model.save_weights('x.weights.h5').")
    return kind, groups, whole


def _whole_model(attributes: Any) -> WholeModel | None:
    config, version = (str(_decoded(attributes.get(key, ""))) for key in ("model_config", "keras_version"))
    found = json.loads(config) if config else None
    return WholeModel(found, version or "3") if isinstance(found, dict) else None


class _Reader:
    """Reads groups and counts what they hold."""

    def __init__(self, path: Path, size_bytes: int, most_groups: int) -> None:
        self.path = path
        self.bytes_left = most_bytes(size_bytes)
        self.most_groups = self.groups_left = most_groups

    def older(self, root: Any) -> Iterator[Group]:
        """Layers named by the attribute `layer_names`, tensors by `weight_names`, with the layer's name and TensorFlow's `:0`."""
        places = [(layer, layer) for layer in _names(root, "layer_names")]
        if "top_level_model_weights" in root:
            places.append(("", "top_level_model_weights"))
        for layer, place in places:
            group = self.child(root, place)
            tensors = {re.sub(r":\d+$", "", name.removeprefix(f"{layer}/")): self.dataset(group, name)
                       for name in _names(group, "weight_names")}
            if tensors:
                yield Group(layer, group.name.strip("/"), tensors)

    def keras3(self, group: Any, path: str, depth: int) -> Iterator[Group]:
        """Every group that has a group `vars` with tensors, whatever the folders around it are called."""
        from natsort import natsorted

        if depth > _DEPTH:
            raise InputError(f"{self.path}: groups nested deeper than {_DEPTH}: not a file that Keras wrote.")
        self.groups_left -= 1
        if self.groups_left < 0:
            raise InputError(f"{self.path}: more than {self.most_groups} groups, as far as they can be followed: not a file that "
                             "Keras wrote, or made to take forever.")
        for name in natsorted(group.keys()):
            if depth == 0 and name in _NO_LAYERS:
                continue
            below = self.child(group, name)
            if not hasattr(below, "keys"):
                continue
            if name != "vars":
                yield from self.keras3(below, f"{path}/{name}".strip("/"), depth + 1)
            elif len(below):
                label = below.attrs.get("name", path.rpartition("/")[2])
                label = label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)
                yield Group(label, path, {item: self.dataset(below, item) for item in natsorted(below.keys())})

    def child(self, group: Any, name: str) -> Any:
        """A member that lies in this very file."""
        import h5py

        folder = group
        for part in name.split("/"):
            where = f"{self.path}: {folder.name.rstrip('/')}/{part}"
            link = folder.get(part, getlink=True) if hasattr(folder, "keys") else None
            if link is None:
                raise InputError(f"{where} is missing: damaged. Download or save it again.")
            if not isinstance(link, h5py.HardLink):
                raise InputError(f"{where} is a link to elsewhere, as Keras never writes. Save the weights again.")
            folder = folder[part]
        return folder

    def dataset(self, group: Any, name: str) -> np.ndarray:
        """A dataset's values, bfloat16 as such.

        Raises:
            InputError: it is not a dataset of numbers, lies elsewhere, or declares more than the file's size allows.
        """
        found = self.child(group, name)
        where = f"{self.path}: {group.name}/{name}"
        if not hasattr(found, "dtype") or found.shape is None:
            raise InputError(f"{where} is not a tensor.")
        if found.is_virtual or found.external:
            raise InputError(f"{where} keeps its values in another file, as Keras never writes. Save the weights again.")
        self.bytes_left -= found.nbytes
        if self.bytes_left < 0:
            raise InputError(f"{where} declares the shape {found.shape}, more than the file can hold: damaged, or made to fill "
                             "the memory.")
        if found.dtype.kind == "V" and found.dtype.itemsize == 2 and found.attrs.get("dtype") == "bfloat16":
            return np.array(found).view(ml_dtypes.bfloat16)
        if found.dtype.kind not in "fiub":
            raise InputError(f"{where} has the dtype {found.dtype}; numbers are needed.")
        return np.array(found)


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names in an attribute; Keras splits long ones over `attribute0`, `attribute1`, ..."""
    pieces = [attribute] if attribute in group.attrs else itertools.takewhile(
        group.attrs.__contains__, (f"{attribute}{number}" for number in itertools.count()))
    values = [value for piece in pieces for value in group.attrs[piece]]
    return [str(_decoded(value)) for value in values]


def _decoded(value: Any) -> Any:
    return value.decode("utf-8") if isinstance(value, bytes) else value
