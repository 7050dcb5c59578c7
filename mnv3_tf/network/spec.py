"""The network as data: block tables, and the dialects of those who published it.

Source of the tables: Howard et al., "Searching for MobileNetV3" (2019), tables 1 and 2; the minimalistic variants are
those of TF-slim and keras.applications.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnv3_tf.config import ModelConfig
from mnv3_tf.errors import InputError
from mnv3_tf.text import nearest
from mnv3_tf.yaml_text import read_yaml

Activation = Literal["relu", "hard_swish"]

# Width multipliers that somebody published weights of, and then those that anybody is likely to have; of several that give equal
# widths, the first is meant.
ALPHAS = (1.0, 0.75, 0.5, 0.35, 0.25, 1.25, 1.5)
OTHER_ALPHAS = (2.0, *(alpha for alpha in (step / 20 for step in range(2, 40)) if alpha not in ALPHAS))


@dataclass(frozen=True)
class Block:
    """One inverted residual block, in the order of the paper's table; channels are those at alpha 1.

    Attributes:
        kernel: side of the depthwise kernel in pixels, odd.
        expansion: channels between the expanding and the projecting convolution.
        out: channels of the block's output.
        squeeze_excite: whether channels are gated between depthwise and projection.
        activation: "relu" or "hard_swish".
        stride: 1 or 2.
    """

    kernel: int
    expansion: int
    out: int
    squeeze_excite: bool
    activation: Activation
    stride: int


@dataclass(frozen=True)
class Dialect:
    """What the published MobileNetV3 implementations disagree about.

    Attributes:
        name: what the configuration and reports call it.
        mean, std: of the input's three channels, as shares of 255: the stem sees ``(pixel / 255 - mean) / std``.
        symmetric_padding: strided convolutions are padded by (kernel - 1) / 2 on every side; else as TensorFlow's SAME.
        expansion_from_input: expansion channels follow the block's scaled input (keras.applications, TF-slim) instead of
            scaling the table's figure; the two differ only where alpha is not 1.
        first_block_expands: a first block whose expansion is its input's width still has an expanding convolution.
        squeeze_divisible: squeeze channels are rounded to a multiple of 8; else a plain quarter.
        stem_scaled_from: the least alpha at which the stem's channels are scaled; infinite for never.
        head_squeeze_from_table: channels before pooling are six times the table's last output, scaled; else six times the
            scaled last output.
        head_scaling: when the channels after pooling are scaled: "above 1" (by alpha above 1), "always" or "never".
        class_expand: channels after pooling at alpha 1, where they are the same for all tables; None: the table's own.
        head_bias: whether the convolution after pooling has a bias.
        batchnorm_epsilon: added to the variance.
        hard_sigmoid_slope: of the source's gate, clip(slope * x + 0.5, 0, 1). Here the gate always has a slope of 1/6;
            imported weights of the convolution before it are multiplied by ``6 * slope``, which is the same function.
        dropout_scales_inference: the source multiplies by (1 - dropout) when it predicts; imported weights of the classifier
            are multiplied by it, which is the same function.
    """

    name: str
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    symmetric_padding: bool = False
    expansion_from_input: bool = True
    first_block_expands: bool = False
    squeeze_divisible: bool = True
    stem_scaled_from: float = math.inf
    head_squeeze_from_table: bool = False
    head_scaling: Literal["above 1", "always", "never"] = "above 1"
    class_expand: int | None = None
    head_bias: bool = True
    batchnorm_epsilon: float = 1e-3
    hard_sigmoid_slope: float = 1 / 6
    dropout_scales_inference: bool = False

    def rescaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(scale, offset) by channel: the stem sees ``scale * pixel + offset``."""
        return (tuple(1 / (255 * std) for std in self.std),
                tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True)))

    def head_grows(self, alpha: float) -> bool:
        """Whether a width multiplier scales the channels after pooling."""
        return self.head_scaling == "always" or (self.head_scaling == "above 1" and alpha > 1)

    def computes_like(self, symmetric_padding: bool, batchnorm_epsilon: float) -> bool:
        """Whether equal tensors give equal answers in this dialect and with such layers, on pixels normalized alike."""
        same_epsilon = math.isclose(batchnorm_epsilon, self.batchnorm_epsilon, rel_tol=1e-3)
        return symmetric_padding == self.symmetric_padding and same_epsilon


_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

KERAS = Dialect("keras")
DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect for dialect in (
        KERAS,
        Dialect("torchvision", _IMAGENET_MEAN, _IMAGENET_STD, symmetric_padding=True, expansion_from_input=False,
                stem_scaled_from=0.0, head_scaling="always"),
        Dialect("timm", _IMAGENET_MEAN, _IMAGENET_STD, symmetric_padding=True, stem_scaled_from=0.75,
                head_squeeze_from_table=True, head_scaling="never", batchnorm_epsilon=1e-5),
        Dialect("timm_tf", stem_scaled_from=0.75, head_squeeze_from_table=True, head_scaling="never"),
        Dialect("paddle", _IMAGENET_MEAN, _IMAGENET_STD, symmetric_padding=True, expansion_from_input=False,
                first_block_expands=True, squeeze_divisible=False, stem_scaled_from=0.0, head_squeeze_from_table=True,
                head_scaling="never", class_expand=1280, head_bias=False, batchnorm_epsilon=1e-5, hard_sigmoid_slope=0.2,
                dropout_scales_inference=True),
    )
}


@dataclass(frozen=True)
class NetworkSpec:
    """A whole network before any layer exists.

    Attributes:
        name: "large", "small", "large_minimalistic", "small_minimalistic" or the user's own.
        blocks: one row per block.
        activation: of the stem and the head.
        inplanes: channels of the stem at alpha 1; the dialect says whether alpha scales them.
        class_squeeze: channels of the convolution before pooling, at alpha 1; None: as the dialect has it.
        class_expand: channels of the convolution after pooling.
        dialect: see :class:`Dialect`.
    """

    name: str
    blocks: tuple[Block, ...]
    activation: Activation
    class_expand: int
    inplanes: int = 16
    class_squeeze: int | None = None
    dialect: Dialect = KERAS


_RE: Activation = "relu"
_HS: Activation = "hard_swish"

LARGE_BLOCKS = (
    Block(3, 16, 16, False, _RE, 1),
    Block(3, 64, 24, False, _RE, 2),
    Block(3, 72, 24, False, _RE, 1),
    Block(5, 72, 40, True, _RE, 2),
    Block(5, 120, 40, True, _RE, 1),
    Block(5, 120, 40, True, _RE, 1),
    Block(3, 240, 80, False, _HS, 2),
    Block(3, 200, 80, False, _HS, 1),
    Block(3, 184, 80, False, _HS, 1),
    Block(3, 184, 80, False, _HS, 1),
    Block(3, 480, 112, True, _HS, 1),
    Block(3, 672, 112, True, _HS, 1),
    Block(5, 672, 160, True, _HS, 2),
    Block(5, 960, 160, True, _HS, 1),
    Block(5, 960, 160, True, _HS, 1),
)
SMALL_BLOCKS = (
    Block(3, 16, 16, True, _RE, 2),
    Block(3, 72, 24, False, _RE, 2),
    Block(3, 88, 24, False, _RE, 1),
    Block(5, 96, 40, True, _HS, 2),
    Block(5, 240, 40, True, _HS, 1),
    Block(5, 240, 40, True, _HS, 1),
    Block(5, 120, 48, True, _HS, 1),
    Block(5, 144, 48, True, _HS, 1),
    Block(5, 288, 96, True, _HS, 2),
    Block(5, 576, 96, True, _HS, 1),
    Block(5, 576, 96, True, _HS, 1),
)


def _minimalistic(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The table without squeeze-and-excite, hard-swish and 5x5 kernels."""
    return tuple(dataclasses.replace(b, kernel=3, squeeze_excite=False, activation=_RE) for b in blocks)


SPECS: dict[str, NetworkSpec] = {
    spec.name: spec
    for spec in (
        NetworkSpec("large", LARGE_BLOCKS, _HS, class_expand=1280),
        NetworkSpec("small", SMALL_BLOCKS, _HS, class_expand=1024),
        NetworkSpec("large_minimalistic", _minimalistic(LARGE_BLOCKS), _RE, class_expand=1280),
        NetworkSpec("small_minimalistic", _minimalistic(SMALL_BLOCKS), _RE, class_expand=1024),
    )
}


def check_alpha(alpha: float) -> None:
    """Refuses a width multiplier that is not a positive, finite number.

    Raises:
        InputError: it is not.
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise InputError(f"alpha is {alpha}; the width multiplier must be above 0, such as 0.5, 0.75 or 1.0.")


def find_spec(name: str, dialect: str = "keras") -> NetworkSpec:
    """The built-in network of that name.

    Raises:
        InputError: there is no such network, or dialect; the message lists them.
    """
    if name == "imported":
        raise InputError("model.name is imported: a network that was taken over as it is, which cannot be built anew and so not "
                         "be trained here. Train it where it was made and import it again.")
    if name not in SPECS:
        raise InputError(f"model.name: there is no network {name!r}{nearest(name, SPECS)}. Allowed: {', '.join(SPECS)}; "
                         "or give your own table with model.block_table.")
    return in_dialect(SPECS[name], dialect)


def in_dialect(spec: NetworkSpec, dialect: str) -> NetworkSpec:
    """The same table as another implementation builds it.

    Raises:
        InputError: there is no such dialect; the message lists them.
    """
    if dialect not in DIALECTS:
        raise InputError(f"model.dialect: there is no dialect {dialect!r}{nearest(dialect, DIALECTS)}. "
                         f"Allowed: {', '.join(DIALECTS)}.")
    found = DIALECTS[dialect]
    if found == spec.dialect:
        return spec
    return dataclasses.replace(spec, dialect=found, class_expand=found.class_expand or spec.class_expand)


def network_spec(model: ModelConfig) -> NetworkSpec:
    """The network that a section of the configuration describes, before alpha."""
    spec = read_block_table(model.block_table) if model.block_table else find_spec(model.name)
    return with_widths(in_dialect(spec, model.dialect), model.inplanes, model.class_squeeze, model.class_expand)


def with_widths(spec: NetworkSpec, inplanes: int | None, class_squeeze: int | None, class_expand: int | None) -> NetworkSpec:
    """The same network with other channels in stem and head; None keeps the table's."""
    widths = {"inplanes": inplanes, "class_squeeze": class_squeeze, "class_expand": class_expand}
    changes: dict[str, Any] = {key: width for key, width in widths.items() if width is not None}
    return dataclasses.replace(spec, **changes)


def with_normalization(spec: NetworkSpec, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> NetworkSpec:
    """The same network for a stem that was trained on pixels with another normalization; `spec` itself where it is the same.

    Args:
        spec: the network.
        mean, std: of the input's three channels as shares of 255; None for the dialect's.

    Raises:
        InputError: they are not three such numbers each.
    """
    own = {"mean": spec.dialect.mean, "std": spec.dialect.std}
    changes: dict[str, Any] = {}
    for key, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if len(values) != 3 or not all(math.isfinite(v) for v in values) or (key == "std" and min(values) <= 0):
            raise InputError(f"{key} is {tuple(values)}; three numbers as shares of 255 are needed, such as "
                             f"{_IMAGENET_MEAN if key == 'mean' else _IMAGENET_STD}.")
        if max(map(abs, values)) > 10:
            raise InputError("mean and std are shares of 255, such as 0.485, not values of 0..255; divide them by 255.")
        if not all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-8) for a, b in zip(values, own[key], strict=True)):
            changes[key] = tuple(map(float, values))
    return dataclasses.replace(spec, dialect=dataclasses.replace(spec.dialect, **changes)) if changes else spec


def read_block_table(path: str | Path) -> NetworkSpec:
    """Reads a user's own network from YAML.

    The file holds ``blocks``, a list of rows ``[kernel, expansion, out, squeeze_excite, activation, stride]`` (or the same as
    mappings), and optionally ``name``, ``activation`` (of stem and head), ``inplanes``, ``class_squeeze``, ``class_expand``.

    Raises:
        InputError: names the file, the line, what is allowed.
    """
    document = read_yaml(path)
    fields = document.mapping({"name", "blocks", "activation", "inplanes", "class_squeeze", "class_expand"},
                              required={"blocks"})
    blocks = tuple(_read_block(path, row, line) for row, line in document.rows("blocks"))

    def number(key: str, default: int | None) -> int | None:
        value = fields.get(key, default)
        if value is None and key == "class_squeeze":
            return None
        if not _whole(value):
            raise InputError(f"{path}, line {document.line(key)}: {key} is {value!r}; a whole number of channels is needed.")
        return value

    activation = fields.get("activation", _HS)
    if activation not in ("relu", "hard_swish"):
        raise InputError(f"{path}, line {document.line('activation')}: activation is {activation!r}; "
                         "allowed: relu, hard_swish.")
    return NetworkSpec(  # its name becomes part of a Keras name
        name="".join(c if c.isalnum() else "_" for c in str(fields.get("name") or Path(path).stem)),
        blocks=blocks, activation=activation,
        class_expand=number("class_expand", 1280) or 0, inplanes=number("inplanes", 16) or 0,
        class_squeeze=number("class_squeeze", None))


def _read_block(path: str | Path, row: Any, line: int) -> Block:
    """One row of a user's table, checked value by value."""
    names = [field.name for field in dataclasses.fields(Block)]
    where = f"{path}, line {line}"
    if isinstance(row, Mapping):
        unknown = [key for key in row if key not in names]
        if unknown:
            raise InputError(f"{where}: a block has no {unknown[0]!r}{nearest(str(unknown[0]), names)}. "
                             f"Allowed: {', '.join(names)}.")
        missing = [name for name in names if name not in row]
        if missing:
            raise InputError(f"{where}: the block lacks {', '.join(missing)}.")
        values = dict(row)
    elif isinstance(row, Sequence) and not isinstance(row, str) and len(row) == len(names):
        values = dict(zip(names, row, strict=True))
    else:
        raise InputError(f"{where}: a block is [{', '.join(names)}], got {row!r}.")
    checks: dict[str, tuple[bool, str]] = {
        "kernel": (_whole(values["kernel"]) and values["kernel"] % 2 == 1, "an odd whole number, such as 3 or 5"),
        "expansion": (_whole(values["expansion"]), "a whole number of channels"),
        "out": (_whole(values["out"]), "a whole number of channels"),
        "squeeze_excite": (isinstance(values["squeeze_excite"], bool), "true or false"),
        "activation": (values["activation"] in ("relu", "hard_swish"), "relu or hard_swish"),
        "stride": (values["stride"] in (1, 2) and _whole(values["stride"]), "1 or 2"),
    }
    for key, (fine, allowed) in checks.items():
        if not fine:
            raise InputError(f"{where}: {key} is {values[key]!r}; it must be {allowed}.")
    return Block(**values)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
