"""Commands that need no TensorFlow start without it, and the others load it quietly."""

import json
import os
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


def ended_well(script: str, *arguments: object, packages: Path | None = None) -> str:
    """What a Python process prints that ends well; packages of this folder come before those that are installed."""
    surroundings = {**os.environ, "PYTHONPATH": str(packages)} if packages else None
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, env=surroundings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str, *arguments: object, packages: Path | None = None) -> str:
    """Which of the heavy packages are loaded at the end of a Python process that ended well."""
    script = f"import sys\n{code}\nprint('\\nloaded:', *sorted({set(HEAVY)!r} & set(sys.modules)))"
    return ended_well(script, *arguments, packages=packages).splitlines()[-1].removeprefix("loaded:").strip()


@pytest.mark.slow
def test_commands_that_need_no_tensorflow_import_none(places: dict[str, Path], tmp_path: Path) -> None:
    """One process runs them all, and looks after each of them."""
    commands = {name: [word.format(**places, new=tmp_path / str(number)) for word in words.split()]
                for number, (name, words) in enumerate(COMMANDS.items())}
    script = ("import json, sys\nfrom mnv3_tf.cli.main import main\n"
              "for name, words in json.loads(sys.argv[1]).items():\n"
              "    try: main(words)\n"
              "    except SystemExit as stopped: assert not stopped.code, (name, stopped.code)\n"
              "    else: raise AssertionError(f'{name} did not exit')\n"
              f"    assert not {set(HEAVY)!r} & set(sys.modules), name\n"
              "    print('\\nran:', name)")
    printed = ended_well(script, json.dumps(commands)).splitlines()
    assert [line.removeprefix("ran: ") for line in printed if line.startswith("ran: ")] == [*COMMANDS]


FAKE_TENSORFLOW = """
try:
    import matplotlib
except ImportError:
    matplotlib = None
from types import SimpleNamespace
device = SimpleNamespace(device_type="CPU")
config = SimpleNamespace(list_physical_devices=lambda: [device])
constant = float
"""


@pytest.fixture
def another_tensorflow(tmp_path: Path) -> Path:
    """A folder with a package `tensorflow` that is there at once, has one CPU, and imports matplotlib where it can."""
    (tmp_path / "packages" / "tensorflow").mkdir(parents=True)
    (tmp_path / "packages" / "tensorflow" / "__init__.py").write_text(FAKE_TENSORFLOW)
    return tmp_path / "packages"


@pytest.mark.slow
def test_the_doctor_imports_none(another_tensorflow: Path) -> None:
    """Its children do, here the JAX that is installed; the TensorFlow that is installed is asked in this process."""
    code = ("from mnv3_tf.cli.main import main\n"
            "try: main(['doctor'])\n"
            "except SystemExit as stopped: assert not stopped.code, stopped.code")
    assert loaded_by(code, packages=another_tensorflow) == ""
    from mnv3_tf.export.doctor import tensorflow_devices

    assert "CPU" in tensorflow_devices()


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


def test_tensorflow_starts_without_what_the_kit_does_not_use(another_tensorflow: Path) -> None:
    """The TensorFlow that is installed starts like this in every session of these tests, by `hidden` in conftest.py."""
    assert loaded_by("from mnv3_tf.cli.options import quiet_libraries; quiet_libraries()\n"
                     "assert not {'matplotlib', 'sklearn'} & set(sys.modules)\n"
                     "import tensorflow, matplotlib\nassert tensorflow.device and not tensorflow.matplotlib",
                     packages=another_tensorflow) == "tensorflow"
