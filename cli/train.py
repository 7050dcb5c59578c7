"""`mnv3 train`."""

import click

from mnv3_tf.cli.options import config_options, data_option, quiet_libraries
from mnv3_tf.progress import Terminal


@click.command()
@data_option
@click.option("--out", required=True, type=click.Path(), metavar="RUN", help="Run folder to write.")
@config_options
@click.option("--resume", is_flag=True,
              help="Continue a stopped run as if it had not been stopped, or a finished one with a larger train.epochs.")
def train(data: str, out: str, config_path: str | None, overrides: tuple[str, ...], resume: bool) -> None:
    """Trains a float network on labelled pictures.

    RUN gets model.keras (the best weights), labels.txt, preprocessing.json, config.yaml, metrics.json, log.csv,
    curves.png, TensorBoard events and the state that --resume needs. Ctrl-C leaves a run that can be resumed.
    """
    from mnv3_tf.export.road import train as run_training

    run = run_training(data, out, config_path, settings=overrides, resume=resume, before_tensorflow=quiet_libraries,
                       progress=Terminal())
    click.echo(f"Trained: {run.path}. Next: mnv3 quantize {run.path} --data {data} --out {run.path}-int8")
