"""MobileNetV3 image classifiers for phones: the network, its data, training and quantization.

``import mnv3_tf`` is cheap: Keras and TensorFlow are loaded when something that needs them is first used.

    >>> import mnv3_tf
    >>> model = mnv3_tf.MobileNetV3Small(input_shape=(64, 64, 3), classes=10)
    >>> model.output_shape
    (None, 10)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnv3_tf.config import Config, load_config
    from mnv3_tf.data import Preprocessing, open_dataset
    from mnv3_tf.export.evaluate.classifier import Classifier
    from mnv3_tf.export.road import convert, quantize, train, verify
    from mnv3_tf.models import MobileNetV3, MobileNetV3Large, MobileNetV3Small
    from mnv3_tf.network.layer_names import display_name
    from mnv3_tf.network.profile import count_macs
    from mnv3_tf.network.spec import Block, NetworkSpec, read_block_table
    from mnv3_tf.weights.importing import import_weights
    from mnv3_tf.weights.keras_models.importing import import_model

_HOME = {
    "MobileNetV3": "models", "MobileNetV3Large": "models", "MobileNetV3Small": "models", "display_name": "network.layer_names",
    "Block": "network.spec", "NetworkSpec": "network.spec", "read_block_table": "network.spec",
    "count_macs": "network.profile",
    "Config": "config", "load_config": "config", "Preprocessing": "data", "open_dataset": "data",
    "import_weights": "weights.importing",
    "import_model": "weights.keras_models.importing",
    # The upper package is named here alone, and only as text: what lies below does not import it.
    "train": "export.road", "quantize": "export.road", "convert": "export.road", "verify": "export.road",
    "Classifier": "export.evaluate.classifier",
}

__all__ = ["Block", "Classifier", "Config", "MobileNetV3", "MobileNetV3Large", "MobileNetV3Small", "NetworkSpec",
           "Preprocessing", "convert", "count_macs", "display_name", "import_model", "import_weights", "load_config",
           "open_dataset", "quantize", "read_block_table", "train", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
