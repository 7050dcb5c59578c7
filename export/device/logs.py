"""Reads what TFLite's and LiteRT's benchmark tools printed over the years.

Nothing is invented: what a log does not say is None. A run counts only where there is a result line, whatever the exit code.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# What a line may begin with: logcat's columns, Android's "I/tflite: ", TFLite's levels, LiteRT's "[file.h:12] ".
_PREFIXES = (
    re.compile(r"^\d\d-\d\d \d\d:\d\d:\d\d\.\d+\s+\d+\s+\d+\s+[VDIWEF]\s+[^:]+:\s?"),
    re.compile(r"^[VDIWEF]/[^:(]+(?:\(\s*\d+\))?:\s?"),
    re.compile(r"^(?:INFO|WARN|WARNING|ERROR|VERBOSE):\s+(?=\S)"),
    re.compile(r"^\[[\w./-]+:\d+\]\s?"),
)
_COUNT = re.compile(rf"^count=(\d+)((?:\s+(?:first|curr|min|max|avg|std|p5|median|p95)={_NUMBER})*)(\(all same\))?\s*$")
_FIELD = re.compile(rf"(first|curr|min|max|avg|std|p5|median|p95)=({_NUMBER})")
_TIMINGS = re.compile(r"^(?:Average inference|Inference) timings in us:\s*(.*)$")
_TIMING = re.compile(rf"([A-Za-z][A-Za-z ()]*?):\s*({_NUMBER})")
_LITERT = re.compile(rf"^(Model initialization|Warmup \(first\)|Warmup \(avg\)|Inference \((?:avg|min|max|median|std|p5|p95)\)):"
                     rf"\s*({_NUMBER}) ms(?: \((\d+) runs\))?\s*$")
_OP = re.compile(rf"^\s*(\S[^\t]*?)\t\s*{_NUMBER}\t\s*({_NUMBER})\t\s*({_NUMBER})%\t.*?\t\s*(\d+)\t(.+?)(?::\d+)?\s*$")
_APPLIED = re.compile(r"Explicitly applied (\w+) delegate|Created TensorFlow Lite (\w+) delegate|\b(\w+) delegate created")
_REPLACED = re.compile(r"Replacing (\d+)(?: out of (\d+))? node\(s\) with delegate .*? yielding (\d+) partitions")
_NOT_EXECUTED = re.compile(r"[Tt]hough .+? is explicitly applied, the model graph will (?:not be|be partially) executed")
_DELEGATES = {"xnnpack": "xnnpack", "gpu": "gpu", "gpuv2": "gpu", "opencl": "gpu", "nnapi": "nnapi", "hexagon": "hexagon"}


@dataclass(frozen=True)
class OpTime:
    """A row of the operator profile.

    Attributes:
        name: of what it makes.
        kind: such as "CONV_2D".
        mean_ms: of a run.
        share: of all operators' time, 0..1.
        calls: in a run.
    """

    name: str
    kind: str
    mean_ms: float
    share: float
    calls: int


@dataclass(frozen=True)
class BenchmarkLog:
    """What a log says. Times in milliseconds, memory in MB; None where it does not say.

    Attributes:
        runs, warmup_runs: timed and untimed runs.
        median_ms ... p95_ms: of the timed runs.
        first_ms: the very first run.
        init_ms: to load and prepare.
        warmup_ms: mean of the untimed runs.
        peak_memory_mb, init_memory_mb, memory_mb: peak of the process; growth by loading, and in all.
        delegate: that was applied, or None.
        delegated_nodes, nodes, partitions: what it took.
        not_executed: the tool says that the applied delegate does not run the graph, or only a part.
        unconsumed: flags that the tool did not know.
        warnings, errors: its lines of these levels.
        ops: the operator profile of the timed runs.
        asked_runs: as the tool repeats it.
        dry_run: no kernel was run.
    """

    runs: int | None = None
    warmup_runs: int | None = None
    median_ms: float | None = None
    mean_ms: float | None = None
    std_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    p5_ms: float | None = None
    p95_ms: float | None = None
    first_ms: float | None = None
    init_ms: float | None = None
    warmup_ms: float | None = None
    peak_memory_mb: float | None = None
    init_memory_mb: float | None = None
    memory_mb: float | None = None
    delegate: str | None = None
    delegated_nodes: int | None = None
    nodes: int | None = None
    partitions: int | None = None
    not_executed: str = ""
    unconsumed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    ops: tuple[OpTime, ...] = ()
    asked_runs: int | None = None
    dry_run: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def parse_log(text: str) -> BenchmarkLog:
    """Reads a log: standard output and error in one text, in any order."""
    lines = [line.rstrip() for line in re.split(r"\r+\n|\n|\r", text)]
    plain = [_without_prefix(line) for line in lines]
    found: dict[str, Any] = {}
    counts = _count_lines(plain)
    if counts:
        found |= _from_counts(counts)
    for line in plain:
        found |= _from_timings(line) | _from_litert(line) | _from_memory(line) | _from_delegate(line)
        if line.startswith("Min num runs: ["):
            found["asked_runs"] = int(re.sub(r"\D", "", line) or 0)
        if re.match(r"Run w/o invoking kernels: \[(1|true)\]", line):
            found["dry_run"] = True
    unconsumed = [flag for line in plain if "Unconsumed cmdline flags:" in line
                  for flag in line.partition("Unconsumed cmdline flags:")[2].split()]
    return BenchmarkLog(**found, unconsumed=tuple(unconsumed), warnings=_level(lines, "WARN"), errors=_errors(lines),
                        ops=_ops(plain))


def _without_prefix(line: str) -> str:
    line = line.strip()
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            shorter = prefix.sub("", line, count=1)
            changed |= shorter != line
            line = shorter
    return line


def _count_lines(lines: list[str]) -> list[dict[str, float]]:
    """Those outside of the operator tables, which hold such lines too, behind words of their own."""
    found = []
    for line in lines:
        match = _COUNT.match(line)
        if match:
            fields = {name: float(value) for name, value in _FIELD.findall(match.group(2))}
            found.append({"count": float(match.group(1)), **fields})
    return found


def _from_counts(counts: list[dict[str, float]]) -> dict[str, Any]:
    """The first line is the warm-up's, the second the result; one alone is the result."""
    result = counts[1] if len(counts) > 1 else counts[0]
    found: dict[str, Any] = {"runs": int(result["count"])}
    if len(counts) > 1:
        found["warmup_runs"] = int(counts[0]["count"])
    only = result.get("curr") if result["count"] == 1 or "avg" not in result else None
    for name, key in (("avg", "mean_ms"), ("std", "std_ms"), ("min", "min_ms"), ("max", "max_ms"), ("median", "median_ms"),
                      ("p5", "p5_ms"), ("p95", "p95_ms")):
        value = result.get(name)
        if value is None and only is not None and name in ("avg", "min", "max", "median"):
            value = only
        if value is not None:
            found[key] = value / 1000
    return found


_TIMING_KEYS = {"init": "init_ms", "first inference": "first_ms", "warmup": "warmup_ms", "warmup (avg)": "warmup_ms",
                "inference (avg)": "mean_ms", "no stats": "mean_ms", "inference": "mean_ms"}


def _from_timings(line: str) -> dict[str, Any]:
    match = _TIMINGS.match(line)
    if not match:
        return {}
    found = {}
    for name, value in _TIMING.findall(match.group(1)):
        key = _TIMING_KEYS.get(name.strip().lower())
        if key:
            found[key] = float(value) / 1000
    return found


_LITERT_KEYS = {"Model initialization": "init_ms", "Warmup (first)": "first_ms", "Warmup (avg)": "warmup_ms",
                "Inference (avg)": "mean_ms", "Inference (min)": "min_ms", "Inference (max)": "max_ms",
                "Inference (median)": "median_ms", "Inference (std)": "std_ms", "Inference (p5)": "p5_ms",
                "Inference (p95)": "p95_ms"}


def _from_litert(line: str) -> dict[str, Any]:
    match = _LITERT.match(line)
    if not match:
        return {}
    name, value, runs = match.groups()
    found: dict[str, Any] = {_LITERT_KEYS[name]: float(value)}
    if runs and name in ("Inference (avg)", "Warmup (avg)"):
        found["runs" if name == "Inference (avg)" else "warmup_runs"] = int(runs)
    return found


def _from_memory(line: str) -> dict[str, Any]:
    growth = re.match(rf"Memory footprint delta from the start of the tool \(MB\): init=({_NUMBER}) overall=({_NUMBER})", line)
    if growth:
        return {"init_memory_mb": float(growth.group(1)), "memory_mb": float(growth.group(2))}
    peak = re.match(rf"Overall peak memory footprint \(MB\) via periodic monitoring: ({_NUMBER})", line)
    return {"peak_memory_mb": float(peak.group(1))} if peak else {}


def _from_delegate(line: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    refused = _NOT_EXECUTED.search(line)
    if refused:
        return {"not_executed": line}
    replaced = _REPLACED.search(line)
    if replaced:
        found = {"delegated_nodes": int(replaced.group(1)), "partitions": int(replaced.group(3))}
        if replaced.group(2):
            found["nodes"] = int(replaced.group(2))
    applied = _APPLIED.search(line)
    if applied:
        name = next(group for group in applied.groups() if group).lower()
        if name in _DELEGATES:
            found["delegate"] = _DELEGATES[name]
    return found


def _level(lines: list[str], word: str) -> tuple[str, ...]:
    return tuple(line.partition(":")[2].strip() for line in lines if re.match(rf"^{word}\w*:", line.strip()))


def _errors(lines: list[str]) -> tuple[str, ...]:
    shell = ("can't execute", "cannot link executable", "inaccessible or not found", "permission denied", "not executable",
             "segmentation fault", "no such file or directory", "killed")
    return tuple(line.strip() for line in lines if line.strip().startswith("ERROR:") or
                 (not line.startswith("#") and any(words in line.lower() for words in shell)))


def _ops(lines: list[str]) -> tuple[OpTime, ...]:
    """The "Run Order" table of the timed runs: the last one of the log."""
    tables: list[list[OpTime]] = []
    inside = False
    for line in lines:
        if "= Run Order =" in line:
            tables.append([])
            inside = True
        elif line.startswith("====") or line.startswith("Number of nodes executed"):
            inside = False
        elif inside:
            match = _OP.match(line)
            if match:
                kind, mean, share, calls, name = match.groups()
                tables[-1].append(OpTime(_op_name(name), kind.strip(), float(mean), float(share) / 100, int(calls)))
    return tuple(tables[-1]) if len(tables) > 1 or (tables and len(tables[0]) > 1) else ()


def _op_name(name: str) -> str:
    """The tensor's name without the brackets that some versions put around it; of several names the first."""
    return re.sub(r"^\[|\](?=:?\d*$)|\]$", "", name.strip()).split(";")[0]


# Failures ---------------------------------------------------------------------------------------------------------------

_SHELL_REASONS = (
    ("permission denied", "the device does not let it be executed (Permission denied): its folder must allow programs, as "
                          "/data/local/tmp does"),
    ("not executable: 64-bit elf", "the device is a 32-bit one, and this is a 64-bit program: give the 32-bit benchmark_model"),
    ("not executable: 32-bit elf", "the device runs 64-bit programs only, and this is a 32-bit one: give the 64-bit "
                                   "benchmark_model"),
    ("cannot link executable", "a library that it needs is not on the device (CANNOT LINK EXECUTABLE): give the benchmark_model "
                               "that is linked statically"),
    ("inaccessible or not found", "it is not on the device any more"),
    ("exec format error", "it is for another processor than the device's"),
)


def failure(log: BenchmarkLog, exit_code: int, *, delegate: str | None = None) -> str | None:
    """Why a run is no measurement, in one line; None where it is one.

    Args:
        log: of the run.
        exit_code: of the tool.
        delegate: that was asked for: "gpu", "nnapi", "hexagon" or "xnnpack".
    """
    text = "\n".join(log.errors).lower()
    for words, reason in _SHELL_REASONS:
        if words in text:
            return f"benchmark_model: {reason}"
    if log.dry_run:
        return "benchmark_model ran without its kernels (--dry_run), so there is nothing to measure"
    if log.mean_ms is None and log.median_ms is None:
        last = log.errors[0].removeprefix("ERROR: ") if log.errors else "it printed no result"
        if exit_code in (137, 9):
            last = "it was killed by the device (signal 9): too little memory, or its watchdog"
        return f"benchmark_model gave no timing line (exit code {exit_code}): {last}"
    if not log.runs and log.runs is not None:
        return "benchmark_model reports no run"
    if exit_code:
        first = log.errors[0].removeprefix("ERROR: ") if log.errors else "no message"
        return f"benchmark_model ended with exit code {exit_code}: {first}"
    flags = [flag for flag in log.unconsumed if re.match(r"--use_(gpu|nnapi|hexagon|xnnpack)=(true|1)", flag)]
    if flags:
        return f"this benchmark_model does not know {', '.join(flags)}, so its times are the CPU's: CPU fallback"
    if delegate in ("gpu", "nnapi", "hexagon") and (log.not_executed or log.delegate != delegate):
        why = log.not_executed or f"the log does not say that the {delegate} delegate was applied"
        return f"the {delegate} delegate does not run this model ({why}): CPU fallback"
    return None


def remarks(log: BenchmarkLog, runs: int) -> tuple[str, ...]:
    """What a reader should know of a run that is a measurement: too few runs, a delegate that runs only a part."""
    lines = []
    if log.runs is not None and log.runs < runs:
        lines.append(f"cut off after {log.runs} of {runs} runs by the tool's time limit")
    if log.partitions and log.partitions > 1:
        lines.append(f"{log.partitions} delegate partitions")
    return tuple(lines)
