"""Averaged weights are what they are said to be, step by step."""

import keras
import numpy as np
from shared import HERE

from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.spec import read_block_table
from mnv3_tf.training.averaging import AveragedModel


def test_the_step_averages_all_weights_with_a_decay_that_rises() -> None:
    network = MobileNetV3(read_block_table(HERE / "two_blocks.yaml"), input_shape=(32, 48, 3), classes=3)
    model = AveragedModel(network, 0.3)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False)
    expected = network.get_weights()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 8, 32, 48, 3)).astype(np.uint8)
    labels = np.eye(3, dtype=np.float32)[rng.integers(0, 3, (5, 8))]
    for done, batch in enumerate(zip(pixels, labels, strict=True), start=1):
        model.train_on_batch(*batch)
        decay = min(0.3, (1 + done) / (10 + done))
        for average, weight in zip(expected, network.get_weights(), strict=True):
            average += np.float32(1 - decay) * (weight - average)
    for average, found in zip(expected, model.averages.values, strict=True):
        np.testing.assert_allclose(found, average, rtol=1e-5, atol=1e-6)
    assert any("moving" in weight.path and np.abs(average - weight.numpy()).max() > 1e-3
               for average, weight in zip(expected, network.weights, strict=True))
    model.averages.start(network.weights)
    assert all(np.array_equal(*pair) for pair in zip(model.averages.values, network.get_weights(), strict=True))
