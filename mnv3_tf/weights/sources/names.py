"""Which tensor of another package's file is which variable of the network.

Every origin has a function that says, for each convolution of the network in order, what the package calls it; nothing is found
by a part of a name. Shapes follow from :mod:`mnv3_tf.network.plan`, so a wrong variant is noticed before anything is built.

Sources: the modules of torchvision (``models/mobilenetv3.py``), timm (``models/mobilenetv3.py``, ``_efficientnet_blocks.py``),
PaddleClas (``legendary_models/mobilenet_v3.py``) and keras.applications (``mobilenet_v3.py`` of Keras 2 and 3).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from mnv3_tf.network.plan import BATCHNORM, Part, Shape, network_parts
from mnv3_tf.network.spec import NetworkSpec

Origin = Literal["keras", "torchvision", "timm", "paddle"]
Layout = Literal["same", "OIHW", "depthwise OIHW", "linear (out, in)", "linear (in, out)"]

# Layout -> what becomes of it in words, and the tensor's axes in the order of the variable's last ones.
_LAYOUTS: dict[Layout, tuple[str, tuple[int, ...]]] = {
    "same": ("", ()), "OIHW": ("OIHW -> HWIO", (2, 3, 1, 0)),
    "depthwise OIHW": ("(channels, 1, h, w) -> (h, w, channels, 1)", (2, 3, 0, 1)),
    "linear (out, in)": ("(out, in) -> (1, 1, in, out)", (1, 0)), "linear (in, out)": ("(in, out) -> (1, 1, in, out)", (0, 1))}
# Origin -> the dialects that its files can be of.
ORIGINS: dict[str, tuple[str, ...]] = {"keras": ("keras",), "torchvision": ("torchvision",), "timm": ("timm", "timm_tf"),
                                       "paddle": ("paddle",)}
# Stages of timm's two networks: blocks in each, before the last stage, which is the convolution before pooling.
_TIMM_STAGES = {15: (1, 2, 3, 4, 2, 3), 11: (1, 2, 3, 2, 3)}


@dataclass(frozen=True)
class Entry:
    """One variable and the tensor that it comes from.

    Attributes:
        source: the tensor's name in the file.
        target: ``layer/variable`` of the network.
        layout: how the tensor lies in the file.
        shape: of the variable.
        factor: what the values are multiplied by, for the same function in this network.
        reason: why, where the factor is not 1.
    """

    source: str
    target: str
    layout: Layout
    shape: Shape
    factor: float = 1.0
    reason: str = ""

    @property
    def source_shape(self) -> Shape:
        """What the tensor's shape must be."""
        _, axes = _LAYOUTS[self.layout]
        shape = self.shape[-len(axes):]
        return tuple(shape[axes.index(axis)] for axis in range(len(axes))) or self.shape

    @property
    def transform(self) -> str:
        """What is done with the tensor, in words; empty where it is taken as it is."""
        scaled = f"times {self.factor:g} ({self.reason})" if self.factor != 1 else ""
        return ", ".join(text for text in (_LAYOUTS[self.layout][0], scaled) if text)

    def convert(self, tensor: np.ndarray) -> np.ndarray:
        """The variable's value, float32 of :attr:`shape`, from a tensor of :attr:`source_shape`."""
        _, axes = _LAYOUTS[self.layout]
        moved = tensor.transpose(axes) if axes else tensor
        value = np.ascontiguousarray(moved.reshape(self.shape)).astype(np.float32)
        return value * np.float32(self.factor) if self.factor != 1 else value


class _Place(NamedTuple):
    """What a package calls a convolution and its BatchNorm: the names before the last dot or slash."""

    conv: str
    batchnorm: str = ""


@dataclass(frozen=True)
class _Package:
    """What a package of PyTorch's kind calls things.

    Attributes:
        names: by role, the convolution and its BatchNorm. "{at}" is the block, "{member}" numbers what a block has of its up to
            four members, "{head}" is the convolution before pooling.
        unexpanded: the names that are others in a block that does not expand.
        linear: the roles that are linear layers.
        linear_layout: how their kernels lie.
        batchnorm: the BatchNorm's variables, in the order of :data:`BATCHNORM`.
    """

    names: dict[str, str]
    unexpanded: dict[str, str] = field(default_factory=dict)
    linear: tuple[str, ...] = ("classifier",)
    linear_layout: Layout = "linear (out, in)"
    batchnorm: tuple[str, ...] = ("weight", "bias", "running_mean", "running_var")


_PACKAGES = {
    "torchvision": _Package(
        {**dict.fromkeys(("expand", "depthwise", "project"), "{at}.{member}.0 {at}.{member}.1"), "se_reduce": "{at}.{member}.fc1",
         "se_expand": "{at}.{member}.fc2", "stem": "features.0.0 features.0.1", "head_conv": "{head}.0 {head}.1",
         "head_expand": "classifier.0", "classifier": "classifier.3"}, linear=("head_expand", "classifier")),
    "timm": _Package(
        {"stem": "conv_stem bn1", "expand": "{at}.conv_pw {at}.bn1", "depthwise": "{at}.conv_dw {at}.bn2",
         "se_reduce": "{at}.se.conv_reduce", "se_expand": "{at}.se.conv_expand", "project": "{at}.conv_pwl {at}.bn3",
         "head_conv": "{head}.conv {head}.bn1", "head_expand": "conv_head", "classifier": "classifier"},
        unexpanded={"depthwise": "{at}.conv_dw {at}.bn1", "project": "{at}.conv_pw {at}.bn2"}),
    "paddle": _Package(
        {"stem": "conv.conv conv.bn", "expand": "{at}.expand_conv.conv {at}.expand_conv.bn",
         "depthwise": "{at}.bottleneck_conv.conv {at}.bottleneck_conv.bn", "se_reduce": "{at}.mid_se.conv1",
         "se_expand": "{at}.mid_se.conv2", "project": "{at}.linear_conv.conv {at}.linear_conv.bn",
         "head_conv": "{head}.conv {head}.bn", "head_expand": "last_conv", "classifier": "fc"},
        linear_layout="linear (in, out)", batchnorm=("weight", "bias", "_mean", "_variance")),
}


def source_entries(origin: str, spec: NetworkSpec, alpha: float, classes: int | None, names: Iterable[str],
                   dropout: float = 0.2) -> tuple[Entry, ...]:
    """The tensors that a file of that origin must hold, in the network's order.

    Args:
        origin: a key of :data:`ORIGINS`.
        spec: the network, in the dialect of the file.
        alpha: width multiplier, > 0.
        classes: width of the classifier; None where the file has none.
        names: of the file's tensors, as :func:`mnv3_tf.weights.formats.read.read_source` gives them. They decide between the
            layouts that one package has: of Keras's files what layers and variables are called, of timm's how the blocks of a
            user's own table are grouped.
        dropout: share dropped before the classifier, where the dialect multiplies by the rest when it predicts.
    """
    parts = network_parts(spec, alpha, classes)
    if origin == "keras":
        found = _keras_entries(parts, names)
    else:
        package = _PACKAGES[origin]
        found = [entry for part, place in zip(parts, _places(origin, package, parts, names), strict=True)
                 for entry in _torch_entries(part, place, package)]
    return tuple(_with_factor(entry, spec, dropout) for entry in found)


def is_bookkeeping(origin: str, name: str) -> bool:
    """Whether a tensor is one that the package keeps beside the weights, and that no prediction depends on.

    PyTorch counts the batches that a BatchNorm has seen.
    """
    return origin in ("torchvision", "timm") and name.rpartition(".")[2] == "num_batches_tracked"


def _with_factor(entry: Entry, spec: NetworkSpec, dropout: float) -> Entry:
    layer, _, variable = entry.target.partition("/")
    slope = 6 * spec.dialect.hard_sigmoid_slope
    if layer.endswith("_se_expand") and abs(slope - 1) > 1e-9:
        reason = f"hard-sigmoid of slope {spec.dialect.hard_sigmoid_slope:g}"
    elif (layer, variable) == ("classifier", "kernel") and spec.dialect.dropout_scales_inference and dropout:
        slope, reason = 1 - dropout, f"dropout of {dropout:g} scales what it predicts"
    else:
        return entry
    return Entry(entry.source, entry.target, entry.layout, entry.shape, slope, reason)


def _torch_entries(part: Part, place: _Place, package: _Package) -> list[Entry]:
    layout: Layout = "depthwise OIHW" if part.role == "depthwise" else "OIHW"
    sources = {"kernel": f"{place.conv}.weight", "bias": f"{place.conv}.bias",
               **{ours: f"{place.batchnorm}.{theirs}" for ours, theirs in zip(BATCHNORM, package.batchnorm, strict=True)}}
    layouts = {"kernel": package.linear_layout if part.role in package.linear else layout}
    variables = {target: target.partition("/")[2] for target in part.variables()}
    return [Entry(sources[variables[target]], target, layouts.get(variables[target], "same"), shape)
            for target, shape in part.variables().items()]


def _places(origin: str, package: _Package, parts: tuple[Part, ...], names: Iterable[str]) -> list[_Place]:
    count = max(part.block for part in parts)
    at, head = [f"features.{block}.block" for block in range(1, count + 1)], f"features.{count + 1}"
    if origin == "timm":
        at, head = _timm_blocks(count, names)
    elif origin == "paddle":
        at, head = [f"blocks.{block}" for block in range(count)], "last_second_conv"
    expanding = {part.block for part in parts if part.role == "expand"}
    places, member, block = [], 0, 0
    for part in parts:
        member = 0 if part.block != block else member + (part.role != "se_expand")
        block = part.block
        name = package.names[part.role] if block in expanding else (package.names | package.unexpanded)[part.role]
        places.append(_Place(*name.format(at=at[block - 1], member=member, head=head).split(" ")))
    return places


def _timm_blocks(count: int, names: Iterable[str]) -> tuple[list[str], str]:
    """The prefixes of the blocks, and that of the convolution before pooling.

    A user's own table says nothing of stages; so they are the file's, where it has as many blocks as the table.
    """
    numbered = {(int(match[1]), int(match[2])) for name in names if (match := re.match(r"blocks\.(\d+)\.(\d+)\.", name))}
    if len(numbered) == count + 1:
        *found, last = (f"blocks.{stage}.{index}" for stage, index in sorted(numbered))
        return found, last
    stages = _TIMM_STAGES.get(count, (count,))
    return ([f"blocks.{stage}.{index}" for stage, blocks in enumerate(stages) for index in range(blocks)],
            f"blocks.{len(stages)}.0")


_KERAS2 = {"stem": "Conv", "expand": "{at}/expand", "depthwise": "{at}/depthwise", "se_reduce": "{at}/squeeze_excite/Conv",
           "se_expand": "{at}/squeeze_excite/Conv_1", "project": "{at}/project", "head_conv": "Conv_1", "head_expand": "Conv_2",
           "classifier": "Logits"}
_KERAS3 = {"stem": "conv", "expand": "{at}_expand", "depthwise": "{at}_depthwise", "se_reduce": "{at}_squeeze_excite_conv",
           "se_expand": "{at}_squeeze_excite_conv_1", "project": "{at}_project", "head_conv": "conv_1", "head_expand": "conv_2",
           "classifier": "logits"}


def _keras_entries(parts: tuple[Part, ...], names: Iterable[str]) -> list[Entry]:
    """Entries under the layers' names in Keras 2 or 3, or their class and number, whichever the file has most of.

    The variables of a layer have their names in the older kind of `.h5` file, and numbers in the newer one.
    """
    there = set(names)
    layouts = _keras_layers(parts, _KERAS2, "/BatchNorm"), _keras_layers(parts, _KERAS3, "_bn"), _numbered_layers(parts)
    found = [_keras_names(parts, layers, numbered, there) for layers in layouts for numbered in (False, True)]
    best = max(found, key=lambda sources: sum(source in there for source in sources.values()))
    shapes = {target: shape for part in parts for target, shape in part.variables().items()}
    return [Entry(source, target, "same", shapes[target]) for target, source in best.items()]


def _keras_names(parts: tuple[Part, ...], layers: list[_Place], numbered: bool, there: set[str]) -> dict[str, str]:
    sources = {}
    for part, place in zip(parts, layers, strict=True):
        for target in part.variables():
            layer, _, variable = target.partition("/")
            own = BATCHNORM if layer.endswith("_bn") else ("kernel", "bias")
            source = f"{place.batchnorm if layer.endswith('_bn') else place.conv}/"
            source += str(own.index(variable)) if numbered else variable
            if part.role == "depthwise" and f"{place.conv}/depthwise_kernel" in there and variable == "kernel":
                source = f"{place.conv}/depthwise_kernel"  # what Keras 2 calls it
            sources[target] = source
    return sources


def _keras_layers(parts: tuple[Part, ...], names: dict[str, str], batchnorm: str) -> list[_Place]:
    """The first block has no number: ``expanded_conv/project``, ``expanded_conv_1/expand``."""
    layers = [names[part.role].format(at="expanded_conv" if part.block == 1 else f"expanded_conv_{part.block - 1}")
              for part in parts]
    return [_Place(layer, layer + batchnorm) for layer in layers]


def _numbered_layers(parts: tuple[Part, ...]) -> list[_Place]:
    """``conv2d_7``: the layers of each class are numbered in the network's order, the first without a number."""
    counts = {"conv2d": 0, "depthwise_conv2d": 0, "batch_normalization": 0}

    def next_layer(kind: str) -> str:
        counts[kind] += 1
        return f"{kind}_{counts[kind] - 1}" if counts[kind] > 1 else kind

    return [_Place(next_layer("depthwise_conv2d" if part.role == "depthwise" else "conv2d"),
                   next_layer("batch_normalization") if part.batchnorm else "") for part in parts]
