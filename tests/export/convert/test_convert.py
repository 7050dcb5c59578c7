"""Conversion: one clean integer file, the same answers whatever its input type, and everything it needs beside it."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.artefacts.card import sidecar
from mnv3_tf.cli.main import main
from mnv3_tf.data import open_dataset
from mnv3_tf.data.batches import ContractPictures
from mnv3_tf.errors import CheckFailed, InputError
from mnv3_tf.export.convert import convert as convert_module
from mnv3_tf.export.convert.convert import check_int8, convert, convert_graph, open_source
from mnv3_tf.export.evaluate.classifier import Classifier
from mnv3_tf.files import read_json, sha256
from mnv3_tf.tflite.file import boundary_quantize_problems, float_operators, parse_tflite, read_tflite
from mnv3_tf.tflite.runtime import LiteRTModel

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def int8_files(qat_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The quantized run as a file of every input type."""
    folder = tmp_path_factory.mktemp("int8")
    source = open_source(qat_run)
    return {io: convert(source, folder / f"{io}.tflite", io=io).path for io in ("uint8", "int8", "float32")}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def test_pixels(pictures: Path, qat_run: Path) -> np.ndarray:
    contract = Classifier(qat_run).contract
    return np.concatenate(list(ContractPictures(open_dataset(pictures).split("test"), contract)))


@pytest.mark.slow
@pytest.mark.parametrize("io", ["uint8", "int8"])
def test_an_integer_file_is_one_partition_without_float(int8_files: dict[str, Path], io: str) -> None:
    model, file = LiteRTModel(int8_files[io]), read_tflite(int8_files[io])
    assert model.partitions == 1
    assert [op for op in model.undelegated_operators if op != "QUANTIZE"] == []
    assert float_operators(file) == () and boundary_quantize_problems(file) == ()
    assert (model.input_dtype, model.output_dtype) == (io, io)
    conversions = [op for op in file.operators if op.name in ("QUANTIZE", "DEQUANTIZE")]
    assert len(conversions) == (2 if io == "uint8" else 0)
    assert {op.name for op in file.operators} <= {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MUL", "MEAN",
                                                  "RESHAPE", "QUANTIZE"}


def test_depthwise_kernels_have_a_scale_per_channel(int8_files: dict[str, Path]) -> None:
    file = read_tflite(int8_files["int8"])
    for op in file.operators:
        if op.name == "DEPTHWISE_CONV_2D":
            kernel = file.tensors[op.inputs[1]]
            assert len(kernel.scales) == kernel.shape[-1] > 1


def test_input_types_do_not_change_the_answer(int8_files: dict[str, Path], test_pixels: np.ndarray) -> None:
    answers = {io: LiteRTModel(path).predict(test_pixels) for io, path in int8_files.items()}
    np.testing.assert_array_equal(answers["uint8"], answers["int8"])
    np.testing.assert_allclose(answers["float32"], answers["int8"], atol=1e-5)


def test_the_file_answers_as_the_quantized_run_in_every_bit(int8_files: dict[str, Path], qat_run: Path,
                                                            test_pixels: np.ndarray) -> None:
    expected = Classifier(qat_run).logits(test_pixels)
    for io in ("int8", "uint8"):
        np.testing.assert_array_equal(LiteRTModel(int8_files[io]).predict(test_pixels), expected)


def test_the_byte_of_a_pixel_is_the_input(int8_files: dict[str, Path]) -> None:
    """uint8 takes the byte, int8 the byte minus 128; both say so with zero point 128 and 0."""
    assert LiteRTModel(int8_files["uint8"]).input_quantization == (pytest.approx(1 / 127.5), 128)
    assert LiteRTModel(int8_files["int8"]).input_quantization == (pytest.approx(1 / 127.5), 0)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["float32", "float16", "dynamic"])
def test_float_formats_answer_as_keras(float_run: Path, test_pixels: np.ndarray, tmp_path: Path, format: str) -> None:
    result = convert(open_source(float_run), tmp_path / "m.tflite", format=format)  # type: ignore[arg-type]
    expected = Classifier(float_run).logits(test_pixels)
    found = LiteRTModel(result.path).predict(test_pixels)
    tolerance = {"float32": 1e-4, "float16": 2e-2, "dynamic": 0.2}[format]
    assert np.abs(found - expected).max() < tolerance * np.ptp(expected)
    assert result.io == "float32"


@pytest.mark.slow
def test_smaller_formats_are_smaller(float_run: Path, int8_files: dict[str, Path], tmp_path: Path) -> None:
    sizes = {format: convert(open_source(float_run), tmp_path / f"{format}.tflite", format=format).size_bytes  # type: ignore[arg-type]
             for format in ("float32", "float16")}
    assert int8_files["int8"].stat().st_size < sizes["float16"] < 0.7 * sizes["float32"]


@pytest.mark.slow
def test_the_native_lowering_has_native_hard_swish(qat_run: Path, int8_files: dict[str, Path], test_pixels: np.ndarray,
                                                   tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its former name too, which is said."""
    path = tmp_path / "native.tflite"
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(qat_run), "--out", str(path), "--lowering", "fused", "--io", "int8"])
    said = capsys.readouterr()
    assert not ended.value.code and "--lowering fused is called native now" in said.err, said.err
    card = read_json(sidecar(path, "card.json"))
    names = [op.name for op in read_tflite(path).operators]
    assert names.count("HARD_SWISH") == 7 and card["partitions"] > 1 and card["lowering"] == "native"
    ours, theirs = (LiteRTModel(path).predict(test_pixels).argmax(axis=1) for path in (int8_files["int8"], path))
    assert (ours == theirs).mean() >= 0.95


def test_what_belongs_to_a_file_lies_beside_it(int8_files: dict[str, Path], qat_run: Path) -> None:
    path = int8_files["uint8"]
    assert sidecar(path, "labels.txt").name == "uint8.labels.txt"
    assert sidecar(path, "labels.txt").read_text() == (qat_run / "labels.txt").read_text()
    assert sidecar(path, "preprocessing.json").read_text() == (qat_run / "preprocessing.json").read_text()
    card = read_json(sidecar(path, "card.json"))
    assert card["file"]["sha256"] == sha256(path) and card["partitions"] == 1
    assert card["parent"]["sha256"] == sha256(qat_run / "quantized.npz")
    assert card["input"] == {"dtype": "uint8", "scale": pytest.approx(1 / 127.5), "zero_point": 128}


def test_int8_needs_a_quantized_run(float_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mnv3 quantize"):
        convert(open_source(float_run), tmp_path / "m.tflite")
    assert not (tmp_path / "m.tflite").exists()


@pytest.mark.parametrize(("out", "changes", "message"), [
    ("m.bin", {}, r"must end in \.tflite"),
    ("m.tflite", {"format": "float16", "io": "uint8"}, "--io uint8 goes with --format int8"),
    ("m.tflite", {"lowering": "unknown"}, "lowering 'unknown' is unknown: choose one of xnnpack, native"),
    ("m.tflite", {"format": "int4"}, "format 'int4' is unknown: choose one of int8, float16, dynamic, float32"),
    ("m.tflite", {"io": "int16"}, "io 'int16' is unknown: choose one of uint8, int8, float32"),
])
def test_impossible_wishes_are_refused(qat_run: Path, tmp_path: Path, out: str, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(open_source(qat_run), tmp_path / out, **changes)


@pytest.mark.parametrize(("name", "message"), [("missing.keras", "no such"), ("m.tflite", r"a \.tflite file already"),
                                               ("empty", "neither model.keras nor")])
def test_sources_that_are_none(tmp_path: Path, name: str, message: str) -> None:
    if name == "empty":
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / name)


@pytest.mark.slow
def test_a_hybrid_file_does_not_pass_the_gate(float_run: Path) -> None:
    """Weights alone in 8 bits is no int8 file, however small it is."""
    content = convert_graph(open_source(float_run).graph, None, format="dynamic", io="float32", lowering="native")
    assert any("computes in float" in line for line in check_int8(parse_tflite(content), LiteRTModel(content), "xnnpack"))


def test_a_file_that_fails_the_gate_is_not_written(qat_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid = convert_graph(open_source(qat_run).graph, None, format="dynamic", io="float32", lowering="native")
    monkeypatch.setattr(convert_module, "convert_graph", lambda *args, **kwargs: hybrid)
    with pytest.raises(CheckFailed, match="computes in float"):
        convert(open_source(qat_run), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_answers_otherwise_is_not_written(qat_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that is clean, int8 and one partition, and wrong: its classes have changed places."""
    source = open_source(qat_run)
    order = [2, 0, 1]
    moved = dataclasses.replace(source.graph, ops=tuple(
        dataclasses.replace(op, kernel=op.kernel[..., order], bias=op.bias[order])  # type: ignore[index]
        if op.name == "classifier" else op for op in source.graph.ops))
    wrong = convert_graph(moved, source.ranges, format="int8", io="uint8", lowering="xnnpack")
    monkeypatch.setattr(convert_module, "convert_graph", lambda *args, **kwargs: wrong)
    with pytest.raises(CheckFailed, match="does not answer like the quantized Keras network"):
        convert(source, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_constant_answer_is_said(qat_run: Path, tmp_path: Path) -> None:
    """A file whose gates were calibrated on nothing answers one class to everything; the warning names it.

    So does one for a run that was calibrated on nothing.
    """
    shutil.copytree(qat_run, tmp_path / "run")
    (tmp_path / "run" / "calibration.json").write_text('{"remarks": ["calibrated for a smoke test only: noise"]}')
    source = open_source(tmp_path / "run")
    assert source.ranges is not None
    crushed = {name: (low, high) if name.endswith("hard_sigmoid") else (low * 1e-3, high * 1e-3)
               for name, (low, high) in source.ranges.items() if name != "classifier"} | {
                   "classifier": source.ranges["classifier"]}
    result = convert(dataclasses.replace(source, ranges=crushed), tmp_path / "m.tflite")
    assert result.warnings[0] == "calibrated for a smoke test only: noise"
    assert any("to every test pattern" in warning for warning in result.warnings)
