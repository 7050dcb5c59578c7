"""What Keras computes on."""

import keras


def has_accelerator() -> bool:
    """Whether Keras computes on a GPU or TPU."""
    return any(not device.lower().startswith("cpu") for device in keras.distribution.list_devices())


def device_notes() -> list[str]:
    """What there is to know where Keras sees more devices than the one that is used."""
    devices = keras.distribution.list_devices()
    if len(devices) < 2:
        return []
    return [f"1 of {len(devices)} devices is used ({devices[0]}), for a run is trained on one. To use all, train a run on each, "
            "started with CUDA_VISIBLE_DEVICES=0, 1 and so on"]


def prefers_xla() -> bool:
    """Whether XLA compiles this network to something faster: on an accelerator and on JAX, but not in TensorFlow on a CPU,
    where it is 5 to 9 times slower than the plain graph."""
    return has_accelerator() or keras.backend.backend() == "jax"
