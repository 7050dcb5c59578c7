"""A teacher in float training: the loss by hand, its input and classes, and a student that learns from it."""

import csv
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from shared import ONE_BLOCK, weights, without_folders

from mnv3_tf.artefacts.run_folder import RunFolder
from mnv3_tf.config import load_config
from mnv3_tf.data import open_dataset
from mnv3_tf.data.batches import ContractPictures
from mnv3_tf.errors import InputError
from mnv3_tf.files import read_json, sha256
from mnv3_tf.network.keras_io import load_keras
from mnv3_tf.progress import Silent
from mnv3_tf.training.distill import DistillationLoss, LabelAccuracy, Teacher, TeacherAnswers, open_teacher, resized, with_answers
from mnv3_tf.training.trainer import train

NAMES = ("blue", "green", "red")


def test_the_loss_by_hand() -> None:
    """Student (0, 0), teacher (2 ln 3, 0) at temperature 2: q = (3/4, 1/4); label smoothed to (0.9, 0.1)."""
    student = np.array([[0.0, 0.0], [2.0, 0.0]], np.float32)
    teacher = np.array([[2 * np.log(3), 0.0]] * 2, np.float32)
    labels = np.array([[1.0, 0.0]] * 2, np.float32)
    loss = DistillationLoss(2, teacher_weight=0.25, temperature=2.0, label_smoothing=0.2)
    found = np.asarray(loss.call(with_answers(labels, teacher), student))
    # CE of anything with (1/2, 1/2) is ln 2; of (a, b) with softmax (z, 0) it is ln(1 + e^z) - a * z.
    second = 0.25 * 4 * (np.log(1 + np.e) - 0.75) + 0.75 * (np.log(1 + np.e ** 2) - 0.9 * 2)
    np.testing.assert_allclose(found, [0.25 * 4 * np.log(2) + 0.75 * np.log(2), second], rtol=1e-6)
    # The mean over the batch weighs pictures as the class weights say.
    weighed = float(loss(with_answers(labels, teacher), student, sample_weight=np.array([1.0, 3.0])))
    assert weighed == pytest.approx((found[0] + 3 * found[1]) / 2, rel=1e-6)
    accuracy = LabelAccuracy(2)
    accuracy.update_state(with_answers(labels, -teacher), student)
    assert float(accuracy.result()) == 1.0


def test_a_picture_without_a_label_has_the_teachers_share_alone() -> None:
    loss = DistillationLoss(2, teacher_weight=0.25, temperature=2.0, label_smoothing=0.2)
    teacher, student = np.array([[2 * np.log(3), 0.0]] * 2, np.float32), np.zeros((2, 2), np.float32)
    labels = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)
    np.testing.assert_allclose(np.asarray(loss.call(with_answers(labels, teacher), student)),
                               [0.25 * 4 * np.log(2), 0.25 * 4 * np.log(2) + 0.75 * np.log(2)], rtol=1e-6)
    accuracy = LabelAccuracy(2)
    accuracy.update_state(with_answers(labels, teacher), np.array([[1.0, 0.0], [0.0, 1.0]], np.float32))
    assert float(accuracy.result()) == 0.0
    accuracy.update_state(with_answers(labels[1:], teacher[1:]), np.array([[1.0, 0.0]], np.float32), np.array([3.0], np.float32))
    assert float(accuracy.result()) == 0.75


def test_without_the_teachers_share_it_is_the_usual_loss() -> None:
    rng = np.random.default_rng(0)
    labels, logits = np.eye(4, dtype=np.float32)[rng.integers(0, 4, 9)], rng.normal(size=(9, 4)).astype(np.float32)
    usual = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    own = DistillationLoss(4, 0.0, 2.0, 0.1)(with_answers(labels, logits[::-1]), logits)
    assert float(own) == pytest.approx(float(usual(labels, logits)), rel=1e-5)


def fake(answer, labels=NAMES, size: tuple[int, int] = (32, 48)) -> Teacher:
    """A teacher that answers by a function of the pictures' mean colour; its file is this one."""
    return Teacher(Path("t"), Path(__file__), lambda pixels: answer(pixels.mean(axis=(1, 2))), *size, labels)


def colours(count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of one colour each, and classes: blue 0, green 1, red 2."""
    labels = np.arange(count) % 3
    pixels = np.zeros((count, 32, 48, 3), np.uint8)
    pixels[np.arange(count), :, :, 2 - labels] = 200
    return pixels, labels


def softmax(values: np.ndarray) -> np.ndarray:
    exponents = np.exp(values - values.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def test_classes_are_matched_by_name_and_probabilities_become_logits() -> None:
    pixels, labels = colours()
    by_colour = TeacherAnswers(fake(lambda rgb: rgb / 40, ("red", "green", "blue")), NAMES, (32, 48))
    by_colour.examine(pixels, labels)
    np.testing.assert_allclose(by_colour.logits(pixels[:3]), np.eye(3) * 5, atol=1e-5)
    assert by_colour.facts["gives"] == "logits"
    likely = TeacherAnswers(fake(lambda rgb: softmax(rgb[:, ::-1] / 40)), NAMES, (32, 48))
    likely.examine(pixels, labels)
    assert likely.facts["gives"] == "probabilities"
    np.testing.assert_allclose(softmax(likely.logits(pixels)), softmax(np.eye(3)[labels] * 5), rtol=1e-4)


def test_pictures_are_resized_to_the_teachers_input() -> None:
    pixels, labels = colours()
    seen = []
    teacher = Teacher(Path("t"), Path(__file__), lambda given: (seen.append(given.shape), given.mean(axis=(1, 2))[:, ::-1])[1],
                      64, 40, NAMES)
    answers = TeacherAnswers(teacher, NAMES, (32, 48))
    answers.examine(pixels, labels)
    assert seen == [(30, 64, 40, 3)] and any("resized from 32x48 to 64x40" in note for note in answers.notes)
    assert (resized(pixels, 64, 40)[0, :, :, 2] == 200).all()


@pytest.mark.parametrize(("teacher", "message"), [
    (fake(lambda rgb: rgb, ("blue", "green", "yellow")), r"only there: yellow; only in the data: red"),
    (fake(lambda rgb: rgb, ("blue", "green")), r"knows the 2 classes"),
    (fake(lambda rgb: rgb[:, :2], None), r"gives 2 values for a picture, but the data has 3 classes"),
    (fake(lambda rgb: rgb, NAMES), r"right on 0\.333 of 30 training pictures, where the commonest class alone is 0\.333"),
    (fake(lambda rgb: np.ones_like(rgb), NAMES), r"no picture|right on 0\.333"),
])
def test_teachers_that_do_not_fit(teacher: Teacher, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TeacherAnswers(teacher, NAMES, (32, 48)).examine(*colours())


def test_what_can_be_a_teacher(source_run: Path, tmp_path: Path) -> None:
    teacher = open_teacher(source_run)
    assert (teacher.height, teacher.width, teacher.labels, teacher.assumed) == (32, 48, NAMES, False)
    copy = tmp_path / "any.keras"
    copy.write_bytes((source_run / "model.keras").read_bytes())
    assert open_teacher(copy).labels is None and open_teacher(copy).assumed
    (tmp_path / "quantized").mkdir()
    (tmp_path / "quantized" / "quantized.npz").write_bytes(b"x")
    for path, message in ((tmp_path / "quantized", "not a quantized network"), (tmp_path / "none", "no such run folder")):
        with pytest.raises(InputError, match=message):
            open_teacher(path)
    keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()]).save(tmp_path / "open.keras")
    with pytest.raises(InputError, match="of fixed size"):
        open_teacher(tmp_path / "open.keras")


@pytest.mark.slow
def test_an_int8_file_and_a_quantized_run_teach(small_file: Path, small_runs: Path, pictures: Path) -> None:
    """Their answers on the training pictures are those of the float network."""
    run = RunFolder(small_runs / "float")
    held = ContractPictures(open_dataset(pictures).split("train"), run.contract())
    pixels = np.concatenate(list(held))
    expected = load_keras(run.model).predict(pixels, verbose=0)
    for path in (small_file, small_runs / "ptq"):
        answers = TeacherAnswers(open_teacher(path), run.labels(), (32, 48))
        answers.examine(pixels, held.labels)
        assert (answers.logits(pixels).argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9
        assert np.abs(answers.logits(pixels) - expected).mean() < 0.1 * np.ptp(expected)


@pytest.mark.slow
def test_a_student_learns_from_a_teacher(student_run: Path, source_run: Path) -> None:
    card = read_json(student_run / "run.json")
    assert card["metrics"]["test"]["top1"] > 0.8
    assert card["teacher"] == {"path": str(source_run), "file": "model.keras", "sha256": sha256(source_run / "model.keras"),
                               "gives": "logits", "top1_on_training_pictures": pytest.approx(1, abs=0.1)}
    losses = [float(row["train_loss"]) for row in csv.DictReader((student_run / "log.csv").open())]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_resuming_with_a_teacher_changes_nothing(student_run: Path, resumed_student: Path) -> None:
    for ours, theirs in zip(weights(resumed_student / "run"), weights(student_run), strict=True):
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_unlabelled_pictures_are_learned_from_the_teacher(pictures: Path, one_block_run: Path, tmp_path: Path) -> None:
    """Four labelled pictures of each class, the rest without labels: the student answers as its teacher does."""
    data, progress = tmp_path / "data", Silent()
    for path in (pictures / "train").glob("*/*_[0-3].png"):
        (target := data / "train" / path.parent.name / path.name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(pictures / "val", data / "val")
    others = without_folders(pictures / "train", tmp_path / "others")
    config = load_config(None, [*ONE_BLOCK, f"train.teacher={one_block_run}", f"train.unlabelled={others}", "train.epochs=8",
                                "train.class_weights=balanced"])
    run = train(open_dataset(data), config, tmp_path / "run", progress=progress)
    assert "12 training pictures, 36 for validation, 3 classes" in progress.lines
    assert "96 pictures without labels are learned from the teacher alone" in progress.lines
    card = read_json(run.path / "run.json")
    assert card["metrics"]["val"]["top1"] > 0.8 and card["data"]["unlabelled"]["pictures"] == 96
    with pytest.raises(InputError, match=r"train\.unlabelled is .*Give train\.teacher"):
        train(open_dataset(data), load_config(None, [f"train.unlabelled={others}"]), tmp_path / "none", progress=Silent())


@pytest.mark.slow
def test_the_command_line_tunes_with_an_int8_teacher(small_file: Path, pictures: Path, tuning: tuple[str, ...],
                                                     tmp_path: Path) -> None:
    """Weights and an int8 file as teacher; --resume with the same file of settings, when the weights are gone."""
    from click.testing import CliRunner

    from mnv3_tf.cli.main import cli

    weights_copy = tmp_path / "weights"
    shutil.copytree(tuning[0].partition("=")[2], weights_copy)
    (tmp_path / "c.yaml").write_text(f"model:\n  weights: {weights_copy}\ntrain:\n  teacher: {small_file}\n")
    command = ["train", "--data", str(pictures), "--out", str(tmp_path / "run"), "-c", str(tmp_path / "c.yaml")]
    for setting in (*tuning[1:], "train.epochs=1", "train.freeze=head_conv"):
        command += ["-o", setting]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    card = read_json(tmp_path / "run" / "run.json")
    assert card["teacher"]["file"] == small_file.name and card["weights"]["new"] == []
    shutil.rmtree(weights_copy)
    again = CliRunner().invoke(cli, [*command, "--resume"], catch_exceptions=False)
    assert again.exit_code == 0, again.output
