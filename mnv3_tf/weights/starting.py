"""What training starts from: named tensors by layer, with the network they belong to.

The settings of the weights' own network come before those of the configuration: defaults, then what the weights are, then
YAML, then ``-o``. So ``-o model.weights=imported.keras`` alone is enough, and a setting that contradicts the weights is refused.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv3_tf.artefacts.card import sidecar
from mnv3_tf.artefacts.open import Artefact, open_artefact
from mnv3_tf.config import Config, ModelConfig, load_config, read_settings, with_settings
from mnv3_tf.errors import InputError
from mnv3_tf.files import sha256
from mnv3_tf.network.plan import network_parts
from mnv3_tf.network.spec import network_spec
from mnv3_tf.progress import Progress

if TYPE_CHECKING:
    from mnv3_tf.weights.sources.registry import PublishedWeights

# Keys that decide the network below the layers after pooling; those may be made new.
_BODY = ("name", "block_table", "alpha", "dialect", "inplanes", "class_squeeze")


@dataclass(frozen=True)
class StartingWeights:
    """Weights to start from.

    Attributes:
        source: as the configuration names them.
        file: that was read: a `.keras`, or the file that was downloaded.
        sha256: of that file.
        spec: the network that they belong to.
        tensors: by layer, by variable ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"), float32.
        labels: class names in the order of the classifier's outputs; None where they are not known.
        normalization: mean and std of the input's channels as shares of 255; None: the dialect's.
        facts: what else is known of them, for the run's card: origin, licence.
    """

    source: str
    file: Path
    sha256: str
    spec: ModelConfig
    tensors: Mapping[str, Mapping[str, np.ndarray]]
    labels: tuple[str, ...] | None
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def load_settings(path: str | Path | None = None, overrides: Iterable[str] = (), *,
                  before_opening: Callable[[], None] | None = None) -> Config:
    """The configuration of a new run, as :func:`mnv3_tf.config.load_config` reads it, on top of what `model.weights` are.

    Args:
        path, overrides: as `load_config` takes them.
        before_opening: called before weights are looked at, for which Keras may be imported.

    Raises:
        InputError: as `load_config`; or the weights cannot be found, or a setting contradicts them.
    """
    settings = read_settings(path, overrides)
    config = with_settings(Config(), settings)
    if config.model.weights is None:
        return config
    if before_opening is not None:
        before_opening()
    spec = _find(config.model)[1]
    merged = with_settings(Config(model=spec), settings)
    _refuse_contradiction(merged.model, spec, {entry.key: entry.where for entry in settings if entry.section == "model"})
    return merged


def starting_model(config: Config, progress: Progress | None = None) -> StartingWeights:
    """The weights that `model.weights` names; published ones are downloaded.

    Args:
        config: names the weights.
        progress: told of a download.

    Raises:
        InputError: they cannot be found or read, or belong to another network than the configuration's.
        KitError: the download failed.
    """
    source = str(config.model.weights)
    found, spec = _find(config.model)
    _refuse_contradiction(config.model, spec, {})
    if not isinstance(found, Artefact):
        from mnv3_tf.weights.importing import published_tensors

        file, tensors = published_tensors(found, progress)
        return StartingWeights(source, file, sha256(file), spec, tensors, None, (found.mean, found.std),
                               {"published": found.name, "origin": found.dialect.removesuffix("_tf"), "licence": found.licence})
    return StartingWeights(source, found.weights, sha256(found.weights), spec,
                           tensors_of(found.model, found.card.get("new") or ()), found.classes, normalization_of(found.model),
                           {"origin": found.card.get("origin"), "licence": found.card.get("licence")})


def _find(model: ModelConfig) -> "tuple[PublishedWeights | Artefact, ModelConfig]":
    """The weights that a section names, and the network that they belong to, with `weights` as in `model`.

    Raises:
        InputError: they cannot be found or identified; of "imagenet", nobody published weights of this network (the message says
            at which alphas). Nothing is downloaded.
    """
    if model.weights == "imagenet" and model.block_table:
        raise InputError(f"model.weights is imagenet, but nobody published weights of the network of {model.block_table}. "
                         "Leave model.block_table out, or give a run folder or a .keras file.")
    entry = published_weights(str(model.weights), model.name, model.alpha, model.dialect)
    if entry is not None:
        return entry, _section(name=entry.network, alpha=entry.alpha, dialect=entry.dialect, weights=model.weights)
    artefact = open_weights(str(model.weights))
    return artefact, dataclasses.replace(spec_of(artefact), weights=model.weights)


def published_weights(source: str, network: str, alpha: float, dialect: str, top: bool = True) -> "PublishedWeights | None":
    """The published weights that are called `source`, or are this network's where that is "imagenet"; None for a path.

    Args:
        source: a name or a path.
        network, alpha, dialect, top: as for :func:`mnv3_tf.weights.sources.registry.imagenet_for`.

    Raises:
        InputError: there are none of that name, or for this network.
    """
    from mnv3_tf.weights.sources.registry import find_published, imagenet_for

    if source == "imagenet":
        return imagenet_for(network, alpha, dialect, top)
    if Path(source).exists() or source.endswith(".keras") or Path(source).is_absolute():
        return None
    try:
        return find_published(source)
    except InputError as error:
        rest = str(error).removeprefix(f"{source}: ")
        raise InputError(f"model.weights is {source}: there is no such run folder or .keras file, and {rest}") from None


def tensors_of(model: Any, new: Iterable[str]) -> dict[str, dict[str, np.ndarray]]:
    """By layer and variable, without the layers that are random numbers (`new`, with their BatchNorm)."""
    left = {name for layer in new for name in (layer, f"{layer}_bn")}
    return {layer.name: {variable.name: np.asarray(variable, np.float32) for variable in layer.weights}
            for layer in model.layers if layer.weights and layer.name not in left}


def normalization_of(model: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std by the Rescaling layer, of which one number may stand for three channels."""
    layer = next((layer for layer in model.layers if layer.name == "rescale"), None)
    if layer is None:
        return None
    scale, offset = (np.broadcast_to(np.asarray(value, np.float64), (3,)) for value in (layer.scale, layer.offset))
    std = 1 / (255 * scale)
    return tuple(map(float, -offset * std)), tuple(map(float, std))


def _refuse_contradiction(wanted: ModelConfig, given: ModelConfig, where: Mapping[str, str]) -> None:
    """Refuses settings of another network than that of the weights, below the layers after pooling; `where` has their places."""
    key = next((key for key in _BODY if getattr(wanted, key) != getattr(given, key)), None)
    if key is not None and _body(wanted) != _body(given):
        place = where.get(key, f"model.{key}")
        raise InputError(f"{place}: model.{key} is {getattr(wanted, key)}, but the weights {given.weights} are of "
                         f"{describe(given)}. Leave model.{key} out (it is then {getattr(given, key)}), or give weights of "
                         f"{describe(wanted)}.")


def open_weights(path: str | Path) -> Artefact:
    """A float run folder or a `.keras` file.

    Raises:
        InputError: it is missing, or another kind of file or run.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"model.weights is {path}: there is no such run folder or .keras file.")
    if path.is_file() and path.suffix != ".keras":
        raise InputError(f"model.weights is {path}; a run folder or a .keras file is needed. `mnv3 import-weights` makes "
                         "one of weights in other formats.")
    artefact = open_artefact(path)
    if artefact.form == "quantized":
        raise InputError(f"model.weights is {path}, a quantized run, whose weights are folded. Give the float run it was "
                         "made from.")
    return artefact


def spec_of(artefact: Artefact) -> ModelConfig:
    """The network that the weights of an artefact belong to: by its card, its run folder, or the layers' shapes."""
    if artefact.card.get("kind") == "imported weights":
        names = {field.name for field in dataclasses.fields(ModelConfig)} - {"weights"}
        entry = artefact.card.get("model")
        known = entry if isinstance(entry, Mapping) else {}
        try:
            return _section(**{key: value for key, value in known.items() if key in names})
        except InputError as error:
            card = sidecar(artefact.weights, "card.json")
            raise InputError(f"{card}: its entry about the model is damaged ({error})") from error
    if artefact.weights.name == "model.keras" and artefact.config is not None:
        return dataclasses.replace(artefact.config.model, weights=None)
    from mnv3_tf.weights.matching import identify

    return identify(artefact.model)


def _section(**values: Any) -> ModelConfig:
    """A section `model` of these values, checked as those of a file are."""
    return load_config(None, [f"model.{key}={json.dumps(value)}" for key, value in values.items()]).model


def _body(model: ModelConfig) -> tuple[Any, ...]:
    spec = network_spec(model)
    return network_parts(spec, model.alpha, None), spec.dialect


def describe(model: ModelConfig) -> str:
    """Such as "large at alpha 0.75 (dialect keras)"."""
    name = f"the network of {model.block_table}" if model.block_table else model.name
    return f"{name} at alpha {model.alpha:g} (dialect {model.dialect})"
