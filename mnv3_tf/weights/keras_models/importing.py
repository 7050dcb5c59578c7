"""A whole Keras model, from a file or from memory, as a network of this kit that gives the same answers."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.backend import keras
from mnv3_tf.config import ModelConfig
from mnv3_tf.data import Preprocessing
from mnv3_tf.data.synthetic import synthetic_pictures
from mnv3_tf.errors import CheckFailed, InputError
from mnv3_tf.metrics import softmax
from mnv3_tf.network.build import dtype_policy
from mnv3_tf.network.plan import BATCHNORM
from mnv3_tf.quantization.fold import trace
from mnv3_tf.text import listed
from mnv3_tf.weights.imported import Imported, ImportedTensor, check_labels
from mnv3_tf.weights.keras_models.calls import read_calls
from mnv3_tf.weights.keras_models.naming import Match, match, names_of
from mnv3_tf.weights.keras_models.translate import Translation, translate
from mnv3_tf.weights.saving import save

# Largest difference of a logit, as a share of the logits' range; typical are 1e-6 and less.
TOLERANCE = 1e-4
_PICTURES = 8
_DEFAULT_SIZE = 224
_RESIZED = ("how its pictures were resized is not known: taken is Keras's own way, the whole picture stretched to the input, "
            "bilinear; -o data.resize=crop or pad changes it")


def import_model(model: Any, *, labels: Sequence[str] | None = None, mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None, input_size: int | Sequence[int] | None = None, classes: int | None = None,
                 dropout: float = 0.2, source: str | Path | None = None, out: str | Path | None = None) -> Imported:
    """Takes over a Keras model: MobileNetV3 or any network of layers that have an integer form here.

    What only training does is left out, Dense layers become 1x1 convolutions, a softmax is left to the reader of the answers, and
    one logit (or sigmoid) becomes two classes. A MobileNetV3 gets the names of this kit's layers, so that it can be trained on.

    Args:
        model: functional or sequential, of Keras 3 or tf_keras, from RGB pictures to one score for each class; it may hold other
            models. Without a classifier it is taken as a feature extractor.
        labels: class names in the order of its outputs; of one logit, that of the low answer first.
        mean, std: how pixels were brought to its input, as shares of 255, where the model does not rescale them itself.
        input_size: one side in pixels, or (height, width), where the model leaves it open; 224 otherwise.
        classes: the number of classes that it must have.
        dropout: before the classifier, should it be trained on; where the model has none of its own.
        source: the file that it came from, for messages.
        out: where to write it too: a `.keras` file, or, without an ending, a run folder for the other commands.

    Raises:
        InputError: layers have no form here (all are named), or something is not known (all of it is asked for).
        CheckFailed: the network answers otherwise than the model on random pictures.
    """
    where = str(source or model.name)
    calls, image, output = read_calls(model)
    shape = tuple(model.inputs[0].shape)[1:]
    if len(shape) != 3 or shape[2] not in (3, None):
        raise InputError(f"{where}: takes an input of shape {shape}; pictures of 3 channels, which come last, are needed.")
    size, notes = _size(where, shape[:2], input_size)
    found = translate(calls, image, output, size)
    if isinstance(found, list):
        lines = listed(found, "\n- ")
        raise InputError(f"{where}: not everything in it can be taken over:\n- {lines}")
    if (found.height, found.width) != size:
        notes = []  # the model says the size after all, in its Resizing
    known = match(found)
    features = _is_features(found, known)
    found = _without_pooling(found) if features else found
    outputs = found.layers[-1].shape[2]
    number = None if features else max(outputs, 2)
    if found.end == "sigmoid" and outputs > 1:
        raise InputError(f"{where}: ends in a sigmoid for each of {outputs} outputs, so a picture may have several labels; only "
                         "one label a picture is supported. Train it with a softmax.")
    _ask(where, found, labels, number, mean, std)
    if outputs == 1 and not features:
        if not found.layers[-1].is_convolution:
            kind = found.layers[-1].kind
            raise InputError(f"{where}: its one output comes from a {kind}, so it is no logit of two classes. End it in "
                             "Dense(1), without an activation or with a sigmoid, or in one output for each class.")
        _two_classes(found)
        notes.append("its one output z is kept as two logits, -z/2 and z/2, whose softmax is its sigmoid")
    scale, offset = found.rescaling or _rescaling(mean, std)
    names, config = names_of(found, known)
    network = _build(found, names, scale, offset, features=features)
    if not features:
        trace(network)  # names what has no form in 8 bits
    notes += [*found.notes, _compared(where, model, network, found, features=features), _RESIZED]
    known_as = "it is no MobileNetV3 of this kit: it can be quantized, converted and verified as it is, and not trained here"
    if config is not None:
        own_head = "" if features or "head_expand" in names.values() else ", with a head of its own"
        known_as = f"it is {config.name} at alpha {config.alpha:g}, dialect {config.dialect}{own_head}"
    config = config or ModelConfig(name="imported")
    spread = 1 / (255 * scale)
    imported = Imported(
        model=network, source=Path(where), origin="keras",
        settings=dataclasses.replace(config, dropout=dropout if found.dropout is None else found.dropout),
        include_top=not features, classes=number, labels=check_labels(Path(where), number, classes, labels),
        mean=tuple(map(float, 0.0 - offset * spread)), std=tuple(map(float, spread)),
        preprocessing=Preprocessing(height=found.height, width=found.width, resize="stretch"),
        tensors=tuple(_rows(found, names)), notes=(known_as, *notes))
    if out is not None:
        save(imported, out)
    return imported


def _size(where: str, sides: Sequence[int | None], given: int | Sequence[int] | None) -> tuple[tuple[int, int], list[str]]:
    """Height and width, and what is to be said of them."""
    wanted = None if given is None else (given, given) if isinstance(given, int) else (int(given[0]), int(given[1]))
    height, width = sides
    if height and width:
        if wanted not in (None, (height, width)):
            raise InputError(f"{where}: its input is {height}x{width} pixels. Leave the size out; a model for another size has "
                             "to be built as such.")
        return (height, width), []
    if wanted is not None:
        return wanted, []
    return (_DEFAULT_SIZE, _DEFAULT_SIZE), [f"the model leaves its input size open: {_DEFAULT_SIZE}x{_DEFAULT_SIZE} is taken "
                                            "(--size gives another)"]


def _ask(where: str, found: Translation, labels: Sequence[str] | None, classes: int | None, mean: Sequence[float] | None,
         std: Sequence[float] | None) -> None:
    """Refuses what contradicts the model, and asks for all that is missing at once."""
    if found.rescaling is not None and (mean is not None or std is not None):
        raise InputError(f"{where}: rescales pixels itself. Leave mean and std out.")
    missing = []
    if found.rescaling is None and (mean is None or std is None):
        missing.append("how pixels were brought to its input, since it has no Rescaling: --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 if "
                       "to -1..1 (keras.applications' preprocess_input), --mean 0 0 0 --std 1 1 1 if to 0..1, --mean 0 0 0 --std "
                       "0.00392157 0.00392157 0.00392157 if it takes 0..255 (each a share of 255, by channel)")
    if missing and classes is not None and labels is None:
        missing.append(f"for a run folder, the names of its {classes} classes in the order of its outputs: --labels FILE, one a "
                       "line")
    if missing:
        raise InputError(f"{where}: does not say everything. Missing:\n- " + "\n- ".join(missing))


def _rescaling(mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray]:
    means, stds = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    return 1 / (255 * stds), -means / stds


def _is_features(found: Translation, known: Match | None) -> bool:
    """Whether the network has no classifier: it ends in a map, or in the mean of a MobileNetV3's last map."""
    last = found.layers[-1]
    body = sum(layer.is_convolution for layer in found.layers) == len(known[1]) if known else False
    return last.shape[:2] != (1, 1) or body


def _without_pooling(found: Translation) -> Translation:
    last = found.layers[-1]
    if last.kind != "GlobalAveragePooling2D":
        return found
    return dataclasses.replace(found, layers=found.layers[:-1], output=last.inputs[0],
                               notes=(*found.notes, "the pooling at its end is left out: training puts a head on the last map"))


def _two_classes(found: Translation) -> None:
    """One logit z becomes the two -z/2 and z/2."""
    last = found.layers[-1]
    kernel, *bias = last.weights
    shift = bias[0] if bias else np.zeros(1)
    last.weights = np.concatenate([-kernel / 2, kernel / 2], axis=-1), np.concatenate([-shift / 2, shift / 2])
    last.settings |= {"filters": 2, "use_bias": True}
    last.shape = (*last.shape[:2], 2)


def _build(found: Translation, names: dict[str, str], scale: np.ndarray, offset: np.ndarray, *, features: bool) -> keras.Model:
    """The network in float32, from pixels 0..255 to logits, or to the last map."""
    with dtype_policy("float32"):
        image = keras.layers.Input((found.height, found.width, 3), name="image")
        same = not np.ptp(scale) and not np.ptp(offset)
        rescale = keras.layers.Rescaling(*((float(scale[0]), float(offset[0])) if same else (scale.tolist(), offset.tolist())),
                                         name="rescale")
        tensors = {"": rescale(image)}
        for layer in found.layers:
            inputs = [tensors[name] for name in layer.inputs]
            made = getattr(keras.layers, layer.kind)(name=names[layer.name], **layer.settings)
            tensors[layer.name] = made(inputs if len(inputs) > 1 else inputs[0])
            if layer.weights:
                made.set_weights([np.asarray(value, np.float32) for value in layer.weights])
        result = tensors[found.output]
        if not features:
            result = keras.layers.Flatten(name="logits")(result)
        return keras.Model(image, result, name="imported")


def _compared(where: str, model: Any, network: keras.Model, found: Translation, *, features: bool) -> str:
    """Runs both on random pictures, and says how far they differ.

    Raises:
        CheckFailed: too far.
    """
    pixels = synthetic_pictures(_PICTURES, max(found.height, found.width))[:, :found.height, :found.width]
    given = pixels
    if found.rescaling is None:
        rescale = network.get_layer("rescale")
        given = pixels * np.asarray(rescale.scale, np.float32) + np.asarray(rescale.offset, np.float32)
    theirs = np.asarray(model(given, training=False), np.float64)
    ours = np.asarray(network(pixels, training=False), np.float64)
    if features and theirs.ndim == 2 and ours.ndim == 4:
        ours = ours.mean(axis=(1, 2))
    # Probabilities have no more than the precision of float32, however little the logits of an untrained network differ.
    extent = max(float(np.ptp(ours)), 1e-2 if found.end else 1e-12)
    if found.end == "softmax":
        theirs, ours = (np.log(np.maximum(values, 1e-6)) for values in (theirs, softmax(ours)))
    elif not features and found.end == "sigmoid":
        theirs, ours = (np.log(np.maximum(values, 1e-6)) for values in (theirs.reshape(-1), softmax(ours)[:, 1]))
    elif ours.shape[-1] == 2 and theirs.reshape(len(ours), -1).shape[-1] == 1:
        ours = ours[:, 1:] - ours[:, :1]
    difference = float(np.abs(theirs.reshape(ours.shape) - ours).max()) / extent
    text = f"its answers differ from the model's by at most {difference:.1e} of their range ({_PICTURES} random pictures)"
    if not difference <= TOLERANCE:
        raise CheckFailed(f"{where}: {text}; allowed is {TOLERANCE:.0e}. Nothing was written. Does it use Dropout, "
                          "augmentation or BatchNormalization with training=True?")
    return text


def _rows(found: Translation, names: dict[str, str]) -> Iterator[ImportedTensor]:
    """Tensor by tensor, what came from where."""
    for layer in found.layers:
        variables = ["kernel", "bias"]
        if layer.kind == "BatchNormalization":
            given = {"gamma": "scale", "beta": "center"}
            variables = [name for name in BATCHNORM if name not in given or layer.settings[given[name]]]
        for name, value in zip(variables, layer.weights, strict=False):
            yield ImportedTensor(f"{layer.name}/{name}", value.shape, f"{names[layer.name]}/{name}", value.shape, "")
