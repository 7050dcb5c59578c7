"""keras.applications' MobileNetV3, converted by TFLite's standard recipe.

This is what one gets without this kit, and what its files are measured against: `tf.lite.TFLiteConverter` on the
Keras model as it is, int8 by post-training quantization with a representative dataset. Batch 1 is fixed, as delegates
want it.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from mnv3_tf.data.synthetic import synthetic_pictures
from mnv3_tf.errors import InputError, KitError

FORMATS = ("float32", "float16", "dynamic", "int8")
NETWORKS = {"large": "MobileNetV3Large", "small": "MobileNetV3Small"}
CALIBRATION_PICTURES = 16


def convert_keras_applications(name: str = "large", size: int = 224, *, alpha: float = 1.0, classes: int = 1000,
                               minimalistic: bool = False, format: str = "int8", calibration: Any = None,
                               seed: int = 0) -> bytes:
    """keras.applications' MobileNetV3 with random weights, as a .tflite file: for latency, not for accuracy.

    The statistics of BatchNorm are estimated on the calibration pictures: with those of a fresh network, activations
    shrink from layer to layer and XNNPACK may refuse the scales that follow. Sets the random seed of Keras, numpy and
    Python.

    Args:
        name: "large" or "small".
        size: side of the square input in pixels.
        alpha: width multiplier.
        classes: number of classes.
        minimalistic: the variant without hard-swish and squeeze-and-excite.
        format: "float32", "float16", "dynamic" (dynamic-range int8) or "int8" (int8 throughout, input and output too).
        calibration: pixel values 0..255, (n, size, size, 3); deterministic synthetic pictures when left out.
        seed: of the weights.

    Returns:
        The file's bytes. Its input is pixel values 0..255 (the rescaling is inside), its output softmax scores.

    Raises:
        InputError: an unknown name or format, or numbers that Keras refuses.
        KitError: the converter failed.
    """
    import keras

    if name not in NETWORKS:
        raise InputError(f"network {name!r} is unknown: choose one of {', '.join(NETWORKS)}.")
    _check_format(format)
    keras.utils.set_random_seed(seed)
    try:
        model = getattr(keras.applications, NETWORKS[name])(
            input_shape=(size, size, 3), alpha=alpha, minimalistic=minimalistic, weights=None, classes=classes)
    except ValueError as error:
        raise InputError(f"keras.applications refuses {NETWORKS[name]} with size {size}, alpha {alpha}, classes "
                         f"{classes}: {' '.join(str(error).split())}") from error
    pictures = synthetic_pictures(CALIBRATION_PICTURES, size) if calibration is None else calibration
    estimate_batchnorm(model, pictures)
    return convert_model_standard(model, format, pictures)


def convert_model_standard(model: Any, format: str = "int8", calibration: Any = None) -> bytes:
    """Converts any float Keras 3 image model by TFLite's standard recipe, with batch 1.

    Args:
        model: a built Keras 3 model with one input (h, w, channels).
        format: as in :func:`convert_keras_applications`.
        calibration: for "int8": inputs as the model takes them, (n, h, w, channels); real pictures, for a network whose
            accuracy counts.

    Returns:
        The file's bytes.

    Raises:
        InputError: an unknown format, no calibration data for int8, or data of another shape.
        KitError: the converter failed.
    """
    import tensorflow as tf

    _check_format(format)
    shape = (1, *model.inputs[0].shape[1:])
    # A SavedModel on the way would make the same file in five times the time.
    traced = tf.function(lambda pixels: model(pixels, training=False)).get_concrete_function(
        tf.TensorSpec(shape, tf.float32, name="pixels"))
    with _quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    if format != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if format == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if format == "int8":
        pictures = _calibration(calibration, shape)
        converter.representative_dataset = lambda: ([picture[None]] for picture in pictures)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        with _quiet():
            return bytes(converter.convert())
    except Exception as error:  # the converter raises its own error, RuntimeError, ValueError and others
        raise KitError(f"TFLite's converter failed on {model.name} ({format}): "
                       f"{' '.join(str(error).split())[:500]}") from error


def estimate_batchnorm(model: Any, pictures: Any) -> None:
    """Sets the moving statistics of every BatchNorm to those of one batch of pictures.

    Args:
        model: a Keras 3 model; its weights are changed.
        pictures: inputs as the model takes them, (n, h, w, channels).
    """
    import keras
    import numpy as np

    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    momentum = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        model(np.asarray(pictures, dtype=np.float32), training=True)
    finally:
        for layer, value in zip(layers, momentum, strict=True):
            layer.momentum = value


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown: choose one of {', '.join(FORMATS)}.")


def _calibration(calibration: Any, shape: tuple[int, ...]) -> Any:
    import numpy as np

    if calibration is None or not len(calibration):
        raise InputError("int8 needs calibration pictures, and none were given. Give some hundred of the training "
                         "pictures, prepared as in training.")
    pictures = np.asarray(calibration, dtype=np.float32)
    if pictures.shape[1:] != shape[1:]:
        raise InputError(f"calibration pictures of shape {pictures.shape} were given, and the model takes (n, "
                         f"{', '.join(map(str, shape[1:]))}).")
    return pictures


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Chatter of Python and TensorFlow during conversion, off; errors are exceptions and still come."""
    import logging
    import warnings

    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
