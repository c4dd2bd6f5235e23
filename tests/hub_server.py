"""A server on 127.0.0.1 that speaks the Hub's protocol, for folders on this machine: what `HF_ENDPOINT` points to.

    with HubServer({"owner/name": folder}) as hub:
        subprocess.run([...], env={**os.environ, "HF_ENDPOINT": hub.url})

or, for any client, `python tests/hub_server.py owner/name=FOLDER --port 8000`. It serves model information, listings
and files with the headers that huggingface_hub relies on: commit, ETag, size, ranges, and large files by a redirect to
another path, as the Hub does with those that git keeps by reference. It can fail on purpose: see `HubServer`.
"""

import argparse
import hashlib
import http.server
import json
import pathlib
import re
import threading
import urllib.parse
from collections.abc import Mapping
from typing import Any

LARGE = 2**16  # bytes from which a file is served by a redirect
BRANCH = "main"


class HubServer:
    """Repositories of models, each a folder.

    Args:
        repositories: "owner/name" to folder.
        tokens: "owner/name" to the token without which the repository is not shown.

    Attributes:
        requests: "METHOD path [range]" of everything that was asked for.
        cut: file name to lengths: the next downloads of it break off after so many bytes, one after the other.
        status: file name to the status that its downloads fail with.
        longer: file name to a number of bytes that its announced size is too large by.
    """

    def __init__(
        self, repositories: Mapping[str, pathlib.Path], tokens: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        self.repositories = {name: pathlib.Path(folder) for name, folder in repositories.items()}
        self.tokens = dict(tokens or {})
        self.requests: list[str] = []
        self.cut: dict[str, list[int]] = {}
        self.status: dict[str, int] = {}
        self.longer: dict[str, int] = {}
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        # Another host to the client, as the Hub's store of large files is: it is not sent the token.
        self.store = self.url.replace("127.0.0.1", "localhost")
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def commit(self, name: str) -> str:
        """The one commit of a repository: a digest of names and sizes."""
        listing = "".join(f"{path.name} {path.stat().st_size}\n" for path in self.files(name))
        return hashlib.sha1(f"{name}\n{listing}".encode()).hexdigest()

    def files(self, name: str) -> list[pathlib.Path]:
        return sorted(path for path in self.repositories[name].iterdir() if path.is_file())

    def downloads(self) -> list[str]:
        """Names of the files whose bytes were asked for."""
        return [request.split()[1].rsplit("/", 1)[-1] for request in self.requests if request.startswith("GET /cdn/")]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            self._information(match[1], match[2] or "revision", match[3] or BRANCH)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._send_file(match[1], self.hub.repositories[match[1]] / match[2])
        else:
            self._fail(404, "EntryNotFound", f"nothing at {path}")

    # -- what is asked

    def _known(self, name: str, revision: str) -> bool:
        """Whether the repository and the revision can be seen; answers if not."""
        token = self.hub.tokens.get(name)
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if name not in self.hub.repositories or (token is not None and sent != token):
            # The Hub does not tell those without access whether a repository exists.
            self._fail(404 if sent else 401, "RepoNotFound", "Repository not found")
            return False
        if revision not in (BRANCH, self.hub.commit(name)):
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return False
        return True

    def _information(self, name: str, what: str, revision: str) -> None:
        if not self._known(name, revision):
            return
        files = self.hub.files(name)
        if what == "tree":
            entries = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _digest(p, "sha1")} for p in files
            ]
            self._send_json(entries)
            return
        siblings = [{"rfilename": path.name} for path in files]
        self._send_json(
            {
                "id": name,
                "modelId": name,
                "sha": self.hub.commit(name),
                "private": False,
                "tags": [],
                "siblings": siblings,
            }
        )

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if not self._known(name, revision):
            return
        path = self.hub.repositories[name] / file
        if "/" in file or not path.is_file():
            self._fail(404, "EntryNotFound", f"{file} does not exist", {"X-Repo-Commit": self.hub.commit(name)})
            return
        size = path.stat().st_size + self.hub.longer.get(file, 0)
        headers = {"X-Repo-Commit": self.hub.commit(name), "Accept-Ranges": "bytes"}
        if path.stat().st_size >= LARGE:
            linked = {"X-Linked-Etag": f'"{_digest(path, "sha256")}"', "X-Linked-Size": str(size)}
            self._send(302, b"", {**headers, **linked, "Location": f"{self.hub.store}/cdn/{name}/{file}"})
        elif self.command == "HEAD":
            self._send(200, b"", {**headers, "ETag": f'"{_digest(path, "sha1")}"'}, length=size)
        else:
            self.hub.requests.append(f"GET /cdn/{name}/{file}")
            self._send_file(name, path)

    # -- what is answered

    def _send_file(self, name: str, path: pathlib.Path) -> None:
        if path.name in self.hub.status:
            self._fail(self.hub.status[path.name], "", "on purpose")
            return
        data = path.read_bytes()
        headers = {
            "Accept-Ranges": "bytes",
            "X-Repo-Commit": self.hub.commit(name),
            "ETag": f'"{_digest(path, "sha256")}"',
        }
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(asked[1]) if asked else 0
        if asked:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        cuts = self.hub.cut.get(path.name)
        cut = cuts.pop(0) if cuts and self.command == "GET" else None
        body = data[begin:]
        self._send(206 if asked else 200, body if cut is None else body[:cut], headers, length=len(body))

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _fail(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
        self._send(status, b"", {**(headers or {}), **named})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], length: int | None = None) -> None:
        """One answer; a body shorter than the announced length is followed by the end of the connection."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        announced = len(body) if length is None else length
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.close_connection = self.close_connection or len(body) != announced


def _digest(path: pathlib.Path, kind: str) -> str:
    return hashlib.new(kind, path.read_bytes()).hexdigest()


def main() -> None:
    """Serves until interrupted."""
    parser = argparse.ArgumentParser(description="Serve folders as repositories of the Hub, on 127.0.0.1.")
    parser.add_argument("repository", nargs="+", metavar="OWNER/NAME=FOLDER")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    arguments = parser.parse_args()
    folders = dict(item.split("=", 1) for item in arguments.repository)
    with HubServer({name: pathlib.Path(folder) for name, folder in folders.items()}, port=arguments.port) as hub:
        print(f"HF_ENDPOINT={hub.url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
