"""`mnv3 convert`."""

import click

from mnv3_tf.cli.options import json_option, print_json, quiet_libraries, tell
from mnv3_tf.text import counted


@click.command()
@click.argument("model", type=click.Path())
@click.option("--out", required=True, type=click.Path(), metavar="FILE.tflite", help="File to write.")
@click.option("--format", type=click.Choice(["int8", "float16", "dynamic", "float32"]), default="int8", show_default=True,
              help="int8 needs a quantized run.")
@click.option("--io", type=click.Choice(["uint8", "int8", "float32"]),
              help="Type of input and output of an int8 file.  [default: uint8]")
@click.option("--lowering", type=click.Choice(["xnnpack", "native", "fused"]), metavar="[xnnpack|native]",
              help="Hard-swish as ADD and MUL (xnnpack), or as one HARD_SWISH operator (native).  "
                   "[default: xnnpack for int8, else native]")
@json_option
def convert(model: str, out: str, format: str, io: str | None, lowering: str | None, as_json: bool) -> None:
    """Writes MODEL (a run folder or .keras file) as a checked .tflite file.

    Its preprocessing contract, labels and card are written beside it. Every file takes RGB pixels: uint8 the byte, int8 the
    byte minus 128, float32 the value 0..255. An int8 file is refused (exit code 3) if it has float operations outside the
    blocks that the run leaves float, stray conversions, open sizes or several XNNPACK partitions (except with --lowering native),
    or if its answers differ from the quantized network's.
    """
    if lowering == "fused":
        click.echo("Note: --lowering fused is called native now.", err=True)
    quiet_libraries()
    from mnv3_tf.export.road import convert as run_conversion

    result = run_conversion(model, out, format=format, io=io, lowering=lowering)  # type: ignore[arg-type]
    if as_json:
        print_json(result)
        return
    tell("Warning", result.warnings)
    outside = f", outside of it: {', '.join(result.outside)}" if result.outside else ""
    click.echo(f"Converted: {result.path} ({result.size_bytes / 1e6:.2f} MB, {result.format}, {result.io} in and out, "
               f"{counted(result.partitions, 'XNNPACK partition')}{outside}).")
