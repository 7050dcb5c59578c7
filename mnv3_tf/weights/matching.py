"""Whether tensors fit a network, named one by one where they do not, and which network they do fit."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv3_tf.config import ModelConfig
from mnv3_tf.errors import InputError
from mnv3_tf.network.plan import Shape, expected_shapes
from mnv3_tf.network.spec import ALPHAS, DIALECTS, OTHER_ALPHAS, SPECS, Dialect, NetworkSpec, find_spec, in_dialect, network_spec
from mnv3_tf.text import counted, listed
from mnv3_tf.weights.sources.names import ORIGINS, Entry, is_bookkeeping, source_entries

if TYPE_CHECKING:
    from mnv3_tf.backend import keras


@dataclass(frozen=True)
class Variant:
    """A network that tensors may be of.

    Attributes:
        origin: the package whose names the tensors have.
        dialects: those of the origin that have these shapes; more than one where only the user can know.
        name, alpha: of the network.
        fits: how many of its tensors are there, in the right shape.
        problems: how many tensors are missing, superfluous or of another shape.
    """

    origin: str
    dialects: tuple[str, ...]
    name: str
    alpha: float
    fits: int = 0
    problems: int = 0

    @property
    def words(self) -> str:
        """``small at alpha 0.75``."""
        return f"{self.name} at alpha {self.alpha:g}"


def class_count(origin: str, spec: NetworkSpec, tensors: Mapping[str, np.ndarray]) -> int | None:
    """The classifier's width, by the tensors' shapes; None where there is no classifier."""
    entries = source_entries(origin, spec, 1.0, 1, tensors)
    bias = tensors.get(next(entry.source for entry in entries if entry.target == "classifier/bias"))
    return int(bias.shape[0]) if bias is not None and bias.ndim == 1 and bias.size else None


def needed_tensors(origin: str, spec: NetworkSpec, alpha: float, classes: int | None, tensors: Mapping[str, np.ndarray],
                   dropout: float = 0.2) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """What a network takes of a file.

    Args: as for :func:`mnv3_tf.weights.sources.names.source_entries`; `tensors` are the file's, by name.

    Returns:
        Its entries, and the names of those tensors that no prediction depends on: what the package keeps beside the weights, and,
        where there is no classifier, the convolution before it.
    """
    entries = source_entries(origin, spec, alpha, classes, tensors, dropout)
    head = set()
    if classes is None:
        whole = source_entries(origin, spec, alpha, 1, tensors)
        head = {entry.source for entry in whole if entry.target.startswith("head_expand/")} - {entry.source for entry in entries}
    return entries, tuple(name for name in tensors if name in head or is_bookkeeping(origin, name))


def check_fit(source: Any, entries: Sequence[Entry], tensors: Mapping[str, np.ndarray], wanted: Variant,
              left_out: Iterable[str] = ()) -> None:
    """Refuses tensors that are not the network's, or that no network can have: not finite, or variances below zero.

    Args:
        source: the file, for messages.
        entries: from :func:`needed_tensors`, and so `left_out`.
        tensors: the file's, by name.
        wanted: what the entries are of.
        left_out: names that are known, and not needed.

    Raises:
        InputError: names up to 20 tensors, what is wrong with each, and the variant that fits or is nearest.
    """
    known = {*left_out, *(entry.source for entry in entries)}
    problems = [line for entry in entries if (line := _shape_problem(entry, tensors.get(entry.source)))]
    problems += [f"{name}: shape {tensor.shape}, which this network has no place for"
                 for name, tensor in tensors.items() if name not in known]
    if problems:
        raise InputError(f"{source}: these are not the weights of {wanted.words} as {wanted.origin} saves them "
                         f"(dialect {wanted.dialects[0]}). {_listing(problems)}\n{advice(tensors, wanted)}")
    problems = [line for entry in entries if (line := _value_problem(entry, tensors[entry.source]))]
    if problems:
        raise InputError(f"{source}: the file is damaged, or its training had gone wrong. {_listing(problems)}\n"
                         "Fetch or save the file again.")


def advice(tensors: Mapping[str, np.ndarray], wanted: Variant) -> str:
    """Which variant the tensors are of, as a sentence."""
    best = nearest_variants(tensors)
    if not best:
        return ("No tensor of any MobileNetV3 that this kit knows has such a name and shape. "
                f"Origins: {', '.join(ORIGINS)}; their names are listed in docs/weights.md.")
    if best[0].problems:
        return (f"Nothing fits as it is; {best[0].words}, saved by {best[0].origin}, is nearest ({best[0].problems} tensors do "
                "not fit). For a network of your own, give its table with --table.")
    if best[0].origin == wanted.origin and len({(v.name, v.alpha) for v in best}) == 1:
        return (f"These shapes are {best[0].words}: give --model {best[0].name} --alpha {best[0].alpha:g}.")
    return "These tensors are " + "; or ".join(
        f"{v.words}, saved by {v.origin}: give --from {v.origin} --model {v.name} --alpha {v.alpha:g}" for v in best) + "."


def nearest_variants(tensors: Mapping[str, np.ndarray], origins: Iterable[str] = tuple(ORIGINS)) -> list[Variant]:
    """The variants that tensors fit without a problem; where there is none, the one with the most tensors that fit.

    Args:
        tensors: a file's, by name.
        origins: keys of :data:`mnv3_tf.weights.sources.names.ORIGINS` to look among.

    Returns:
        None, one, or (of equal shapes) several; at the published alphas where one of those fits.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    # The first convolution has the name that the origin gives it.
    origins = [origin for origin in origins
               if source_entries(origin, find_spec("small", ORIGINS[origin][0]), 1.0, None, tensors)[0].source in tensors]
    found: list[Variant] = []
    for alphas in (ALPHAS, OTHER_ALPHAS):
        found += [variant for origin in origins for variant in _variants(origin, tensors, shapes, alphas)]
        exact = [variant for variant in found if not variant.problems]
        if exact:
            return exact
    best = max(found, key=lambda variant: (variant.fits, -variant.problems), default=None)
    return [best] if best is not None and best.fits else []


def identify(model: "keras.Model") -> ModelConfig:
    """The settings of a network that :func:`mnv3_tf.MobileNetV3` built, by its layers, where there is no card.

    Args:
        model: with the layer names of this kit. Without `head_conv` it is a feature extractor, whose layers from the stem to the
            last block are looked at.

    Returns:
        Settings whose network has the same layers. Of dialects that make equal layers (keras and timm_tf at alpha 1), one with
        the model's normalization, else the first: a normalization of no dialect is one that was given on import.

    Raises:
        InputError: no network of the built-in tables has these layers.
    """
    layers = {layer.name: layer for layer in model.layers}
    shapes = {f"{layer.name}/{weight.name}": tuple(weight.shape) for layer in model.layers for weight in layer.weights}
    whole = "head_conv" in layers
    if not whole:
        shapes = {name: shape for name, shape in shapes.items() if name.startswith(("stem_", "block_"))}
    kernel = shapes.get("classifier/kernel")
    classes = kernel[3] if kernel is not None and len(kernel) == 4 else None
    dropout = float(layers["head_dropout"].rate) if "head_dropout" in layers else (0.0 if classes else 0.2)
    fitting = sorted((name for name, dialect in DIALECTS.items() if same_details(layers, dialect)),
                     key=lambda name: not _same_normalization(layers, DIALECTS[name]))
    for config in _candidates(shapes, fitting):
        expected = expected_shapes(network_spec(config), config.alpha, classes)
        if shapes == {name: shape for name, shape in expected.items() if whole or not name.startswith("head_")}:
            return dataclasses.replace(config, dropout=dropout)
    raise InputError(f"{model.name}: its layers are not {'those' if whole else 'the blocks'} of {', '.join(SPECS)} at any alpha "
                     f"from 0.1 to 2 in any dialect ({', '.join(DIALECTS)}). Give the card that was written beside the model, or "
                     "its own block table.")


def _candidates(shapes: Mapping[str, Shape], dialects: Sequence[str]) -> Iterator[ModelConfig]:
    """Every built-in network, as it is and then with the widths of stem and head that the layers have."""
    variants: list[Any] = [(name, dialect, alpha) for alpha in (*ALPHAS, *OTHER_ALPHAS) for dialect in dialects for name in SPECS]
    for name, dialect, alpha in variants:
        yield ModelConfig(name=name, dialect=dialect, alpha=alpha)
    stem, expand = shapes.get("stem_conv/kernel"), shapes.get("head_expand/kernel")
    before = shapes.get("head_conv/kernel")
    for name, dialect, alpha in variants:
        config = ModelConfig(name=name, dialect=dialect, alpha=alpha)
        own = expected_shapes(network_spec(config), alpha, 1)
        changes: dict[str, Any] = {}
        if stem is not None and stem != own["stem_conv/kernel"]:
            changes["inplanes"] = round(stem[3] / alpha) if alpha >= DIALECTS[dialect].stem_scaled_from else stem[3]
        if before is not None and before[3] != own["head_conv/kernel"][3]:
            changes["class_squeeze"] = round(before[3] / alpha)
        if expand is not None and expand[3] != own["head_expand/kernel"][3]:
            changes["class_expand"] = round(expand[3] / alpha) if DIALECTS[dialect].head_grows(alpha) else expand[3]
        if changes:
            yield dataclasses.replace(config, **changes)


def same_details(layers: Mapping[str, Any], dialect: Dialect) -> bool:
    """Whether a model, by its layers, has the dialect's padding and BatchNorm epsilon."""
    batchnorm = layers.get("stem_conv_bn")
    return batchnorm is not None and dialect.computes_like("stem_conv_pad" in layers, batchnorm.epsilon)


def _same_normalization(layers: Mapping[str, Any], dialect: Dialect) -> bool:
    """Whether a model brings pixels to what the dialect's stem expects, or takes them like that."""
    rescale = layers.get("rescale")
    return rescale is None or all(np.allclose(given, own, rtol=1e-5) for given, own in
                                  zip((rescale.scale, rescale.offset), dialect.rescaling(), strict=True))


def _variants(origin: str, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Shape],
              alphas: Sequence[float]) -> Iterator[Variant]:
    """Every built-in network at those alphas, with how far the tensors fit it."""
    for name, table in SPECS.items():
        spec = in_dialect(table, ORIGINS[origin][0])
        classes = class_count(origin, spec, tensors)
        for alpha in alphas:
            entries, left_out = needed_tensors(origin, spec, alpha, classes, tensors)
            fits = sum(shapes.get(entry.source) == entry.source_shape for entry in entries)
            extra = len(shapes.keys() - {entry.source for entry in entries} - set(left_out))
            yield Variant(origin, ORIGINS[origin], name, alpha, fits, len(entries) - fits + extra)


def _shape_problem(entry: Entry, tensor: np.ndarray | None) -> str:
    if tensor is None:
        return f"{entry.source}: is missing (shape {entry.source_shape}, for {entry.target})"
    if tensor.dtype.kind in "iub":
        return f"{entry.source}: holds {tensor.dtype}; floating-point weights are needed, not quantized ones"
    if tensor.shape == entry.source_shape:
        return ""
    wrong = f"{entry.source}: shape {tensor.shape}, but {entry.source_shape} is needed"
    return wrong + _transposed(tensor.shape, entry.source_shape)


def _value_problem(entry: Entry, tensor: np.ndarray) -> str:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is said
        values = np.asarray(tensor).astype(np.float32)
    broken = int(values.size - np.isfinite(values).sum())
    if broken:
        return f"{entry.source}: {broken} of {values.size} values are not finite (NaN, or infinite in float32)"
    if entry.target.endswith("/moving_variance") and values.min() < 0:
        return (f"{entry.source}: {int((values < 0).sum())} of {values.size} variances are negative "
                f"(the least is {float(values.min()):g})")
    return ""


def _transposed(given: Shape, wanted: Shape) -> str:
    """Says so where one shape is the other with axes swapped."""
    if len(given) != len(wanted) or sorted(given) != sorted(wanted):
        return ""
    swapped = [axis for axis, (a, b) in enumerate(zip(given, wanted, strict=True)) if a != b]
    if len(swapped) == 2:
        return f"; it is transposed: axes {swapped[0]} and {swapped[1]} are swapped"
    return "; it is the same with its axes in another order"


def _listing(problems: Sequence[str]) -> str:
    return f"{counted(len(problems), 'tensor does', 'tensors do')} not fit:\n  {listed(problems)}"
