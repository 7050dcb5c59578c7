"""Reads what TFLite's and LiteRT's benchmark tools printed over the years.

Nothing is invented: what a log does not say is None. A run counts only where there is a result line, whatever the exit code.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mnv3_tf.export.benchmark.runners.log_delegates import read_delegates
from mnv3_tf.export.benchmark.runners.log_lines import NUMBER, Line, read_number, split_lines
from mnv3_tf.export.benchmark.runners.log_profile import OpTime, read_profile

_NAMES = r"first|curr|min|max|avg|std|p5|median|p95"
_COUNT = re.compile(rf"(?:^|.*(?:INFO|WARN|ERROR): )count=([0-9]{{1,12}})((?:\s+(?:{_NAMES})={NUMBER})*)\s*(\(all same\))?\s*$")
_FIELD = re.compile(rf"({_NAMES})=({NUMBER})")
_BEGIN = re.compile(r"^Running benchmark for (?:at least )?([0-9]{1,12}) iterations")
_ASKED = re.compile(r"^(?:Min num runs: \[|Num runs: \[|Benchmark runs:\s+)([0-9]{1,12})(?![0-9])")
_SESSION = ((re.compile(rf"^Initialized session in ({NUMBER}) ?ms"), ("init_ms",)),)
_TIMINGS = re.compile(r"^(?:Average inference|Inference) timings in us:\s*(.*)$")
_TIMING = re.compile(rf"(Init|First inference|Warmup(?: \(avg\))?|Inference(?: \(avg\))?|no stats): *({NUMBER})")
_TIMING_KEYS = {"Init": "init_ms", "First inference": "first_ms", "Warmup": "warmup_ms", "Warmup (avg)": "warmup_ms",
                "Inference (avg)": "mean_ms", "no stats": "mean_ms", "Inference": "mean_ms"}
_LITERT_KEYS = {"Model initialization": "init_ms", "Warmup (first)": "first_ms", "First inference": "first_ms",
                "Warmup (avg)": "warmup_ms", "Inference (avg)": "mean_ms", "Inference (min)": "min_ms",
                "Inference (max)": "max_ms", "Inference (median)": "median_ms", "Inference (std)": "std_ms",
                "Inference (p5)": "p5_ms", "Inference (p95)": "p95_ms"}
# The deviation is printed without its unit, and is milliseconds too.
_LITERT = re.compile(rf"^({'|'.join(map(re.escape, _LITERT_KEYS))}):\s*({NUMBER})(?: ms)?"
                     r"(?: \(([0-9]{1,12}) runs\))?(?:\s+#.*)?$")
_MEMORY = (
    (re.compile(rf"^Memory footprint delta from the start of the tool \(MB\): init=({NUMBER}) overall=({NUMBER})"),
     ("init_memory_mb", "memory_mb")),
    (re.compile(rf"^Peak memory footprint \(MB\): init=({NUMBER}) overall=({NUMBER})"), ("init_memory_mb", "memory_mb")),
    (re.compile(rf"^Overall peak memory footprint \(MB\) via periodic monitoring: ({NUMBER})"), ("peak_memory_mb",)),
    (re.compile(rf"^Init footprint:\s*({NUMBER}) MB"), ("init_memory_mb",)),
    (re.compile(rf"^Overall footprint:\s*({NUMBER}) MB"), ("memory_mb",)),
    (re.compile(rf"^Peak memory:\s*({NUMBER}) MB"), ("peak_memory_mb",)),
)
_DRY_RUN = re.compile(r"^Run w/o invoking kernels: \[(?:1|true)\]")
_UNCONSUMED = "Unconsumed cmdline flags:"
_DELEGATE_FLAG = re.compile(r"--(?:use_(?:gpu|nnapi|hexagon|xnnpack|coreml|edgetpu|npu)=(?:true|1)|external_delegate_path=)")
# The shell and the linker have no levels. Old tools had none either.
_LEVELLESS_ERROR = re.compile(
    r"can't execute|permission denied|cannot link executable|not found|not executable|exec format error|no such file|"
    r"segmentation fault|bus error|illegal instruction|^killed|^aborted|^failed to |^could not |^benchmarking failed",
    re.IGNORECASE)


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
        delegate: that ran the graph or a part of it, or None.
        delegated_nodes, nodes: operators that it took, of how many.
        partitions: parts of the graph that the delegate runs.
        graph_parts: parts that the graph was cut into, the delegate's and those left to the CPU.
        not_executed: the line that says that a delegate does not run the graph.
        cpu_only: the log says that the CPU's own kernels ran it.
        unconsumed: flags that the tool did not know.
        warnings, errors: its lines of these levels, and what the shell said.
        ops: the operator profile of the timed runs.
        delegate_ops: the same of a delegate's inside, which is one operator in `ops`.
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
    graph_parts: int | None = None
    not_executed: str = ""
    cpu_only: bool = False
    unconsumed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    ops: tuple[OpTime, ...] = ()
    delegate_ops: tuple[OpTime, ...] = ()
    asked_runs: int | None = None
    dry_run: bool = False

    @property
    def delegate_applied(self) -> str | None:
        """What really ran: a delegate, "cpu" where the log says that it was the CPU's own kernels, None where it says neither."""
        return self.delegate or ("cpu" if self.cpu_only or self.unknown_delegate_flags else None)

    @property
    def unknown_delegate_flags(self) -> tuple[str, ...]:
        """Flags for delegates that the tool did not know, and so did not obey."""
        return tuple(flag for flag in self.unconsumed if _DELEGATE_FLAG.match(flag))

    @property
    def complete(self) -> bool | None:
        """Whether all runs that were asked for were done; None where the log does not say it."""
        return None if self.runs is None or self.asked_runs is None else self.runs >= self.asked_runs


def parse_log(text: str) -> BenchmarkLog:
    """Reads a log: standard output and error in one text, in any order. Any text is read without an error."""
    lines = split_lines(text)
    plain = [line.text for line in lines]
    # Counts have six digits, LiteRT's summary of the same runs two decimals.
    found = _numbers(plain, _SESSION) | _from_litert(plain) | _numbers(plain, _MEMORY) | _from_timings(plain)
    counts = _from_counts(plain, found.get("mean_ms"))
    for key in ("first_ms", "warmup_ms"):  # a warm-up says them where there is no summary
        if key in found:
            counts.pop(key, None)
    unconsumed = [flag for line in plain if _UNCONSUMED in line for flag in line.partition(_UNCONSUMED)[2].split()]
    ops, delegate_ops = read_profile(plain)
    return BenchmarkLog(**{**found, **counts}, **read_delegates(plain), asked_runs=_asked_runs(plain),
                        dry_run=any(map(_DRY_RUN.match, plain)), unconsumed=tuple(unconsumed),
                        warnings=tuple(line.text for line in lines if line.level == "WARN" and line.text),
                        errors=_errors(lines), ops=ops, delegate_ops=delegate_ops)


def _from_counts(lines: Sequence[str], mean_ms: float | None) -> dict[str, Any]:
    """The first line is the warm-up's, the second the result.

    The tool announces both. A line that stands alone is the result only where nothing is announced, or where it agrees with the
    summary: a tool that was ended in the middle has printed the warm-up only. Operator tables hold such lines too, behind words
    of their own.
    """
    counts = [match for match in map(_COUNT.match, lines) if match]
    if not counts:
        return {}
    if len(counts) > 1:
        return _warm_up(counts[0]) | _result(counts[1])
    alone = _result(counts[0])
    mean = alone.get("mean_ms")
    if mean_ms is None:
        is_result = not any(map(_BEGIN.match, lines))
    else:
        is_result = mean is not None and abs(mean - mean_ms) <= 1e-4 * mean_ms
    return alone if is_result else _warm_up(counts[0])


def _fields(match: re.Match[str]) -> dict[str, float]:
    values = {name: read_number(value) for name, value in _FIELD.findall(match.group(2))}
    return {name: value / 1000 for name, value in values.items() if value is not None}


def _result(match: re.Match[str]) -> dict[str, Any]:
    runs, fields = int(match.group(1)), _fields(match)
    if "curr" in fields and (runs == 1 or match.group(3)):
        same = ("avg", "min", "max", "median", *(("p5", "p95") if match.group(3) else ()))
        fields = dict.fromkeys(same, fields["curr"]) | ({"std": 0.0} if match.group(3) else {}) | fields
    printed = ("avg", "std", "min", "max", "median", "p5", "p95")
    return {"runs": runs, **{f"{'mean' if name == 'avg' else name}_ms": fields[name] for name in printed if name in fields}}


def _warm_up(match: re.Match[str]) -> dict[str, Any]:
    fields = _fields(match)
    only = fields.get("curr") if int(match.group(1)) == 1 or match.group(3) else None
    values = {"first_ms": fields.get("first", only), "warmup_ms": fields.get("avg", only)}
    return {"warmup_runs": int(match.group(1)), **{key: value for key, value in values.items() if value is not None}}


def _numbers(lines: Sequence[str], patterns: Sequence[tuple[re.Pattern[str], tuple[str, ...]]]) -> dict[str, Any]:
    """The first number of each key that a line gives by one of the patterns."""
    return _first((key, text) for line in lines for pattern, keys in patterns if (match := pattern.match(line))
                  for key, text in zip(keys, match.groups(), strict=True))


def _first(printed: Iterable[tuple[str, str]], unit: float = 1.0) -> dict[str, Any]:
    """The first number of each key."""
    values = [(key, read_number(text)) for key, text in printed]
    return {key: value / unit for key, value in reversed(values) if value is not None}


def _from_timings(lines: Sequence[str]) -> dict[str, Any]:
    return _first(((_TIMING_KEYS[name], text) for match in filter(None, map(_TIMINGS.match, lines))
                   for name, text in _TIMING.findall(match.group(1))), 1000)


def _from_litert(lines: Sequence[str]) -> dict[str, Any]:
    rows = [match.groups() for match in filter(None, map(_LITERT.match, lines))]
    counts = {"Inference (avg)": "runs", "Warmup (avg)": "warmup_runs"}
    return {**_first((_LITERT_KEYS[name], number) for name, number, _ in rows),
            **{counts[name]: int(runs) for name, _, runs in reversed(rows) if runs and name in counts}}


def _asked_runs(lines: Sequence[str]) -> int | None:
    asked = [match for match in map(_ASKED.match, lines) if match]
    announced = [match for match in map(_BEGIN.match, lines) if match][1:]
    return next((int(match.group(1)) for match in [*asked, *announced]), None)


def _errors(lines: Sequence[Line]) -> tuple[str, ...]:
    found = []
    for line in lines:
        if line.level == "ERROR" and line.text and not _TIMINGS.match(line.text):  # the app prints its result at this level
            found.append(f"ERROR: {line.text}")
        elif not line.level and not line.text.startswith(("#", "--")) and _LEVELLESS_ERROR.search(line.text):
            found.append(line.text)
    return tuple(found)


# Failures ---------------------------------------------------------------------------------------------------------------

_SHELL_REASONS = (
    ("permission denied", "the device does not let it be executed (Permission denied): its folder must allow programs, as "
                          "/data/local/tmp does"),
    ("not executable: 64-bit elf", "the device is a 32-bit one, and this is a 64-bit program: give the 32-bit benchmark_model"),
    ("not executable: 32-bit elf", "the device runs 64-bit programs only, and this is a 32-bit one: give the 64-bit "
                                   "benchmark_model"),
    ("cannot link executable", "a library that it needs is not on the device (CANNOT LINK EXECUTABLE): give the benchmark_model "
                               "that is linked statically"),
    ("inaccessible or not found", "it is not on the device any more: run again, and it is copied again"),
    ("not found", "it, or a library that it needs, is not on the device: run again, and give the statically linked one"),
    ("no such file", "it, or the loader that it asks for, is not on the device: give the one that is built for Android"),
    ("exec format error", "it is for another processor than the device's: give the one for its architecture"),
    ("not executable", "the device cannot execute it: give the one for its architecture"),
    ("illegal instruction", "it uses instructions that the device's processor does not have: give the one for its architecture"),
)
_TOOL_REASONS = (
    (r"could not open|failed to mmap|model allocation is null", "check that the file is on the device and can be read there"),
    (r"not a valid flatbuffer", "check the file with `mnv3 inspect`"),
    (r"specify the name of", "give the model with --graph"),
    (r"failed to parse flag", "correct that flag's value"),
    (r"disallowed cpu fallback", "the delegate cannot run the whole graph: allow the CPU the rest, or change the model"),
    (r"failed to prepare|failed to allocate tensors|input_layer_shape", "check the input's shape"),
    (r"unresolved custom op|find op for builtin", "take a newer benchmark_model"),
    (r"failed to apply", "the device has no such delegate for this model: take another one"),
)
_SIGNALS = {132: "signal 4, an illegal instruction", 134: "signal 6, it gave up", 135: "signal 7, a bus error",
            137: "signal 9, killed by the device: too little memory, or its watchdog", 9: "signal 9, killed by the device: too "
            "little memory, or its watchdog", 139: "signal 11, a crash", 143: "signal 15, it was ended", 124: "its time was up"}


def failure(log: BenchmarkLog, exit_code: int, *, delegate: str | None = None) -> str | None:
    """Why a run is no measurement, in one line; None where it is one.

    A line of the level ERROR alone is no failure, and neither are fewer runs than asked for (see :func:`remarks`).

    Args:
        log: of the run.
        exit_code: of the tool.
        delegate: that was asked for: "gpu", "nnapi", "hexagon", "xnnpack" or "none".
    """
    if log.dry_run:
        return "benchmark_model ran without its kernels (--dry_run), so there is nothing to measure"
    if log.mean_ms is None and log.median_ms is None:
        return _no_result(log, exit_code)
    if log.runs == 0:
        return "benchmark_model reports no run"
    if not (log.mean_ms or log.median_ms):
        return "benchmark_model reports times of 0, so its kernels did not run"
    if exit_code:
        said = _said(log) or "no message"
        return f"benchmark_model ended with exit code {exit_code}{_signal(exit_code)}: {said}"
    if log.unknown_delegate_flags and not (delegate and log.delegate == delegate):
        flags = ", ".join(log.unknown_delegate_flags)
        return f"this benchmark_model does not know {flags}, so its times are the CPU's: CPU fallback"
    if delegate not in (None, "none", "cpu", "xnnpack") and log.delegate != delegate:
        why = log.not_executed or f"the log does not say that the {delegate} delegate was applied"
        return f"the {delegate} delegate does not run this model ({why}): CPU fallback"
    return None


def _no_result(log: BenchmarkLog, exit_code: int) -> str:
    shell = "\n".join(line for line in log.errors if not line.startswith("ERROR:")).lower()
    for words, reason in _SHELL_REASONS:
        if words in shell:
            return f"benchmark_model: {reason}"
    said = _said(log)
    if said:
        text = "\n".join(log.errors)
        remedy = next((remedy for pattern, remedy in _TOOL_REASONS if re.search(pattern, text, re.IGNORECASE)), "")
        said += f" ({remedy})" if remedy else ""
    elif log.warmup_runs:
        said = "it ended after its warm-up"
    return f"benchmark_model gave no timing line (exit code {exit_code}{_signal(exit_code)}): {said or 'it printed no result'}"


def _said(log: BenchmarkLog) -> str:
    return log.errors[0].removeprefix("ERROR: ") if log.errors else ""


def _signal(exit_code: int) -> str:
    return f", {_SIGNALS[exit_code]}" if exit_code in _SIGNALS else ""


def remarks(log: BenchmarkLog, runs: int, *, delegate: str | None = None) -> tuple[str, ...]:
    """What a reader should know of a run that is a measurement.

    Args:
        log: of the run.
        runs: that were asked for; the tool's time limit may have cut them short.
        delegate: that was asked for.
    """
    lines = []
    if log.runs is not None and log.runs < runs:
        lines.append(f"cut off after {log.runs} of {runs} runs by the tool's time limit")
    if log.delegate and log.delegated_nodes and log.nodes and log.delegated_nodes < log.nodes:
        lines.append(f"the {log.delegate} delegate runs {log.delegated_nodes} of {log.nodes} operators; the CPU's kernels or "
                     "another delegate run the rest")
    if log.partitions and log.partitions > 1:
        lines.append(f"{log.partitions} delegate partitions")
    unknown = [flag for flag in log.unconsumed if not flag.endswith(("=false", "=0"))]
    if unknown:
        lines.append(f"this benchmark_model does not know {', '.join(unknown)}, and did not obey")
    if delegate in ("none", "cpu") and log.delegate:
        lines.append(f"the CPU's own kernels were asked for, and the {log.delegate} delegate ran")
    return tuple(lines)
