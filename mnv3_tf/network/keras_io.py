"""A saved Keras model: loaded with errors that name it, saved whole or not at all, and asked for logits."""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.backend import keras, own_settings, prefers_xla
from mnv3_tf.data.batches import EVALUATION_BATCH
from mnv3_tf.errors import InputError
from mnv3_tf.files import atomic_path, read_bytes
from mnv3_tf.weights.formats.foreign import no_model

# By layer, by variable: "kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance".
Tensors = Mapping[str, Mapping[str, np.ndarray]]


@own_settings()
def load_keras(path: Path) -> keras.Model:
    """A Keras model.

    Raises:
        InputError: the file is not a Keras model, needs code that is not here, or has weights that are no finite numbers.
    """
    content = read_bytes(path)
    if content.startswith(b"\x89HDF"):
        raise InputError(f"{path}: is an HDF5 file, as Keras 2 and model.save_weights write them, not a .keras file. `mnv3 "
                         "import-weights` makes one of it.")
    if not content.startswith(b"PK"):
        raise InputError(f"{path}: is not a .keras file ({no_model(content) or 'not a zip archive; it may be truncated'}).")
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: Keras cannot load it ({reason}).") from error
    refuse_infinite(path, {variable.path: variable for variable in model.weights})
    model.jit_compile = prefers_xla()
    return model


def refuse_infinite(source: str | Path, tensors: Mapping[str, Any]) -> None:
    """Refuses weights that hold NaN or an infinity: no answer of theirs means anything.

    Args:
        source: what has them.
        tensors: by name.

    Raises:
        InputError: names the first.
    """
    for name, tensor in tensors.items():
        if not np.isfinite(keras.ops.convert_to_numpy(tensor)).all():
            raise InputError(f"{source}: its weights are not finite (NaN in {name}): its training diverged. Train again, with a "
                             "lower learning rate.")


def save_keras(model: keras.Model, path: Path) -> None:
    """Saves a `.keras` file atomically, as Keras 3.5 and later read it."""
    with atomic_path(path) as temporary:
        model.save(temporary)
        content = io.BytesIO()
        with zipfile.ZipFile(temporary) as saved, zipfile.ZipFile(content, "w") as plain:
            for entry in saved.infolist():
                data = saved.read(entry)
                plain.writestr(entry, json.dumps(_for_older(json.loads(data))) if entry.filename == "config.json" else data)
        temporary.write_bytes(content.getbuffer())


# Arguments that older versions of Keras 3 do not know, with the values that they may be left out for.
_NEWER = {"renorm": False, "renorm_clipping": None, "renorm_momentum": 0.99, "input_axes": None, "output_axes": None,
          "optional": False, "ragged": False, "quantization_config": None}


def _for_older(config: Any) -> Any:
    """The configuration of Keras's own objects without what is new in it and changes nothing."""
    if isinstance(config, list):
        return [_for_older(entry) for entry in config]
    if not isinstance(config, dict):
        return config
    config = {key: _for_older(value) for key, value in config.items()}
    if str(config.get("module")).split(".")[0] == "keras" and isinstance(config.get("config"), dict):
        config["config"] = {key: value for key, value in config["config"].items() if key not in _NEWER or value != _NEWER[key]}
    return config


def assign_tensors(model: keras.Model, tensors: Tensors) -> None:
    """Sets the weights of those layers that there are tensors for; of these layers, all."""
    for layer in model.layers:
        for variable in layer.weights if layer.name in tensors else ():
            variable.assign(tensors[layer.name][variable.name])


def batch_logits(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Logits float32 (n, classes) of at most :data:`EVALUATION_BATCH` pictures.

    Other numbers of pictures than that, or one, are filled up: each new shape would be compiled anew.
    """
    filled = pixels if len(pixels) == 1 and keras.distribution.distribution() is None else _filled(pixels)
    return np.asarray(_predict(model, filled), np.float32)[:len(pixels)]


def predict_all(model: keras.Model, pixels: np.ndarray) -> list[np.ndarray]:
    """The outputs of a network with many of them, each (n, ...), for any number of pictures.

    As in :func:`batch_logits`, the pictures go through in batches of one size.
    """
    parts = []
    for start in range(0, len(pixels), EVALUATION_BATCH):
        chunk = pixels[start:start + EVALUATION_BATCH]
        outputs = _predict(model, _filled(chunk))
        parts.append([np.asarray(out)[:len(chunk)] for out in (outputs if isinstance(outputs, list) else [outputs])])
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _predict(model: keras.Model, pixels: np.ndarray) -> Any:
    """What a network makes of pictures. Where it is spread over devices, every process gives as many, and gets the answers to its
    own."""
    if keras.distribution.distribution() is None:
        return model.predict_on_batch(pixels)
    import jax

    if not hasattr(model, "forward"):
        model.forward = jax.jit(lambda trained, others, x: model.stateless_call(trained, others, x, training=False)[0])
    outputs = model.forward(*([variable.value for variable in group]
                              for group in (model.trainable_variables, model.non_trainable_variables)), spread(pixels))
    return jax.tree.map(_own_rows, outputs)


def spread(pixels: np.ndarray) -> Any:
    """Rows of a batch, as many from each process, as one tensor over the devices that networks are computed on."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return keras.ops.convert_to_tensor(pixels, "float32")
    import jax

    layout = distribution.get_data_layout(pixels.shape).backend_layout
    return jax.make_array_from_process_local_data(layout, pixels)


def _own_rows(output: Any) -> np.ndarray:
    shards = sorted(output.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def _filled(pixels: np.ndarray) -> np.ndarray:
    distribution = keras.distribution.distribution()
    devices = distribution.num_model_replicas // distribution.num_processes if distribution else 1
    missing = -(-EVALUATION_BATCH // devices) * devices - len(pixels)
    return np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), pixels.dtype)]) if missing else pixels
