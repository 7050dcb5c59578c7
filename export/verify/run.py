"""`verify`: pictures through every form of the network, every tensor beside the float model's, every claim recomputed."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mnv3_tf.artefacts.card import read_card
from mnv3_tf.config import VerifyConfig
from mnv3_tf.data import PictureDataset, Samples, evaluation_split, open_dataset
from mnv3_tf.data.batches import EVALUATION_BATCH, collect, contract_batches
from mnv3_tf.data.check import check_pictures
from mnv3_tf.data.samples import labels_of
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.export.convert.convert import check_int8, convert_graph, output_step
from mnv3_tf.export.convert.placement import detect_lowering
from mnv3_tf.export.verify import findings as checks
from mnv3_tf.export.verify.card_findings import calibration_of, claim_findings
from mnv3_tf.export.verify.chain import Chain
from mnv3_tf.export.verify.findings import Finding
from mnv3_tf.export.verify.layers import LayerTable, examine_layers
from mnv3_tf.export.verify.reference_kernels import ReferenceKernels
from mnv3_tf.export.verify.result import Verification
from mnv3_tf.export.verify.stages import (
    AS_REFERENCE,
    DEPLOY,
    FLOAT,
    QUANTIZED,
    REFERENCE,
    XNNPACK,
    Check,
    Form,
    Stage,
    compare_stages,
)
from mnv3_tf.network.keras_io import batch_logits, load_keras
from mnv3_tf.progress import Progress
from mnv3_tf.quantization.cross_layer_equalization import like
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, input_shift
from mnv3_tf.quantization.fold import trace
from mnv3_tf.quantization.graph import FoldedGraph, leave_float
from mnv3_tf.quantization.integer_network import QuantizedNetwork
from mnv3_tf.quantization.lowering import lower
from mnv3_tf.quantization.range_check import spread
from mnv3_tf.tflite.file import FLOAT_TYPES, dequantize, parse_tflite, read_tflite_bytes
from mnv3_tf.tflite.runtime import LiteRTModel, pixel_tensor

# Runs input tensors, one after the other in a file, through a model elsewhere: (model, tensors, file for the outputs).
Elsewhere = Callable[[Path, Path, Path], None]


def verify(chain: Chain, data: str | Path, *, split: str | None = None, limits: VerifyConfig | None = None, threads: int = 2,
           elsewhere: Mapping[str, Elsewhere] | None = None, progress: Progress) -> Verification:
    """Compares every form of a network on the same pictures.

    Args:
        chain: what belongs together, from :func:`open_chain`. A quantized run is converted for the purpose, int8 in and out.
        data: a picture folder, in any layout that training takes; or any folder of pictures, whose answers are compared and not
            scored.
        split: "train", "val", "test" or "all"; None: test where there is one, else val.
        limits: what is allowed; None: the float run's settings.
        threads: of the TFLite runtime with XNNPACK.
        elsewhere: stage (:data:`ARM`, :data:`PHONE`) -> what runs the file there.
        progress: told of everything.

    Raises:
        InputError: something is missing or of the wrong kind.
        KitError: the file cannot be run.
    """
    config = chain.float_run.config()
    limits = limits or config.verify
    dataset = open_dataset(data, class_names=chain.labels, validation_fraction=config.data.validation_fraction,
                           seed=config.train.seed, labels_needed=False, progress=progress)
    name = split or evaluation_split(dataset)
    chosen = dataset.split(name)
    if len(chosen) > limits.pictures:
        order = np.sort(np.random.default_rng(0).permutation(len(chosen))[:limits.pictures])
        progress.say(f"{limits.pictures} of the {len(chosen)} pictures of {name} are looked at (verify.pictures)")
        chosen = chosen.take(order)
    cleaned, report = check_pictures(PictureDataset(dataset.root, dataset.class_names, {name: chosen}, dataset.layout),
                                     strict=False, progress=progress)
    if not cleaned.split(name):
        raise InputError(f"{data}: the split {name!r} holds no picture to verify with.")
    notes = [] if dataset.labelled else [f"{dataset.notes[0]}; no accuracy is checked, only answers and logits are compared"]
    return _Verification(chain, Path(data), name, cleaned.split(name), report.fingerprints[name], limits, threads,
                         elsewhere or {}, progress, notes).run()


@dataclass
class _Verification:
    """The work, in the order in which it is cheapest: the reference kernels run beside the rest."""

    chain: Chain
    data: Path
    split: str
    samples: Samples
    fingerprint: str
    limits: VerifyConfig
    threads: int
    elsewhere: Mapping[str, Elsewhere]
    progress: Progress
    notes: list[str] = field(default_factory=list)
    not_comparable: str = ""
    network: QuantizedNetwork | None = None

    def run(self) -> Verification:
        chain = self.chain
        self.labels = labels_of(self.samples)
        self.pixels = collect(self.progress, "Reading pictures", len(self.samples), lambda batch: batch[0],
                              contract_batches(self.samples, chain.contract))
        self.content = self._content()
        self.file = parse_tflite(self.content, name=str(chain.subject))
        self.int8 = not any(t.dtype in FLOAT_TYPES for t in self.file.tensors if t.is_constant) or self._is_mixed()
        with ReferenceKernels(self.content, self.pixels, str(chain.subject)) as reference:
            float_graph, forms = self._keras_forms()
            self.model = LiteRTModel(self.content, threads=self.threads)
            self._check_classes()
            delegated = self._batched("XNNPACK", self.model.predict)
            expected = self._as_reference()
            with self.progress.task("Reference kernels", 1) as advance:
                plain = reference.logits()
                advance(1, "")
        forms += [Form(REFERENCE, str(chain.subject), plain, self.int8, expected=expected, expected_from=AS_REFERENCE),
                  Form(XNNPACK, str(chain.subject), delegated, self.int8, checks=self._structure()),
                  *(self._form_elsewhere(name, run) for name, run in self.elsewhere.items())]
        step = self._step(forms)
        stages = compare_stages(forms, self.labels, chain.labels, step, self.limits)
        self._note_kernels(plain, delegated)
        table, found = self._faults(float_graph, forms, stages)
        calibration = calibration_of(chain)
        found += claim_findings(chain, calibration, stages, self.split, self.fingerprint)
        return Verification(
            chain.subject, chain.float_run.path, self.data, self.split, self.samples, chain.labels, stages,
            checks.in_order(checks.without_echoes(found)), table, step, self.limits, self.file, self.model.partitions,
            calibration, tuple(self.notes), {form.name: form.logits for form in forms if form.logits is not None})

    def _as_reference(self) -> np.ndarray | None:
        """What the reference kernels should answer, which round in their own way; None where that is not known, which is said."""
        if self.network is None or not self.int8:
            return None
        native = detect_lowering(self.file) == "native"
        if native or not self.network.exact:
            why = "the file has native hard-swishes" if native else "the run leaves blocks float"
            self.notes.append(f"{why}, whose rounding is not known in whole numbers: the file may round differently from "
                              "quantized Keras in places, and the limit for the reference kernels is verify.reference_steps")
            return None
        return self._batched("Quantized Keras, as the reference kernels round", self.network.reference().logits)

    def _note_kernels(self, plain: np.ndarray, delegated: np.ndarray) -> None:
        """Says where the answer depends on the kernels, which is nobody's fault but should be known."""
        differing = int((plain.argmax(axis=1) != delegated.argmax(axis=1)).sum())
        if differing:
            self.notes.append(f"the file answers {differing} of {len(plain)} pictures differently on TFLite's reference kernels "
                              "than on XNNPACK, which phones run: each rounds in its own way")

    def _content(self) -> bytes:
        if self.chain.tflite is not None:
            return read_tflite_bytes(self.chain.tflite)
        assert self.chain.graph is not None
        self.notes.append("the quantized run was converted for this check, int8 in and out")
        return convert_graph(self.chain.graph, self.chain.ranges, format="int8", io="int8", lowering="xnnpack")

    def _check_classes(self) -> None:
        """Refuses a file that cannot be compared at all."""
        model, expected = self.model, (1, self.chain.contract.height, self.chain.contract.width, 3)
        classes = int(np.prod(model.output_shape))
        if model.input_shape != expected:
            raise InputError(f"{self.chain.subject}: takes {model.input_shape}, and the float run's pictures are {expected}. "
                             "Give the float run that it was made from with --against.")
        if classes != len(self.chain.labels):
            raise InputError(f"{self.chain.subject}: has {classes} outputs, and the float run {len(self.chain.labels)} classes. "
                             "Give the float run that it was made from with --against.")

    def _batched(self, what: str, forward: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        batches = (self.pixels[start:start + EVALUATION_BATCH] for start in range(0, len(self.pixels), EVALUATION_BATCH))
        return collect(self.progress, what, len(self.pixels), lambda pixels: np.asarray(forward(pixels), np.float32), batches)

    def _is_mixed(self) -> bool:
        """Whether the file is an integer one with blocks left float, as its quantized run has them."""
        graph = self.chain.graph
        return graph is not None and bool(graph.float_blocks) and any(
            tensor.dtype == "int8" and not tensor.is_constant for tensor in self.file.tensors)

    def _keras_forms(self) -> tuple[FoldedGraph, list[Form]]:
        chain = self.chain
        model = load_keras(chain.float_run.model)
        source = str(chain.float_run.model)
        graph = trace(model)
        folded = LoweredNetwork(lower(graph), exact_input=True)
        graph = self._in_form(graph)
        forms = [Form(FLOAT, source, self._batched("Float Keras", lambda pixels: batch_logits(model, pixels))),
                 Form(DEPLOY, source, self._batched("Folded network", folded.logits))]
        if chain.graph is None or chain.quantized_run is None:
            forms.append(Form(QUANTIZED, "", None, absent=chain.missing or "there is no quantized run"))
            return graph, forms
        self.network = QuantizedNetwork.of(chain.graph, chain.ranges)
        forms.append(Form(QUANTIZED, str(chain.quantized_run.quantized),
                          self._batched("Quantized Keras", self.network.logits), True))
        return graph, forms

    def _in_form(self, graph: FoldedGraph) -> FoldedGraph:
        """The float network with its channels divided as those of the subject are, so that tensor is compared with tensor.

        Where that is not known or not possible, :attr:`not_comparable` says why, and an integer file's tensors are not judged.
        """
        chain = self.chain
        if chain.graph is not None:
            sizes, split = dict(chain.graph.channel_sizes), chain.graph.split_stem
        else:
            card = read_card(chain.tflite) if chain.tflite is not None else None
            form = (card or {}).get("form")
            if form is None:
                self.not_comparable = ("neither the quantized run nor the file's card says whether its channels were divided; "
                                       "give the run with --quantized")
            form = form or {"channel_sizes": {}, "split_stem": False}
            sizes = {name: np.asarray(size, np.float32) for name, size in form["channel_sizes"].items()}
            split = form["split_stem"]
        formed = like(graph, sizes, split_stem=split)
        if formed is None:
            self.not_comparable = f"{chain.float_run.path} is another network than {chain.subject} was made from"
        return formed or graph

    def _structure(self) -> tuple[Check, ...]:
        if not self.int8:
            return ()
        problems = check_int8(self.file, self.model, detect_lowering(self.file), self.chain.graph)
        text = "; ".join(problems) or "one clean integer graph in one XNNPACK partition"
        return (Check("op gate", not problems, text),)

    def _form_elsewhere(self, name: str, run: Elsewhere) -> Form:
        """The file's answers from another processor, and whether their bytes are this one's."""
        model, int8 = self.model, self.int8
        tensors = pixel_tensor(self.pixels, model.input_dtype)
        with self.progress.task(name, 1) as advance, tempfile.TemporaryDirectory(prefix="mnv3-verify-") as store:
            folder = Path(store)
            (folder / "model.tflite").write_bytes(self.content)
            (folder / "inputs.bin").write_bytes(tensors.tobytes())
            run(folder / "model.tflite", folder / "inputs.bin", folder / "outputs.bin")
            raw = np.fromfile(folder / "outputs.bin", model.output_dtype)
            advance(1, "")
        if raw.size != len(tensors) * int(np.prod(model.output_shape)):
            raise KitError(f"{name}: gave {raw.size} values for {len(tensors)} pictures. Run it again.")
        own = np.concatenate([model.run_raw(tensor[None]).reshape(1, -1) for tensor in tensors])
        raw = raw.reshape(own.shape)
        differing = int((raw != own).any(axis=1).sum())
        apart = float(np.abs(raw.astype(np.float64) - own.astype(np.float64)).max())
        close = apart <= 1 if int8 and model.output_dtype != "float32" else np.allclose(raw, own, atol=1e-3, rtol=1e-3)
        logits = dequantize(raw, *model.output_quantization).astype(np.float32)
        text = (f"its output bytes are this machine's on {len(own) - differing} of {len(own)} pictures"
                + (f"; the largest difference is {apart:g}" if differing else ""))
        return Form(name, str(self.chain.subject), logits, int8, checks=(Check("bytes", bool(close), text),))

    def _step(self, forms: list[Form]) -> float:
        """One step of the 8-bit output, in logits; of a float file, 1/255 of the logits' range."""
        graph, ranges = self.chain.graph, self.chain.ranges
        if graph is not None and ranges:
            return output_step(self.model, graph, ranges)
        if self.model.output_quantization[0] > 0:
            return self.model.output_quantization[0]
        assert forms[0].logits is not None
        return max(float(np.ptp(forms[0].logits)), 1e-6) / 255

    def _faults(self, float_graph: FoldedGraph, forms: list[Form], stages: tuple[Stage, ...]) -> tuple[LayerTable, list[Finding]]:
        chain, limits, int8, own_graph = self.chain, self.limits, self.int8, self.chain.graph
        if own_graph is not None:  # a float file has no blocks that are other than the rest
            own_graph = leave_float(own_graph, own_graph.float_blocks if int8 else ())
            float_graph = leave_float(float_graph, own_graph.float_blocks)
        picked = spread(len(self.pixels), limits.layer_pictures)
        pixels = self.pixels[picked]
        if int8 and self.not_comparable:
            table = LayerTable((), self.not_comparable)
        else:
            with self.progress.task("Comparing every tensor", len(pixels)) as advance:
                table = examine_layers(self.content, float_graph, own_graph, pixels, lambda done: advance(done, ""))
        logits = next(form.logits for form in forms if form.name == XNNPACK)
        assert logits is not None and forms[0].logits is not None
        # Without labels, the float model's answers say whether the pictures differ.
        expected = forms[0].logits.argmax(axis=1) if self.labels is None else self.labels
        found = checks.order_findings(forms, chain.labels) + checks.constant_findings(forms, expected, chain.labels)
        found += checks.input_findings(table, float_graph, own_graph, pixels, logits[picked])
        if stages[0].scores is not None:
            found += checks.data_findings(stages[0].scores, chain.labels)
        if table.refused:
            self.notes.append(f"no tensors are compared: {table.refused}")
        else:
            if int8:
                found += checks.range_findings(table, chain.ranges, limits)
                found += checks.noise_findings(table, limits)
            lowering, made_from = detect_lowering(self.file), own_graph or (None if int8 else float_graph)
            found += checks.kernel_findings(table.placed, lower(float_graph, lowering),
                                            lower(made_from, lowering) if made_from else None, self.file,
                                            input_shift(float_graph) if int8 else None)
        return table, found
