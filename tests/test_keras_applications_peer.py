"""keras.applications converted by the standard recipe."""

import numpy as np
import pytest

from benchmarks.peers.keras_applications import convert_keras_applications, convert_model_standard
from mnv3_tf.data.synthetic import synthetic_pictures
from mnv3_tf.errors import InputError
from mnv3_tf.tflite.file import float_operators, has_dynamic_shapes, operator_counts, parse_tflite
from mnv3_tf.tflite.runtime import LiteRTModel


def test_synthetic_pictures():
    pictures = synthetic_pictures(3, 20)
    assert (pictures.shape, pictures.dtype) == ((3, 20, 20, 3), np.float32)
    assert pictures.min(axis=(1, 2, 3)).tolist() == [0.0] * 3
    assert pictures.max(axis=(1, 2, 3)).tolist() == [255.0] * 3
    assert np.array_equal(pictures, np.rint(pictures))
    assert np.array_equal(pictures, synthetic_pictures(3, 20))
    assert not np.array_equal(pictures[0], pictures[1])


@pytest.mark.slow
def test_int8_peer_is_cut_into_partitions():
    content = convert_keras_applications("small", 64, classes=7)
    file = parse_tflite(content)
    assert (file.inputs[0].shape, file.inputs[0].dtype, file.outputs[0].dtype) == ((1, 64, 64, 3), "int8", "int8")
    assert operator_counts(file)[("HARD_SWISH", "int8")] == 19
    assert float_operators(file) == ()
    assert not has_dynamic_shapes(file)
    model = LiteRTModel(content)
    assert model.partitions == 20
    assert model.undelegated_operators.count("HARD_SWISH") == 19
    assert model.predict(synthetic_pictures(1, 64)).sum() == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
def test_large_peer():
    """Its partitions are those at 224 and alpha 1: the operators depend on neither size nor width."""
    model = LiteRTModel(convert_keras_applications("large", 64, alpha=0.35, classes=7, calibration=synthetic_pictures(2, 64)))
    assert model.partitions == 22
    assert model.undelegated_operators.count("HARD_SWISH") == 21


def test_unusable_arguments(files):
    import keras

    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 1)])
    with pytest.raises(InputError, match="network 'medium'"):
        convert_keras_applications("medium", 64)
    with pytest.raises(InputError, match="format 'int4'"):
        convert_keras_applications("small", 64, format="int4")
    with pytest.raises(InputError, match=r"keras\.applications refuses"):
        convert_keras_applications("small", 8)
    with pytest.raises(InputError, match="needs calibration pictures"):
        convert_model_standard(model, "int8")
    with pytest.raises(InputError, match=r"\(2, 5, 5, 3\) were given"):
        convert_model_standard(model, "int8", np.zeros((2, 5, 5, 3)))


def test_float_conversion_computes_the_same_as_keras():
    import keras

    keras.utils.set_random_seed(3)
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(pixels)))
    model = keras.Model(pixels, keras.layers.Flatten()(x))
    data = synthetic_pictures(2, 8)
    expected = keras.ops.convert_to_numpy(model(data, training=False))
    found = LiteRTModel(convert_model_standard(model, "float32")).predict(data)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
