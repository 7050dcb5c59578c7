"""`mnv3 evaluate`."""

from typing import TYPE_CHECKING

import click

from mnv3_tf.cli.options import data_option, json_option, new_table, print_json, quiet_libraries_for, show, tell
from mnv3_tf.progress import Terminal

if TYPE_CHECKING:
    from mnv3_tf.metrics import Scores


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
    table = new_table("class", "pictures", "recall", "most often taken for")
    names = [name for name, _, _ in scores.per_class]
    for index, (name, count, recall) in enumerate(scores.per_class):
        row = list(scores.confusion[index])
        row[index] = 0
        wrong = f"{names[row.index(max(row))]} ({max(row)})" if max(row) else ""
        table.add_row(name, str(count), "-" if recall is None else f"{recall:.3f}", wrong)
    show(table)
    left_out = f", {skipped} broken ones left out" if skipped else ""
    click.echo(f"top-1 {scores.top1:.4f} (95% interval {scores.top1_low:.4f} to {scores.top1_high:.4f}), "
               f"top-{scores.k} {scores.topk:.4f}, loss {scores.loss:.4f}, {scores.samples} pictures of {split}{left_out}")
