"""From a float run to a quantized run: check the folded network, calibrate, and fine-tune with the float model as teacher."""

import dataclasses
import math
from collections.abc import Collection
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mnv3_tf.artefacts.card import data_facts
from mnv3_tf.artefacts.run_folder import RunFolder, open_run
from mnv3_tf.backend import keras, own_settings
from mnv3_tf.config import Config, QuantizeConfig
from mnv3_tf.data import PictureDataset, Preprocessing, Samples, evaluation_split, fingerprint_samples
from mnv3_tf.data.batches import ContractPictures
from mnv3_tf.data.check import check_pictures
from mnv3_tf.errors import CheckFailed, InputError, KitError
from mnv3_tf.files import write_json
from mnv3_tf.interrupts import Interrupted, stop_on_signals
from mnv3_tf.metrics import Agreement, Scores, compare_answers, score
from mnv3_tf.network.keras_io import batch_logits, load_keras
from mnv3_tf.network.layer_names import display_name
from mnv3_tf.progress import Progress
from mnv3_tf.quantization.calibration import Calibration, calibrate
from mnv3_tf.quantization.calibration_check import check_calibration, measure_content, refuse_nonsense
from mnv3_tf.quantization.cross_layer_equalization import equalize
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, count_values, input_units
from mnv3_tf.quantization.fine_tuning import BestEpoch, FineTuning
from mnv3_tf.quantization.fold import trace
from mnv3_tf.quantization.graph import FoldedGraph, save_graph
from mnv3_tf.quantization.integer_network import QuantizedNetwork
from mnv3_tf.quantization.lowering import lower
from mnv3_tf.quantization.range_check import RangeCheck, spread
from mnv3_tf.quantization.weight_reconstruction import reconstruct_weights
from mnv3_tf.text import nearest
from mnv3_tf.training.batches import TrainingBatches

Method = Literal["qat", "ptq"]

# Largest difference between the Keras model and its folded network, as a share of the logits' range.
DEPLOY_TOLERANCE = 1e-4
_CHECKED_PICTURES = 64
_DECIDING_PICTURES = 64
# Memory for the tensors of the pictures that weights are fitted on, if all of them were held.
_RECONSTRUCTION_BYTES = 6_000_000_000


@own_settings()
def quantize(source: str | Path, dataset: PictureDataset, config: Config, out: str | Path, *, method: Method = "qat",
             smoke: bool = False, progress: Progress) -> RunFolder:
    """Makes the 8-bit form of a trained run.

    Args:
        source: a float run folder.
        dataset: its training split calibrates and fine-tunes, its validation split chooses the best epoch. Labels are needed
            only where fine-tuning learns from them (`quantize.teacher_weight` below 1).
        config: the section `quantize` is used; the rest describes the float run.
        out: the run folder to make.
        method: "qat" fine-tunes, "ptq" stops after calibration.
        smoke: calibrate on anything, random numbers and blank pictures too; the run says so for ever after.
        progress: told of everything.

    Returns:
        The finished quantized run.

    Raises:
        InputError: the source is not a float run, `out` exists, or the pictures cannot calibrate (see `smoke`) or lack labels.
        CheckFailed: the folded network does not compute what the model computes.
        KitError: fine-tuning diverged; the best finished epoch, or calibration alone, is saved.
        Interrupted: stopped; the same is saved.
    """
    run, target = open_run(source), RunFolder(Path(out))
    if not run.model.exists():
        raise InputError(f"{source}: is a quantized run already. Give the float run that `mnv3 train` wrote.")
    target.refuse_if_used("Choose another --out.")
    contract, class_names = run.contract(), run.labels()
    if method == "qat" and config.quantize.teacher_weight < 1 and not dataset.labelled:
        raise InputError(f"{dataset.root}: {dataset.notes[0]}, and fine-tuning with quantize.teacher_weight below 1 learns from "
                         "them. Set it to 1, give --method ptq, or give labelled pictures.")
    dataset, report = check_pictures(dataset, strict=config.data.strict, progress=progress, level=config.data.check)
    model = load_keras(run.model)
    graph = trace(model)
    samples, others = _calibration_samples(dataset.split("train"), config.quantize)
    contents = report.contents
    if report.level != "full":  # every picture that decides ranges is decoded first
        chosen, found = check_pictures(dataclasses.replace(dataset, splits={"train": Samples.joined([samples, others])}),
                                       strict=config.data.strict, progress=progress)
        samples, others = _calibration_samples(chosen.split("train"), config.quantize)
        contents |= found.contents
    difference = check_folded(model, graph, ContractPictures(samples[:_CHECKED_PICTURES], contract))
    progress.say(f"the folded network equals the float model within {difference:.1e} of the logits' range")

    # Small batches: the calibration looks at every tensor of the network at once.
    frozen = frozen_layers(graph, config.quantize.freeze)
    pictures = ContractPictures(samples, contract, batch_size=16)
    content = measure_content(pictures)
    refuse_nonsense(content, dataset.root, smoke)
    integer = graph
    if config.quantize.equalize:
        integer = equalize(graph, pictures, kept=frozen, split_stem=config.quantize.split_stem)
        if integer.split_stem:
            progress.say("the stem's hard-swish is computed from two convolutions, so that 8 bits serve all of its channels, "
                         "which differ much in size (quantize.split_stem=false leaves it: faster, less exact)")
    if config.quantize.split_stem and not integer.split_stem:
        raise InputError("quantize.split_stem is true, but the stem cannot be split: quantize.equalize is false, quantize.freeze "
                         "keeps it as it is, or it has no hard-swish in front of a depthwise convolution. Leave the setting "
                         "out, or change the other.")
    with progress.task("Calibrating", 2 * len(samples)) as advance:
        deciding = np.concatenate(list(ContractPictures(others, contract))) if others else None
        calibration = calibrate(integer, pictures, lambda done: advance(done, ""), deciding=deciding)
    progress.say(f"activation ranges from {calibration.pictures} training pictures")
    held_out = dataset.split("val")
    some = held_out.take(spread(len(held_out), config.verify.layer_pictures))
    checked = RangeCheck(integer, np.concatenate(list(ContractPictures(some, contract))), config.verify)
    for line in checked.narrow(calibration.ranges):
        progress.say(line)
    if config.quantize.compensate_pictures:
        integer = _reconstructed(integer, calibration, samples, contract, config.quantize, frozen, progress)
    looked_at = check_calibration(dataset, samples, contents, content, calibration.convergence, smoke)
    for line in looked_at.remarks():
        progress.say(line)
    facts: dict[str, Any] = {
        "kind": "quantized run", "method": method, "parent": run.model, "data": data_facts(dataset, report),
        "classes": list(class_names), "preprocessing": contract.fingerprint(), "config": config,
        "calibration": {"fingerprint": fingerprint_samples(samples, dataset.class_names, contents),
                        "pictures": calibration.pictures},
        "split_stem": integer.split_stem, "deploy_form_difference": difference,
        "seeds": {"train": config.train.seed, "quantize": config.quantize.seed}}
    work = _Quantization(graph, integer, calibration, contract, class_names, dataset, config, target, progress, facts,
                         looked_at.to_dict(), checked)
    if method == "qat" and config.quantize.epochs:
        work.fine_tune()
    return work.finish()


def check_folded(model: keras.Model, graph: FoldedGraph, pictures: ContractPictures) -> float:
    """Compares the lowered float network with the Keras model.

    Returns:
        The largest difference of a logit, as a share of the logits' range.

    Raises:
        CheckFailed: it exceeds :data:`DEPLOY_TOLERANCE`.
    """
    expected = np.concatenate([batch_logits(model, pixels) for pixels in pictures])
    network = LoweredNetwork(lower(graph), exact_input=True)
    found = np.concatenate([network.logits(pixels) for pixels in pictures])
    difference = float(np.abs(found - expected).max() / max(float(np.ptp(expected)), 1e-12))
    if not difference < DEPLOY_TOLERANCE:
        raise CheckFailed(f"The folded network differs from the float model by {difference:.1e} of the logits' range; allowed is "
                          f"{DEPLOY_TOLERANCE:.0e}. Nothing was written.")
    return difference


def _calibration_samples(samples: Samples, config: QuantizeConfig) -> tuple[Samples, Samples]:
    """A random choice of the training pictures, the same for the same seed, and others that decide between their ranges."""
    order = np.random.default_rng(config.seed).permutation(len(samples))
    deciding = min(_DECIDING_PICTURES, len(samples) // 5)
    end = min(config.calibration_pictures, len(samples) - deciding)
    return samples.take(order[:end]), samples.take(order[end:end + deciding])


def _reconstructed(graph: FoldedGraph, calibration: Calibration, samples: Samples, contract: Preprocessing,
                   config: QuantizeConfig, frozen: Collection[str], progress: Progress) -> FoldedGraph:
    """Weights that make up for 8 bits, from some of the calibration pictures."""
    lowered = lower(graph)
    count = min(config.compensate_pictures, max(8, _RECONSTRUCTION_BYTES // (count_values(lowered) * 4)))
    pixels = np.concatenate(list(ContractPictures(samples[:count], contract)))
    with progress.task("Fitting weights to 8 bits", len(lowered.ops) - 1) as advance:
        return reconstruct_weights(graph, calibration.ranges, pixels, kept=frozen, advance=lambda done: advance(done, ""))


class _Quantization:
    """The fake-quantized model, its fine-tuning, and its scores, which are those of the integer file that it becomes."""

    def __init__(self, float_graph: FoldedGraph, graph: FoldedGraph, calibration: Calibration, contract: Preprocessing,
                 class_names: tuple[str, ...], dataset: PictureDataset, config: Config, target: RunFolder,
                 progress: Progress, facts: dict[str, Any], looked_at: dict[str, Any], checked: RangeCheck):
        self.float_graph, self.graph, self.calibration = float_graph, graph, calibration
        self.contract, self.class_names = contract, class_names
        self.dataset, self.config, self.target, self.progress = dataset, config, target, progress
        self.facts, self.looked_at, self.checked = facts, looked_at, checked
        self.fake_quantized = LoweredNetwork(lower(graph), calibration.ranges)
        self.network = QuantizedNetwork(self.fake_quantized)
        # The float model itself, with its own padding; that of an integer file is not quite its zero (see `LoweredNetwork`).
        self.teacher = LoweredNetwork(lower(float_graph), exact_input=True)
        self.validation = ContractPictures(dataset.split("val"), contract)
        self.kept = (self.graph, calibration.ranges)

    @cached_property
    def float_validation(self) -> np.ndarray:
        """The float model's logits on the validation pictures, (n, classes)."""
        return _logits(self.teacher, self.validation)

    def _score(self, logits: np.ndarray, pictures: ContractPictures) -> Scores | None:
        return score(logits, pictures.labels, self.class_names) if self.dataset.labelled else None

    def _scores(self, split: str) -> tuple[Scores | None, Agreement]:
        pictures = self.validation if split == "val" else ContractPictures(self.dataset.split(split), self.contract)
        logits = _logits(self.network, pictures)
        wanted = self.float_validation if split == "val" else _logits(self.teacher, pictures)
        return self._score(logits, pictures), compare_answers(logits, wanted)

    def fine_tune(self) -> None:
        """Quantization-aware training; afterwards `kept` holds the best epoch, and `facts` the history."""
        settings = self.config.quantize
        samples = self.dataset.split("train")
        batches = TrainingBatches(
            samples, self.contract, len(self.class_names), batch_size=settings.batch_size,
            augmentation=self.config.augment, seed=settings.seed, cache_mb=self.config.data.cache_mb,
            workers=self.config.data.workers, say=self.progress.say)
        total = settings.epochs * batches.steps_per_epoch
        tuning = FineTuning(self.fake_quantized, self.teacher, self.config, frozen_layers(self.graph, settings.freeze), total)
        best = BestEpoch(self.float_validation, settings.teacher_weight)
        self.facts["history"] = best.history
        self._judge(best, math.nan)
        with self.progress.task("Fine-tuning", total) as advance, stop_on_signals() as stop:
            done = 0
            for epoch in range(settings.epochs):
                losses = []
                for pixels, labels, _ in takewhile(lambda _: not stop, batches.epoch(epoch)):
                    losses.append(tuning.step(input_units(self.graph, pixels), labels))
                    done += 1
                    self._check_finite(math.isfinite(losses[-1]), epoch, done, tuning)
                    advance(done, f"epoch {epoch + 1}/{settings.epochs}, loss {np.mean(losses):.3f}")
                if stop:
                    self._save_unfinished()
                    raise Interrupted(f"Stopped in epoch {epoch + 1} of {settings.epochs}; the best finished epoch is saved "
                                      f"in {self.target.path}, which can be converted.")
                self._check_finite(tuning.finite(), epoch, done, tuning)
                with tuning.averaged():
                    self._judge(best, float(np.mean(losses)))
        self.progress.say(f"epoch {best.epoch} is kept" if best.epoch else
                          "no epoch of fine-tuning was better than calibration alone, which is kept")

    def _check_finite(self, finite: bool, epoch: int, step: int, tuning: FineTuning) -> None:
        """Stops where numbers are none any more; what is kept so far is saved."""
        if finite:
            return
        self._save_unfinished()
        rate = self.config.quantize.learning_rate
        raise KitError(f"{self.target.path}: fine-tuning diverged in epoch {epoch + 1}, step {step}, at a learning rate of "
                       f"{tuning.rate():.3g}: the loss or the weights are not finite (NaN). The best finished epoch is saved "
                       "there, and can be converted; or quantize again to another --out with a lower rate: "
                       f"-o quantize.learning_rate={rate / 10:.1g}")

    def _save_unfinished(self) -> None:
        self._save()
        self.target.write_card(**self.facts)

    def _judge(self, best: BestEpoch, loss: float) -> None:
        """Scores the fake-quantized model on the validation pictures and keeps it if it is the best so far."""
        stored = self.fake_quantized.as_stored()
        self.network.refresh()
        logits = _logits(self.network, self.validation)
        scores = self._score(logits, self.validation)
        if best.takes(logits, scores, loss):
            self.kept = stored
        row, top1 = best.history[-1], f"validation top-1 {scores.top1:.4f}, " if scores else ""
        self.progress.say(f"epoch {row['epoch']}: {top1}answers as the float model {row['val_as_float']:.2%}, distance to it "
                          f"{row['val_distance_to_float']:.4f}")

    def _save(self) -> None:
        """Writes what is kept, its biases as an integer file will have them; afterwards `network` is what was written."""
        graph, ranges = self.kept
        self.fake_quantized = LoweredNetwork(lower(graph), ranges)
        self.fake_quantized.round_biases()
        self.network = QuantizedNetwork(self.fake_quantized)
        self.target.write_head(self.config, self.contract, self.class_names)
        write_json(self.target.calibration, self.looked_at)  # first, so that no network is without what calibrated it
        save_graph(self.target.quantized, self.fake_quantized.folded_graph(), ranges)

    def finish(self) -> RunFolder:
        """Writes the run with the scores of what is in it."""
        self._save()
        for line in self.checked.problems(self.kept[1]):
            self.progress.say(line)
        found = {split: self._scores(split) for split in dict.fromkeys(["val", evaluation_split(self.dataset)])}
        self.target.write_card(**self.facts, metrics=self.target.write_scores({split: own for split, (own, _) in found.items()}),
                               as_float={split: agreement for split, (_, agreement) in found.items()})
        for split, (scores, agreement) in found.items():
            top1 = f"top-1 {scores.top1:.4f} on {scores.samples} pictures" if scores else "not scored, for lack of labels"
            self.progress.say(f"{split} {top1}, in 8 bits; the float model's answer on {agreement.in_words()}")
        return self.target


def _logits(network: LoweredNetwork | QuantizedNetwork, pictures: ContractPictures) -> np.ndarray:
    return np.concatenate([network.logits(pixels) for pixels in pictures])


def frozen_layers(graph: FoldedGraph, last: str | None) -> frozenset[str]:
    """The layers from the input to the end of a block, by name.

    Args:
        graph: the network.
        last: a block, such as "block_08" or "stem"; None for no layer.

    Raises:
        InputError: there is no such block.
    """
    if last is None:
        return frozenset()
    names = [op.name for op in graph.ops]
    ends = [place for place, name in enumerate(names) if name == last or name.startswith(f"{last}_")]
    if not ends:
        blocks = list(dict.fromkeys(display_name(name).partition("/")[0] for name in names[1:]))
        raise InputError(f"quantize.freeze is {last!r}, which is not a block{nearest(last, blocks) or '.'} Blocks: "
                         f"{', '.join(blocks)}.")
    return frozenset(names[:ends[-1] + 1])
