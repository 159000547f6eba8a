"""A local server that speaks what the hub's client asks of it to download a model repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "d" * 40


@contextmanager
def model_hub(repo: str, revision: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder's files as a repository's revision; yields the address and the files that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            files = {file.name: file for file in folder.iterdir()}
            if path in (f"/api/models/{repo}/revision/{revision}", f"/api/models/{repo}/revision/{COMMIT}"):
                described = {"_id": "1", "id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                return self.reply(200, json.dumps(described).encode(), body)
            if path == f"/api/models/{repo}/tree/{COMMIT}":
                sizes = {name: file.stat().st_size for name, file in files.items()}
                rows = [{"type": "file", "path": name, "size": n, "oid": "b" * 40} for name, n in sizes.items()]
                return self.reply(200, json.dumps(rows).encode(), body)
            if path.startswith(f"/api/models/{repo}/"):
                return self.reply(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
            place, name = f"/{repo}/resolve/{COMMIT}/", path.rpartition("/")[2]
            if not path.startswith(place) or name not in files:
                return self.reply(404, b"", body, {"X-Error-Code": "RepoNotFound"})
            if body:
                asked.append(name)
            data = files[name].read_bytes()
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            return self.reply(200, data, body, headers)

        def reply(self, status: int, data: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
