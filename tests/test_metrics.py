"""Scores by hand, and files written whole or not at all."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.files import atomic_path, json_text, read_json, sha256, write_json
from mnv3_tf.metrics import compare_answers, score, score_batches, softmax, wilson_interval


def test_scores_by_hand() -> None:
    logits = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 5.0], [3.0, 0.0, 1.0]])
    result = score(logits, np.array([0, 2, 2, 1]), ("a", "b", "c"))
    # Row 1 is a tie of b and c: the lower index counts, so it is wrong.
    assert result.top1 == 0.5 and result.samples == 4 and result.k == 3 and result.topk == 1.0
    assert result.confusion == ((1, 0, 0), (1, 0, 0), (0, 1, 1))
    # Precision: a is answered twice, once rightly; b once, wrongly; c once, rightly. F1 is 2 * right / (pictures + answers).
    assert result.per_class == (("a", 1, 1.0, 0.5, 2 / 3), ("b", 1, 0.0, 0.0, 0.0), ("c", 2, 0.5, 1.0, 2 / 3))
    assert (result.balanced_accuracy, result.precision, result.f1) == (0.5, 0.5, pytest.approx(4 / 9))
    assert result.mistakes == ((1, 0, 1), (2, 1, 1))
    losses = [math.log(1 + 2 * math.exp(-2)), math.log(2 + math.exp(-1)), math.log(1 + 2 * math.exp(-5)),
              math.log(1 + math.exp(3) + math.exp(1))]
    assert result.loss == pytest.approx(sum(losses) / 4)


def test_top_five_of_many() -> None:
    logits = np.arange(10.0)[None]
    assert score(logits, np.array([5]), tuple("abcdefghij")).topk == 1.0
    assert score(logits, np.array([4]), tuple("abcdefghij")).topk == 0.0


def test_a_class_without_pictures_has_no_recall() -> None:
    result = score(np.array([[1.0, 0.0]]), np.array([0]), ("a", "b"))
    assert result.per_class[1] == ("b", 0, None, None, None) and result.to_dict()["per_class"][1]["recall"] is None


@pytest.mark.parametrize(("hits", "total", "low", "high"), [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0),
                                                            (0, 0, 0.0, 1.0)])
def test_wilson_interval(hits: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(hits, total) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_answers_of_two_models_by_hand() -> None:
    ours = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [0.0, 0.5]])
    found = compare_answers(ours, ours + np.array([[0.0, 0.5], [0.0, 0.0], [0.0, 2.5], [0.0, 0.0]]))
    assert (found.top1, found.mean_difference, found.largest_difference) == (0.75, 0.375, 2.5)
    assert (found.top1_low, found.top1_high) == wilson_interval(3, 4)
    assert found.in_words() == "75.0% of the pictures (95% interval 30.1% to 95.4%)"


def test_softmax_of_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([1000.0, 1000.0, 0.0])), [0.5, 0.5, 0.0])


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "f.json"
    write_json(target, {"a": 1})
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert read_json(target) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_json(tmp_path / "f.json", 1)
    finally:
        os.umask(old)
    assert (tmp_path / "f.json").stat().st_mode & 0o777 == 0o640


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(KitError, match=r"file/f\.json: cannot be written"):
        write_json(tmp_path / "file" / "f.json", 1)


def test_json_errors_name_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('{"a": 1,\n "b" 2}')
    with pytest.raises(InputError, match=r"f\.json, line 2"):
        read_json(tmp_path / "f.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path / "none.json")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(("hits", "total", "low", "high"), [
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_published_wilson_intervals(hits: int, total: int, low: float, high: float) -> None:
    """Newcombe (1998), table I, method 3."""
    assert wilson_interval(hits, total) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 10**6).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_wilson_interval_holds_the_share(counts: tuple[int, int]) -> None:
    hits, total = counts
    low, high = wilson_interval(hits, total)
    assert 0 <= low <= hits / total + 1e-12 and hits / total - 1e-12 <= high <= 1
    mirrored = wilson_interval(total - hits, total)
    assert (low, high) == (pytest.approx(1 - mirrored[1], abs=1e-9), pytest.approx(1 - mirrored[0], abs=1e-9))


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_k_is_at_most_the_number_of_classes(classes: int) -> None:
    logits = np.tile(np.arange(classes, dtype=float), (classes, 1))
    result = score(logits, np.arange(classes), tuple("abcd"[:classes]))
    assert (result.k, result.topk, result.top1) == (classes, 1.0, 1 / classes)


def test_ties_go_to_the_lower_index_in_both_scores() -> None:
    equal = np.zeros((6, 6))
    result = score(equal, np.arange(6), tuple("abcdef"))
    assert (result.top1, result.topk, result.k) == (1 / 6, 5 / 6, 5)  # only the last class is beyond the five
    assert [row[0] for row in result.confusion] == [1] * 6
    assert result.loss == pytest.approx(math.log(6))


def test_a_single_class_is_always_right() -> None:
    result = score(np.array([[-3.0], [4.0]]), np.array([0, 0]), ("a",))
    assert (result.top1, result.topk, result.k, result.loss, result.confusion) == (1.0, 1.0, 1, 0.0, ((2,),))


def test_the_interval_and_recalls_of_a_longer_list() -> None:
    # 8 of 10 right; class b is taken for a once and for c once, d has no pictures.
    answers = [0, 0, 0, 0, 1, 0, 2, 2, 2, 2]
    labels = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    result = score(np.eye(4)[answers] * 4, np.array(labels), ("a", "b", "c", "d"))
    assert result.top1 == 0.8 and (result.top1_low, result.top1_high) == wilson_interval(8, 10)
    assert result.confusion == ((4, 0, 0, 0), (1, 1, 1, 0), (0, 0, 3, 0), (0, 0, 0, 0))
    assert result.per_class == (("a", 4, 1.0, 0.8, 8 / 9), ("b", 3, pytest.approx(1 / 3), 1.0, 0.5), ("c", 3, 1.0, 0.75, 6 / 7),
                                ("d", 0, None, None, None))
    assert result.balanced_accuracy == pytest.approx(7 / 9) and result.precision == pytest.approx(0.85)
    assert result.f1 == pytest.approx((8 / 9 + 0.5 + 6 / 7) / 3)
    right, wrong = math.log(1 + 3 * math.exp(-4)), math.log(1 + 3 * math.exp(-4)) + 4
    assert result.loss == pytest.approx(0.8 * right + 0.2 * wrong)
    plain = result.to_dict()
    assert plain["confusion"][1] == [1, 1, 1, 0] and plain["per_class"][3] == {
        "label": "d", "samples": 0, "recall": None, "precision": None, "f1": None}
    assert plain["mistakes"] == [{"label": "b", "answer": "a", "count": 1}, {"label": "b", "answer": "c", "count": 1}]


def test_a_network_that_always_says_the_common_class_is_not_good() -> None:
    result = score(np.tile([5.0, 0.0], (100, 1)), np.array([0] * 95 + [1] * 5), ("ok", "defect"))
    assert (result.top1, result.balanced_accuracy, result.precision) == (0.95, 0.5, 0.475)
    assert result.f1 == pytest.approx(190 / 195 / 2)


def test_a_class_that_is_answered_and_has_no_pictures_counts_for_f1() -> None:
    result = score(np.eye(3)[[0, 2]], np.array([0, 0]), ("a", "b", "c"))
    assert (result.balanced_accuracy, result.precision, result.f1) == (0.5, 0.5, pytest.approx((2 / 3 + 0) / 2))


def test_batches_give_what_all_at_once_gives() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.integers(0, 4, (50, 7)).astype(np.float32), rng.integers(0, 7, 50)  # with many ties
    whole = score(logits, labels, tuple("abcdefg"))
    assert score_batches(zip(np.array_split(logits, 9), np.array_split(labels, 9), strict=True), tuple("abcdefg")) == whole
    order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    assert whole.topk == (order == labels[:, None]).any(axis=1).mean()


def test_files_grow_with_the_classes_and_not_with_their_square() -> None:
    classes, pictures = 21_000, 300
    labels = np.arange(pictures) * 70
    names = [f"n{number:08}" for number in range(classes)]

    def answers(wrong: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for label in labels:
            row = np.zeros((1, classes), np.float32)
            row[0, label if label % 3 else label + wrong] = 9
            yield row, np.array([label])

    result = score_batches(answers(1), names)
    assert result.top1 == pytest.approx(2 / 3) and len(result.mistakes) == 100 and result.mistakes[1] == (210, 211, 1)
    plain = result.to_dict()
    assert plain["confusion"] is None and plain["mistakes"][1] == {"label": names[210], "answer": names[211], "count": 1}
    assert len(json_text(plain)) < 200 * classes
    few = score(np.eye(100)[[0]], np.array([0]), names[:100]).to_dict()
    assert np.shape(few["confusion"]) == (100, 100)


def test_a_certain_wrong_answer_costs_a_finite_loss() -> None:
    assert score(np.array([[0.0, 1e4]]), np.array([0]), ("a", "b")).loss == pytest.approx(12 * math.log(10))


@given(st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=8), st.floats(-100, 100))
def test_softmax_sums_to_one_and_ignores_a_shift(rows: list[list[float]], shift: float) -> None:
    probabilities = softmax(np.array(rows))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(softmax(np.array(rows) + shift), probabilities, atol=1e-12)
