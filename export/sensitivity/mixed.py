"""From an analysis of the blocks to a mixed recipe: a quantized run that leaves some blocks float, and what that costs."""

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.artefacts.card import read_card
from mnv3_tf.artefacts.run_folder import RunFolder
from mnv3_tf.data import PictureDataset, evaluation_split, open_dataset
from mnv3_tf.data.batches import ContractPictures, collect
from mnv3_tf.data.check import check_pictures
from mnv3_tf.errors import CheckFailed, InputError
from mnv3_tf.export.benchmark.compare import Comparison, comparisons
from mnv3_tf.export.benchmark.host import benchmark_host
from mnv3_tf.export.benchmark.measure import BenchmarkSettings
from mnv3_tf.export.convert.convert import Convertible, convert
from mnv3_tf.export.sensitivity.plot import draw_sensitivity
from mnv3_tf.export.verify.chain import Chain, open_chain
from mnv3_tf.files import plain, read_json, write_json
from mnv3_tf.metrics import score
from mnv3_tf.network.keras_io import batch_logits, load_keras
from mnv3_tf.progress import Progress
from mnv3_tf.quantization.fake_quantized import Ranges
from mnv3_tf.quantization.graph import FoldedGraph, leave_float, save_graph
from mnv3_tf.quantization.integer_network import QuantizedNetwork
from mnv3_tf.quantization.sensitivity import Recipe, RecipeSearch, Sensitivity, SwitchedNetwork, analyse


@dataclass(frozen=True)
class FileCost:
    """One of the files that were measured.

    Attributes:
        name: "int8", "mixed" or "float32".
        median_ms: of one invocation, one thread.
        size_bytes: of the file.
        partitions: XNNPACK partitions.
    """

    name: str
    median_ms: float
    size_bytes: int
    partitions: int


@dataclass(frozen=True)
class Cost:
    """The latency of the same network in three precisions, measured in turns on this machine.

    Attributes:
        files: int8, mixed and float32.
        ratios: of each to the int8 file, and of the mixed to the float32 file, with 95% intervals.
        machine: the processor.
    """

    files: tuple[FileCost, ...]
    ratios: tuple[Comparison, ...]
    machine: str


@dataclass(frozen=True)
class Analysis:
    """What `mnv3 sensitivity` reports.

    Attributes:
        quantized_run, float_run: what was compared.
        sensitivity: block by block, on the validation pictures.
        recipe: the blocks to leave float.
        cost: of the recipe; None where there is none to measure, or its file is refused (`refused`).
        refused: why the recipe does not make a clean file; empty if it does, or was not tried.
        run: the quantized run that was written by the recipe, or None.
    """

    quantized_run: Path
    float_run: Path
    sensitivity: Sensitivity
    recipe: Recipe
    cost: Cost | None
    refused: str
    run: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the remarks included."""
        return plain({"quantized_run": self.quantized_run, "float_run": self.float_run, "run": self.run,
                      "sensitivity": self.sensitivity, "recipe": self.recipe, "cost": self.cost, "refused": self.refused,
                      "remarks": self.remarks()})

    def remarks(self) -> list[str]:
        """What follows from the numbers, a line each."""
        sensitivity, recipe = self.sensitivity, self.recipe
        limit = f"{recipe.budget_points:g} points of top-1"
        if recipe.agreement is not None:
            limit += f" and {recipe.agreement:.1%} agreement"
        plain = sensitivity.quantized
        lines = [f"all blocks in 8 bits: {_points(sensitivity.drop_points(plain))} against the float model, agreement "
                 f"{plain.agreement:.1%}, {'beyond' if recipe.needed else 'within'} the budget of {limit}"]
        if recipe.float_blocks:
            lines.append(f"left float: {', '.join(recipe.float_blocks)}: {_points(recipe.drop_points)}, agreement "
                         f"{recipe.answers.agreement:.1%}, {'within' if recipe.meets else 'beyond'} the budget")
        elif not recipe.needed:
            lines.append("no block needs float; --blocks N or --float-blocks NAMES leaves some float anyway")
        if not recipe.asked and not recipe.meets:
            lines.append(f"no choice of blocks meets the budget (all blocks float: "
                         f"{_points(sensitivity.drop_points(sensitivity.unquantized))}), and no run was written; --blocks N "
                         "writes one anyway")
        if sensitivity.unquantized.divergence > sensitivity.quantized.divergence / 2:
            lines.append(f"fine-tuning has moved the weights: with no block in 8 bits they still diverge by "
                         f"{sensitivity.unquantized.divergence:.4f} nats, which no float block can remove")
        if self.refused:
            lines.append(f"the recipe does not make a clean file: {self.refused}")
        lines.append(f"{sensitivity.pictures} pictures: one of them is {100 / sensitivity.pictures:.2f} points")
        return lines


def _points(drop: float) -> str:
    """``1.3 points lost`` or ``0.3 points gained``."""
    return f"{abs(drop):.2f} points {'gained' if drop < 0 else 'lost'}"


def analyse_run(quantized_run: str | Path, data: str | Path, out: str | Path, *, against: str | Path | None = None,
                budget: float = 0.5, agreement: float | None = None, float_blocks: Sequence[str] | None = None,
                blocks: int | None = None, progress: Progress) -> Analysis:
    """Finds the blocks that quantization hurts, and writes a run that leaves the fewest of them float.

    Args:
        quantized_run: the run folder.
        data: the picture folder; its validation split judges.
        out: the folder to write: sensitivity.json, sensitivity.png, and, where blocks are left float, a quantized run.
        against: the float run; None: found through the quantized run's card.
        budget: largest loss of top-1 against the float model, in points.
        agreement: least share of pictures with the float model's best class, in 0..1; None asks for none.
        float_blocks: these blocks, whatever the budget.
        blocks: so many blocks, whatever the budget.
        progress: told of everything.

    Raises:
        InputError: an unknown block, no quantized run, no float run, other pictures than the network's, or `out` is taken.
    """
    if Path(quantized_run).suffix == ".tflite":
        raise InputError(f"{quantized_run}: is a .tflite file. Give the quantized run that it was converted from.")
    chain, target = open_chain(quantized_run, against=against), RunFolder(Path(out))
    graph, ranges = _checked(chain, float_blocks, blocks)
    target.refuse_if_used("Choose another --out.")
    config = chain.float_run.config()
    dataset = open_dataset(data, validation_fraction=config.data.validation_fraction, seed=config.train.seed,
                           class_names=chain.labels, progress=progress)
    splits = {name: dataset.split(name) for name in dict.fromkeys(["val", evaluation_split(dataset)])}
    dataset, _ = check_pictures(dataclasses.replace(dataset, splits=splits), strict=config.data.strict, progress=progress)
    pictures = ContractPictures(dataset.split("val"), chain.contract)
    model = load_keras(chain.float_run.model)
    float_logits = collect(progress, "Float model", len(pictures), lambda pixels: batch_logits(model, pixels), pictures)
    network = SwitchedNetwork(graph, ranges, pictures)
    sensitivity = analyse(network, float_logits, pictures.labels, progress)
    search = RecipeSearch(network, sensitivity, float_logits, pictures.labels, budget=budget, agreement=agreement)
    recipe = search.of(float_blocks) if float_blocks is not None else search.greedy(blocks, progress)
    cost, refused, run = None, "", None
    if recipe.float_blocks and (recipe.asked or recipe.meets):
        mixed = leave_float(graph, recipe.float_blocks)
        try:
            cost = measure_cost(_source(chain, graph), _source(chain, mixed), progress)
        except CheckFailed as error:
            refused = str(error)
        run = _write_run(target, chain, mixed, ranges, recipe, dataset).path
    result = Analysis(Path(quantized_run), chain.float_run.path, sensitivity, recipe, cost, refused, run)
    draw_sensitivity(target.path / "sensitivity.png", sensitivity, graph.blocks)
    write_json(target.path / "sensitivity.json", result)
    return result


def _checked(chain: Chain, float_blocks: Sequence[str] | None, blocks: int | None) -> tuple[FoldedGraph, Ranges]:
    """The quantized network with all blocks quantized, once it is sure that everything fits together."""
    assert chain.graph is not None and chain.ranges is not None
    for ours, theirs, what in ((chain.own_contract, chain.contract, "preprocessing"),
                               (chain.own_labels, chain.labels, "classes")):
        if ours != theirs:
            raise InputError(f"{chain.subject}: has other {what} than the float run {chain.float_run.path}. Give the run that it "
                             "was made from with --against.")
    if float_blocks is not None and blocks is not None:
        raise InputError("--blocks and --float-blocks were both given; either say how many blocks to leave float, or which.")
    if float_blocks is not None and not float_blocks:
        raise InputError(f"--float-blocks names no block. Blocks: {', '.join(chain.graph.blocks)}.")
    leave_float(chain.graph, float_blocks or ())
    if blocks is not None and not 1 <= blocks <= len(chain.graph.blocks):
        raise InputError(f"--blocks is {blocks}; the network has {len(chain.graph.blocks)} blocks, so 1 to "
                         f"{len(chain.graph.blocks)} are allowed.")
    return leave_float(chain.graph, ()), chain.ranges


def _source(chain: Chain, graph: FoldedGraph) -> Convertible:
    assert chain.quantized_run is not None
    return Convertible(chain.quantized_run.quantized, graph, chain.ranges, chain.contract, chain.labels)


def measure_cost(plain: Convertible, mixed: Convertible, progress: Progress, *, runs: int = 50, min_seconds: float = 1.0) -> Cost:
    """Converts a network to int8, to its mixed recipe and to float32, and measures the three in turns.

    Args:
        plain: the quantized run, wholly in 8 bits.
        mixed: the same with some blocks left float.
        progress: told of everything.
        runs, min_seconds: as in :class:`BenchmarkSettings`.

    Raises:
        CheckFailed: the int8 or the mixed file is not clean, or is more than one XNNPACK partition.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted: dict[str, tuple[Convertible, dict[str, Any]]] = {
            "int8": (plain, {}), "mixed": (mixed, {}), "float32": (plain, {"format": "float32"})}
        paths = {}
        with progress.task("Converting", len(wanted)) as advance:
            for done, (name, (source, options)) in enumerate(wanted.items(), 1):
                paths[name] = str(convert(source, Path(folder) / f"{name}.tflite", **options).path)
                advance(done, name)
        rows = benchmark_host(list(paths.values()), BenchmarkSettings(runs=runs, min_seconds=min_seconds), progress).rows
        names = {path: name for name, path in paths.items()}
        ratios = [*comparisons(rows, paths["int8"])[1:],
                  *(entry for entry in comparisons(rows, paths["float32"]) if names[entry.file] == "mixed")]
    return Cost(tuple(FileCost(names[row["file"]], row["median_ms"], row["size_bytes"], row["partitions"]) for row in rows),
                tuple(dataclasses.replace(entry, file=names[entry.file], baseline=names[entry.baseline]) for entry in ratios),
                rows[0]["device"])


def _write_run(target: RunFolder, chain: Chain, graph: FoldedGraph, ranges: Ranges, recipe: Recipe,
               dataset: PictureDataset) -> RunFolder:
    """Writes the recipe as a quantized run, scored as the others are."""
    origin = chain.quantized_run
    assert origin is not None
    target.write_head(origin.config(), chain.contract, chain.labels)
    save_graph(target.quantized, graph, ranges)
    if origin.calibration.exists():
        write_json(target.calibration, read_json(origin.calibration))
    network = QuantizedNetwork.of(graph, ranges)
    scores = {}
    for split in dict.fromkeys(["val", evaluation_split(dataset)]):
        pictures = ContractPictures(dataset.split(split), chain.contract)
        scores[split] = score(np.concatenate([network.logits(pixels) for pixels in pictures]), pictures.labels, chain.labels)
    card = read_card(origin.path) or {}
    made = {key: card[key] for key in ("method", "calibration", "data", "seeds") if key in card}
    target.write_card(
        kind="quantized run", **made, float_blocks=list(recipe.float_blocks), parent=chain.float_run.model,
        quantized_parent=origin.quantized, classes=list(chain.labels), preprocessing=chain.contract.fingerprint(),
        config=origin.config(), metrics=target.write_scores(scores))
    return target
