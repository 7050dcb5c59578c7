"""What training chooses where the configuration leaves it open, each choice with the sentence that the log prints."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mnv3_tf.backend import has_accelerator, has_bfloat16, keras, prefers_xla
from mnv3_tf.config import TrainConfig
from mnv3_tf.training.learning_rates import AdamByLayer, LaterSchedule, RMSpropByLayer, SGDByLayer

# Peak learning rates at a batch of 64, for a network trained from scratch.
_BASE_RATE = {"adamw": 3e-3, "sgd": 0.1, "rmsprop": 1e-3}
# The same for one that starts from other weights. SGD and RMSprop keep the proportion to their own.
_TUNED_RATE = {"adamw": 1e-3, "sgd": 0.03, "rmsprop": 3e-4}
_BASE_BATCH = 64
# Layers whose BatchNorm does not normalize the batch take steps this much smaller.
_FROZEN_BATCHNORM_RATE = 0.03
# Batch statistics of fewer pictures than this are too rough to train with.
_SMALLEST_BATCH = 16
# Training pictures that are too few to train the lower blocks as fast as the upper ones, and what their rate falls by.
_FEW_PICTURES = 500
_FEW_PICTURES_DECAY = 0.8
# Steps between which an accelerator need not wait for Python.
_MOST_AT_ONCE = 8

BatchNorm = Literal["train", "frozen", "reestimate"]
Mixed = Literal[False, "float16", "bfloat16"]


@dataclass(frozen=True)
class Choices:
    """Settled values of the open settings, and why."""

    learning_rate: float
    warmup_steps: int
    total_steps: int
    batchnorm_momentum: float
    mixed_precision: Mixed
    xla: bool
    notes: tuple[str, ...]
    batchnorm: BatchNorm = "train"
    backbone_rate: float = 1.0
    layer_decay: float = 1.0


def decide(config: TrainConfig, batch_size: int, steps_per_epoch: int, *, tuned: bool = False, folded: bool = False) -> Choices:
    """Decides the open settings for a number of steps and a device.

    Args:
        config: what the user asked for.
        batch_size: pictures per step, over all devices.
        steps_per_epoch: steps in one pass over the training split.
        tuned: training starts from other weights.
        folded: these have their BatchNorm folded into the convolutions.
    """
    notes: list[str] = []
    pictures = batch_size * steps_per_epoch
    batchnorm, backbone_rate, layer_decay = _choose_tuning(config, batch_size, pictures, tuned, folded, notes)
    rate = config.learning_rate
    if rate is None:
        scale = batch_size / _BASE_BATCH
        base = (_TUNED_RATE if tuned else _BASE_RATE)[config.optimizer]
        # Adaptive steps grow with the square root of the batch, plain ones linearly.
        rate = base * (scale if config.optimizer == "sgd" else math.sqrt(scale))
        notes.append(f"learning rate {rate:.3g}: {config.optimizer}'s {base:g}{' for fine-tuning' if tuned else ''} at a batch "
                     f"of {_BASE_BATCH}, scaled to {batch_size}")
    warmup = min(5.0, config.epochs / 20) if config.warmup_epochs is None else config.warmup_epochs
    momentum = config.batchnorm_momentum
    if momentum is None:
        momentum = float(np.clip(1 - 2 / steps_per_epoch, 0.8, 0.99))
        notes.append(f"BatchNorm momentum {momentum:.3g}: the running statistics follow within an epoch of "
                     f"{steps_per_epoch} steps")
    accelerator = has_accelerator()
    mixed = _choose_precision(config.mixed_precision, accelerator)
    xla = prefers_xla() if config.xla is None else config.xla
    notes.append(f"{keras.backend.backend()} on {'an accelerator' if accelerator else 'the CPU'}, "
                 f"{mixed or 'float32'} arithmetic, {'with' if xla else 'without'} XLA")
    return Choices(learning_rate=rate, warmup_steps=round(warmup * steps_per_epoch),
                   total_steps=config.epochs * steps_per_epoch, batchnorm_momentum=momentum, mixed_precision=mixed,
                   xla=xla, notes=tuple(notes), batchnorm=batchnorm, backbone_rate=backbone_rate, layer_decay=layer_decay)


def steps_at_once(steps: int) -> int:
    """How many of so many steps Keras takes before it calls back, a divisor of them; one on a CPU, where that costs nothing."""
    return max(number for number in range(1, _MOST_AT_ONCE + 1) if steps % number == 0) if has_accelerator() else 1


def _choose_precision(asked: bool | Literal["float16", "bfloat16"] | None, accelerator: bool) -> Mixed:
    """bfloat16, where the accelerator has it, needs no scaling of the loss."""
    if isinstance(asked, str):
        return asked
    if not (accelerator if asked is None else asked):
        return False
    return "bfloat16" if has_bfloat16() else "float16"


def _choose_tuning(config: TrainConfig, batch_size: int, pictures: int, tuned: bool, folded: bool,
                   notes: list[str]) -> tuple[BatchNorm, float, float]:
    """BatchNorm's handling, and the rates of the layers before pooling: relative to the top's, and from block to block."""
    backbone_rate, layer_decay = config.backbone_rate or 1.0, config.layer_decay or 1.0
    if not tuned:
        return "train", backbone_rate, layer_decay
    batchnorm = _choose_batchnorm(config, batch_size, folded, notes) if config.batchnorm == "auto" else config.batchnorm
    if config.backbone_rate is None and batchnorm == "frozen":
        backbone_rate = _FROZEN_BATCHNORM_RATE
        notes.append(f"layers before pooling take {backbone_rate:g} of the learning rate: their BatchNorm is not trained")
    if config.layer_decay is None and pictures < _FEW_PICTURES and batchnorm != "frozen" and config.freeze is None:
        layer_decay = _FEW_PICTURES_DECAY
        notes.append(f"learning rate falls by {layer_decay:g} from block to block towards the input: {pictures} pictures are "
                     f"fewer than {_FEW_PICTURES}")
    return batchnorm, backbone_rate, layer_decay


def _choose_batchnorm(config: TrainConfig, batch_size: int, folded: bool, notes: list[str]) -> BatchNorm:
    if config.unfreeze_epochs is not None:
        notes.append("BatchNorm stays in inference mode, also in what is unfrozen; train.batchnorm=reestimate trains it")
        return "frozen"
    if batch_size < _SMALLEST_BATCH:
        notes.append(f"BatchNorm stays in inference mode: a batch of {batch_size} is too small for statistics")
        return "frozen"
    why = "it is folded into the weights" if folded else "those of the weights are of other pictures"
    notes.append(f"BatchNorm: statistics are measured on the training pictures first ({why}), then trained")
    return "reestimate"


def make_optimizer(config: TrainConfig, choices: Choices, *, first_step: int = 0,
                   rate_of: Callable[[str], float] | None = None) -> keras.optimizers.Optimizer:
    """The optimizer with linear warm-up and a cosine to zero; BatchNorm and biases are not decayed.

    Args:
        config, choices: the settings, and what was chosen where they are open.
        first_step: step of the run at which this optimizer starts; the schedule goes on there.
        rate_of: layer name -> its learning rate, relative to the schedule's; None: the same for all.
    """
    warmup = min(choices.warmup_steps, max(choices.total_steps - 1, 0))
    schedule: Any = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else choices.learning_rate,
        decay_steps=max(1, choices.total_steps - warmup),
        warmup_target=choices.learning_rate if warmup else None, warmup_steps=warmup)
    if first_step:
        schedule = LaterSchedule(schedule, first_step)
    decay = config.weight_decay or None
    own = None if rate_of else decay  # optimizers with rates by layer decay weights by the same rates
    clip = config.clip_norm or None
    if config.optimizer == "adamw":
        optimizer = AdamByLayer(schedule, global_clipnorm=clip) if rate_of else \
            keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, global_clipnorm=clip)
    elif config.optimizer == "sgd":
        optimizer = (SGDByLayer if rate_of else keras.optimizers.SGD)(schedule, momentum=0.9, nesterov=True, weight_decay=own,
                                                                      global_clipnorm=clip)
    else:
        optimizer = (RMSpropByLayer if rate_of else keras.optimizers.RMSprop)(schedule, rho=0.9, momentum=0.9, epsilon=1e-3,
                                                                              weight_decay=own, global_clipnorm=clip)
    if rate_of:
        optimizer.rate_of, optimizer.decay = rate_of, config.weight_decay
    elif decay:
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def make_loss(config: TrainConfig, classes: int) -> keras.losses.Loss | Callable[[Any, Any], Any]:
    """The loss of logits (n, classes) against labels (n, classes), without a teacher."""
    smoothing = config.label_smoothing
    if config.loss == "cross_entropy":
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)

    def bce(labels: Any, logits: Any) -> Any:
        # Keras's own smoothing here would ask for half of it of every class.
        return keras.losses.binary_crossentropy(labels * (1 - smoothing) + smoothing / classes, logits, from_logits=True)

    return bce


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Loss weights inversely proportional to the pictures of a class, 1 on average over the pictures."""
    counts = np.maximum(counts, 1)
    return (counts.sum() / (len(counts) * counts)).astype(np.float32)
