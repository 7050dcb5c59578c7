"""`mnv3 sensitivity`."""

from typing import TYPE_CHECKING

import click

from mnv3_tf.cli.options import data_option, json_option, new_table, print_json, quiet_libraries, show
from mnv3_tf.progress import Terminal

if TYPE_CHECKING:
    from rich.table import Table

    from mnv3_tf.export.sensitivity.mixed import Analysis, Cost


@click.command()
@click.argument("qrun", type=click.Path())
@data_option
@click.option("--out", required=True, type=click.Path(), metavar="DIR",
              help="Folder to write: the analysis, and the mixed run if blocks are left float.")
@click.option("--against", type=click.Path(), metavar="RUN", help="The float run.  [default: found through the run card]")
@click.option("--budget", type=click.FloatRange(min=0, max=100), default=0.5, show_default=True, metavar="POINTS",
              help="Largest loss of validation top-1 against the float run, in points.")
@click.option("--agreement", type=click.FloatRange(min=0, max=1), metavar="SHARE",
              help="Also require this share of answers equal to the float run's, from 0 to 1.")
@click.option("--blocks", type=click.IntRange(min=1), metavar="N", help="Leave N blocks float, whatever the budget.")
@click.option("--float-blocks", metavar="NAMES", help="Leave these blocks float, such as stem,block_04, whatever the budget.")
@json_option
def sensitivity(qrun: str, data: str, out: str, against: str | None, budget: float, agreement: float | None,
                blocks: int | None, float_blocks: str | None, as_json: bool) -> None:
    """Finds the blocks of the quantized run QRUN that lose accuracy, and leaves a few of them float to meet a budget.

    Every block is quantized alone, and left float alone, on the validation pictures. If 8 bits throughout lose more than the
    budget, blocks are left float one after another until it is met. DIR is then a quantized run that `mnv3 convert` takes, and
    its latency is measured beside int8 and float32. The exit code is 3 if no choice of blocks meets the budget, or if the file
    is not clean.
    """
    quiet_libraries()
    from mnv3_tf.export.sensitivity.mixed import analyse_run

    names = None if float_blocks is None else [name.strip() for name in float_blocks.split(",") if name.strip()]
    result = analyse_run(qrun, data, out, against=against, budget=budget, agreement=agreement, float_blocks=names, blocks=blocks,
                         progress=Terminal())
    if as_json:
        print_json(result)
    else:
        _print(result, out)
    if result.refused or not (result.recipe.meets or result.recipe.asked):
        raise SystemExit(3)


def _print(result: "Analysis", out: str) -> None:
    show(_blocks(result), width=140)
    if result.cost:
        show(_costs(result.cost), width=140)
        for row in result.cost.ratios:
            click.echo(f"{row.file} takes {row.ratio:.2f} times as long as {row.baseline} (95% interval {row.low:.2f} to "
                       f"{row.high:.2f}).")
    for line in result.remarks():
        click.echo(f"{line[0].upper()}{line[1:]}.")
    click.echo(f"Written: {out}/sensitivity.json, {out}/sensitivity.png"
               + (f" and a quantized run. Next: mnv3 convert {out} --out {out}.tflite" if result.run else "."))


def _blocks(result: "Analysis") -> "Table":
    found = result.sensitivity
    table = new_table("rank", "block", "divergence alone", "agreement", "top-1", "gain when float", "int8 bytes", "float bytes",
                      right=6,
                      title="divergence from the float model in nats; a block alone in 8 bits, and what leaving it float removes")
    for rank, row in enumerate(found.blocks, 1):
        chosen = row.block in result.recipe.float_blocks
        table.add_row(str(rank), f"{row.block}{' (left float)' if chosen else ''}", f"{row.alone.divergence:.5f}",
                      f"{row.alone.agreement:.1%}", f"{row.alone.top1:.4f}", f"{row.gain:+.5f}", f"{row.int8_bytes:,}",
                      f"{row.float_bytes:,}", style="bold" if chosen else "")
    table.add_section()
    for name, answers in (("no block in 8 bits", found.unquantized), ("all blocks in 8 bits", found.quantized),
                          ("this recipe", result.recipe.answers)):
        table.add_row("", name, f"{answers.divergence:.5f}", f"{answers.agreement:.1%}", f"{answers.top1:.4f}", "", "", "")
    table.add_row("", "float model", "", "", f"{found.float_top1:.4f}", "", "", "")
    return table


def _costs(cost: "Cost") -> "Table":
    table = new_table("file", "median ms", "MB", "XNNPACK partitions", right=3,
                      title=f"measured in turns, one thread, {cost.machine}")
    for file in cost.files:
        table.add_row(file.name, f"{file.median_ms:.3f}", f"{file.size_bytes / 1e6:.2f}", str(file.partitions))
    return table
