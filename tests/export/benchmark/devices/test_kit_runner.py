"""The kit's own runner: compiled and run for real, here and, where there is an emulator, as a 64-bit ARM program."""

import functools
import hashlib
import http.server
import io
import platform
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from device_lab.waiting import PATIENCE
from hypothesis import given
from hypothesis import strategies as st

from mnv3_tf import files as kit_files
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.export.benchmark.runners import runner_build
from mnv3_tf.export.benchmark.runners.kit_runner import RunnerResult, parse_runner_output, runner_arguments
from mnv3_tf.export.benchmark.runners.operators import name_operators
from mnv3_tf.export.benchmark.runners.runner_build import RunnerBundle, build_runner, unpack_deb
from mnv3_tf.progress import Silent
from mnv3_tf.tflite.file import read_tflite
from mnv3_tf.tflite.runtime import LiteRTModel

HERE = platform.machine()
ELF_MACHINE = {"x86_64": 62, "aarch64": 183}
Run = Callable[..., subprocess.CompletedProcess[str]]

needs_compiler = pytest.mark.skipif(util.find_spec("ziglang") is None,
                                    reason="NOT TESTED, no compiler for the kit's runner: pip install ziglang")
needs_own_machine = pytest.mark.skipif(HERE != "x86_64", reason=f"NOT TESTED: runs x86_64 programs, and this is {HERE}")


def staged(bundle: RunnerBundle, folder: Path) -> Path:
    """The bundle as it lies on a device."""
    for name, file in bundle.files.items():
        shutil.copy(file, folder / name)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the program from a folder of its own, with the C library and the loader beside it."""
    bundle = build_runner("x86_64", Silent())
    folder = staged(bundle, tmp_path_factory.mktemp("device"))

    def start(*words: object, library: str | None = None) -> subprocess.CompletedProcess[str]:
        command = bundle.command(str(folder))
        line = [*command[:-1], library or command[-1], *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE)

    return start


def result_of(done: subprocess.CompletedProcess[str]) -> RunnerResult:
    found = parse_runner_output(done.stdout, done.stderr, done.returncode)
    assert isinstance(found, RunnerResult), found
    assert done.returncode == 0 and done.stdout.endswith("done\n")
    return found


def random_inputs(model: LiteRTModel, count: int) -> np.ndarray:
    rng, shape = np.random.default_rng(0), (count, *model.input_shape[1:])
    if model.input_dtype == "float32":
        return (rng.random(shape) * 255).astype(np.float32)
    limits = np.iinfo(model.input_dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=model.input_dtype, endpoint=True)


@needs_compiler
@needs_own_machine
class TestOnThisMachine:
    """The program as it would run on an x86_64 device."""

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("name", ["plain_int8", "swish_int8", "pixel_uint8", "plain_float32", "plain_dynamic"])
    def test_outputs_are_the_interpreters_to_the_byte(self, name: str, threads: int, run: Run, files: dict[str, Path],
                                                      tmp_path: Path) -> None:
        model = LiteRTModel(files[name])
        tensors = random_inputs(model, 7)
        (tmp_path / "in.bin").write_bytes(tensors.tobytes())
        done = run(*runner_arguments(str(files[name]), threads=threads, inputs=str(tmp_path / "in.bin"),
                                     outputs=str(tmp_path / "out.bin")))
        found = result_of(done)
        assert found.outputs == 7 and found.samples_ms == () and found.first_ms is None
        expected = [model.run_raw(tensor[None]).tobytes() for tensor in tensors]
        assert (tmp_path / "out.bin").read_bytes() == b"".join(expected) and len(set(expected)) > 1

    def test_what_a_timed_run_reports(self, run: Run, files: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "zone").write_text("41500\n")
        began = time.monotonic()
        found = result_of(run(*runner_arguments(str(files["plain_int8"]), runs=20, warmup=3, thermal=str(tmp_path / "zone"))))
        elapsed_ms = 1000 * (time.monotonic() - began)
        assert len(found.samples_ms) == 20 and all(sample > 0 for sample in found.samples_ms)
        assert found.init_ms > 0 and found.first_ms and found.first_ms > 0
        assert found.init_ms + found.first_ms + sum(found.samples_ms) < elapsed_ms
        assert found.peak_memory_mb is None  # is read in a start of its own
        memory = result_of(run(*runner_arguments(str(files["plain_int8"]), measure="memory")))
        assert memory.peak_memory_mb and 1 < memory.peak_memory_mb < 1000 and memory.samples_ms == ()
        assert found.temperatures_c == (41.5, 41.5) and found.outputs == 0

    def test_it_runs_as_long_as_asked(self, run: Run, files: dict[str, Path]) -> None:
        found = result_of(run(*runner_arguments(str(files["plain_int8"]), runs=1, min_seconds=0.05)))
        assert sum(found.samples_ms) >= 50.0 > sum(found.samples_ms[:-1])

    @pytest.mark.parametrize(("name", "kernels", "whole"), [
        ("plain_int8", "xnnpack", True), ("swish_int8", "xnnpack", False), ("plain_int8", "builtin", False)])
    def test_it_says_whether_the_delegate_took_all(self, name: str, kernels: str, whole: bool, run: Run,
                                                   files: dict[str, Path]) -> None:
        """XNNPACK refuses int8 HARD_SWISH."""
        assert result_of(run(*runner_arguments(str(files[name]), runs=1, kernels=kernels))).fully_delegated is whole

    def test_float_inputs_are_made_too(self, run: Run, files: dict[str, Path]) -> None:
        assert len(result_of(run(*runner_arguments(str(files["plain_float32"]), runs=3, seed=-5))).samples_ms) == 3

    @pytest.mark.parametrize(("options", "words"), [
        (["--runs", "abc"], "--runs must be a number"), (["--runs", "0"], "--runs must be a number"),
        (["--runs", "1e99"], "--runs must be a number"), (["--threads", "0"], "--threads must be a number"),
        (["--warmup", "-1"], "--warmup must be a number"), (["--min-seconds", "nan"], "--min-seconds must be a number"),
        (["--rnus", "3"], "unknown option: --rnus"), (["--runs"], "usage: kit_runner"),
        (["--measure", "all"], "--measure must be times, memory or operators, and is: all"),
        (["--kernels", "other"], "the model cannot be prepared"), (["--input", "none.bin"], "the input file cannot be read")])
    def test_options_that_are_refused(self, options: list[str], words: str, run: Run, files: dict[str, Path]) -> None:
        self.refused(run(files["plain_int8"], *options), words)

    @pytest.mark.parametrize(("content", "words"), [
        (None, "the model cannot be read"), (b"", "the model cannot be loaded"),
        (b"no model at all", "the model cannot be loaded"), (500, "the model cannot be")])
    def test_models_that_are_none(self, content: bytes | int | None, words: str, run: Run, files: dict[str, Path],
                                  tmp_path: Path) -> None:
        target = tmp_path / "m.tflite"
        if content is not None:
            target.write_bytes(files["plain_int8"].read_bytes()[:content] if isinstance(content, int) else content)
        self.refused(run(target), words)

    def test_an_open_batch_is_refused_with_the_remedy(self, run: Run, files: dict[str, Path]) -> None:
        self.refused(run(files["open_batch"]), "convert it with a fixed batch of 1")

    @pytest.mark.parametrize("size", [0, 1, 3071, 3073])
    def test_inputs_of_a_wrong_size(self, size: int, run: Run, files: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "in.bin").write_bytes(bytes(size))
        done = run(files["plain_int8"], "--input", tmp_path / "in.bin", "--output", tmp_path / "out.bin")
        self.refused(done, "the input file is")

    @pytest.mark.parametrize(("library", "words"), [
        ("/nowhere/libLiteRt.so", "the library cannot be opened"), ("libm.so.6", "the library lacks the function: LiteRt")])
    def test_libraries_that_are_none(self, library: str, words: str, run: Run, files: dict[str, Path]) -> None:
        self.refused(run(files["plain_int8"], library=library), words)

    def refused(self, done: subprocess.CompletedProcess[str], words: str) -> None:
        """One clear line, and no result."""
        own = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 1 and len(own) == 1 and words in own[0] and "done" not in done.stdout.splitlines()
        assert parse_runner_output(done.stdout, done.stderr, done.returncode) == own[0].removeprefix("error: ")


@needs_compiler
class TestCompiling:
    @pytest.mark.slow
    @pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
    def test_the_program_is_for_the_architecture(self, architecture: str, tmp_path: Path) -> None:
        program = runner_build._compile(architecture, tmp_path, Silent())
        header = program.read_bytes()[:20]
        assert header[:5] == b"\x7fELF\x02" and int.from_bytes(header[18:20], "little") == ELF_MACHINE[architecture]
        assert program.stat().st_size < 100_000 and program.stat().st_mode & 0o100
        assert list(tmp_path.iterdir()) == [program]  # nothing temporary is left
        stamp = program.stat().st_mtime_ns
        assert runner_build._compile(architecture, tmp_path, Silent()).stat().st_mtime_ns == stamp

    def test_a_source_that_does_not_compile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "package").mkdir()
        for name in runner_build._SOURCES:
            (tmp_path / "package" / name).write_text("int main(void) { return nothing; }\n")
        monkeypatch.setattr(runner_build, "_HERE", tmp_path / "package")
        with pytest.raises(KitError, match=r"compiled for x86_64: .*error: .*nothing.*--runner benchmark_model") as caught:
            runner_build._compile("x86_64", tmp_path / "cache", Silent())
        assert "\n" not in str(caught.value) and list((tmp_path / "cache").iterdir()) == []


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(runner_build.util, "find_spec", lambda name: None)
    with pytest.raises(KitError, match="pip install ziglang"):
        build_runner("x86_64", Silent())


@needs_compiler
def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnv3-tf").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kit_files, "_temporary_cache", lambda: tmp_path / "mnv3-tf" / "below a file")
    with pytest.raises(KitError, match=r"cannot be kept there .*XDG_CACHE_HOME"):
        build_runner("x86_64", Silent())


def test_other_architectures_are_refused() -> None:
    with pytest.raises(InputError, match="the device is armv7l"):
        build_runner("armv7l", Silent())


QEMU = shutil.which("qemu-aarch64")


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(QEMU is None, reason="NOT TESTED, no emulator of 64-bit ARM: apt-get install qemu-user")
@pytest.mark.parametrize("name", ["plain_int8", "swish_int8", "pixel_uint8"])
def test_an_arm_device_answers_as_this_machine_to_the_byte(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    """Under emulation of one real core; `-cpu max` computes wrong int8 sums in the emulator."""
    try:
        bundle = build_runner("aarch64", Silent())
    except KitError as error:
        pytest.skip(f"NOT TESTED, no libraries for 64-bit ARM: {error}")
    device, root = tmp_path / "device", tmp_path / "root"
    device.mkdir()
    staged(bundle, device)
    # XNNPACK reads what cores there are, and the emulator has this machine's, so an ARM one is put in their place.
    system = root / "sys/devices/system/cpu"
    system.mkdir(parents=True)
    (root / "proc").mkdir()
    for kind in ("possible", "present", "online"):
        (system / kind).write_text("0\n")
    (root / "proc/cpuinfo").write_text(
        "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc "
        "dcpop asimddp\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 0\n")
    def run(*words: str) -> RunnerResult:
        return result_of(subprocess.run([str(QEMU), "-cpu", "cortex-a76", "-L", str(root), *bundle.command(str(device)), *words],
                                        capture_output=True, text=True, timeout=PATIENCE))

    model = LiteRTModel(files[name])
    tensors = random_inputs(model, 5)
    (tmp_path / "in.bin").write_bytes(tensors.tobytes())
    found = run(*runner_arguments(str(files[name]), inputs=str(tmp_path / "in.bin"), outputs=str(tmp_path / "out.bin")))
    expected = b"".join(model.run_raw(tensor[None]).tobytes() for tensor in tensors)
    assert found.outputs == 5 and (tmp_path / "out.bin").read_bytes() == expected
    operators = run(*runner_arguments(str(files[name]), measure="operators", runs=5)).operators
    assert operators and name_operators(operators, read_tflite(files[name]))[1] == ""


GOOD = ("kit_runner 1\ninit_us 1500.0\ninput_bytes 3072\noutput_bytes 40\nfully_delegated 1\nfirst_us 250.0\ntemperature 41000\n"
        "us 1000.000 2000.500 3000.000\ntemperature 42500\npeak_kb 9000\ndone\n")
PARSED = RunnerResult((1.0, 2.0005, 3.0), 1.5, 0.25, 9.0, True, (41.0, 42.5), 0)


@pytest.mark.parametrize("text", [
    GOOD, GOOD.replace("\n", "\r\n"), GOOD.replace("\n", "\r\r\n"), "* daemon started\n" + GOOD,
    GOOD.replace("us 1000", "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nus 1000"), GOOD + "\n\nWARNING: bye\n"])
def test_output_is_read_with_any_line_ends_and_other_lines(text: str) -> None:
    assert parse_runner_output(text) == PARSED


@pytest.mark.parametrize(("text", "errors", "code", "words"), [
    (GOOD.replace("done\n", ""), "", 0, "ended without a result"),
    ("", "", 139, "signal 11"), ("", "", 137, "killed by the device"),
    ("", "INFO: x\nerror: the model cannot be loaded: status 500\n", 1, "the model cannot be loaded: status 500"),
    ("kit_runner 1\r\nerror: the input's size\r\n", "", 0, "the input's size"),
    (GOOD.replace("init_us 1500.0\n", ""), "", 0, "init_us"),
    (GOOD.replace("us 1000.000", "us 1000.x"), "", 0, "cannot be read"),
    (GOOD.replace("us 1000.000 2000.500 3000.000", "us"), "", 0, "neither times nor outputs")])
def test_output_without_a_result_says_why(text: str, errors: str, code: int, words: str) -> None:
    found = parse_runner_output(text, errors, code)
    assert isinstance(found, str) and words in found and "\n" not in found


@given(st.integers(0, len(GOOD) - 6))
def test_output_that_was_cut_off_is_never_a_result(place: int) -> None:
    assert isinstance(parse_runner_output(GOOD[:place]), str)


def test_paths_stay_single_words() -> None:
    words = runner_arguments("my model's.tflite", inputs="in $x.bin")
    assert words[0] == "my model's.tflite" and words[-4:] == ["--input", "in $x.bin", "--output", "output.bin"]
    assert len(words) % 2 == 1


def deb(content: dict[str, bytes], links: dict[str, str]) -> bytes:
    """A Debian package with these files and links."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, data in content.items():
            item = tarfile.TarInfo(f"./{name}")
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
        for name, target in links.items():
            item = tarfile.TarInfo(f"./{name}")
            item.type, item.linkname = tarfile.SYMTYPE, target
            archive.addfile(item)
    parts = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0"), ("data.tar.xz", packed.getvalue())):
        parts += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return parts


@pytest.mark.parametrize("links", [
    {"lib64/ld.so": "/lib/x/ld-2.so"}, {"lib64/ld.so": "../lib/x/ld-2.so"},
    {"lib64/ld.so": "/usr/second", "usr/second": "../lib/x/ld-2.so"}])
def test_links_in_packages_are_followed(links: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(deb({"lib/x/ld-2.so": b"loader", "other": b""}, links))
    (tmp_path / "out").mkdir()
    unpack_deb(tmp_path / "a.deb", tmp_path / "out", ["ld.so"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {"ld.so": b"loader"}


@pytest.mark.parametrize(("content", "words"), [
    (b"<html>no such file</html>", "is not a Debian package"),
    (deb({}, {"lib/ld.so": "/nowhere"}), "leads to no file"),
    (deb({}, {"a/ld.so": "/b/ld.so", "b/ld.so": "/a/ld.so"}), "leads to no file")])
def test_packages_that_cannot_be_used(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(content)
    with pytest.raises(KitError, match=words):
        unpack_deb(tmp_path / "a.deb", tmp_path, ["ld.so"])


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address that serves a folder."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("fault", [None, "another content", "a library is missing"])
def test_libraries_come_from_the_mirror_that_is_named(fault: str | None, mirror: tuple[str, Path], tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    address, folder = mirror
    names = ["ld.so", *runner_build._LIBRARIES]
    package = deb({f"lib/{name}": name.encode() for name in names[fault == "a library is missing":]}, {})
    (folder / "libc.deb").write_bytes(package + (b"x" if fault == "another content" else b""))
    entry = {"path": "libc.deb", "sha256": hashlib.sha256(package).hexdigest()}
    table = {"bases": ["http://127.0.0.1:9/never"], "aarch64": {"loader": "ld.so", "packages": [entry]}}
    monkeypatch.setattr(runner_build, "_table", lambda: table)
    monkeypatch.setattr(runner_build.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("MNV3_DEBIAN", address)
    if fault:
        with pytest.raises(KitError, match=r"SHA-256|lack ld\.so"):
            runner_build._runtime("aarch64", "ld.so", tmp_path / "cache", Silent())
        assert not list((tmp_path / "cache").glob("libraries*"))
        return
    found = runner_build._runtime("aarch64", "ld.so", tmp_path / "cache", Silent())
    assert {name: path.read_bytes() for name, path in found.items()} == {name: name.encode() for name in names}


def test_the_table_of_packages_is_whole() -> None:
    table = runner_build._table()
    assert table["bases"][0] == "http://deb.debian.org/debian"
    for architecture, ending in (("aarch64", "_arm64.deb"), ("x86_64", "_amd64.deb")):
        for package in table[architecture]["packages"]:
            assert package["path"].startswith("pool/main/") and package["path"].endswith(ending)
            assert len(bytes.fromhex(package["sha256"])) == 32
