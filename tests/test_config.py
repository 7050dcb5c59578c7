"""Settings: by type, with errors that name the place and the nearest key."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnv3_tf.config import Config, differences, load_config, save_config
from mnv3_tf.errors import InputError


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
    ("x: !!python/object:os.system {}\n", "not valid YAML"),
])
def test_wrong_files_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "c.yaml")
    assert message in str(caught.value) and "c.yaml" in str(caught.value)


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


def test_differences() -> None:
    assert differences(Config(), Config()) == []
    assert differences(Config(), load_config(None, ["train.epochs=5"])) == ["train.epochs: 100 -> 5"]
