"""TFLite Model Metadata (schema M001): written into a `.tflite` file so that Google's tools can read it, and read back.

Source of the format: metadata_schema.fbs of TFLite Support and MediaPipe, for which no package that is installed has a module.
Associated files lie as a ZIP archive behind the flatbuffer, as the format asks.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import encode, number_types
from flatbuffers.table import Table

from mnv3_tf.errors import InputError
from mnv3_tf.export.bundle.contract import LABELS
from mnv3_tf.tflite.file import IDENTIFIER, TFLITE_METADATA, parse_tflite, unpack_model

METADATA_IDENTIFIER = b"M001"
# What is used of the schema: table -> field -> its place, and "text", "byte", "floats", a table, or a list of a table. Members of
# a union are fields of their own at one place; the byte before says which it is.
_TABLES: dict[str, dict[str, tuple[int, Any]]] = {
    "Model": {"name": (0, "text"), "description": (1, "text"), "version": (2, "text"), "graphs": (3, ["Graph"]),
              "author": (4, "text"), "license": (5, "text"), "min_parser_version": (7, "text")},
    "Graph": {"inputs": (2, ["Tensor"]), "outputs": (3, ["Tensor"])},
    "Tensor": {"name": (0, "text"), "description": (1, "text"), "content": (3, "Content"), "process_units": (4, ["ProcessUnit"]),
               "stats": (5, "Stats"), "files": (6, ["File"])},
    "Content": {"type": (0, "byte"), "feature": (1, "Feature"), "image": (1, "Image")},
    "Feature": {},
    "Image": {"color_space": (0, "byte")},
    "ProcessUnit": {"type": (0, "byte"), "normalization": (1, "Normalization")},
    "Normalization": {"mean": (0, "floats"), "std": (1, "floats")},
    "Stats": {"max": (0, "floats"), "min": (1, "floats")},
    "File": {"name": (0, "text"), "description": (1, "text"), "type": (2, "byte")},
}
_FEATURE, _IMAGE, _NORMALIZATION, _RGB, _AXIS_LABELS = 1, 2, 1, 1, 2
_TEXTS = ("name", "description", "version", "author", "license")
# TFLite wants its constants on such borders.
_ALIGNMENT = 16


class AlignedBuilder(flatbuffers.Builder):
    """A builder whose byte vectors lie on the borders that TFLite asks for."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:
        return super().StartVector(elemSize, numElems, _ALIGNMENT if elemSize == 1 else alignment)


def add_metadata(content: bytes, labels: Sequence[str], *, about: Mapping[str, str], mean: float, std: float,
                 output_range: tuple[float, float], output_name: str) -> bytes:
    """A `.tflite` file with metadata, and the labels as an associated file, in place of what it carried of these.

    Args:
        content: the file.
        labels: one for each output.
        about: name, description, version, author and license of the model.
        mean, std: a float32 pixel enters as (pixel - mean) / std; the bytes of a uint8 input enter as they are.
        output_range: (least, greatest) value.
        output_name: of the scores.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = unpack_model(content)
    entry = next((entry for entry in model.metadata or [] if entry.name == TFLITE_METADATA.encode()), None)
    if entry is None:
        entry = schema.MetadataT(TFLITE_METADATA.encode(), len(model.buffers))
        model.buffers.append(schema.BufferT())
        model.metadata = [*(model.metadata or []), entry]
    picture = {
        "name": "image", "description": "RGB picture, prepared as preprocessing.json says.",
        "content": {"type": _IMAGE, "image": {"color_space": _RGB}}, "stats": {"min": [0.0], "max": [255.0]},
        "process_units": [{"type": _NORMALIZATION, "normalization": {"mean": [mean], "std": [std]}}]}
    scores = {
        "name": output_name, "description": "A score for each class.", "content": {"type": _FEATURE, "feature": {}},
        "stats": {"min": [output_range[0]], "max": [output_range[1]]},
        "files": [{"name": LABELS, "description": "A class in each line, in the order of the outputs.", "type": _AXIS_LABELS}]}
    builder = flatbuffers.Builder(1024)
    # The oldest parser that knows all that is written here is 1.0.0.
    root = _write(builder, "Model", {**{key: about[key] for key in _TEXTS}, "min_parser_version": "1.0.0",
                                     "graphs": [{"inputs": [picture], "outputs": [scores]}]})
    builder.Finish(root, METADATA_IDENTIFIER)
    model.buffers[entry.buffer].data = np.frombuffer(bytes(builder.Output()), np.uint8)
    return with_files(pack_model(model), {LABELS: "".join(f"{label}\n" for label in labels).encode()})


def pack_model(model: Any) -> bytes:
    """The bytes of a `ModelT`."""
    builder = AlignedBuilder(1024)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def with_files(content: bytes, files: dict[str, bytes]) -> bytes:
    """A flatbuffer with an archive of files behind it. The same input gives the same bytes on any day."""
    store = io.BytesIO()
    store.write(content)
    with zipfile.ZipFile(store, "a", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return store.getvalue()


def associated_files(content: bytes) -> dict[str, bytes]:
    """The files behind a flatbuffer; nothing where there is no archive.

    Raises:
        InputError: the archive is damaged.
    """
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise InputError(f"the associated files of the model are damaged ({error}).") from error


def _write(builder: flatbuffers.Builder, table: str, values: Mapping[str, Any]) -> int:
    """Writes a table of the schema, what it holds first; returns its place."""
    made = []
    for name, value in values.items():
        slot, kind = _TABLES[table][name]
        if kind == "text":
            value = builder.CreateString(value)
        elif kind == "floats":
            value = builder.CreateNumpyVector(np.asarray(value, np.float32))
        elif isinstance(kind, list):
            items = [_write(builder, kind[0], item) for item in value]
            builder.StartVector(4, len(items), 4)
            for item in reversed(items):
                builder.PrependUOffsetTRelative(item)
            value = builder.EndVector()
        elif kind != "byte":
            value = _write(builder, kind, value)
        made.append((slot, kind, value))
    builder.StartObject(max((slot for slot, _, _ in made), default=-1) + 1)
    for slot, kind, value in made:
        (builder.PrependInt8Slot if kind == "byte" else builder.PrependUOffsetTRelativeSlot)(slot, value, 0)
    return int(builder.EndObject())


def read_metadata(content: bytes) -> dict[str, Any] | None:
    """What the metadata of a file says, under the names of :func:`add_metadata`; None where it carries none.

    Raises:
        InputError: it is damaged.
    """
    data = parse_tflite(content).metadata.get(TFLITE_METADATA)
    if data is None:
        return None
    try:
        if data[4:8] != METADATA_IDENTIFIER:
            raise ValueError("no identifier")
        root = _read(Table(data, encode.Get(number_types.UOffsetTFlags.packer_type, data, 0)), "Model")
        image, scores = root["graphs"][0]["inputs"][0], root["graphs"][0]["outputs"][0]
    except Exception as error:  # flatbuffers raises struct.error, IndexError, TypeError and its own
        raise InputError(f"the metadata of the model is damaged ({type(error).__name__}).") from error
    normalization, files = image.get("process_units", [{}])[0].get("normalization", {}), scores.get("files", [{}])
    ends = [[*stats.get("min", []), *stats.get("max", [])] for stats in (image.get("stats", {}), scores.get("stats", {}))]
    return {**{key: root.get(key, "") for key in _TEXTS}, "mean": normalization.get("mean", []),
            "std": normalization.get("std", []), "input_range": ends[0], "output_range": ends[1],
            "labels_file": files[0].get("name", ""), "output_name": scores.get("name", "")}


def _read(at: Table, table: str) -> dict[str, Any]:
    """The fields of a table that are there."""
    found: dict[str, Any] = {}
    for name, (slot, kind) in _TABLES[table].items():
        offset = at.Offset(4 + 2 * slot)
        if not offset:
            continue
        place = offset + at.Pos
        if kind == "text":
            found[name] = at.String(place).decode()
        elif kind == "byte":
            found[name] = at.Get(number_types.Int8Flags, place)
        elif kind == "floats":
            found[name] = at.GetVectorAsNumpy(number_types.Float32Flags, offset).tolist()
        elif isinstance(kind, list):
            start = at.Vector(offset)
            found[name] = [_read(Table(at.Bytes, at.Indirect(start + 4 * i)), kind[0]) for i in range(at.VectorLen(offset))]
        else:
            found[name] = _read(Table(at.Bytes, at.Indirect(place)), kind)
    return found
