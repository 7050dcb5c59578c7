"""`.keras` archives of Keras 3.

A model's configuration is looked at as JSON for the order of its layers; no layer is built from it and nothing in it is run.

Source: the layout as keras 3.15 writes it (`keras.src.saving.saving_lib`).
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from mnv3_tf.errors import InputError
from mnv3_tf.weights.formats.hdf5 import Group, WholeModel, read_h5
from mnv3_tf.weights.formats.zips import read_entry


def read_keras_archive(path: Path, archive: zipfile.ZipFile,
                       size_bytes: int) -> tuple[str, tuple[Group, ...], WholeModel | None]:
    """A whole model's weights, in the order of its layers where its configuration tells it.

    Raises:
        InputError: as :func:`mnv3_tf.weights.formats.hdf5.read_h5`.
    """
    content = read_entry(path, archive, "model.weights.h5", size_bytes)
    _, groups, _ = read_h5(path, content)
    try:
        config = json.loads(read_entry(path, archive, "config.json", size_bytes))
        names = _layer_names(config, "layers")
        metadata = json.loads(read_entry(path, archive, "metadata.json", size_bytes)) \
            if "metadata.json" in archive.namelist() else {}
    except (ValueError, RecursionError):
        raise InputError(f"{path}: damaged: its config.json is not valid JSON. Save the model again.") from None
    order = {group: place for place, group in enumerate(names)}
    named = (Group(names.get(group.path, group.name), group.path, group.tensors) for group in groups)
    version = str(metadata.get("keras_version", "3")) if isinstance(metadata, dict) else "3"
    whole = WholeModel(config, version) if isinstance(config, dict) else None
    return "keras", tuple(sorted(named, key=lambda group: order.get(group.path, len(order)))), whole


def _layer_names(config: Any, folder: str) -> dict[str, str]:
    """The names of a model's layers, in its order, by the groups that Keras 3 keeps their tensors in.

    A group is the layer's class with a number that counts the class's layers in the order of the model: `layers/conv2d_1`; the
    layers of a model within it lie below `layers/functional/layers`.
    """
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else None
    counts: dict[str, int] = {}
    names: dict[str, str] = {}
    for layer in layers if isinstance(layers, list) else []:
        class_name = layer.get("class_name") if isinstance(layer, dict) else None
        if not isinstance(class_name, str):
            return {}
        snake = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", snake).lower()
        number = counts[snake] = counts.get(snake, -1) + 1
        group = f"{folder}/{snake}_{number}" if number else f"{folder}/{snake}"
        settings = layer.get("config")
        given = layer.get("name") or (settings.get("name") if isinstance(settings, dict) else None)
        names[group] = given if isinstance(given, str) else group
        names.update(_layer_names(layer, f"{group}/layers"))
    return names
