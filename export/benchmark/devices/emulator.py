"""ARM without a phone: the kit's runner under qemu's user-mode emulation, whose arithmetic is that of the processor, and whose
instructions can be counted."""

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mnv3_tf.errors import InputError, KitError, NoDeviceError
from mnv3_tf.export.benchmark.devices.local import LocalDevice
from mnv3_tf.export.benchmark.devices.remote import DeviceLost, last_line
from mnv3_tf.export.benchmark.devices.session import interrupts, opened
from mnv3_tf.export.benchmark.measure import SliceFailed
from mnv3_tf.export.benchmark.runners.runner_build import build_counter, build_runner
from mnv3_tf.export.benchmark.runners.runners import KitRunner
from mnv3_tf.progress import Progress
from mnv3_tf.text import nearest

_PACKAGE = "Debian and Ubuntu: apt install qemu-user"
# Versions of qemu's plugin interface that the plugin can be compiled for; 1 is that of qemu 4.2 to 8.2.
_INTERFACES = (1, 2, 3, 4, 5)
_CORES = 2
_SECONDS = 600.0


@dataclass(frozen=True)
class Processor:
    """A processor as XNNPACK sees it, which chooses its kernels by that.

    Attributes:
        name: qemu's.
        part: its number in /proc/cpuinfo.
        features: its abilities there. qemu says the same of them in the auxiliary vector.
        about: what of them matters here, in words.
    """

    name: str
    part: str
    features: str
    about: str

    def cpuinfo(self) -> str:
        """/proc/cpuinfo."""
        return "".join(f"processor\t: {core}\nFeatures\t: {self.features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
                       f"CPU variant\t: 0x4\nCPU part\t: {self.part}\nCPU revision\t: 1\n\n" for core in range(_CORES))


#: The first is the default. qemu's "max" computes int8 wrongly in XNNPACK.
PROCESSORS = {processor.name: processor for processor in (
    Processor("cortex-a76", "0xd0b", "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
              "asimddp", "with integer dot products"),
    Processor("cortex-a53", "0xd03", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid", "without integer dot products"),
)}


def processor(name: str) -> Processor:
    """A processor by its name; "" is the default.

    Raises:
        InputError: it is not one of them.
    """
    if name and name not in PROCESSORS:
        raise InputError(f"arm:{name}: unknown processor{nearest(name, PROCESSORS) or '.'} Give {' or '.join(PROCESSORS)}.")
    return PROCESSORS[name or next(iter(PROCESSORS))]


class EmulatedArm(LocalDevice):
    """This machine, for programs that run under the emulator.

    Args:
        emulated: the processor.
        base: a folder to work in.
        counting: what runs is counted.

    Raises:
        NoDeviceError: qemu is missing, or cannot count.
        KitError: the compiler is missing.
    """

    kind = "arm"

    def __init__(self, emulated: Processor, base: str, *, counting: bool = False):
        super().__init__(base)
        self.name = f"emulated {emulated.name.title()}"
        qemu = shutil.which("qemu-aarch64") or (None if counting else shutil.which("qemu-aarch64-static"))
        if qemu is None:
            raise NoDeviceError(f"qemu-aarch64 was not found, and an ARM processor is emulated with it. Install it ({_PACKAGE}).")
        self.qemu, self.counting = qemu, counting
        self._counter = Path(base) / "counter"
        root = Path(base) / "root"
        # XNNPACK asks these for the processor's abilities, and they must not be those of the machine below.
        cores = {f"sys/devices/system/cpu/{name}": f"0-{_CORES - 1}\n" for name in ("possible", "present", "online")}
        for path, content in {"proc/cpuinfo": emulated.cpuinfo(), **cores}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        # Nothing of this machine's environment: what is counted shall not depend on it.
        environment = ["env", "-i", *([f"MNV3_COUNTER={self._counter}"] if counting else [])]
        self.through = (*environment, qemu, "-L", str(root), "-cpu", emulated.name)

    @property
    def version(self) -> str:
        """Of qemu."""
        said = subprocess.run([self.qemu, "--version"], capture_output=True, text=True, errors="replace").stdout
        found = re.search(r"version (\d+(\.\d+)*)", said)
        return f"qemu {found.group(1) if found else '?'}"

    def count_with_plugin(self, program: list[str]) -> None:
        """Has all that runs from now on counted.

        Args:
            program: words that start a program for the processor, to try the plugin with.

        Raises:
            NoDeviceError: this qemu loads no plugin.
        """
        said = ""
        for interface in _INTERFACES:
            plugin = ("-plugin", str(build_counter(interface)).replace(",", ",,"))
            self._counter.write_bytes(bytes(16))
            done = subprocess.run([*self.through, *plugin, *program], capture_output=True, text=True, errors="replace")
            if any(self._counter.read_bytes()):
                self.through += plugin
                return
            said = said or last_line(done.stderr)
        raise NoDeviceError(f"{self.qemu} ({self.version}) loads no plugin to count with: {said or 'no message'}. Take one that "
                            f"does ({_PACKAGE}).")

    def execute(self, script: str, seconds: float) -> tuple[str, str]:
        try:
            return super().execute(script, max(seconds, _SECONDS))
        except DeviceLost:
            raise KitError(f"{self.name}: not finished within {_SECONDS:.0f} s. Give it less to do: a smaller file, or fewer "
                           "pictures (verify.pictures).") from None


@contextlib.contextmanager
def emulated_arm(emulated: Processor, progress: Progress, *, counting: bool = False, delegate: str = "xnnpack",
                 seed: int = 0) -> Iterator[KitRunner]:
    """The kit's runner on an emulated processor; nothing of it is left at the end.

    Args:
        emulated: the processor.
        progress: told of downloads.
        counting: the runner's clock counts a nanosecond for each instruction, so its times are instructions.
        delegate, seed: the runner's.

    Raises:
        NoDeviceError: qemu or the compiler is missing, or qemu cannot count.
        KitError: the runner cannot be built.
    """
    with interrupts(), tempfile.TemporaryDirectory(prefix="mnv3-arm-") as base:
        device = EmulatedArm(emulated, base, counting=counting)
        bundle = build_runner("aarch64", progress)
        with opened(device) as session:
            runner = KitRunner(session, bundle, delegate=delegate, seed=seed)
            runner.install()
            if counting:
                device.count_with_plugin(bundle.command(session.folder)[:-1])
            runner.bundle = replace(bundle, through=device.through)
            yield runner


def run_on_emulated_arm(model: Path, tensors: Path, target: Path, progress: Progress) -> None:
    """Runs input tensors through a file as an ARM processor does.

    Args:
        model: a `.tflite` file.
        tensors: one or more input tensors, one after the other.
        target: a file for their outputs.
        progress: told of downloads.

    Raises:
        KitError: qemu is missing, or the runner failed under it.
    """
    with emulated_arm(processor(""), progress) as runner:
        try:
            runner.outputs(model, tensors, target)
        except SliceFailed as error:
            raise KitError(f"{runner.session.device.name}: {error}.") from error
