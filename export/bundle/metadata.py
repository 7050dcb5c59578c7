"""TFLite Model Metadata (schema M001): written into a `.tflite` file so that Google's tools can read it, and read back.

Source of the format: metadata_schema.fbs of TFLite Support and MediaPipe; tables are written by the positions of their fields
there. Associated files lie as a ZIP archive behind the flatbuffer, as the format asks.
"""

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np

from mnv3_tf.errors import InputError

NAME = b"TFLITE_METADATA"
IDENTIFIER = b"M001"
# The oldest parser that knows all that is written here.
_MIN_PARSER = "1.0.0"
_RGB, _IMAGE, _FEATURE, _NORMALIZATION = 1, 2, 1, 1
_AXIS_LABELS = 2
# TFLite wants its constants on such borders.
_ALIGNMENT = 16


@dataclass(frozen=True)
class Metadata:
    """What the metadata says.

    Attributes:
        name, description, version, author, license: of the model.
        mean, std: a float32 pixel enters as (pixel - mean) / std; the bytes of a uint8 input enter as they are.
        input_range, output_range: (least, greatest) value.
        labels_file: name of the associated file with a line for each output.
        output_name: of the scores.
    """

    name: str
    description: str
    version: str
    author: str
    license: str
    mean: float
    std: float
    input_range: tuple[float, float]
    output_range: tuple[float, float]
    labels_file: str = "labels.txt"
    output_name: str = "score"


class AlignedBuilder(flatbuffers.Builder):
    """A builder whose byte vectors lie on the borders that TFLite asks for."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:
        return super().StartVector(elemSize, numElems, _ALIGNMENT if elemSize == 1 else alignment)

    def CreateNumpyVector(self, x: np.ndarray) -> Any:
        if x.dtype.itemsize != 1:
            return super().CreateNumpyVector(x)
        return self.CreateByteVector(x.tobytes())

    def CreateByteVector(self, x: bytes) -> Any:
        self.StartVector(1, len(x), _ALIGNMENT)
        self.head = int(self.head) - len(x)  # type: ignore[has-type]
        self.Bytes[self.head:self.head + len(x)] = x
        self.vectorNumElems = len(x)
        return self.EndVector()


def add_metadata(content: bytes, metadata: Metadata, labels: Sequence[str]) -> bytes:
    """A `.tflite` file with metadata, and the labels as an associated file, in place of what it carried of these.

    Args:
        content: the file.
        metadata: what to say.
        labels: one for each output.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    packed = np.frombuffer(pack_metadata(metadata), np.uint8)
    entry = next((entry for entry in model.metadata or [] if entry.name == NAME), None)
    if entry is None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = NAME, len(model.buffers)
        model.buffers.append(schema.BufferT())
        model.metadata = [*(model.metadata or []), entry]
    model.buffers[entry.buffer].data = packed
    return with_files(pack_model(model), {metadata.labels_file: "".join(f"{label}\n" for label in labels).encode()})


def pack_model(model: Any) -> bytes:
    """The bytes of a `ModelT`."""
    builder = AlignedBuilder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
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


def pack_metadata(metadata: Metadata) -> bytes:
    """The metadata flatbuffer."""
    builder = flatbuffers.Builder(1024)
    labels = _table(builder, 5, {0: builder.CreateString(metadata.labels_file),
                                 1: builder.CreateString("A class in each line, in the order of the outputs.")},
                    bytes_={2: _AXIS_LABELS})
    image = _table(builder, 4, {
        0: builder.CreateString("image"),
        1: builder.CreateString("RGB picture, prepared as preprocessing.json says."),
        3: _content(builder, _IMAGE, _table(builder, 2, {}, bytes_={0: _RGB})),
        4: _offsets(builder, [_normalization(builder, metadata)]),
        5: _stats(builder, metadata.input_range)}, fields=7)
    scores = _table(builder, 4, {
        0: builder.CreateString(metadata.output_name), 1: builder.CreateString("A score for each class."),
        3: _content(builder, _FEATURE, _table(builder, 0, {})), 5: _stats(builder, metadata.output_range),
        6: _offsets(builder, [labels])}, fields=7)
    graph = _table(builder, 10, {2: _offsets(builder, [image]), 3: _offsets(builder, [scores])})
    root = _table(builder, 8, {
        0: builder.CreateString(metadata.name), 1: builder.CreateString(metadata.description),
        2: builder.CreateString(metadata.version), 3: _offsets(builder, [graph]), 4: builder.CreateString(metadata.author),
        5: builder.CreateString(metadata.license), 7: builder.CreateString(_MIN_PARSER)})
    builder.Finish(root, IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, fields_count: int, offsets: dict[int, int], *, bytes_: dict[int, int] | None = None,
           fields: int | None = None) -> int:
    builder.StartObject(fields or fields_count)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in (bytes_ or {}).items():
        builder.PrependInt8Slot(slot, value, 0)
    return int(builder.EndObject())


def _offsets(builder: flatbuffers.Builder, items: Sequence[int]) -> int:
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        builder.PrependUOffsetTRelative(item)
    return int(builder.EndVector())


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    return int(builder.CreateNumpyVector(np.asarray(values, np.float32)))


def _content(builder: flatbuffers.Builder, kind: int, properties: int) -> int:
    builder.StartObject(3)
    builder.PrependUint8Slot(0, kind, 0)
    builder.PrependUOffsetTRelativeSlot(1, properties, 0)
    return int(builder.EndObject())


def _normalization(builder: flatbuffers.Builder, metadata: Metadata) -> int:
    options = _table(builder, 2, {0: _floats(builder, [metadata.mean]), 1: _floats(builder, [metadata.std])})
    builder.StartObject(2)
    builder.PrependUint8Slot(0, _NORMALIZATION, 0)
    builder.PrependUOffsetTRelativeSlot(1, options, 0)
    return int(builder.EndObject())


def _stats(builder: flatbuffers.Builder, ends: tuple[float, float]) -> int:
    return _table(builder, 2, {0: _floats(builder, [ends[1]]), 1: _floats(builder, [ends[0]])})


# Reading ----------------------------------------------------------------------------------------------------------------


def read_metadata(content: bytes) -> dict[str, Any] | None:
    """What the metadata of a file says, as :class:`Metadata` has it; None where it carries none.

    Raises:
        InputError: it is damaged.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    entry = next((entry for entry in model.metadata or [] if entry.name == NAME), None)
    if entry is None:
        return None
    try:
        data = model.buffers[entry.buffer].data
        return _read(bytes(np.asarray(data, np.uint8).tobytes()))
    except Exception as error:  # flatbuffers raises struct.error, IndexError, TypeError and its own
        raise InputError(f"the metadata of the model is damaged ({type(error).__name__}).") from error


def _read(data: bytes) -> dict[str, Any]:
    from flatbuffers import encode, number_types, table

    if data[4:8] != IDENTIFIER:
        raise ValueError("no identifier")

    def at(position: int) -> Any:
        return table.Table(data, position)

    def field(of: Any, slot: int) -> int:
        return int(of.Offset(4 + 2 * slot))

    def text(of: Any, slot: int) -> str:
        place = field(of, slot)
        return of.String(place + of.Pos).decode() if place else ""

    def child(of: Any, slot: int) -> Any:
        place = field(of, slot)
        return at(of.Indirect(place + of.Pos)) if place else None

    def children(of: Any, slot: int) -> list[Any]:
        place = field(of, slot)
        if not place:
            return []
        start = of.Vector(place)
        return [at(of.Indirect(start + 4 * i)) for i in range(of.VectorLen(place))]

    def floats(of: Any, slot: int) -> list[float]:
        place = field(of, slot) if of is not None else 0
        if not place:
            return []
        vector = of.GetVectorAsNumpy(number_types.Float32Flags, place)
        return [float(value) for value in vector]

    root = at(encode.Get(number_types.UOffsetTFlags.packer_type, data, 0))
    graph = children(root, 3)[0]
    image, scores = children(graph, 2)[0], children(graph, 3)[0]
    options = child(children(image, 4)[0], 1) if children(image, 4) else None
    files = children(scores, 6)
    return {"name": text(root, 0), "description": text(root, 1), "version": text(root, 2), "author": text(root, 4),
            "license": text(root, 5), "mean": floats(options, 0), "std": floats(options, 1),
            "input_range": [*floats(child(image, 5), 1), *floats(child(image, 5), 0)],
            "output_range": [*floats(child(scores, 5), 1), *floats(child(scores, 5), 0)],
            "labels_file": text(files[0], 0) if files else "", "output_name": text(scores, 0)}


def misaligned_buffers(content: bytes) -> int:
    """How many constants of a file do not lie on the border that TFLite asks for."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    reader: Callable[[int], Any] = model.Buffers
    wrong = 0
    for index in range(model.BuffersLength()):
        buffer = reader(index)
        place = buffer._tab.Offset(4)
        if place and buffer.DataLength():
            wrong += buffer._tab.Vector(place) % _ALIGNMENT != 0
    return wrong
