"""`mnv3 benchmark`: how long .tflite files take on this machine, on phones and on boards; or how many instructions on ARM."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnv3_tf.cli.options import json_option, print_json, show
from mnv3_tf.errors import CheckFailed, InputError, KitError, NoDeviceError
from mnv3_tf.progress import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnv3_tf.export.benchmark.measure import BenchmarkSettings
    from mnv3_tf.export.benchmark.result import Result
    from mnv3_tf.progress import Progress


# Targets for which tools on this machine are enough.
_TOOLS = ("arm", "micro", "ethos-u")


class ThreadCounts(click.ParamType):
    """Comma-separated numbers of threads, such as 1,2."""

    name = "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        counts = []
        for part in str(value).split(","):
            if not part.strip().isdecimal() or not 1 <= int(part) <= 256:
                self.fail(f"{part.strip()!r} in {value!r} is not a number of threads: give numbers from 1 to 256 with "
                          "commas between, such as 1,2.", param, ctx)
            counts.append(int(part))
        return tuple(dict.fromkeys(counts))


class Targets(click.ParamType):
    """Comma-separated targets, such as host,adb."""

    name = "TARGET[,...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        parts = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for part in parts:
            kind, _, name = part.partition(":")
            if part not in ("host", "adb", "all", *_TOOLS) and not (kind in ("adb", "ssh", "arm", "ethos-u") and name):
                self.fail(f"{part!r} is not a target: give host, adb, adb:SERIAL, ssh:HOST, arm, arm:PROCESSOR, micro, ethos-u, "
                          "ethos-u:ACCELERATOR or all.", param, ctx)
        return parts


class Shapes(click.ParamType):
    """A shape, such as 1x1280."""

    name = "1xN[x...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        sizes = str(value).replace(",", "x").split("x")
        if not all(size.isascii() and size.isdigit() and 0 < int(size) < 1 << 31 for size in sizes):
            self.fail(f"{value!r} is not a shape: give whole numbers with x between, such as 1x1280.", param, ctx)
        return tuple(map(int, sizes))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option("--target", "targets", type=Targets(), default="host", show_default=True,
              help="Where to measure: host, adb (the one connected phone), adb:SERIAL, ssh:HOST, or all (host and every phone). "
                   "arm and arm:cortex-a53 count instructions on an emulated Cortex-A76 or A53; micro and ethos-u ask "
                   "tflite-micro and Vela. Several, separated by commas.")
@click.option("--threads", type=ThreadCounts(), default="1", show_default=True,
              help="Numbers of CPU threads, separated by commas; each file is measured with each.")
@click.option("--cores", default="all", show_default=True, metavar="CHOICE[;...]",
              help="On a device: all, big, little, prime, mid, numbers (4-7) or a mask (0xf0); several, separated by "
                   "semicolons.")
@click.option("--runs", type=click.IntRange(min=1), default=50, show_default=True,
              help="Least number of timed runs; fast networks get more, until --min-seconds.")
@click.option("--min-seconds", type=click.FloatRange(min=0, max=3600),
              help="Least number of timed seconds for each row.  [default: 1 on the host, 10 on a device]")
@click.option("--warmup", type=click.IntRange(min=0), default=10, show_default=True, help="Untimed runs first.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True,
              help="Rounds in which the files take turns; at least 4 are needed to call one faster.")
@click.option("--delegate", type=click.Choice(["xnnpack", "none", "gpu", "nnapi", "hexagon"]), default="xnnpack",
              show_default=True, help="xnnpack, or none (the runtime's CPU kernels); others need a device and benchmark_model.")
@click.option("--runner", type=click.Choice(["kit", "benchmark_model"]), default="kit", show_default=True,
              help="On a device: the kit's own program, compiled on demand, or TFLite's tool.")
@click.option("--benchmark-binary", "binary", type=click.Path(path_type=Path), metavar="PATH",
              help="Your own benchmark_model.  [default: downloaded once, and checked if a SHA-256 is published]")
@click.option("--cool-down", type=click.FloatRange(min=0, max=3600), default=60.0, show_default=True,
              help="Most seconds to wait, in all, for a device that became warmer than at the start.")
@click.option("--fixed-performance", is_flag=True,
              help="Use Android's mode of steady clocks during the measurement, and reset it afterwards.")
@click.option("--profile", is_flag=True, help="Also time (or count) every operator and layer, in separate runs.")
@click.option("--input-shape", "input_shapes", type=Shapes(), multiple=True,
              help="On this machine: the shape of an input whose sizes the file leaves open; one for each such input.")
@click.option("--use-cache", is_flag=True, help="Let benchmark_model keep XNNPACK's packed weights in a file.")
@click.option("--against", type=click.Path(), metavar="FILE",
              help="Baseline of the ratios; measured too if it is not one of the files.  [default: the first file]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random input; benchmark_model has its own.")
@click.option("--out", type=click.Path(file_okay=False), metavar="DIR",
              help="Add the rows and logs to this folder (DIR/results.jsonl).")
@click.option("--gate", "gates", multiple=True, metavar="LIMIT",
              help='Exit with 3 if this limit does not hold, such as "median_ms < 8 @ adb". May be given more than once.')
@json_option
def benchmark(files: tuple[str, ...], targets: tuple[str, ...], cores: str, min_seconds: float | None, against: str | None,
              out: str | None, gates: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Measure the latency of .tflite files, or count their instructions on ARM.

    The files take turns over several rounds, so that a machine that slows down is fair to all. A file is
    called faster or slower than the baseline only where the 95% interval of the ratio says so, and by more than the 2%
    that two loads of one file can differ by. Nothing is left on a device that stays connected.
    """
    from mnv3_tf.export.benchmark.compare import comparisons
    from mnv3_tf.export.benchmark.host import HOST, benchmark_host, host_json, no_such_delegate
    from mnv3_tf.export.benchmark.limits import check_limit, parse_limit
    from mnv3_tf.export.benchmark.measure import BenchmarkSettings
    from mnv3_tf.tflite.runtime import DELEGATES

    limits = [parse_limit(text) for text in gates]
    files, baseline = _with_baseline(files, against)
    settings = BenchmarkSettings(cores=tuple(choice.strip() for choice in cores.split(";")),
                                 min_seconds=10.0 if min_seconds is None else min_seconds, **options)
    if settings.input_shapes and (targets != (HOST,) or settings.profile):
        raise InputError("--input-shape is for times on this machine. For devices and --profile, convert the file with fixed "
                         "sizes.")
    paths = [Path(file) for file in files]
    elsewhere = [target for target in targets if target != HOST]
    # What tools are missing is said before anything is timed.
    results = [counted(target, paths, settings, Terminal()) for target in elsewhere if (counted := _without_device(target))]
    if HOST in targets or "all" in targets:
        if settings.delegate not in DELEGATES and targets == (HOST,):
            raise InputError(f"{no_such_delegate(settings.delegate)}.")
        here = replace(settings, min_seconds=1.0) if min_seconds is None else settings
        results.insert(0, benchmark_host(files, here, Terminal()))
    problems = [line for result in results if not result.environment for line in _failed_rows(result, result.identity.name)]
    devices, missing = _on_devices([target for target in elsewhere if not _without_device(target)], paths, settings)
    results, problems = [*results, *devices], [*problems, *missing]
    if not as_json:
        for result in results:
            _print(result, baseline)
    records = [row for result in results for row in result.rows]
    if out:
        from mnv3_tf.export.benchmark.store import append_records

        records = append_records(out, records, [log for result in results for log in result.logs])
    if as_json:
        compared = comparisons(records, baseline)
        printed: dict[str, Any] = {"rows": [], "comparisons": [], "samples_ms": []}
        if results and results[0].environment and not records[0]["failure"]:
            printed = host_json(results[0], [entry for entry in compared if entry.target == HOST])
        printed["rows"] += [record for record in records if record["target"] != HOST]
        print_json({**printed, "records": records, "device_comparisons": [vars(entry) for entry in compared],
                    "problems": problems})
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    failures = [line for limit in limits for line in check_limit(limit, records)]
    if failures:
        raise CheckFailed("; ".join(failures) + ".")
    if problems:
        raise NoDeviceError("not every target was measured.") if not records else KitError("not every target was measured.")


def _on_devices(targets: list[str], files: list[Path], settings: "BenchmarkSettings") -> "tuple[list[Result], list[str]]":
    """What the devices gave, and what went wrong, one line for each device."""
    if not targets:
        return [], []
    from mnv3_tf.export.benchmark.devices.bench import benchmark_device, on_each, open_targets

    terminal = Terminal()
    devices, problems = open_targets(targets)
    shown = terminal if len(devices) == 1 else Lines(terminal)
    results = []
    measured = on_each(devices, lambda device: benchmark_device(device, files, settings, shown))
    for device, found in zip(devices, measured, strict=True):
        if isinstance(found, KitError):
            problems.append(str(found))
            continue
        results.append(found)
        problems += _failed_rows(found, device.name)
    return results, problems


def _without_device(target: str) -> "Callable[[str, Sequence[Path], BenchmarkSettings, Progress], Result] | None":
    """What measures a target for which this machine is enough, and where nothing is timed."""
    kind = target.partition(":")[0]
    if kind not in _TOOLS:
        return None
    from mnv3_tf.export.benchmark.instructions import count_instructions
    from mnv3_tf.export.benchmark.micro import measure_micro

    return count_instructions if kind == "arm" else measure_micro


def _failed_rows(result: "Result", name: str) -> list[str]:
    failed = [f"{name}: {Path(row['file']).name}: {row['failure']}" for row in result.rows if row["failure"]]
    return list(dict.fromkeys(failed))


class Lines:
    """Progress of several devices at once: only what is said, for bars would overwrite each other."""

    def __init__(self, terminal: Terminal) -> None:
        self.say = terminal.say

    def task(self, description: str, total: int) -> Any:
        return contextlib.nullcontext(lambda done, note: None)


def _print(result: "Result", baseline: str) -> None:
    from mnv3_tf.export.benchmark.compare import comparisons
    from mnv3_tf.export.benchmark.table import benchmark_table, result_lines, warning_lines

    if result.environment and result.rows[0]["failure"]:
        click.echo(f"This machine was not measured: {result.rows[0]['failure']}.")
        return
    show(benchmark_table(result.rows, comparisons(result.rows, baseline)), width=160)
    for line in result_lines(result):
        show(line)
    for line in warning_lines(result.rows):
        show(f"Warning: {line}", "yellow")


def _with_baseline(files: tuple[str, ...], against: str | None) -> tuple[tuple[str, ...], str]:
    """The files with the baseline among them, and the baseline spelled as in the files."""
    if against is None:
        return files, files[0]
    same = next((file for file in files if Path(file).resolve() == Path(against).resolve()), None)
    return (files, same) if same else ((against, *files), against)
