"""The folder that a training or quantization run leaves behind, and the names of the files in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv3_tf.artefacts.card import make_card, read_card
from mnv3_tf.config import Config, load_config, save_config
from mnv3_tf.data import Preprocessing, read_labels, write_labels
from mnv3_tf.errors import InputError
from mnv3_tf.files import check_writable, write_json
from mnv3_tf.metrics import Scores


@dataclass(frozen=True)
class RunFolder:
    """A float run (`model.keras`) or a quantized run (`quantized.npz`) with everything that later commands read.

    Attributes:
        path: the folder.
    """

    path: Path

    def __fspath__(self) -> str:
        """The folder, so that a run can be given wherever its folder can."""
        return str(self.path)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The scores of its card, by split ("top1", "loss", "f1" and others); none without labels."""
        return (read_card(self.path) or {}).get("metrics", {})

    @property
    def as_float(self) -> dict[str, dict[str, float]]:
        """How far a quantized run answers as its float run, by split: "top1" is the share of equal answers."""
        return (read_card(self.path) or {}).get("as_float", {})

    @property
    def model(self) -> Path:
        """The float model that scored best on the validation split."""
        return self.path / "model.keras"

    @property
    def quantized(self) -> Path:
        """The quantized network of a quantized run."""
        return self.path / "quantized.npz"

    @property
    def calibration(self) -> Path:
        """What calibrated a quantized run."""
        return self.path / "calibration.json"

    @property
    def state(self) -> Path:
        """Everything that resuming needs."""
        return self.path / "state" / "state.npz"

    @property
    def card(self) -> Path:
        """What made this run: configuration, fingerprints, versions, scores."""
        return self.path / "run.json"

    @property
    def is_quantized(self) -> bool:
        """Whether this is the output of `quantize`."""
        return self.quantized.exists()

    def write_head(self, config: Config, contract: Preprocessing, class_names: tuple[str, ...]) -> None:
        """Writes configuration, contract and class names."""
        save_config(self.path / "config.yaml", config)
        contract.save(self.path / "preprocessing.json")
        write_labels(self.path / "labels.txt", class_names)

    def config(self) -> Config:
        """The configuration that the run was made with."""
        return load_config(self.path / "config.yaml")

    def contract(self) -> Preprocessing:
        """The preprocessing contract."""
        return Preprocessing.read(self.path / "preprocessing.json")

    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the model's outputs."""
        return read_labels(self.path / "labels.txt")

    def refuse_if_used(self, remedy: str) -> None:
        """Raises InputError, with what to do instead, where the folder's place is taken, or KitError where it cannot be made."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f"{self.path}: already holds files. {remedy}")
        check_writable(self.path / "config.yaml")

    def write_scores(self, scores: Mapping[str, Scores | None]) -> dict[str, dict[str, float]]:
        """Writes `metrics.json`, whole scores by split, None without labels; returns the few of them that the card repeats."""
        write_json(self.path / "metrics.json", scores)
        return {split: values.summary() for split, values in scores.items() if values is not None}

    def write_card(self, **facts: Any) -> None:
        """Writes the card of the finished run, from `facts` (see :func:`make_card`) and from what lies in the folder."""
        own = (self.model, self.quantized, self.path / "labels.txt", self.path / "preprocessing.json")
        write_json(self.card, make_card(self.path, [file for file in own if file.exists()], **facts))


def open_run(path: str | Path) -> RunFolder:
    """A finished run folder.

    Raises:
        InputError: the folder is missing or holds no finished model.
    """
    run = RunFolder(Path(path))
    if not run.path.is_dir():
        raise InputError(f"{path}: there is no such run folder. `mnv3 train --out {path}` makes one.")
    if not run.model.exists() and not run.quantized.exists():
        hint = "the training has not finished its first epoch; go on with `mnv3 train ... --resume`" \
            if (run.path / "config.yaml").exists() else "give the folder that `mnv3 train` or `mnv3 quantize` wrote (--out)"
        raise InputError(f"{path}: holds neither model.keras nor quantized.npz: {hint}.")
    return run


def contract_from(config: Config) -> Preprocessing:
    """The preprocessing contract that a configuration asks for."""
    height, width = config.data.height_width
    return Preprocessing(height=height, width=width, resize=config.data.resize, crop_fraction=config.data.crop_fraction,
                         interpolation=config.data.interpolation)
