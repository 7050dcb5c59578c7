"""`mnv3 inspect` as a user and a script meet it."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mnv3_tf.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", *map(str, arguments)])
    text = capsys.readouterr()
    return int(stopped.value.code or 0), text.out, text.err


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the standard recipe makes of two hard-swishes."""
    import keras

    from benchmarks.peers.keras_applications import convert_model_standard
    from mnv3_tf.data.synthetic import synthetic_pictures

    x = pixels = keras.Input((32, 32, 3))
    for width in (8, 16):
        x = keras.layers.Activation("hard_silu")(keras.layers.Conv2D(width, 3, strides=2)(x))
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x))
    path = tmp_path_factory.mktemp("standard") / "standard.tflite"
    path.write_bytes(convert_model_standard(model, "int8", synthetic_pictures(8, 32)))
    return path


@pytest.mark.slow
def test_our_file_for_a_person_and_for_a_script(small_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, small_file, "--require", "int8", "--require", "one-partition")
    assert code == 0, err
    assert f"{small_file}: int8 throughout" in out and "1 XNNPACK partition, 2 operators outside" in out
    assert "no conversion" in out and "times smaller than as float32" in out and "TFLite metadata: no" in out
    code, out, _ = run(capsys, small_file, "--json", "--threads", 2)
    facts = json.loads(out)
    assert set(facts) == {
        "file", "size_bytes", "sha256", "kind", "partitions", "refused", "problems", "inputs", "outputs", "operators", "outside",
        "float_islands", "stray_conversions", "dynamic_shapes", "custom_operators", "constant_bytes", "float32_bytes", "graphs",
        "signatures", "metadata", "tflite_metadata", "required", "failures"}
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


def foreign(operators: list[tuple[str, int]]) -> bytes:
    """A small float file: operators in a row, each a custom one of a name or a builtin one of a number."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.operatorCodes, model.buffers, model.subgraphs = 3, [], [schema.BufferT()], [graph]
    graph.tensors, graph.operators, graph.name = [], [], b"main"
    for number in range(len(operators) + 1):
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer, tensor.name = [1, 4], schema.TensorType.FLOAT32, 0, b"[red]t%d" % number
        graph.tensors.append(tensor)
    for number, (name, builtin) in enumerate(operators):
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        code.customCode = name.encode() or None
        operator.opcodeIndex, operator.inputs, operator.outputs = number, [number], [number + 1]
        model.operatorCodes.append(code)
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [0], [len(operators)]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


ABS, CUSTOM = 101, 32


@pytest.mark.slow
@pytest.mark.parametrize(("name", "remedy"), [("Strange", "the app must register it"), ("FlexErf", "without SELECT_TF_OPS")])
def test_an_operator_that_the_runtime_does_not_know(name: str, remedy: str, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(foreign([("", ABS), (name, CUSTOM)]))
    code, out, err = run(capsys, path)
    assert code == 0 and err == "" and out.splitlines()[:2] == [f"{path}: float32", "not run"]
    line, = (line for line in out.splitlines() if line.startswith("- "))
    assert remedy in line and "ABS" in out and f"Custom operators: {name}" in out
    # Names of a file are not taken for markup.
    assert "[red]t0" in out
    code, _, err = run(capsys, path, "--require", "one-partition")
    assert code == 3 and remedy in err and len(err.strip().splitlines()) == 1


def test_the_verdict_comes_first_and_tables_fit_into_80_columns(standard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, standard)
    lines = out.splitlines()
    verdict, partitions, problem = lines[:3]
    tables = lines[3:next(number for number, line in enumerate(lines) if line.startswith("Constants:"))]
    assert any("HARD_SWISH" in line for line in tables) and max(map(len, tables)) <= 80
    assert verdict.endswith(": int8 throughout") and partitions.startswith("3 XNNPACK partitions") and problem.startswith("- ")


@pytest.mark.slow
def test_damaged_files_end_in_one_line(standard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A handful goes through the child; many more are parsed in tests/export."""
    whole, path = standard.read_bytes(), tmp_path / "m.tflite"
    rng = random.Random(1)
    codes: list[int] = []
    while codes.count(0) < 4 or codes.count(2) < 4:
        content = bytearray(whole[:rng.randrange(len(whole))] if len(codes) % 4 == 0 else whole)
        for _ in range(0 if len(codes) % 4 == 0 else rng.choice((1, 6))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        code, out, err = run(capsys, path)
        assert code in (0, 2) and "Traceback" not in out + err
        assert (out == "" and err.startswith("Error: ") and len(err.splitlines()) == 1) if code else err == ""
        codes.append(code)


def test_neither_tensorflow_nor_keras_is_imported(tmp_path: Path) -> None:
    """And nothing that takes long for --help."""
    path = tmp_path / "m.tflite"
    path.write_bytes(foreign([("", ABS)]))
    script = ("import sys\nfrom mnv3_tf.cli.main import main\n"
              "try: main(['inspect', *sys.argv[2:]])\n"
              "except SystemExit as stopped: assert not stopped.code, stopped.code\n"
              "heavy = set(sys.argv[1].split(',')) & set(sys.modules)\n"
              "assert not heavy, heavy")
    for heavy, arguments in (("tensorflow,keras,tf_keras,jax", [str(path)]),
                             ("tensorflow,keras,tf_keras,jax,numpy,rich,ai_edge_litert", ["--help"])):
        done = subprocess.run([sys.executable, "-c", script, heavy, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_requirement_that_does_not_exist(standard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, standard, "--require", "int4")
    assert code == 2 and out == "" and "'int4' is not one of" in err
