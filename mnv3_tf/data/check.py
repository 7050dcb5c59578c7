"""The look at every picture before work starts."""

from pathlib import Path

from mnv3_tf.data import PictureDataset, ScanReport, scan_dataset
from mnv3_tf.data.scan import SAMPLE, Level
from mnv3_tf.progress import Progress

# Pictures that are all decoded unless something else is asked for.
_FULL = 200_000
_SAID = {"sample": f"up to {SAMPLE:,} of each split are decoded", "headers": "the beginning of each is read",
         "none": "none is looked at"}
# Remarks that are printed; the report holds all.
_SHOWN = 10


def check_pictures(dataset: PictureDataset, *, strict: bool, progress: Progress,
                   report_path: Path | None = None, level: Level | None = "full") -> tuple[PictureDataset, ScanReport]:
    """Looks at the pictures once, says what is wrong or was left out, and leaves the broken ones out.

    Args:
        dataset: what to look at; results are cached by content, so that the next look is quick.
        strict: a broken picture, or one that is both in training and elsewhere, is an error.
        progress: told of everything.
        report_path: where the whole report will be, to name it where not all is printed.
        level: how, as for :func:`scan_dataset`; None chooses by their number, and says so where that is not "full".

    Raises:
        InputError: nothing usable is left of a split, or `strict` forbids what was found.
    """
    total = sum(map(len, dataset.splits.values()))
    level = level or ("full" if total <= _FULL else "sample")
    if level != "full":
        progress.say(f"of {total:,} pictures {_SAID[level]} before work starts (data.check={level}); a broken one among the "
                     "others is named when training meets it")
    with progress.task("Checking pictures", total) as advance:
        report = scan_dataset(dataset, progress=lambda done, total: advance(done, ""), level=level)
    report.raise_if(strict)
    problems = [*dataset.notes, *report.problems()]
    for line in problems[:_SHOWN]:
        progress.say(line)
    if len(problems) > _SHOWN:
        where = f", in {report_path}" if report_path else ""
        progress.say(f"... and {len(problems) - _SHOWN} more remarks about the pictures{where}")
    return report.clean(dataset), report
