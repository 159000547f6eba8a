"""Fetching from a hub: a local server speaks the few endpoints that the hub's client asks."""

import dataclasses
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from msabench.data import fetch as fetch_module
from msabench.data.commands import data_fetch
from msabench.data.fetch import fetch
from msabench.data.registry import dataset_info
from msabench.data.shipped import SHIPPED
from msabench.errors import MSABenchError

REPO = "Bluexxx/SemMSA-data"
COMMIT = "c" * 40
# Twelve parts, so that part_10 must come after part_9; parts differ in length.
PARTS = {f"mosei_unaligned_50/part_{i}": bytes([i]) * (1000 + i) for i in range(12)}
JOINED = b"".join(PARTS[f"mosei_unaligned_50/part_{i}"] for i in range(12))
FILES = {**PARTS, "mosi_unaligned_50.pkl": b"mosi" * 500, "README.md": b"read me"}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Hub:
    """A hub with one repository.

    Attributes:
        repo_type: ``datasets`` or ``models``.
        named: Contents that the hub names in its metadata.
        sent: Contents that it sends.
        asked: Files that were downloaded.
        fail_after: Number of downloads after which it refuses; None for never.
    """

    def __init__(self):
        self.repo_type = "datasets"
        self.named = dict(FILES)
        self.sent = dict(FILES)
        self.asked = []
        self.fail_after = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body):
                path = self.path.partition("?")[0]
                if path == f"/api/{hub.repo_type}/{REPO}":
                    return self.reply(200, hub.description(), body)
                place = f"{'/datasets' if hub.repo_type == 'datasets' else ''}/{REPO}/resolve/{COMMIT}/"
                name = path.removeprefix(place)
                if not path.startswith(place) or name not in hub.sent:
                    code = "EntryNotFound" if path.startswith(place) else "RepoNotFound"
                    return self.reply(404, b"", body, {"X-Error-Code": code})
                if body and hub.fail_after is not None and len(hub.asked) >= hub.fail_after:
                    return self.reply(403, b"", body)
                if body:
                    hub.asked.append(name)
                headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(hub.named[name])}"'}
                return self.reply(200, hub.sent[name], body, headers)

            def reply(self, status, data, body, headers=None):
                self.send_response(status)
                for key, value in (headers or {}).items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def description(self):
        siblings = []
        for name, data in self.named.items():
            sibling = {"rfilename": name, "size": len(data), "blobId": "b" * 40}
            if not name.endswith(".md"):
                sibling["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
            siblings.append(sibling)
        return json.dumps({"_id": "1", "id": REPO, "sha": COMMIT, "siblings": siblings}).encode()


@pytest.fixture
def hub(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Hub()
    thread = threading.Thread(target=server.server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.server.shutdown()
    server.server.server_close()
    thread.join()


@pytest.fixture
def publish(monkeypatch):
    """Set the published hash of a corpus's mmsa-unaligned file."""

    def set_hash(dataset, digest):
        info = dataset_info(dataset)
        file = dataclasses.replace(info.file("mmsa-unaligned"), sha256=digest)
        monkeypatch.setitem(SHIPPED, dataset, dataclasses.replace(info, files=(file,)))

    return set_hash


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_parts_are_joined_in_order_and_checked(hub, publish, tmp_path):
    publish("mosei", sha256(JOINED))
    fetched = fetch("mosei", None, tmp_path, endpoint=hub.endpoint)
    assert fetched.path == tmp_path / "mosei/unaligned_50.pkl"
    assert fetched.path.read_bytes() == JOINED
    assert "its sha256 is the published one" in fetched.message
    assert everything_in(tmp_path) == ["mosei/unaligned_50.pkl"]
    assert sorted(hub.asked) == sorted(PARTS)


def test_a_single_file_is_renamed(hub, publish, tmp_path):
    publish("mosi", sha256(FILES["mosi_unaligned_50.pkl"]))
    fetched = fetch("mosi", None, tmp_path, endpoint=hub.endpoint)
    assert fetched.path.read_bytes() == FILES["mosi_unaligned_50.pkl"]
    assert everything_in(tmp_path) == ["mosi/unaligned_50.pkl"]


def test_the_repository_may_be_of_either_type(hub, publish, tmp_path):
    publish("mosi", sha256(FILES["mosi_unaligned_50.pkl"]))
    hub.repo_type = "models"
    assert fetch("mosi", None, tmp_path, endpoint=hub.endpoint).path.is_file()


def test_another_release_of_a_single_file_is_kept_and_said(hub, publish, tmp_path):
    publish("mosi", "0" * 64)
    fetched = fetch("mosi", None, tmp_path, endpoint=hub.endpoint)
    own = sha256(FILES["mosi_unaligned_50.pkl"])
    assert f"its sha256 {own} is not the published {'0' * 64}" in fetched.message
    assert fetched.path.is_file()


def test_parts_that_join_to_another_file_are_refused(hub, publish, tmp_path):
    publish("mosei", "0" * 64)
    with pytest.raises(
        MSABenchError, match=f"12 parts of unaligned_50.pkl .* sha256 {sha256(JOINED)}, published is 000"
    ):
        fetch("mosei", None, tmp_path, endpoint=hub.endpoint)
    assert everything_in(tmp_path) == []


def test_a_damaged_part_is_refused(hub, publish, tmp_path):
    publish("mosei", sha256(JOINED))
    name = "mosei_unaligned_50/part_7"
    hub.sent[name] = b"x" + FILES[name][1:]
    with pytest.raises(MSABenchError, match=f"part_7 arrived with sha256 .*, the hub names {sha256(FILES[name])}"):
        fetch("mosei", None, tmp_path, endpoint=hub.endpoint)
    assert everything_in(tmp_path) == []


def test_an_interrupted_download_is_taken_up_again(hub, publish, tmp_path):
    publish("mosei", sha256(JOINED))
    hub.fail_after = 5
    with pytest.raises(MSABenchError, match=r"cannot download from Bluexxx/SemMSA-data .*what arrived is kept"):
        fetch("mosei", None, tmp_path, endpoint=hub.endpoint)
    assert not (tmp_path / "mosei/unaligned_50.pkl").exists()
    hub.fail_after = None
    assert fetch("mosei", None, tmp_path, endpoint=hub.endpoint).path.read_bytes() == JOINED
    assert sorted(hub.asked) == sorted(PARTS)
    assert everything_in(tmp_path) == ["mosei/unaligned_50.pkl"]


def test_a_file_that_is_there_is_not_fetched(hub, publish, tmp_path):
    publish("mosi", sha256(b"mine"))
    (tmp_path / "mosi").mkdir()
    (tmp_path / "mosi/unaligned_50.pkl").write_bytes(b"mine")
    assert "is there already; its sha256 is the published one" in fetch("mosi", None, tmp_path).message
    assert hub.asked == []


def test_a_vanished_repository_or_file_is_said(hub, publish, tmp_path):
    publish("mosi", "")
    del hub.named["mosi_unaligned_50.pkl"]
    with pytest.raises(MSABenchError, match=r"has no file mosi_unaligned_50\.pkl any more"):
        fetch("mosi", None, tmp_path, endpoint=hub.endpoint)
    hub.repo_type = "nothing"
    with pytest.raises(MSABenchError, match="the hub has no repository Bluexxx/SemMSA-data any more"):
        fetch("mosi", None, tmp_path, endpoint=hub.endpoint)
    assert everything_in(tmp_path) == []


def test_no_network_is_one_sentence(hub, tmp_path):
    hub.server.server_close()
    with pytest.raises(MSABenchError, match="cannot download from Bluexxx/SemMSA-data on the hub") as caught:
        fetch("mosi", "mmsa-unaligned", tmp_path, endpoint=hub.endpoint)
    assert "\n" not in str(caught.value)


def test_a_disk_without_space_is_said_beforehand(hub, publish, tmp_path, monkeypatch):
    publish("mosei", sha256(JOINED))
    usage = fetch_module.shutil.disk_usage(tmp_path)._replace(free=len(JOINED))
    monkeypatch.setattr(fetch_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(MSABenchError, match=r"has 12.1 kB free, fetching unaligned_50.pkl needs 24.1 kB"):
        fetch("mosei", None, tmp_path, endpoint=hub.endpoint)
    assert hub.asked == []


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(MSABenchError, match=r"cannot write .*name another data folder"):
        fetch("mosi", "mmsa-unaligned", tmp_path / "data")


@pytest.mark.parametrize(
    ("dataset", "features"),
    [(info.name, f.features) for info in SHIPPED.values() for f in info.files if f.filename and not f.hub_repo],
)
def test_steps_by_hand_are_exact(dataset, features, tmp_path, capsys):
    file = dataset_info(dataset).file(features)
    assert data_fetch(dataset, features, tmp_path) == 1
    text = capsys.readouterr().out
    assert str(tmp_path / file.filename) in text
    assert Path(file.filename).name in text
    assert file.sha256 in text
    assert f"msabench data verify {dataset} --features {features}" in text
    numbers = [int(line.partition(".")[0]) for line in text.splitlines() if line[:1].isdigit()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_what_needs_no_download_says_so(capsys):
    assert data_fetch("synth") == 0
    assert "nothing to get" in capsys.readouterr().out
    assert data_fetch("custom") == 1
    assert "your own file" in capsys.readouterr().out
