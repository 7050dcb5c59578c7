"""Whether a run can go on, and under which settings."""

from typing import Any

from mnv3_tf.artefacts.run_folder import RunFolder
from mnv3_tf.config import Config, differences
from mnv3_tf.errors import InputError
from mnv3_tf.files import check_writable
from mnv3_tf.progress import Progress

# Settings that may be others when a run goes on.
MAY_CHANGE = ("train.epochs", "train.learning_rate", "train.patience", "train.devices")


def check_resumable(run: RunFolder, config: Config, progress: Progress) -> None:
    """Refuses to go on with a run under settings that would make another of it, and says which change.

    Raises:
        InputError: there is no run, a setting differs that may not, or fewer epochs are asked for.
        KitError: nothing can be written to it any more.
    """
    if not (run.path / "config.yaml").exists():
        raise InputError(f"{run.path}: there is no run to resume. Leave --resume out to start one.")
    before = run.config()
    changed = {line.partition(":")[0]: line for line in differences(before, config)}
    refused = [line for key, line in changed.items() if key not in MAY_CHANGE]
    if refused:
        raise InputError(f"{run.path}: cannot resume with other settings than the run was started with: {'; '.join(refused)}. "
                         f"Give the same settings, or none (only {', '.join(MAY_CHANGE)} may change), or start another --out, "
                         f"which -o model.weights={run.path} begins with these weights.")
    if config.train.epochs < before.train.epochs:
        raise InputError(f"{run.path}: train.epochs is {config.train.epochs}, but the run has {before.train.epochs}: it can be "
                         "given more, not fewer. Ctrl-C stops it earlier.")
    check_writable(run.path / "config.yaml")
    for key, line in changed.items():
        progress.say(f"from here on {line}" + (", with the learning rate of a run of so many" if key == "train.epochs" else ""))
    if not run.state.exists():
        progress.say("nothing was saved before the interruption: starting from the first step")


def check_origin(run: RunFolder, before: dict[str, Any], now: dict[str, Any], class_names: tuple[str, ...]) -> None:
    """Refuses to go on with other classes, pictures or another teacher: that would be neither run.

    Args:
        run: the run.
        before, now: :attr:`mnv3_tf.training.state.Counters.origin`, as saved and as found.
        class_names: of the data, in the order of their labels.

    Raises:
        InputError: names what is not what it was.
    """
    remedy = f"Put it back, or start another --out, which -o model.weights={run.path} begins with these weights."
    if run.labels() != class_names:
        raise InputError(f"{run.path}: the data has other classes than the run, or in another order (labels.txt). {remedy}")
    for split in ("train", "val"):
        old, new = before["data"][split], now["data"][split]
        if old["fingerprint"] != new["fingerprint"]:
            raise InputError(f"{run.path}: the split {split} has other pictures than the run was started with "
                             f"({old['pictures']} then, {new['pictures']} now). {remedy}")
    if before["teacher"] != now["teacher"]:
        raise InputError(f"{run.path}: the teacher has other weights than the run was started with. {remedy}")
