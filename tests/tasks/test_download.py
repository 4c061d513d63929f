"""Downloads from a server in this process: whole, cut and resumed, wrong, absent."""

import errno
import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kshot.tasks import download
from kshot.tasks.download import fetch
from kshot.types import InputError

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if self.path != "/file":
            self.send_error(404 if self.path == "/absent" else 503)
            return
        start = int(asked[6:-1]) if asked and server.knows_ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = server.cuts.pop(0) if server.cuts else len(CONTENT)
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.ranges, server.cuts, server.knows_ranges = [], [], True
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def quiet(text):
    pass


@pytest.mark.parametrize("checksum", [{"md5": MD5}, {"sha256": SHA256}])
def test_whole(server, tmp_path, checksum):
    said = []
    path = tmp_path / "new" / "file"
    assert fetch(f"{server.url}/file", path, say=said.append, **checksum) == path
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert len(said) == 1
    assert all(part in said[0] for part in (server.url, "1.0 MB", str(path)))
    fetch(f"{server.url}/file", path, say=said.append, **checksum)
    assert server.ranges == [None], "what is there is not fetched again"


def test_cut_and_resumed_in_one_call(server, tmp_path):
    server.cuts = [300_000, 700_000]
    fetch(f"{server.url}/file", tmp_path / "file", md5=MD5, say=quiet)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=700000-"]


def test_cut_and_resumed_in_the_next_call(server, tmp_path):
    server.cuts = [300_000]
    with pytest.raises(InputError, match="300,000 bytes are kept"):
        fetch(f"{server.url}/file", tmp_path / "file", md5=MD5, attempts=1, say=quiet)
    assert not (tmp_path / "file").exists()
    fetch(f"{server.url}/file", tmp_path / "file", md5=MD5, say=quiet)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300000-"


def test_a_server_without_ranges_sends_all_of_it(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    server.knows_ranges = False
    fetch(f"{server.url}/file", tmp_path / "file", md5=MD5, say=quiet)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_all_had_come_before(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch(f"{server.url}/file", tmp_path / "file", md5=MD5, say=quiet)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(InputError, match="removed"):
        fetch(f"{server.url}/file", tmp_path / "file", md5="0" * 32, say=quiet)
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_there(server, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(InputError, match="remove it"):
        fetch(f"{server.url}/file", tmp_path / "file", md5=MD5, say=quiet)
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert server.ranges == []


@pytest.mark.parametrize(("name", "status", "tries"), [("absent", "404", 1), ("busy", "503", 4)])
def test_the_server_refuses(server, tmp_path, name, status, tries):
    with pytest.raises(InputError, match=status):
        fetch(f"{server.url}/{name}", tmp_path / "file", md5=MD5, say=quiet)
    assert len(server.ranges) == tries
    assert not (tmp_path / "file").exists()


def test_nobody_answers(server, tmp_path):
    with pytest.raises(InputError, match="no connection"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file", md5=MD5, attempts=2, say=quiet)


def test_several_at_once_get_one_whole_file(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(fetch, f"{server.url}/file", tmp_path / "file", md5=MD5, say=quiet) for _ in range(8)]
    assert all(call.result().read_bytes() == CONTENT for call in calls)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_disk_is_full(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
    with pytest.raises(InputError, match="disk is full"):
        fetch(f"{server.url}/file", tmp_path / "file", md5=MD5, say=quiet)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="make room"):
        fetch(f"{server.url}/file", tmp_path / "other", md5=MD5, say=quiet)


def test_a_checksum_is_needed(tmp_path):
    for checksums in ({}, {"md5": MD5, "sha256": SHA256}):
        with pytest.raises(InputError, match="one checksum"):
            fetch("http://127.0.0.1:9/file", tmp_path / "file", **checksums)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        fetch("http://127.0.0.1:9/file", tmp_path / "taken" / "file", md5=MD5)
