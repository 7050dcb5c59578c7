"""`mnv3 benchmark`: how long .tflite files take on this machine, on phones and on boards."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnv3_tf.cli.options import Terminal, json_option, print_json
from mnv3_tf.errors import GateError, KitError, NoDeviceError

if TYPE_CHECKING:
    from mnv3_tf.export.benchmark.devices.bench import DeviceSettings
    from mnv3_tf.export.benchmark.host import BenchmarkResult
    from mnv3_tf.export.benchmark.store import Record


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
            named = part.startswith(("adb:", "ssh:")) and part not in ("adb:", "ssh:")
            if part not in ("host", "adb", "all") and not named:
                self.fail(f"{part!r} is not a target: give host, adb, adb:SERIAL, ssh:HOST or all.", param, ctx)
        return parts


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option("--target", "targets", type=Targets(), default="host", show_default=True,
              help="Where to measure: host, adb (the one connected phone), adb:SERIAL, ssh:HOST, or all (host and every phone); "
                   "several, separated by commas.")
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
@click.option("--benchmark-binary", type=click.Path(), metavar="PATH",
              help="Your own benchmark_model.  [default: downloaded once, and checked if a SHA-256 is published]")
@click.option("--cool-down", type=click.FloatRange(min=0, max=3600), default=60.0, show_default=True,
              help="Most seconds to wait, in all, for a device that became warmer than at the start.")
@click.option("--fixed-performance", is_flag=True,
              help="Use Android's mode of steady clocks during the measurement, and reset it afterwards.")
@click.option("--profile", is_flag=True, help="Also time every operator and layer, in separate runs.")
@click.option("--use-cache", is_flag=True, help="Let benchmark_model keep XNNPACK's packed weights in a file.")
@click.option("--against", type=click.Path(), metavar="FILE",
              help="Baseline of the ratios; measured too if it is not one of the files.  [default: the first file]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random input; benchmark_model has its own.")
@click.option("--out", type=click.Path(file_okay=False), metavar="DIR",
              help="Add the rows and logs to this folder (DIR/results.jsonl).")
@click.option("--gate", "gates", multiple=True, metavar="LIMIT",
              help='Exit with 3 if this limit does not hold, such as "median_ms < 8 @ adb". May be given more than once.')
@json_option
def benchmark(files: tuple[str, ...], targets: tuple[str, ...], threads: tuple[int, ...], cores: str, runs: int,
              min_seconds: float | None, warmup: int, rounds: int, delegate: str, runner: str, benchmark_binary: str | None,
              cool_down: float, fixed_performance: bool, profile: bool, use_cache: bool, against: str | None, seed: int,
              out: str | None, gates: tuple[str, ...], as_json: bool) -> None:
    """Measure the latency of .tflite files.

    The files take turns over several rounds, so that a machine that slows down is fair to all. A file is
    called faster or slower than the baseline only where the 95% interval of the ratio says so, and by more than the 2%
    that two loads of one file can differ by. Nothing is left on a device that stays connected.
    """
    from mnv3_tf.export.benchmark.devices.bench import DeviceSettings
    from mnv3_tf.export.benchmark.limits import check_gate, parse_gate

    limits = [parse_gate(text) for text in gates]
    files, against = _with_baseline(files, against)
    records: list[Record] = []
    logs: list[str] = []
    result: BenchmarkResult | None = None
    if "host" in targets or "all" in targets:
        result, host = _on_host(files, threads, runs, min_seconds, warmup, rounds, seed, delegate, profile,
                                alone=targets == ("host",))
        records += host
        logs += [""] * len(host)
    settings = DeviceSettings(
        threads, tuple(choice.strip() for choice in cores.split(";")), runs, 10.0 if min_seconds is None else min_seconds, warmup,
        rounds, seed, delegate, runner, Path(benchmark_binary) if benchmark_binary else None,  # type: ignore[arg-type]
        cool_down, fixed_performance, profile, use_cache)
    problems = _on_devices([target for target in targets if target != "host"], [Path(file) for file in files], settings, records,
                           logs, against, print_rows=not as_json)
    if out:
        from mnv3_tf.export.benchmark.store import append_records

        records = append_records(out, records, logs)
    if as_json:
        from mnv3_tf.export.benchmark.devices.table import comparisons

        base = result.to_dict(against=against) if result else {"rows": [], "comparisons": [], "samples_ms": []}
        base["rows"] += [record for record in records if record["target"] != "host"]
        print_json({**base, "records": records, "device_comparisons": comparisons(records, against or files[0]),
                    "problems": problems})
    elif result:
        _print_text(result, records, against)
    elif records and records[0]["target"] == "host":
        click.echo(f"This machine was not measured: {records[0]['failure']}.")
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    failures = [line for limit in limits for line in check_gate(limit, records)]
    if failures:
        raise GateError("; ".join(failures) + ".")
    if problems:
        raise NoDeviceError("not every target was measured.") if not records else KitError("not every target was measured.")


def _on_host(files: tuple[str, ...], threads: tuple[int, ...], runs: int, min_seconds: float | None, warmup: int, rounds: int,
             seed: int, delegate: str, profile: bool, *, alone: bool) -> "tuple[BenchmarkResult | None, list[Record]]":
    """The result and its rows; or no result and rows that say why, if only devices have the delegate."""
    from datetime import UTC, datetime

    from mnv3_tf.errors import InputError
    from mnv3_tf.export.benchmark.devices.local import add_profiles, runner_here
    from mnv3_tf.export.benchmark.host import benchmark_files
    from mnv3_tf.export.benchmark.store import failed_host_records, host_records

    written = datetime.now(UTC).isoformat(timespec="seconds")
    if delegate not in ("xnnpack", "none"):
        reason = f"--delegate {delegate} is for devices; this machine has xnnpack and none"
        if alone:
            raise InputError(f"{reason}.")
        return None, failed_host_records(files, threads, delegate, reason, written)
    bundle = runner_here(Terminal()) if profile else None
    result = benchmark_files(files, threads=threads, runs=runs, warmup=warmup, rounds=rounds, seed=seed, delegate=delegate,
                             min_seconds=1.0 if min_seconds is None else min_seconds, progress=Terminal())
    records = host_records(result, written)
    if bundle:
        add_profiles(records, bundle, delegate=delegate, runs=runs, seed=seed)
    return result, records


def _on_devices(targets: list[str], files: list[Path], settings: "DeviceSettings", records: "list[Record]", logs: list[str],
                against: str | None, *, print_rows: bool) -> list[str]:
    """Adds the devices' rows; returns what went wrong, one line for each device."""
    if not targets:
        return []
    from mnv3_tf.export.benchmark.devices.bench import benchmark_device, open_target
    from mnv3_tf.export.benchmark.devices.several import on_each, usable_phones

    terminal = Terminal()
    problems: list[str] = []
    devices = []
    for target in targets:
        try:
            if target == "all":
                phones, unusable = usable_phones()
                devices += phones
                problems += unusable
            else:
                devices.append(open_target(target))
        except KitError as error:
            problems.append(str(error))
    shown = terminal if len(devices) == 1 else Lines(terminal)
    found = on_each(devices, lambda device: benchmark_device(device, files, settings, shown))
    for device, result in zip(devices, found, strict=True):
        if isinstance(result, KitError):
            problems.append(str(result))
            continue
        records += result.rows
        logs += result.logs
        failed = [f"{device.name}: {Path(row['file']).name}: {row['failure']}" for row in result.rows if row["failure"]]
        problems += dict.fromkeys(failed)
        if print_rows:
            _print_device(result, against or str(files[0]))
    return problems


class Lines:
    """Progress of several devices at once: only what is said, for bars would overwrite each other."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal

    def say(self, text: str) -> None:
        self.terminal.say(text)

    def task(self, description: str, total: int) -> Any:
        import contextlib

        return contextlib.nullcontext(lambda done, note: None)


def _print_device(result: Any, baseline: str) -> None:
    from rich.console import Console

    from mnv3_tf.export.benchmark.devices.table import comparisons, device_lines, device_table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    console.print(device_table(result.rows, comparisons(result.rows, baseline)))
    for line in device_lines(result):
        console.print(line, markup=False, soft_wrap=not console.is_terminal)


def _with_baseline(files: tuple[str, ...], against: str | None) -> tuple[tuple[str, ...], str | None]:
    """The files with the baseline among them, and the baseline spelled as in the files."""
    if against is None:
        return files, None
    for file in files:
        if Path(file).resolve() == Path(against).resolve():
            return files, file
    return (against, *files), against


def _print_text(result: "BenchmarkResult", records: "list[Record]", against: str | None) -> None:
    from rich.console import Console

    from mnv3_tf.export.benchmark.devices.table import profile_lines
    from mnv3_tf.export.benchmark.host import compare_rows
    from mnv3_tf.export.benchmark.table import benchmark_table, machine_lines, warning_lines

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    console.print(benchmark_table(result.rows, compare_rows(result, against=against)))
    host = [record for record in records if record["target"] == "host"]
    for line in [*machine_lines(result), *profile_lines(host)]:
        console.print(line, markup=False, soft_wrap=not console.is_terminal)
    for line in warning_lines(result):
        console.print(f"Warning: {line}", markup=False, style="yellow", soft_wrap=not console.is_terminal)
