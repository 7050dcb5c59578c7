"""Reading .tflite files: what is in them, and files that are none."""

import hashlib
import zipfile

import pytest

from mnv3_tf.errors import InputError
from mnv3_tf.tflite.file import (
    OperatorInfo,
    TensorInfo,
    TfliteFile,
    boundary_quantize_problems,
    bytes_by_dtype,
    float_operators,
    has_dynamic_shapes,
    operator_counts,
    parse_tflite,
    read_tflite,
)


def tensor(index, dtype, constant=False, scales=(), size=0):
    return TensorInfo(index=index, name=f"t{index}", shape=(1, 4), shape_signature=(1, 4), dtype=dtype, scales=scales,
                      zero_points=(0,) * len(scales), quantized_dimension=0, buffer_bytes=size, buffer=index + 1,
                      is_constant=constant)


def operator(index, name, inputs, outputs):
    return OperatorInfo(index=index, name=name, version=1, inputs=inputs, outputs=outputs, fused_activation="NONE",
                        is_custom=False, is_flex=False)


def graph(tensors, operators, inputs, outputs):
    return TfliteFile(path="x", size_bytes=0, sha256="", inputs=tuple(tensors[i] for i in inputs),
                      outputs=tuple(tensors[i] for i in outputs), tensors=tuple(tensors), operators=tuple(operators))


def test_int8_file(files):
    file = read_tflite(files["plain_int8"])
    content = files["plain_int8"].read_bytes()
    assert (file.size_bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert file.graphs == (file,)
    (given,), (result,) = file.inputs, file.outputs
    assert (given.shape, given.dtype, given.zero_points) == ((1, 32, 32, 3), "int8", (-128,))
    assert given.scales[0] == pytest.approx(1.0, abs=1e-5)
    assert (result.shape, result.dtype) == ((1, 40), "int8")
    counts = operator_counts(file)
    assert counts[("CONV_2D", "int8")] == 3
    assert counts[("DEPTHWISE_CONV_2D", "int8")] == 1
    assert {dtype for _, dtype in counts} == {"int8"}
    assert float_operators(file) == ()
    assert boundary_quantize_problems(file) == ()
    assert not has_dynamic_shapes(file)


def test_per_channel_scales_and_fused_activation(files):
    file = read_tflite(files["plain_int8"])
    stem = next(op for op in file.operators if op.name == "CONV_2D")
    assert stem.fused_activation == "RELU6"
    kernel = file.tensors[stem.inputs[1]]
    assert (kernel.shape, kernel.dtype, kernel.is_constant) == ((16, 3, 3, 3), "int8", True)
    assert (len(kernel.scales), kernel.quantized_dimension, kernel.buffer_bytes) == (16, 0, 16 * 27)


def test_bytes_by_dtype_show_whether_a_file_is_quantized(files):
    parameters = 16 * 27 + 16 * 9 + 32 * 16 + 40 * 32
    as_float = bytes_by_dtype(read_tflite(files["plain_float32"]))
    assert 4 * parameters <= as_float["float32"] <= 4 * (parameters + 2 * 104 + 16)
    assert "int8" not in as_float
    as_int8 = bytes_by_dtype(read_tflite(files["plain_int8"]))
    assert parameters <= as_int8["int8"] <= parameters + 16
    assert "float32" not in as_int8
    assert next(iter(as_int8)) == "int8"  # the largest comes first
    assert "float16" in bytes_by_dtype(read_tflite(files["plain_float16"]))


def test_shared_buffers_count_once():
    shared = tensor(0, "int8", constant=True, size=100)
    again = TensorInfo(**{**vars(shared), "index": 1})
    assert bytes_by_dtype(graph([shared, again], [], [], [])) == {"int8": 100}


def test_float_and_hybrid_operators_are_found(files):
    floats = read_tflite(files["plain_float32"])
    assert len(float_operators(floats)) == len(floats.operators)
    dynamic = read_tflite(files["plain_dynamic"])
    assert operator_counts(dynamic)[("CONV_2D", "hybrid")] >= 1
    assert float_operators(dynamic)


def test_quantize_is_allowed_at_the_boundary_only(files):
    outside = read_tflite(files["pixel_float_io"])
    names = [op.name for op in outside.operators]
    assert (names[0], names[-1]) == ("QUANTIZE", "DEQUANTIZE")
    assert boundary_quantize_problems(outside) == ()
    tensors = [tensor(0, "int8"), tensor(1, "int8"), tensor(2, "float32"), tensor(3, "float32"), tensor(4, "int8"),
               tensor(5, "int8")]
    island = graph(tensors, [operator(0, "CONV_2D", (0,), (1,)), operator(1, "DEQUANTIZE", (1,), (2,)),
                             operator(2, "HARD_SWISH", (2,), (3,)), operator(3, "QUANTIZE", (3,), (4,)),
                             operator(4, "CONV_2D", (4,), (5,))], [0], [5])
    problems = boundary_quantize_problems(island)
    assert len(problems) == 2
    assert "operator 1 DEQUANTIZE (int8->float32)" in problems[0]
    assert [op.name for op in float_operators(island)] == ["HARD_SWISH"]
    assert operator_counts(island)[("QUANTIZE", "float32->int8")] == 1


def test_unpacked_float16_weights_are_no_problem(files):
    assert boundary_quantize_problems(read_tflite(files["plain_float16"])) == ()


def test_open_batch(files):
    file = read_tflite(files["open_batch"])
    assert file.inputs[0].shape_signature == (-1, 2, 2, 3)
    assert has_dynamic_shapes(file)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated(files, share):
    content = files["plain_int8"].read_bytes()
    with pytest.raises(InputError, match=r"photo\.tflite: .*truncated or corrupt") as caught:
        parse_tflite(content[:int(len(content) * share)], name="photo.tflite")
    assert "\n" not in str(caught.value)


def test_every_short_cut_of_the_end_is_noticed(files):
    content = files["pixel_float32"].read_bytes()
    for length in range(8, len(content) - 4, max(len(content) // 60, 1)):
        with pytest.raises(InputError):
            parse_tflite(content[:length])


def test_files_that_are_no_tflite(tmp_path):
    (tmp_path / "empty.tflite").write_bytes(b"")
    (tmp_path / "text.tflite").write_text("These are words, and not a model.\n")
    (tmp_path / "pointer.tflite").write_text("version https://git-lfs.example/spec/v1\n")
    (tmp_path / "old.tflite").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    for name in ("model.keras", "bundle.tflite"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("a", "b")
    expected = {"empty.tflite": "empty", "text.tflite": "no TFL3 identifier", "pointer.tflite": "Git LFS", "old.tflite": "HDF5",
                "model.keras": "Keras model.*mnv3 convert", "bundle.tflite": "zip archive",
                "absent.tflite": "No such file"}
    for name, text in expected.items():
        with pytest.raises(InputError, match=text) as caught:
            read_tflite(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(InputError, match="folder"):
        read_tflite(tmp_path)
