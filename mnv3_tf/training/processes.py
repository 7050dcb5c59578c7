"""One run in several processes, on one host or many: how they meet, work on one run folder, and end together.

They meet in JAX's coordination service, which also notices that one is gone. JAX then ends the others with a trace of C++ frames,
wherever they wait for that one; so each works in a child of a process that does nothing but say in a line what happened.
"""

import atexit
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.child import ends_with
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.interrupts import Interrupted
from mnv3_tf.progress import Progress, Silent

# A process that was not heard of for so long is gone.
HEARTBEAT_SECONDS = 30
# The first version that waits no longer than it is told for a process that failed.
_LEAST_JAX = (0, 9)
# All processes have to be there within this time.
MEETING_SECONDS = 300
# So long a process that failed waits for the others to fail as well.
LEAVING_SECONDS = 10
# What says that JAX may find a cluster, and that this process is the only one of it.
_CLUSTERS = ("SLURM_STEP_NODELIST", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST", "TPU_WORKER_HOSTNAMES",
             "TPU_PROCESS_ADDRESSES", "JAX_COORDINATOR_ADDRESS")
_SIZES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
# What a run that goes on needs of its folder.
_KEPT = ("config.yaml", "labels.txt", "preprocessing.json", "model.keras", "state/state.npz")
_HOSTS = "mnv3 hosts "
_NOISE = re.compile(r"\[Gloo\]|\[external/gloo")
_FATAL = re.compile(r"F\d{4} ")
_LOST = re.compile(r"Gloo|NCCL|coordination|UNAVAILABLE|DEADLINE_EXCEEDED|peer", re.IGNORECASE)
# The last lines of a process that ended are there within this time.
_LAST_WORDS_SECONDS = 2


@dataclass(frozen=True)
class Meeting:
    """Where processes meet; what is None is found out by JAX.

    Attributes:
        coordinator: HOST:PORT of the first process.
        processes: how many there are.
        process: the number of this one, from 0.
    """

    coordinator: str | None
    processes: int | None
    process: int | None

    @classmethod
    def of(cls, coordinator: str | None, processes: int | None, process: int | None) -> "Meeting | None":
        """What the user asked for, or what JAX finds by itself; None for a run in one process.

        Raises:
            InputError: the numbers do not fit together, or Keras does not compute on JAX.
        """
        given = [value is not None for value in (coordinator, processes, process)]
        jax = os.environ.get("KERAS_BACKEND") == "jax"
        if processes == 1 and not any((coordinator, process)):
            return None
        if not any(given):
            alone = any(os.environ.get(name) == "1" for name in _SIZES)
            found = any(name in os.environ for name in _CLUSTERS) or importlib.util.find_spec("libtpu")
            return cls(None, None, None) if jax and found and not alone else None
        if not jax:
            raise InputError("A run in several processes needs JAX: set KERAS_BACKEND=jax for each of them.")
        if coordinator and not re.fullmatch(r".+:\d+", coordinator):
            raise InputError(f"--coordinator is {coordinator}: it must be HOST:PORT of the process 0, with any free port.")
        if processes is not None and process is not None and process >= processes:
            raise InputError(f"--process is {process} of --processes {processes}: it must be one of 0 to {processes - 1}.")
        return cls(coordinator, processes, process)

    def join(self, out: str | Path) -> None:
        """Returns in a child of this process, which is in touch with all others; this one waits for it, and ends as it does.

        Raises:
            InputError: there is no cluster, or JAX is too old.
        """
        _check_version()
        _work_in_child(Path(out))
        try:
            import jax
        except ImportError as error:
            raise InputError(f"JAX cannot be loaded ({error}). A run in several processes needs the package jax.") from error
        try:
            jax.distributed.initialize(
                self.coordinator, self.processes, self.process, initialization_timeout=MEETING_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS, shutdown_timeout_seconds=LEAVING_SECONDS)
        except (ValueError, RuntimeError) as error:
            if self == Meeting(None, None, None) and "coordinator_address should be defined" in str(error):
                return  # no cluster after all
            raise InputError(f"The other processes cannot be found ({' '.join(str(error).split()).rstrip('.')}). Give all of "
                             "--coordinator, --processes and --process, or --processes 1 for a run in this one.") from error
        atexit.register(_leave)


def _check_version() -> None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # which is said where it is imported
        version = importlib.metadata.version("jax")
        if tuple(map(int, version.split(".")[:2])) < _LEAST_JAX:
            least = ".".join(map(str, _LEAST_JAX))
            raise InputError(f"A run in several processes needs JAX {least} or later; {version} is installed. Install it with "
                             f"pip install --upgrade 'jax>={least}' on every host.")


def _leave() -> None:
    """Waits for the others to leave as well; what they find where one does not, each says for itself."""
    with contextlib.suppress(RuntimeError):
        _jax().distributed.shutdown()


def count() -> int:
    """Processes that work on a run."""
    return _jax().process_count() if _jax() else 1


def index() -> int:
    """The number of this process, from 0."""
    return _jax().process_index() if _jax() else 0


def _jax() -> Any:
    """JAX where it has met with other processes, else None."""
    jax = sys.modules.get("jax")
    return jax if jax is not None and jax.distributed.is_initialized() else None


@contextlib.contextmanager
def together(out: str | os.PathLike[str], progress: Progress, **facts: Any) -> Iterator[tuple[Path, Progress]]:
    """A block in which all processes work on one run, and which all of them leave at the same time.

    Args:
        out: the run folder. The first process works on it; each other has a temporary copy, which goes with it.
        progress: of the first process; the others keep silent.
        facts: what must be the same in all processes, by the names that a user knows.

    Raises:
        InputError: the processes differ.
        KitError: they lost touch for a reason that JAX does not know.
    """
    place = Path(out)
    if count() == 1:
        yield place, progress
        return
    _check_version()
    from jax.experimental.multihost_utils import sync_global_devices

    from mnv3_tf.artefacts.card import library_versions

    with _in_touch(place):
        agree({**{f"the version of {name}": version for name, version in library_versions().items()}, **facts})
        hosts = _hosts()
        if _watched:
            os.write(2, f"{_HOSTS}{index()} {' '.join(hosts)}\n".encode())
        content = _of_first(_packed(place) if index() == 0 else b"")
        if index() > 0:
            place, progress = _temporary() / "run", Silent()
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                archive.extractall(place)
        try:
            yield place, progress
        except Interrupted:
            sync_global_devices("stopped")
            if index() == 0:
                raise
            sys.exit(Interrupted.exit_code)
        except KitError as error:
            raise type(error)(str(error).replace(str(place), str(out))) from error
        sync_global_devices("done")


def teller(progress: Progress) -> Callable[[str], None]:
    """What is told of trouble that this process alone may have."""
    return progress.say if index() == 0 else lambda text: print(f"Process {index()}: {text}", file=sys.stderr)


@contextlib.contextmanager
def _in_touch(out: Path) -> Iterator[None]:
    """A block in which it is no fault of this process that another one does not answer."""
    try:
        yield
    except (KitError, OSError):
        raise
    except Exception as error:
        if not _LOST.search(str(error)):
            raise
        time.sleep(2 * HEARTBEAT_SECONDS)  # JAX ends this process as soon as it knows who is gone
        raise KitError(f"The processes lost touch ({' '.join(str(error).split())[:200]}). {_remedy(out)}") from error


def agree(facts: Mapping[str, Any]) -> None:
    """Compares what must be the same in all processes.

    Raises:
        InputError: in all of them, the first that differs.
    """
    if count() == 1:
        return
    mine = {key: json.dumps(value, default=str) for key, value in facts.items()}
    hosts = _hosts()
    everyone = [json.loads(text) for text in gathered(json.dumps(mine).encode())]
    for number, theirs in enumerate(everyone):
        for key in sorted({*everyone[0], *theirs}):
            first, other = everyone[0].get(key, "nothing"), theirs.get(key, "nothing")
            if first != other:
                raise InputError(f"Process {number} on {hosts[number]} has {key} {other}, process 0 on {hosts[0]} has {first}: "
                                 "all processes of a run need the same. Start them again with one of the two.")


def gathered(content: bytes) -> list[bytes]:
    """What all processes give, in their order."""
    if count() == 1:
        return [content]
    from jax.experimental.multihost_utils import process_allgather

    sizes = process_allgather(np.array(len(content), np.int32)).ravel()
    padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
    padded[:len(content)] = np.frombuffer(content, np.uint8)
    return [row[:size].tobytes() for row, size in zip(process_allgather(padded), sizes, strict=True)]


def _of_first(content: bytes) -> bytes:
    """What the first process gives."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    size = int(gathered(str(len(content)).encode())[0])
    own = np.frombuffer(content, np.uint8) if index() == 0 else np.zeros(size, np.uint8)
    return np.asarray(broadcast_one_to_all(own)).astype(np.uint8).tobytes()


def on_this_host() -> int:
    """How many of the processes there are on this host."""
    return _hosts().count(socket.gethostname())


def _hosts() -> list[str]:
    return [name.decode() for name in gathered(socket.gethostname().encode())]


@contextlib.contextmanager
def stop_on_notice() -> Iterator[list[int]]:
    """As :func:`mnv3_tf.interrupts.stop_on_signals`, but a signal to one process becomes a notice to all of them, which
    :func:`is_last` hears; a second Ctrl-C stops at once."""
    def note(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGTERM)  # which JAX looks out for

    before = signal.signal(signal.SIGINT, note)
    try:
        yield []
    finally:
        signal.signal(signal.SIGINT, before)


def is_last(step: int) -> bool:
    """Whether all processes stop here; to be asked by all, each time with a number greater by one."""
    if count() == 1:
        return False
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    return reached_preemption_sync_point(step)


def _packed(run: Path) -> bytes:
    """What a copy of a run folder needs to go on, as a zip archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in _KEPT:
            if (run / name).exists():
                archive.write(run / name, name)
    return content.getvalue()


# Whether this is a child whose parent waits for its end, and a folder that goes with it.
_watched = False
_folder: Path | None = None


def _temporary() -> Path:
    global _folder
    if _folder is None:
        _folder = Path(tempfile.mkdtemp(prefix="mnv3-run-"))
        atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    return _folder


def _remedy(out: Path) -> str:
    return f"What was saved is in {out}: go on by starting all processes again with --resume."


def _work_in_child(out: Path) -> None:
    """Returns in a child. What native code writes to its standard output and error goes to the parent, which never returns."""
    global _watched, _folder
    if not hasattr(os, "fork"):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    _folder = Path(tempfile.mkdtemp(prefix="mnv3-run-"))
    read, write = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child:
        os.close(write)
        try:
            code = _wait_for(child, read, out)
        finally:
            shutil.rmtree(_folder, ignore_errors=True)
        sys.exit(code)
    _watched = True
    os.close(read)
    if not ends_with(parent):
        os._exit(1)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # that a process is gone is said once
    for number, name in ((1, "stdout"), (2, "stderr")):
        own = os.fdopen(os.dup(number), "w", buffering=1, encoding=getattr(sys, name).encoding, errors="backslashreplace")
        setattr(sys, name, own)
        os.dup2(write, number)


def _wait_for(child: int, read: int, out: Path) -> int:
    """The exit code of the child; what ended it is said."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGTERM))
    hosts: list[str] = []
    words: list[str] = []

    def listen() -> None:
        with open(read, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(_HOSTS):
                    hosts[:] = line.removeprefix(_HOSTS).split()
                elif words or _FATAL.match(line):
                    words.append(line)
                elif not _NOISE.match(line):
                    sys.stderr.write(line)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    listener.join(_LAST_WORDS_SECONDS)  # what the child started may live on, and keep the pipe open
    if code >= 0:
        return code
    said = "".join(words)
    why = _what_happened(said, hosts)
    if why is None:
        why = f"This process ended by {signal.Signals(-code).name}.\n{said}".strip()
    if why:
        print(f"Error: {why} {_remedy(out)}", file=sys.stderr)
    return 1


def _what_happened(said: str, hosts: list[str]) -> str | None:
    """What JAX's last words mean; empty where this process itself failed, and has said so; None for anything else.

    Args:
        said: from the fatal message on.
        hosts: the number of this process, then the host of each; empty before they met.
    """
    def name(number: int) -> str:
        return f"Process {number}" + (f" on {hosts[number + 1]}" if number + 1 < len(hosts) else "")

    if "RegisterTask" in said:
        if "ALREADY_EXISTS" in said:
            return "Another process has the same number (--process)."
        return f"Not all processes came within {MEETING_SECONDS} s. All need the same --processes and --coordinator, at " \
               "which they reach process 0."
    silent = re.search(r"heartbeats\):(.*?)\nThe tasks", said, re.DOTALL)
    if silent:
        gone = [int(number) for number in re.findall(r"(\d+)$", silent[1], re.MULTILINE)]
        return f"{' and '.join(map(name, gone))} {'are' if gone[1:] else 'is'} gone: killed, or cut off from the network."
    failed = re.search(r"first task at the barrier: \S*?(\d+)\.", said)
    if failed:
        number = int(failed[1])
        return "" if hosts[:1] == [str(number)] else f"{name(number)} failed, and says there why."
    if "CoordinationService" in said:
        return f"{name(0)} is gone: ended, or out of reach from here."
    return None
