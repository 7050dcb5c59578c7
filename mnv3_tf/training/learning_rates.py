"""Optimizers whose learning rate differs from layer to layer.

The whole step of a variable is scaled, not its gradient: Adam and RMSprop divide by the gradient's size, and would undo that.
Weight decay is scaled alike, since it is part of the step.
"""

from collections.abc import Callable
from typing import Any

from mnv3_tf.backend import keras

_UNDECAYED = ("gamma", "beta", "bias")


class ByLayer:
    """Mixed into an optimizer of Keras, in front of it.

    Attributes:
        rate_of: layer name -> its learning rate, relative to the schedule's.
        decay: decoupled weight decay, of kernels alone.
    """

    rate_of: Callable[[str], float]
    decay: float

    def build(self, variables: list[Any]) -> None:
        """Notes the rate of every variable by the layer that it belongs to."""
        self._factors = tuple(float(self.rate_of(variable.path.split("/")[-2])) for variable in variables)
        self._decayed = tuple(variable.name not in _UNDECAYED for variable in variables)
        super().build(variables)  # type: ignore[misc]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable."""
        place = self._get_variable_index(variable)  # type: ignore[attr-defined]
        rate = keras.ops.cast(learning_rate, variable.dtype) * self._factors[place]
        if self.decay and self._decayed[place]:
            self.assign_sub(variable, variable * (rate * self.decay))  # type: ignore[attr-defined]
        super().update_step(gradient, variable, rate)  # type: ignore[misc]


class AdamByLayer(ByLayer, keras.optimizers.Adam):
    """AdamW with a rate for each layer."""


class SGDByLayer(ByLayer, keras.optimizers.SGD):
    """SGD with a rate for each layer."""


class RMSpropByLayer(ByLayer, keras.optimizers.RMSprop):
    """RMSprop with a rate for each layer."""


class LaterSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that continues in the middle, for an optimizer that starts there.

    Args:
        schedule: the whole run's.
        first_step: of the run, at which the optimizer starts.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, first_step: int):
        super().__init__()
        self.schedule, self.first_step = schedule, first_step

    def __call__(self, step: Any) -> Any:
        return self.schedule(step + self.first_step)

    def get_config(self) -> dict[str, Any]:
        return {"schedule": self.schedule.get_config(), "first_step": self.first_step}
