"""Block tables and the arithmetic of channel counts."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnv3_tf.errors import InputError
from mnv3_tf.network.plan import head_widths, make_divisible, network_parts
from mnv3_tf.network.spec import SPECS, Block, Dialect, NetworkSpec, find_spec, read_block_table


def scale_blocks(spec: NetworkSpec, alpha: float) -> list[SimpleNamespace]:
    """The channels of every block in the plan of a network."""
    found = []
    for number in range(1, len(spec.blocks) + 1):
        parts = {part.role: part for part in network_parts(spec, alpha, None) if part.block == number}
        depthwise, project, reduce = parts["depthwise"], parts["project"], parts.get("se_reduce")
        first = parts.get("expand", depthwise)
        found.append(SimpleNamespace(
            name=depthwise.layer.removesuffix("_depthwise"), input=first.kernel[2], has_expand="expand" in parts,
            expansion=depthwise.outputs, squeeze=reduce.outputs if reduce else None, out=project.outputs,
            kernel=depthwise.kernel[0], stride=depthwise.stride, residual=project.residual))
    return found


@pytest.mark.parametrize(("value", "expected"), [(3, 8), (8, 8), (11.9, 16), (12, 16), (16 * 0.75, 16), (24 * 0.75, 24),
    (40 * 0.35, 16),
                                                 (88.0 / 24 * 24, 88), (18, 24), (19, 24), (100, 104), (72 * 0.25, 24)])
def test_make_divisible(value: float, expected: int) -> None:
    assert make_divisible(value) == expected


@given(st.floats(0.1, 1e5), st.sampled_from([1, 4, 8, 16]))
def test_make_divisible_never_loses_a_tenth(value: float, divisor: int) -> None:
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0 and rounded >= divisor and rounded >= 0.9 * value and rounded <= value + 2 * divisor


def test_scaled_blocks_at_three_quarters() -> None:
    blocks = scale_blocks(SPECS["small"], 0.75)
    first, second, fourth = blocks[0], blocks[1], blocks[3]
    assert (first.name, first.input, first.expansion, first.has_expand, first.squeeze, first.out) == (
        "block_01", 16, 16, False, 8, 16)
    assert (second.expansion, second.out) == (72, 24)  # 16 * 72/16; 24 * 0.75 = 18, and 16 is less than 90% of it
    assert (fourth.input, fourth.expansion, fourth.squeeze, fourth.out, fourth.residual) == (24, 96, 24, 32, False)
    assert [block.residual for block in blocks] == [False, False, True, False, True, True, False, True, False, True, True]


def test_head_widths() -> None:
    assert head_widths(SPECS["large"], 1.0) == (960, 1280)
    assert head_widths(SPECS["small"], 0.5) == (288, 1024)  # the convolution after pooling does not shrink
    assert head_widths(SPECS["large"], 1.25) == (1200, 1600)


def test_minimalistic_tables_are_plain() -> None:
    for name in ("large_minimalistic", "small_minimalistic"):
        assert all(b.kernel == 3 and not b.squeeze_excite and b.activation == "relu" for b in SPECS[name].blocks)


TABLE = """\
name: own
class_expand: 64
blocks:
  - [3, 16, 16, true, relu, 2]
  - {kernel: 5, expansion: 72, out: 24, squeeze_excite: false, activation: hard_swish, stride: 1}
"""


def test_a_table_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(TABLE)
    spec = read_block_table(tmp_path / "t.yaml")
    assert spec.blocks == (Block(3, 16, 16, True, "relu", 2), Block(5, 72, 24, False, "hard_swish", 1))
    assert (spec.name, spec.class_expand, spec.inplanes, spec.class_squeeze, spec.activation) == (
        "own", 64, 16, None, "hard_swish")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("[3, 16", "[4, 16", "line 4: kernel is 4"), ("true", "1", "line 4: squeeze_excite is 1"),
    (", 2]", ", 3]", "line 4: stride is 3"),
    ("relu", "gelu", "line 4: activation is 'gelu'"), ("[3, 16, 16, true, relu, 2]", "[3, 16]", "line 4: a block is"),
    ("kernel:", "kernal:", "line 5: a block has no 'kernal'; did you mean 'kernel'"),
    (", stride: 1", "", "line 5: the block lacks stride"),
    ("class_expand: 64", "class_expand: many", "line 2: class_expand is 'many'"),
    ("name:", "nome:", "line 1: unknown key 'nome'"),
    ("blocks:", "block:", "unknown key 'block'"),
])
def test_wrong_tables_name_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "t.yaml").write_text(TABLE.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        read_block_table(tmp_path / "t.yaml")
    assert message in str(caught.value) and "t.yaml" in str(caught.value)


@pytest.mark.parametrize("content", [b"blocks: []\n", b"blocks: 3\n", b"", b"\xff\xfe\x00", b"name: x\n"])
def test_tables_without_rows(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.yaml"):
        read_block_table(tmp_path / "t.yaml")


# By hand, as (input, expansion, squeeze, out, kernel, stride, residual). Expansion: input x (table's expansion / table's
# input); squeeze: a quarter of the expansion; all to a multiple of 8 that is not below 90% of the figure.
ROWS = {
    ("large", 0.35): {
        1: (16, 16, None, 8, 3, 1, False), 2: (8, 32, None, 8, 3, 2, False), 3: (8, 24, None, 8, 3, 1, True),
        4: (8, 24, 8, 16, 5, 2, False), 5: (16, 48, 16, 16, 5, 1, True), 7: (16, 96, None, 32, 3, 2, False),
        9: (32, 72, None, 32, 3, 1, True), 12: (40, 240, 64, 40, 3, 1, True), 14: (56, 336, 88, 56, 5, 1, True)},
    ("large", 0.75): {
        1: (16, 16, None, 16, 3, 1, True), 4: (24, 72, 24, 32, 5, 2, False), 9: (64, 144, None, 64, 3, 1, True),
        11: (64, 384, 96, 88, 3, 1, False), 13: (88, 528, 136, 120, 5, 2, False)},
    ("large", 1.0): {
        4: (24, 72, 24, 40, 5, 2, False), 6: (40, 120, 32, 40, 5, 1, True), 11: (80, 480, 120, 112, 3, 1, False),
        13: (112, 672, 168, 160, 5, 2, False), 15: (160, 960, 240, 160, 5, 1, True)},
    ("small", 1.25): {
        1: (16, 16, 8, 24, 3, 2, False), 2: (24, 112, None, 32, 3, 2, False), 3: (32, 120, None, 32, 3, 1, True),
        4: (32, 128, 32, 48, 5, 2, False), 7: (48, 144, 40, 64, 5, 1, False), 9: (64, 384, 96, 120, 5, 2, False)},
}


@pytest.mark.parametrize(("name", "alpha"), ROWS)
def test_scaled_rows_by_hand(name: str, alpha: float) -> None:
    blocks = scale_blocks(SPECS[name], alpha)
    assert [b.name for b in blocks] == [f"block_{n:02d}" for n in range(1, len(SPECS[name].blocks) + 1)]
    for number, expected in ROWS[name, alpha].items():
        b = blocks[number - 1]
        assert (b.input, b.expansion, b.squeeze, b.out, b.kernel, b.stride, b.residual) == expected, b.name


@pytest.mark.parametrize("name", sorted(SPECS))
def test_at_alpha_one_the_widths_are_the_tables(name: str) -> None:
    scaled = scale_blocks(SPECS[name], 1.0)
    assert [(b.expansion, b.out) for b in scaled] == [(b.expansion, b.out) for b in SPECS[name].blocks]
    assert [b.has_expand for b in scaled] == [False] + [True] * (len(scaled) - 1)


@given(st.sampled_from(sorted(SPECS)), st.floats(0.05, 4))
def test_blocks_fit_together_at_any_alpha(name: str, alpha: float) -> None:
    blocks = scale_blocks(SPECS[name], alpha)
    assert [b.input for b in blocks] == [16] + [b.out for b in blocks[:-1]]
    assert all(width % 8 == 0 for b in blocks for width in (b.expansion, b.out, b.squeeze or 8))
    assert all((b.squeeze is not None) == row.squeeze_excite for b, row in zip(blocks, SPECS[name].blocks, strict=True))


@given(st.floats(0.1, 1e5))
def test_make_divisible_is_a_fixed_point_and_close(value: float) -> None:
    rounded = make_divisible(value)
    assert make_divisible(rounded) == rounded and (value < 8 or abs(rounded - value) <= 8)


def test_make_divisible_other_divisors() -> None:
    assert [make_divisible(v, 4) for v in (1, 5.9, 6, 10, 25)] == [4, 8, 8, 12, 24]  # 5.9 -> 4 would lose a third
    assert [make_divisible(v, 1) for v in (0.4, 2.4, 2.5)] == [1, 3, 3]  # 2 is less than 90% of 2.4


@pytest.mark.parametrize(("name", "alpha", "widths"), [
    ("large", 0.35, (336, 1280)), ("large", 0.75, (720, 1280)), ("small", 1.0, (576, 1024)), ("small", 1.25, (720, 1280)),
    ("small_minimalistic", 0.75, (432, 1024)), ("large_minimalistic", 1.25, (1200, 1600)),
])
def test_more_head_widths(name: str, alpha: float, widths: tuple[int, int]) -> None:
    assert head_widths(SPECS[name], alpha) == widths


def test_head_widths_of_the_users_own() -> None:
    spec = dataclasses.replace(SPECS["small"], class_squeeze=200, class_expand=77)
    assert head_widths(spec, 1.0) == (200, 77)
    assert head_widths(spec, 0.5) == (104, 77)  # 100 to the nearest multiple of 8; after pooling nothing shrinks
    assert head_widths(spec, 2.0) == (400, 152)  # 154 to the nearest multiple of 8
    fixed = dataclasses.replace(spec, dialect=Dialect("x", head_scaling="never"))
    assert head_widths(fixed, 2.0) == (400, 77)


def test_a_dialect_that_scales_the_tables_expansion() -> None:
    spec = dataclasses.replace(SPECS["large"], dialect=Dialect("own", expansion_from_input=False))
    assert [b.expansion for b in scale_blocks(spec, 0.75)][1:4] == [48, 56, 56]  # 64, 72, 72 at three quarters
    assert scale_blocks(spec, 1.0) == scale_blocks(SPECS["large"], 1.0)


def test_networks_are_found_by_name() -> None:
    assert find_spec("small") is SPECS["small"]
    with pytest.raises(InputError, match=r"no network 'smal'; did you mean 'small'\?.*large, small, large_minimalistic"):
        find_spec("smal")


def test_all_head_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("activation: relu\ninplanes: 24\nclass_squeeze: 96\nclass_expand: 128\n"
                    "blocks:\n  - [5, 48, 24, false, relu, 2]\n")
    assert read_block_table(path) == NetworkSpec(  # the name is the file's where none is given
        "mine", (Block(5, 48, 24, False, "relu", 2),), "relu", class_expand=128, inplanes=24, class_squeeze=96)
    path.write_text(path.read_text().replace("class_squeeze: 96", "class_squeeze: null"))
    assert read_block_table(path).class_squeeze is None


def test_both_row_forms_mean_the_same(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        "blocks:\n  - [3, 16, 24, true, relu, 2]\n  - stride: 2\n    kernel: 3\n    out: 24\n    expansion: 16\n"
        "    activation: relu\n    squeeze_excite: true\n")
    first, second = read_block_table(tmp_path / "t.yaml").blocks
    assert first == second == Block(3, 16, 24, True, "relu", 2)


@pytest.mark.parametrize(("old", "new", "parts"), [
    ("[3, 16, 16", "[-3, 16, 16", ("line 4", "kernel is -3", "an odd whole number, such as 3 or 5")),
    ("[3, 16, 16", "[3.0, 16, 16", ("line 4", "kernel is 3.0", "an odd whole number")),
    ("[3, 16, 16", "[3, 0, 16", ("line 4", "expansion is 0", "a whole number of channels")),
    ("[3, 16, 16", "[3, 16, wide", ("line 4", "out is 'wide'", "a whole number of channels")),
    ("true, relu", "maybe, relu", ("line 4", "squeeze_excite is 'maybe'", "true or false")),
    ("true, relu", "true, [relu]", ("line 4", "activation is ['relu']", "relu or hard_swish")),
    ("hard_swish, stride", "swish, stride", ("line 5", "activation is 'swish'", "relu or hard_swish")),
    ("stride: 1", "stride: true", ("line 5", "stride is True", "1 or 2")),
    (", 2]", ", 2, 9]", ("line 4", "[kernel, expansion, out, squeeze_excite, activation, stride]", "9")),
    ("[3, 16, 16, true, relu, 2]", "plain", ("line 4", "a block is [kernel,", "'plain'")),
    ("kernel: 5, expansion: 72, ", "", ("line 5", "the block lacks kernel, expansion")),
    ("name: own", "activation: gelu", ("line 1", "activation is 'gelu'", "allowed: relu, hard_swish")),
    ("name: own", "inplanes: 0", ("line 1", "inplanes is 0", "a whole number of channels")),
    ("name: own", "class_squeeze: true", ("line 1", "class_squeeze is True", "a whole number of channels")),
    ("class_expand", "class_expnad", ("line 2", "did you mean 'class_expand'", "Allowed: activation, blocks, class_expand")),
    ("name: own", "name: [own", ("line 2", "not valid YAML")),
    ("  - {kernel", "\t- {kernel", ("line 5", "not valid YAML")),
])
def test_errors_say_where_what_and_what_is_allowed(tmp_path: Path, old: str, new: str, parts: tuple[str, ...]) -> None:
    assert old in TABLE
    path = tmp_path / "t.yaml"
    path.write_text(TABLE.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        read_block_table(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_lines_are_counted_with_comments_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_bytes(b"# a\r\n\r\nblocks:\r\n  # b\r\n  - [4, 16, 16, true, relu, 2]\r\n")
    with pytest.raises(InputError, match=r"t\.yaml, line 5: kernel is 4"):
        read_block_table(tmp_path / "t.yaml")


@pytest.mark.parametrize(("content", "message"), [
    (b"blocks: []\n", "line 1: blocks must be a list with at least one row"),
    (b"name: x\nblocks: 3\n", "line 2: blocks must be a list with at least one row"),
    (b"name: x\n", "the key 'blocks' is missing"), (b"- 1\n", "must hold a mapping"), (b"", "must hold a mapping"),
    ("name: caf\u00e9\n".encode("latin-1"), "not UTF-8 text"), (b"blocks: \x00\n", "not valid YAML"),
    (b"blocks: !!python/object/apply:os.getcwd []\n", "line 1: not valid YAML"),
])
def test_files_that_are_no_table(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_block_table(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read \(No such file"):
        read_block_table(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_block_table(tmp_path)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_bytes(b"\xef\xbb\xbf" + TABLE.encode())
    assert read_block_table(tmp_path / "t.yaml").name == "own"
