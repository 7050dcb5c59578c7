"""`mnv3 evaluate`."""

from typing import TYPE_CHECKING

import click

from mnv3_tf.cli.options import data_option, json_option, new_table, print_json, quiet_libraries_for, show, tell
from mnv3_tf.progress import Terminal

if TYPE_CHECKING:
    from mnv3_tf.metrics import Scores

# Classes that are printed.
_SHOWN_CLASSES = 100


@click.command()
@click.argument("model", type=click.Path())
@data_option
@click.option("--split", type=click.Choice(["test", "val", "train", "all"]),
              help="Part of the data.  [default: test if there is one, else val; all if the folder has no splits]")
@click.option("--strict", is_flag=True, help="Fail on a broken picture instead of leaving it out.")
@click.option("--against", type=click.Path(), metavar="MODEL2",
              help="Also compare the answers with those of another model.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Threads of the TFLite runtime.")
@json_option
def evaluate(model: str, data: str, split: str | None, strict: bool, against: str | None, threads: int,
             as_json: bool) -> None:
    """Scores MODEL (a run folder, .keras or .tflite file) on labelled pictures, with the model's own preprocessing."""
    quiet_libraries_for(model, against)
    from mnv3_tf.export.evaluate.classifier import Classifier
    from mnv3_tf.export.evaluate.evaluate import evaluate as run_evaluation
    from mnv3_tf.files import plain

    classifier = Classifier(model, threads=threads)
    other = Classifier(against, threads=threads) if against else None
    result = run_evaluation(classifier, data, split=split, strict=strict, against=other, progress=Terminal())
    tell("Warning", result.warnings)
    if as_json:
        print_json({"model": model, "kind": classifier.kind, "split": result.split, "skipped": result.skipped,
                    "warnings": result.warnings, **({"agreement": {"model": against, **plain(result.agreement)}}
                                                    if result.agreement else {}), **plain(result.scores)})
        return
    _print(result.scores, result.split, len(result.skipped))
    if result.agreement:
        click.echo(f"the same answer as {against} on {result.agreement.in_words()}; a logit differs by "
                   f"{result.agreement.mean_difference:.4f} on average, {result.agreement.largest_difference:.4f} at most")


def _print(scores: "Scores", split: str, skipped: int) -> None:
    table = new_table("class", "pictures", "recall", "precision", "F1", "most often taken for")
    commonest = {label: (answer, count) for label, answer, count in reversed(scores.mistakes)}
    found = list(enumerate(scores.per_class))
    if len(found) > _SHOWN_CLASSES:
        found = sorted(found, key=lambda entry: (entry[1].f1 is None, entry[1].f1))[:_SHOWN_CLASSES]
    for index, own in found:
        answer, count = commonest.get(index, (0, 0))
        figures = ("-" if value is None else f"{value:.3f}" for value in (own.recall, own.precision, own.f1))
        table.add_row(own.name, str(own.samples), *figures, f"{scores.per_class[answer].name} ({count})" if count else "")
    show(table)
    if len(found) < len(scores.per_class):
        click.echo(f"the {len(found)} classes of the lowest F1, of {len(scores.per_class)}; --json has all")
    left_out = f", {skipped} broken ones left out" if skipped else ""
    click.echo(f"top-1 {scores.top1:.4f} (95% interval {scores.top1_low:.4f} to {scores.top1_high:.4f}), "
               f"top-{scores.k} {scores.topk:.4f}, loss {scores.loss:.4f}, {scores.samples} pictures of {split}{left_out}")
    click.echo(f"means over the classes: balanced accuracy {scores.balanced_accuracy:.4f}, precision {scores.precision:.4f}, "
               f"F1 {scores.f1:.4f}")
