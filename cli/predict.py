"""`mnv3 predict`."""

import click

from mnv3_tf.cli.options import json_option, print_json, quiet_libraries_for


@click.command()
@click.argument("model", type=click.Path())
@click.argument("pictures", nargs=-1, required=True, type=click.Path(), metavar="PICTURE...")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True,
              help="Number of classes to print for each picture.")
@json_option
def predict(model: str, pictures: tuple[str, ...], top_k: int, as_json: bool) -> None:
    """Classifies pictures with MODEL (a run folder, .keras or .tflite file); a folder stands for the files in it.

    A picture that cannot be read is named, and the others are still classified; the exit code is then 1.
    """
    quiet_libraries_for(model)
    from mnv3_tf.export.evaluate.classifier import open_classifier
    from mnv3_tf.export.evaluate.evaluate import predict as run_prediction

    answers, broken, note = run_prediction(open_classifier(model), _expand(pictures), top_k)
    if note:
        click.echo(note, err=True)
    if as_json:
        print_json(answers)
    else:
        for answer in answers:
            click.echo(answer.file)
            for label, _, probability in answer.predictions:
                click.echo(f"  {probability:7.2%}  {label}")
    for line in broken:
        click.echo(f"Error: {line}", err=True)
    if broken:
        raise click.exceptions.Exit(1)


def _expand(pictures: tuple[str, ...]) -> list[str]:
    """Folders replaced by their files, in natural order."""
    from pathlib import Path

    from natsort import natsorted

    def files(folder: Path) -> list[str]:
        return natsorted(str(path) for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

    return [file for picture in pictures for file in (files(Path(picture)) if Path(picture).is_dir() else [picture])]
