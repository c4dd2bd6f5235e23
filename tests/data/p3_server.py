"""A server on 127.0.0.1 that speaks the Hub's protocol for one data set: listing, and files by HEAD and GET."""

import contextlib
import hashlib
import http.server
import json
import pathlib
import threading
import urllib.parse
from collections.abc import Iterator

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What the server serves, and what it was asked for."""

    def __init__(self, repository: str, folder: pathlib.Path):
        self.repository, self.folder = repository, folder
        self.url = ""
        self.fetched: list[str] = []
        self.broken_after: int | None = None  # GETs of files until the server answers with errors

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        name = self.hub.repository
        if path.startswith(f"/api/datasets/{name}/tree/"):
            entries = [
                {
                    "type": "file",
                    "path": file,
                    "size": (self.hub.folder / file).stat().st_size,
                    "oid": _etag(self.hub.folder / file),
                }
                for file in self.hub.files()
            ]
            return self._json(entries)
        if path in (
            f"/api/datasets/{name}",
            f"/api/datasets/{name}/revision/main",
            f"/api/datasets/{name}/revision/{COMMIT}",
        ):
            siblings = [{"rfilename": file} for file in self.hub.files()]
            return self._json(
                {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
            )
        prefix = f"/datasets/{name}/resolve/"
        if path.startswith(prefix):
            revision, _, file = path[len(prefix) :].partition("/")
            target = self.hub.folder / file
            if revision in ("main", COMMIT) and target.is_file():
                return self._file(target, file, body)
        self._error(404, "RevisionNotFound" if f"datasets/{name}" in path else "RepoNotFound")
        return None

    def _file(self, target: pathlib.Path, file: str, body: bool) -> None:
        content = target.read_bytes()
        start = 0
        if (asked := self.headers.get("Range", "")).startswith("bytes="):
            start = int(asked[len("bytes=") :].split("-")[0])
        if body:
            if self.hub.broken_after is not None and len(self.hub.fetched) >= self.hub.broken_after:
                return self._error(503, "Unavailable")
            self.hub.fetched.append(file)
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_etag(target)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            self.wfile.write(content[start:])
        return None

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _etag(path: pathlib.Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def serve(repository: str, folder: pathlib.Path) -> Iterator[Hub]:
    """Serves a folder as a data set of the Hub while the block runs."""
    hub = Hub(repository, folder)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    import sys
    import time

    with serve("bigscience/P3", pathlib.Path(sys.argv[1])) as running:
        print(f"export HF_ENDPOINT={running.url}", flush=True)
        while True:
            time.sleep(1)
