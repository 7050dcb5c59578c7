"""What the kit does not read is named for what it is, with the way out, and by every command that may be given it."""

import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mnv3_tf.artefacts.open import open_artefact
from mnv3_tf.errors import InputError
from mnv3_tf.tflite.file import read_tflite
from mnv3_tf.weights.formats.foreign import describe
from mnv3_tf.weights.importing import import_weights


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protobuf message of varints and bytes, up to 127 of either."""
    return b"".join(bytes([number << 3, value]) if isinstance(value, int) else bytes([number << 3 | 2, len(value)]) + value
                    for number, value in fields)


NODE = message((1, b"input"), (2, b"Placeholder"))
ONNX = message((1, 8), (2, b"pytorch"), (3, b"2.1"), (7, message((1, b""))))
PARAMS = bytes(16) + struct.pack("<I", 6) + b"\x08\x05\x10\x01\x10\x02" + bytes(8)
# Name -> content, words of the message.
FILES: dict[str, tuple[bytes, str]] = {
    "graph.bin": (message((1, NODE), (1, NODE)), "a frozen graph of TensorFlow"),
    "frozen.pb": (message((1, NODE)), "a frozen graph of TensorFlow"),
    "saved_model.pb": (message((1, 1), (2, message((1, message((2, b"x")))))), "a SavedModel of TensorFlow"),
    "model.ckpt-5.index": (bytes(4), "a checkpoint of TensorFlow"),
    "old_checkpoint": (bytes(60) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "a checkpoint of TensorFlow"),
    "model.ckpt-5.data-00000-of-00001": (bytes(4), "a checkpoint of TensorFlow"),
    "model.ckpt-5.meta": (b"\n\x05", "a checkpoint of TensorFlow"),
    "inference.pdiparams": (PARAMS, "an exported Paddle model"), "params_without_a_name": (PARAMS, "an exported Paddle model"),
    "inference.pdmodel": (message((1, message((1, 0), (2, 1), (3, b"x")))), "an exported Paddle model"),
    "inference.json": (b'{"base_code":{"magic":"pir","version":1}}', "an exported Paddle model"),
    "m.pdopt": (b"\x80\x02}", "the optimizer's state"), "m.onnx": (ONNX, "an ONNX model"), "m.data": (ONNX, "an ONNX model"),
    "m.mlmodel": (message((1, 4), (2, b"")) + bytes([0xa2, 0x1f, 0]), "a Core ML model"),
    "ov.xml": (b'<?xml version="1.0"?>\n<net name="m" version="11">', "an OpenVINO model"),
    "m.gguf": (b"GGUF\x03\0\0\0", "a GGUF"), "m.npy": (b"\x93NUMPY\x01\0", "NumPy array"),
    "model.json": (b'{"format": "graph-model", "modelTopology": {}}', "--from tfjs"),
    "group1-shard1of3.bin": (b"\x01\x02\x03\xff", "--from tfjs"),
    "arch.json": (b'{"class_name": "Functional", "config": {}}', "structure without its weights"),
    "model.safetensors.index.json": (b'{"metadata": {}, "weight_map": {}}', "list of a model's files"),
    "graph.pbtxt": (b'node {\n  name: "x"\n}', "as text, without weights"), "m.pte": (b"\x20\0\0\0ET12", "an ExecuTorch program"),
    "m.param": (b"7767517\n", "an ncnn model"), "m.engine": (b"\x01\xfe\x03", "a TensorRT engine"),
    "x.msgpack": (b"\x81\xa6", "Flax"), "x.weights": (bytes(20), "Darknet"),
}


def refusals(path: Path) -> list[str]:
    """What import-weights and the commands that open models say."""
    found = []
    for origin in (None, "keras", "torchvision", "paddle"):
        with pytest.raises(InputError) as caught:
            import_weights(path, origin)
        found.append(str(caught.value))
    for reader in (open_artefact, read_tflite):
        if path.exists():
            with pytest.raises(InputError) as caught:
                reader(path)
            found.append(str(caught.value))
    assert all(text.startswith(f"{path}: ") and "\n" not in text for text in found)
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_framework_is_named_by_every_command(name: str, tmp_path: Path) -> None:
    content, words = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert all(words in text for text in refusals(path)), refusals(path)


def test_a_checkpoint_is_known_by_its_prefix(tmp_path: Path) -> None:
    for end in ("index", "data-00000-of-00001"):
        (tmp_path / f"model.ckpt-540000.{end}").write_bytes(bytes(4))
    (tmp_path / "other.index").write_text("")
    for text in refusals(tmp_path / "model.ckpt-540000"):
        assert "a checkpoint of TensorFlow" in text and "v3-large_224_1.0_float.tflite" in text
    assert describe(tmp_path / "model.ckpt") == describe(tmp_path / "oth") == describe(tmp_path / "none" / "x") == ""
    assert "a folder with a checkpoint" in describe(tmp_path)


def folder_of(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
    return make


@pytest.mark.parametrize(("names", "words"), [
    (["saved_model.pb", "variables/variables.index"], "a SavedModel"),
    (["inference.pdmodel", "inference.pdiparams"], "exported Paddle"),
    (["Manifest.json", "Data/x"], "Core ML"), (["model.json", "group1-shard1of1.bin"], "--from tfjs"),
    (["data.pkl", "version", "data/0"], "unpacked file of torch.save"), (["config.json", "model.weights.h5"], "unpacked .keras"),
    (["config.json", "model.safetensors"], "such as model.safetensors"), (["m.xml", "m.bin"], "OpenVINO"),
    (["readme.md"], "a folder")])
def test_a_folder_is_named(names: list[str], words: str, tmp_path: Path) -> None:
    folder_of(*names)(tmp_path)
    with pytest.raises(InputError) as caught:
        import_weights(tmp_path, "keras")
    assert words in str(caught.value)


def test_archives_say_what_is_in_them(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"x" * 600)
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.write(tmp_path / "w.pth", "inner/w.pth")
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        tar.add(tmp_path / "w.pth", "inner/w.pth")
    with tarfile.open(tmp_path / "w.tgz", "w:gz") as tar:
        tar.add(tmp_path / "w.pth", "inner/w.pth")
    for name, words in (("w.zip", "a zip archive that holds inner/w.pth"), ("w.tar", "a tar archive that holds inner/w.pth"),
                        ("w.tgz", "a compressed file; unpack it first")):
        with pytest.raises(InputError, match=words):
            import_weights(tmp_path / name, "torchvision")


@pytest.mark.parametrize(("content", "words"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 5\n", "Git LFS"), (b"<!DOCTYPE html><html>", "a web page"),
    (b"", "empty")])
@pytest.mark.parametrize("name", ["m.tflite", "m.keras"])
def test_a_download_that_failed_is_said_of_models_too(content: bytes, words: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_tflite(tmp_path / name)
    if name == "m.keras":
        with pytest.raises(InputError, match=words):
            _ = open_artefact(tmp_path / name).model


def test_a_whole_hdf5_file_is_not_said_to_be_cut(tmp_path: Path) -> None:
    for name, open_it in (("m.hdf5", open_artefact), ("m.keras", lambda path: open_artefact(path).model)):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = np.ones(3)
        with pytest.raises(InputError) as caught:
            open_it(tmp_path / name)
        assert "truncated" not in str(caught.value) and "import-weights" in str(caught.value)


def test_what_is_read_is_not_called_foreign(tmp_path: Path, small_file: Path, small_runs: Path) -> None:
    for path in (*(Path(__file__).parent / "data").iterdir(), small_file, small_runs / "float" / "model.keras"):
        if path.suffix in (".pth", ".pdparams", ".safetensors", ".h5", ".keras", ".tflite"):
            assert describe(path) == "", path
    (tmp_path / "w.json").write_text(json.dumps({"a": 1}))
    assert describe(tmp_path / "w.json") == "" and describe(tmp_path / "nothing") == ""


def test_random_bytes_are_nothing_and_raise_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "w"
    for _ in range(300):
        path.write_bytes(random.integers(0, 256, random.integers(1, 200), dtype=np.uint8).tobytes())
        describe(path)
