"""Small real .tflite files, made once for all tests that look at some."""

from pathlib import Path

import pytest

# The 1x1 network: two outputs for each pixel, (r + 2g + b) / 4 and (r - b) / 2 + 10.
KERNEL = [[0.25, 0.5], [0.5, 0.0], [0.25, -0.5]]
BIAS = [0.0, 10.0]


def plain_network():
    """Convolution, depthwise convolution, pooling and a classifier; nothing that XNNPACK refuses."""
    import keras

    keras.utils.set_random_seed(1)
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(pixels)
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu6", name="stem")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu6")(x)
    x = keras.layers.Conv2D(32, 1)(x)
    x = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = keras.layers.Flatten()(keras.layers.Conv2D(40, 1)(x))
    return keras.Model(pixels, x, name="plain")


def swish_network():
    """Two native HARD_SWISH between convolutions."""
    import keras

    keras.utils.set_random_seed(2)
    x = pixels = keras.Input((32, 32, 3))
    for width in (8, 16):
        x = keras.layers.Conv2D(width, 3, strides=2, padding="same")(x)
        x = keras.layers.Activation("hard_silu")(x)
    x = keras.layers.Conv2D(10, 1)(x)
    return keras.Model(pixels, keras.layers.Flatten()(x), name="swish")


def pixel_network():
    """The 1x1 network over 2x2 pixels."""
    import keras
    import numpy as np

    pixels = keras.Input((2, 2, 3))
    layer = keras.layers.Conv2D(2, 1)
    model = keras.Model(pixels, keras.layers.Flatten()(layer(pixels)), name="pixel")
    layer.set_weights([np.reshape(np.float32(KERNEL), (1, 1, 3, 2)), np.float32(BIAS)])
    return model


def pixel_pictures(count=64):
    """2x2 pictures that reach the ends of the input's range and of both outputs'."""
    import numpy as np

    pictures = np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3))
    pictures[0], pictures[1], pictures[2], pictures[3] = 0, 255, (255, 0, 0), (0, 0, 255)
    return pictures.astype(np.float32)


def _quantized_pixel_network(io_type, pictures):
    """The 1x1 network in int8, with another type at the input and output or another calibration."""
    import tensorflow as tf

    model = pixel_network()
    call = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((1, 2, 2, 3), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([picture[None]] for picture in pictures)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = io_type
    return converter.convert()


def _open_batch():
    import tensorflow as tf

    model = pixel_network()
    call = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((None, 2, 2, 3), tf.float32))
    return tf.lite.TFLiteConverter.from_concrete_functions([call]).convert()


@pytest.fixture(scope="session")
def files(shared) -> dict[str, Path]:
    """Name -> path: plain_* and swish_* as the standard recipe makes them, pixel_* for hand computations."""
    folder = shared("tflite", _write_files)
    return {path.stem: path for path in sorted(folder.iterdir())}


def _write_files(folder: Path) -> None:
    import tensorflow as tf

    from benchmarks.peers.keras_applications import convert_model_standard
    from mnv3_tf.data.synthetic import synthetic_pictures

    pictures = synthetic_pictures(8, 32)
    plain, swish, pixel = plain_network(), swish_network(), pixel_network()
    made = {f"plain_{kind}": convert_model_standard(plain, kind, pictures)
            for kind in ("float32", "float16", "dynamic", "int8")}
    made["swish_int8"] = convert_model_standard(swish, "int8", pictures)
    made["pixel_float32"] = convert_model_standard(pixel, "float32")
    made["pixel_int8"] = convert_model_standard(pixel, "int8", pixel_pictures())
    made["pixel_uint8"] = _quantized_pixel_network(tf.uint8, pixel_pictures())
    made["pixel_float_io"] = _quantized_pixel_network(tf.float32, pixel_pictures())
    made["foreign_int8"] = _quantized_pixel_network(tf.int8, pixel_pictures() / 127.5 - 1.0)
    made["open_batch"] = _open_batch()
    folder.mkdir()
    for name, content in made.items():
        (folder / f"{name}.tflite").write_bytes(content)
