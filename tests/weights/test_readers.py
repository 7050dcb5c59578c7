"""Files that the real packages wrote come back with their own names, order and values."""

import importlib.util
import json
import pickle
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
from shared import HERE
from tutorial_models import short

from mnv3_tf.errors import InputError
from mnv3_tf.weights.formats import hdf5
from mnv3_tf.weights.formats.read import read_source
from mnv3_tf.weights.sources.hints import read_hints

DATA = Path(__file__).parent / "data"
_spec = importlib.util.spec_from_file_location("make_reader_goldens", Path(__file__).with_name("make_reader_goldens.py"))
goldens = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(goldens)

TORCH = list(goldens.SHAPES)
PADDLE = ["conv.weight", "bn.weight", "bn.bias", "bn._mean", "bn._variance"]


def read_tensors(path: Path, part: str | None = None) -> dict[str, np.ndarray]:
    return read_source(path, part).tensors


def check(tensors: dict[str, np.ndarray], names: list[str], first: int = 0) -> None:
    """The tensors are those of the script that made the file."""
    assert list(tensors) == names
    for number, (name, shape) in enumerate(zip(names, goldens.SHAPES.values(), strict=False), start=first):
        assert tensors[name].dtype == np.float32 and tensors[name].flags.c_contiguous
        np.testing.assert_array_equal(tensors[name], goldens.values(number, shape), err_msg=name)


@pytest.mark.parametrize(("name", "kind", "names", "first", "notes"), [
    ("zip.pth", "torch", TORCH, 0, []),
    ("protocol4.pth", "torch", TORCH, 0, []),
    ("legacy.pth", "torch legacy", TORCH, 0, []),
    ("data_parallel.pth", "torch", TORCH, 0, ["the prefix 'module.' of every name is left out"]),
    ("compiled.pth", "torch", TORCH, 0, ["the prefix '_orig_mod.' of every name is left out"]),
    ("float16.pth", "torch", TORCH, 0, ["tensors converted from float16 to float32: 5"]),
    ("bfloat16.pth", "torch", TORCH, 0, ["tensors converted from bfloat16 to float32: 5"]),
    ("float64.pth", "torch", TORCH, 0, ["tensors converted from float64 to float32: 5"]),
    ("parameters.pth", "torch", TORCH[:3], 0, []),
    ("checkpoint_timm.pth", "torch", TORCH, 10, [
        "the tensors are those of its part 'state_dict_ema' (it also has 'state_dict')"]),
    ("checkpoint_torchvision.pth", "torch", TORCH, 10, ["the tensors are those of its part 'model_ema' (it also has 'model')",
                                                        "the prefix 'module.' of every name is left out"]),
    ("protocol2.pdparams", "pickle", PADDLE, 0, []),
    ("protocol4.pdparams", "pickle", PADDLE, 0, []),
    ("bfloat16.pdparams", "pickle", PADDLE, 0, ["tensors converted from bfloat16 to float32: 5"]),
    ("nested.pdparams", "pickle", PADDLE, 0, ["the tensors are those of its part 'model'"]),
])
def test_a_file_of_torch_or_paddle(name, kind, names, first, notes):
    source = read_source(DATA / name)
    assert source.format == kind
    check(source.tensors, names, first)
    counters = [note for note in source.notes if note.startswith("counters left out")]
    assert [note for note in source.notes if note not in counters] == notes
    assert bool(counters) == (name.endswith(".pth") and name != "parameters.pth")


@pytest.mark.parametrize("name", ["float32.safetensors", "bfloat16.safetensors"])
def test_safetensors(name):
    tensors = read_tensors(DATA / name)
    assert list(tensors) == sorted(TORCH)  # how safetensors lays them out
    check({key: tensors[key] for key in TORCH}, TORCH)


def test_views_of_shared_storages_and_empty_tensors():
    for name in ("views.pth", "views_legacy.pth"):
        tensors = read_tensors(DATA / name)
        np.testing.assert_array_equal(tensors["middle"], [[2, 3, 4], [5, 6, 7]])
        np.testing.assert_array_equal(tensors["transposed"], np.arange(12).reshape(3, 4).T)
        np.testing.assert_array_equal(tensors["every_second"], [0, 2, 4, 6, 8, 10])
        assert tensors["scalar"].shape == () and tensors["scalar"] == 5
        assert tensors["empty"].shape == (0, 3)


def test_big_tensors_of_paddle_are_put_together():
    tensors = read_tensors(DATA / "sliced.pdparams")
    assert set(tensors) == {"conv.weight", "bn.bias"}
    np.testing.assert_array_equal(tensors["conv.weight"], goldens.values(0, (4, 2, 1, 1)))


@pytest.mark.parametrize("piece", [np.zeros(3, np.float32), ()])
def test_slices_that_do_not_fit_are_refused(piece, tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"a@@.0": piece,
                                   "UnpackBigParamInfor@@": {"a": {"OriginShape": (2, 2), "slices": ["a@@.0"]}}}, 4))
    with pytest.raises(InputError, match="slices"):
        read_source(path)


def test_a_part_can_be_asked_for():
    check(read_tensors(DATA / "checkpoint_timm.pth", part="state_dict"), TORCH, 0)
    with pytest.raises(InputError, match=r"no part 'state_dic'; did you mean 'state_dict'.*Allowed: state_dict, state_dict_ema"):
        read_source(DATA / "checkpoint_timm.pth", part="state_dic")


def test_several_dicts_of_tensors_need_a_choice(tmp_path):
    path = tmp_path / "w.pdparams"
    one = {"w": np.ones(2, np.float32)}
    path.write_bytes(pickle.dumps({"student": one, "teacher": one}, 4))
    with pytest.raises(InputError, match="student, teacher"):
        read_source(path)
    assert list(read_tensors(path, part="teacher")) == ["w"]


@pytest.mark.parametrize(("prefixes", "said"), [
    (["module."], 1), (["model._orig_mod."], 2), (["model.module."], 2), (["module.model.net."], 3), (["ema_model.module."], 2),
    (["_orig_mod.module."], 2)])
def test_wrappers_of_wrappers_are_taken_off(prefixes, said, tmp_path):
    path = tmp_path / "w.pdparams"
    names = ("conv.weight", "bn.weight", "bn.num_batches_tracked")
    path.write_bytes(pickle.dumps({f"{prefixes[0]}{name}": np.ones(3, np.float32) for name in names[:2]}
                                  | {f"{prefixes[0]}{names[2]}": np.int64(3) * np.ones((), np.int64)}, 4))
    source = read_source(path)
    assert list(source.tensors) == list(names[:2])
    assert sum("prefix" in note for note in source.notes) == said


def test_of_a_network_and_its_averaged_copy_the_copy_is_taken(tmp_path):
    path = tmp_path / "w.pdparams"
    both = {"model.w": np.zeros(2, np.float32), "ema_model.module.w": np.ones(2, np.float32)}
    path.write_bytes(pickle.dumps({"state_dict": both, "epoch": 3, "pytorch-lightning_version": "2.0"}, 4))
    source = read_source(path)
    np.testing.assert_array_equal(source.tensors["w"], [1, 1])
    assert any("averaged" in note and "'model.'" in note for note in source.notes)
    path.write_bytes(pickle.dumps({"student.w": np.zeros(2, np.float32), "net.w": np.ones(2, np.float32)}, 4))
    assert list(read_tensors(path)) == ["student.w", "net.w"]  # which of them is meant is not known


def test_the_content_decides_not_the_suffix(tmp_path):
    for name in ("zip.pth", "protocol4.pdparams", "float32.safetensors"):
        path = tmp_path / f"{name}.h5"
        path.write_bytes((DATA / name).read_bytes())
        assert set(read_tensors(path)) == set(read_tensors(DATA / name))


@pytest.mark.parametrize(("content", "said"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 10\n", "git lfs pull"),
    (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    (b"\n <html>", "a web page"),
    (b"Entry not found", "text ('Entry not found')"),
    (b"", "an empty file"),
    (b"\x1f\x8b\x08\x00abc\x00", "unpack it first"),
    (b"\x20\x00\x00\x00TFL3" + bytes(20), "a TFLite model"),
    (bytes(range(256)), "no known format"),
    (b"\x00" * 257 + b"ustar" + bytes(300), "a tar archive"),
])
def test_what_is_no_file_of_weights_is_named(content, said, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert said in str(caught.value) and "w.pth" in str(caught.value) and "Allowed: " in str(caught.value)


def test_no_file_a_folder_and_another_zip(tmp_path):
    with pytest.raises(InputError, match=r"none.pth: cannot be read"):
        read_source(tmp_path / "none.pth")
    with pytest.raises(InputError, match="a folder"):
        read_source(tmp_path)
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    with pytest.raises(InputError, match=r"w.npz: a NumPy archive"):
        read_source(tmp_path / "w.npz")


@pytest.mark.parametrize(("value", "said"), [
    ([np.ones(2)], "an object of type list"),
    ({"epoch": 3}, "its keys: epoch"),
    ({"w": np.ones((2, 2), np.int8)}, "w holds int8 of shape"),
    ({"n": np.array(3)}, "only counters"),
    ({"w": np.ones(2, np.complex64)}, "'c8'"),
])
def test_what_holds_no_float_tensors_is_said(value, said, tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps(value, 4))
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert said in str(caught.value)


def test_not_a_number_is_kept_for_others_to_judge(tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"w": np.array([np.nan, np.inf, 1e300]), "v": np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]),
                                   "big": np.array([1.5], ">f4")}, 4))
    tensors = read_tensors(path)
    np.testing.assert_array_equal(tensors["w"], [np.nan, np.inf, np.inf])
    np.testing.assert_array_equal(tensors["v"], [[1, 2], [3, 4]])
    assert tensors["big"] == 1.5


# Keras


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """keras.applications' own of two blocks, every variable different."""
    model = short(keras, alpha=0.35, input_shape=(64, 64, 3))
    chance = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(chance.normal(size=variable.shape))
    return model


def wanted(model) -> dict[tuple[str, int], np.ndarray]:
    """Every layer's tensors by place, in the order in which files list them."""
    return {(layer.name, place): np.asarray(variable) for layer in model.layers
            for place, variable in enumerate(layer.trainable_weights + layer.non_trainable_weights)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "ordered"), [
    ("w.weights.h5", "keras h5", False), ("w.h5", "h5", True), ("w.keras", "keras", True), ("only.h5", "h5", True)])
def test_keras_applications_come_back_whole(name, kind, ordered, network, tmp_path):
    path = tmp_path / name
    if name == "only.h5":  # what Keras 2 called save_weights("x.h5")
        from keras.src.legacy.saving import legacy_h5_format

        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, network)
    elif name.endswith(".weights.h5"):
        network.save_weights(path)
    else:
        network.save(path)
    source = read_source(path)
    assert source.format == kind and len(source.tensors) == len(network.weights)
    found = {(group.name, place): array for group in source.groups for place, array in enumerate(group.tensors.values())}
    expected = wanted(network)
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array, err_msg=str(key))
    if ordered:
        assert list(found) == list(expected)
    if kind == "h5":
        assert list(source.tensors)[:3] == ["conv/kernel", "conv_bn/gamma", "conv_bn/beta"]
    else:
        assert {"conv/0", "conv_bn/3", "logits/1"} < source.tensors.keys()


def test_a_file_of_keras_2_has_layers_with_slashes(tmp_path):
    import tf_keras

    layers = tf_keras.layers
    model = tf_keras.Sequential([layers.Input((4, 4, 3)), layers.Conv2D(2, 3, use_bias=False, name="Conv"),
                                 layers.BatchNormalization(name="Conv/BatchNorm"), layers.Dense(2, name="expanded_conv/fc")])
    model.save_weights(tmp_path / "w.h5")
    source = read_source(tmp_path / "w.h5")
    assert [group.name for group in source.groups] == ["Conv", "Conv/BatchNorm", "expanded_conv/fc"]
    assert list(source.tensors) == ["Conv/kernel", "Conv/BatchNorm/gamma", "Conv/BatchNorm/beta", "Conv/BatchNorm/moving_mean",
                                    "Conv/BatchNorm/moving_variance", "expanded_conv/fc/kernel", "expanded_conv/fc/bias"]
    for array, variable in zip(source.tensors.values(), model.weights, strict=True):
        np.testing.assert_array_equal(array, variable.numpy())


@pytest.fixture(scope="module")
def small_model() -> keras.Model:
    """A model in a model, with dropout (whose seed is a variable), compiled and trained for a step."""
    inner = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3, name="c"),
                              keras.layers.BatchNormalization(name="b")], name="inner")
    model = keras.Sequential([keras.Input((4, 4, 3)), inner, keras.layers.Dropout(0.5, name="drop"), keras.layers.Flatten(),
                              keras.layers.Dense(2, name="d")])
    model.compile("adam", "mse", metrics=["mse"])
    model.fit(np.ones((2, 4, 4, 3)), np.ones((2, 2)), verbose=0)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["w.weights.h5", "w.keras", "w.h5"])
def test_the_optimizer_and_seeds_are_left_out(name, small_model, tmp_path):
    path = tmp_path / name
    (small_model.save_weights if name == "w.weights.h5" else small_model.save)(path)
    source = read_source(path)
    assert len(source.tensors) == 8
    assert all("optimizer" not in key and "seed" not in key for key in source.tensors)
    assert any(np.array_equal(array, small_model.get_layer("d").kernel) for array in source.tensors.values())
    if name == "w.keras":
        assert [group.name for group in source.groups] == ["c", "b", "d"]


def test_an_archive_names_its_layers_even_where_its_weights_do_not(small_model, tmp_path):
    small_model.save(tmp_path / "new.keras")
    with zipfile.ZipFile(tmp_path / "new.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "w.h5").write_bytes(members["model.weights.h5"])
    with h5py.File(tmp_path / "w.h5", "a") as file:  # as Keras before 3.10 wrote it
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    members["model.weights.h5"] = (tmp_path / "w.h5").read_bytes()
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert [group.name for group in read_source(tmp_path / "w.h5").groups] == ["dense", "batch_normalization", "conv2d"]
    assert read_source(tmp_path / "old.keras").tensors.keys() == read_source(tmp_path / "new.keras").tensors.keys()
    assert [group.name for group in read_source(tmp_path / "old.keras").groups] == ["c", "b", "d"]


def test_a_layer_that_holds_code_is_data_here(tmp_path):
    marker = tmp_path / "marker"
    command = f"touch {marker}"
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="d"),
                              keras.layers.Lambda(lambda x: __import__("os").system(command) or x, output_shape=(2,))])
    model.save(tmp_path / "w.keras")
    marker.unlink(missing_ok=True)
    assert list(read_tensors(tmp_path / "w.keras")) == ["d/0", "d/1"]
    assert not marker.exists()


def test_bfloat16_and_compressed_datasets(tmp_path):
    path = tmp_path / "w.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.create_dataset("0", data=np.array([1.5, 2.5], ml_dtypes.bfloat16)).attrs["dtype"] = "bfloat16"
        group.create_dataset("1", data=np.ones((20, 20), np.float16), compression="gzip")
        group.create_dataset("2", data=np.array([3.0, 4.0], ">f4"))
    tensors = read_tensors(path)
    np.testing.assert_array_equal(tensors["dense/0"], [1.5, 2.5])
    np.testing.assert_array_equal(tensors["dense/2"], [3, 4])
    assert tensors["dense/1"].sum() == 400


def h5(tmp_path: Path, make) -> str:
    """The error for a file whose group of tensors `make` fills."""
    path = tmp_path / "w.weights.h5"
    with h5py.File(path, "w") as file:
        make(file.create_group("layers/dense/vars"))
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert "w.weights.h5" in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_hdf5_that_reaches_elsewhere_or_too_far_is_refused(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones(3)

    def virtual(group):
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(secret, "x", (3,))
        group.create_virtual_dataset("0", layout)

    assert "link to elsewhere" in h5(tmp_path, lambda g: g.__setitem__("0", h5py.ExternalLink(str(secret), "x")))
    assert "link to elsewhere" in h5(tmp_path, lambda g: g.__setitem__("0", h5py.SoftLink("/x")))
    assert "another file" in h5(tmp_path, virtual)
    assert "another file" in h5(tmp_path, lambda g: g.create_dataset("0", (1,), "f8", external=[(str(secret), 0, 8)]))
    assert "more than the file can hold" in h5(tmp_path, lambda g: g.create_dataset("0", (1 << 40,), "f4", chunks=(1 << 10,)))
    assert "numbers are needed" in h5(tmp_path, lambda g: g.create_dataset("0", data=["text"]))
    assert "is not a tensor" in h5(tmp_path, lambda g: g.create_group("0"))
    assert "without Keras weights" in h5(tmp_path, lambda g: None)


def test_groups_of_two_names_each_are_not_followed_for_ever(tmp_path, monkeypatch):
    """Twelve groups in each other, which 2**12 ways lead through."""
    def doubled(group):
        for _ in range(12):
            below = group.create_group("0")
            group["1"] = below
            group = below

    monkeypatch.setattr(hdf5, "_GROUPS", 500)
    assert "more than 500 groups" in h5(tmp_path, lambda group: doubled(group.parent))


@pytest.mark.parametrize(("child", "seconds", "words"), [
    ("kill -SEGV $$", 240, "damaged: HDF5 itself failed over it (SIGSEGV)"), ("exec sleep 1000", 0, "did not end within 0 s"),
    ("echo Fatal error >&2; exit 1", 240, "(Fatal error)"), ("exit 3", 240, "(exit code 3)")])
def test_a_file_over_which_the_library_fails_is_refused(tmp_path, monkeypatch, child, seconds, words):
    """As libhdf5 1.14 did over files with a few bytes changed: a signal, or minutes without an end."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{child}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(hdf5, "_SECONDS", seconds)
    assert words in h5(tmp_path, lambda group: group.create_dataset("0", data=np.ones(3)))


@pytest.mark.slow
def test_changed_bytes_of_hdf5_are_an_error_or_another_value(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        group = file.create_group("layers/dense/vars")
        group["0"], group["1"] = np.ones((3, 4), np.float32), np.ones(4, np.float32)
    content = (tmp_path / "w.h5").read_bytes()
    refused = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        changed = bytearray(content)
        for place in rng.integers(8, len(content), 40):
            changed[place] = rng.integers(256)
        (tmp_path / "w.h5").write_bytes(changed)
        try:
            assert read_source(tmp_path / "w.h5").tensors
        except InputError as error:
            refused += 1
            assert "w.h5" in str(error)
    assert refused >= 3


def test_a_header_nested_too_deep_has_no_hints(tmp_path):
    header = b"[" * 200_000
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert read_hints(tmp_path / "w.safetensors").model_name is None


@pytest.mark.slow
def test_damaged_hdf5_and_archives_are_named(tmp_path, small_model):
    small_model.save(tmp_path / "w.h5")
    small_model.save(tmp_path / "w.keras")
    for name in ("w.h5", "w.keras"):
        content = (tmp_path / name).read_bytes()
        for share in (0.1, 0.5, 0.99):
            cut = tmp_path / f"cut-{name}"
            cut.write_bytes(content[:int(len(content) * share)])
            with pytest.raises(InputError, match=f"cut-{name}"):
                read_source(cut)
    with zipfile.ZipFile(tmp_path / "bad.keras", "w") as archive, zipfile.ZipFile(tmp_path / "w.keras") as good:
        archive.writestr("model.weights.h5", good.read("model.weights.h5"))
        archive.writestr("config.json", "{")
    with pytest.raises(InputError, match=r"bad.keras: .*config.json is not valid JSON"):
        read_source(tmp_path / "bad.keras")
    with pytest.raises(InputError, match="has no parts"):
        read_source(tmp_path / "w.keras", part="model")


def test_a_layer_named_in_the_file_that_is_missing_is_said(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = [b"a"]
        file.create_group("a").attrs["weight_names"] = [b"a/kernel:0"]
    with pytest.raises(InputError, match=r"w.h5: /a/a is missing"):
        read_source(tmp_path / "w.h5")


def test_the_archive_of_this_kit(tmp_path):
    from mnv3_tf.models import MobileNetV3
    from mnv3_tf.network.spec import read_block_table

    model = MobileNetV3(read_block_table(HERE / "two_blocks.yaml"), input_shape=(32, 32, 3), classes=3)
    model.save(tmp_path / "own.keras")
    source = read_source(tmp_path / "own.keras")
    assert source.groups[0].name == "stem_conv" and source.groups[-1].name == "classifier"
    assert len(source.tensors) == sum(len(layer.weights) for layer in model.layers if not layer.name.startswith("dropout"))
    assert json.dumps(list(source.tensors))  # plain names
