"""Float training: from a picture folder to a run folder, resumable at any step."""

import contextlib
import csv
import dataclasses
import io
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.artefacts.card import data_facts
from mnv3_tf.artefacts.run_folder import RunFolder, contract_from
from mnv3_tf.backend import keras, own_settings
from mnv3_tf.config import Config, by_key
from mnv3_tf.data import PictureDataset, Preprocessing, Samples, evaluation_split, open_dataset
from mnv3_tf.data.batches import ContractPictures
from mnv3_tf.data.check import check_pictures
from mnv3_tf.data.sample_list import NO_LABEL
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.files import atomic_path, write_json, write_text
from mnv3_tf.interrupts import Interrupted, stop_on_signals
from mnv3_tf.metrics import Scores, score_batches
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.build import dtype_policy
from mnv3_tf.network.keras_io import save_keras
from mnv3_tf.network.spec import network_spec, with_normalization
from mnv3_tf.progress import Advance, Progress
from mnv3_tf.training import processes
from mnv3_tf.training.averaging import AveragedModel
from mnv3_tf.training.batches import Batch, TrainingBatches
from mnv3_tf.training.defaults import Choices, balanced_weights, decide, make_loss, make_optimizer, steps_at_once
from mnv3_tf.training.devices import Devices, copy_weights
from mnv3_tf.training.distill import DistillationLoss, LabelAccuracy, TeacherAnswers, open_teacher, with_answers
from mnv3_tf.training.events import EventFile
from mnv3_tf.training.freezing import FreezingPlan, make_plan
from mnv3_tf.training.resume import check_origin, check_resumable
from mnv3_tf.training.state import Counters, SavedState, save_state
from mnv3_tf.training.trackers import Guarded, Tracker, tracker_named
from mnv3_tf.training.transfer import facts_of, take_over
from mnv3_tf.weights.starting import StartingWeights, starting_model

# Loss and accuracy are fetched from the device once in so many seconds, since it waits for that.
_LOOK_SECONDS = 0.25
# Training pictures that a teacher is tried on before it teaches.
_EXAMINED = 256


@own_settings()
def train(dataset: PictureDataset, config: Config, out: str | Path, *, resume: bool = False, progress: Progress,
          tracker: Tracker | None = None) -> RunFolder:
    """Trains a network on the training split and keeps the weights that score best on the validation split.

    On JAX all devices of this process are used, and those of all processes where `jax.distributed` has been initialized and this
    runs in each of them within :func:`mnv3_tf.training.processes.together`.

    Args:
        dataset: with the splits "train" and "val", and perhaps "test".
        config: all settings.
        out: the run folder to make, or to go on with.
        resume: go on where a run stopped: step, rate, optimizer, averages and random state continue. More epochs may be asked for
            (of a finished run, too), another peak rate and another patience: from there on the schedule is that of such a run.
        progress: told of everything.
        tracker: told of every epoch, beside TensorBoard's file; None: the one that `train.tracker` names.

    Returns:
        The finished run folder.

    Raises:
        InputError: the folder is taken, the data unusable, the configuration differs from the interrupted run's, or the weights
            or the teacher do not fit.
        KitError: the loss or the weights are no finite numbers any more, or a file cannot be written. The last saved state stays.
        Interrupted: stopped by Ctrl-C or SIGTERM; the state is saved.
    """
    run = RunFolder(Path(out))
    if resume:
        check_resumable(run, config, progress)
    else:
        run.refuse_if_used("Go on with that run by --resume, or choose another --out.")
    make_plan(config)
    if config.train.teacher and config.train.loss != "cross_entropy":
        raise InputError(f"train.loss is {config.train.loss}: with a teacher the loss is the cross-entropy. Leave it out.")
    if config.train.unlabelled and not config.train.teacher:
        raise InputError(f"train.unlabelled is {config.train.unlabelled}: pictures without labels can only be learned from a "
                         "teacher. Give train.teacher, or leave it out.")
    if config.train.tracker and not tracker:
        tracker = tracker_named(config.train.tracker)
    devices = Devices(config.train.devices)
    keras.utils.set_random_seed(config.train.seed)  # Keras begins with random values what it loads: the same in all processes
    with devices.scope():
        return _train(dataset, config, run, devices, progress, tracker)


def _train(dataset: PictureDataset, config: Config, run: RunFolder, devices: Devices, progress: Progress,
           tracker: Tracker | None) -> RunFolder:
    # A run that goes on has the weights in its own state.
    start = starting_model(config, progress) if config.model.weights and not run.state.exists() else None
    answers = None
    if config.train.teacher:
        answers = TeacherAnswers(open_teacher(config.train.teacher), dataset.class_names, config.data.height_width)
    dataset, report = check_pictures(dataset, strict=config.data.strict, progress=progress, report_path=run.path / "scan.json",
                                     level=config.data.check)
    data = data_facts(dataset, report)
    unlabelled = None
    if config.train.unlabelled:
        others, found = check_pictures(_without_labels(config.train.unlabelled, progress), strict=config.data.strict,
                                       progress=progress, level=config.data.check)
        unlabelled, data = others.split("unlabelled"), data | data_facts(others, found)
    saved = SavedState.read(run.state) if run.state.exists() else None
    origin = {"data": data, "teacher": answers.facts["sha256"] if answers else None}
    processes.agree({**by_key(config), **{f"the pictures of {split}": facts for split, facts in data.items()},
                     "the classes": dataset.class_names, "the file of model.weights": start and start.sha256,
                     "the file of train.teacher": origin["teacher"]})
    if saved and saved.counters.origin:
        check_origin(run, saved.counters.origin, origin, dataset.class_names)
    training = _Training(dataset, unlabelled, data, config, run, devices, progress, start, answers, saved)
    training.counters.origin = origin
    write_json(run.path / "scan.json", report)
    run.write_head(config, training.contract, dataset.class_names)
    with contextlib.closing(training.batches):
        return training.run(tracker)


class _Training:
    """One sitting of a run."""

    def __init__(self, dataset: PictureDataset, unlabelled: Samples | None, data: dict[str, Any], config: Config, run: RunFolder,
                 devices: Devices, progress: Progress, start: StartingWeights | None, answers: TeacherAnswers | None,
                 saved: SavedState | None):
        self.config, self.run_folder, self.progress, self.dataset, self.data = config, run, progress, dataset, data
        self.devices = devices
        self.contract: Preprocessing = contract_from(config)
        self.answers = answers
        classes = len(dataset.class_names)
        samples = dataset.split("train")
        settings = config.train
        weights = None
        if settings.class_weights == "balanced":
            weights = balanced_weights(np.bincount(samples.labels, minlength=classes))
        everything = Samples.joined([samples, unlabelled]) if unlabelled else samples
        self.batches = TrainingBatches(
            everything, self.contract, classes, batch_size=settings.batch_size, augmentation=config.augment,
            class_weights=weights, seed=settings.seed, cache_mb=config.data.cache_mb,
            workers=devices.workers(config.data.workers), say=processes.teller(progress),
            part=(devices.process, devices.processes))
        devices.check_batch(self.batches.batch_size, len(everything))
        self.counters = saved.counters if saved else Counters(start=facts_of(start) if start else {})
        if self.counters.mixed_precision is not None:  # as before, on whatever device it goes on
            known = self.counters.mixed_precision
            settings = dataclasses.replace(settings, mixed_precision="float16" if known is True else known)
        self.choices: Choices = decide(settings, self.batches.batch_size, self.batches.steps_per_epoch,
                                       tuned=config.model.weights is not None, folded=self.counters.start.get("folded", False))
        self.counters.mixed_precision = self.choices.mixed_precision
        self.plan: FreezingPlan = make_plan(config, inference_batchnorm=self.choices.batchnorm == "frozen",
                                            new_head_conv=self.counters.start.get("lacks_head_conv", False))
        if answers:
            answers.examine(*examined(samples, self.contract, settings.seed, progress))
        self._say_what_is_trained(len(samples), len(unlabelled or ()))
        keras.utils.set_random_seed(settings.seed)
        self.network = self._build(f"mixed_{self.choices.mixed_precision}" if self.choices.mixed_precision else "float32")
        # Evaluates raw and averaged weights in float32 without touching the network in training, and is what is saved.
        self.evaluation_model = self._build("float32")
        self.evaluation_model.jit_compile = self.choices.xla
        if start:
            self.counters.start = take_over(self.evaluation_model, start, dataset.class_names, self.plan, self.choices,
                                            self.batches, settings.epochs, progress)
            copy_weights(self.network, self.evaluation_model.weights)
        self.model = AveragedModel(self.network, settings.ema_decay) if settings.ema_decay else self.network
        self._enter(self.counters.stage)
        if saved:
            saved.restore(self.variables)
            self.progress.say(f"resuming after {self.counters.epoch} epochs and {self.counters.step} steps")
        self._validation = devices.pictures(dataset.split("val"), self.contract, processes.teller(progress))

    def _enter(self, stage: int) -> None:
        """Sets what is trained in a stage, with an optimizer of its own: the schedule of the rate goes on."""
        settings, plan, choices = self.config.train, self.plan, self.choices
        plan.apply(self.network, stage)
        first_step = plan.starts[stage - 1] * self.batches.steps_per_epoch if stage else 0
        rates = plan.rates(choices.backbone_rate, choices.layer_decay)
        rates_differ = (choices.backbone_rate, choices.layer_decay) != (1.0, 1.0)
        self.optimizer = make_optimizer(settings, choices, first_step=first_step,
                                        rate_of=(lambda name: rates[plan.unit_of(name)]) if rates_differ else None)
        loss = make_loss(settings, len(self.dataset.class_names))
        accuracy: keras.metrics.Metric = keras.metrics.CategoricalAccuracy("accuracy")
        if self.answers:
            classes = len(self.dataset.class_names)
            loss = DistillationLoss(classes, settings.teacher_weight, settings.teacher_temperature, settings.label_smoothing)
            accuracy = LabelAccuracy(classes)
        # A divisor of every fit's steps: Keras would go on into the next epoch.
        self.at_once = steps_at_once(math.gcd(self.batches.steps_per_epoch, self.counters.step))
        self.model.compile(self.optimizer, loss, metrics=[accuracy], jit_compile=choices.xla, steps_per_execution=self.at_once)
        kept = self.model.optimizer  # with float16 arithmetic, Keras's scaling of the loss around ours
        kept.build(self.model.trainable_variables)
        self.variables = [*self.model.variables, *kept.variables]
        self.counters.stage = stage

    def _say_what_is_trained(self, pictures: int, unlabelled: int) -> None:
        say = self.progress.say
        say(f"{pictures} training pictures, {len(self.dataset.split('val'))} for validation, "
            f"{len(self.dataset.class_names)} classes")
        if unlabelled:
            say(f"{unlabelled} pictures without labels are learned from the teacher alone")
        if self.batches.batch_size < self.config.train.batch_size:
            say(f"batch size {self.batches.batch_size}: there are fewer training pictures than "
                f"{self.config.train.batch_size}")
        for note in self._notes():
            say(note)

    def _notes(self) -> list[str]:
        return [*self.choices.notes, *self.devices.notes, *self.plan.notes(), *(self.answers.notes if self.answers else ())]

    def _build(self, policy: str) -> keras.Model:
        model = self.config.model
        spec = with_normalization(network_spec(model), *(self.counters.start.get("normalization") or ()))
        with dtype_policy(policy):
            return MobileNetV3(spec, input_shape=(self.contract.height, self.contract.width, 3), alpha=model.alpha,
                               classes=len(self.dataset.class_names), dropout_rate=model.dropout,
                               batchnorm_momentum=self.choices.batchnorm_momentum)

    def run(self, tracker: Tracker | None) -> RunFolder:
        """Trains to the end; the tracker of the first process is told."""
        self.events = EventFile(self.run_folder.path / "tensorboard")
        self.tracker = Guarded(tracker, self.progress.say) if tracker and self.devices.process == 0 else None
        if not self.tracker:
            return self._run()
        self.tracker.begin(self.run_folder.path, by_key(self.config))
        scores = None
        try:
            finished = self._run()
            scores = {f"{split}_{key}": value for split, values in finished.metrics.items() for key, value in values.items()}
            return finished
        finally:
            self.tracker.end(scores)

    def _run(self) -> RunFolder:
        epochs, steps = self.config.train.epochs, self.batches.steps_per_epoch
        if self.counters.start and not self.run_folder.state.exists():
            self._save_state()  # from here on, the weights that the run starts from are not needed any more
        with self.progress.task("Training", epochs * steps) as advance, \
                (stop_on_signals if self.devices.processes == 1 else processes.stop_on_notice)() as stop:
            callback = _Steps(self, advance, stop)
            if self.counters.step and not stop:
                # An epoch that was interrupted: what is left of it, in a fit of its own.
                self._fit(callback, steps - self.counters.step, self.counters.epoch + 1)
            while self.counters.epoch < epochs and not stop and not self.out_of_patience():
                # One fit for all epochs of a stage: each fit on a generator leaves memory behind in TensorFlow.
                stage = self.plan.stage(self.counters.epoch)
                if stage != self.counters.stage:
                    self._enter(stage)
                self._fit(callback, steps, self.plan.ends(stage, epochs))
            if self.out_of_patience():
                self.progress.say(f"no better {self.config.train.monitor} on the validation pictures for "
                                  f"{self.config.train.patience} epochs: stopped after epoch {self.counters.epoch} of {epochs}")
            elif stop and self.counters.epoch < epochs:
                self._save_state()
                raise Interrupted(f"Stopped after {self.counters.epoch} epochs and {self.counters.step} steps; all of it "
                                  f"is saved. Go on with: mnv3 train ... --out {self.run_folder.path} --resume")
        return self._finish()

    def _fit(self, callback: "_Steps", steps: int, last_epoch: int) -> None:
        if steps:
            self.model.fit(self._batches_until(last_epoch), steps_per_epoch=steps, initial_epoch=self.counters.epoch,
                           epochs=last_epoch, shuffle=False, verbose=0, callbacks=[callback])
        else:
            callback.on_epoch_end(self.counters.epoch)

    def _batches_until(self, last_epoch: int) -> Iterator[Batch]:
        first_step = self.counters.step
        for epoch in range(self.counters.epoch, last_epoch):
            for pixels, labels, weights in self.batches.epoch(epoch, first_step):
                yield pixels, with_answers(labels, self.answers.logits(pixels)) if self.answers else labels, weights
            first_step = 0

    def out_of_patience(self) -> bool:
        """Whether there was no better epoch for so long that training stops."""
        patience, counters = self.config.train.patience, self.counters
        since = max([counters.best.get("epoch", 0), *self.plan.starts[-1:]])
        return patience is not None and counters.epoch - since >= patience

    def check_finite(self, finite: bool, what: str) -> None:
        """Stops the run where numbers are none any more: nothing of it is saved, and the last saved state stays."""
        if finite:
            return
        counters, run = self.counters, self.run_folder
        kept = f"The state after epoch {SavedState.read(run.state).counters.epoch} is kept: go on from there" \
            if run.state.exists() else "Nothing was saved yet: begin again"
        raise KitError(
            f"{run.path}: training diverged in epoch {counters.epoch + 1}, by step {counters.step} of "
            f"{self.batches.steps_per_epoch}, with a peak learning rate of {self.choices.learning_rate:.3g}: {what} not finite "
            f"(NaN). {kept} with a lower rate, by mnv3 train ... --out {run.path} --resume "
            f"-o train.learning_rate={self.choices.learning_rate / 10:.1g}")

    def validate(self, pictures_per_second: float) -> None:
        counters = self.counters
        row: dict[str, Any] = {"epoch": counters.epoch + 1, **counters.running,
                               "learning_rate": float(keras.ops.convert_to_numpy(self.optimizer.learning_rate)),
                               "pictures_per_second": round(pictures_per_second, 1)}
        candidates = {"raw": self.network.weights}
        if isinstance(self.model, AveragedModel):
            candidates["ema"] = self.model.averages.values
        for which, weights in candidates.items():
            copy_weights(self.evaluation_model, weights)
            scores = self._scores("val", self._validation)
            self.check_finite(math.isfinite(scores.loss), "the loss on the validation pictures is")
            found = scores.summary()
            for key in ("top1", "loss", "f1", "balanced_accuracy"):
                row[f"{which}_val_{key}"] = found[key]
            if not counters.best or self._standing(found) > self._standing(counters.best):
                counters.best = {**found, "epoch": counters.epoch + 1, "which": which}
                save_keras(self.evaluation_model, self.run_folder.model)
        met = len(self.batches.broken) + len(self._validation.broken or ())
        if broken := sum(map(int, processes.gathered(str(met).encode()))):
            row["broken_pictures"] = broken
        counters.history.append(row)
        counters.epoch += 1
        counters.step, counters.running = 0, {}
        self._save_state()
        _write_csv(self.run_folder.path / "log.csv", counters.history)
        figures = {key: value for key, value in row.items() if key != "epoch"}
        self.events.epoch(row["epoch"], figures)
        if self.tracker:
            self.tracker.epoch(row["epoch"], figures)

    def _standing(self, scores: dict[str, float]) -> tuple[float, float]:
        """What decides which of two epochs is better: the monitored score, then the loss."""
        monitor = self.config.train.monitor
        return (-scores["loss"], scores["top1"]) if monitor == "loss" else (scores[monitor], -scores["loss"])

    def _scores(self, split: str, pictures: ContractPictures) -> Scores:
        labels = self.dataset.split(split).labels.astype(np.int64)
        return score_batches(self.devices.answers(self.evaluation_model, pictures, labels), self.dataset.class_names)

    def _save_state(self) -> None:
        self.check_finite(all(np.isfinite(weights).all() for weights in self.network.get_weights()), "the weights are")
        save_state(self.run_folder.state, self.variables, self.counters)

    def _finish(self) -> RunFolder:
        """Scores the best weights and writes the card."""
        counters, run = self.counters, self.run_folder
        if not run.model.exists():
            raise InputError(f"{run.model}: is gone. Put it back, or train again with another --out.")
        _draw_curves(run.path / "curves.png", counters.history)
        self.evaluation_model.load_weights(run.model)
        scores = {}
        for split in dict.fromkeys(["val", evaluation_split(self.dataset)]):
            pictures = self._validation if split == "val" else self.devices.pictures(
                self.dataset.split(split), self.contract, processes.teller(self.progress))
            scores[split] = self._scores(split, pictures)
        rate = counters.pictures / max(counters.seconds, 1e-9)
        run.write_card(
            kind="float run", config=self.config, classes=list(self.dataset.class_names),
            preprocessing=self.contract.fingerprint(), notes=self._notes(), best=counters.best,
            **({"weights": counters.start} if counters.start else {}),
            **({"teacher": self.answers.facts} if self.answers else {}),
            pictures_per_second=round(rate, 1), seconds=round(counters.seconds, 1), seeds={"train": self.config.train.seed},
            data=self.data, metrics=run.write_scores(scores))
        for split, values in scores.items():
            self.progress.say(f"{split} top-1 {values.top1:.4f} on {values.samples} pictures "
                              f"(epoch {counters.best['epoch']}, {counters.best['which']} weights, {rate:.0f} pictures/s)")
        return run


class _Steps(keras.callbacks.Callback):
    """Counts steps, saves by the clock and stops on a signal; called after every step, or after several."""

    def __init__(self, training: _Training, advance: Advance, stop: list[int]):
        super().__init__()
        self.training, self.advance, self.stop = training, advance, stop
        self.saved_at = self.looked_at = time.monotonic()
        self.on_epoch_begin(0)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.first_step = self.training.counters.step
        self.carried = dict(self.training.counters.running)
        self.seen, self.logs = 0, dict[str, Any]()
        self.began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        training, counters = self.training, self.training.counters
        self._look()
        elapsed = time.monotonic() - self.began
        pictures = self.seen * training.batches.batch_size
        counters.seconds += elapsed
        counters.pictures += pictures
        if counters.step == training.batches.steps_per_epoch:
            self._sync()
            training.validate(pictures / max(elapsed, 1e-9))
            if training.out_of_patience():
                self.model.stop_training = True

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        training, counters, now = self.training, self.training.counters, time.monotonic()
        self.seen, self.logs = self.seen + training.at_once, logs or {}
        counters.step = self.first_step + self.seen
        save = now - self.saved_at > training.config.train.checkpoint_minutes * 60
        if save or now - self.looked_at >= _LOOK_SECONDS:
            self._look()
        best, loss = counters.best.get(training.config.train.monitor), counters.running.get("train_loss")
        self.advance(counters.epoch * training.batches.steps_per_epoch + counters.step,
                     f"epoch {counters.epoch + 1}/{training.config.train.epochs}"
                     + (f", loss {loss:.3f}" if loss is not None else "")
                     + (f", best validation {best:.3f}" if best is not None else ""))
        if processes.is_last((counters.epoch * training.batches.steps_per_epoch + counters.step) // training.at_once):
            self.stop.append(signal.SIGTERM)
        if self.stop:
            self._look()
            self.model.stop_training = True
        elif save:
            self._sync()
            training._save_state()
            self.saved_at = now

    def _look(self) -> None:
        """Fetches the loss and accuracy of the epoch so far."""
        training, counters = self.training, self.training.counters
        for key, value in self.logs.items():
            before = self.carried.get(f"train_{key}", 0.0) * self.first_step
            counters.running[f"train_{key}"] = (before + float(value) * self.seen) / counters.step
        training.check_finite(math.isfinite(counters.running.get("train_loss", 0.0)), "the loss is")
        self.looked_at = time.monotonic()

    def _sync(self) -> None:
        # On JAX the variables lag behind the step's state until asked for.
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()


def _without_labels(folder: str, progress: Progress) -> PictureDataset:
    """All pictures of a folder, of whatever layout, as the split "unlabelled"."""
    found = open_dataset(folder, validation_fraction=0, labels_needed=False, progress=progress)
    samples = found.split("all")
    return dataclasses.replace(found, class_names=(), splits={"unlabelled": samples.with_labels(np.full(len(samples), NO_LABEL))})


def examined(samples: Samples, contract: Preprocessing, seed: int, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Some training pictures that a teacher is tried on: uint8 (n, height, width, 3) and int (n,)."""
    order = np.random.default_rng(seed).permutation(len(samples))[:_EXAMINED]
    chosen = ContractPictures(samples.take(order), contract, say=progress.say)
    pixels = np.concatenate(list(chosen))
    sound = chosen.sound(0, len(chosen))
    return pixels[sound], chosen.labels[sound]


def _write_csv(path: Path, history: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in history for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def _draw_curves(path: Path, history: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5))
    loss_axes, accuracy_axes = figure.subplots(1, 2, gridspec_kw={"left": 0.06, "right": 0.98, "bottom": 0.14, "top": 0.9})
    epochs = [row["epoch"] for row in history]
    for axes, keys, title in ((loss_axes, ("train_loss", "raw_val_loss", "ema_val_loss"), "loss (nats)"),
                              (accuracy_axes, ("train_accuracy", "raw_val_top1", "ema_val_top1"), "top-1")):
        for key in keys:
            if any(key in row for row in history):
                axes.plot(epochs, [row.get(key, np.nan) for row in history], label=key.replace("_", " "))
        axes.set_xlabel("epoch")
        axes.set_title(title)
        axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
