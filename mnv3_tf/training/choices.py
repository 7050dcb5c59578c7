"""What training chooses where the configuration leaves it open, each choice with the sentence that the log prints."""

import math
from dataclasses import dataclass

import keras
import numpy as np

from mnv3_tf.config import TrainConfig

# Peak learning rates at a batch of 64, for a network trained from scratch.
_BASE_RATE = {"adamw": 3e-3, "sgd": 0.1, "rmsprop": 1e-3}
_BASE_BATCH = 64


@dataclass(frozen=True)
class Choices:
    """Settled values of the open settings, and why."""

    learning_rate: float
    warmup_steps: int
    total_steps: int
    batchnorm_momentum: float
    mixed_precision: bool
    xla: bool
    notes: tuple[str, ...]


def settle(config: TrainConfig, batch_size: int, steps_per_epoch: int) -> Choices:
    """Settles the open settings for a number of steps and a device.

    Args:
        config: what the user asked for.
        batch_size: pictures per step, over all devices.
        steps_per_epoch: steps in one pass over the training split.
    """
    notes = []
    rate = config.learning_rate
    if rate is None:
        scale = batch_size / _BASE_BATCH
        # Adaptive steps grow with the square root of the batch, plain ones linearly.
        rate = _BASE_RATE[config.optimizer] * (scale if config.optimizer == "sgd" else math.sqrt(scale))
        notes.append(f"learning rate {rate:.3g}: {config.optimizer}'s {_BASE_RATE[config.optimizer]:g} at a batch of "
                     f"{_BASE_BATCH}, scaled to {batch_size}")
    warmup = config.warmup_epochs
    if warmup is None:
        warmup = min(5.0, config.epochs / 20)
    momentum = config.batchnorm_momentum
    if momentum is None:
        momentum = float(np.clip(1 - 2 / steps_per_epoch, 0.8, 0.99))
        notes.append(f"BatchNorm momentum {momentum:.3g}: the running statistics follow within an epoch of "
                     f"{steps_per_epoch} steps")
    accelerator = has_accelerator()
    mixed = accelerator if config.mixed_precision is None else config.mixed_precision
    xla = prefers_xla() if config.xla is None else config.xla
    notes.append(f"{keras.backend.backend()} on {'an accelerator' if accelerator else 'the CPU'}, "
                 f"{'float16' if mixed else 'float32'} arithmetic, {'with' if xla else 'without'} XLA")
    return Choices(learning_rate=rate, warmup_steps=round(warmup * steps_per_epoch),
                   total_steps=config.epochs * steps_per_epoch, batchnorm_momentum=momentum, mixed_precision=mixed,
                   xla=xla, notes=tuple(notes))


def has_accelerator() -> bool:
    """Whether Keras computes on a GPU or TPU."""
    return any(not device.lower().startswith("cpu") for device in keras.distribution.list_devices())


def prefers_xla() -> bool:
    """Whether XLA compiles this network to something faster: on an accelerator and on JAX, but not in TensorFlow on a CPU,
    where it is 5 to 9 times slower than the plain graph."""
    return has_accelerator() or keras.backend.backend() == "jax"


def make_optimizer(config: TrainConfig, choices: Choices) -> keras.optimizers.Optimizer:
    """The optimizer with linear warm-up and a cosine to zero; BatchNorm and biases are not decayed."""
    warmup = min(choices.warmup_steps, max(choices.total_steps - 1, 0))
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else choices.learning_rate,
        decay_steps=max(1, choices.total_steps - warmup),
        warmup_target=choices.learning_rate if warmup else None, warmup_steps=warmup)
    decay = config.weight_decay or None
    if config.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay)
    elif config.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=decay)
    else:
        optimizer = keras.optimizers.RMSprop(schedule, rho=0.9, momentum=0.9, epsilon=1e-3, weight_decay=decay)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Loss weights inversely proportional to the pictures of a class, 1 on average over the pictures."""
    counts = np.maximum(counts, 1)
    return (counts.sum() / (len(counts) * counts)).astype(np.float32)
