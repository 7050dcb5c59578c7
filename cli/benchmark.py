"""`mnv3 benchmark`: how long .tflite files take on this machine."""

from pathlib import Path
from typing import Any

import click

from mnv3_tf.cli.options import Terminal, json_option, print_json


class ThreadCounts(click.ParamType):
    """Comma-separated numbers of threads, such as 1,2."""

    name = "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        counts = []
        for part in str(value).split(","):
            if not part.strip().isdecimal() or not 1 <= int(part) <= 256:
                self.fail(f"{part.strip()!r} in {value!r} is no number of threads: give numbers from 1 to 256 with "
                          "commas between, such as 1,2.", param, ctx)
            counts.append(int(part))
        return tuple(dict.fromkeys(counts))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option("--threads", type=ThreadCounts(), default="1", show_default=True,
              help="Numbers of CPU threads; each file is measured with each.")
@click.option("--runs", type=click.IntRange(min=1), default=50, show_default=True,
              help="Timed runs at least; short networks get more, until --min-seconds.")
@click.option("--min-seconds", type=click.FloatRange(min=0, max=3600), default=1.0, show_default=True,
              help="Timed seconds at least, for each file and number of threads.")
@click.option("--warmup", type=click.IntRange(min=0), default=10, show_default=True, help="Untimed runs before.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True,
              help="Rounds in which the files take turns; fewer than 4 give no verdict.")
@click.option("--delegate", type=click.Choice(["xnnpack", "none"]), default="xnnpack", show_default=True,
              help="XNNPACK as on phones, or the runtime's own CPU kernels.")
@click.option("--against", type=click.Path(), metavar="FILE",
              help="Baseline of the ratios; measured too if it is not among the files.  [default: the first file]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random input.")
@json_option
def benchmark(files: tuple[str, ...], threads: tuple[int, ...], runs: int, min_seconds: float, warmup: int, rounds: int,
              delegate: str, against: str | None, seed: int, as_json: bool) -> None:
    """Measure the latency of .tflite files.

    The files take turns over several rounds, so that a machine that slows down meanwhile is fair to all. A file is
    called faster or slower than the baseline only where the 95% interval of the ratio says so, and by more than the 2%
    that two loads of one file can differ by.
    """
    from mnv3_tf.export.benchmark import benchmark_files

    files, against = _with_baseline(files, against)
    result = benchmark_files(files, threads=threads, runs=runs, warmup=warmup, min_seconds=min_seconds, rounds=rounds,
                             seed=seed, delegate=delegate, progress=Terminal())
    if as_json:
        print_json(result.to_dict(against=against))
    else:
        _print_text(result, against)


def _with_baseline(files: tuple[str, ...], against: str | None) -> tuple[tuple[str, ...], str | None]:
    """The files with the baseline among them, and the baseline spelled as in the files."""
    if against is None:
        return files, None
    for file in files:
        if Path(file).resolve() == Path(against).resolve():
            return files, file
    return (against, *files), against


def _print_text(result: Any, against: str | None) -> None:
    from rich.console import Console

    from mnv3_tf.export.benchmark import compare_rows
    from mnv3_tf.export.benchmark_table import benchmark_table, machine_lines, warning_lines

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    console.print(benchmark_table(result.rows, compare_rows(result, against=against)))
    for line in machine_lines(result):
        console.print(line, markup=False, soft_wrap=not console.is_terminal)
    for line in warning_lines(result):
        console.print(f"Warning: {line}", markup=False, style="yellow", soft_wrap=not console.is_terminal)
