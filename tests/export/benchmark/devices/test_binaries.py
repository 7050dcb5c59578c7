"""TFLite's tool: from the user, or downloaded once, checked and kept. A server on this machine stands for the official one."""

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.export.benchmark.runners import binaries
from mnv3_tf.export.benchmark.runners.binaries import benchmark_binary
from mnv3_tf.files import sha256
from mnv3_tf.progress import Silent

AARCH64 = b"\x7fELF" + bytes(14) + (183).to_bytes(2, "little") + b"program"


class Said(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served; the table names its file `tool`, without a SHA-256."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "tool").write_bytes(AARCH64)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        table(monkeypatch, f"http://127.0.0.1:{running.server_address[1]}/tool", None)
        yield folder
        running.shutdown()


def table(monkeypatch: pytest.MonkeyPatch, url: str, digest: str | None) -> None:
    monkeypatch.setattr(binaries, "_table", lambda: [{"system": "android", "architecture": "aarch64", "version": "1",
                                                      "dialect": "litert", "url": url, "sha256": digest, "moves": False}])


def url_of() -> str:
    return str(binaries._table()[0]["url"])


def test_the_first_download_is_trusted_and_said_and_kept(server: Path) -> None:
    said = Said()
    found = benchmark_binary("android", "aarch64", progress=said)
    assert found.path.read_bytes() == AARCH64 and found.sha256 == sha256(server / "tool") and found.path.stat().st_mode & 0o100
    assert any("this first download is trusted" in line for line in said.lines)
    (server / "tool").unlink()  # from now on no network is needed
    again = benchmark_binary("android", "aarch64", progress=(quiet := Said()))
    assert again == found and quiet.lines == []


def test_another_file_at_the_address_is_refused(server: Path) -> None:
    found = benchmark_binary("android", "aarch64", progress=Silent())
    found.path.unlink()
    (server / "tool").write_bytes(AARCH64 + b"other")
    with pytest.raises(KitError, match=r"the download of an earlier day says .*It was not kept"):
        benchmark_binary("android", "aarch64", progress=Silent())
    assert [path.name for path in found.path.parent.iterdir()] == ["downloads.json"]


def test_the_tables_hash_is_required(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(monkeypatch, url_of(), "0" * 64)
    with pytest.raises(KitError, match=r"the table of this kit says 0000.*give it with --benchmark-binary"):
        benchmark_binary("android", "aarch64", progress=Silent())
    table(monkeypatch, url_of(), sha256(server / "tool"))
    assert benchmark_binary("android", "aarch64", progress=Silent()).path.exists()


def test_a_page_instead_of_a_program_is_refused(server: Path) -> None:
    (server / "tool").write_text("<html>not found</html>")
    with pytest.raises(InputError, match="is not a program for a device"):
        benchmark_binary("android", "aarch64", progress=Silent())


def test_no_network_and_no_address(server: Path) -> None:
    (server / "tool").unlink()
    with pytest.raises(KitError, match=r"the download failed .*404.*--runner kit"):
        benchmark_binary("android", "aarch64", progress=Silent())
    with pytest.raises(InputError, match=r"no address for a benchmark_model for android on x86.*--benchmark-binary"):
        benchmark_binary("android", "x86", progress=Silent())


def test_the_users_own_file(tmp_path: Path) -> None:
    (tmp_path / "bm").write_bytes(AARCH64)
    found = benchmark_binary("android", "aarch64", given=tmp_path / "bm", progress=Silent())
    assert (found.version, found.dialect) == ("given", None)
    with pytest.raises(InputError, match="is a program for aarch64, and the device is x86_64"):
        benchmark_binary("android", "x86_64", given=tmp_path / "bm", progress=Silent())
    with pytest.raises(InputError, match="cannot be read"):
        benchmark_binary("android", "x86_64", given=tmp_path / "none", progress=Silent())


def test_the_table_is_whole() -> None:
    for entry in binaries._table():
        assert entry["url"].startswith("https://") and entry["dialect"] in ("tflite", "litert")
        assert entry["sha256"] is None or len(entry["sha256"]) == 64
        assert entry["architecture"] in binaries._MACHINES
    assert json.dumps(binaries._table())
