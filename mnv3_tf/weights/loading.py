"""Weights for a network that is built in one's own code: ``MobileNetV3(..., weights="imagenet")``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv3_tf.artefacts.open import Artefact
from mnv3_tf.errors import InputError
from mnv3_tf.network.spec import DIALECTS, SPECS, NetworkSpec

if TYPE_CHECKING:
    import keras

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class NamedTensors:
    """Weights by layer and variable.

    Attributes:
        source: where they are from, for messages.
        tensors: layer -> variable -> float32.
        normalization: (mean, std) of the input's channels as shares of 255; None: the dialect's.
    """

    source: str
    tensors: dict[str, dict[str, np.ndarray]]
    normalization: Normalization | None


def find_weights(source: str | Path, spec: NetworkSpec, alpha: float, *, top: bool) -> NamedTensors:
    """The weights that a name means; published ones are downloaded, or taken from where an earlier download left them.

    Args:
        source: "imagenet" (what the dialect's package published for this network), the name of published weights, a `.keras`
            file, or a run folder.
        spec: the network.
        alpha: its width multiplier.
        top: whether it has a classifier.

    Raises:
        InputError: there are no such weights; of "imagenet", the message says at which alphas there are. Or they are of a dialect
            that computes another function with equal tensors. Nothing is downloaded then.
    """
    from mnv3_tf.weights.importing import import_weights
    from mnv3_tf.weights.sources.registry import find_published, imagenet_for
    from mnv3_tf.weights.starting import normalization_of, open_weights, tensors_of

    path = Path(source)
    if str(source) != "imagenet" and (path.exists() or path.suffix == ".keras" or path.is_absolute()):
        artefact = open_weights(path)
        _check_layers(artefact, spec)
        return NamedTensors(str(artefact.weights), tensors_of(artefact.model, ()), normalization_of(artefact.model))
    if str(source) == "imagenet":
        if spec.name not in SPECS:
            raise InputError(f"weights is imagenet, but nobody published weights of the network {spec.name}. Give a .keras file.")
        # keras.applications publishes files without the classifier too, which are smaller; of the others' some layers are left.
        entry = imagenet_for(spec.name, alpha, spec.dialect.name, top or spec.dialect.name != "keras")
    else:
        entry = find_published(str(source))
    theirs = DIALECTS[entry.dialect]
    if _function(theirs.symmetric_padding, theirs.batchnorm_epsilon) != _own_function(spec):
        raise InputError(_other_dialect(entry.name, [entry.dialect], spec))
    imported = import_weights(entry.name)
    return NamedTensors(entry.name, tensors_of(imported.model, ()), (imported.mean, imported.std))


def _function(symmetric_padding: bool, epsilon: float) -> tuple[bool, float]:
    """What of a dialect decides the answers of equal tensors, beside the normalization, which is that of the weights."""
    return symmetric_padding, float(f"{epsilon:.3g}")


def _own_function(spec: NetworkSpec) -> tuple[bool, float]:
    return _function(spec.dialect.symmetric_padding, spec.dialect.batchnorm_epsilon)


def _check_layers(artefact: Artefact, spec: NetworkSpec) -> None:
    """Refuses a file whose layers pad or normalize differently from the network's."""
    from mnv3_tf.weights.starting import spec_of

    layers = {layer.name: layer for layer in artefact.model.layers}
    if "stem_conv_bn" not in layers:
        return  # no network of this kit; what is missing is said when the weights are assigned
    theirs = _function("stem_conv_pad" in layers, layers["stem_conv_bn"].epsilon)
    if theirs == _own_function(spec):
        return
    try:
        dialects: list[str] = [spec_of(artefact).dialect]
    except InputError:  # a table of somebody's own; the dialects with such layers are known all the same
        dialects = [name for name, each in DIALECTS.items()
                    if _function(each.symmetric_padding, each.batchnorm_epsilon) == theirs]
    raise InputError(_other_dialect(str(artefact.weights), dialects, spec))


def _other_dialect(source: str, dialects: Sequence[str], spec: NetworkSpec) -> str:
    remedy = f"dialect={' or '.join(map(repr, dialects))}" if dialects else "the dialect that they were trained in"
    return (f"{source}: weights of the dialect {' or '.join(dialects) or '(none of this kit)'}, and the network is built in the "
            f"dialect {spec.dialect.name}, whose padding or BatchNorm epsilon differs: the same tensors would give other "
            f"answers. Build it with {remedy}.")


def with_their_normalization(spec: NetworkSpec, normalization: Sequence[Sequence[float]] | None) -> NetworkSpec:
    """The network for pixels normalized as its weights have it: (mean, std) of the channels, or None for the dialect's."""
    if normalization is None or np.allclose(normalization, (spec.dialect.mean, spec.dialect.std), rtol=1e-5):
        return spec
    (red, green, blue), (red_std, green_std, blue_std) = normalization
    own = dataclasses.replace(spec.dialect, mean=(red, green, blue), std=(red_std, green_std, blue_std))
    return dataclasses.replace(spec, dialect=own)


def assign_weights(model: "keras.Model", weights: NamedTensors) -> None:
    """Gives every layer the weights of its name.

    Raises:
        InputError: a layer is missing there or has another shape.
    """
    for layer in model.layers:
        for variable in layer.weights:
            value = weights.tensors.get(layer.name, {}).get(variable.name)
            if value is None:
                raise InputError(f"{weights.source}: has no {layer.name}/{variable.name}. Build the network with "
                                 "include_top=False, or as the weights are.")
            if value.shape != tuple(variable.shape):
                remedy = f"Build it with classes={value.shape[-1]}, or with include_top=False" if layer.name == "classifier" \
                    else "Build the network as the weights are"
                raise InputError(f"{weights.source}: {layer.name}/{variable.name} is {'x'.join(map(str, value.shape))}, and the "
                                 f"network has {'x'.join(map(str, variable.shape))}. {remedy}.")
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(weights.tensors[layer.name][variable.name])
