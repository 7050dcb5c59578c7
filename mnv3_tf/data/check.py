"""The look at every picture before work starts."""

from pathlib import Path

from mnv3_tf.data import PictureDataset, ScanReport, scan_dataset
from mnv3_tf.progress import Progress

# Remarks that are printed; the report holds all.
_SHOWN = 10


def check_pictures(dataset: PictureDataset, *, strict: bool, progress: Progress,
                   report_path: Path | None = None) -> tuple[PictureDataset, ScanReport]:
    """Decodes every picture once, says what is wrong or was left out, and leaves the broken ones out.

    Args:
        dataset: what to look at; results are cached by content, so that the next look is quick.
        strict: a broken picture, or one that is both in training and elsewhere, is an error.
        progress: told of everything.
        report_path: where the whole report will be, to name it where not all is printed.

    Raises:
        InputError: nothing usable is left of a split, or `strict` forbids what was found.
    """
    with progress.task("Checking pictures", sum(len(split) for split in dataset.splits.values())) as advance:
        report = scan_dataset(dataset, progress=lambda done, total: advance(done, ""))
    report.raise_if(strict)
    problems = [*dataset.notes, *report.problems()]
    for line in problems[:_SHOWN]:
        progress.say(line)
    if len(problems) > _SHOWN:
        where = f", in {report_path}" if report_path else ""
        progress.say(f"... and {len(problems) - _SHOWN} more remarks about the pictures{where}")
    return report.clean(dataset), report
