"""The kit's own runner on a device: its arguments, and what it prints."""

import re
from dataclasses import dataclass
from typing import Literal

from mnv3_tf.export.benchmark.runners.operators import Event

Measured = Literal["times", "memory", "operators"]
# What the runtime says on its way is no reason of a failure.
_NOISE = re.compile(r"^(INFO|WARNING|VERBOSE|DEBUG)\b|^kit_runner|^\w+ [\d. ]+$")


@dataclass(frozen=True)
class RunnerResult:
    """What a run gave. Times in milliseconds; where instructions are counted, a million of them is a millisecond.

    Attributes:
        samples_ms: of each timed run, in order; empty where something else was measured.
        init_ms: to load and prepare the model.
        first_ms: the first run.
        peak_memory_mb: of the process, where memory was measured.
        fully_delegated: the delegate runs every operator.
        temperatures_c: before and after, where a thermal zone was given.
        outputs: written for given inputs.
        operators: where they were measured: of a run, in order.
        profiled_runs: that these are means of.
        total_ms: of all operators in a run: quartile, median and quartile over the runs.
        dot_products: in a timed run, where instructions are counted.
    """

    samples_ms: tuple[float, ...]
    init_ms: float
    first_ms: float | None
    peak_memory_mb: float | None
    fully_delegated: bool
    temperatures_c: tuple[float, ...]
    outputs: int
    operators: tuple[Event, ...] = ()
    profiled_runs: int = 0
    total_ms: tuple[float, ...] = ()
    dot_products: int | None = None


def runner_arguments(model: str, *, measure: Measured = "times", threads: int = 1, warmup: int = 10, runs: int = 50,
                     min_seconds: float = 0.0, seed: int = 0, kernels: str = "xnnpack", thermal: str | None = None,
                     inputs: str | None = None, outputs: str | None = None) -> list[str]:
    """What follows the library on the command line; paths are the device's.

    Args:
        model: the `.tflite` file.
        measure: what this start is for.
        threads, warmup, runs, min_seconds, seed: as for the host's benchmark.
        kernels: "xnnpack" or "builtin".
        thermal: a thermal zone's file, read before and after.
        inputs: a file with one or more input tensors; nothing is timed then.
        outputs: where their outputs go.
    """
    words = [model, "--measure", measure, "--threads", str(threads), "--warmup", str(warmup), "--runs", str(runs),
             "--min-seconds", f"{min_seconds:g}", "--seed", str(seed), "--kernels", kernels]
    words += ["--thermal", thermal] if thermal else []
    return words + (["--input", inputs, "--output", outputs or "output.bin"] if inputs else [])


def parse_runner_output(text: str, errors: str = "", code: int = 0) -> RunnerResult | str:
    """Reads what the runner printed.

    Args:
        text, errors: its output; where the device merges both, `text` has all.
        code: its exit code.

    Returns:
        The result, or why there is none, in one line.
    """
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines()]
    values: dict[str, str] = {}
    temperatures: list[float] = []
    operators: list[str] = []
    for line in lines:
        name, _, value = line.partition(" ")
        if name == "temperature" and value.lstrip("-").isdigit():
            temperatures.append(int(value) / 1000 if abs(int(value)) > 1000 else float(value))
        elif name == "operator":
            operators.append(value)
        elif re.fullmatch(r"us|[a-z]+_us|[a-z]+_kb|[a-z]+_ns|outputs|fully_delegated|profiled_runs|dot_products", name):
            values[name] = value
    if "done" not in lines:
        return _reason([*lines, *errors.replace("\r", "\n").splitlines()], code)
    if values.get("us") == "" or not values.keys() & {"us", "outputs", "peak_kb", "profiled_runs"}:
        return "the runner's output cannot be read: it has neither times nor outputs"
    try:
        clock_ms = float(values.get("clock_ns", 0)) / 1e6
        events = tuple(_event(text, clock_ms) for text in operators)
        return RunnerResult(
            tuple(float(value) / 1000 for value in values.get("us", "").split()), float(values["init_us"]) / 1000,
            float(values["first_us"]) / 1000 if "first_us" in values else None,
            float(values["peak_kb"]) / 1000 if values.get("peak_kb", "-1") != "-1" else None,
            values.get("fully_delegated") == "1", tuple(temperatures), int(values.get("outputs", 0)), events,
            int(values.get("profiled_runs", 0)),
            tuple(max(0.0, float(value) / 1e6 - clock_ms * len(events)) for value in values.get("total_ns", "").split()),
            int(values["dot_products"]) if "dot_products" in values else None)
    except (KeyError, ValueError) as error:
        return f"the runner's output cannot be read ({error})"


def _event(text: str, clock_ms: float) -> Event:
    """Of "KIND INDEX NANOSECONDS NAME". Each time holds one reading of the clock, which is taken out."""
    kind, index, nanoseconds, name = text.split(" ", 3)
    return Event(name, max(0.0, float(nanoseconds) / 1e6 - clock_ms), int(index) if kind == "kernel" else None)


_REASONS = (
    ("permission denied", "the device does not let the runner be executed (Permission denied). Its folder must allow programs, "
                          "as /data/local/tmp does; some devices need a restart"),
    ("not executable: 64-bit elf", "the device is a 32-bit one, and the runner a 64-bit program. Take --runner benchmark_model "
                                   "with a 32-bit --benchmark-binary"),
    ("exec format error", "the runner is for another processor than the device's"),
    ("cannot link executable", "the device's loader refuses the runner (CANNOT LINK EXECUTABLE)"),
)


def _reason(lines: list[str], code: int) -> str:
    text = [line.strip() for line in lines if line.strip()]
    own = next((line for line in text if line.startswith("error: ")), None)
    if own:
        return own.removeprefix("error: ")
    low = "\n".join(text).lower()
    for words, reason in _REASONS:
        if words in low:
            return reason
    if code in (137, 9):
        return "the runner was killed by the device (signal 9): too little memory, or its watchdog"
    if code > 128:
        return f"the runner was ended by signal {code - 128}"
    last = next((line for line in reversed(text) if not _NOISE.match(line)), "no message")
    return f"the runner ended without a result (exit code {code}): {last}"
