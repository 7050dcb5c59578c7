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
@click.option("--coordinator", metavar="HOST:PORT", help="For a run in several processes: where process 0 is reached by all.")
@click.option("--processes", "number", type=click.IntRange(1), metavar="N", help="How many processes there are.")
@click.option("--process", type=click.IntRange(0), metavar="I", help="Which of them this is, from 0.")
def train(data: str, out: str, config_path: str | None, overrides: tuple[str, ...], resume: bool, coordinator: str | None,
          number: int | None, process: int | None) -> None:
    """Trains a float network on labelled pictures.

    RUN gets model.keras (the best weights), labels.txt, preprocessing.json, config.yaml, metrics.json, log.csv,
    curves.png, TensorBoard events and the state that --resume needs. Ctrl-C leaves a run that can be resumed.

    With KERAS_BACKEND=jax, all accelerators are used, and those of other hosts where this command is started on each of them by
    srun or mpirun, or with --coordinator, --processes and --process (docs/training.md).
    """
    from mnv3_tf.training import processes

    meeting = processes.Meeting.of(coordinator, number, process)
    if meeting:
        meeting.join(out)
    from mnv3_tf.export.road import train as run_training

    run = run_training(data, out, config_path, settings=overrides, resume=resume, before_tensorflow=quiet_libraries,
                       progress=Terminal())
    if processes.index() == 0:
        click.echo(f"Trained: {run.path}. Next: mnv3 quantize {run.path} --data {data} --out {run.path}-int8")
