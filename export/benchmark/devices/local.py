"""This machine as a device: what is started as a program of its own, as on a phone."""

import contextlib
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.export.benchmark.devices.remote import RemoteDevice, run_client
from mnv3_tf.export.benchmark.devices.session import opened
from mnv3_tf.export.benchmark.measure import BenchmarkSettings
from mnv3_tf.export.benchmark.runners.runner_build import build_runner
from mnv3_tf.export.benchmark.runners.runners import KitRunner
from mnv3_tf.progress import Progress


class LocalDevice(RemoteDevice):
    """This machine.

    Args:
        base: a folder to work in.
    """

    kind = "host"

    def __init__(self, base: str):
        super().__init__("this machine")
        self.base = base

    def execute(self, script: str, seconds: float) -> tuple[str, str]:
        done = run_client(["sh", "-c", script], "sh", seconds)
        return done.stdout, done.stderr

    def push(self, local: Path, remote: str, *, executable: bool = False, seconds: float = 300.0) -> None:
        self._copy(local, Path(remote))
        if executable:
            Path(remote).chmod(0o755)

    def pull(self, remote: str, local: Path, *, seconds: float = 300.0) -> None:
        self._copy(Path(remote), local)

    def raise_if_lost(self, text: str, doing: str) -> None:
        """It cannot be lost."""

    def _copy(self, source: Path, target: Path) -> None:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise KitError(f"{target}: cannot be written ({error.strerror or error}). Free some space in {self.base}, or name "
                           "another folder with TMPDIR.") from error


@contextlib.contextmanager
def kit_runner_here(settings: BenchmarkSettings, progress: Progress) -> Iterator[KitRunner]:
    """The kit's runner on this machine, for the times of operators.

    Args:
        settings: delegate and seed.
        progress: told of what is compiled.

    Raises:
        InputError: the runner is not for this machine; the message names the alternative.
        KitError: the runner cannot be built, or the temporary folder cannot be written to.
    """
    if sys.platform != "linux":
        raise InputError(f"--profile on this machine needs Linux, and this is {sys.platform}. Profile on a device: --target adb "
                         "or --target ssh:HOST.")
    bundle = build_runner(platform.machine(), progress)
    with tempfile.TemporaryDirectory(prefix="mnv3-local-") as base, opened(LocalDevice(base)) as session:
        runner = KitRunner(session, bundle, delegate=settings.delegate, seed=settings.seed)
        runner.install()
        yield runner
