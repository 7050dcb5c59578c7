"""`mnv3 inspect` as a user and a script meet it."""

import json
from pathlib import Path

import pytest

from mnv3_tf.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", *map(str, arguments)])
    text = capsys.readouterr()
    return int(stopped.value.code or 0), text.out, text.err


@pytest.fixture(scope="module")
def tflite(qat_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mnv3_tf.export.convert import convert, open_source

    return convert(open_source(qat_run), tmp_path_factory.mktemp("inspect") / "m.tflite").path


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the standard recipe makes of two hard-swishes."""
    import keras

    from mnv3_tf.export.reference import convert_model_standard, synthetic_pictures

    x = pixels = keras.Input((32, 32, 3))
    for width in (8, 16):
        x = keras.layers.Activation("hard_silu")(keras.layers.Conv2D(width, 3, strides=2)(x))
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x))
    path = tmp_path_factory.mktemp("standard") / "standard.tflite"
    path.write_bytes(convert_model_standard(model, "int8", synthetic_pictures(8, 32)))
    return path


def test_our_file_for_a_person_and_for_a_script(tflite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, tflite, "--require", "int8", "--require", "one-partition")
    assert code == 0, err
    assert f"{tflite}: int8 throughout" in out and "1 XNNPACK partition, 2 operators outside" in out
    assert "no conversion" in out and "times smaller than as float32" in out
    code, out, _ = run(capsys, tflite, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["kind"] == "int8 throughout" and facts["partitions"] == 1 and facts["problems"] == []
    assert {"CONV_2D", "MUL", "ADD"} <= {entry["name"] for entry in facts["operators"]}
    assert facts["inputs"][0]["dtype"] == "uint8" and facts["outputs"][0]["scale"] > 0 and facts["failures"] == []
    assert set(facts["constant_bytes"]) == {"int8", "int32"} and facts["float_islands"] == []


def test_the_gate_exits_with_3(standard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, standard)
    assert code == 0 and err == "" and "HARD_SWISH" in out and "3 XNNPACK partitions" in out
    code, out, err = run(capsys, standard, "--require", "one-partition", "--json")
    assert code == 3 and "3 XNNPACK partitions instead of one" in err and len(err.strip().splitlines()) == 1
    assert json.loads(out)["failures"]


@pytest.mark.parametrize(("content", "words"), [
    (b"", "is empty"), (b"PK\x03\x04 and more", "zip archive"), (b"\x1c\x00\x00\x00TFL3", "truncated or corrupt"),
    (b"some text, and no model", "not a TFLite file")])
def test_what_is_no_file_is_one_line(content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    code, out, err = run(capsys, path)
    assert code == 2 and out == "" and words in err and str(path) in err and len(err.strip().splitlines()) == 1


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, tmp_path / "none.tflite")
    assert code == 2 and "none.tflite: cannot be read" in err
