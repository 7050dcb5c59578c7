"""ARM instructions of one inference, counted on an emulated processor: of the files of latency.py, or of your own.

It needs neither a phone nor an idle machine, because the count is the same every time. The kit's own runner, compiled for 64-bit
ARM, runs each file under qemu's user-mode emulation, and a plugin (arm_instructions.c) counts what is executed. One inference is
the difference between starts with different numbers of runs, so loading and preparing the model is not counted.

XNNPACK chooses its kernels by the emulated processor, so these are the instructions that a phone with this processor executes.
They are not its time: the count knows nothing of caches, memory, or instructions that take longer than others.

Requirements: qemu-aarch64 with plugins (Debian 12: apt install qemu-user) and a C compiler (pip install ziglang). The exit code
is 4 if one of them is missing.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path

from latency import HERE, NETWORKS, build

from mnv3_tf.cli.options import quiet_libraries
from mnv3_tf.errors import KitError, NoDeviceError
from mnv3_tf.export.benchmark.runners.kit_runner import parse_runner_output, runner_arguments
from mnv3_tf.export.benchmark.runners.runner_build import RunnerBundle, build_runner
from mnv3_tf.progress import Terminal

PLUGIN = HERE / "arm_instructions.c"
#: Versions of qemu's plugin interface that the plugin can be compiled for; 1 is that of qemu 4.2 to 8.2.
PLUGIN_APIS = (1, 2, 3, 4, 5)
INSTALL = "Install it: apt install qemu-user (Debian 12), and pip install ziglang for the C compiler."
#: Timed runs of the starts that are compared, and how far their differences may lie apart.
RUNS, TOLERANCE = (1, 2, 4), 0.005
SECONDS = 900


@dataclass(frozen=True)
class Processor:
    """What the emulated processor says of itself in /proc/cpuinfo, by which XNNPACK chooses kernels."""

    name: str
    part: str
    features: str
    about: str


PROCESSORS = {processor.name: processor for processor in (
    Processor("cortex-a76", "0xd0b", "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
              "asimddp", "with integer dot products"),
    Processor("cortex-a53", "0xd03", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid", "without integer dot products"),
)}


@dataclass(frozen=True)
class Count:
    """Of one inference."""

    instructions: int
    dot_products: int
    one_partition: bool


def main() -> int:
    """Builds the files that are missing, counts, and prints a table for each network and processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="your own .tflite files, compared with the first "
                        "[default: the files of latency.py]")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for the files, kept for the next time")
    parser.add_argument("--cpu", choices=PROCESSORS, action="append", help="emulated processor; may be given more than once "
                        "[default: all of them]")
    parser.add_argument("--json", type=Path, help="also write the counts to this file")
    arguments = parser.parse_args()
    quiet_libraries()
    found = {}
    try:
        with Emulator() as emulator:
            for title, files in subjects(arguments.files, arguments.out):
                for cpu in arguments.cpu or PROCESSORS:
                    counts = {name: emulator.count(path, PROCESSORS[cpu]) for name, path in files.items()}
                    show(title, PROCESSORS[cpu], counts)
                    found[f"{title}, {cpu}"] = {name: asdict(count) for name, count in counts.items()}
    except KitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))
    return 0


def subjects(files: list[Path], folder: Path) -> Iterator[tuple[str, dict[str, Path]]]:
    """What is compared: a title, and files by name, of which the first is the baseline."""
    if files:
        yield "Instructions of one inference", {str(path): path for path in files}
        return
    for name, size in NETWORKS.items():
        yield f"MobileNetV3-{name.title()} 1.0 at {size}x{size}, 1000 classes", build(name, size, folder)


class Emulator:
    """qemu with the counting plugin, and the kit's runner for 64-bit ARM; a context manager that cleans up.

    Raises:
        NoDeviceError: qemu, its plugins or the compiler are missing.
        KitError: what is counted of a program whose instructions are known is wrong.
    """

    def __init__(self) -> None:
        qemu = shutil.which("qemu-aarch64")
        if qemu is None or util.find_spec("ziglang") is None:
            missing = "qemu-aarch64" if qemu is None else "The compiler ziglang"
            raise NoDeviceError(f"{missing} was not found. {INSTALL}")
        if "-plugin" not in subprocess.run([qemu, "--help"], capture_output=True, text=True).stdout:
            raise NoDeviceError(f"{qemu} was built without plugins. {INSTALL}")
        self.qemu = qemu

    def __enter__(self) -> "Emulator":
        self._folder = tempfile.TemporaryDirectory(prefix="mnv3-arm-")
        self.folder = Path(self._folder.name)
        try:
            self.bundle: RunnerBundle = build_runner("aarch64", Terminal())
            runner = self.folder / "runner"
            runner.mkdir()
            for name, file in self.bundle.files.items():
                shutil.copyfile(file, runner / name)
                (runner / name).chmod(0o755)
            for processor in PROCESSORS.values():
                write_system_files(self.folder / processor.name, processor)
            self.plugin = self._checked_plugin()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def count(self, model: Path, processor: Processor) -> Count:
        """Counts one inference of a `.tflite` file.

        Raises:
            KitError: the runner failed, or the counts of different starts contradict each other.
        """
        starts = [self._start(model, processor, runs) for runs in RUNS]
        steps = [(after.instructions - before.instructions) / (more - fewer) for before, after, fewer, more in
                 zip(starts, starts[1:], RUNS, RUNS[1:], strict=False)]
        if max(steps) > min(steps) * (1 + TOLERANCE):
            raise KitError(f"{model.name}: an inference takes {min(steps):.0f} instructions in one start and {max(steps):.0f} in "
                           "another, so something else was counted too.")
        first, last, runs = starts[0], starts[-1], RUNS[-1] - RUNS[0]
        return Count(round((last.instructions - first.instructions) / runs),
                     round((last.dot_products - first.dot_products) / runs), first.one_partition)

    def _start(self, model: Path, processor: Processor, runs: int) -> Count:
        words = [*self.bundle.command(str(self.folder / "runner")), *runner_arguments(str(model), warmup=1, runs=runs)]
        done = self._run(words, processor)
        result = parse_runner_output(done.stdout, done.stderr, done.returncode)
        counted = parse_counts(done.stderr)
        if isinstance(result, str) or counted is None:
            raise KitError(f"{model.name} on an emulated {processor.name}: {result if isinstance(result, str) else 'no count'}.")
        return Count(*counted, result.fully_delegated)

    def _run(self, words: list[str], processor: Processor, plugin: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [self.qemu, "-L", str(self.folder / processor.name), "-cpu", processor.name, "-plugin",
                   str(plugin or self.plugin)]
        try:
            return subprocess.run([*command, *words], capture_output=True, text=True, errors="replace", timeout=SECONDS,
                                  env={"PATH": os.environ.get("PATH", "")})
        except subprocess.TimeoutExpired:
            raise KitError(f"{Path(words[-1]).name} on an emulated {processor.name}: not finished within {SECONDS} s.") from None

    def _checked_plugin(self) -> Path:
        """The plugin for the interface of this qemu, tried on a program whose instructions are known."""
        program, plugin = self.folder / "known", self.folder / "plugin.so"
        compile_c(["-target", "aarch64-linux-musl", "-mcpu=cortex_a76", "-nostdlib", "-static", "-x", "c", "-", "-o",
                   str(program)], KNOWN_PROGRAM)
        problem = ""
        for api in PLUGIN_APIS:
            compile_c(["-shared", "-fPIC", "-O2", f"-DPLUGIN_API={api}", str(PLUGIN), "-o", str(plugin)])
            done = self._run([str(program)], PROCESSORS["cortex-a76"], plugin)
            counted = parse_counts(done.stderr)
            if counted is None:
                problem = (done.stderr.strip().splitlines() or ["no message"])[-1]
                continue
            instructions, dot_products = counted
            if not 4 * KNOWN_LOOPS <= instructions <= 4 * KNOWN_LOOPS + 10 or dot_products != 2 * KNOWN_LOOPS:
                raise KitError(f"the plugin miscounts: {instructions} instructions and {dot_products} dot products, of a program "
                               f"that executes about {4 * KNOWN_LOOPS} and exactly {2 * KNOWN_LOOPS}.")
            return plugin
        raise NoDeviceError(f"{self.qemu} does not load the plugin ({problem}). {INSTALL}")


KNOWN_LOOPS = 100_000
KNOWN_PROGRAM = f"""
__asm__(".global _start\\n"
        "_start: ldr w0, =({KNOWN_LOOPS})\\n"
        "1: sdot v0.4s, v1.16b, v2.16b\\n"
        "   sdot v0.4s, v1.16b, v2.4b[1]\\n"
        "   subs w0, w0, #1\\n"
        "   b.ne 1b\\n"
        "   mov x0, #0\\n"
        "   mov x8, #93\\n"
        "   svc #0\\n");
"""


def compile_c(words: list[str], source: str = "") -> None:
    """Runs the C compiler.

    Raises:
        KitError: it failed.
    """
    done = subprocess.run([sys.executable, "-m", "ziglang", "cc", *words], input=source, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise KitError(f"{PLUGIN.name} cannot be compiled: {next((line for line in lines if 'error:' in line), lines[-1])}.")


def write_system_files(root: Path, processor: Processor, cores: int = 2) -> None:
    """The files below /proc and /sys that a program under emulation reads instead of this machine's."""
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cpuinfo").write_text("".join(
        f"processor\t: {core}\nFeatures\t: {processor.features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: 0x4\nCPU part\t: {processor.part}\nCPU revision\t: 1\n\n" for core in range(cores)))
    cpus = root / "sys" / "devices" / "system" / "cpu"
    cpus.mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (cpus / name).write_text(f"0-{cores - 1}\n")


def parse_counts(text: str) -> tuple[int, int] | None:
    """Instructions and dot products as the plugin prints them."""
    found = re.search(r"^instructions (\d+) dot_products (\d+)$", text, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else None


def show(title: str, processor: Processor, counts: dict[str, Count]) -> None:
    """The table of one set of files on one processor."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    baseline = next(iter(counts.values())).instructions
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left",
                  title=f"{title}, on an emulated {processor.name} ({processor.about})")
    table.add_column("file", no_wrap=True)
    for heading in ("million instructions", "of these dot products", "one partition", "against the first"):
        table.add_column(heading, justify="right")
    for name, count in counts.items():
        table.add_row(name, f"{count.instructions / 1e6:.2f}", f"{count.dot_products / 1e6:.2f}",
                      "yes" if count.one_partition else "no", f"{count.instructions / baseline:.2f}x")
    Console(highlight=False, width=130).print(table)


if __name__ == "__main__":
    sys.exit(main())
