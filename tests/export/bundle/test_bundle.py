"""The bundle: whole, checked to the last byte, and what an app reads in it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.artefacts.card import sidecar
from mnv3_tf.cli.main import main
from mnv3_tf.data import read_labels
from mnv3_tf.errors import InputError
from mnv3_tf.export.bundle import BundleOptions, check_bundle, make_bundle
from mnv3_tf.export.bundle.contract import read_app_contract
from mnv3_tf.export.bundle.goldens import generated_pictures
from mnv3_tf.export.bundle.metadata import associated_files, read_metadata
from mnv3_tf.files import read_json
from mnv3_tf.metrics import softmax
from mnv3_tf.progress import Silent
from mnv3_tf.tflite.runtime import LiteRTModel


def bundle(file: Path, out: Path, **changes) -> Path:
    data = changes.pop("data", None)
    force = changes.pop("force", False)
    return make_bundle(file, out, data=data, options=BundleOptions(**changes), force=force, progress=Silent()).folder


def misaligned_buffers(content: bytes) -> int:
    """How many constants of a file do not lie on the border that TFLite asks for."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    wrong = 0
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        place = buffer._tab.Offset(4)
        if place and buffer.DataLength():
            wrong += buffer._tab.Vector(place) % 16 != 0
    return wrong


@pytest.fixture(scope="module")
def made(small_file: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(small_file, tmp_path_factory.mktemp("bundle") / "b", data=pictures, goldens=4, author="A. Uthor",
                  license="Apache-2.0", description="Colours", version="7")


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "b"))


def test_a_bundle_is_whole_and_small(made: Path, small_file: Path) -> None:
    assert check_bundle(made) == ()
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert names == {"model.tflite", "labels.txt", "preprocessing.json", "model_card.md", "goldens.json", "SHA256SUMS",
                     *(f"goldens/{n:02d}.{kind}" for n in range(4) for kind in ("png", "input.bin", "output.bin"))}
    assert read_labels(made / "labels.txt") == read_labels(sidecar(small_file, "labels.txt"))
    card = (made / "model_card.md").read_text()
    assert "| author | A. Uthor |" in card and "| quantized Keras | test |" in card and "quantized.npz with SHA-256" in card


def test_the_model_answers_as_before_and_carries_metadata(made: Path, small_file: Path) -> None:
    rng = np.random.default_rng(0)
    before, after = LiteRTModel(small_file), LiteRTModel(made / "model.tflite")
    pixels = rng.integers(0, 256, (8, *before.input_shape[1:]), dtype=np.uint8)
    np.testing.assert_array_equal(after.predict(pixels), before.predict(pixels))
    assert after.partitions == 1
    content = (made / "model.tflite").read_bytes()
    found = read_metadata(content)
    assert found is not None
    assert (found["name"], found["description"], found["version"], found["author"], found["license"]) == (
        "small", "Colours", "7", "A. Uthor", "Apache-2.0")
    assert found["mean"] == [127.5] and found["std"] == [127.5] and found["input_range"] == [0.0, 255.0]
    assert associated_files(content) == {"labels.txt": (made / "labels.txt").read_bytes()}
    assert misaligned_buffers(content) == 0


def test_the_contract_says_what_the_model_takes_and_gives(made: Path) -> None:
    contract, facts = read_app_contract(made / "preprocessing.json")
    model = LiteRTModel(made / "model.tflite")
    assert facts["input"]["dtype"] == "uint8" and facts["input"]["shape"] == [1, contract.height, contract.width, 3]
    assert (facts["output"]["scale"], facts["output"]["zero_point"]) == model.output_quantization
    assert facts["output"]["is_probability"] is False and "exp(logit[i] - m)" in facts["output"]["rule"]


def test_goldens_are_exact_and_of_every_class(made: Path) -> None:
    """Golden picture, golden tensor, golden scores: an app compares each by bytes."""
    contract, facts = read_app_contract(made / "preprocessing.json")
    model = LiteRTModel(made / "model.tflite")
    goldens = read_json(made / "goldens.json")["goldens"]
    for golden in goldens:
        tensor = np.fromfile(made / golden["input"], np.uint8).reshape(model.input_shape)
        np.testing.assert_array_equal(contract.load(made / golden["picture"])[None], tensor)
        raw = model.run_raw(tensor)
        assert raw.tobytes() == (made / golden["output"]).read_bytes()
        scale, zero = model.output_quantization
        scores = softmax((raw.astype(np.float64) - zero) * scale)[0]
        assert golden["index"] == int(scores.argmax()) and golden["score"] == pytest.approx(scores.max(), abs=1e-6)
        assert golden["label"] == read_labels(made / "labels.txt")[golden["index"]]
        # Four bytes for each channel would be a float model's: the size is the tensor's.
        assert (made / golden["input"]).stat().st_size == int(np.prod(facts["input"]["shape"]))
    assert len({golden["label"] for golden in goldens}) == 3


def test_one_byte_anywhere_is_named(copied: Path) -> None:
    for path in sorted(path for path in copied.rglob("*") if path.is_file()):
        content = path.read_bytes()
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(changed)
        problems = check_bundle(copied)
        name = path.relative_to(copied).as_posix()
        assert problems and any(name in line for line in problems), name
        path.write_bytes(content)
    assert check_bundle(copied) == ()


def test_missing_and_foreign_files_are_named(copied: Path) -> None:
    (copied / "goldens" / "00.png").unlink()
    (copied / "notes.txt").write_text("x")
    assert set(check_bundle(copied)) == {"goldens/00.png: is missing", "notes.txt: does not belong to the bundle"}
    with pytest.raises(InputError, match="is not a bundle"):
        check_bundle(copied / "goldens")


def resum(folder: Path) -> None:
    """Sums that fit again, so that the content itself is what is checked."""
    from mnv3_tf.files import sha256

    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")
                   if path.is_file() and path.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in files))


@pytest.mark.parametrize(("file", "change", "words"), [
    ("labels.txt", lambda text: text + "yellow\n", "labels.txt: has 4 lines, and the model 3 outputs"),
    ("preprocessing.json", lambda text: text.replace('"stretch"', '"crop"'), "gives another input tensor"),
    ("preprocessing.json", lambda text: text.replace('"dtype": "uint8"', '"dtype": "int8"'), "says dtype 'int8' of the input"),
    ("preprocessing.json", lambda text: text.replace("mnv3-bundle/1", "other"), "is not the contract of a bundle"),
    ("goldens.json", lambda text: '{"goldens": []}', "holds no golden")])
def test_what_the_sums_do_not_show_is_named(file: str, change, words: str, copied: Path) -> None:
    text = (copied / file).read_text()
    (copied / file).write_text(change(text))
    resum(copied)
    problems = check_bundle(copied)
    assert any(words in line for line in problems), problems


def test_probabilities_inside_the_graph(small_file: Path, tmp_path: Path) -> None:
    folder = bundle(small_file, tmp_path / "b", scores=True, goldens=2)
    assert check_bundle(folder) == ()
    plain, model = LiteRTModel(small_file), LiteRTModel(folder / "model.tflite")
    pixels = np.random.default_rng(0).integers(0, 256, (16, *model.input_shape[1:]), dtype=np.uint8)
    found = model.predict(pixels)
    np.testing.assert_allclose(found, softmax(plain.predict(pixels).astype(np.float64)), atol=1e-6)
    assert model.partitions == 1 and set(model.undelegated_operators) <= {"QUANTIZE"} and model.output_dtype == "float32"
    assert read_json(folder / "preprocessing.json")["output"]["is_probability"] is True
    with pytest.raises(InputError, match="gives probabilities already"):
        from mnv3_tf.export.bundle.scores import with_scores

        with_scores((folder / "model.tflite").read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("io", ["int8", "float32"])
def test_other_inputs(io: str, small_runs: Path, tmp_path: Path) -> None:
    from mnv3_tf.export.convert.convert import convert, open_source

    file = convert(open_source(small_runs / "ptq"), tmp_path / "m.tflite", io=io).path  # type: ignore[arg-type]
    folder = bundle(file, tmp_path / "b", goldens=2)
    assert check_bundle(folder) == ()
    facts, metadata = read_json(folder / "preprocessing.json"), read_metadata((folder / "model.tflite").read_bytes())
    assert facts["input"]["dtype"] == io and metadata is not None
    assert (metadata["mean"], metadata["std"]) == (([0.0], [1.0]) if io == "float32" else ([127.5], [127.5]))


def test_labels_that_are_not_the_outputs_are_refused_and_nothing_is_left(small_file: Path, tmp_path: Path) -> None:
    for file in small_file.parent.glob("small.*"):
        shutil.copy(file, tmp_path)
    with sidecar(tmp_path / small_file.name, "labels.txt").open("a") as labels:
        labels.write("yellow\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="has 3 outputs, but its labels name 4 classes"):
        bundle(tmp_path / small_file.name, tmp_path / "b")
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_overwritten_unasked(small_file: Path, tmp_path: Path) -> None:
    folder = bundle(small_file, tmp_path / "b", goldens=1)
    with pytest.raises(InputError, match=r"is there already\. Give another folder, or --force"):
        bundle(small_file, folder)
    bundle(small_file, folder, goldens=2, force=True)
    assert len(read_json(folder / "goldens.json")["goldens"]) == 2 and check_bundle(folder) == ()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="It is not a bundle, so --force does not replace it"):
        bundle(small_file, tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "mine"]


def test_the_effect_of_another_preprocessing_is_measured(small_file: Path, pictures: Path, tmp_path: Path) -> None:
    made = make_bundle(small_file, tmp_path / "b", data=pictures, options=BundleOptions(client="mediapipe"), progress=Silent())
    assert made.effect is not None and made.effect.pictures == 36 and not made.effect.same
    assert 0 <= made.effect.changed <= 36
    contract, _ = read_app_contract(made.folder / "preprocessing.json")
    assert (contract.resize, contract.interpolation) == ("stretch", "mediapipe")
    assert any("was trained with another contract" in note for note in made.notes) and check_bundle(made.folder) == ()


def test_generated_goldens_are_the_same_everywhere() -> None:
    first, again = generated_pictures(3), generated_pictures(3)
    assert all(np.array_equal(np.asarray(one), np.asarray(two)) for (_, one), (_, two) in zip(first, again, strict=True))
    assert len({picture.size for _, picture in first}) == 3


def test_the_command(small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["bundle", *map(str, arguments)])
        text = capsys.readouterr()
        return int(stopped.value.code or 0), text.out, text.err

    code, out, err = run(small_file, "--out", tmp_path / "b", "--goldens", 1)
    assert code == 0 and "1 XNNPACK partition" in out and "--data PATH measures" in err
    code, out, _ = run("--check", tmp_path / "b", "--json")
    assert code == 0 and json.loads(out) == {"folder": str(tmp_path / "b"), "passed": True, "problems": []}
    (tmp_path / "b" / "labels.txt").write_text("x\n")
    code, _, err = run("--check", tmp_path / "b")
    assert code == 3 and "labels.txt: was changed" in err and len(err.strip().splitlines()) == 1
    code, out, err = run(small_file, "--out", tmp_path / "c", "--goldens", 1, "--app", tmp_path / "app")
    assert code == 0, err
    assert check_bundle(tmp_path / "app" / "app" / "src" / "main" / "assets" / "bundle") == ()
    assert (tmp_path / "app" / "settings.gradle.kts").exists() and not (tmp_path / "app" / "__init__.py").exists()
    assert (tmp_path / "app" / "app" / "src" / "main" / "java" / "org" / "mnv3" / "demo" / "core" / "Resampler.kt").exists()
    assert run("--check", tmp_path / "b", "--out", "x")[0] == 2 and run(small_file)[0] == 2
    code, _, err = run(tmp_path / "none.tflite", "--out", tmp_path / "d")
    assert code == 2 and "none.tflite" in err and not (tmp_path / "d").exists()
