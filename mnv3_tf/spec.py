"""The network as data: block tables, dialects and the arithmetic that turns a width multiplier into channel counts.

Source of the tables: Howard et al., "Searching for MobileNetV3" (2019), tables 1 and 2; the minimalistic variants and the
rounding are those of TF-slim and keras.applications.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnv3_tf.errors import InputError
from mnv3_tf.yaml_text import nearest, read_yaml

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
        name: what reports print.
        expansion_from_input: expansion channels follow the block's scaled input (keras.applications) instead of scaling the
            table's figure (the others); the two differ only away from alpha 1.
        head_follows_alpha: the convolution after pooling grows with alpha above 1.
        batchnorm_epsilon: added to the variance.
    """

    name: str
    expansion_from_input: bool = True
    head_follows_alpha: bool = True
    batchnorm_epsilon: float = 1e-3


KERAS = Dialect("keras")


@dataclass(frozen=True)
class NetworkSpec:
    """A whole network before any layer exists.

    Attributes:
        name: "large", "small", "large_minimalistic", "small_minimalistic" or the user's own.
        blocks: one row per block.
        activation: of the stem and the head.
        inplanes: channels of the stem at alpha 1. keras.applications does not scale them, nor is it done here.
        class_squeeze: channels of the convolution before pooling, at alpha 1; None: six times the last block's output.
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


def scale_blocks(spec: NetworkSpec, alpha: float) -> tuple[ScaledBlock, ...]:
    """Channel counts of every block at a width multiplier.

    Args:
        spec: the network.
        alpha: width multiplier, > 0.

    Returns:
        One :class:`ScaledBlock` per row, named ``block_01``, ``block_02``, ...
    """
    scaled = []
    table_input = channels = spec.inplanes
    for number, block in enumerate(spec.blocks, start=1):
        if spec.dialect.expansion_from_input:
            expansion = make_divisible(channels * (block.expansion / table_input))
        else:
            expansion = make_divisible(block.expansion * alpha)
        has_expand = number > 1 or block.expansion != table_input
        if not has_expand:
            expansion = channels
        out = make_divisible(block.out * alpha)
        scaled.append(ScaledBlock(
            name=f"block_{number:02d}", input=channels, expansion=expansion, has_expand=has_expand,
            squeeze=make_divisible(expansion * 0.25) if block.squeeze_excite else None,
            out=out, kernel=block.kernel, activation=block.activation, stride=block.stride))
        table_input, channels = block.out, out
    return tuple(scaled)


def head_widths(spec: NetworkSpec, alpha: float) -> tuple[int, int]:
    """Channels of the convolutions before and after the global average pooling."""
    last = make_divisible(spec.blocks[-1].out * alpha)
    before = make_divisible(last * 6) if spec.class_squeeze is None else make_divisible(spec.class_squeeze * alpha)
    grows = spec.dialect.head_follows_alpha and alpha > 1.0
    return before, make_divisible(spec.class_expand * alpha) if grows else spec.class_expand


def find_spec(name: str) -> NetworkSpec:
    """The built-in network of that name.

    Raises:
        InputError: there is none; the message lists them.
    """
    if name not in SPECS:
        raise InputError(f"model.name: there is no network {name!r}{nearest(name, SPECS)}. Allowed: {', '.join(SPECS)}; "
                         "or give your own table with model.block_table.")
    return SPECS[name]


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
