"""One step of quantization-aware fine-tuning after another, with the float network as teacher."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from mnv3_tf.config import Config
from mnv3_tf.metrics import Scores, softmax
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, count_values, input_shift
from mnv3_tf.quantization.lowering import LoweredGraph

# Memory for the activations of one training step, and how often each value is held (measured: quantizers and gradients).
_STEP_BYTES = 1_200_000_000
_COPIES = 5
# Share of the steps over which the rate rises.
_WARM_UP = 0.1
# How many times faster than weights the ends of ranges move: there are few of them, and on small sets few steps.
_RANGES_FASTER = 3.0
# A picture's divergence from the float network that is as good as none, in nats.
_NONE = 1e-4
# Of the running average of the parameters: it reaches about fifty steps back.
_DECAY = 0.98


class BestEpoch:
    """Chooses the epoch of fine-tuning that is kept, epoch 0 being calibration alone.

    It is that with the least loss on the validation pictures: counting right answers of a few hundred would choose by chance.
    The distance to the float network is, as in training, a mean of roots of divergences. But what answers fewer of them rightly
    than calibration alone is never kept. Both are of what is learned: the float network's answers, the labels, or a share of
    each.

    Args:
        teacher: the float network's logits on the validation pictures, (n, classes).
        share: of the loss that asks for the float network's answers.

    Attributes:
        epoch: the best so far.
        history: what was found, a row for each epoch.
    """

    def __init__(self, teacher: np.ndarray, share: float) -> None:
        self.epoch, self.history = 0, list[dict[str, float | None]]()
        self._teacher, self._share = teacher, share
        self._loss, self._least_right = math.inf, -math.inf

    def takes(self, logits: np.ndarray, scores: Scores | None, train_loss: float) -> bool:
        """Whether the next epoch is the best so far; epoch 0 comes first.

        Args:
            logits: on the validation pictures, (n, classes).
            scores: of these; None where the pictures have no labels, and nothing is learned from any.
            train_loss: the mean over the epoch.
        """
        answers, found = softmax(self._teacher), softmax(logits)
        divergence = (answers * (np.log(answers + 1e-9) - np.log(found + 1e-9))).sum(axis=1)
        distance = float(np.sqrt(np.maximum(divergence, 0)).mean())
        as_float = float((logits.argmax(axis=1) == self._teacher.argmax(axis=1)).mean())
        # As in training, without the temperature.
        loss, right = self._share * distance, self._share * as_float
        if scores:
            loss, right = loss + (1 - self._share) * scores.loss, right + (1 - self._share) * scores.top1
        number = len(self.history)
        top1 = scores.top1 if scores else None
        self.history.append({"epoch": number, "train_loss": train_loss, "val_loss": loss, "val_top1": top1,
                             "val_as_float": as_float, "val_distance_to_float": distance})
        if number == 0:
            self._least_right = right
        if not loss < self._loss or right < self._least_right:
            return False
        self._loss, self.epoch = loss, number
        return True


class FineTuning:
    """The fake-quantized network, its optimizer and the running average of what is trained.

    Adam moves every parameter by about the learning rate, whatever its size; but with BatchNorm folded and factors of 6 and 36
    moved between layers, sizes differ by orders of magnitude. So it works on parameters divided by their tensor's root mean
    square, which makes the learning rate a relative one. The ends of ranges move three times as fast. The rate rises from zero
    over the first tenth of the steps: until its moments have seen some gradients, Adam takes steps of full length in the
    direction of noise.

    What is asked of the float network's answers is the root of a picture's divergence from them: for small differences it grows
    with the logits' error, and so with the chance of another answer. The divergence itself grows with the error's square, so that
    little else would count than a few odd pictures (three of 301 made four fifths of it on a set that has some).

    What is kept is the average of the parameters over the last steps, :meth:`averaged`.

    Args:
        network: the fake-quantized model, which is trained.
        teacher: the float form.
        config: sections `quantize` and `train.label_smoothing`.
        frozen: operations whose weights stay as they are.
        total: number of steps that will be taken.
    """

    def __init__(self, network: LoweredNetwork, teacher: LoweredNetwork, config: Config, frozen: frozenset[str], total: int):
        settings = config.quantize
        warm_up = max(round(_WARM_UP * total), 1)
        self._optimizer = tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(
            0.0, max(total - warm_up, 1), warmup_target=settings.learning_rate, warmup_steps=warm_up))
        self._variables = network.trainable_variables(frozen)
        # One after the other in a single tensor: a step of many small ones is mostly the price of starting operations.
        values = [v.numpy() for v in self._variables]
        sizes = [max(float(np.sqrt(np.mean(np.square(value)))), 1e-3) * (1.0 if value.shape else _RANGES_FASTER)
                 for value in values]
        self._sizes = tf.constant(np.repeat(np.asarray(sizes, np.float32), [value.size for value in values]))
        self._relative = tf.Variable(_flat(values) / self._sizes)
        self._average = tf.Variable(self._relative, trainable=False)
        self._gradient = tf.Variable(tf.zeros_like(self._relative), trainable=False)
        self._steps = tf.Variable(0.0, trainable=False)
        self._optimizer.build([self._relative])
        self._model, self._teacher = network.model, teacher
        self._shift = tf.constant(input_shift(network.lowered.folded))
        self._temperature, self._share = settings.temperature, settings.teacher_weight
        self._smoothing = config.train.label_smoothing
        self._part = pictures_at_once(network.lowered)

    def step(self, inputs: np.ndarray, labels: np.ndarray) -> float:
        """One step.

        Args:
            inputs: float32 (n, height, width, 3) in input units.
            labels: float32 (n, classes), probabilities.

        Returns:
            The loss.
        """
        # With BatchNorm folded, the gradient of a batch is exactly the mean of its parts'.
        loss = 0.0
        for start in range(0, len(inputs), self._part):
            chunk = slice(start, start + self._part)
            loss += float(self._accumulate(inputs[chunk], labels[chunk], tf.constant(len(labels[chunk]) / len(labels))))
        self._apply()
        return loss

    def finite(self) -> bool:
        """Whether all parameters are finite numbers."""
        return bool(tf.reduce_all(tf.math.is_finite(self._relative)))

    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self._optimizer.learning_rate)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """For as long as it is entered, the fake-quantized model has the averaged parameters."""
        self._put(self._average)
        try:
            yield
        finally:
            self._put(self._relative)

    def _put(self, values: Any) -> None:
        parts = tf.split(values * self._sizes, [variable.shape.num_elements() for variable in self._variables])
        for variable, part in zip(self._variables, parts, strict=True):
            variable.assign(tf.reshape(part, variable.shape))

    @tf.function(reduce_retracing=True, autograph=False)
    def _accumulate(self, inputs: Any, labels: Any, weight: Any) -> Any:
        teacher = self._teacher.forward(inputs + self._shift) / self._temperature
        answers = tf.nn.softmax(teacher)
        entropy = tf.nn.softmax_cross_entropy_with_logits(answers, teacher)
        smooth = labels * (1 - self._smoothing) + self._smoothing / labels.shape[-1]
        with tf.GradientTape() as tape:
            logits = self._model(inputs, training=True)
            divergence = tf.nn.softmax_cross_entropy_with_logits(answers, logits / self._temperature) - entropy
            from_teacher = tf.sqrt(tf.maximum(divergence, 0.0) * self._temperature ** 2 + _NONE)
            from_labels = tf.nn.softmax_cross_entropy_with_logits(smooth, logits)
            loss = weight * tf.reduce_mean(self._share * from_teacher + (1 - self._share) * from_labels)
        self._gradient.assign_add(_flat(tape.gradient(loss, self._variables)))
        return loss

    @tf.function(autograph=False)
    def _apply(self) -> None:
        self._optimizer.apply_gradients([(self._gradient * self._sizes, self._relative)])
        self._gradient.assign(tf.zeros_like(self._gradient))
        self._steps.assign_add(1.0)
        # The first averages are over what there is.
        decay = tf.minimum(_DECAY, self._steps / (self._steps + 9.0))
        self._average.assign(decay * self._average + (1 - decay) * self._relative)
        self._put(self._relative)


def _flat(values: Sequence[Any]) -> Any:
    """Tensors one after the other, (numbers,)."""
    return tf.concat([tf.reshape(value, [-1]) for value in values], axis=0)


def pictures_at_once(lowered: LoweredGraph) -> int:
    """How many pictures go through the model at once, so that their activations and gradients stay within a budget."""
    return max(1, _STEP_BYTES // (count_values(lowered) * 4 * _COPIES))
