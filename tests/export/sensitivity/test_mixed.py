"""Mixed files: float exactly in the blocks that are left float, clean int8 elsewhere, one partition, the network's answers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.artefacts.card import sidecar
from mnv3_tf.artefacts.run_folder import RunFolder
from mnv3_tf.data import open_dataset
from mnv3_tf.data.batches import ContractPictures
from mnv3_tf.errors import CheckFailed, InputError
from mnv3_tf.export.convert import convert as convert_module
from mnv3_tf.export.convert.convert import Converted, Convertible, check_int8, convert, convert_graph, open_source
from mnv3_tf.export.convert.placement import place
from mnv3_tf.export.evaluate.classifier import Classifier
from mnv3_tf.export.sensitivity import mixed as mixed_module
from mnv3_tf.export.sensitivity.mixed import analyse_run, measure_cost
from mnv3_tf.files import read_json
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.layer_names import block_of
from mnv3_tf.progress import Silent
from mnv3_tf.quantization.calibration import calibrate
from mnv3_tf.quantization.fake_quantized import LoweredNetwork
from mnv3_tf.quantization.fold import trace
from mnv3_tf.quantization.graph import leave_float, load_graph
from mnv3_tf.quantization.lowering import lower
from mnv3_tf.tflite.file import TfliteFile, operator_counts, operator_dtype, parse_tflite, read_tflite
from mnv3_tf.tflite.runtime import LiteRTModel

pytestmark = pytest.mark.usefixtures("loaded_once")

FLOAT = ("block_01", "block_03", "classifier")


@pytest.fixture(scope="module")
def source(qat_run: Path) -> Convertible:
    """The quantized run with three blocks left float: with squeeze-and-excite, with a residual, and of one convolution."""
    plain = open_source(qat_run)
    return dataclasses.replace(plain, graph=leave_float(plain.graph, FLOAT))


@pytest.fixture(scope="module")
def converted(source: Convertible, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return convert(source, tmp_path_factory.mktemp("mixed") / "mixed.tflite")


@pytest.fixture(scope="module")
def mixed_file(converted: Converted) -> Path:
    return converted.path


@pytest.fixture(scope="module")
def network_logits(source: Convertible, test_pixels: np.ndarray) -> np.ndarray:
    return LoweredNetwork(lower(source.graph), source.ranges).logits(test_pixels)


@pytest.fixture(scope="module")
def test_pixels(pictures: Path, source: Convertible) -> np.ndarray:
    return np.concatenate(list(ContractPictures(open_dataset(pictures).split("test"), source.contract)))


def kernel_dtypes(file: TfliteFile, source: Convertible) -> dict[str, set[str]]:
    """By block: what its convolutions compute in and what their kernels are stored in."""
    placed = place(file, lower(source.graph))
    assert not isinstance(placed, str), placed
    found: dict[str, set[str]] = {}
    for item in placed:
        if item.op.kind in ("conv", "depthwise"):
            kernel = file.tensors[item.operator.inputs[1]]
            found.setdefault(block_of(item.op.name), set()).update((operator_dtype(file, item.operator), kernel.dtype))
    return found


def test_convolutions_are_float_in_their_blocks_and_int8_elsewhere(mixed_file: Path, source: Convertible) -> None:
    assert kernel_dtypes(read_tflite(mixed_file), source) == {
        block: {"float32"} if block in FLOAT else {"int8"} for block in source.graph.blocks}


def test_a_mixed_file_is_one_partition_with_conversions_at_the_borders(mixed_file: Path) -> None:
    model, counts = LiteRTModel(mixed_file), operator_counts(read_tflite(mixed_file))
    assert model.partitions == 1 and set(model.undelegated_operators) == {"QUANTIZE"}
    assert (model.input_dtype, model.output_dtype) == ("uint8", "uint8")
    assert {key: count for key, count in counts.items() if key[0] in ("QUANTIZE", "DEQUANTIZE")} == {
        ("QUANTIZE", "uint8->int8"): 1, ("QUANTIZE", "int8->uint8"): 1, ("DEQUANTIZE", "int8->float32"): 3,
        ("QUANTIZE", "float32->int8"): 3}
    assert not any(dtype == "hybrid" for _, dtype in counts)


def test_a_mixed_file_answers_as_its_network(mixed_file: Path, test_pixels: np.ndarray, network_logits: np.ndarray) -> None:
    model = LiteRTModel(mixed_file)
    found = model.predict(test_pixels)
    assert (found.argmax(axis=1) == network_logits.argmax(axis=1)).mean() >= 0.97
    assert np.abs(found - network_logits).mean() < 3 * model.output_quantization[0]


@pytest.mark.slow
@pytest.mark.parametrize("io", ["int8", "float32"])
def test_input_types_do_not_change_the_answer(mixed_file: Path, source: Convertible, test_pixels: np.ndarray, tmp_path: Path,
                                              io: str) -> None:
    result = convert(source, tmp_path / "m.tflite", io=io)  # type: ignore[arg-type]
    assert result.partitions == 1
    found, expected = (LiteRTModel(path).predict(test_pixels) for path in (result.path, mixed_file))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_the_fused_lowering_may_be_mixed_too(source: Convertible, tmp_path: Path) -> None:
    result = convert(source, tmp_path / "fused.tflite", lowering="native")
    names = {key: count for key, count in operator_counts(read_tflite(result.path)).items() if key[0] == "HARD_SWISH"}
    assert names == {("HARD_SWISH", "int8"): 5, ("HARD_SWISH", "float32"): 2}


@pytest.mark.slow
def test_a_stem_of_one_convolution_stays_float() -> None:
    """Between two quantized tensors the converter quantizes whatever it can; the negation keeps it away."""
    import keras

    keras.utils.set_random_seed(0)
    graph = trace(MobileNetV3("small_minimalistic", input_shape=(32, 48, 3), alpha=0.25, classes=3))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3)).astype(np.uint8)
    ranges, mixed = calibrate(graph, [pixels]).ranges, leave_float(graph, ["stem"])
    content = convert_graph(mixed, ranges, format="int8", io="int8", lowering="xnnpack")
    assert check_int8(parse_tflite(content), LiteRTModel(content), "xnnpack", mixed) == []
    found, expected = LiteRTModel(content).predict(pixels), LoweredNetwork(lower(mixed), ranges).logits(pixels)
    assert np.abs(found - expected).mean() < 0.02 * np.ptp(expected)
    stem = next(op for op in parse_tflite(content).operators if op.name == "CONV_2D")
    assert operator_dtype(parse_tflite(content), stem) == "float32"


def test_the_gate_allows_float_in_the_declared_blocks_alone(mixed_file: Path, source: Convertible, qat_run: Path) -> None:
    content = mixed_file.read_bytes()
    model, plain = LiteRTModel(content), open_source(qat_run).graph
    problems = check_int8(parse_tflite(content), model, "xnnpack", plain)
    assert any("computes in float" in line for line in problems)
    assert any("inside the graph" in line for line in problems)
    # One block more is float than declared; the negation in front of the classifier is as declared.
    fewer = check_int8(parse_tflite(content), model, "xnnpack", leave_float(plain, ["block_01", "classifier"]))
    assert "the operation block_03_expand is float32 and should be int8" in fewer and all("block_01" not in p for p in fewer)
    # One block fewer is.
    more = check_int8(parse_tflite(content), model, "xnnpack", leave_float(plain, [*FLOAT, "block_04"]))
    assert "the operation block_04_expand is int8 and should be float32" in more


@pytest.mark.slow
def test_a_file_that_is_not_as_declared_is_not_written(source: Convertible, qat_run: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    plain = convert_graph(open_source(qat_run).graph, source.ranges, format="int8", io="uint8", lowering="xnnpack")
    monkeypatch.setattr(convert_module, "convert_graph", lambda *args, **kwargs: plain)
    with pytest.raises(CheckFailed, match="operations where the network has"):
        convert(source, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_the_card_and_a_warning_name_the_float_blocks(converted: Converted) -> None:
    assert read_json(sidecar(converted.path, "card.json"))["float_blocks"] == list(FLOAT)
    assert "left float, as the run says: block_01, block_03, classifier" in converted.warnings


@pytest.fixture(scope="module")
def analysed(qat_run: Path, float_run: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> mixed_module.Analysis:
    out = tmp_path_factory.mktemp("analysis") / "mixed"
    return analyse_run(qat_run, pictures, out, against=float_run, float_blocks=["block_03", "stem"], progress=Silent())


@pytest.mark.slow
def test_a_recipe_becomes_a_run_that_can_be_converted(analysed: mixed_module.Analysis, qat_run: Path, float_run: Path,
                                                      test_pixels: np.ndarray, tmp_path: Path) -> None:
    assert analysed.run is not None
    run = RunFolder(analysed.run)
    graph, _ = load_graph(run.quantized)
    assert graph.float_blocks == ("stem", "block_03") and run.labels() == RunFolder(qat_run).labels()
    card = read_json(run.card)
    assert card["float_blocks"] == ["stem", "block_03"] and card["parent"]["run"] == str(float_run.resolve())
    assert card["quantized_parent"]["run"] == str(qat_run.resolve()) and card["metrics"]["test"]["top1"] >= 0.9
    file = convert(open_source(run.path), tmp_path / "m.tflite")
    found, expected = LiteRTModel(file.path).predict(test_pixels), Classifier(run.path).logits(test_pixels)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.97


@pytest.mark.slow
def test_what_was_measured_is_written(analysed: mixed_module.Analysis) -> None:
    assert analysed.run is not None and analysed.cost is not None and analysed.refused == ""
    assert [file.name for file in analysed.cost.files] == ["int8", "mixed", "float32"]
    assert [(row.file, row.baseline) for row in analysed.cost.ratios] == [
        ("mixed", "int8"), ("float32", "int8"), ("mixed", "float32")]
    assert all(row.low <= row.ratio <= row.high for row in analysed.cost.ratios)
    sizes = {file.name: file.size_bytes for file in analysed.cost.files}
    assert sizes["int8"] < sizes["mixed"] < sizes["float32"]
    written = read_json(analysed.run / "sensitivity.json")
    assert written["recipe"]["float_blocks"] == ["stem", "block_03"] and len(written["sensitivity"]["blocks"]) == 7
    assert written["cost"]["files"][1]["partitions"] == 1
    assert (analysed.run / "sensitivity.png").read_bytes()[:4] == b"\x89PNG"


def test_the_cost_of_a_refused_file_is_not_measured(source: Convertible, qat_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid = convert_graph(open_source(qat_run).graph, None, format="dynamic", io="float32", lowering="native")
    monkeypatch.setattr(convert_module, "convert_graph", lambda *args, **kwargs: hybrid)
    with pytest.raises(CheckFailed, match="not be a clean int8 file"):
        measure_cost(open_source(qat_run), source, Silent())


@pytest.mark.parametrize(("changes", "message"), [
    ({"float_blocks": ["blok_03"]}, "'blok_03' is not a block.*did you mean 'block_03'"),
    ({"float_blocks": ["stem"], "blocks": 2}, "--blocks and --float-blocks were both given"),
    ({"float_blocks": []}, "names no block"), ({"blocks": 8}, "has 7 blocks, so 1 to 7"),
    ({"quantized_run": "m.tflite"}, r"m\.tflite: is a \.tflite file"),
    ({"quantized_run": "{float}"}, "is a float run"), ({"out": "{quantized}"}, "already holds files"),
    ({"against": "{quantized}"}, "is not a float run"),
])
def test_wrong_wishes_are_refused_at_once(qat_run: Path, float_run: Path, pictures: Path, tmp_path: Path, changes: dict,
                                          message: str) -> None:
    changes = {key: value.format(float=float_run, quantized=qat_run) if isinstance(value, str) else value
               for key, value in changes.items()}
    arguments = {"quantized_run": qat_run, "data": pictures, "out": tmp_path / "out", "against": float_run} | changes
    with pytest.raises(InputError, match=message):
        analyse_run(**arguments, progress=Silent())
    assert not (tmp_path / "out").exists()
