"""The network that the tests of foreign files share."""

from pathlib import Path

import keras
import pytest
from foreign_models import SIDE, build, frozen, write_tfjs


@pytest.fixture(scope="session")
def network() -> keras.Model:
    """The four blocks; nobody may change them."""
    return build()


@pytest.fixture(scope="session")
def tfjs(network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four blocks as a graph model, as frozen: nothing is fused, BatchNorms are apart."""
    return write_tfjs(frozen(network, (1, SIDE, SIDE, 3)), tmp_path_factory.mktemp("tfjs") / "model.json")
