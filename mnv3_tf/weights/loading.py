"""Weights for a network that is built in one's own code: ``MobileNetV3(..., weights="imagenet")``."""

from collections.abc import Sequence
from pathlib import Path

from mnv3_tf.backend import keras
from mnv3_tf.errors import InputError
from mnv3_tf.network.keras_io import Tensors, assign_tensors
from mnv3_tf.network.spec import DIALECTS, SPECS, NetworkSpec
from mnv3_tf.weights.importing import published_tensors
from mnv3_tf.weights.matching import same_details
from mnv3_tf.weights.starting import normalization_of, open_weights, published_weights, spec_of, tensors_of

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


def find_weights(source: str | Path, spec: NetworkSpec, alpha: float, *, top: bool) -> tuple[str, Tensors, Normalization | None]:
    """The weights that a name means; published ones are downloaded, or taken from where an earlier download left them.

    Args:
        source: "imagenet" (what the dialect's package published for this network), the name of published weights, a `.keras`
            file, or a run folder.
        spec: the network.
        alpha: its width multiplier.
        top: whether it has a classifier.

    Returns:
        Where the weights are from, for messages; the tensors; and mean and std of the input's channels as shares of 255, or None
        for the dialect's.

    Raises:
        InputError: there are no such weights; of "imagenet", the message says at which alphas there are. Or they are of a dialect
            that computes another function with equal tensors. Nothing is downloaded then.
    """
    if str(source) == "imagenet" and spec.name not in SPECS:
        raise InputError(f"weights is imagenet, but nobody published weights of the network {spec.name}. Give a .keras file.")
    # keras.applications publishes files without the classifier too, which are smaller; of the others' some layers are left.
    entry = published_weights(str(source), spec.name, alpha, spec.dialect.name, top or spec.dialect.name != "keras")
    if entry is not None:
        theirs = DIALECTS[entry.dialect]
        if not spec.dialect.computes_like(theirs.symmetric_padding, theirs.batchnorm_epsilon):
            raise InputError(_other_dialect(entry.name, [entry.dialect], spec))
        return entry.name, published_tensors(entry)[1], (entry.mean, entry.std)
    artefact = open_weights(source)
    layers = {layer.name: layer for layer in artefact.model.layers}
    # Without a stem it is no network of this kit; what is missing is said when the weights are assigned.
    if "stem_conv_bn" in layers and not same_details(layers, spec.dialect):
        try:
            dialects: list[str] = [spec_of(artefact).dialect]
        except InputError:  # a table of somebody's own; the dialects with such layers are known all the same
            dialects = [name for name, dialect in DIALECTS.items() if same_details(layers, dialect)]
        raise InputError(_other_dialect(str(artefact.weights), dialects, spec))
    return str(artefact.weights), tensors_of(artefact.model, ()), normalization_of(artefact.model)


def _other_dialect(source: str, dialects: Sequence[str], spec: NetworkSpec) -> str:
    remedy = f"dialect={' or '.join(map(repr, dialects))}" if dialects else "the dialect that they were trained in"
    return (f"{source}: weights of the dialect {' or '.join(dialects) or '(none of this kit)'}, and the network is built in the "
            f"dialect {spec.dialect.name}, whose padding or BatchNorm epsilon differs: the same tensors would give other "
            f"answers. Build it with {remedy}.")


def assign_weights(model: keras.Model, tensors: Tensors, source: str) -> None:
    """Gives every layer the tensors of its name; `source` is where they are from.

    Raises:
        InputError: a layer is missing there or has another shape.
    """
    for layer in model.layers:
        for variable in layer.weights:
            value = tensors.get(layer.name, {}).get(variable.name)
            if value is None:
                raise InputError(f"{source}: has no {layer.name}/{variable.name}. Build the network with "
                                 "include_top=False, or as the weights are.")
            if value.shape != tuple(variable.shape):
                remedy = f"Build it with classes={value.shape[-1]}, or with include_top=False" if layer.name == "classifier" \
                    else "Build the network as the weights are"
                raise InputError(f"{source}: {layer.name}/{variable.name} is {'x'.join(map(str, value.shape))}, and the "
                                 f"network has {'x'.join(map(str, variable.shape))}. {remedy}.")
    assign_tensors(model, tensors)
