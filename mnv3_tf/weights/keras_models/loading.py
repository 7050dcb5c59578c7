"""Loads a whole Keras model from a file, with the Keras that wrote it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnv3_tf.backend import keras
from mnv3_tf.errors import InputError
from mnv3_tf.weights.formats.hdf5 import WholeModel


def load_model(path: Path, whole: WholeModel) -> Any:
    """The model in a file, of Keras 3, or of tf_keras where Keras 2 wrote it.

    Args:
        path: a `.keras` or `.h5` file that was read already, so that it is known to be whole.
        whole: how it describes its model.

    Raises:
        InputError: it has layers of the user's own, or cannot be loaded.
    """
    try:
        foreign = sorted(set(_foreign(whole.config)))
        if foreign:
            raise InputError(f"{path}: has layers of your own, whose code is not in the file, or is not run: "
                             f"{', '.join(foreign)}. Build it without them, with Keras's own layers.")
        if whole.version.startswith("2"):
            import tf_keras

            return tf_keras.models.load_model(path, compile=False)
        if "module" not in whole.config and _has_operators(whole.config):
            model = keras.saving.deserialize_keras_object(_in_full(whole.config))
            model.load_weights(path)
            return model
        return keras.models.load_model(path, compile=False)
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: Keras cannot load it ({reason}). Save it again, or load it in your own code and call "
                         "mnv3_tf.import_model(model, ...).") from error


def _has_operators(config: dict[str, Any]) -> bool:
    """Whether a model's configuration has operators beside layers, which are no more than a name there."""
    settings = config["config"]
    return settings.keys() == {"name"} or any(map(_has_operators, settings.get("layers", ())))


def _in_full(config: dict[str, Any]) -> dict[str, Any]:
    """An HDF5 file's configuration as a `.keras` file has it.

    Keras writes `x + 3` into HDF5 by its class alone, "Add", and then reads that as the layer of this name, which takes no
    constants.
    """
    name, settings = config["class_name"], config["config"]
    module = {"Functional": "keras.src.models.functional", "Sequential": "keras"}.get(name, "keras.layers")
    if settings.keys() == {"name"}:
        module = next((f"keras.src.ops.{one}" for one in ("numpy", "nn") if hasattr(getattr(keras.src.ops, one), name)), module)
    if "layers" in settings:
        settings = {**settings, "layers": [_in_full(layer) for layer in settings["layers"]]}
    return {**config, "module": module, "registered_name": None, "config": settings}


def _foreign(config: Any) -> Iterator[str]:
    """The classes of layers that are not Keras's own, and Lambda layers, which hold code."""
    if isinstance(config, list):
        for item in config:
            yield from _foreign(item)
    elif isinstance(config, dict):
        name, module = config.get("class_name"), config.get("module")
        registered = config.get("registered_name")
        own = isinstance(module, str) and module.partition(".")[0] not in ("keras", "tf_keras", "builtins")
        if isinstance(name, str) and "config" in config and (own or ">" in str(registered) or name == "Lambda"):
            yield str(registered or name)
        for value in config.values():
            yield from _foreign(value)
