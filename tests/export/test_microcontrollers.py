"""tflite-micro and Vela: what they print, recorded, and the tools themselves where they are installed."""

import json
from importlib import resources, util
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from mnv3_tf.cli.main import main
from mnv3_tf.export import microcontrollers
from mnv3_tf.export.microcontrollers import EthosURun, MicroRun, compared, read_arena, read_refusal, read_vela

RECORDED = Path(__file__).parent / "vela"
needs_tools = pytest.mark.skipif(not (util.find_spec("tflite_micro") and util.find_spec("ethosu")),
                                 reason="NOT TESTED, the tools are not installed: pip install tflite-micro ethos-u-vela")


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def test_what_vela_printed_of_a_file_with_float_ends() -> None:
    """As Vela 5.2.0 printed it."""
    printed, table = ((RECORDED / f"pixel_float_io.{kind}").read_text() for kind in ("txt", "csv"))
    found = read_vela(printed, table, "ethos-u55-128", "5.2.0")
    assert found == EthosURun(
        "5.2.0", "ethos-u55-128", "",
        ("DEQUANTIZE of Identity (Unsupported opType)",
         "QUANTIZE of tfl.quantize (Operation has tensor with unsupported DataType Float32)"),
        npu_operators=1, cpu_operators=2, sram_bytes=64, estimated_cycles=115,
        settings="Ethos_U55_High_End_Embedded, Shared_Sram, 500 MHz")
    assert found.failures() == ["2 operators not on ethos-u55-128: DEQUANTIZE of Identity (Unsupported opType), QUANTIZE of "
                                "tfl.quantize (Operation has tensor with unsupported DataType Float32)"]


def test_what_vela_printed_of_a_file_that_it_refuses() -> None:
    printed = ("Traceback (most recent call last):\n  File \"vela.py\"\nRuntimeError: Compilation failed: Error: HARD_SWISH "
               "'stem' Does not have valid TFLite Semantics.\n - IFM has to be 8bit\n   IFM type=FLOAT32, \nFailed to parse "
               "TFLite file\n")
    assert read_vela(printed, "", "ethos-u55-128", "5.2.0").failures() == [
        "Vela does not compile it for ethos-u55-128: HARD_SWISH 'stem' Does not have valid TFLite Semantics. - IFM has to be "
        "8bit IFM type=FLOAT32, Failed to parse TFLite file"]


def test_what_tflite_micro_printed() -> None:
    assert read_refusal(["tensorflow/lite/micro/kernels/conv_common.cc Hybrid models are not supported on TFLite Micro.",
                         "Node CONV_2D (number 6) failed to prepare with status 1"]) == (
        "Hybrid models are not supported on TFLite Micro. Node CONV_2D (number 6) failed to prepare with status 1")
    assert read_arena(["[RecordingMicroAllocator] Arena allocation total 308032 bytes",
                       "[RecordingMicroAllocator] Arena allocation head 196608 bytes"]) == 308032
    assert read_arena([]) is None


def test_outputs_that_differ() -> None:
    zeros = np.zeros(4, np.int8)
    assert compared([zeros, zeros], [zeros, zeros]) == ""
    other = zeros + np.int8([0, 1, 0, 0])
    assert compared([zeros, zeros], [zeros, other]) == "1 of 8 output bytes are not the reference kernels'"
    one = np.ones(1, np.float32)
    assert compared([one], [one * np.float32(1.00001)]) == "" != compared([one], [one * np.float32(1.1)])
    assert MicroRun("1", differs="x").failures() == ["x"]


@pytest.mark.parametrize(("words", "package"), [
    (["inspect", "--require", "micro"], "tflite-micro"), (["inspect", "--require", "ethos-u"], "ethos-u-vela"),
    (["benchmark", "--target", "host,micro"], "tflite-micro"), (["benchmark", "--target", "ethos-u"], "ethos-u-vela")])
def test_a_tool_that_is_not_installed(words: list[str], package: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
                                      capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(microcontrollers.util, "find_spec", lambda name: None)
    assert command(*words, files["pixel_int8"]) == 4
    printed, errors = capfd.readouterr()
    assert printed == "" and errors == (f"Error: {package} is not installed, and this runs it. Install it: pip install {package} "
                                        "(the extra `micro`).\n")


@needs_tools
def test_the_tools_as_requirements(files: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert command("inspect", files["plain_int8"], "--require", "micro", "--require", "ethos-u", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["failures"] == [] and found["micro"]["arena_bytes"] > 1000
    assert found["ethos_u"]["npu_operators"] > 0 == found["ethos_u"]["cpu_operators"]
    assert command("inspect", files["plain_dynamic"], "--require", "micro", "--require", "ethos-u") == 3
    printed, errors = capfd.readouterr()
    assert "tflite-micro does not run it: Hybrid models are not supported" in errors
    assert "operators not on ethos-u55-128: RESHAPE of Identity" in errors and "operators not on" in printed


@needs_tools
def test_the_tools_as_targets(files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark", files["plain_int8"], files["swish_int8"]]
    assert command(*words, "--target", "micro,ethos-u:ethos-u85-256", "--json", "--out", tmp_path, "--gate",
                   "arena_bytes < 1e6", "--gate", "estimated_cycles < 1e9 @ ethos-u") == 0
    found = json.loads(capfd.readouterr().out)
    schema = json.loads((resources.files("mnv3_tf.export.benchmark") / "schema.json").read_text())
    for row in found["records"]:
        jsonschema.validate(row, schema)
        assert row["median_ms"] is None and row["arena_bytes"] > 0
    assert [row["target"] for row in found["records"]] == ["micro"] * 2 + ["ethos-u:ethos-u85-256"] * 2
    assert [row["runner"] for row in found["records"]] == ["tflite-micro"] * 2 + ["vela"] * 2
    assert {entry["verdict"].split(" ", 1)[1] for entry in found["device_comparisons"] if entry["verdict"] != "baseline"} == {
        "bytes of arena", "cycles by Vela's estimate"}
    assert command(*words, "--target", "ethos-u:ethos-u99") == 2
    assert "Vela knows no such accelerator. Give one of ethos-u55-32," in capfd.readouterr().err
