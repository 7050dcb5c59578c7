"""`mnv3 diff` as a user and a script meet it."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mnv3_tf.cli.main import main

pytestmark = pytest.mark.usefixtures("loaded_once")


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0), out.getvalue(), err.getvalue()


def test_two_runs(ptq_run: Path, qat_run: Path) -> None:
    code, out, err = run("diff", ptq_run, qat_run)
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[:2] == [f"A: {ptq_run} (quantized run)", f"B: {qat_run} (quantized run)"]
    assert "  method: ptq -> qat" in lines and "Weights" in lines and "Activation ranges" in lines
    assert any(line.startswith("  ... and ") for line in lines)
    assert any(line.startswith("Equal: class names, preprocessing") for line in lines)


@pytest.mark.slow
def test_nothing_differs(float_run: Path) -> None:
    code, out, _ = run("diff", float_run, float_run)
    assert code == 0 and "A and B are identical in everything compared: kind, class names, " in out


def test_json(float_run: Path, ptq_run: Path) -> None:
    code, out, err = run("diff", float_run, ptq_run, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["a"] == {"path": str(float_run), "kind": "float run"} and found["identical"] is False
    assert found["relations"] == ["B was quantized from A."]
    assert found["groups"][0] == {"heading": "Kind", "sentences": ["A is a float run, B is a quantized run"]}
    assert "metrics" in found["compared"]


@pytest.mark.parametrize(("other", "message"), [("{tmp}/none", "there is no such run folder or file"),
                                                ("{run}/config.yaml", "is not a run folder, .keras or .tflite file")])
def test_mistakes_are_one_clear_line(other: str, message: str, float_run: Path, tmp_path: Path) -> None:
    code, out, err = run("diff", float_run, other.format(tmp=tmp_path, run=float_run))
    assert code == 2 and out == "" and err.startswith("Error: ") and message in err and len(err.splitlines()) == 1


def test_two_files_are_compared_without_tensorflow(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.tflite").write_bytes(b"\0\0\0\0TFL3 and nothing more")
    script = ("import sys; from mnv3_tf.cli.main import main\n"
              "try: main(['diff', *sys.argv[1:]])\n"
              "except SystemExit: pass\n"
              "heavy = {'tensorflow', 'keras', 'tf_keras', 'jax'} & set(sys.modules)\n"
              "assert not heavy, heavy")
    files = [str(tmp_path / f"{name}.tflite") for name in ("a", "b")]
    done = subprocess.run([sys.executable, "-c", script, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
