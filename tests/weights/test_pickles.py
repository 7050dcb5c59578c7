"""Files made to do harm are refused, nothing in them runs, and damaged ones end in an error that names them."""

import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.errors import InputError
from mnv3_tf.weights.formats import pickles
from mnv3_tf.weights.formats.pickles import SafeUnpickler
from mnv3_tf.weights.formats.read import read_source
from mnv3_tf.weights.formats.torch_files import TORCH_NAMES

DATA = Path(__file__).parent / "data"
START = b"\x80\x02"


class Evil:
    """What pickle turns into a call of a program."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def text(value: str) -> bytes:
    """The opcode that pushes text."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def as_zip(data: bytes, storages: dict[str, bytes] | None = None, **options) -> bytes:
    """A file as torch.save writes it, around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        archive.writestr("a/data.pkl", data)
        for key, raw in (storages or {}).items():
            archive.writestr(f"a/data/{key}", raw)
    return buffer.getvalue()


def as_legacy(data: bytes, storages: bytes = b"") -> bytes:
    """The same in torch's older format."""
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*head, data, pickle.dumps([], 2), storages])


def tensor(key: str, count: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, kind: str = "FloatStorage"
           ) -> bytes:
    """The opcodes of a tensor, as torch writes them."""
    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number(count) + b"tQ"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + numbers(shape) + numbers(strides)
            + b"\x89ccollections\nOrderedDict\n)RtR")


def one_entry(value: bytes) -> bytes:
    """A pickle of {"w": value}."""
    return START + b"}" + text("w") + value + b"s."


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert path.name in str(caught.value)
    return str(caught.value)


# name, opcodes that pickle would follow (the command comes in as text), what the error must name
CALLS = {
    "reduce": (lambda c: b"cposix\nsystem\n" + text(c) + b"\x85R", "posix.system"),
    "python 2 name": (lambda c: b"c__builtin__\neval\n" + text(f"__import__('os').system({c!r})") + b"\x85R", "builtins.eval"),
    "stack global": (lambda c: text("builtins") + text("exec") + b"\x93" + text(f"import os; os.system({c!r})") + b"\x85R",
                     "builtins.exec"),
    "getattr": (lambda c: b"cbuiltins\ngetattr\nc__builtin__\n__import__\n" + text("os") + b"\x85R" + text("system") + b"\x86R"
                + text(c) + b"\x85R", "builtins.getattr"),
    "paddle's eval": (lambda c: b"cbuiltins\neval\n" + text(f"__import__('os').system({c!r})") + b"}\x86R", "builtins.eval"),
    "inst": (lambda c: b"(" + text(c) + b"iposix\nsystem\n", "posix.system"),
    "obj": (lambda c: b"(csubprocess\ngetoutput\n" + text(c) + b"o", "subprocess.getoutput"),
    "partial": (lambda c: b"cfunctools\npartial\ncposix\nsystem\n\x85R" + text(c) + b"\x85R", "functools.partial"),
    "__reduce__": (lambda c: pickle.dumps(Evil(c), 2)[2:-1], "system"),
    "__reduce__ in an object array": (lambda c: pickle.dumps(np.array([Evil(c)], dtype=object), 2)[2:-1], "O8"),
    "setstate": (lambda c: b"ccollections\nOrderedDict\n)R}" + text("x") + b"cposix\nsystem\n" + text(c) + b"\x85Rsb",
                 "posix.system"),
}


@pytest.mark.parametrize("wrap", [lambda data: data, as_zip, as_legacy], ids=["plain", "zip", "legacy"])
@pytest.mark.parametrize("case", CALLS)
def test_a_pickle_that_runs_a_program_is_refused_and_runs_nothing(case, wrap, tmp_path):
    make, named = CALLS[case]
    marker = tmp_path / "marker"
    hostile = one_entry(make(f"touch {marker}"))
    pickle.loads(hostile)
    assert marker.exists()  # pickle itself would have run it
    marker.unlink()
    path = tmp_path / "weights.pth"
    path.write_bytes(wrap(hostile))
    message = refusal(path)
    assert not marker.exists()
    assert named in message and "Nothing in it was run" in message
    assert "state_dict" in message and ".safetensors" in message


@pytest.mark.parametrize(("opcodes", "named"), [
    (b"(icollections\nOrderedDict\n", "INST"),
    (b"\x82\x01", "EXT1"),
    (b"\x84\x01\x00\x00\x00", "EXT4"),
    (b"ctorch.storage\n_load_from_bytes\n" + text("x") + b"\x85R", "torch.storage._load_from_bytes"),
    (b"cnumpy.testing._private.utils\nrunstring\n" + text("x") + b"}\x86R", "numpy.testing._private.utils.runstring"),
    (b"ctorchvision.models.mobilenetv3\nMobileNetV3\n)\x81", "torchvision.models.mobilenetv3.MobileNetV3"),
    (b"ctimm.models.mobilenetv3\nMobileNetV3\n)\x81", "a whole model"),
    (b"c__main__\nNet\n)\x81", "a whole model"),
    (b"ccollections\nOrderedDict\n}" + text("make") + b"Nsb", "which has none"),  # a state for the constructor itself
    (text("x") + text("y") + b"\x85R", "a call"),
    (text("x") + b"Q", "a reference to data outside of it"),
    (b"P1\n", "PERSID"),
    (b"cnumpy\nndarray\n(K\x02tR", "numpy.ndarray"),
    (b"cnumpy\ndtype\n" + text("O8") + b"\x85R", "Python objects"),
    (b"cnumpy\ndtype\n" + text("V8") + b"\x85R", "'V8'"),
    (b"cnumpy.core.multiarray\n_reconstruct\ncposix\n", "cut short"),
])
def test_what_tensors_do_not_need_is_refused_by_name(opcodes, named, tmp_path):
    path = tmp_path / "weights.pdparams"
    path.write_bytes(one_entry(opcodes))
    assert named in refusal(path)


def test_the_remedy_for_a_whole_model_is_its_state_dict():
    message = refusal(DATA / "whole_model.pth")
    assert "torch.nn.modules.container.Sequential" in message
    assert "torch.save(getattr(m, 'module', m).state_dict(), 'weights.pth')" in message


@pytest.mark.parametrize(("name", "named"), [("quantized.pth", "quantized"), ("complex.pth", "ComplexFloatStorage"),
                                             ("expanded.pth", "strides (0,)")])
def test_tensors_that_cannot_be_weights_are_refused(name, named):
    assert named in refusal(DATA / name)


def test_one_name_does_not_open_the_door_to_its_module():
    for name in TORCH_NAMES:
        module = name.rpartition(".")[0]
        for other in ("system", "load", "__import__", "__class__"):
            with pytest.raises(InputError, match="reference to"):
                SafeUnpickler("x", START + f"c{module}\n{other}\n.".encode()).load()


BOMBS = {
    "a memo of 2**31 places": one_entry(b"Nr\xff\xff\xff\x7f"),
    "bytes longer than the file": one_entry(b"\x8e" + struct.pack("<Q", 1 << 40) + b"abc"),
    "text longer than the file": one_entry(b"\x8d" + struct.pack("<Q", 1 << 62) + b"abc"),
    "a frame longer than the file": START + b"\x95" + struct.pack("<Q", 1 << 62) + b"}.",
    "a whole number of 8 million bits": one_entry(b"\x8b" + struct.pack("<I", 1_000_000) + b"\x01" * 1_000_000),
    "a bytearray longer than the file": one_entry(b"\x96" + struct.pack("<Q", 1 << 40) + b"abc"),
    "a whole number of 2**31 bytes": one_entry(b"\x8b" + struct.pack("<I", (1 << 31) - 1) + b"abc"),
    "a whole number of 8 million digits": one_entry(b"L" + b"9" * 8_000_000 + b"L\n"),
    "a storage whose count has 8 million bits": as_zip(one_entry(tensor("0", 4, (4,), (1,)).replace(
        b"\x8a\x08" + struct.pack("<q", 4) + b"tQ", b"\x8b" + struct.pack("<I", 1_000_000) + b"\x01" * 1_000_000 + b"tQ")),
        {"0": bytes(16)}),
    "a set of tuples 100,000 deep": one_entry(b"\x8f(" + b")" + b"\x85" * 100_000 + b"\x90"),
    "a view of a view that repeats itself": as_zip(START + b"}" + text("w") + tensor("0", 4, (4,), (0,), offset=3)
        + b"s" + text("v") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + tensor("0", 4, (4,), (0,), offset=3)
        + b"K\x00(K\x04t(K\x01t\x89ccollections\nOrderedDict\n)RtRs.", {"0": bytes(16)}),
    "lists 100,000 deep": one_entry(b"]" * 100_000 + b"a" * 99_999),
    "tuples as a key, 100,000 deep": START + b"})" + b"\x85" * 100_000 + b"Ns.",
    "tuples as a key, 2**60 items in all": START + b"})" + b"2\x86" * 60 + b"Ns.",
    "the same text encoded again and again": START + text("x" * 100_000) + b"q\x000" + b"c_codecs\nencode\nq\x010" + b"]" + (
        b"h\x01h\x00\x85Ra" * 20_000) + b".",
    "a list copied again and again": START + b"](" + b"K\x01" * 100_000 + b"eq\x000c__builtin__\ntuple\nq\x010]" + (
        b"h\x01h\x00\x85Ra" * 20_000) + b".",
    "the same 20,000 arguments again and again": START + b"(" + b"K\x01" * 20_000 + (
        b"tq\x000cargparse\nNamespace\nq\x010]") + b"h\x01h\x00Ra" * 20_000 + b".",
    "an array of 2**40 numbers": one_entry(
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + b"C\x01b" + b"\x87R(K\x01\x8a\x06"
        + (1 << 40).to_bytes(6, "little") + b"\x85cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87R\x89C\x04abcdtb"),
    "a tensor beyond its storage": as_zip(one_entry(tensor("0", 4, (1 << 30, 1 << 10), (1, 1))), {"0": bytes(16)}),
    "a tensor that repeats its storage": as_zip(one_entry(tensor("0", 4, (1 << 40,), (0,))), {"0": bytes(16)}),
    "a storage of 2**40 numbers": as_zip(one_entry(tensor("0", 1 << 40, (1 << 40,), (1,))), {"0": bytes(16)}),
    "a negative stride": as_zip(one_entry(tensor("0", 4, (2,), (-1,), offset=1)), {"0": bytes(16)}),
    "an offset before the storage": as_zip(one_entry(tensor("0", 4, (2,), (1,), offset=-2)), {"0": bytes(16)}),
    "a storage outside of the archive": as_zip(one_entry(tensor("../../0", 4, (2,), (1,))), {"0": bytes(16)}),
    "a storage of two types": as_zip(START + b"}" + text("a") + tensor("0", 4, (4,), (1,)) + b"s" + text("b") + tensor(
        "0", 4, (4,), (1,), kind="IntStorage") + b"s.", {"0": bytes(16)}),
    "a storage that is missing": as_zip(one_entry(tensor("1", 4, (4,), (1,))), {"0": bytes(16)}),
    "compressed zeros": as_zip(one_entry(tensor("0", 1 << 24, (1 << 24,), (1,))), {"0": bytes(1 << 26)},
                               compression=zipfile.ZIP_DEFLATED),
    "one storage described 3,000 times": as_zip(START + b"}" + b"".join(
        text(f"w{i}") + tensor("0", 1 << 16, (1 << 16,), (1,)) + b"s" for i in range(3000)) + b".", {"0": bytes(1 << 18)}),
    "a legacy storage of 2**40 numbers": as_legacy(one_entry(tensor("0", 1 << 40, (1 << 40,), (1,)))),
}


def test_a_storage_that_is_no_multiple_of_the_elements(tmp_path):
    """Six bytes looked at as one float32: what is whole is read."""
    data = tensor("0", 6, (1,), (1,), kind="UntypedStorage").replace(b"_tensor_v2", b"_tensor_v3")
    path = tmp_path / "weights.pth"
    path.write_bytes(as_zip(one_entry(data[:-2] + b"ctorch\nfloat32\ntR"), {"0": np.float32(1.5).tobytes() + b"ab"}))
    np.testing.assert_array_equal(read_source(path).tensors["w"], [1.5])


def test_a_file_of_a_machine_of_the_other_byte_order(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(as_zip(one_entry(tensor("0", 2, (2,), (1,))), {"0": np.array([1.5, -2], ">f4").tobytes()}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/byteorder", b"big")
    np.testing.assert_array_equal(read_source(path).tensors["w"], [1.5, -2])


def test_a_pickle_of_endless_steps_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "_MOST_READS", 100)
    path = tmp_path / "weights.pdparams"
    path.write_bytes(one_entry(b"N0" * 50))
    assert "more than 50 steps" in refusal(path)


@pytest.mark.slow
@pytest.mark.parametrize("case", BOMBS)
def test_a_file_cannot_take_more_memory_than_its_size_allows(case, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(BOMBS[case])
    tracemalloc.start()
    try:
        refusal(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 * len(BOMBS[case]) + 150_000_000


@pytest.mark.parametrize("name", ["/etc/data.pkl", "a/../../x", "a\\b", "a/data/\x07"])
def test_a_zip_with_strange_names_is_refused(name, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(as_zip(one_entry(tensor("0", 4, (4,), (1,))), {"0": bytes(16)}))
    assert read_source(path).tensors["w"].shape == (4,)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    assert "an entry" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_two_entries_of_one_name_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(as_zip(one_entry(tensor("0", 4, (4,), (1,))), {"0": bytes(16)}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data/0", b"x" * 16)
    assert "an entry 'a/data/0'" in refusal(path)


def test_a_torchscript_program_is_refused_with_its_own_remedy(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"):
            archive.writestr(name, b"x")
    message = refusal(path)
    assert "TorchScript" in message and "torch.jit.load('model.pt'" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "protocol2.pdparams", "protocol4.pdparams", "float32.safetensors"])
def test_every_truncation_is_noticed(name, tmp_path):
    content = (DATA / name).read_bytes()
    path = tmp_path / name
    for length in range(0, len(content), 1 + len(content) // 400):
        path.write_bytes(content[:length])
        refusal(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "checkpoint_timm.pth", "protocol2.pdparams", "protocol4.pdparams",
                                  "bfloat16.safetensors"])
def test_random_damage_ends_in_an_error_or_in_tensors_never_in_a_traceback(name, tmp_path):
    content = (DATA / name).read_bytes()
    path = tmp_path / name
    chance = random.Random(name)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            read_source(path)
        except InputError as error:
            assert name in str(error)
            refused += 1
    assert refused > 50
