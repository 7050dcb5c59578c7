"""Which of the networks that this kit builds a foreign one is, by the shapes of its convolutions in order."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.network.spec import DIALECTS, SPECS, NetworkSpec, ScaledBlock, head_widths, in_dialect, scale_blocks, stem_width
from mnv3_tf.weights.graphs.recovered import ForeignConvolution, ForeignNetwork

# Published width multipliers first; of several that give the same widths, the first is reported.
_ALPHAS = (1.0, 0.75, 0.5, 0.35, 0.25, 1.25, 1.5, 2.0, *(step / 20 for step in range(2, 41)))

Head = Literal["none", "features", "classifier"]


@dataclass(frozen=True)
class Candidate:
    """A network that a foreign one can be.

    Attributes:
        name: of the spec, such as "large".
        alpha: width multiplier.
        dialect: of :data:`mnv3_tf.network.spec.DIALECTS`.
        spec: the table in that dialect.
        head: "none" (ends with the last block), "features" (has the convolution before pooling) or "classifier".
        classes: width of the classifier, None without.
        rescaling_fits: the file brings pixels to the stem as this dialect does; False also where it does not say how.
    """

    name: str
    alpha: float
    dialect: str
    spec: NetworkSpec
    head: Head
    classes: int | None
    rescaling_fits: bool


@dataclass(frozen=True)
class _Expected:
    """What a convolution of a built network is like."""

    layer: str
    kernel: tuple[int, ...]
    stride: int
    activation: str | None
    has_bias: bool = True


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
        for alpha in _ALPHAS:
            head = _fits(network, spec, alpha)
            if head is not None:
                found.append(Candidate(spec.name, alpha, spec.dialect.name, spec, head,
                                       network.classes if head == "classifier" else None, _rescales_alike(network, spec)))
                break
    heads = ("classifier", "features", "none")
    return tuple(sorted(found, key=lambda candidate: (heads.index(candidate.head), not candidate.rescaling_fits)))


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
            return candidate if alpha is None else Candidate(candidate.name, alpha, candidate.dialect, candidate.spec,
                                                             candidate.head, candidate.classes, candidate.rescaling_fits)
    nearest: tuple[int, str] = (-1, "")
    for spec in _in_dialects(specs):
        if name in (None, spec.name) and dialect in (None, spec.dialect.name):
            for one in _ALPHAS if alpha is None else (alpha,):
                count, difference = _first_difference(network, spec, one)
                if count > nearest[0]:
                    nearest = (count, f"{spec.name} at alpha {one:g} in dialect {spec.dialect.name}, {difference}")
    given = (("name", name), ("alpha", None if alpha is None else f"{alpha:g}"), ("dialect", dialect))
    asked = ", ".join(f"{key} {value}" for key, value in given if value)
    stopped = f" The file's network ends there: {network.stopped}." if network.stopped else ""
    raise InputError(f"{network.path}: its {len(network.convolutions)} convolutions are not those of a network that the kit "
                     f"builds{f' with {asked}' if asked else ''}. The nearest is {nearest[1]}.{stopped} "
                     "Give the table that it was made from, or another name, alpha or dialect.")


def expected_convolutions(spec: NetworkSpec, alpha: float, classes: int | None) -> Iterator[_Expected]:
    """The convolutions of a built network in order of execution, head and classifier included."""
    width = stem_width(spec, alpha)
    yield _Expected("stem_conv", (3, 3, 3, width), 2, spec.activation)
    blocks = scale_blocks(spec, alpha)
    for block in blocks:
        yield from _block(block)
    before, after = head_widths(spec, alpha)
    yield _Expected("head_conv", (1, 1, blocks[-1].out, before), 1, spec.activation)
    yield _Expected("head_expand", (1, 1, before, after), 1, spec.activation, spec.dialect.head_bias)
    yield _Expected("classifier", (1, 1, after, classes or 0), 1, None)


def _block(block: ScaledBlock) -> Iterator[_Expected]:
    name, wide, side = block.name, block.expansion, block.kernel
    if block.has_expand:
        yield _Expected(f"{name}_expand", (1, 1, block.input, wide), 1, block.activation)
    yield _Expected(f"{name}_depthwise", (side, side, wide, 1), block.stride, block.activation)
    if block.squeeze:
        yield _Expected(f"{name}_se_reduce", (1, 1, wide, block.squeeze), 1, "relu")
        yield _Expected(f"{name}_se_expand", (1, 1, block.squeeze, wide), 1, "hard_sigmoid")
    yield _Expected(f"{name}_project", (1, 1, wide, block.out), 1, None)


def _in_dialects(specs: Iterable[NetworkSpec] | None) -> Iterator[NetworkSpec]:
    for spec in SPECS.values() if specs is None else specs:
        for dialect in DIALECTS:
            yield in_dialect(spec, dialect)


def _fits(network: ForeignNetwork, spec: NetworkSpec, alpha: float) -> Head | None:
    """How much of a built network the foreign one is, None where the blocks already differ."""
    count, _ = _first_difference(network, spec, alpha)
    expected = list(expected_convolutions(spec, alpha, network.classes))
    if count < len(expected) - 3 or not _adds_fit(network, spec, alpha):
        return None
    if count == len(expected):
        return "classifier"
    return "features" if count > len(expected) - 3 else "none"


def _adds_fit(network: ForeignNetwork, spec: NetworkSpec, alpha: float) -> bool:
    wanted = [number for number, block in enumerate(scale_blocks(spec, alpha), start=1) if block.residual]
    return list(network.residual_adds) == wanted


def _first_difference(network: ForeignNetwork, spec: NetworkSpec, alpha: float) -> tuple[int, str]:
    """(convolutions that fit before the first that does not, what differs there)."""
    expected = list(expected_convolutions(spec, alpha, network.classes))
    for number, want in enumerate(expected):
        if number == len(network.convolutions):
            return number, f"which goes on with {want.layer}"
        difference = _difference(network.convolutions[number], want, spec)
        if difference:
            return number, difference
    return len(expected), "whose residual additions are others" if not _adds_fit(network, spec, alpha) else ""


def _difference(conv: ForeignConvolution, want: _Expected, spec: NetworkSpec) -> str:
    """What of a convolution is not as expected, "" where nothing is."""
    if conv.layer != want.layer:
        return f"which has {want.layer} where the file has {conv.layer} ({conv.place})"
    if conv.kernel.shape != want.kernel:
        return f"whose {want.layer} has a kernel of {want.kernel}; the file's is {conv.kernel.shape} ({conv.place})"
    if conv.stride != want.stride or conv.activation != want.activation:
        return (f"whose {want.layer} has stride {want.stride} and activation {want.activation}; the file's has "
                f"{conv.stride} and {conv.activation} ({conv.place})")
    if not want.has_bias and np.any(conv.bias != 0):
        return f"whose {want.layer} has no bias; the file's has one ({conv.place})"
    if not padding_fits(conv, spec.dialect.symmetric_padding):
        padding = "symmetric" if spec.dialect.symmetric_padding and conv.stride > 1 else "same"
        return f"whose {want.layer} is padded {padding}; the file's {conv.padding} {conv.pads or ''} ({conv.place})"
    return ""


def padding_fits(conv: ForeignConvolution, symmetric: bool) -> bool:
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
