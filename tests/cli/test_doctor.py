"""`mnv3 doctor`: what it says of machines of several kinds, and that nothing broken can stop it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import run

from mnv3_tf.child import Child
from mnv3_tf.export import doctor

FAKES = {"tensorflow": "raise ImportError('libcudart.so.13 is missing')", "jax": "import time; time.sleep(1000)"}


def fake_packages(folder: Path, **bodies: str) -> Path:
    """Packages of these names that do these things when they are imported."""
    for name, body in bodies.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(body)
    return folder


def adb_that_lists(folder: Path, *lines: str) -> Path:
    program = folder / "adb"
    program.write_text("#!/bin/sh\ncase $1 in devices) cat <<'E'\nList of devices attached\n" + "\n".join(lines)
                       + "\nE\n;; *) echo Android Debug Bridge version 1.0.41;; esac\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow and JAX are said to see a CPU, without being asked."""
    for name in ("tensorflow_devices", "jax_devices"):
        monkeypatch.setattr(doctor, name, os.getcwd)
    monkeypatch.setattr(doctor.Child, "answer", lambda self, seconds: ["CPU"])


def test_a_machine_that_is_fine(quick: None) -> None:
    code, out, err = run("doctor")
    assert code == 0 and not err and "`make demo` would work here." in out and len(out.splitlines()) <= 40
    assert "keras 3.15" in out and ">=3.15" in out
    code, out, _ = run("doctor", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["works"] and facts["problems"] == [] and facts["TensorFlow"]["devices"] == ["CPU"]
    assert facts["packages"]["click"]["as_tested"] and facts["machine"]["python"].startswith("3.")


@pytest.mark.skipif(sys.platform == "win32", reason="the simulated adb is a shell script")
def test_devices_with_their_state(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADB", str(adb_that_lists(tmp_path, "R58M12 device product:a52q model:SM_A525F transport_id:3",
                                                 "192.168.1.20:5555 offline", "X1 unauthorized transport_id:4")))
    code, out, _ = run("doctor")
    text = " ".join(out.split())
    assert code == 0 and "adb:R58M12 (SM A525F)" in text and "X1: has not allowed this computer" in text
    assert "192.168.1.20:5555: is offline" in text
    devices = json.loads(run("doctor", "--json")[1])["adb"]["devices"]
    assert [(device["serial"], device["state"]) for device in devices] == [
        ("R58M12", "device"), ("192.168.1.20:5555", "offline"), ("X1", "unauthorized")]


def test_a_broken_and_a_hanging_library_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(fake_packages(tmp_path, **FAKES)))
    with Child(doctor.tensorflow_devices) as broken, Child(doctor.jax_devices) as hanging:
        found = doctor.accelerators("tensorflow", broken)
        assert "ImportError: libcudart.so.13 is missing" in found.text and "make install" in found.problem
        found = doctor.accelerators("jax", hanging, seconds=0.1)
        assert "gave no answer" in found.text and not found.problem


@pytest.mark.parametrize(("version", "wanted", "answer"), [
    ("2.21.0", "<2.22,>=2.21", True), ("2.22.0", "<2.22,>=2.21", False), ("2.20.9", ">=2.21", False), ("3.0", "<3,>=1", False),
    ("3.15.1rc1", "<3.16,>=3.15", True), ("13", "<14,>=11", True), ("3.14.0", ">=3.11,<3.14", False), ("unknown", "", True)])
def test_a_version_is_compared_with_the_tested_range(version: str, wanted: str, answer: bool) -> None:
    assert doctor.within(version, wanted) is answer


def test_the_ranges_are_those_of_setup() -> None:
    wanted = doctor.required()
    assert wanted["keras"] == ("<3.16,>=3.15", "") and wanted["scikit-learn"][1] == "demo" and wanted["jax"][1] == "jax"


def test_missing_and_other_packages_are_problems(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"keras": "3.8.0", "scikit-learn": None}
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: versions[name] if name in versions else real(name))
    code, out, err = run("doctor")
    assert code == 3 and "missing: scikit-learn; not as tested: keras 3.8.0 (tested: <3.16,>=3.15)" in err and "problem" in out


@pytest.mark.parametrize(("settings", "words", "code"), [
    ({"backend": "torch"}, "sets Keras's backend to torch", 3), ({"image_data_format": "channels_first"}, "channels_first", 0),
    (None, "cannot be read", 3), ({}, "Keras's own defaults", 0)])
def test_settings_of_keras(settings: dict | None, words: str, code: int, quick: None, tmp_path: Path,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keras.json").write_text("{" if settings is None else json.dumps(settings))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    found, out, err = run("doctor")
    assert found == code and words in " ".join((out + err).split())


def test_a_disk_that_is_full(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LEAST_FREE", 1 << 62)
    code, _, err = run("doctor")
    assert code == 3 and "Free some space" in err


def test_no_home_and_no_temporary_folder(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert run("doctor")[0] == 0
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    code, _, err = run("doctor")
    assert code == 3 and "TMPDIR" in err and "Traceback" not in err


def test_the_cache_is_cleared_of_what_the_kit_made_and_of_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache, elsewhere = tmp_path / "cache" / "mnv3-tf", tmp_path / "elsewhere"
    made = ["scan/0123456789abcdef.jsonl", "weights/mobilenet_v3_small-047dcff4.pth", "runner/aarch64/kit_runner-00ff",
            "runner/aarch64/libraries-00ff/libc.so.6", "benchmark_model/downloads.json"]
    own = ["notes.txt", "weights/my_own.pth", "scan/readme.md", "runner/aarch64/mine", "other/x.jsonl"]
    for name in made + own:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("12345")
    elsewhere.mkdir()
    (elsewhere / "kit_runner-1").write_text("")
    (cache / "runner" / "x86_64").symlink_to(elsewhere)
    code, out, _ = run("doctor", "--clear-cache")
    assert code == 0 and out == "Removed from the cache: 5 files, 0.0 MB.\n"
    assert not any((cache / name).exists() for name in made) and not (cache / "benchmark_model").exists()
    assert all((cache / name).read_text() == "12345" for name in own) and (elsewhere / "kit_runner-1").exists()
    assert json.loads(run("doctor", "--clear-cache", "--json")[1]) == {"removed_files": 0, "removed_bytes": 0}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_that_is_not_utf8(encoding: str, tmp_path: Path) -> None:
    """A name that it cannot show is written in escapes, and JSON stays JSON."""
    surroundings = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-m", "mnv3_tf.cli.main", "inspect", "Łódź.tflite"], cwd=tmp_path, capture_output=True,
                          env=surroundings)
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    script = "from mnv3_tf.cli.options import print_json; print_json({'a': 'Łódź'})"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, env=surroundings)
    assert json.loads(printed.stdout) == {"a": "Łódź"}
