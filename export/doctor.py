"""What this machine has for the kit's work, and what that means.

TensorFlow and JAX are asked in processes of their own, so that one that is broken or hangs cannot take the answer with it.
"""

import contextlib
import json
import locale
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any

from mnv3_tf.child import Child, ChildFailed
from mnv3_tf.errors import KitError
from mnv3_tf.export.benchmark.devices.adb import Adb
from mnv3_tf.files import cache_folder
from mnv3_tf.machine import free_memory, processor_in_words, usable_cores
from mnv3_tf.text import counted, few

PACKAGE = "mnv3-tf"
_SECONDS = 120.0
# What `make demo` writes, with room for temporary files.
_LEAST_FREE = 300_000_000
# Settings of the surroundings that change what is computed, or where things are.
_VARIABLES = ("KERAS_BACKEND", "KERAS_HOME", "TF_USE_LEGACY_KERAS", "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "XLA_FLAGS",
              "TF_XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "TF_FORCE_GPU_ALLOW_GROWTH", "OMP_NUM_THREADS", "PYTHONPATH",
              "PYTHONIOENCODING", "PYTHONUTF8", "TMPDIR", "XDG_CACHE_HOME", "ADB", "ANDROID_HOME", "ADB_SERVER_SOCKET",
              "ANDROID_ADB_SERVER_PORT")
_DEFAULTS = {"backend": "tensorflow", "floatx": "float32", "image_data_format": "channels_last", "epsilon": 1e-7}
_BACKENDS = ("tensorflow", "jax")
# What the kit puts into each folder of its cache; anything else there is somebody's own.
_MADE = {"scan": ("*.jsonl",), "weights": (),
         "runner": ("*/kit_runner-*", "*/instruction_counter-*", "*/libLiteRt.so-*", "*/libraries-*/*", "*/packages/*"),
         "benchmark_model": ("[0-9a-f]" * 64, "benchmark_model", "downloads.json")}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what.
        text: what was found and what it means, in one line.
        facts: the same as plain values.
        problem: why `make demo` would not work, and what to do; "" where it would.
    """

    topic: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def examine() -> Iterator[Finding]:
    """Looks at everything; what takes long (TensorFlow and JAX) is begun first and comes last."""
    asked = {"tensorflow": tensorflow_devices, "jax": jax_devices}
    with contextlib.ExitStack() as opened:
        began: dict[str, Child[list[str]] | str] = {}
        for name, question in asked.items():
            if util.find_spec(name) is None:
                began[name] = "is not installed"
                continue
            try:
                began[name] = opened.enter_context(Child(question))
            except (KitError, OSError) as error:
                began[name] = f"could not be asked ({error})"
        for look in (_machine, _packages, _extras, _keras, _variables, _places, _caches, _console, _tools, _adb):
            yield look()
        for name, child in began.items():
            yield accelerators(name, child)


def tensorflow_devices() -> list[str]:
    """The devices that TensorFlow sees."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    found = []
    for device in tf.config.list_physical_devices():
        name = tf.config.experimental.get_device_details(device).get("device_name", "") if device.device_type == "GPU" else ""
        found.append(f"{device.device_type} {name}".strip())
    return found


def jax_devices() -> list[str]:
    """The devices that JAX sees."""
    import jax

    return [device.platform.upper() + (f" {device.device_kind}" if device.platform != "cpu" else "") for device in jax.devices()]


def accelerators(name: str, child: "Child[list[str]] | str", seconds: float | None = None) -> Finding:
    """What a library says of its devices, or why it says nothing.

    Args:
        name: "tensorflow" or "jax", of which the first is needed.
        child: the process that asks it, or why there is none.
        seconds: to wait at most.
    """
    seconds = _SECONDS if seconds is None else seconds
    label = {"tensorflow": "TensorFlow", "jax": "JAX"}[name]
    try:
        devices = child.answer(seconds) if isinstance(child, Child) else None
        problem = child if isinstance(child, str) else ""
    except subprocess.TimeoutExpired:
        devices, problem = None, f"gave no answer within {seconds:.0f} s: its installation or a driver hangs"
    except ChildFailed as error:
        devices, problem = None, f"cannot be used ({(error.said or error.how)[:200]})"
    if devices is None:
        needed = name == "tensorflow"
        text = f"{problem}{'' if needed else '; only KERAS_BACKEND=jax needs it'}"
        return Finding(label, text, {"devices": None, "problem": problem},
                       f"{label} {problem}. Install the tested version: make install, or pip install -e ." if needed else "")
    others = [device for device in devices if not device.startswith("CPU")]
    text = few(others) or "no accelerator, only the CPU"
    if not others and name == "tensorflow" and shutil.which("nvidia-smi"):
        text += "; there is an NVIDIA driver, and pip install -e '.[gpu]' brings what TensorFlow lacks"
    return Finding(label, text, {"devices": devices, "problem": None})


def _machine() -> Finding:
    python = platform.python_version()
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    memory = free_memory()
    text = f"Python {python}, {system}; {processor_in_words()}; {counted(usable_cores(), 'core')}" + (
        f"; {memory / 1e9:.1f} GB of memory free" if memory is not None else "")
    wanted = _requires_python()
    return Finding("machine", text, {"python": python, "python_tested": wanted, "executable": sys.executable, "system": system,
                                     "processor": processor_in_words(), "cores": usable_cores(), "memory_free_bytes": memory},
                   "" if within(python, wanted) else f"Python {python} is not one of those that were tested ({wanted}). Make the "
                   "environment with one of them: make install PYTHON=/path/to/python3.")


def within(version: str, wanted: str) -> bool:
    """Whether a version is in a range such as ``>=2.21,<2.22``; what cannot be compared counts as in it."""
    found = _numbers(version)
    for sign, limit in re.findall(r"(>=|<)\s*([\d.]+)", wanted):
        bound = _numbers(limit)
        width = max(len(found), len(bound))
        ours, theirs = ((*numbers, *[0] * (width - len(numbers))) for numbers in (found, bound))
        if ours < theirs if sign == ">=" else ours >= theirs:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


def _requires_python() -> str:
    return str(_distribution().get("Requires-Python", "")) if _distribution() else ""


def _distribution() -> Any:
    try:
        return metadata.metadata(PACKAGE)
    except metadata.PackageNotFoundError:
        return {}


def required() -> dict[str, tuple[str, str]]:
    """Every package that the kit asks for: name -> (tested range, the extra that asks for it, or "")."""
    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, tuple[str, str]] = {}
    for line in lines:
        match = re.match(r"([\w.-]+)(\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;.*extra == ['\"](\w+)['\"])?", line)
        if match:
            found.setdefault(match.group(1), (match.group(3).strip(), match.group(4) or ""))
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> Finding:
    """The packages that are always needed, and scikit-learn, which the demo needs."""
    rows = {name: (_version(name), wanted) for name, (wanted, extra) in required().items() if extra in ("", "demo")}
    if not rows:
        return Finding("packages", f"{PACKAGE} is not installed here, so nothing is known of what it asks for",
                       problem=f"{PACKAGE} is not installed in this Python. Install it: make install, or pip install -e .")
    missing = [name for name, (version, _) in rows.items() if version is None]
    outside = [f"{name} {version} (tested: {wanted})" for name, (version, wanted) in rows.items()
               if version is not None and not within(version, wanted)]
    parts = [f"{word}: {', '.join(names)}" for word, names in (("missing", missing), ("not as tested", outside)) if names]
    text = ", ".join(f"{name} {version} ({wanted})" for name, (version, wanted) in rows.items()
                     if version is not None and within(version, wanted))
    facts = {name: {"version": version, "tested": wanted, "as_tested": version is not None and within(version, wanted)}
             for name, (version, wanted) in rows.items()}
    problem = f"packages {'; '.join(parts)}. Install what was tested: make install, or pip install -e '.[demo]'." if parts else ""
    return Finding("packages", f"{PACKAGE} {_version(PACKAGE)}; as tested: {text}", facts, problem)


def _extras() -> Finding:
    uses = {"jax": "KERAS_BACKEND=jax", "ziglang": "--target adb, ssh and arm (compiles the runner)",
            "tflite-micro": "--target and --require micro", "ethos-u-vela": "--target and --require ethos-u"}
    rows = {name: (_version(name), required().get(name, ("", ""))[0], use) for name, use in uses.items()}
    text = "; ".join(f"{name} {version} ({wanted}{'' if within(version, wanted) else ': another one'})" if version else
                     f"no {name}, which is for {use}" for name, (version, wanted, use) in rows.items())
    return Finding("extras", text, {name: {"version": version, "tested": wanted} for name, (version, wanted, _) in rows.items()})


def _keras() -> Finding:
    """What Keras takes from the environment and from its own file, which other projects share."""
    try:
        file = Path(os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser()) / "keras.json"
    except RuntimeError:  # no home folder: Keras takes this one
        file = Path("/tmp/.keras/keras.json")
    given: dict[str, Any] = {}
    problem = ""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        given = {key: read[key] for key in _DEFAULTS if key in read} if isinstance(read, dict) else {}
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        problem = f"{file} cannot be read ({str(error).splitlines()[0]}). Remove it; Keras writes it anew."
    backend = os.environ.get("KERAS_BACKEND") or given.get("backend", "tensorflow")
    source = "KERAS_BACKEND" if os.environ.get("KERAS_BACKEND") else str(file)
    remedy = "Set KERAS_BACKEND=tensorflow."
    if backend not in _BACKENDS:
        problem = problem or f"{source} sets Keras's backend to {backend}; the kit runs on {' or '.join(_BACKENDS)}. {remedy}"
    elif backend == "jax" and util.find_spec("jax") is None:
        problem = problem or f"{source} sets Keras's backend to jax, which is not installed (the extra `jax`). {remedy}"
    changed = [f"{key}={value}" for key, value in given.items() if value != _DEFAULTS[key] and key != "backend"]
    text = f"backend {backend}" + (f"; {file} also sets {', '.join(changed)}, for every project of this user" if changed else
                                   "; else Keras's own defaults")
    return Finding("Keras", text, {"backend": backend, "file": str(file), "settings": given}, problem)


def _variables() -> Finding:
    found = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    text = ", ".join(f"{name}={value}" for name, value in found.items())
    return Finding("variables", text or "none that change anything", found)


def _places() -> Finding:
    """Free space and the right to write, where the kit writes."""
    source = Path(__file__).resolve().parents[1] / "demo"
    places = {"this folder": lambda: Path.cwd(), "temporary folder": lambda: Path(tempfile.gettempdir()), "home": Path.home,
              "cache": cache_folder, **({"demo": lambda: source} if source.is_dir() else {})}
    texts, problems = [], []
    facts: dict[str, Any] = {}
    for name, find in places.items():
        path, free, reason = _look(find)
        facts[name] = {"path": path, "free_bytes": free, "problem": reason or None}
        texts.append(f"{name} {path}: " + (reason or f"{(free or 0) / 1e9:.1f} GB free"))
        if reason and name in ("temporary folder", "demo"):
            problems.append(f"the {name} {path} {reason}. " + ("Name another one with TMPDIR." if name != "demo" else
                                                               "Work in a copy of the project that you may write to."))
        elif name in ("temporary folder", "demo") and (free or 0) < _LEAST_FREE:
            problems.append(f"the {name} {path} has {(free or 0) / 1e6:.0f} MB free; {_LEAST_FREE / 1e6:.0f} MB are needed. Free "
                            "some space.")
    return Finding("places", "; ".join(texts), facts, " ".join(problems))


def _look(find: Callable[[], Path]) -> tuple[str, int | None, str]:
    """A folder's path, its free bytes, and why nothing can be written there; its nearest parent's, where it is not there yet."""
    path = Path()
    try:
        path = find()
        there = next((parent for parent in (path, *path.parents) if parent.exists()), path)
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x" * 4096)
        return str(path), free, ""
    except (OSError, RuntimeError, KitError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return str(path), None, f"cannot be written to ({reason})"


def made_by_kit() -> dict[str, list[Path]]:
    """The files in the kit's cache that the kit put there, by folder; links are left alone, and what they lead to."""
    try:
        from mnv3_tf.weights.sources.registry import published

        root = cache_folder()
    except (RuntimeError, ImportError):  # no home folder, or a package is missing
        return {}
    names = {f"{entry.file_name}{end}" for entry in published() for end in ("", ".sha256")}
    found: dict[str, list[Path]] = {}
    for name, patterns in _MADE.items():
        folder = root / name
        files = [file for pattern in patterns or sorted(names) for file in folder.glob(pattern)]
        found[name] = [file for file in files if file.is_file() and not any(
            part.is_symlink() for part in (file, *file.parents) if root in part.parents)]
    return found


def clear_cache() -> tuple[int, int]:
    """Removes what the kit put into its cache, and folders that are empty then.

    Returns:
        Files and bytes that were removed.

    Raises:
        KitError: a file cannot be removed.
    """
    files = [file for group in made_by_kit().values() for file in group]
    size = sum(file.stat().st_size for file in files)
    try:
        for file in files:
            file.unlink()
    except OSError as error:
        raise KitError(f"{error.filename}: cannot be removed ({error.strerror}).") from error
    root = cache_folder() if files else Path()
    for folder in sorted({parent for file in files for parent in file.parents if root in parent.parents}, reverse=True):
        with contextlib.suppress(OSError):  # something of somebody's own is in it
            folder.rmdir()
    return len(files), size


def _caches() -> Finding:
    sizes = {name: sum(file.stat().st_size for file in files) for name, files in made_by_kit().items()}
    text = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items() if size) or "empty"
    return Finding("caches", f"{text}; --clear-cache removes them" if any(sizes.values()) else text, sizes)


def _console() -> Finding:
    encodings = {"output": getattr(sys.stdout, "encoding", None) or "unknown", "files": sys.getfilesystemencoding(),
                 "locale": locale.getpreferredencoding(False)}
    other = [f"{name} {value}" for name, value in encodings.items() if value.lower().replace("-", "") != "utf8"]
    text = f"not UTF-8: {', '.join(other)}; what it cannot show is written as \\x.. (PYTHONUTF8=1 changes that)"
    return Finding("console", text if other else "UTF-8", encodings)


def _tools() -> Finding:
    uses = {"make": "the Makefile", "ssh": "--target ssh:HOST", "qemu-aarch64": "--target arm and verify --arm"}
    found = {name: shutil.which(name) for name in (*uses, "cc")}
    text = ", ".join(f"{name} {'is there' if found[name] else f'is missing ({use} needs it)'}" for name, use in uses.items())
    return Finding("tools", f"{text}, C compiler {found['cc'] or 'none (ziglang is enough)'}", found)


def _adb() -> Finding:
    try:
        adb = Adb()
        version = (adb.run("version").stdout.splitlines() or ["unknown"])[0]
        entries = adb.devices()
    except (KitError, OSError) as error:
        return Finding("adb", f"{error} Only --target adb needs it.", {"program": None, "devices": [], "problem": str(error)})
    lines = [f"adb:{entry.serial} ({entry.model or 'ready'})" if entry.usable else entry.problem() for entry in entries]
    return Finding("adb", f"{adb.program} ({version}); " + ("; ".join(lines) or "no device is connected"),
                   {"program": adb.program, "version": version, "devices": [vars(entry) for entry in entries], "problem": None})
