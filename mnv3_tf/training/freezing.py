"""Which layers are trained when, and how fast.

The network is seen as units from the input up: ``stem``, ``block_01``, ..., ``head_conv`` and ``top`` (the layers after pooling:
`head_expand` and `classifier`).
"""

from dataclasses import dataclass
from itertools import pairwise

from mnv3_tf.backend import keras
from mnv3_tf.config import Config, TrainConfig
from mnv3_tf.errors import InputError
from mnv3_tf.network.layer_names import block_of
from mnv3_tf.network.plan import network_parts
from mnv3_tf.network.spec import network_spec
from mnv3_tf.text import nearest

TOP = "top"


def unit_of(layer_name: str) -> str:
    """The unit that a layer belongs to where nothing is new: ``head_conv_bn`` -> ``head_conv``, ``classifier`` -> ``top``."""
    block = block_of(layer_name)
    if block in ("classifier", "logits", "predictions"):
        return TOP
    if block == "head":
        return "head_conv" if layer_name.startswith("head_conv") else TOP
    return block


@dataclass(frozen=True)
class FreezingPlan:
    """What is trained in which stage.

    Attributes:
        units: all units from the input up, `top` the last.
        frozen: how many of them, from the input, are never trained.
        starts: the epochs (finished before it) at which the stages after the first begin, in order.
        parts: for each of these stages, the units that join then; the first stage trains what is in no part.
        inference_batchnorm: BatchNorm is not trained and uses its statistics; only one that is new is trained.
    """

    units: tuple[str, ...]
    frozen: int
    starts: tuple[int, ...] = ()
    parts: tuple[tuple[str, ...], ...] = ()
    inference_batchnorm: bool = False

    def unit_of(self, layer_name: str) -> str:
        """The unit that a layer belongs to: ``block_07_depthwise_bn`` -> ``block_07``; `top` for a new `head_conv` too."""
        unit = unit_of(layer_name)
        return unit if unit in self.units else TOP

    def stage(self, epoch: int) -> int:
        """The stage of an epoch, counted from 0."""
        return sum(start <= epoch for start in self.starts)

    def ends(self, stage: int, epochs: int) -> int:
        """The epoch that the stage stops before, of so many in all."""
        return self.starts[stage] if stage < len(self.starts) else epochs

    def trained(self, stage: int) -> frozenset[str]:
        """The units that are trained in a stage."""
        waiting = {unit for part in self.parts[stage:] for unit in part}
        return frozenset(unit for unit in self.units[self.frozen:] if unit not in waiting)

    def apply(self, model: keras.Model, stage: int) -> None:
        """Sets what of the network is trained; BatchNorm that is not trained uses its statistics. Compile afterwards."""
        trained = self.trained(stage)
        for layer in model.layers:
            if layer.weights:
                normalizes = isinstance(layer, keras.layers.BatchNormalization)
                unit = self.unit_of(layer.name)
                layer.trainable = unit in trained and not (normalizes and self.inference_batchnorm and unit != TOP)

    def rates(self, backbone_rate: float, layer_decay: float) -> dict[str, float]:
        """The learning rate of every unit, relative to the top's."""
        last = len(self.units) - 1
        return {unit: 1.0 if unit == TOP else backbone_rate * layer_decay ** (last - place)
                for place, unit in enumerate(self.units)}

    def notes(self) -> tuple[str, ...]:
        """What is done, in sentences."""
        lines = []
        if self.frozen:
            lines.append(f"frozen: weights and BatchNorm statistics from the input to the end of {self.units[self.frozen - 1]}")
        for start, part in zip(self.starts, self.parts, strict=True):
            span = part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}"
            lines.append(f"{span}: trained after {start} {'epoch' if start == 1 else 'epochs'}")
        return tuple(lines)


def make_plan(config: Config, *, inference_batchnorm: bool = False, new_head_conv: bool = False) -> FreezingPlan:
    """Reads `train.freeze` and `train.unfreeze_epochs`.

    Args:
        config: the settings.
        inference_batchnorm: see :class:`FreezingPlan`.
        new_head_conv: `head_conv` starts from random numbers, and is trained with the layers after pooling.

    Raises:
        InputError: there is no such block, or the epochs do not rise, or do not fit into the run or the network; or a setting
            needs weights to start from, and there are none.
    """
    settings, model = config.train, config.model
    if model.weights is None:
        _refuse_without_weights(settings)
    parts = network_parts(network_spec(model), model.alpha, 1)
    units = tuple(dict.fromkeys(unit_of(part.layer) for part in parts if not (new_head_conv and part.role == "head_conv")))
    frozen = 0
    if settings.freeze is not None:
        if settings.freeze not in units[:-1]:
            raise InputError(f"train.freeze is {settings.freeze!r}, which is not a block{nearest(settings.freeze, units[:-1])}. "
                             f"Blocks: {', '.join(units[:-1])}.")
        frozen = units.index(settings.freeze) + 1
    wish = settings.unfreeze_epochs
    starts = () if wish is None else (wish,) if isinstance(wish, int) else wish
    waiting = units[frozen:-1]
    if any(later <= earlier for earlier, later in pairwise(starts)):
        raise InputError(f"train.unfreeze_epochs is {list(starts)}; each epoch must be later than the one before.")
    if starts and starts[-1] >= settings.epochs:
        raise InputError(f"train.unfreeze_epochs ends with {starts[-1]}, but there are {settings.epochs} epochs (train.epochs): "
                         "what is unfrozen then would never be trained.")
    if len(starts) > len(waiting):
        raise InputError(f"train.unfreeze_epochs has {len(starts)} epochs, but only {len(waiting)} blocks wait to be trained"
                         f"{' beside those that train.freeze keeps' if frozen else ''}. Give at most that many.")
    # What waits is cut into runs of about equal length, the topmost first.
    edges = [round(len(waiting) * place / len(starts)) for place in range(len(starts) + 1)] if starts else []
    parts_by_stage = tuple(waiting[low:high] for low, high in pairwise(edges))[::-1]
    return FreezingPlan(units, frozen, starts, parts_by_stage, inference_batchnorm)


def _refuse_without_weights(settings: TrainConfig) -> None:
    for key in ("freeze", "unfreeze_epochs"):
        if getattr(settings, key) is not None:
            raise InputError(f"train.{key} is {getattr(settings, key)}, but without model.weights the layers would stay "
                             "random. Give model.weights, or leave it out.")
    if settings.batchnorm in ("frozen", "reestimate"):
        raise InputError(f"train.batchnorm is {settings.batchnorm!r}, which needs a trained network. Give model.weights, or "
                         "leave it out.")
