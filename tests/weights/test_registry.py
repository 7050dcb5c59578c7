"""The table of published weights is right, and a download is whole and checked or not there; against a server of our own."""

import dataclasses
import hashlib
import http.server
import math
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import keras
import pytest
from device_lab.keeper import keep
from device_lab.waiting import PATIENCE
from keras.src.applications import mobilenet_v3
from shared import without_values

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.spec import DIALECTS, SPECS
from mnv3_tf.progress import Silent
from mnv3_tf.weights.sources import registry
from mnv3_tf.weights.sources.registry import (
    available_alphas,
    cached_path,
    fetch,
    find_published,
    imagenet_for,
    published,
)

CONTENT = (Path(__file__).parent / "data" / "zip.pth").read_bytes() * 20


# The table


def test_every_entry_is_of_this_kit_and_unlike_the_others():
    names = [entry.name for entry in published()]
    assert len(set(names)) == len(names) >= 40
    assert len({entry.url for entry in published()}) == len(names)
    assert len({cached_path(entry) for entry in published()}) == len(names)
    for entry in published():
        assert entry.dialect in DIALECTS and entry.network in SPECS and entry.alpha in (0.35, 0.5, 0.75, 1.0, 1.25)
        assert entry.url.startswith("https://") and entry.source_page.startswith("https://") and entry.licence
        assert entry.interpolation in ("bilinear", "bicubic") and entry.resize >= entry.input_size == 224
        assert (entry.top1 is None) == (entry.accuracy_source is None) and (entry.top1 is None or 50 < entry.top1 < 80)
        digits = {"md5": 32, "sha256": 64, "sha256-prefix": 8, None: 0}[entry.hash_algorithm]
        assert re.fullmatch(rf"[0-9a-f]{{{digits}}}", entry.hash or "")
        assert entry.top == (entry.classes is not None)


def test_keras_entries_are_those_of_the_installed_keras():
    """Names, addresses and hashes are Keras's, so that its own cache and this one are the same."""
    ours = {entry.file_name: entry for entry in published() if entry.dialect == "keras"}
    theirs = {}
    for model, hashes in mobilenet_v3.WEIGHTS_HASHES.items():
        for suffix, digest in zip(("", "_no_top_v2"), hashes, strict=True):
            theirs[f"weights_mobilenet_v3_{model}{suffix}.h5"] = digest
    assert {name: entry.hash for name, entry in ours.items()} == theirs
    documented = {f"{size}_{alpha}": float(top1) for size, alpha, top1 in re.findall(
        r"mobilenet_v3_(\w+?)_([\d.]+)_224\s*\|[^|]*\|[^|]*\|\s*([\d.]+)", mobilenet_v3.BASE_DOCSTRING)}
    assert len(documented) == 6
    for name, entry in ours.items():
        assert entry.url == mobilenet_v3.BASE_WEIGHT_PATH + name
        assert entry.top == ("no_top" not in name)
        assert entry.top1 == (documented[f"{entry.network}_{entry.alpha}"] if entry.top else None)


def test_hash_digits_are_those_of_the_file_names():
    for entry in published():
        found = re.search(r"-([0-9a-f]{8})\.pth$", entry.url)
        assert (entry.hash_algorithm == "sha256-prefix") == bool(found)
        assert not found or found[1] == entry.hash


def test_find_published():
    assert find_published("torchvision/mobilenet_v3_large.IMAGENET1K_V2").top1 == 75.274
    assert find_published("mobilenet_v3_large.IMAGENET1K_V2").resize == 232
    assert find_published("MobileNetV3_small_x0_35_ssld").alpha == 0.35
    with pytest.raises(InputError, match=r"mobilenetv3_large_100: .* nearest: .*timm/mobilenetv3_large_100.ra_in1k"):
        find_published("mobilenetv3_large_100")
    with pytest.raises(InputError, match="Some: keras/"):
        find_published("???")


@pytest.mark.parametrize(("network", "dialect", "alphas"), [
    ("large", "keras", (0.75, 1)), ("small", "keras", (0.75, 1)), ("large_minimalistic", "keras", (1,)),
    ("small_minimalistic", "timm_tf", (1,)), ("large", "torchvision", (1,)), ("small", "timm", (0.5, 0.75, 1)),
    ("large", "paddle", (0.35, 0.5, 0.75, 1, 1.25)), ("small_minimalistic", "paddle", ())])
def test_available_alphas(network, dialect, alphas):
    assert available_alphas(network, dialect) == alphas


def test_imagenet_for_takes_the_publishers_default():
    assert imagenet_for("large", 1.0).name == "keras/large_224_1.0_float"
    assert imagenet_for("large", 1, top=False).file_name == "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5"
    assert imagenet_for("large", 1.0, "torchvision").name.endswith("V2")
    assert imagenet_for("large", 1.0, "timm").name == "timm/mobilenetv3_large_100.ra_in1k"
    assert imagenet_for("small", 1.0, "paddle").name == "paddle/MobileNetV3_small_x1_0"
    for entry in published():
        if entry.default:
            assert imagenet_for(entry.network, entry.alpha, entry.dialect, entry.top) == entry


def test_an_alpha_without_weights_is_refused_before_any_download(monkeypatch):
    monkeypatch.setattr(registry, "download", None)  # nothing could be downloaded
    with pytest.raises(InputError) as caught:
        imagenet_for("small", 0.5)
    assert "alpha 0.5. Allowed alphas: 0.75, 1. " in str(caught.value)
    assert "With model.dialect set to timm or paddle there are" in str(caught.value)
    with pytest.raises(InputError, match=r"no ImageNet weights of large_minimalistic in the dialect torchvision\. With"):
        imagenet_for("large_minimalistic", 1.0, "torchvision")
    with pytest.raises(InputError, match="without the classifier"):
        imagenet_for("large", 1.0, "timm", top=False)
    with pytest.raises(InputError, match="there is no network 'larg'"):
        imagenet_for("larg", 1.0)
    with pytest.raises(InputError, match="there is no dialect 'pytorch'"):
        imagenet_for("large", 1.0, "pytorch")


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "parameters"), [("torchvision", 5_483_032), ("keras", 5_507_432)])
def test_the_network_of_an_entry_has_the_published_parameters(dialect, parameters):
    """torchvision's metadata (trainable) and Keras's own model count what this kit builds for the entry."""
    entry = imagenet_for("large", 1.0, dialect)
    model = without_values(MobileNetV3, entry.network, alpha=entry.alpha, classes=entry.classes, dialect=entry.dialect)
    counted = model.trainable_weights if dialect == "torchvision" else model.weights
    assert sum(math.prod(weight.shape) for weight in counted) == parameters


# Downloads


class _Server(http.server.BaseHTTPRequestHandler):
    """/good, /other, /missing, /short (ends early), /page (a web page), /flaky (ends early once), /slow (does not end)."""

    asked: list[str]
    begun: threading.Event
    ending: threading.Event

    def do_GET(self):
        self.asked.append(self.path)
        name = self.path.split("/")[1]
        if name == "missing":
            self.send_error(404)
            return
        body = {"other": CONTENT[:-1] + b"x", "page": b"<!DOCTYPE html><html>please log in</html>"}.get(name, CONTENT)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        first = self.asked.count(self.path) == 1
        self.wfile.write(body[:1000] if name == "short" or name == "slow" or (name == "flaky" and first) else body)
        if name == "slow":
            self.wfile.flush()
            self.begun.set()
            self.ending.wait(PATIENCE)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The address of a server, with empty caches of Keras and the kit."""
    handler = type("Handler", (_Server,), {"asked": [], "begun": threading.Event(), "ending": threading.Event()})
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving.daemon_threads = True
    threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    serving.asked, serving.begun = handler.asked, handler.begun
    serving.address = f"http://127.0.0.1:{serving.server_port}"
    yield serving
    handler.ending.set()
    serving.shutdown()
    serving.server_close()


KINDS = {"keras": ("keras", "md5", hashlib.md5(CONTENT).hexdigest()),
         "prefix": ("torchvision", "sha256-prefix", hashlib.sha256(CONTENT).hexdigest()[:8]),
         "sha256": ("torchvision", "sha256", hashlib.sha256(CONTENT).hexdigest()),
         "no hash": ("timm", None, None)}


def entry_for(server, name: str, kind: str):
    dialect, algorithm, digest = KINDS[kind]
    return dataclasses.replace(imagenet_for("large", 1.0, dialect), url=f"{server.address}/{name}/weights.bin", hash=digest,
                               hash_algorithm=algorithm)


def files(path: Path) -> list[str]:
    """Everything below the folder, hidden or not."""
    return sorted(item.name for item in path.rglob("*")) if path.exists() else []


@pytest.mark.parametrize("kind", KINDS)
def test_a_download_is_kept_and_not_repeated(kind, server, tmp_path, capsys):
    entry = entry_for(server, "good", kind)
    progress = Silent()
    path = fetch(entry, progress)
    assert path.read_bytes() == CONTENT
    assert path == cached_path(entry)
    assert path.parent == (tmp_path / "keras" / "models" if kind == "keras" else tmp_path / "cache" / "mnv3-tf" / "weights")
    assert progress.lines[0] == f"Downloading {entry.url} to {path}."
    assert fetch(entry) == path and len(server.asked) == 1
    assert files(path.parent) == ["weights.bin"] + ["weights.bin.sha256"] * (kind == "no hash")
    assert capsys.readouterr().out == ""


def test_keras_finds_the_file_too(server, tmp_path):
    """What was fetched lies where keras.applications looks, under the name and hash that it uses."""
    entry = entry_for(server, "good", "keras")
    path = fetch(entry)
    again = keras.utils.get_file(entry.file_name, "http://127.0.0.1:1/none", cache_dir=tmp_path / "keras", cache_subdir="models",
                                 file_hash=entry.hash)
    assert Path(again) == path


def test_without_a_published_hash_the_first_download_is_trusted_and_said(server):
    entry = entry_for(server, "good", "no hash")
    progress = Silent()
    path = fetch(entry, progress)
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert digest in progress.lines[1] and "no hash is published" in progress.lines[1]
    record = path.with_name("weights.bin.sha256")
    assert record.read_text() == f"{digest}  weights.bin\n"
    path.unlink()
    with pytest.raises(KitError, match="was noted at the first download"):
        fetch(dataclasses.replace(entry, url=f"{server.address}/other/weights.bin"))
    assert not path.exists()
    path.write_bytes(CONTENT + b"x")
    with pytest.raises(InputError, match="was noted at the first download"):
        fetch(entry)


# Without a hash any file of weights is accepted the first time, so a different one is no failure.
@pytest.mark.parametrize(("name", "said", "kind"), [
    (name, said, kind) for kind in KINDS for name, said in (
        ("missing", "404"), ("short", "the download failed"), ("other", "is published"), ("page", ""))
    if (name, kind) != ("other", "no hash")])
def test_a_failed_download_leaves_nothing_and_says_what_to_do(name, said, kind, server):
    entry = entry_for(server, name, kind)
    with pytest.raises(KitError) as caught:
        fetch(entry)
    message = str(caught.value)
    assert said in message and entry.url in message
    assert f"put the file{'' if kind == 'no hash' else ' (its '}" in message and f"at {cached_path(entry)}" in message
    assert kind == "no hash" or entry.hash in message
    assert ("a web page" in message) == (name == "page")
    assert files(cached_path(entry).parent) == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_connection_says_where_to_put_the_file_and_finds_it_there(kind, server):
    entry = dataclasses.replace(entry_for(server, "good", kind), url="http://127.0.0.1:1/weights.bin")
    path = cached_path(entry)
    with pytest.raises(KitError) as caught:
        fetch(entry)
    assert "127.0.0.1:1/weights.bin" in str(caught.value) and f"at {path}" in str(caught.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    assert fetch(entry) == path and server.asked == []


@pytest.mark.parametrize("kind", ["keras", "prefix", "sha256"])
def test_another_file_in_its_place_is_refused_and_left_alone(kind, server):
    entry = entry_for(server, "good", kind)
    path = cached_path(entry)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"my own weights")
    with pytest.raises(InputError) as caught:
        fetch(entry)
    assert str(path) in str(caught.value) and entry.hash in str(caught.value) and "move it elsewhere" in str(caught.value)
    assert path.read_bytes() == b"my own weights" and server.asked == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_connection_is_forgotten_by_the_next_try(kind, server):
    entry = entry_for(server, "flaky", kind)
    with pytest.raises(KitError):
        fetch(entry)
    assert fetch(entry).read_bytes() == CONTENT
    assert not [name for name in files(cached_path(entry).parent) if name.startswith(".download")]


def test_a_download_that_the_user_stops_leaves_nothing(server, tmp_path):
    keep()
    entry = entry_for(server, "slow", "prefix")
    program = ("import dataclasses, sys; from mnv3_tf.weights.sources.registry import *; fetch(dataclasses.replace("
               f"find_published({entry.name!r}), url={entry.url!r}))")
    process = subprocess.Popen([sys.executable, "-c", program], env=os.environ.copy(), stderr=subprocess.PIPE)
    assert server.begun.wait(PATIENCE), "it did not begin"
    assert files(cached_path(entry).parent)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=PATIENCE)[1]
    assert files(cached_path(entry).parent) == []
