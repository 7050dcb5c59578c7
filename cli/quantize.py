"""`mnv3 quantize`."""

import click

from mnv3_tf.cli.options import config_options, data_option, quiet_libraries
from mnv3_tf.progress import Terminal


@click.command()
@click.argument("run", type=click.Path())
@data_option
@click.option("--out", required=True, type=click.Path(), metavar="QRUN", help="Run folder to write.")
@click.option("--method", type=click.Choice(["qat", "ptq"]), default="qat", show_default=True,
              help="qat: calibrate, then fine-tune with the float model as teacher; ptq: calibrate only.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of fine-tuning (quantize.epochs).")
@click.option("--smoke", is_flag=True, help="Allow calibration on anything, even random numbers; only to try the tools.")
@config_options
def quantize(run: str, data: str, out: str, method: str, epochs: int | None, smoke: bool, config_path: str | None,
             overrides: tuple[str, ...]) -> None:
    """Quantizes the trained run RUN to 8 bits.

    The settings are those of RUN, changed by -c and -o. Labels are needed only where fine-tuning learns from them
    (quantize.teacher_weight below 1): any folder of pictures will do.
    """
    if method == "ptq" and epochs is not None:
        raise click.UsageError("--epochs goes with --method qat: ptq does not fine-tune.")
    if epochs is not None:
        overrides = (*overrides, f"quantize.epochs={epochs}")
    from mnv3_tf.export.road import quantize as run_quantization

    target = run_quantization(run, data, out, config_path, settings=overrides, method=method,  # type: ignore[arg-type]
                              smoke=smoke, before_tensorflow=quiet_libraries, progress=Terminal())
    click.echo(f"Quantized: {target.path}. Next: mnv3 convert {target.path} --out {target.path}.tflite")
