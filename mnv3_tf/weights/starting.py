"""What training starts from: named tensors by layer, with the network they belong to.

The settings of the weights' own network come before those of the configuration: defaults, then what the weights are, then
YAML, then ``-o``. So ``-o model.weights=imported.keras`` alone is enough, and a setting that contradicts the weights is refused.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv3_tf.artefacts.card import card_path, read_card
from mnv3_tf.config import Config, ModelConfig, load_config
from mnv3_tf.data import read_labels
from mnv3_tf.errors import InputError
from mnv3_tf.files import sha256
from mnv3_tf.network.plan import network_parts
from mnv3_tf.network.spec import network_spec
from mnv3_tf.progress import Progress
from mnv3_tf.yaml_text import read_yaml

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


def load_settings(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """The configuration of a new run, as :func:`mnv3_tf.config.load_config` reads it, on top of what `model.weights` are.

    Raises:
        InputError: as `load_config`; or the weights cannot be found, or a setting contradicts them.
    """
    overrides = tuple(overrides)
    config = load_config(path, overrides)
    if config.model.weights is None:
        return config
    spec = weights_spec(config.model)
    merged = load_config(path, overrides, dataclasses.replace(Config(), model=spec))
    key = contradiction(merged.model, spec)
    if key:
        raise InputError(_refusal(merged.model, spec, key, _where(path, overrides, key)))
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
    spec = weights_spec(config.model)
    key = contradiction(config.model, spec)
    if key:
        raise InputError(_refusal(config.model, spec, key, f"model.{key}"))
    entry = _published(config.model)
    if entry is not None:
        from mnv3_tf.weights.importing import published_tensors

        file, tensors = published_tensors(entry, progress)
        return StartingWeights(source, file, sha256(file), spec, tensors, None, (entry.mean, entry.std),
                               {"published": entry.name, "origin": entry.dialect.removesuffix("_tf"), "licence": entry.licence})
    from mnv3_tf.network.keras_io import load_keras

    file = keras_file(Path(source))
    model, card = load_keras(file), read_card(file) or {}
    return StartingWeights(source, file, sha256(file), spec, tensors_of(model, card.get("new") or ()),
                           _labels_of_file(file, card), normalization_of(model),
                           {"origin": card.get("origin"), "licence": card.get("licence")})


def weights_spec(model: ModelConfig) -> ModelConfig:
    """The network that the weights belong to, with `weights` as in `model`.

    Args:
        model: a section that names weights.

    Raises:
        InputError: they cannot be found or identified; of "imagenet", nobody published weights of this network (the message says
            at which alphas). Nothing is downloaded.
    """
    entry = _published(model)
    if entry is not None:
        return _section(name=entry.network, alpha=entry.alpha, dialect=entry.dialect, weights=model.weights)
    file = keras_file(Path(str(model.weights)))
    return dataclasses.replace(spec_of_file(file, read_card(file) or {}), weights=model.weights)


def _published(model: ModelConfig) -> "PublishedWeights | None":
    """The published weights that a section names; None for a path."""
    if model.weights == "imagenet" and model.block_table:
        raise InputError(f"model.weights is imagenet, but nobody published weights of the network of {model.block_table}. "
                         "Leave model.block_table out, or give a run folder or a .keras file.")
    return published_weights(str(model.weights), model.name, model.alpha, model.dialect)


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


def contradiction(wanted: ModelConfig, given: ModelConfig) -> str | None:
    """The first key in which two sections describe different networks below the layers after pooling; None for none."""
    keys = [key for key in _BODY if getattr(wanted, key) != getattr(given, key)]
    return keys[0] if keys and _body(wanted) != _body(given) else None


def keras_file(path: Path) -> Path:
    """The `.keras` file of a run folder or of a path to one."""
    if path.is_dir():
        from mnv3_tf.artefacts.run_folder import open_run

        run = open_run(path)
        if run.is_quantized:
            raise InputError(f"model.weights is {path}, a quantized run, whose weights are folded. Give the float run it was "
                             "made from.")
        return run.model
    if path.is_file():
        if path.suffix != ".keras":
            raise InputError(f"model.weights is {path}; a run folder or a .keras file is needed. `mnv3 import-weights` makes "
                             "one of weights in other formats.")
        return path
    raise InputError(f"model.weights is {path}: there is no such run folder or .keras file.")


def spec_of_file(file: Path, card: Mapping[str, Any]) -> ModelConfig:
    """What network a file holds: by its card, by its run folder, or by the layers' shapes."""
    if card.get("kind") == "imported weights":
        names = {field.name for field in dataclasses.fields(ModelConfig)} - {"weights"}
        entry = card.get("model")
        known = entry if isinstance(entry, Mapping) else {}
        try:
            return _section(**{key: value for key, value in known.items() if key in names})
        except InputError as error:
            raise InputError(f"{card_path(file)}: its entry about the model is damaged ({error})") from error
    settings = file.with_name("config.yaml")
    if file.name == "model.keras" and settings.exists():
        return dataclasses.replace(load_config(settings).model, weights=None)
    from mnv3_tf.network.keras_io import load_keras
    from mnv3_tf.weights.matching import identify

    return identify(load_keras(file))


def _section(**values: Any) -> ModelConfig:
    """A section `model` of these values, checked as those of a file are."""
    return load_config(None, [f"model.{key}={json.dumps(value)}" for key, value in values.items()]).model


def _labels_of_file(file: Path, card: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = card.get("classes")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    labels = file.with_name("labels.txt")
    return read_labels(labels) if file.name == "model.keras" and labels.exists() else None


def _body(model: ModelConfig) -> tuple[Any, ...]:
    spec = network_spec(model)
    return network_parts(spec, model.alpha, None), spec.dialect


def describe(model: ModelConfig) -> str:
    """Such as "large at alpha 0.75 (dialect keras)"."""
    name = f"the network of {model.block_table}" if model.block_table else model.name
    return f"{name} at alpha {model.alpha:g} (dialect {model.dialect})"


def _refusal(wanted: ModelConfig, given: ModelConfig, key: str, where: str) -> str:
    value = getattr(given, key)
    return (f"{where}: model.{key} is {getattr(wanted, key)}, but the weights {given.weights} are of {describe(given)}. "
            f"Leave model.{key} out (it is then {value}), or give weights of {describe(wanted)}.")


def _where(path: str | Path | None, overrides: tuple[str, ...], key: str) -> str:
    """Where a key of the model section was set."""
    for override in reversed(overrides):
        if override.partition("=")[0].strip() == f"model.{key}":
            return f"-o {override}"
    if path is not None:
        document = read_yaml(path)
        if key in ((document.value or {}).get("model") or {}):
            return f"{path}, line {document.line('model', key)}"
    return f"model.{key}"
