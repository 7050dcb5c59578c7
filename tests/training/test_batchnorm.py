"""Statistics of BatchNorm measured anew: by hand, and without changing the function."""

import keras
import numpy as np
import pytest
from shared import HERE

from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.keras_io import predict_all
from mnv3_tf.network.spec import read_block_table
from mnv3_tf.training.batchnorm import adapt_statistics, measure, normalizations, set_statistics


def network() -> keras.Model:
    """Squeeze-and-excite, an expansion and a residual, without dropout."""
    return MobileNetV3(read_block_table(HERE / "two_blocks.yaml"), input_shape=(32, 32, 3), classes=5, dropout_rate=0)


def batches(count: int = 3, size: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8) for _ in range(count)]


def randomized(model: keras.Model, *, identity: bool) -> keras.Model:
    """Weights that let no difference hide; BatchNorm's as after folding, or of a trained network."""
    rng = np.random.default_rng(1)
    for layer in normalizations(model):
        channels = layer.gamma.shape
        layer.beta.assign(rng.normal(0, 0.5, channels))
        layer.gamma.assign(np.full(channels, np.sqrt(1 + layer.epsilon)) if identity else rng.uniform(0.5, 1.5, channels))
        if not identity:
            layer.moving_mean.assign(rng.normal(0, 0.5, channels))
            layer.moving_variance.assign(rng.uniform(0.5, 2, channels))
    return model


def test_statistics_by_hand() -> None:
    image = keras.Input((2, 1, 3))
    model = keras.Model(image, keras.layers.BatchNormalization(epsilon=0.0, name="bn")(image))
    pixels = np.array([[[[0, 10, 5]], [[2, 10, 5]]], [[[4, 30, 5]], [[6, 30, 6]]]], np.uint8)
    mean, variance = measure(model, [pixels[:1], pixels[1:]])["bn"]
    np.testing.assert_allclose(mean, [3, 20, 5.25])
    np.testing.assert_allclose(variance, [5, 100, 0.1875])
    model.get_layer("bn").set_weights([np.array([2.0, 3, 1]), np.array([1.0, 0, 0]), np.zeros(3), np.ones(3)])
    set_statistics(model, {"bn": (mean, variance)})
    gamma, beta, *_ = model.get_layer("bn").get_weights()
    np.testing.assert_allclose(gamma, [2 * 5 ** 0.5, 30, 0.1875 ** 0.5], rtol=1e-6)
    np.testing.assert_allclose(beta, [7, 60, 5.25], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("identity", [True, False])
def test_the_function_is_kept_and_training_mode_agrees_with_it(identity: bool) -> None:
    model = randomized(network(), identity=identity)
    pixels = np.concatenate(batches())
    before = np.asarray(model(pixels))
    batch_mode = np.asarray(model(pixels, training=True))
    spread = np.ptp(before)
    assert np.abs(batch_mode - before).max() > 0.1 * spread  # so the statistics were no good for training
    fresh = randomized(keras.models.clone_model(model), identity=identity)
    fresh.set_weights(model.get_weights())
    randomized(fresh, identity=identity)
    before = np.asarray(fresh(pixels))
    set_statistics(fresh, measure(fresh, batches()))
    after = np.asarray(fresh(pixels))
    assert np.abs(after - before).max() < 1e-4 * np.ptp(before)
    assert np.abs(np.asarray(fresh(pixels, training=True)) - before).max() < 2e-3 * np.ptp(before)


@pytest.mark.slow
def test_adapted_statistics_are_those_of_training_mode() -> None:
    """On one batch, inference then equals training mode; gamma, beta, momentum and what is skipped stay."""
    model = randomized(network(), identity=False)
    before = {layer.name: layer.get_weights() for layer in normalizations(model)}
    (pixels,) = batches(1)
    adapt_statistics(model, [pixels], skip=["stem_conv_bn"])
    after = {layer.name: layer.get_weights() for layer in normalizations(model)}
    for name, values in before.items():
        same = [np.array_equal(a, b) for a, b in zip(values, after[name], strict=True)]
        assert same == [True, True, *[name == "stem_conv_bn"] * 2]
    assert {layer.momentum for layer in normalizations(model)} == {0.99} and all(layer.trainable for layer in model.layers)
    model.get_layer("stem_conv_bn").trainable = False
    expected = np.asarray(model(pixels, training=True))
    assert np.abs(np.asarray(model(pixels)) - expected).max() < 1e-3 * np.ptp(expected)


def test_several_batches_are_put_together_by_hand() -> None:
    image = keras.Input((1, 1, 3))
    model = keras.Model(image, keras.layers.BatchNormalization(name="bn")(image))
    adapt_statistics(model, [np.full((1, 1, 1, 3), 10, np.uint8), np.array([20, 40, 60] * 2, np.uint8).reshape(2, 1, 1, 3)])
    _, _, mean, variance = model.get_layer("bn").get_weights()
    np.testing.assert_allclose(mean, [15, 25, 35])
    np.testing.assert_allclose(variance, [25, 225, 625])


@pytest.mark.slow
def test_any_number_of_pictures_goes_through() -> None:
    """The last, incomplete batch (here of one picture) is filled up, and changes nothing."""
    model = network()
    pixels = batches(1, 65)[0]
    (found,) = predict_all(keras.Model(model.input, [model.output]), pixels)
    np.testing.assert_allclose(found, np.asarray(model(pixels)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_layers_that_are_skipped_or_normalized() -> None:
    model = randomized(network(), identity=True)
    before = {layer.name: layer.get_weights() for layer in normalizations(model)}
    statistics = measure(model, batches(1))
    set_statistics(model, statistics, skip=["stem_conv_bn"], normalize=["head_conv_bn"])
    after = {layer.name: layer.get_weights() for layer in normalizations(model)}
    assert all(np.array_equal(a, b) for a, b in zip(before["stem_conv_bn"], after["stem_conv_bn"], strict=True))
    assert np.array_equal(before["head_conv_bn"][0], after["head_conv_bn"][0])
    np.testing.assert_allclose(after["head_conv_bn"][2], statistics["head_conv_bn"][0], rtol=1e-5, atol=1e-6)
