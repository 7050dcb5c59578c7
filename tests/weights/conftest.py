"""What the tests of weights share."""

import pytest


@pytest.fixture
def short_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit looks for the networks `short` and `short_minimalistic` of tutorial_models.py, too."""
    from tutorial_models import PLAIN, SHORT

    from mnv3_tf.network.spec import SPECS

    for spec in (SHORT, PLAIN):
        monkeypatch.setitem(SPECS, spec.name, spec)
