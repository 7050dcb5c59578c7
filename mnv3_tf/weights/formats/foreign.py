"""Names what this kit does not read for what it is, with the way out: other frameworks' exports, checkpoints, archives, pages.

A look at the first bytes, the name, and what lies beside it; nothing is unpacked or run.

Sources: the field numbers of the public `.proto` files (onnx.proto, saved_model.proto, graph.proto, framework.proto of Paddle,
Model.proto of Core ML), and the magic numbers in each format's own documentation.
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

_HEAD = 1 << 16
_TRAINED = "Give what it was exported from"
_PADDLE = ("an exported Paddle model (for inference), whose tensors are renamed and folded. Give the .pdparams of its training, "
           "with --from paddle")
_FROZEN = "TensorFlow's converter makes a .tflite of it, which --from tflite takes"
_SLIM = "TF-slim's MobileNetV3 archives hold a .tflite too (v3-large_224_1.0_float.tflite), which --from tflite takes"
_CHECKPOINT = (f"a checkpoint of TensorFlow 1 or tf.train, not of Keras. {_SLIM}; of a Keras model, save "
               "model.save_weights('x.weights.h5')")
_SAVED_MODEL = f"a SavedModel of TensorFlow. {_FROZEN}: tf.lite.TFLiteConverter.from_saved_model(FOLDER).convert(). {_SLIM}"
_TFJS = "a TensorFlow.js model. Give its model.json, with --from tfjs"
_CORE_ML = f"a Core ML model. {_TRAINED}: a .pth of torch or a .keras of Keras"
_OPENVINO = f"an OpenVINO model. {_TRAINED}: a .pth of torch, a .pdparams of Paddle or a .tflite"
_WEIGHTS = (".pth", ".pt", ".bin", ".safetensors", ".pdparams", ".h5", ".hdf5", ".keras", ".tflite")
# Formats without a mark of their own, by the ends of their names.
_SUFFIXES = {
    ".pdiparams": _PADDLE, ".pdmodel": _PADDLE, ".pdiparams.info": _PADDLE, "__params__": _PADDLE, "__model__": _PADDLE,
    ".pdopt": "the optimizer's state of Paddle, not weights. Give the .pdparams beside it",
    ".nb": f"a Paddle Lite model. {_TRAINED}: the .pdparams of its training",
    ".onnx": f"an ONNX model. {_TRAINED}: a .pth of torch, a .pdparams of Paddle, a .keras of Keras or a .tflite",
    ".mlmodel": _CORE_ML, ".mlpackage": _CORE_ML, ".blob": _OPENVINO, ".ckpt.meta": _CHECKPOINT, ".meta": _CHECKPOINT,
    ".index": _CHECKPOINT, ".engine": f"a TensorRT engine. {_TRAINED}", ".plan": f"a TensorRT engine. {_TRAINED}",
    ".trt": f"a TensorRT engine. {_TRAINED}", ".mnn": f"an MNN model. {_TRAINED}", ".param": f"an ncnn model. {_TRAINED}",
    ".pte": f"an ExecuTorch program. {_TRAINED}: a .pth of torch", ".rknn": f"an RKNN model. {_TRAINED}",
    ".caffemodel": f"a Caffe model. {_TRAINED}", ".weights": f"weights of Darknet. {_TRAINED}",
    ".msgpack": "weights of Flax (msgpack). Save them as .safetensors, by the names of torchvision, timm or Paddle",
    ".pb": f"a graph of TensorFlow. {_FROZEN}. {_SLIM}", ".pbtxt": f"a graph of TensorFlow as text, without weights. {_SLIM}",
}
_MAGIC = (
    *((mark, f"a GGUF or GGML file, for llama.cpp. {_TRAINED}") for mark in (b"GGUF", b"ggml", b"lmgg")),
    (b"\x93NUMPY", "a single NumPy array. Save all tensors by name, as .safetensors"),
    (b"7767517", f"an ncnn model. {_TRAINED}"), (b"RKNN", f"an RKNN model. {_TRAINED}"),
    (b"\x28\xb5\x2f\xfd", "a compressed file (zstd); unpack it first"), (b"Rar!", "a RAR archive; unpack it first"),
)


def describe(path: str | Path) -> str:
    """What a file, folder or prefix of files is, with the way out; "" where it is none of the kinds that are known here, and for
    weights that :func:`mnv3_tf.weights.formats.read.read_source` reads.

    Args:
        path: of something, or the prefix of a TensorFlow checkpoint (``model.ckpt-540000``).
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        beside = path.parent.is_dir() and any(re.fullmatch(r"\.(index|meta|data-\d+-of-\d+)", name[len(path.name):])
                                              for name in _names(path.parent) if name.startswith(path.name))
        return _CHECKPOINT if path.name and beside else ""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            file.seek(max(0, path.stat().st_size - 48))
            end = file.read()
    except OSError:
        return ""
    return _bytes(head, end) or _zip(path, head) or _name(path, head)


def no_model(content: bytes) -> str:
    """What a file is that no model is: empty, a pointer, a page, an archive; "" where it may be one."""
    start = content[:512].lstrip().lower()
    if not content:
        return "an empty file; download it again"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`, or with the site's download button"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not weights; the download gave an error page or a page about the file, so take its direct link"
    if content[257:262] == b"ustar":
        held = re.search(rb"[\w./-]+\.(?:pth|pt|bin|safetensors|pdparams|h5|hdf5|keras|tflite|pb|index)\b", content[:8192])
        return (f"a tar archive{f' that holds {held.group().decode()}' if held else ''}; unpack it first (a model of torch "
                "before 0.4 must be saved again by a newer torch)")
    if content.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")):
        return "a compressed file; unpack it first"
    return ""


def _names(folder: Path) -> list[str]:
    try:
        return sorted(item.name for item in folder.iterdir())
    except OSError:
        return []


def _folder(path: Path) -> str:
    names = _names(path)
    ends = {Path(name).suffix for name in names}
    if {"saved_model.pb", "saved_model.pbtxt"} & set(names):
        return f"the folder of {_SAVED_MODEL}"
    if ".pdmodel" in ends or ".pdiparams" in ends or "__model__" in names:
        return f"the folder of {_PADDLE}"
    if path.suffix == ".mlpackage" or {"Manifest.json", "Data"} <= set(names):
        return _CORE_ML
    if "model.json" in names:
        return f"the folder of {_TFJS}"
    if "data.pkl" in names and "data" in names:
        return ("an unpacked file of torch.save. Give the file itself (some systems unpack downloads), or zip this again, "
                "uncompressed")
    if {"config.json", "model.weights.h5"} <= set(names):
        return "an unpacked .keras file. Give model.weights.h5 in it, or zip it again"
    if "model.keras" in names or "quantized.npz" in names:
        return "a run folder of this kit, which needs no import"
    if ".index" in ends and any(".data-" in name for name in names):
        return f"a folder with {_CHECKPOINT}"
    if any(name.endswith(".xml") and f"{name[:-4]}.bin" in names for name in names):
        return _OPENVINO
    found = [name for name in names if name.endswith(_WEIGHTS)]
    return f"a folder; the file of weights in it is needed, such as {found[0]}" if found else ""


def _bytes(head: bytes, end: bytes) -> str:
    """By what is written in a file."""
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    if head[4:8] in (b"ET12", b"ET13"):
        return _SUFFIXES[".pte"]
    text = head[:4096].decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if text.startswith("<") and re.search(r"<net\s+name=", text):
        return _OPENVINO
    if text.startswith("{"):
        if '"modelTopology"' in text or '"weightsManifest"' in text:
            return _TFJS
        if '"weight_map"' in text:
            return "the list of a model's files, not weights. Save them in one .safetensors file"
        if re.search(r'"magic"\s*:\s*"pir"', text):
            return _PADDLE
        if re.search(r'"class_name"\s*:\s*"(Functional|Sequential|Model)"', text):
            return "a Keras model's structure without its weights. Give the .keras or .h5 file of model.save"
    if re.match(r"node\s*\{|graph_def\s*\{|saved_model_schema_version", text):
        return _SUFFIXES[".pbtxt"]
    if end.endswith(b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"):  # the table that TensorFlow keeps its checkpoints in
        return _CHECKPOINT
    if head[:16] == bytes(16) and head[20:21] == b"\x08" and 0 < int.from_bytes(head[16:20], "little") < 256:
        return _PADDLE
    return _protobuf(head)


def _protobuf(head: bytes) -> str:
    """By the numbers of a message's fields, and of those of its first part."""
    fields = list(_fields(head))
    numbers = [number for number, _, _ in fields]
    kinds = dict(zip(numbers, (kind for _, kind, _ in fields), strict=True))
    if not fields:
        return ""
    if numbers[0] == 1 and kinds[1] == 2:
        inner = list(_fields(fields[0][2]))
        if [(number, kind) for number, kind, _ in inner[:2]] == [(1, 2), (2, 2)] and inner[1][2].isalnum():
            return f"a frozen graph of TensorFlow (GraphDef). {_FROZEN}. {_SLIM}"
        if [(number, kind) for number, kind, _ in inner[:3]] == [(1, 0), (2, 0), (3, 2)]:
            return _PADDLE
    if numbers[0] != 1 or kinds[1] != 0:
        return ""
    if any(number >= 200 for number in numbers):
        return _CORE_ML
    if set(numbers) == {1, 2} and kinds[2] == 2 and fields[0][2] == b"\x01":
        return _SAVED_MODEL
    return _SUFFIXES[".onnx"] if kinds.get(7) == 2 or {2, 3} <= set(numbers) else ""


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number, wire type and value of a message's fields, as far as the bytes reach; nothing where they are no message."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            started = place
            _, place = _varint(data, place)
            value = data[started:place]
        elif kind in (1, 5):
            value = data[place:place + (8 if kind == 1 else 4)]
            place += len(value)
        elif kind == 2:
            size, place = _varint(data, place)
            value, place = data[place:place + size], place + size
        else:
            return
        if number == 0 or place < 0:
            return
        yield number, kind, value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if not byte & 128:
            return value, place
    return 0, len(data)


def _zip(path: Path, head: bytes) -> str:
    if not head.startswith(b"PK"):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ""
    if any(name.endswith("/data.pkl") or name == "model.weights.h5" for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz). Save its tensors as .safetensors, by the names of torchvision, timm or Paddle"
    found = next((name for name in names if name.lower().endswith(_WEIGHTS)), None)
    if found:
        return f"a zip archive that holds {found}. Unpack it and give that file"
    if any(name.endswith(("saved_model.pb", ".pdmodel", ".onnx", ".pb", ".index", "Manifest.json")) for name in names):
        return f"a zip archive that holds {next(name for name in names if not name.endswith('/'))}. Unpack it first"
    return ""


def _name(path: Path, head: bytes) -> str:
    if no_model(head) or head.startswith((b"PK\x03\x04", b"\x89HDF")) or head[4:8] == b"TFL3":
        return ""  # the readers say it, whatever the name
    if re.search(r"\.data-\d+-of-\d+$", path.name):
        return _CHECKPOINT
    if re.search(r"-shard\d+of\d+(\.bin)?$", path.name):
        return f"a part of {_TFJS}"
    if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
        return _OPENVINO
    if path.suffix == ".bin" and path.with_suffix(".param").is_file():
        return _SUFFIXES[".param"]
    return next((what for end, what in _SUFFIXES.items() if path.name.lower().endswith(end)), "")
