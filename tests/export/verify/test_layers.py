"""How a tensor of the file is compared with the float network's."""

import math

import numpy as np
import pytest

from mnv3_tf.export.verify.layers import _median_db


@pytest.mark.parametrize(("signal", "noise", "expected"), [
    ([1.0, 1.0, 1.0, 1.0], [0.01] * 4, 20.0),
    ([1.0, 1.0, 1.0, 80.0], [0.01, 0.01, 0.01, 500.0], 20.0),  # one odd picture is not all there is
    ([1.0, 1.0, 1.0, 1.0], [0.01, 0.5, 0.5, 0.5], 10 * math.log10(2)),
    ([1.0, 1.0, 1.0, 1e-9], [0.01] * 4, 20.0),  # nearly nothing of a picture: 8 bits are no finer for it
    ([0.0, 0.0, 0.0, 4.0], [0.01] * 4, 20.0),
    ([0.0] * 4, [0.0] * 4, math.inf), ([1.0] * 4, [0.0] * 4, math.inf),
])
def test_signal_to_noise_is_the_median_pictures(signal: list[float], noise: list[float], expected: float) -> None:
    assert _median_db(np.array(signal), np.array(noise)) == pytest.approx(expected)


def test_a_tensor_that_should_be_zero_and_is_not_has_no_signal() -> None:
    assert _median_db(np.zeros(3), np.full(3, 0.01)) < -100
