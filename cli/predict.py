"""`mnv3 predict`."""

import click

from mnv3_tf.cli.options import json_option, print_json, quiet_libraries_for
from mnv3_tf.progress import Terminal
from mnv3_tf.text import counted


@click.command()
@click.argument("model", type=click.Path())
@click.argument("pictures", nargs=-1, required=True, type=click.Path(), metavar="PICTURE...")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True,
              help="Number of classes to print for each picture.")
@click.option("--out", type=click.Path(dir_okay=False), metavar="FILE", help="Write the answers to a .csv or .jsonl file.")
@json_option
def predict(model: str, pictures: tuple[str, ...], top_k: int, out: str | None, as_json: bool) -> None:
    """Classifies pictures with MODEL (a run folder, .keras or .tflite file); a folder stands for all pictures in it.

    A picture that cannot be read is named, and the others are still classified; the exit code is then 1.
    """
    quiet_libraries_for(model)
    from mnv3_tf.export.evaluate.classifier import Classifier
    from mnv3_tf.export.evaluate.evaluate import check_answers_file, write_answers
    from mnv3_tf.export.evaluate.evaluate import predict as run_prediction

    if out:
        check_answers_file(out)
    answers, broken, note = run_prediction(Classifier(model), pictures, top_k, progress=Terminal())
    if note:
        click.echo(note, err=True)
    if out:
        write_answers(out, answers)
    if as_json:
        print_json(answers)
    elif out:
        click.echo(f"Written: {out}, {counted(len(answers), 'picture')}")
    else:
        for answer in answers:
            click.echo(answer.file)
            for label, _, probability in answer.predictions:
                click.echo(f"  {probability:7.2%}  {label}")
    for line in broken:
        click.echo(f"Error: {line}", err=True)
    if broken:
        raise click.exceptions.Exit(1)
