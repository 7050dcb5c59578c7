"""Scores by hand, and files written whole or not at all."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.files import atomic_path, read_json, sha256, write_json
from mnv3_tf.metrics import score, softmax, wilson_interval


def test_scores_by_hand() -> None:
    logits = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 5.0], [3.0, 0.0, 1.0]])
    result = score(logits, np.array([0, 2, 2, 1]), ("a", "b", "c"))
    # Row 1 is a tie of b and c: the lower index counts, so it is wrong.
    assert result.top1 == 0.5 and result.samples == 4 and result.k == 3 and result.topk == 1.0
    assert result.confusion == ((1, 0, 0), (1, 0, 0), (0, 1, 1))
    assert result.per_class == (("a", 1, 1.0), ("b", 1, 0.0), ("c", 2, 0.5))
    losses = [math.log(1 + 2 * math.exp(-2)), math.log(2 + math.exp(-1)), math.log(1 + 2 * math.exp(-5)),
              math.log(1 + math.exp(3) + math.exp(1))]
    assert result.loss == pytest.approx(sum(losses) / 4)


def test_top_five_of_many() -> None:
    logits = np.arange(10.0)[None]
    assert score(logits, np.array([5]), tuple("abcdefghij")).topk == 1.0
    assert score(logits, np.array([4]), tuple("abcdefghij")).topk == 0.0


def test_a_class_without_pictures_has_no_recall() -> None:
    result = score(np.array([[1.0, 0.0]]), np.array([0]), ("a", "b"))
    assert result.per_class[1] == ("b", 0, None) and result.to_dict()["per_class"][1]["recall"] is None


@pytest.mark.parametrize(("hits", "total", "low", "high"), [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0),
                                                            (0, 0, 0.0, 1.0)])
def test_wilson_interval(hits: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(hits, total) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


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
