"""Averaged weights: an exponential moving average of all weights, kept where the network is trained and updated in its step."""

from typing import Any

from mnv3_tf.backend import keras

ops = keras.ops


class Averages(keras.layers.Layer):
    """The averages of some variables, BatchNorm's statistics included, and how often they were updated.

    The decay rises from 0.18 to its value by (1 + n) / (10 + n) after n updates, so that the first epochs are not an average
    over random numbers.

    Args:
        weights: what is averaged; the averages start as their values.
        decay: share of an average that stays in an update.
    """

    def __init__(self, weights: list[Any], decay: float):
        super().__init__(trainable=False, dtype="float32", name="averages")
        self.decay = decay
        self.count = self._variable((), "int32", "count")
        self.values = [self._variable(w.shape, w.dtype, f"average_{i:04d}") for i, w in enumerate(weights)]
        self.start(weights)

    def _variable(self, shape: tuple[int, ...], dtype: str, name: str) -> Any:
        return self.add_weight(shape=shape, dtype=dtype, initializer="zeros", trainable=False, name=name)

    def start(self, weights: list[Any]) -> None:
        """Begins anew with these values."""
        self.count.assign(0)
        for average, weight in zip(self.values, weights, strict=True):
            average.assign(ops.copy(weight))  # on JAX the same buffer could not be given away twice

    def updated(self, count: Any, averages: list[Any], weights: list[Any]) -> tuple[Any, list[Any]]:
        """What `count` and `averages` become once the weights have these values."""
        count = count + 1
        done = ops.cast(count, "float32")
        rest = 1 - ops.minimum(self.decay, (1 + done) / (10 + done))
        return count, [average + rest * (weight - average) for average, weight in zip(averages, weights, strict=True)]


class AveragedModel(keras.Model):
    """A network in training: its step also updates averages of its weights, on the device, without fetching any.

    Args:
        network: a functional model, whose layers this one shares.
        decay: of the averages.
    """

    def __init__(self, network: keras.Model, decay: float):
        super().__init__(network.inputs, network.outputs)
        self.dtype_policy = network.dtype_policy  # with float16, Keras scales the loss
        self._averaged = tuple(id(weight) for weight in network.weights)
        self.averages = Averages(network.weights, decay)

    def train_step(self, *arguments: Any) -> Any:
        if keras.backend.backend() == "jax":
            return self._jax_step(*arguments)
        logs = super().train_step(*arguments)
        own, by_id = self.averages, {id(weight): weight for weight in self.weights}
        count, values = own.updated(own.count, own.values, [by_id[key] for key in self._averaged])
        for variable, value in zip([own.count, *own.values], [count, *values], strict=True):
            variable.assign(value)
        return logs

    def _jax_step(self, state: Any, data: Any) -> Any:
        """On JAX a step is a function of the variables' values, in the order that Keras's trainer gives them in."""
        logs, (trainable, others, optimizer, metrics) = super().train_step(state, data)
        variables = [*self.trainable_variables, *self.non_trainable_variables]
        values = dict(zip(map(id, variables), [*trainable, *others], strict=True))
        own = [self.averages.count, *self.averages.values]
        count, averages = self.averages.updated(values[id(own[0])], [values[id(average)] for average in own[1:]],
                                                [values[key] for key in self._averaged])
        values.update(zip(map(id, own), [count, *averages], strict=True))
        return logs, (trainable, [values[id(variable)] for variable in self.non_trainable_variables], optimizer, metrics)
