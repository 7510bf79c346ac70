"""A real HTTP server on 127.0.0.1 whose answers are scripted, path by path and attempt by attempt.

    with Server() as server:
        server.files["/a.pth"] = File(b"...")             # served as a good server does
        server.script("/a.pth", Reply(503), Reply(send=1000, then="reset"))
        server.url("/a.pth"), server.requests

A script's replies are used up in turn; after the last one the file is served properly. Everything
goes over TCP, from threads of the test process.
"""

import gzip
import hashlib
import re
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self
from urllib.parse import urlsplit


@dataclass
class File:
    """A file on the server. `etag` and `modified` None: a server without validators."""

    data: bytes
    etag: str | None = ""
    modified: str | None = "Mon, 02 Nov 2026 08:00:00 GMT"

    def __post_init__(self) -> None:
        if self.etag == "":
            self.etag = f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'


@dataclass(frozen=True)
class Reply:
    """One scripted answer. `status` 0: what the request deserves, 200 or 206; -1: none at all.

    `body` replaces the file's bytes and is sent as it is, whatever range is asked for; `send` stops
    after so many bytes of it, and `then` says what follows: the end, a closed or reset connection,
    or silence. `headers` are added to the usual ones, None removes one. `ranges` false: Range is
    ignored. `raw` takes the place of the whole answer, status line and all, and is sent a byte at
    a time with `pace` seconds in between; `endless` is sent after it, again and again.
    """

    status: int = 0
    body: bytes | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    framing: Literal["length", "chunked", "close"] = "length"
    send: int | None = None
    then: Literal["end", "close", "reset", "stall"] = "end"
    ranges: bool = True
    compress: bool = False
    delay: float = 0.0
    raw: bytes | None = None
    pace: float = 0.0
    endless: bytes = b""


@dataclass(frozen=True)
class Request:
    """One request as it came in, and the status it got."""

    path: str
    headers: dict[str, str]
    status: int

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


class Server:
    """The server; a context manager. `requests` is the log, in the order of the answers."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._scripts: defaultdict[str, deque[Reply]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}{path}"

    def script(self, path: str, *replies: Reply) -> None:
        self._scripts[path].extend(replies)

    def log(self, path: str) -> list[Request]:
        """The requests of one path."""
        return [request for request in self.requests if request.path == path]

    def next_reply(self, path: str) -> Reply:
        with self._lock:
            return self._scripts[path].popleft() if self._scripts[path] else Reply()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    owner: Server

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        self.close_request(request)  # no FIN before the RST of a connection that is to be reset

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that vanish are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        owner, path = self.server.owner, urlsplit(self.path).path
        reply, file = owner.next_reply(path), owner.files.get(path)
        if not file and not reply.status and reply.raw is None:
            reply = Reply(404, b"not here")
        status, body, headers = self.answer(reply, file)
        received = {name.lower(): value for name, value in self.headers.items()}
        owner.requests.append(Request(path, received, status))
        time.sleep(reply.delay)
        if reply.raw is not None:
            self.send_raw(reply.raw, reply.pace)
        while reply.endless and not self.server.owner.closing.is_set():
            self.wfile.write(reply.endless)
        if status < 0 or reply.raw is not None:
            self.end(reply)
            return
        self.send_response(status)
        for name, value in (headers | dict(reply.headers)).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.send_body(body if reply.send is None else body[: reply.send], reply)

    def answer(self, reply: Reply, file: File | None) -> tuple[int, bytes, dict[str, str | None]]:
        """Status, body and headers, as a good server chooses them where the script is silent."""
        body = reply.body if reply.body is not None else file.data if file else b""
        status, headers = reply.status or 200, dict[str, str | None]()
        if file and status < 300:
            headers |= {"ETag": file.etag, "Last-Modified": file.modified}
            ranged = reply.ranges and reply.body is None and reply.status in {0, 206}
            start = self.asked_offset(file) if ranged else 0
            if start >= len(body) > 0:
                return 416, b"", {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"}
            if start or reply.status == 206:
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                body = body[start:]
        if reply.compress:
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        if reply.framing == "length":
            headers["Content-Length"] = str(len(body))
        elif reply.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Connection"] = "close"
            self.close_connection = True
        return status, body, headers

    def asked_offset(self, file: File) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if not match or condition not in {None, file.etag, file.modified}:
            return 0
        return int(match[1])

    def send_body(self, body: bytes, reply: Reply) -> None:
        for start in range(0, len(body), 50_000):
            piece = body[start : start + 50_000]
            if reply.framing == "chunked":
                piece = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
            self.wfile.write(piece)
        if reply.framing == "chunked" and reply.then == "end":
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
        if reply.then != "end":
            self.end(reply)

    def send_raw(self, data: bytes, pace: float) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            if pace and self.server.owner.closing.wait(pace):
                return

    def end(self, reply: Reply) -> None:
        self.close_connection = True
        if reply.then == "stall":
            self.server.owner.closing.wait(20)
        elif reply.then == "reset":
            time.sleep(0.05)  # let the client read what was sent, or its system drops that too
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
