"""The network as data: block tables, dialects and the arithmetic that turns a width multiplier into channel counts.

Source of the tables: Howard et al., "Searching for MobileNetV3" (2019), tables 1 and 2; the minimalistic variants and the
rounding are those of TF-slim and keras.applications.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnv3_tf.errors import InputError
from mnv3_tf.text import nearest
from mnv3_tf.yaml_text import read_yaml

Activation = Literal["relu", "hard_swish"]


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


@dataclass(frozen=True)
class ScaledBlock:
    """A block with the channel counts that a given alpha makes of it."""

    name: str
    input: int
    expansion: int
    has_expand: bool
    squeeze: int | None
    out: int
    kernel: int
    activation: Activation
    stride: int

    @property
    def residual(self) -> bool:
        """Whether the block's input is added to its output."""
        return self.stride == 1 and self.input == self.out


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


def make_divisible(value: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one, and never more than 10% below `value` (TF-slim's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def check_alpha(alpha: float) -> None:
    """Refuses a width multiplier that is not a positive, finite number.

    Raises:
        InputError: it is not.
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise InputError(f"alpha is {alpha}; the width multiplier must be above 0, such as 0.5, 0.75 or 1.0.")


def scale_blocks(spec: NetworkSpec, alpha: float) -> tuple[ScaledBlock, ...]:
    """Channel counts of every block at a width multiplier.

    Args:
        spec: the network.
        alpha: width multiplier, > 0.

    Returns:
        One :class:`ScaledBlock` per row, named ``block_01``, ``block_02``, ...
    """
    scaled = []
    dialect = spec.dialect
    table_input, channels = spec.inplanes, stem_width(spec, alpha)
    for number, block in enumerate(spec.blocks, start=1):
        if dialect.expansion_from_input:
            expansion = make_divisible(channels * (block.expansion / table_input))
        else:
            expansion = make_divisible(block.expansion * alpha)
        has_expand = number > 1 or dialect.first_block_expands or block.expansion != table_input
        if not has_expand:
            expansion = channels
        out = make_divisible(block.out * alpha)
        scaled.append(ScaledBlock(
            name=f"block_{number:02d}", input=channels, expansion=expansion, has_expand=has_expand,
            squeeze=_squeeze_width(dialect, expansion) if block.squeeze_excite else None, out=out,
            kernel=block.kernel, activation=block.activation, stride=block.stride))
        table_input, channels = block.out, out
    return tuple(scaled)


def stem_width(spec: NetworkSpec, alpha: float) -> int:
    """Channels of the first convolution."""
    return make_divisible(spec.inplanes * alpha) if alpha >= spec.dialect.stem_scaled_from else spec.inplanes


def _squeeze_width(dialect: Dialect, expansion: int) -> int:
    return make_divisible(expansion * 0.25) if dialect.squeeze_divisible else max(1, expansion // 4)


def head_widths(spec: NetworkSpec, alpha: float) -> tuple[int, int]:
    """Channels of the convolutions before and after the global average pooling."""
    dialect = spec.dialect
    if spec.class_squeeze is not None or dialect.head_squeeze_from_table:
        before = make_divisible((spec.class_squeeze or 6 * spec.blocks[-1].out) * alpha)
    else:
        before = make_divisible(make_divisible(spec.blocks[-1].out * alpha) * 6)
    grows = dialect.head_scaling == "always" or (dialect.head_scaling == "above 1" and alpha > 1.0)
    return before, make_divisible(spec.class_expand * alpha) if grows else spec.class_expand


def find_spec(name: str, dialect: str = "keras") -> NetworkSpec:
    """The built-in network of that name.

    Raises:
        InputError: there is no such network, or dialect; the message lists them.
    """
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
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{path}, line {document.line(key)}: {key} is {value!r}; a whole number of channels is needed.")
        return value

    activation = fields.get("activation", _HS)
    if activation not in ("relu", "hard_swish"):
        raise InputError(f"{path}, line {document.line('activation')}: activation is {activation!r}; "
                         "allowed: relu, hard_swish.")
    return NetworkSpec(
        name=_table_name(fields.get("name"), path), blocks=blocks, activation=activation,
        class_expand=number("class_expand", 1280) or 0, inplanes=number("inplanes", 16) or 0,
        class_squeeze=number("class_squeeze", None))


def _table_name(given: Any, path: str | Path) -> str:
    """The network's name, which becomes part of a Keras name; the file's own where none is given."""
    return "".join(c if c.isalnum() else "_" for c in str(given or Path(path).stem))


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
