"""Settings: by type, with errors that name the place and the nearest key."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnv3_tf.config import Config, differences, load_config, save_config
from mnv3_tf.errors import InputError
from mnv3_tf.files import plain


def test_overrides_are_read_by_type() -> None:
    config = load_config(None, [
        "model.alpha=1", "data.image_size=[160,128]", "train.learning_rate=1e-3", "data.strict=true", "train.xla=false",
        "train.warmup_epochs=null", "model.name=large", "train.epochs=3", "train.epochs=5"])
    assert (config.model.alpha, config.model.name, config.train.epochs) == (1.0, "large", 5)
    assert isinstance(config.model.alpha, float) and config.data.height_width == (160, 128)
    assert config.train.learning_rate == 0.001 and config.data.strict is True and config.train.xla is False


def test_a_file_then_overrides(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train:\n  epochs: 7\n  seed: 3\ndata:\n  image_size: 96\nmodel:\n")
    config = load_config(tmp_path / "c.yaml", ["train.seed=4"])
    assert (config.train.epochs, config.train.seed, config.data.height_width) == (7, 4, (96, 96))
    assert config.model == Config().model


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "c.yaml") == Config()


def test_a_block_table_is_found_from_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model:\n  block_table: own.yaml\n")
    assert load_config(tmp_path / "c.yaml").model.block_table == str(tmp_path / "own.yaml")


@pytest.mark.parametrize(("override", "message"), [
    ("train.epoch=3", "no key 'epoch'; did you mean 'epochs'"), ("trian.epochs=3", "did you mean 'train'"),
    ("train.epochs", "section.key=value"), ("epochs=3", "section.key=value"), ("train.epochs=many", "a whole number"),
    ("train.epochs=2.5", "a whole number"), ("train.epochs=0", "at least 1"), ("train.epochs=true", "a whole number"),
    ("model.alpha=0", "above 0"), ("model.alpha=.nan", "finite"), ("model.name=larg", "did you mean 'large'"),
    ("data.image_size=16", "at least 32"), ("data.image_size=[64]", "height, width"), ("data.strict=1", "true or false"),
    ("data.resize=squash", "stretch, crop, pad"), ("train.learning_rate=[", "cannot be read"),
    ("train.xla=maybe", "true or false"),
])
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, [override])
    assert message in str(caught.value) and override in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    ("train:\n  epochs: 3\n  sede: 1\n", "line 3: section 'train' has no key 'sede'; did you mean 'seed'"),
    ("train:\n  epochs: three\n", "line 2: train.epochs is 'three'"), ("trainn:\n  epochs: 3\n", "line 1: unknown key 'trainn'"),
    ("train: 5\n", "line 1: section 'train'"), ("- a\n", "must hold a mapping"), ("a: [1\n", "not valid YAML"),
    ("x: !!python/object:os.system {}\n", "not valid YAML"), ("train: &a\n  - *a\n", "not valid YAML (nested too deep"),
    ("train:\n  seed: 1\n  epochs: 3\n  seed: 2\n", "line 4: the key 'seed' was already given on line 2"),
    ("train:\n  seed: 1\ntrain:\n  epochs: 3\n", "line 3: the key 'train' was already given on line 1"),
])
def test_wrong_files_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "c.yaml")
    assert message in str(caught.value) and "c.yaml" in str(caught.value)


@pytest.mark.slow
@settings(deadline=None)  # writes files: slow where the disk is
@given(epochs=st.integers(1, 10**6), alpha=st.floats(0.01, 16), size=st.one_of(
    st.integers(32, 999), st.tuples(st.integers(32, 999), st.integers(32, 999))), strict=st.booleans(),
    rate=st.one_of(st.none(), st.floats(1e-8, 10)))
def test_saved_settings_come_back(tmp_path_factory: pytest.TempPathFactory, epochs: int, alpha: float, size: object,
                                  strict: bool, rate: float | None) -> None:
    import dataclasses

    config = Config()
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, alpha=alpha), data=dataclasses.replace(
            config.data, image_size=size, strict=strict),  # type: ignore[arg-type]
        train=dataclasses.replace(config.train, epochs=epochs, learning_rate=rate))
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    save_config(path, config)
    assert load_config(path) == config


def test_a_block_table_given_by_override_survives_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(None, ["model.block_table=own.yaml"])
    save_config(tmp_path / "run" / "config.yaml", config)
    assert config.model.block_table == str(tmp_path / "own.yaml")
    assert differences(load_config(tmp_path / "run" / "config.yaml"), config) == []


@pytest.mark.slow
@pytest.mark.parametrize("value", ["2024-99-99", "[" * 5000, "9" * 5001])
def test_values_that_the_parser_chokes_on(value: str) -> None:
    with pytest.raises(InputError):
        load_config(None, [f"train.seed={value}"])


def test_differences() -> None:
    assert differences(Config(), Config()) == []
    assert differences(Config(), load_config(None, ["train.epochs=5"])) == ["train.epochs: 100 -> 5"]


def test_defaults() -> None:
    config = load_config()
    assert config == Config() and config.data.height_width == (224, 224)
    assert (config.model.name, config.model.alpha, config.model.block_table) == ("small", 1.0, None)
    assert (config.data.resize, config.data.interpolation, config.data.validation_fraction) == ("stretch", "bilinear", 0.15)
    assert (config.train.optimizer, config.train.learning_rate, config.train.mixed_precision) == ("adamw", None, None)
    assert list(plain(config)) == ["model", "data", "augment", "train", "quantize", "verify"]


def test_every_default_passes_its_own_check() -> None:
    """Each key, given its default as YAML would write it, is accepted and changes nothing."""
    overrides = [f"{section}.{key}={'null' if value is None else value}"
                 for section, values in plain(Config()).items() for key, value in values.items()]
    assert load_config(None, overrides) == Config()


@pytest.mark.parametrize(("override", "section", "key", "value"), [
    ("train.learning_rate=2E-4", "train", "learning_rate", 2e-4), ("train.weight_decay=0", "train", "weight_decay", 0.0),
    ("model.alpha=.5", "model", "alpha", 0.5), ("train.mixed_precision=yes", "train", "mixed_precision", True),
    ("train.xla=null", "train", "xla", None), ("train.xla=~", "train", "xla", None),
    ("model.inplanes=24", "model", "inplanes", 24),
    ("data.image_size=96", "data", "image_size", 96), ("data.image_size=[96, 160]", "data", "image_size", (96, 160)),
    ("data.interpolation=bicubic", "data", "interpolation", "bicubic"), ("data.resize=pad", "data", "resize", "pad"),
    ("model.block_table=own=1.yaml", "model", "block_table", str(Path("own=1.yaml").resolve())),
    ("train.seed=4294967295", "train", "seed", 2**32 - 1),
    ("train.class_weights=none", "train", "class_weights", "none"), ("augment.mixup=0.2", "augment", "mixup", 0.2),
    ("quantize.epochs=0", "quantize", "epochs", 0), ("data.workers=null", "data", "workers", None),
])
def test_one_override(override: str, section: str, key: str, value: object) -> None:
    found = getattr(getattr(load_config(None, [override]), section), key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("override", "message"), [
    ("modle.alpha=1", "there is no section 'modle'; did you mean 'model'"), ("zzz.alpha=1", "Sections: model, data, augment"),
    ("model.aplha=1", "did you mean 'alpha'"), ("augment.zzz=1", "Keys: smallest_area, aspect"),
    ("model.alpha=wide", "model.alpha is 'wide'; allowed: a number"), ("model.alpha=[1]", "a number"),
    ("model.alpha=true", "a number"), ("model.alpha=17", "above 0 and at most 16"), ("model.alpha=-1", "above 0"),
    ("model.alpha=.inf", "a finite number"), ("model.alpha=nan", "a finite number"), ("train.ema_decay=1", "at most 0.999999"),
    ("model.dropout=1", "at most 0.99"), ("data.validation_fraction=0", "above 0"), ("augment.erase=1.5", "at most 1"),
    ("train.seed=-1", "at least 0"), ("train.epochs=null", "a whole number"), ("train.epochs=1e3", "a whole number"),
    ("model.block_table=3", "text or null"), ("model.inplanes=0", "at least 1"), ("model.inplanes=2.5", "a whole number or null"),
    ("data.image_size=[64, 16]", "at least 32"), ("data.image_size=[64, 64, 3]", "a whole number or [height, width]"),
    ("data.image_size=true", "a whole number or [height, width]"), ("data.image_size=null", "[height, width]"),
    ("data.interpolation=bicubc", "did you mean 'bicubic'"), ("train.optimizer=Adam", "adamw, sgd, rmsprop"),
    ("train.class_weights=null", "none, balanced"), ("train.mixed_precision=1", "true or false or float16, bfloat16"),
    ("quantize.teacher_weight=2", "at most 1"), ("quantize.temperature=0", "above 0"), ("=3", "section.key=value"),
    ("train.=3", "no key ''"), ("", "section.key=value"),
])
def test_more_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, ["train.seed=1", override])
    assert message in str(caught.value) and str(caught.value).startswith(f"-o {override}")


def test_all_sections_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "model: {name: large, alpha: 0.75, class_expand: 640}\ndata: {image_size: [96, 160], resize: crop, crop_fraction: 0.9}\n"
        "augment:\n  rotation: 0\n  mixup: 0.1\ntrain:\n  learning_rate: 1e-3\n  xla: off\nquantize: {temperature: 4}\n")
    config = load_config(tmp_path / "c.yaml")
    assert (config.model.name, config.model.alpha, config.model.class_expand) == ("large", 0.75, 640)
    assert (config.data.height_width, config.data.resize, config.data.crop_fraction) == ((96, 160), "crop", 0.9)
    assert (config.augment.rotation, config.augment.mixup, config.quantize.temperature) == (0.0, 0.1, 4.0)
    assert config.train.learning_rate == 1e-3 and config.train.xla is False
    assert plain(config)["data"]["image_size"] == [96, 160]


def test_base_then_file_then_overrides(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train: {seed: 2, epochs: 20}\n")
    base = load_config(None, ["train.seed=1", "train.epochs=10", "train.batch_size=8"])
    config = load_config(tmp_path / "c.yaml", ["train.epochs=30"], base)
    assert (config.train.seed, config.train.epochs, config.train.batch_size) == (2, 30, 8)
    assert base.train.epochs == 10


def test_where_a_block_table_is_looked_for(tmp_path: Path) -> None:
    folder = tmp_path / "settings"
    folder.mkdir()
    (folder / "c.yaml").write_text("model: {block_table: ../tables/own.yaml}\n")
    assert load_config(folder / "c.yaml").model.block_table == str(tmp_path / "tables" / "own.yaml")
    # An override is typed at the prompt: its path is the prompt's, kept absolute for the run folder that stores it.
    typed = load_config(folder / "c.yaml", ["model.block_table=own.yaml"]).model.block_table
    assert typed == str(Path("own.yaml").resolve())
    (folder / "c.yaml").write_text(f"model: {{block_table: {tmp_path / 'own.yaml'}}}\n")
    assert load_config(folder / "c.yaml").model.block_table == str(tmp_path / "own.yaml")


@pytest.mark.parametrize(("text", "message"), [
    ("# one\n\ntrain:\n  epochs: 0\n", "line 4: train.epochs is 0; it must be at least 1"),
    ("model:\n  alpha: .nan\n", "line 2: model.alpha is nan; allowed: a finite number"),
    ("data:\n  strict: false\n  image_size: [64, 16]\n", "line 3: data.image_size is [64, 16]"),
    ("data:\n  resize: crpo\n", "line 2: data.resize is 'crpo'; allowed: stretch, crop, pad; did you mean 'crop'"),
    ("model: {}\ndtaa:\n  strict: true\n", "line 2: unknown key 'dtaa'; did you mean 'data'"),
    ("model:\n  - alpha: 1\n", "line 1: section 'model' must hold key: value lines"),
    ("train:\n  epochs: 3\n epochs: 4\n", "line 3: not valid YAML"), ("a: 1\n---\nb: 2\n", "not valid YAML"),
])
def test_more_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert message in str(caught.value) and str(caught.value).startswith(str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "c.yaml").write_bytes("model: {block_table: caf\u00e9}".encode("latin-1"))
    with pytest.raises(InputError, match=r"c\.yaml: not UTF-8"):
        load_config(tmp_path / "c.yaml")


def test_saved_settings_are_plain_and_complete(tmp_path: Path) -> None:
    table = tmp_path / "café.yaml"
    config = load_config(None, ["data.image_size=[96,160]", "train.learning_rate=1e-8", f"model.block_table={table}"])
    save_config(tmp_path / "c.yaml", config)
    text = (tmp_path / "c.yaml").read_text(encoding="utf-8")
    assert "café.yaml" in text and "!!" not in text and text.index("model:") < text.index("data:")
    assert load_config(tmp_path / "c.yaml") == config


def test_differences_in_the_order_of_the_sections() -> None:
    new = load_config(None, ["train.xla=true", "data.image_size=[224,160]", "model.alpha=0.5"])
    assert differences(Config(), new) == [
        "model.alpha: 1.0 -> 0.5", "data.image_size: 224 -> [224, 160]", "train.xla: None -> True"]
    assert differences(new, new) == []


PADDLE = """
Global: {output_dir: ./output/, epochs: 120, image_shape: [3, 224, 224], class_id_map_file: labels.txt, seed: 3}
Arch: {name: MobileNetV3_small_x0_35, class_num: 102}
AMP: {use_amp: true}
Optimizer:
  name: Momentum
  momentum: 0.9
  lr: {name: Cosine, learning_rate: 0.65, warmup_epoch: 5}
  regularizer: {name: L2, coeff: 0.00002}
DataLoader:
  Train:
    dataset: {name: ImageNetDataset, image_root: ./my flowers/, cls_label_path: train_list.txt}
    sampler: {batch_size: 256}
"""


def test_a_configuration_of_paddleclas_is_said_in_our_settings(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PADDLE)
    with pytest.raises(InputError, match=r"p\.yaml: is a configuration of PaddleClas.* mnv3 train ") as caught:
        load_config(tmp_path / "p.yaml")
    words = shlex.split(str(caught.value).partition("same: ")[2])
    assert words[:6] == ["mnv3", "train", "--data", "./my flowers/", "--out", "./output/"]
    config = load_config(None, [word for word in words[6:] if word != "-o"])
    assert (config.model.name, config.model.alpha, config.model.dialect) == ("small", 0.35, "paddle")
    train = config.train
    assert (train.epochs, train.batch_size, train.optimizer, train.learning_rate) == (120, 256, "sgd", 0.65)
    assert (train.warmup_epochs, train.weight_decay, train.seed) == (5, 0.00002, 3)
    assert config.data.height_width == (224, 224) and config.train.mixed_precision is True


@pytest.mark.parametrize(("override", "message"), [
    ("Global.epochs=1", "here it is train.epochs"), ("Arch.name=MobileNetV3_small_x0_35", "here it is model.name"),
    ("Global.device=gpu", "this kit has none for it"), ("DataLoader.Train.sampler.batch_size=4", "here it is train.batch_size"),
    ("data.channels=1", "networks take three channels; grey pictures are read as three equal ones"),
])
def test_keys_of_others_are_said_in_ours(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(None, [override])
