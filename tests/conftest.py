"""What many tests share: a small picture data set, and runs made from it once for all workers."""

import contextlib
import fcntl
import functools
import gc
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script started this in the background, and children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker for each core: more threads would only get into each other's way
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

import pytest
from shared import ONE_BLOCK, TINY, TWO_BLOCKS, Shared, make_pictures, quantize_run, train_run

# TensorFlow makes millions of small objects that live: collections that look at them again and again take a tenth of the time.
# One that looked at all of them, late in the session, waited up to 49 s for memory long unused: there is none now.
gc.set_threshold(50_000, 20, 1000)

pytest_plugins = ["tflite_samples"]
# What a test should take of the processor at most, children included, on a machine where the reference takes what it says:
# seconds. It fails at twice that, for the reference says only roughly how slow a busy machine is.
BUDGET, SLOW_BUDGET, REFERENCE_SECONDS = 10.0, 60.0, 0.4
_ALLOWANCE = 2.0


def processor_seconds() -> float:
    """User and system time of this process and of its children that ended: other work on the machine counts for little."""
    return sum(os.times()[:4])


def slowness() -> float:
    """How many times slower than the budget's machine this one is now, by a fixed piece of work; at least 1."""
    began = time.process_time()
    sum(i * i for i in range(5_000_000))
    return max(1.0, (time.process_time() - began) / REFERENCE_SECONDS)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Test files import TensorFlow as the commands do."""
    from mnv3_tf.cli.options import hidden

    with hidden("matplotlib", "sklearn"):
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests need trained runs come first, and those with slow tests before others: of two workers, one begins with
    the runs and the other in the middle, so that they rarely wait for the same run, and little is left to wait for at the end."""
    runs = {item.path for item in items if {"float_run", "source_run"}.intersection(getattr(item, "fixturenames", ()))}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in runs, item.path not in slow))


def pytest_collection_finish() -> None:
    """What the test files imported stays: the garbage collector need not look at it. Errors show Keras's and TensorFlow's own
    frames, for hiding them takes time in every call. What of a layer is not saved is found out once: Keras 3.15 means to keep
    it, and by a misspelt name makes a layer anew for each that it saves or loads."""
    if "keras" in sys.modules:
        sys.modules["keras"].config.disable_traceback_filtering()
        saving = sys.modules["keras"].src.saving.saving_lib
        saving.get_attr_skipset = functools.cache(saving.get_attr_skipset)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].debugging.disable_traceback_filtering()
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fails a test that takes more of the processor than a test may, so that the suite stays quick."""
    began = processor_seconds()
    result = yield
    spent = processor_seconds() - began
    budget = SLOW_BUDGET if item.get_closest_marker("slow") else BUDGET
    if spent > _ALLOWANCE * budget and spent > _ALLOWANCE * budget * (factor := slowness()):
        pytest.fail(f"took {spent:.0f} s of the processor; its budget is {budget:g} s on a machine {factor:.1f} times as fast. "
                    "Make it quicker" + ("." if budget == SLOW_BUDGET else ", or mark it slow."))
    return result


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Makes something once for all workers: the first to ask for a name makes it, in a place of its own that it may write down,
    and the others wait."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    root.mkdir(exist_ok=True)

    def make(name: str, build: Callable[[Path], object]) -> Path:
        target, done = root / name, root / f"{name}.done"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(target, ignore_errors=True)
                if "keras" in sys.modules:
                    sys.modules["keras"].utils.set_random_seed(0)
                build(target)
                done.touch()
        return target

    return make


@pytest.fixture(scope="session")
def _models() -> dict[str, Any]:
    """Keras models by what is in their files."""
    return {}


@pytest.fixture(scope="module")
def loaded_once(_models: dict[str, Any]) -> Iterator[None]:
    """For tests that compute with Keras models and change none: files of the same content are loaded once."""
    from mnv3_tf.export.sensitivity import mixed
    from mnv3_tf.export.verify import run
    from mnv3_tf.files import sha256
    from mnv3_tf.network import keras_io
    from mnv3_tf.quantization import quantize

    load = keras_io.load_keras

    def kept(path: Path) -> Any:
        if not path.is_file():
            return load(path)
        key = sha256(path)
        if key not in _models:
            _models[key] = load(path)
        return _models[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (keras_io, run, mixed, quantize):
            patch.setattr(module, "load_keras", kept)
        yield


@pytest.fixture(scope="session")
def pictures(shared: Shared) -> Path:
    """train/ val/ test/ with three classes that a small network tells apart."""
    def build(root: Path) -> None:
        for seed, (split, count) in enumerate((("train", 32), ("val", 12), ("test", 12))):
            make_pictures(root / split, count, seed)

    return shared("pictures", build)


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    """Networks that a test builds start from the same weights whichever tests ran before."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The scan's cache of these tests is not the user's. The runner for devices is kept between sessions: each of its parts has
    a name that says its content, and is put there whole."""
    from device_lab.downloads import folder_for

    cache, kept = tmp_path_factory.mktemp("cache"), folder_for("runner")
    with contextlib.suppress(OSError):  # without a folder to keep it in, it is made anew
        kept.mkdir(parents=True, exist_ok=True)
        (cache / "mnv3-tf").mkdir()
        (cache / "mnv3-tf" / "runner").symlink_to(kept)
    os.environ["XDG_CACHE_HOME"] = str(cache)


@pytest.fixture(scope="session")
def tiny_config():
    """Settings with which everything takes seconds, as a configuration."""
    from mnv3_tf.config import load_config

    return load_config(None, TINY)


@pytest.fixture(scope="session")
def float_run(pictures: Path, tiny_config, shared: Shared) -> Path:
    """A trained float run of four blocks. Tests that change a run copy it."""
    return shared("float", lambda out: train_run(pictures, tiny_config, out))


@pytest.fixture(scope="session")
def ptq_run(pictures: Path, float_run: Path, tiny_config, shared: Shared) -> Path:
    """Its post-training quantized run."""
    return shared("ptq", lambda out: quantize_run(pictures, float_run, tiny_config, out, "ptq"))


@pytest.fixture(scope="session")
def qat_run(pictures: Path, float_run: Path, tiny_config, shared: Shared) -> Path:
    """Its fine-tuned quantized run."""
    return shared("qat", lambda out: quantize_run(pictures, float_run, tiny_config, out, "qat"))


@pytest.fixture(scope="session")
def small_file(ptq_run: Path, shared: Shared) -> Path:
    """The int8 file of the post-training quantized run, with what lies beside it."""
    from mnv3_tf.export.convert.convert import convert, open_source

    return shared("file", lambda folder: convert(open_source(ptq_run), folder / "small.tflite")) / "small.tflite"


@pytest.fixture(scope="session")
def small_runs(float_run: Path, ptq_run: Path) -> Path:
    """The folder with the runs `float` and `ptq`."""
    return float_run.parent


@pytest.fixture(scope="session")
def source_run(pictures: Path, shared: Shared) -> Path:
    """A float run of two blocks, which is quickest to train. Tests that change a run copy it."""
    from mnv3_tf.config import load_config

    return shared("source", lambda out: train_run(pictures, load_config(None, TWO_BLOCKS), out))


@pytest.fixture(scope="session")
def one_block_run(pictures: Path, shared: Shared) -> Path:
    """A float run of one block, for what does not depend on the network. Tests that change a run copy it."""
    from mnv3_tf.config import load_config

    return shared("one", lambda out: train_run(pictures, load_config(None, ONE_BLOCK), out))


@pytest.fixture(scope="session")
def tuning(source_run: Path) -> tuple[str, ...]:
    """Overrides of a short run that starts from it."""
    return (f"model.weights={source_run}", "data.image_size=[32,48]", "train.epochs=3", "train.batch_size=16",
            "augment.rotation=0", "augment.erase=0")


@pytest.fixture(scope="session")
def tuned_config(tuning: tuple[str, ...]):
    """The same as a configuration."""
    from mnv3_tf.weights.starting import load_settings

    return load_settings(None, tuning)
