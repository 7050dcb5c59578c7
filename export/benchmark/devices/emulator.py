"""ARM without a phone: the kit's runner under qemu's user-mode emulation, whose int8 arithmetic is that of the processor."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from mnv3_tf.errors import KitError
from mnv3_tf.export.benchmark.runners.kit_runner import parse_runner_output, runner_arguments
from mnv3_tf.export.benchmark.runners.runner_build import build_runner
from mnv3_tf.progress import Progress

# A processor with the int8 dot product. qemu's "max" computes int8 wrongly in XNNPACK.
_CPU = "cortex-a76"
_CORES = 2
_CPUINFO = ("processor\t: {n}\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc "
            "dcpop asimddp\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\n"
            "CPU revision\t: 1\n\n")
_SECONDS = 600


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
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if qemu is None:
        raise KitError("qemu-aarch64 was not found. Install it (Debian and Ubuntu: apt install qemu-user), or leave --arm out.")
    bundle = build_runner("aarch64", progress)
    with tempfile.TemporaryDirectory(prefix="mnv3-arm-") as store:
        folder, root = Path(store) / "runner", Path(store) / "root"
        folder.mkdir()
        for name, file in bundle.files.items():
            shutil.copyfile(file, folder / name)
            (folder / name).chmod(0o755)
        # XNNPACK asks these for the processor's abilities, and they must not be those of the machine below.
        (root / "proc").mkdir(parents=True)
        (root / "proc" / "cpuinfo").write_text("".join(_CPUINFO.format(n=n) for n in range(_CORES)))
        cpus = root / "sys" / "devices" / "system" / "cpu"
        cpus.mkdir(parents=True)
        for name in ("possible", "present", "online"):
            (cpus / name).write_text(f"0-{_CORES - 1}\n")
        words = [qemu, "-L", str(root), "-cpu", _CPU, *bundle.command(str(folder)),
                 *runner_arguments(str(model), inputs=str(tensors), outputs=str(target))]
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=_SECONDS,
                                  env={"PATH": os.environ.get("PATH", "")})
        except subprocess.TimeoutExpired:
            raise KitError(f"emulated ARM: not finished within {_SECONDS} s. Look at fewer pictures (verify.pictures).") from None
    found = parse_runner_output(done.stdout, done.stderr, done.returncode)
    if isinstance(found, str):
        raise KitError(f"emulated ARM: {found}.")
