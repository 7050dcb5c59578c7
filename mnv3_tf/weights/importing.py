"""Other packages' weights as a Keras model of this kit: read, checked tensor by tensor, and put in."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv3_tf.config import ModelConfig
from mnv3_tf.errors import InputError
from mnv3_tf.network.spec import ALPHAS, SPECS, NetworkSpec, check_alpha, find_spec, network_spec, with_normalization
from mnv3_tf.progress import Progress
from mnv3_tf.text import nearest
from mnv3_tf.weights.imported import Imported, ImportedTensor, check_labels
from mnv3_tf.weights.matching import Variant, advice, check_fit, class_count, nearest_variants, needed_tensors
from mnv3_tf.weights.sources.hints import Hints, published_hints, read_hints
from mnv3_tf.weights.sources.names import ORIGINS, Entry
from mnv3_tf.weights.sources.published_names import Published, find_published_name

if TYPE_CHECKING:
    from mnv3_tf.backend import keras
    from mnv3_tf.network.keras_io import Tensors
    from mnv3_tf.weights.sources.registry import PublishedWeights

# What ends like this is a file, and never the name of published weights.
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".pdparams", ".h5", ".hdf5", ".keras", ".tflite", ".json", ".pkl", ".ckpt")


def import_weights(source: str | Path, origin: str | None = None, *, name: str | None = None, alpha: float | None = None,
                   dialect: str | None = None, model_name: str | None = None, input_size: int | Sequence[int] | None = None,
                   classes: int | None = None, labels: Sequence[str] | None = None, mean: Sequence[float] | None = None,
                   std: Sequence[float] | None = None, table: str | Path | None = None, dropout: float = 0.2,
                   part: str | None = None, progress: Progress | None = None) -> Imported:
    """Builds the network that a file's tensors are of, and puts them in; a whole Keras model is taken over as it is.

    Args:
        source: a file of weights (`.pth`, `.pt`, `.bin`, `.safetensors`, `.pdparams`, `.h5`, `.weights.h5`, `.keras`); or the
            name of published weights, such as ``timm/mobilenetv3_small_100.lamb_in1k``, which are then downloaded, and of which
            all that follows is known.
        origin: the package that saved it: keras, torchvision, timm or paddle; Keras's own files say so themselves.
        name: of the network: large, small, large_minimalistic or small_minimalistic; None: as the shapes say.
        alpha: width multiplier; None: as the shapes say.
        dialect: for timm, "timm" or, for its tf_* networks, "timm_tf".
        model_name: what the package calls it, such as ``tf_mobilenetv3_large_100``, in place of the three above.
        input_size: one side in pixels, or (height, width); each at least 32. None: that of published weights, or 224.
        classes: the width that the classifier must have; None: whatever it has.
        labels: class names in the order of its outputs.
        mean, std: of the input's three channels as shares of 255, where they are not the dialect's.
        table: YAML of a network of your own (:func:`mnv3_tf.read_block_table`) that was trained in the other package.
        dropout: share dropped before the classifier. PaddleClas multiplies by the rest when it predicts.
        part: of a checkpoint with several dicts of tensors, the key of the one to take; None takes averaged weights where there
            are some, else the model's.
        progress: told of a download.

    Raises:
        InputError: the file cannot be read, or two of the arguments contradict each other, or it is not of that network: every
            tensor that does not fit is named, and the variant that does.
    """
    from mnv3_tf.weights.formats.read import read_source, refuse_foreign

    if origin is not None and origin not in ORIGINS:
        raise InputError(f"--from {origin}: there is no such origin{nearest(origin, ORIGINS)}. Allowed: {', '.join(ORIGINS)}.")
    path, hints = Path(source), None
    refuse_foreign(path)
    if not path.exists() and path.suffix.lower() not in SUFFIXES:
        from mnv3_tf.weights.sources.registry import fetch, find_published

        try:
            entry = find_published(str(source))
        except InputError as error:
            raise InputError(f"{error} There is no file of that name either.") from None
        own = entry.dialect.removesuffix("_tf")
        if origin not in (None, own):
            raise InputError(f"--from {origin}: {entry.name} was published by {own}. Leave --from out.")
        if model_name:
            raise InputError(f"--model-name {model_name}: {entry.name} says already which network it is. Leave "
                             "--model-name out.")
        _refuse_others(entry.name, Published(entry.dialect, entry.network, entry.alpha), name, alpha, dialect)
        path, hints, origin = fetch(entry, progress), published_hints(entry), own
        name, alpha, dialect = entry.network, entry.alpha, entry.dialect
        input_size = entry.input_size if input_size is None else input_size
    if origin is None and path.suffix.lower() not in (".keras", ".h5", ".hdf5"):
        foreign = "tflite" if path.suffix.lower() == ".tflite" else "tfjs" if path.suffix.lower() == ".json" else None
        raise InputError(f"{source}: say that it is a network's graph, with --from {foreign}." if foreign else
                         f"{source}: say which package saved it, with --from {', '.join(ORIGINS)}.")
    read = read_source(path, part)
    if read.whole is not None and origin in (None, "keras") and not (name or alpha or dialect or model_name or table):
        from mnv3_tf.weights.keras_models.importing import import_model
        from mnv3_tf.weights.keras_models.loading import load_model

        return import_model(load_model(path, read.whole), labels=labels, mean=mean, std=std, input_size=input_size,
                            classes=classes, dropout=dropout, source=path)
    origin = origin or "keras"
    if hints is None and origin == "timm":
        hints = read_hints(path)
    imported = import_tensors(read.tensors, path, origin, name=name, alpha=alpha, dialect=dialect, model_name=model_name,
                              input_size=224 if input_size is None else input_size, classes=classes, labels=labels, mean=mean,
                              std=std, table=table, dropout=dropout, hints=hints)
    return dataclasses.replace(imported, notes=(*read.notes, *imported.notes))


def import_tensors(tensors: Mapping[str, np.ndarray], path: Path, origin: str, *, name: str | None = None,
                   alpha: float | None = None, dialect: str | None = None, model_name: str | None = None,
                   input_size: int | Sequence[int] = 224, classes: int | None = None, labels: Sequence[str] | None = None,
                   mean: Sequence[float] | None = None, std: Sequence[float] | None = None, table: str | Path | None = None,
                   dropout: float = 0.2, hints: Hints | None = None) -> Imported:
    """:func:`import_weights` for tensors that are read already, by their names in the file `path`."""
    from mnv3_tf.network.keras_io import assign_tensors

    notes: list[str] = []
    published, hints = _by_name(origin, model_name, dialect, hints or Hints(), notes)
    if model_name and published is not None:
        own = (name, alpha) if table is None else (None, None)  # with a table, the name says the dialect alone
        _refuse_others(f"--model-name {model_name}", published, *own, dialect)
    known = [key for key, given, found in (("mean", mean, hints.mean), ("std", std, hints.std)) if given is None and found]
    if known:
        notes.append(f"{' and '.join(known)} of the input {'are' if len(known) > 1 else 'is'} as {hints.found_in} says")
    dialect = _dialect(path, origin, dialect, published)
    settings = _find_network(tensors, path, origin, name, alpha, dialect, published, table, notes)
    spec = network_spec(settings)
    found, entries, left_out, values = _fit(tensors, path, origin, spec, settings.alpha, dropout)
    labels = check_labels(path, found, classes, labels if labels is not None else hints.labels)
    if found is None:
        notes.append("the file has no classifier: the model ends in the last feature map")
    spec = with_normalization(spec, mean or hints.mean, std or hints.std)
    model = build(spec, settings.alpha, found, input_size, dropout)
    assign_tensors(model, values)
    rows = (ImportedTensor(entry.source, entry.source_shape, entry.target, entry.shape, entry.transform) for entry in entries)
    return Imported(
        model=model, source=path, origin=origin, settings=dataclasses.replace(settings, dropout=dropout),
        include_top=found is not None, classes=found, labels=labels, mean=spec.dialect.mean, std=spec.dialect.std,
        preprocessing=hints.preprocessing(*model.input_shape[1:3]), tensors=tuple(rows), left_out=left_out, notes=tuple(notes),
        facts={"model_name": model_name or hints.model_name, "licence": hints.licence, "top1": hints.top1})


def published_tensors(entry: "PublishedWeights", progress: Progress | None = None) -> tuple[Path, "Tensors"]:
    """The file of published weights, downloaded where it is not there yet, and its tensors by layer and variable.

    Raises:
        InputError: the file is damaged.
        KitError: the download failed.
    """
    from mnv3_tf.weights.formats.read import read_source
    from mnv3_tf.weights.sources.registry import fetch

    path = fetch(entry, progress)
    origin, spec = entry.dialect.removesuffix("_tf"), find_spec(entry.network, entry.dialect)
    return path, _fit(read_source(path).tensors, path, origin, spec, entry.alpha)[-1]


def _fit(tensors: Mapping[str, np.ndarray], path: Path, origin: str, spec: NetworkSpec, alpha: float, dropout: float = 0.2
         ) -> tuple[int | None, tuple[Entry, ...], tuple[str, ...], dict[str, dict[str, np.ndarray]]]:
    """Of tensors that fit a network: its classes, what it takes and what it leaves of them, and its values."""
    classes = class_count(origin, spec, tensors)
    entries, left_out = needed_tensors(origin, spec, alpha, classes, tensors, dropout)
    check_fit(path, entries, tensors, Variant(origin, (spec.dialect.name,), spec.name, alpha), left_out)
    values: dict[str, dict[str, np.ndarray]] = {}
    for entry in entries:
        layer, _, variable = entry.target.partition("/")
        values.setdefault(layer, {})[variable] = entry.convert(tensors[entry.source])
    return classes, entries, left_out, values


def build(spec: NetworkSpec, alpha: float, classes: int | None, input_size: int | Sequence[int],
          dropout: float = 0.2) -> "keras.Model":
    """The network in float32, whatever Keras's own policy is; without a head where `classes` is None."""
    from mnv3_tf.network.build import build as build_network
    from mnv3_tf.network.build import dtype_policy

    height, width = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    with dtype_policy("float32"):
        return build_network(spec, input_shape=(height, width, 3), alpha=alpha, classes=classes or 1,
                             include_top=classes is not None, dropout_rate=dropout)[0]


def _by_name(origin: str, model_name: str | None, dialect: str | None, hints: Hints,
             notes: list[str]) -> tuple[Published | None, Hints]:
    """The network that a name means, the user's or the one that lies in or beside the file; and the hints, or none of them where
    they are of another network than the user says: who asks knows better."""
    published = find_published_name(origin, model_name) if model_name else None
    if hints.model_name is None:
        return published, hints
    if published is None and dialect is None:
        notes.append(f"{hints.found_in} calls it {hints.model_name}")
        return find_published_name(origin, hints.model_name), hints
    try:
        found = find_published_name(origin, hints.model_name)
    except InputError:  # no name of that package, which says nothing against the user's
        return published, hints
    if found == published if published else found.dialect == dialect:
        return published, hints
    notes.append(f"{hints.found_in} is of {hints.model_name}, another network than was asked for, so nothing was taken from it")
    return published, Hints()


def _refuse_others(what: str, published: Published, name: str | None, alpha: float | None, dialect: str | None) -> None:
    """Refuses a network, alpha or dialect beside a name that means another."""
    for option, given, own in (("--model", name, published.name), ("--alpha", alpha, published.alpha),
                               ("--dialect", dialect, published.dialect)):
        if given is not None and given != own:
            raise InputError(f"{option} {given}: {what} is {published.name} at alpha {published.alpha:g} in the dialect "
                             f"{published.dialect}. Leave {option} out.")


def _dialect(path: Path, origin: str, dialect: str | None, published: Published | None) -> str:
    allowed = ORIGINS[origin]
    if dialect is not None:
        if dialect not in allowed:
            raise InputError(f"--dialect {dialect}: {origin} saves {' or '.join(allowed)}{nearest(dialect, allowed)}.")
        return dialect
    if published is not None:
        return published.dialect
    if len(allowed) > 1:
        raise InputError(f"{path}: timm's own networks and those it ported from TensorFlow (tf_mobilenetv3_*) have the same "
                         "tensors, but other padding, BatchNorm epsilon and normalization. Say which with --dialect timm or "
                         "--dialect timm_tf, or give timm's name with --model-name, such as tf_mobilenetv3_large_100.")
    return allowed[0]


def _find_network(tensors: Mapping[str, np.ndarray], path: Path, origin: str, name: str | None, alpha: float | None,
                  dialect: str, published: Published | None, table: str | Path | None, notes: list[str]) -> ModelConfig:
    """The network: as given, as the package's name says, or as the shapes say."""
    if alpha is not None:
        check_alpha(alpha)
    if table is not None:
        # The settings keep a built-in name, which the table outranks.
        return ModelConfig(block_table=str(Path(table).resolve()), alpha=1.0 if alpha is None else alpha,
                           dialect=dialect)  # type: ignore[arg-type]
    if name is not None and name not in SPECS:
        find_spec(name)  # says which there are
    if published is not None:
        name, alpha = name or published.name, alpha if alpha is not None else published.alpha
    if name is None or alpha is None:
        fitting = [variant for variant in nearest_variants(tensors, [origin]) if not variant.problems
                   and name in (None, variant.name) and alpha in (None, variant.alpha)]
        if len(fitting) != 1:
            wanted = Variant(origin, (dialect,), name or "any network", alpha or 1.0)
            several = "" if not fitting else f" The shapes are of {' and of '.join(v.words for v in fitting)}; say which."
            raise InputError(f"{path}: the tensors do not say which network they are of.{several} "
                             f"{advice(tensors, wanted) if not fitting else ''}\nGive --model ({', '.join(SPECS)}) and --alpha "
                             f"(such as {', '.join(f'{a:g}' for a in sorted(ALPHAS))}).")
        name, alpha = fitting[0].name, fitting[0].alpha
        notes.append(f"the shapes are those of {fitting[0].words}")
    return ModelConfig(name=name, alpha=alpha, dialect=dialect)  # type: ignore[arg-type]
