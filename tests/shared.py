"""What tests are made of: settings with which everything takes seconds, pictures, runs."""

import contextlib
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnv3_tf.progress import Silent

HERE = Path(__file__).parent
COMMON = ("data.image_size=[32,48]", "train.batch_size=16", "train.learning_rate=0.01", "augment.rotation=0", "augment.erase=0")
QUANTIZE = ("quantize.epochs=2", "quantize.learning_rate=1e-3", "quantize.teacher_weight=0.5", "quantize.batch_size=16",
            "quantize.calibration_pictures=96")
# Overrides with which training takes seconds.
TINY = (f"model.block_table={HERE / 'four_blocks.yaml'}", *COMMON, "train.epochs=12", *QUANTIZE)
ONE_BLOCK = (f"model.block_table={HERE / 'one_block.yaml'}", *COMMON, "train.epochs=10")
TWO_BLOCKS = (f"model.block_table={HERE / 'two_blocks.yaml'}", *COMMON, "train.epochs=10")
CLASSES = ("blue", "green", "red")

Shared = Callable[[str, Callable[[Path], object]], Path]


def make_pictures(folder: Path, per_class: int, seed: int) -> None:
    """Class folders of cloudy pictures, mostly of the colour that the class is named after."""
    rng = np.random.default_rng(seed)
    for index, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            pixels = rng.integers(0, 120, (5, 7, 3))
            pixels[..., index] += rng.integers(15, 70)
            clouds = Image.fromarray(pixels.astype(np.uint8)).resize((56, 40), Image.Resampling.BICUBIC)
            clouds.save(folder / name / f"{name}_{number}.png")


def without_folders(pictures: Path, target: Path) -> Path:
    """The pictures of a folder's class folders in one folder, under names that tell nothing of their class."""
    target.mkdir(parents=True)
    for number, path in enumerate(sorted(pictures.rglob("*.png"))):
        shutil.copy(path, target / f"{number * 7 % 1009:04}.png")
    return target


def train_run(pictures: Path, config, out: Path) -> None:
    """A float run."""
    from mnv3_tf.data import open_dataset
    from mnv3_tf.training.trainer import train

    train(open_dataset(pictures), config, out, progress=Silent())


def quantize_run(pictures: Path, float_run: Path, config, out: Path, method: str) -> None:
    """A quantized run."""
    from mnv3_tf.data import open_dataset
    from mnv3_tf.quantization.quantize import quantize

    quantize(float_run, open_dataset(pictures), config, out, method=method, progress=Silent())  # type: ignore[arg-type]


def without_values(build: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a function returns, whose Keras models are built in a third of the time: their variables have shapes, but no values.

    What the function itself assigns to them holds while it runs, so that it can compute with it. Keras keeps a list for each
    thread of what it must give values later; here it goes with the thread.
    """
    def make() -> Any:
        import keras

        with keras.StatelessScope(initialize_variables=False):
            return build(*arguments, **named)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make).result()


def random_values(model: Any, seed: int = 0) -> list[np.ndarray]:
    """Values for a model's weights that let no difference hide, BatchNorm's statistics included."""
    rng = np.random.default_rng(seed)

    def value(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith(("gamma", "variance")):
            return rng.uniform(0.7, 1.7, shape)
        return rng.normal(0, 0.1 if len(shape) == 1 else np.sqrt(0.01 + 2 / np.prod(shape[:-1])), shape)

    return [value(weight.path, tuple(weight.shape)).astype(np.float32) for weight in model.weights]


def answers_with(model: Any, values: Sequence[np.ndarray], pixels: np.ndarray) -> Any:
    """What a model says if its weights have these values; its own, if it has some, stay."""
    import keras

    with keras.StatelessScope(list(zip(model.weights, values, strict=True))):
        return model(pixels, training=False)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file can be written beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class StopAfter(Silent):
    """Sends this process a signal once so many steps are done."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def task(self, description, total):
        @contextlib.contextmanager
        def block():
            def advance(done: int, note: str) -> None:
                if description == "Training" and done == self.steps:
                    os.kill(os.getpid(), signal.SIGINT)

            yield advance

        return block()


def weights(run: Path) -> list[np.ndarray]:
    """What the state of a run holds, its counters apart."""
    with np.load(run / "state" / "state.npz") as archive:
        return [archive[name] for name in sorted(archive.files) if name != "counters"]


class Told:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def begin(self, *given: Any) -> None:
        self.calls.append(("begin", *given))

    def epoch(self, *given: Any) -> None:
        self.calls.append(("epoch", *given))

    def end(self, *given: Any) -> None:
        self.calls.append(("end", *given))
