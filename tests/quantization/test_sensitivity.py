"""Which blocks quantization hurts: the switched network is the rebuilt one, planted faults come first, the search holds."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.artefacts.run_folder import RunFolder
from mnv3_tf.data import open_dataset
from mnv3_tf.data.batches import ContractPictures
from mnv3_tf.errors import InputError
from mnv3_tf.network.layer_names import block_of
from mnv3_tf.progress import Silent
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, Ranges
from mnv3_tf.quantization.graph import FoldedGraph, Op, leave_float, load_graph
from mnv3_tf.quantization.lowering import lower
from mnv3_tf.quantization.sensitivity import (
    Answers,
    BlockSensitivity,
    RecipeSearch,
    Sensitivity,
    SwitchedNetwork,
    _weight_bytes,
    analyse,
    compare_answers,
)


@pytest.fixture(scope="module")
def validation(pictures: Path, ptq_run: Path) -> ContractPictures:
    return ContractPictures(open_dataset(pictures).split("val"), RunFolder(ptq_run).contract())


@pytest.fixture(scope="module")
def calibrated(ptq_run: Path) -> tuple[FoldedGraph, Ranges]:
    return load_graph(RunFolder(ptq_run).quantized)


@pytest.fixture(scope="module")
def float_logits(calibrated: tuple[FoldedGraph, Ranges], validation: ContractPictures) -> np.ndarray:
    network = LoweredNetwork(lower(calibrated[0]))
    return np.concatenate([network.logits(pixels) for pixels in validation])


@pytest.mark.parametrize("blocks", [(), ("stem", "block_03", "block_04", "head", "classifier")])
def test_the_switched_network_is_the_rebuilt_one(calibrated: tuple[FoldedGraph, Ranges], validation: ContractPictures,
                                          blocks: tuple[str, ...]) -> None:
    graph, ranges = calibrated
    found = SwitchedNetwork(graph, ranges, validation).logits(blocks)
    network = LoweredNetwork(lower(leave_float(graph, blocks)), ranges)
    np.testing.assert_allclose(found, np.concatenate([network.logits(pixels) for pixels in validation]), atol=1e-5)


def test_answers_are_compared_as_computed_by_hand() -> None:
    # Probabilities 3/4, 1/4 against 1/2, 1/2 in the first picture, equal ones in the second.
    expected, found = np.log([[3.0, 1.0], [1.0, 9.0]]), np.log([[1.0, 1.0001], [1.0, 9.0]])
    answers = compare_answers(found, expected, np.array([0, 1]))
    assert answers.divergence == pytest.approx((0.75 * np.log(1.5) + 0.25 * np.log(0.5)) / 2, abs=1e-4)
    assert answers.agreement == 0.5 and answers.top1 == 0.5


def test_weight_bytes_as_computed_by_hand() -> None:
    def conv(name: str, inputs: int, outputs: int) -> Op:
        return Op(name, "conv", ("image",), np.zeros((1, 1, inputs, outputs), np.float32), np.zeros(outputs, np.float32))

    graph = FoldedGraph((Op("image", "input"), conv("block_01_expand", 2, 5), conv("block_01_project", 5, 3),
                         conv("head_conv", 3, 100)), 4, 4, 1.0, 0.0)
    # 10 + 15 weights, 5 + 3 biases of four bytes.
    assert _weight_bytes(graph, "block_01") == (25 + 4 * 8, 4 * (25 + 8))


@pytest.mark.parametrize("block", ["block_03", "block_04"])
def test_a_planted_fault_comes_first(calibrated: tuple[FoldedGraph, Ranges], validation: ContractPictures,
                                     float_logits: np.ndarray, block: str) -> None:
    """The ranges of one block ten times too wide: most damage alone, most gained when it is left float."""
    graph, ranges = calibrated
    planted = {name: (low * 10, high * 10) if block_of(name) == block and not name.endswith("hard_sigmoid") else (low, high)
               for name, (low, high) in ranges.items()}
    found = analyse(SwitchedNetwork(graph, planted, validation), float_logits, validation.labels, Silent())
    assert found.blocks[0].block == block
    assert max(found.blocks, key=lambda row: row.gain).block == block
    assert found.blocks[0].alone.divergence > 2 * found.blocks[1].alone.divergence
    assert found.blocks[0].left_float.divergence == pytest.approx(found.quantized.divergence - found.blocks[0].gain)
    assert found.unquantized.divergence < 1e-3 and found.pictures == 36


def test_there_must_be_pictures(calibrated: tuple[FoldedGraph, Ranges], validation: ContractPictures) -> None:
    network = SwitchedNetwork(*calibrated, validation)
    with pytest.raises(InputError, match="needs pictures"):
        analyse(network, np.zeros((0, 3)), np.zeros(0, np.int64), Silent())


class _Stub:
    """Three blocks and 100 pictures; quantizing a block makes known numbers of answers surely wrong and of ties wrong."""

    def __init__(self, wrong: dict[str, int], lost_ties: dict[str, int]) -> None:
        ones = np.ones((1, 1, 1, 1), np.float32)
        self.graph = FoldedGraph((Op("image", "input"), *(Op(name, "conv", ("image",), ones, ones[0, 0, 0])
                                                          for name in ("stem_conv", "head_conv", "classifier"))), 4, 4, 1.0, 0.0)
        self.labels = np.zeros(100, np.int64)
        self.float_logits = np.tile([4.0, 0.0], (100, 1))
        self.float_logits[50:] = [0.001, 0.0]
        self._wrong, self._lost_ties = wrong, lost_ties

    def logits(self, float_blocks: Collection[str]) -> np.ndarray:
        quantized = [name for name in self.graph.blocks if name not in float_blocks]
        logits = self.float_logits.copy()
        logits[:sum(self._wrong.get(name, 0) for name in quantized)] = [0.0, 1.0]
        logits[50:50 + sum(self._lost_ties.get(name, 0) for name in quantized)] = [0.0, 0.001]
        return logits


def _search(wrong: dict[str, int], lost_ties: dict[str, int] | None = None, **limits: float) -> RecipeSearch:
    stub = _Stub(wrong, lost_ties or {})
    blocks = stub.graph.blocks

    def answers(names: Collection[str]) -> Answers:
        return compare_answers(stub.logits(names), stub.float_logits, stub.labels)

    everything = answers(())
    rows = tuple(BlockSensitivity(name, answers(set(blocks) - {name}), answers({name}),
                                  everything.divergence - answers({name}).divergence, 1, 4) for name in blocks)
    found = Sensitivity(100, 1.0, answers(blocks), everything, rows)
    return RecipeSearch(stub, found, stub.float_logits, stub.labels, **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(("budget", "blocks", "drop"), [
    (3.0, (), 3.0), (2.0, ("stem",), 1.0), (1.0, ("stem",), 1.0), (0.5, ("stem", "head"), 0.0)])
def test_blocks_are_left_float_until_the_budget_is_met(budget: float, blocks: tuple[str, ...], drop: float) -> None:
    recipe = _search({"stem": 2, "head": 1}, budget=budget).greedy(None, Silent())
    assert recipe.float_blocks == blocks and recipe.meets and not recipe.asked
    assert recipe.needed == (budget < 3.0)
    assert recipe.drop_points == pytest.approx(drop) and [step.block for step in recipe.steps] == list(blocks)


def test_the_divergence_chooses_and_not_top1() -> None:
    """Ten ties that fall the other way cost ten points and next to no divergence; one sure answer turned costs more of it."""
    recipe = _search({"stem": 1}, {"head": 10}, budget=2.0).greedy(None, Silent())
    assert [step.block for step in recipe.steps] == ["stem", "head"] and recipe.drop_points == 0.0


def test_agreement_may_be_asked_for_too() -> None:
    recipe = _search({"stem": 2, "head": 1}, budget=100.0, agreement=0.98).greedy(None, Silent())
    assert recipe.needed and recipe.float_blocks == ("stem",) and recipe.answers.agreement == pytest.approx(0.99)


def test_a_search_without_success_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five answers stay wrong whatever is float: the search ends where nothing is gained any more."""
    whole = _Stub.logits

    def worse(self: _Stub, float_blocks: Collection[str]) -> np.ndarray:
        logits = whole(self, float_blocks)
        logits[10:15] = [0.0, 1.0]
        return logits

    monkeypatch.setattr(_Stub, "logits", worse)
    recipe = _search({"stem": 2, "head": 1}, budget=0.5).greedy(None, Silent())
    assert not recipe.meets and recipe.drop_points == pytest.approx(5.0)
    assert recipe.float_blocks == ("stem", "head")


def test_so_many_or_these_blocks_whatever_the_budget() -> None:
    recipe = _search({"stem": 2, "head": 1}, budget=100.0).greedy(2, Silent())
    assert recipe.asked and not recipe.needed and recipe.float_blocks == ("stem", "head")
    recipe = _search({"stem": 2, "head": 1}, budget=0.0).of(["classifier"])
    assert recipe.asked and not recipe.meets and recipe.float_blocks == ("classifier",)
    assert recipe.drop_points == pytest.approx(3.0)
