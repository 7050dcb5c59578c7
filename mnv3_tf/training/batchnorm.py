"""Statistics of BatchNorm on new pictures: without changing what the network computes, or adapting it."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from mnv3_tf.backend import keras
from mnv3_tf.network.keras_io import predict_all, spread
from mnv3_tf.training.devices import rows_of_all

Statistics = dict[str, tuple[np.ndarray, np.ndarray]]


def normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The BatchNorm layers in the order of the network."""
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def measure(model: keras.Model, pictures: Iterable[np.ndarray]) -> Statistics:
    """Mean and variance of every BatchNorm's input, in inference mode.

    Each picture's mean and variance come from Keras; they are put together in double precision: the variance over all
    pictures is the mean of the pictures' variances plus the variance of their means.

    Args:
        model: of the network.
        pictures: arrays (n, height, width, 3); of several processes, each gives as many of its own.

    Returns:
        By layer: mean and variance, float64 (channels,).
    """
    layers = normalizations(model)
    outputs = [moment for layer in layers
               for moment in (keras.ops.mean(layer.input, axis=(1, 2)), keras.ops.var(layer.input, axis=(1, 2)))]
    moments = keras.Model(model.input, outputs)
    parts = [[np.asarray(value, np.float64) for value in predict_all(moments, pixels)] for pixels in pictures]
    found: Statistics = {}
    for place, layer in enumerate(layers):
        means, variances = (rows_of_all(np.concatenate([part[2 * place + moment] for part in parts])) for moment in (0, 1))
        found[layer.name] = means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)
    return found


def set_statistics(model: keras.Model, statistics: Mapping[str, tuple[np.ndarray, np.ndarray]], *,
                   skip: Iterable[str] = (), normalize: Iterable[str] = ()) -> None:
    """Gives BatchNorm new statistics.

    With the old mean m0 and variance v0, the new ones m and v, gamma becomes gamma * sqrt((v + eps) / (v0 + eps)) and beta
    becomes beta + gamma * (m - m0) / sqrt(v0 + eps): in inference the layer computes what it did, and on batches with these
    statistics the same in training.

    Args:
        model: of the network.
        statistics: from :func:`measure`, of this very network.
        skip: names of layers to leave as they are.
        normalize: names of layers whose gamma and beta stay: what comes out of them then changes.
    """
    skip, normalize = set(skip), set(normalize)
    for layer in normalizations(model):
        if layer.name in skip:
            continue
        mean, variance = statistics[layer.name]
        if layer.name not in normalize:
            old_mean, old_variance = (np.asarray(value, np.float64) for value in (layer.moving_mean, layer.moving_variance))
            gamma, beta = (np.asarray(value, np.float64) for value in (layer.gamma, layer.beta))
            old = np.sqrt(old_variance + layer.epsilon)
            layer.gamma.assign(gamma * np.sqrt(variance + layer.epsilon) / old)
            layer.beta.assign(beta + gamma * (mean - old_mean) / old)
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)


def adapt_statistics(model: keras.Model, pictures: Iterable[np.ndarray], *, skip: Iterable[str] = ()) -> None:
    """Gives BatchNorm the statistics that it sees in training mode, so that inference does what training mode does.

    Gamma and beta stay: pictures that are darker or of other colours than those that the network knows look alike again behind
    the first layers (Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", 2016).

    Args:
        model: of the network.
        pictures: batches (n, height, width, 3), of the size that training has; of several processes, each gives its rows.
        skip: names of layers that stay as they are, and in inference mode.
    """
    skip = set(skip)
    kept = [layer for layer in normalizations(model) if layer.name in skip]
    adapted = [layer for layer in normalizations(model) if layer.name not in skip]
    momenta, trainable = [layer.momentum for layer in adapted], [layer.trainable for layer in kept]
    for layer in adapted:
        layer.momentum = 0.0  # the running statistics are then those of the last batch
    for layer in kept:
        layer.trainable = False
    batches: list[list[np.ndarray]] = []
    see = _training_mode(model)
    for pixels in pictures:
        see(spread(pixels))
        statistics = [value for layer in adapted for value in (layer.moving_mean, layer.moving_variance)]
        batches.append([np.asarray(value, np.float64) for value in statistics])
    for place, (layer, momentum) in enumerate(zip(adapted, momenta, strict=True)):
        means, variances = (np.stack([batch[2 * place + moment] for batch in batches]) for moment in (0, 1))
        layer.moving_mean.assign(means.mean(axis=0))
        layer.moving_variance.assign(variances.mean(axis=0) + means.var(axis=0))
        layer.momentum = momentum
    for layer, before in zip(kept, trainable, strict=True):
        layer.trainable = before


def _training_mode(model: keras.Model) -> Callable[[Any], object]:
    """Computes a network in training mode, which sets running statistics. JAX compiles it: one operation at a time takes longer
    there, even for a few batches."""
    if keras.backend.backend() != "jax":
        return partial(model, training=True)
    import jax

    groups = model.trainable_variables, model.non_trainable_variables
    forward = jax.jit(lambda trained, others, pixels: model.stateless_call(trained, others, pixels, training=True)[1])

    def compute(pixels: Any) -> None:
        values = forward(*([variable.value for variable in group] for group in groups), pixels)
        for variable, value in zip(groups[1], values, strict=True):
            variable.assign(value)

    return compute
