"""`mnv3 train`."""

from pathlib import Path

import click

from mnv3_tf.cli.options import Terminal, config_options, data_option, quiet_libraries


@click.command()
@data_option
@click.option("--out", required=True, type=click.Path(), metavar="RUN", help="Run folder to write.")
@config_options
@click.option("--resume", is_flag=True, help="Go on with an interrupted run as if nothing had happened.")
def train(data: str, out: str, config_path: str | None, overrides: tuple[str, ...], resume: bool) -> None:
    """Trains a float network on labelled pictures.

    RUN receives model.keras (the best weights), labels.txt, preprocessing.json, config.yaml, metrics.json, log.csv,
    curves.png, TensorBoard events and the state that --resume needs. Ctrl-C leaves a run that can be resumed.
    """
    from mnv3_tf.config import load_config

    stored = Path(out) / "config.yaml"
    base = load_config(stored) if resume and stored.exists() and not config_path else None
    config = load_config(config_path, overrides, base)
    from mnv3_tf.data import open_dataset

    dataset = open_dataset(data, validation_fraction=config.data.validation_fraction, seed=config.train.seed)
    quiet_libraries()
    from mnv3_tf.training.trainer import train as run_training

    run = run_training(dataset, config, out, resume=resume, progress=Terminal())
    click.echo(f"Trained: {run.path}. Next: mnv3 quantize {run.path} --data {data} --out {run.path}-int8")
