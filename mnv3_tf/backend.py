"""Keras, what it computes on, and its settings. Modules take `keras` from here, where it is said why it cannot be had."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mnv3_tf.errors import InputError

BACKENDS = ("tensorflow", "jax")
_REMEDY = f"Set KERAS_BACKEND=tensorflow, or to another backend that is installed ({' or '.join(BACKENDS)})"


def _whose() -> str:
    """Where Keras has its backend from, in words."""
    if os.environ.get("KERAS_BACKEND"):
        return f"KERAS_BACKEND={os.environ['KERAS_BACKEND']}"
    return f"keras.json in {os.environ.get('KERAS_HOME') or '~/.keras'}"


try:
    import keras
except (ImportError, ValueError, AttributeError, TypeError) as failure:  # no such backend, or nonsense in keras.json
    _reason = str(failure).strip().splitlines()[0] if str(failure).strip() else type(failure).__name__
    raise InputError(f"Keras cannot be loaded with the settings of {_whose()} ({_reason}). {_REMEDY}, or correct that file.") \
        from failure
if keras.backend.backend() not in BACKENDS:
    raise InputError(f"Keras computes on {keras.backend.backend()} by {_whose()}, which this kit does not. {_REMEDY}.")

__all__ = ["has_accelerator", "keras", "own_settings", "prefers_xla"]


@contextmanager
def own_settings() -> Iterator[None]:
    """Computes what is computed within it with the settings that the kit is made for, whatever keras.json or the program says:
    channels last, float32, an epsilon of 1e-7. Afterwards all is as it was. A policy of dtypes that the program has set stays."""
    policy = keras.config.dtype_policy()
    kits: list[tuple[Any, list[Any]]] = []
    for module in (keras.config, getattr(sys.modules.get("tf_keras"), "backend", None)):
        if module is not None:
            kits.append((module, [module.image_data_format(), module.floatx(), module.epsilon()]))
            _set(module, "channels_last", "float32", 1e-7)
    # Keras makes the policy of floatx where none is set.
    followed = policy.name == kits[0][1][1]
    if followed:
        keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        for module, settings in kits:
            _set(module, *settings)
        if followed:
            keras.config.set_dtype_policy(policy)


def _set(module: Any, data_format: str, floatx: str, epsilon: float) -> None:
    module.set_image_data_format(data_format)
    module.set_floatx(floatx)
    module.set_epsilon(epsilon)


def has_accelerator() -> bool:
    """Whether Keras computes on a GPU or TPU."""
    return any(not device.lower().startswith("cpu") for device in keras.distribution.list_devices())


def has_bfloat16() -> bool:
    """Whether the accelerator computes in bfloat16: TPUs, and NVIDIA's GPUs from compute capability 8.0 (Ampere) on."""
    if keras.backend.backend() == "jax":
        import jax

        device = jax.devices()[0]
        return device.platform == "tpu" or float(getattr(device, "compute_capability", 0)) >= 8
    if keras.backend.backend() == "tensorflow" and has_accelerator():
        import tensorflow as tf

        details = [tf.config.experimental.get_device_details(device) for device in tf.config.list_physical_devices("GPU")]
        return bool(details) and min(found.get("compute_capability", (0, 0)) for found in details) >= (8, 0)
    return False


def prefers_xla() -> bool:
    """Whether XLA compiles this network to something faster: on an accelerator and on JAX, but not in TensorFlow on a CPU,
    where it is 5 to 9 times slower than the plain graph."""
    return has_accelerator() or keras.backend.backend() == "jax"
