"""Which of the networks that this kit builds a foreign one is, by the shapes of its convolutions in order."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.network.plan import Part, network_parts
from mnv3_tf.network.spec import ALPHAS, DIALECTS, OTHER_ALPHAS, SPECS, NetworkSpec, in_dialect
from mnv3_tf.weights.graphs.recovered import ForeignConvolution, ForeignNetwork

# How much of a network there is, the most first: all of it; up to the convolution before pooling; up to the last block.
Head = Literal["classifier", "features", "none"]
_HEADS = ("classifier", "features", "none")


@dataclass(frozen=True)
class Candidate:
    """A network that a foreign one can be.

    Attributes:
        spec: the table in a dialect.
        alpha: width multiplier.
        head: "none" (ends with the last block), "features" (has the convolution before pooling) or "classifier".
        classes: width of the classifier, None without.
        rescaling_fits: the file brings pixels to the stem as this dialect does; False also where it does not say how.
    """

    spec: NetworkSpec
    alpha: float
    head: Head
    classes: int | None
    rescaling_fits: bool

    @property
    def name(self) -> str:
        """Of the spec, such as "large"."""
        return self.spec.name

    @property
    def dialect(self) -> str:
        """One of :data:`mnv3_tf.network.spec.DIALECTS`."""
        return self.spec.dialect.name


def match_spec(network: ForeignNetwork, specs: Iterable[NetworkSpec] | None = None) -> tuple[Candidate, ...]:
    """The networks that fit, those first whose rescaling of pixels is the file's.

    Args:
        network: from :func:`mnv3_tf.weights.graphs.read_convolutions`.
        specs: tables to try in every dialect; the built-in ones if None.

    Returns:
        At most one candidate for each table and dialect, with the roundest alpha that gives the widths. A convolution after the
        blocks that is not of the dialect's width belongs to another task's head: the candidate then has no head.
    """
    found = []
    for spec in _in_dialects(specs):
        for alpha in (*ALPHAS, *OTHER_ALPHAS):
            head = _fits(network, spec, alpha)
            if head is not None:
                found.append(Candidate(spec, alpha, head, network.classes if head == "classifier" else None,
                                       _rescales_alike(network, spec)))
                break
    return tuple(sorted(found, key=lambda candidate: (_HEADS.index(candidate.head), not candidate.rescaling_fits)))


def require_match(network: ForeignNetwork, *, name: str | None = None, alpha: float | None = None,
                  dialect: str | None = None, specs: Iterable[NetworkSpec] | None = None) -> Candidate:
    """The best candidate among those that are asked for.

    Raises:
        InputError: none fits; the message names the nearest network, and the first operator that differs from it.
    """
    specs = None if specs is None else tuple(specs)
    for candidate in match_spec(network, specs):
        fits_alpha = alpha is None or _fits(network, candidate.spec, alpha) == candidate.head
        if name in (None, candidate.name) and dialect in (None, candidate.dialect) and fits_alpha:
            return candidate if alpha is None else dataclasses.replace(candidate, alpha=alpha)
    nearest: tuple[int, str] = (-1, "")
    for spec in _in_dialects(specs):
        if name in (None, spec.name) and dialect in (None, spec.dialect.name):
            for one in (*ALPHAS, *OTHER_ALPHAS) if alpha is None else (alpha,):
                count, difference = _first_difference(network, spec, network_parts(spec, one, network.classes or 0))
                if count > nearest[0]:
                    nearest = (count, f"{spec.name} at alpha {one:g} in dialect {spec.dialect.name}, {difference}")
    given = (("name", name), ("alpha", None if alpha is None else f"{alpha:g}"), ("dialect", dialect))
    asked = ", ".join(f"{key} {value}" for key, value in given if value)
    stopped = f" The file's network ends there: {network.stopped}." if network.stopped else ""
    raise InputError(f"{network.path}: its {len(network.convolutions)} convolutions are not those of a network that the kit "
                     f"builds{f' with {asked}' if asked else ''}. The nearest is {nearest[1]}.{stopped} "
                     "Give the table that it was made from, or another name, alpha or dialect.")


def _in_dialects(specs: Iterable[NetworkSpec] | None) -> Iterator[NetworkSpec]:
    for spec in SPECS.values() if specs is None else specs:
        for dialect in DIALECTS:
            yield in_dialect(spec, dialect)


def _fits(network: ForeignNetwork, spec: NetworkSpec, alpha: float) -> Head | None:
    """How much of a built network the foreign one is, None where the blocks already differ."""
    parts = network_parts(spec, alpha, network.classes or 0)
    left = len(parts) - _first_difference(network, spec, parts)[0]
    if left > 3 or not _adds_fit(network, parts):
        return None
    return "classifier" if left == 0 else "features" if left < 3 else "none"


def _adds_fit(network: ForeignNetwork, parts: Iterable[Part]) -> bool:
    return list(network.residual_adds) == [part.block for part in parts if part.residual]


def _first_difference(network: ForeignNetwork, spec: NetworkSpec, parts: tuple[Part, ...]) -> tuple[int, str]:
    """(convolutions that fit before the first that does not, what differs there)."""
    for number, want in enumerate(parts):
        if number == len(network.convolutions):
            return number, f"which goes on with {want.layer}"
        difference = _difference(network.convolutions[number], want, spec)
        if difference:
            return number, difference
    return len(parts), "" if _adds_fit(network, parts) else "whose residual additions are others"


def _difference(conv: ForeignConvolution, want: Part, spec: NetworkSpec) -> str:
    """What of a convolution is not as expected, "" where nothing is."""
    if conv.layer != want.layer:
        return f"which has {want.layer} where the file has {conv.layer} ({conv.place})"
    if conv.kernel.shape != want.kernel:
        return f"whose {want.layer} has a kernel of {want.kernel}; the file's is {conv.kernel.shape} ({conv.place})"
    if conv.stride != want.stride or conv.activation != want.activation:
        return (f"whose {want.layer} has stride {want.stride} and activation {want.activation}; the file's has "
                f"{conv.stride} and {conv.activation} ({conv.place})")
    if not (want.bias or want.batchnorm) and np.any(conv.bias != 0):
        return f"whose {want.layer} has no bias; the file's has one ({conv.place})"
    if not _padding_fits(conv, spec.dialect.symmetric_padding):
        padding = "symmetric" if spec.dialect.symmetric_padding and conv.stride > 1 else "same"
        return f"whose {want.layer} is padded {padding}; the file's {conv.padding} {conv.pads or ''} ({conv.place})"
    return ""


def _padding_fits(conv: ForeignConvolution, symmetric: bool) -> bool:
    """Whether a convolution is padded as a dialect does it; at odd sizes, SAME and symmetric amounts are the same."""
    if conv.stride == 1 or not symmetric:
        return conv.padding == "same"
    half = conv.kernel.shape[0] // 2
    return conv.padding == "symmetric" or conv.pads == (half,) * 4


def _rescales_alike(network: ForeignNetwork, spec: NetworkSpec) -> bool:
    if network.pixel_scale is None or network.pixel_offset is None:
        return False
    scale, offset = spec.dialect.rescaling()
    # Half a grey level: zero may stand for pixel 128 or 127.5.
    return (np.allclose(network.pixel_scale, scale, rtol=0.01) and
            bool(np.all(np.abs(np.subtract(network.pixel_offset, offset)) <= 0.6 * np.asarray(scale))))
