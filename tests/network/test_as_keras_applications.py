"""The tests that Keras has for its own applications, run on this kit's networks from the wheel that is installed."""

import importlib.util
import inspect
import sys
import unittest

import keras
import pytest
from keras.src.applications import mobilenet_v3
from shared import without_values

import mnv3_tf

TESTS = ("notop_variable_input_channels", "notop_custom_input_shape", "notop_custom_input_tensor", "pooling",
         "classifier_activation")
NETWORKS = ("MobileNetV3Small", "MobileNetV3Large")
NETWORK_NEEDED = "base"  # downloads published weights and a picture of an elephant


@pytest.fixture(scope="module")
def their_tests(pytestconfig: pytest.Config) -> type[unittest.TestCase]:
    """Keras's class of tests, with this kit's functions in place of the two that it is about."""
    pytestconfig.addinivalue_line("markers", "requires_trainable_backend: Keras's own")
    name = "keras.src.applications.applications_test"
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None, f"the wheel of Keras {keras.__version__} has no {name}"
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)
        for network in NETWORKS:
            patch.setattr(mobilenet_v3, network, getattr(mnv3_tf, network))
        spec.loader.exec_module(module)
    return module.ApplicationsTest


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("test", TESTS)
def test_theirs(test: str, network: str, their_tests: type[unittest.TestCase], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKIP_APPLICATIONS_TESTS", raising=False)
    result = unittest.TestResult()
    without_values(their_tests(f"test_application_{test}_{network}_channels_last").run, result)  # they look at shapes
    assert result.testsRun == 1 and not result.skipped
    assert result.wasSuccessful(), "\n".join(text for _, text in (*result.errors, *result.failures))


def test_none_of_theirs_is_left_out(their_tests: type[unittest.TestCase]) -> None:
    names = {name for name in dir(their_tests) if name.startswith("test_") and name.endswith("_MobileNetV3Small_channels_last")}
    assert names == {f"test_application_{test}_MobileNetV3Small_channels_last" for test in (*TESTS, NETWORK_NEEDED)}


@pytest.mark.parametrize("network", NETWORKS)
def test_arguments_have_their_names(network: str) -> None:
    own = {*inspect.signature(getattr(mnv3_tf, network)).parameters, *inspect.signature(mnv3_tf.MobileNetV3).parameters}
    assert set(inspect.signature(getattr(keras.applications, network)).parameters) <= own
