"""The first weights of a run: random, or taken over from another network and fitted to the pictures."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import keras
import numpy as np

from mnv3_tf.progress import Progress
from mnv3_tf.training.batches import TrainingBatches
from mnv3_tf.training.batchnorm import adapt_statistics, measure, normalizations, set_statistics
from mnv3_tf.training.defaults import Choices
from mnv3_tf.training.freezing import TOP, FreezingPlan
from mnv3_tf.training.transfer import is_folded, lacks_head_conv, transfer
from mnv3_tf.weights.starting import StartingWeights

# Training pictures that BatchNorm's statistics are measured on, at most.
_MEASURED = 2048


def facts_of(start: StartingWeights) -> dict[str, Any]:
    """What the card of a run says about the weights it started from."""
    return {"source": start.source, "file": start.file.name, "sha256": start.sha256,
            "folded": is_folded(start), "lacks_head_conv": lacks_head_conv(start),
            "model": {key: value for key, value in vars(start.spec).items() if key != "weights"},
            "normalization": start.normalization and [list(values) for values in start.normalization], **start.facts}


def take_over(model: keras.Model, start: StartingWeights, class_names: tuple[str, ...], plan: FreezingPlan, choices: Choices,
              batches: TrainingBatches, unused_epoch: int, progress: Progress) -> dict[str, Any]:
    """Gives a network, in float32, the weights that a run starts from.

    Args:
        model: just built.
        start: the weights.
        class_names: in the order of the model's outputs.
        plan: of freezing; what it never trains keeps its statistics.
        choices: whether statistics are measured first.
        batches: the training split.
        unused_epoch: number of an epoch that is not trained on; its augmented pictures are measured.
        progress: told of everything.

    Returns:
        Facts for the card.
    """
    taken = transfer(model, start, class_names)
    notes = list(taken.notes)
    units = {layer.name: plan.unit_of(layer.name) for layer in normalizations(model)}
    kept, new = plan.units[:plan.frozen], {name for name, unit in units.items() if unit == TOP}
    if choices.batchnorm == "reestimate" and any(unit not in kept for unit in units.values()):
        wanted = min(max(1, _MEASURED // batches.batch_size), batches.steps_per_epoch)
        pixels = _pixels(batches.epoch(unused_epoch), wanted)
        frozen = {name for name, unit in units.items() if unit in kept}
        if is_folded(start):
            set_statistics(model, measure(model, pixels), skip=frozen, normalize=new)
            effect = "the network computes what it did"
        else:
            adapt_statistics(model, pixels, skip=frozen)
            effect = "the network is adapted to them"
        notes.append(f"BatchNorm's statistics measured on {wanted * batches.batch_size} augmented training pictures; {effect}")
    for note in notes:
        progress.say(note)
    return {**facts_of(start), "taken": list(taken.taken), "new": list(taken.new), "notes": notes}


def _pixels(batches: Iterator[Any], count: int) -> Iterable[np.ndarray]:
    for pixels, _, _ in islice(batches, count):
        yield pixels
