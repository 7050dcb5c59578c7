"""Which tensor of another package's file is which variable of the network.

Every origin has a function that says, for each convolution of the network in order, what the package calls it; nothing is found
by a part of a name. Shapes follow from :mod:`mnv3_tf.network.plan`, so a wrong variant is noticed before anything is built.

Sources: the modules of torchvision (``models/mobilenetv3.py``), timm (``models/mobilenetv3.py``, ``_efficientnet_blocks.py``),
PaddleClas (``legendary_models/mobilenet_v3.py``) and keras.applications (``mobilenet_v3.py`` of Keras 2 and 3).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mnv3_tf.network.plan import BATCHNORM, Part, Shape, network_parts
from mnv3_tf.network.spec import NetworkSpec

Origin = Literal["keras", "torchvision", "timm", "paddle"]
Layout = Literal["same", "OIHW", "depthwise OIHW", "linear (out, in)", "linear (in, out)"]

# Origin -> the dialects that its files can be of.
ORIGINS: dict[str, tuple[str, ...]] = {"keras": ("keras",), "torchvision": ("torchvision",), "timm": ("timm", "timm_tf"),
                                       "paddle": ("paddle",)}
_TORCH = ("weight", "bias", "running_mean", "running_var")
_PADDLE = ("weight", "bias", "_mean", "_variance")
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
        if self.layout == "OIHW":
            height, width, inputs, outputs = self.shape
            return outputs, inputs, height, width
        if self.layout == "depthwise OIHW":
            height, width, channels, _ = self.shape
            return channels, 1, height, width
        if self.layout == "linear (out, in)":
            return self.shape[3], self.shape[2]
        return self.shape[2:] if self.layout == "linear (in, out)" else self.shape

    @property
    def transform(self) -> str:
        """What is done with the tensor, in words; empty where it is taken as it is."""
        moved = {"same": "", "OIHW": "OIHW -> HWIO", "depthwise OIHW": "(channels, 1, h, w) -> (h, w, channels, 1)",
                 "linear (out, in)": "(out, in) -> (1, 1, in, out)", "linear (in, out)": "(in, out) -> (1, 1, in, out)"}
        scaled = f"times {self.factor:g} ({self.reason})" if self.factor != 1 else ""
        return ", ".join(text for text in (moved[self.layout], scaled) if text)

    def convert(self, tensor: np.ndarray) -> np.ndarray:
        """The variable's value, float32 of :attr:`shape`, from a tensor of :attr:`source_shape`."""
        if self.layout == "OIHW":
            tensor = tensor.transpose(2, 3, 1, 0)
        elif self.layout == "depthwise OIHW":
            tensor = tensor.transpose(2, 3, 0, 1)
        elif self.layout == "linear (out, in)":
            tensor = tensor.T
        value = np.ascontiguousarray(tensor.reshape(self.shape)).astype(np.float32)
        return value * np.float32(self.factor) if self.factor != 1 else value


@dataclass(frozen=True)
class _Place:
    """What a package calls a convolution and its BatchNorm: the names before the last dot or slash."""

    conv: str
    batchnorm: str = ""
    linear: bool = False


def source_entries(origin: str, spec: NetworkSpec, alpha: float, classes: int | None, names: Iterable[str],
                   dropout: float = 0.2) -> tuple[Entry, ...]:
    """The tensors that a file of that origin must hold, in the network's order.

    Args:
        origin: a key of :data:`ORIGINS`.
        spec: the network, in the dialect of the file.
        alpha: width multiplier, > 0.
        classes: width of the classifier; None where the file has none.
        names: of the file's tensors, as :func:`mnv3_tf.weights.formats.read.read_tensors` gives them. They decide between the
            layouts that one package has: of Keras's files what layers and variables are called, of timm's how the blocks of a
            user's own table are grouped.
        dropout: share dropped before the classifier, where the dialect multiplies by the rest when it predicts.
    """
    parts = network_parts(spec, alpha, classes)
    if origin == "keras":
        found = _keras_entries(parts, names)
    else:
        places = {"torchvision": _torchvision_places, "timm": _timm_places, "paddle": _paddle_places}[origin](parts, names)
        linear: Layout = "linear (in, out)" if origin == "paddle" else "linear (out, in)"
        batchnorm = _PADDLE if origin == "paddle" else _TORCH
        found = [entry for part, place in zip(parts, places, strict=True)
                 for entry in _torch_entries(part, place, linear, batchnorm)]
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


def _torch_entries(part: Part, place: _Place, linear: Layout, batchnorm: tuple[str, ...]) -> list[Entry]:
    layout: Layout = linear if place.linear else "depthwise OIHW" if part.role == "depthwise" else "OIHW"
    sources = {"kernel": (f"{place.conv}.weight", layout), "bias": (f"{place.conv}.bias", "same")}
    sources.update({ours: (f"{place.batchnorm}.{theirs}", "same") for ours, theirs in zip(BATCHNORM, batchnorm, strict=True)})
    return [Entry(sources[target.partition("/")[2]][0], target, sources[target.partition("/")[2]][1], shape)  # type: ignore[arg-type]
            for target, shape in part.variables().items()]


def _torchvision_places(parts: tuple[Part, ...], names: Iterable[str]) -> list[_Place]:
    """``features`` numbers stem, blocks and last convolution; ``block`` numbers what a block has of its up to four members."""
    places, member, block = [], 0, 0
    blocks = max(part.block for part in parts)
    whole = {"stem": _Place("features.0.0", "features.0.1"),
             "head_conv": _Place(f"features.{blocks + 1}.0", f"features.{blocks + 1}.1"),
             "head_expand": _Place("classifier.0", linear=True), "classifier": _Place("classifier.3", linear=True)}
    for part in parts:
        if not part.block:
            places.append(whole[part.role])
            continue
        member = 0 if part.block != block else member + (part.role != "se_expand")
        block = part.block
        at = f"features.{block}.block.{member}"
        squeeze = {"se_reduce": f"{at}.fc1", "se_expand": f"{at}.fc2"}
        places.append(_Place(squeeze[part.role]) if part.role in squeeze else _Place(f"{at}.0", f"{at}.1"))
    return places


_TIMM_EXPANDING = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
_TIMM_SEPARABLE = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
_TIMM_SQUEEZE = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}


def _timm_places(parts: tuple[Part, ...], names: Iterable[str]) -> list[_Place]:
    """``blocks`` numbers stages and the blocks in each; a first block that does not expand is of another class."""
    count = max(part.block for part in parts)
    prefixes, head = _timm_blocks(count, names)
    whole = {"stem": _Place("conv_stem", "bn1"), "head_conv": _Place(f"{head}.conv", f"{head}.bn1"),
             "head_expand": _Place("conv_head"), "classifier": _Place("classifier", linear=True)}
    expanding = {part.block for part in parts if part.role == "expand"}
    places = []
    for part in parts:
        if not part.block:
            places.append(whole[part.role])
            continue
        prefix = prefixes[part.block - 1]
        if part.role in _TIMM_SQUEEZE:
            places.append(_Place(f"{prefix}.{_TIMM_SQUEEZE[part.role]}"))
        else:
            conv, batchnorm = (_TIMM_EXPANDING if part.block in expanding else _TIMM_SEPARABLE)[part.role]
            places.append(_Place(f"{prefix}.{conv}", f"{prefix}.{batchnorm}"))
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


_PADDLE_MEMBERS = {"expand": "expand_conv", "depthwise": "bottleneck_conv", "project": "linear_conv"}
_PADDLE_SQUEEZE = {"se_reduce": "mid_se.conv1", "se_expand": "mid_se.conv2"}
_PADDLE_WHOLE = {"stem": _Place("conv.conv", "conv.bn"), "head_conv": _Place("last_second_conv.conv", "last_second_conv.bn"),
                 "head_expand": _Place("last_conv"), "classifier": _Place("fc", linear=True)}


def _paddle_places(parts: tuple[Part, ...], names: Iterable[str]) -> list[_Place]:
    """``blocks`` numbers the blocks from 0."""
    places = []
    for part in parts:
        prefix = f"blocks.{part.block - 1}"
        if not part.block:
            places.append(_PADDLE_WHOLE[part.role])
        elif part.role in _PADDLE_SQUEEZE:
            places.append(_Place(f"{prefix}.{_PADDLE_SQUEEZE[part.role]}"))
        else:
            member = f"{prefix}.{_PADDLE_MEMBERS[part.role]}"
            places.append(_Place(f"{member}.conv", f"{member}.bn"))
    return places


_KERAS2_WHOLE = {"stem": "Conv", "head_conv": "Conv_1", "head_expand": "Conv_2", "classifier": "Logits"}
_KERAS2_MEMBERS = {"expand": "expand", "depthwise": "depthwise", "project": "project",
                   "se_reduce": "squeeze_excite/Conv", "se_expand": "squeeze_excite/Conv_1"}
_KERAS3_WHOLE = {"stem": "conv", "head_conv": "conv_1", "head_expand": "conv_2", "classifier": "logits"}
_KERAS3_MEMBERS = {**_KERAS2_MEMBERS, "se_reduce": "squeeze_excite_conv", "se_expand": "squeeze_excite_conv_1"}


def _keras_entries(parts: tuple[Part, ...], names: Iterable[str]) -> list[Entry]:
    """Entries under the layers' names in Keras 2 or 3, or their class and number, whichever the file has most of.

    The variables of a layer have their names in the older kind of `.h5` file, and numbers in the newer one.
    """
    there = set(names)
    layouts = [(layers, numbered) for layers in (_keras2_layers(parts), _keras3_layers(parts), _numbered_layers(parts))
               for numbered in (False, True)]
    found = [_keras_names(parts, layers, numbered, there) for layers, numbered in layouts]
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


def _keras2_layers(parts: tuple[Part, ...]) -> list[_Place]:
    """``expanded_conv_3/squeeze_excite/Conv``; the first block has no number."""
    names = [f"{_keras_block(part)}/{_KERAS2_MEMBERS[part.role]}" if part.block else _KERAS2_WHOLE[part.role] for part in parts]
    return [_Place(name, f"{name}/BatchNorm") for name in names]


def _keras3_layers(parts: tuple[Part, ...]) -> list[_Place]:
    """``expanded_conv_3_squeeze_excite_conv``."""
    names = [f"{_keras_block(part)}_{_KERAS3_MEMBERS[part.role]}" if part.block else _KERAS3_WHOLE[part.role] for part in parts]
    return [_Place(name, f"{name}_bn") for name in names]


def _keras_block(part: Part) -> str:
    return "expanded_conv" if part.block == 1 else f"expanded_conv_{part.block - 1}"


def _numbered_layers(parts: tuple[Part, ...]) -> list[_Place]:
    """``conv2d_7``: the layers of each class are numbered in the network's order, the first without a number."""
    counts = {"conv2d": 0, "depthwise_conv2d": 0, "batch_normalization": 0}

    def next_layer(kind: str) -> str:
        counts[kind] += 1
        return f"{kind}_{counts[kind] - 1}" if counts[kind] > 1 else kind

    return [_Place(next_layer("depthwise_conv2d" if part.role == "depthwise" else "conv2d"),
                   next_layer("batch_normalization") if part.batchnorm else "") for part in parts]
