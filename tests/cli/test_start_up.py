"""Commands that need no TensorFlow start without it, and the others load it quietly."""

import subprocess
import sys
from pathlib import Path

import pytest

from mnv3_tf.cli import options
from mnv3_tf.cli.main import main

HEAVY = ("tensorflow", "keras", "tf_keras", "jax")
# What stands in braces is a path of the fixture `places`.
COMMANDS = {
    "predict": "predict {file} {picture}",
    "evaluate": "evaluate {file} --data {pictures}",
    "evaluate --against": "evaluate {file} --data {pictures} --against {file}",
    "summary": "summary {file}",
    "summary of a quantized run": "summary {quantized}",
    "inspect": "inspect {file}",
    "diff": "diff {file} {other}",
    "diff with a run": "diff {file} {quantized}",
    "bundle": "bundle {file} --out {new}",
    "bundle --scores": "bundle {file} --out {new} --scores --data {pictures}",
    "bundle --check": "bundle --check {bundle}",
    "benchmark": "benchmark {file} --runs 1 --rounds 1 --warmup 0 --min-seconds 0 --out {new}",
    "report": "report {results} --out {new}",
    "compare": "compare {results} {results}",
    "doctor": "doctor",
}


@pytest.fixture(scope="module")
def places(small_file: Path, small_runs: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file, pictures, and what commands made of them."""
    folder = tmp_path_factory.mktemp("start_up")
    other = folder / "other.tflite"  # with bytes behind the model, which change nothing
    other.write_bytes(small_file.read_bytes() + bytes(16))
    for words in (["bundle", small_file, "--out", folder / "bundle"],
                  ["benchmark", small_file, "--runs", 4, "--rounds", 4, "--min-seconds", 0, "--out", folder / "results"]):
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        assert stopped.value.code == 0
    return {"file": small_file, "other": other, "quantized": small_runs / "ptq", "pictures": pictures,
            "picture": pictures / "test" / "red" / "red_0.png", "bundle": folder / "bundle", "results": folder / "results"}


def loaded_by(code: str, *arguments: object) -> str:
    """Which of the heavy packages are loaded at the end of a Python process that ended well."""
    script = f"import sys\n{code}\nprint('\\nloaded:', *sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].removeprefix("loaded:").strip()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_needs_no_tensorflow_imports_none(command: str, places: dict[str, Path], tmp_path: Path) -> None:
    words = [word.format(**places, new=tmp_path / "new") for word in COMMANDS[command].split()]
    assert loaded_by("from mnv3_tf.cli.main import main\n"
                     "try: main(sys.argv[1:])\n"
                     "except SystemExit as stopped: assert not stopped.code, stopped.code", *words) == ""


def test_the_child_of_inspect_imports_none(small_file: Path) -> None:
    assert loaded_by("import mnv3_tf.child, pathlib; from mnv3_tf.export.inspection.worker import run_here\n"
                     "run_here(pathlib.Path(sys.argv[1]).read_bytes(), 1, True)", small_file) == ""


def test_the_package_imports_none() -> None:
    assert loaded_by("import mnv3_tf, mnv3_tf.data, mnv3_tf.config") == ""


@pytest.mark.parametrize(("models", "needed"), [
    (["run"], True), (["quantized"], True), (["m.keras"], True), (["m.tflite", "run"], True), (["m.tflite", None], False),
    (["missing.keras"], False), (["missing"], False), (["pictures"], False), (["run/model.txt"], False)])
def test_tensorflow_is_loaded_quietly_for_what_it_opens(models: list[str | None], needed: bool, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run/model.keras", "run/model.txt", "quantized/quantized.npz", "m.keras", "m.tflite", "pictures/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    calls: list[bool] = []
    monkeypatch.setattr(options, "quiet_libraries", lambda: calls.append(True))
    options.quiet_libraries_for(*(None if model is None else str(tmp_path / model) for model in models))
    assert calls == [True] * needed


def test_what_keras_imports_for_nothing_is_hidden_only_then() -> None:
    with options.hidden("json", "turtle"):
        import json  # noqa: F401  # imported before, and so it stays

        with pytest.raises(ImportError):
            import turtle  # noqa: F401
    assert "turtle" not in sys.modules and sys.modules["json"]


@pytest.mark.slow
def test_tensorflow_starts_without_what_the_kit_does_not_use() -> None:
    assert "tensorflow" in loaded_by("from mnv3_tf.cli.options import quiet_libraries; quiet_libraries()\n"
                                     "assert not {'matplotlib', 'sklearn'} & set(sys.modules)\nimport matplotlib")
