"""Photos over HTTP: every way in which a server or a network fails, over real TCP."""

import gzip
import io
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.images import remote
from resnest_cli.images.decode import decode
from resnest_cli.images.remote import fetch_photo
from resnest_cli.net import Patience
from tests.server import File, Reply, Server

QUICK = Patience(connect=2, read=1, total=5, attempts=3, pause=0.5, sleep=lambda _: None)
LARGEST = 100_000


def _photo() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((60, 40), 50).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


PHOTO = _photo()
HTML = b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.fixture
def pauses() -> list[float]:
    """The pauses between attempts, which are only noted."""
    return []


@pytest.fixture
def get(server: Server, pauses: list[float]):
    server.files["/photo.png"] = File(PHOTO)

    def run(*replies: Reply, patience: Patience = QUICK, path: str = "/photo.png") -> bytes:
        server.script(path, *replies)
        patience = replace(patience, sleep=pauses.append)
        return fetch_photo(server.url(path), largest=LARGEST, patience=patience)

    return run


@pytest.fixture
def refused(get):
    """The message, whole, which is one printable line."""

    def run(*replies: Reply, **options) -> str:
        with pytest.raises(ImageError) as caught:
            get(*replies, **options)
        assert str(caught.value).isprintable()
        return str(caught.value)

    return run


def message(url: str, **options) -> str:
    with pytest.raises(ImageError) as caught:
        fetch_photo(url, **({"patience": QUICK, "largest": LARGEST} | options))
    assert str(caught.value).isprintable()
    return str(caught.value)


# What arrives


def test_a_photo(get, server) -> None:
    assert get() == PHOTO
    assert decode(get()).size == (60, 40)
    headers = server.requests[0].headers
    assert headers["user-agent"].startswith("resnest-cli/")
    assert headers["accept-encoding"] == "identity"
    assert "authorization" not in headers


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("compress", [False, True])
def test_framings_and_compression(get, framing, compress) -> None:
    assert get(Reply(framing=framing, compress=compress)) == PHOTO


def test_deflate(get) -> None:
    headers = {"Content-Encoding": "deflate"}
    assert get(Reply(200, zlib.compress(PHOTO), headers)) == PHOTO


@pytest.mark.parametrize(
    ("encoding", "body", "reason"),
    [
        ("gzip", b"no gzip at all", "its gzip encoding is damaged"),
        ("gzip", gzip.compress(PHOTO, mtime=0)[:-20], "its gzip encoding is cut short"),
        ("deflate", b"no deflate", "its deflate encoding is damaged"),
        ("deflate", zlib.compress(PHOTO)[:-9], "its deflate encoding is cut short"),
        ("br", b"x", "it answered with content encoding br, unasked"),
        ("gzip, gzip", b"x", "it answered with content encoding gzip, gzip, unasked"),
    ],
)
def test_broken_compression(refused, encoding, body, reason) -> None:
    reply = Reply(200, body, {"Content-Encoding": encoding})
    assert refused(reply) == f"cannot be fetched: {reason}"


@pytest.mark.parametrize("type_", ["text/html", "image/jpeg", "application/octet-stream", ""])
def test_the_announced_type_does_not_matter(get, refused, type_) -> None:
    headers = {"Content-Type": type_}
    assert get(Reply(headers=headers)) == PHOTO
    assert refused(Reply(200, HTML, headers)) == "is a web page, not an image"
    assert refused(Reply(200, HTML, headers, compress=True)) == "is a web page, not an image"


def test_an_empty_body(refused) -> None:
    for framing in ("length", "chunked", "close"):
        assert refused(Reply(200, b"", framing=framing)) == "is empty (0 bytes)"


# Limits of size


@pytest.mark.parametrize("size", [LARGEST, LARGEST + 1])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_the_size_limit_is_exact(get, refused, size, framing) -> None:
    reply = Reply(200, b"x" * size, framing=framing)
    if size <= LARGEST:
        assert len(get(reply)) == size
    else:
        expected = "cannot be fetched: it is larger than the limit of 100,000 bytes"
        assert refused(reply) == expected + (" (100,001)" if framing == "length" else "")


def test_an_announced_size_is_refused_at_once(refused, server) -> None:
    reply = Reply(200, b"x", {"Content-Length": str(10**15)}, then="stall")
    assert "is larger than the limit of 100,000 bytes (1,000,000,000,000,000)" in refused(reply)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"Connection: close\r\n\r\n",
        b"Content-Length: none\r\n\r\n",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + b"FFFFFFFFFF\r\n",
        b"Content-Encoding: gzip\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n",  # and then a chunk length that never ends
        b"X-Long: ",
    ],
)
def test_an_endless_answer_fills_no_memory(head) -> None:
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        sender = threading.Thread(target=_pour, args=(listener, head, done))
        sender.start()
        tracemalloc.start()
        patience = replace(QUICK, connect=1, total=3)
        message(f"http://127.0.0.1:{listener.getsockname()[1]}/", largest=10**6, patience=patience)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        done.set()
        sender.join()
    assert peak < 8 * 10**6


def _pour(listener: socket.socket, head: bytes, done: threading.Event) -> None:
    """Answer every connection with bytes that never end."""
    while not done.is_set():
        with suppress(OSError), listener.accept()[0] as connection:
            connection.settimeout(1)
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)
            while not done.is_set():
                connection.sendall(b"1" * 100_000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compression_bomb_is_not_unpacked(refused, encoding) -> None:
    bomb = bytes(60_000_000)
    packed = gzip.compress(bomb) if encoding == "gzip" else zlib.compress(bomb)
    tracemalloc.start()
    reply = Reply(200, packed, {"Content-Encoding": encoding})
    assert refused(reply) == "cannot be fetched: it is larger than the limit of 100,000 bytes"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 10**6


# Broken answers


@pytest.mark.parametrize("then", ["end", "close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_broken_body_is_tried_again_and_never_half_a_photo(
    get, refused, server, framing, then
) -> None:
    if framing == "chunked" and then == "end":
        return  # a proper end: nothing tells that bytes are missing
    half = Reply(framing=framing, send=len(PHOTO) // 2, then="close" if then == "end" else then)
    assert get(half) == PHOTO
    assert len(server.requests) == 2
    reason = refused(half, half, half)
    assert "cannot be fetched: " in reason
    assert (
        f"IncompleteRead({len(PHOTO) // 2} bytes" in reason
        or framing == "chunked"
        or then == "reset"
    )
    assert len(server.requests) == 5


def test_a_length_below_the_bytes_sent_disturbs_no_other_photo(get) -> None:
    assert get(Reply(headers={"Content-Length": "20"})) == PHOTO[:20]
    assert get() == PHOTO


def test_no_answer_at_all(get, refused, server) -> None:
    assert get(Reply(-1, then="close"), Reply(-1, then="reset")) == PHOTO
    assert "the connection broke" in refused(*[Reply(-1, then="close")] * 3)


def test_a_kept_connection_that_has_died(get, server) -> None:
    get()
    assert get(Reply(-1, then="close")) == PHOTO


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\xff" * 1000,
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabcde\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\nabc",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
    ids=range(11),
)
def test_what_is_no_http(refused, raw) -> None:
    replies = [Reply(raw=raw, then="close")] * 3
    assert refused(*replies).startswith("cannot be fetched: ")


def test_control_characters_of_a_server_are_not_printed(refused) -> None:
    raw = b"HTTP/1.1 404 \x1b[31mGone\x07 \xff\r\nContent-Length: 0\r\n\r\n"
    assert "404" in refused(Reply(raw=raw, then="close"))
    raw = b"HTTP/1.1 404 " + b"x" * 5000 + b"\r\nContent-Length: 0\r\n\r\n"
    assert len(refused(Reply(raw=raw, then="close"))) == 300


# Limits of time


@pytest.mark.parametrize("stage", ["status", "header", "length", "body", "chunk"])
def test_a_dripping_server_cannot_hang_a_run(refused, server, stage) -> None:
    heads = {
        "status": b"",
        "header": b"HTTP/1.1 200 OK\r\nX-Slow: ",
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n",
        "body": b"HTTP/1.1 200 OK\r\n\r\n",
        "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    }
    drip = b"HTTP/1.1 " if stage == "status" else b""
    raw = heads[stage] + drip + b"2" * 3000  # a minute long
    start = time.monotonic()
    text = refused(Reply(raw=raw, pace=0.02), patience=replace(QUICK, read=20, total=0.5))
    assert text == "cannot be fetched: it took longer than 0.5 s"
    assert time.monotonic() - start < 30


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "trailers": (_CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n"),
    "a trailer": (_CHUNKED + b"1\r\nx\r\n0\r\nX: ", b"y" * 9999),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "a length": (_CHUNKED, b"0" * 9999),
    "minus one": (_CHUNKED + b"-1\r\n", b"y" * 9999),
}


@pytest.mark.parametrize(("begin", "rest"), ENDLESS.values(), ids=ENDLESS)
def test_an_endless_server_cannot_hang_a_run_nor_fill_the_memory(refused, begin, rest) -> None:
    tracemalloc.start()
    reply = Reply(raw=begin, endless=rest)
    text = refused(*[reply] * 3, patience=replace(QUICK, read=0.5, total=0.5))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text.startswith("cannot be fetched: ")
    assert most < 20e6


def test_a_silent_server(refused) -> None:
    for reply in (Reply(-1, then="stall"), Reply(send=10, then="stall")):
        start = time.monotonic()
        text = refused(reply, patience=replace(QUICK, read=0.2, total=60))
        assert text == "cannot be fetched: it stopped sending"
        assert time.monotonic() - start < 30


def test_a_slow_but_steady_server_is_waited_for(get) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + b"x" * 50
    patience = replace(QUICK, read=0.6, total=60)
    assert get(Reply(raw=raw, pace=0.01), patience=patience) == b"x" * 50


def test_a_host_that_never_answers_the_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        start = time.monotonic()
        message(
            f"https://127.0.0.1:{port}/x.png",
            patience=replace(QUICK, connect=0.3, read=0.3, total=60),
        )
        message(
            f"http://127.0.0.1:{port}/x.png",
            patience=replace(QUICK, connect=0.3, read=0.3, total=60),
        )
    assert time.monotonic() - start < 30


# Refusals


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (401, "401 Unauthorized: it asks for a login"),
        (403, "403 Forbidden: access is refused"),
        (404, "404 Not Found: there is no such file"),
        (410, "410 Gone: the file was removed"),
        (204, "204 No Content"),
        (206, "206 Partial Content"),
        (304, "304 Not Modified"),
        (300, "300 Multiple Choices"),
        (418, "418 I'm a Teapot"),
        (501, "501 Not Implemented"),
    ],
)
def test_refusals(refused, server, status, meaning) -> None:
    body = b"" if status in (204, 304) else b"<html>no</html>"
    text = refused(Reply(status, body)).lower()
    assert text == f"cannot be fetched: it answered {meaning}".lower()
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_overloaded_server_is_tried_again(get, refused, pauses, status) -> None:
    assert get(Reply(status, b"busy"), Reply(status, b"busy")) == PHOTO
    assert pauses == [0.5, 1.0]
    assert f"cannot be fetched: it answered {status} " in refused(*[Reply(status, b"")] * 3)
    assert len(pauses) == 4


def test_retry_after_is_honoured_within_the_deadline(get, refused, server, pauses) -> None:
    assert get(Reply(429, b"", {"Retry-After": "3"})) == PHOTO
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    patient = replace(QUICK, total=60)
    assert get(Reply(503, b"", {"Retry-After": soon}), patience=patient) == PHOTO
    assert pauses[0] == 3
    assert 10 < pauses[1] <= 50
    assert "429" in refused(Reply(429, b"", {"Retry-After": "6"}))
    assert len(pauses) == 2
    assert len(server.requests) == 5


# Redirects


def to(target: str, status: int = 302, body: bytes = b"moved") -> Reply:
    return Reply(status, body, {"Location": target})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(get, server, status) -> None:
    server.script("/b", to("c?x=1#part"))
    server.script("/c", to(server.url("/photo.png")))
    assert get(to("/b", status), path="/a") == PHOTO


def test_circles_and_long_chains_end(refused, server) -> None:
    assert refused(*[to("/photo.png")] * 30).endswith(": it redirects more than 10 times")
    assert len(server.requests) == 11
    assert len(server.log("/photo.png")) == 11


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("file:///etc/passwd", "redirects to file:, which is not followed"),
        ("FILE:///etc/passwd", "redirects to file:, which is not followed"),
        ("file://localhost/etc/passwd", "redirects to file:, which is not followed"),
        ("ftp://127.0.0.1/a.png", "redirects to ftp:, which is not followed"),
        ("data:image/png;base64,AAAA", "redirects to data:, which is not followed"),
        ("javascript:alert(1)", "redirects to javascript:, which is not followed"),
        ("http://[::1/", "redirects to no valid URL"),
        ("http://127.0.0.1:99999/", "redirects to no valid URL"),
    ],
)
def test_redirects_elsewhere_are_not_followed(refused, target, reason) -> None:
    text = refused(to(target))
    assert text == f"cannot be fetched: it {reason}"


def test_an_endless_body_of_a_redirect_is_not_read(get) -> None:
    reply = Reply(302, b"x" * 10, {"Location": "/photo.png", "Content-Length": "9" * 12})
    assert get(reply, path="/a") == PHOTO


def test_a_redirect_is_named_in_the_error(refused, server) -> None:
    target = server.url("/gone.png").replace("http://", "http://me:secret@")
    expected = f"cannot be fetched after a redirect to {server.url('/gone.png')}: it answered 404"
    assert refused(to(target)).startswith(expected)


def test_cookies_of_a_redirect_are_kept_but_not_for_the_next_photo(get, server) -> None:
    headers = {"Location": "/photo.png", "Set-Cookie": "seen=1; Path=/"}
    assert get(Reply(302, b"", headers), path="/a") == PHOTO
    assert server.requests[-1].headers["cookie"] == "seen=1"
    get()
    assert "cookie" not in server.requests[-1].headers


# Logins


def test_a_login_is_used_but_never_shown(get, server) -> None:
    url = server.url("/photo.png").replace("http://", "http://me:p%40ss@")
    assert fetch_photo(url, patience=QUICK) == PHOTO
    assert server.requests[0].headers["authorization"] == "Basic bWU6cEBzcw=="


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@127.0.0.1:1/x.png",
        "http://me:secret@photos.invalid/x.png",
        "https://me:secret@127.0.0.1:{port}/x.png",
        "http://me:secret@127.0.0.1:{port}/gone.png",
        "http://me:secret@127.0.0.1:99999/x.png",
        "http://me:secret@[::1/x.png",
        "http://me:secret@/x.png",
        "http://me:secret@\u2100.example/x.png",
        "http://me:sec/ret@127.0.0.1/x.png",
        "http://me:secret@*.example/x.png",
        "http://me:secret@" + "a" * 300 + "/x.png",
    ],
)
def test_no_message_shows_a_password(server, url) -> None:
    text = message(url.format(port=server.url().split(":")[2].strip("/")))
    assert "sec" not in text
    assert "me:" not in text


def test_a_login_goes_to_no_other_host(server, get) -> None:
    with Server() as other:
        other.files["/photo.png"] = File(PHOTO)
        server.script("/a", to("/b"))
        server.script("/b", to(other.url("/photo.png")))
        url = server.url("/a").replace("http://", "http://me:secret@")
        assert fetch_photo(url, patience=QUICK) == PHOTO
        assert "authorization" not in other.requests[0].headers
    assert ["authorization" in r.headers for r in server.requests] == [True, True]


# No connection


def test_offline_connects_to_nobody(server) -> None:
    assert message(server.url(), offline=True) == "is a URL, and --offline forbids to connect"
    assert server.requests == []


def test_nobody_there(server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        text = message(f"http://127.0.0.1:{unused.getsockname()[1]}/x.png")
    assert text.startswith("cannot be fetched: it cannot be reached: ")
    assert text.endswith("Connection refused")
    text = message("http://photos.invalid/x.png")
    assert text == "cannot be fetched: its name cannot be resolved"


def test_a_tls_error(server) -> None:
    text = message(server.url("/x.png").replace("http:", "https:"))
    assert text.startswith("cannot be fetched: ")
    assert "TLS" in text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    command += " -addext subjectAltName=IP:127.0.0.1"
    arguments = [*command.split(), "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(arguments, check=True, capture_output=True)
    return files


def test_tls(get, server, certificate, monkeypatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    http = server._http
    http.socket = context.wrap_socket(http.socket, server_side=True)
    url = server.url("/photo.png").replace("http:", "https:")
    assert "its TLS certificate was not accepted" in message(url)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    assert fetch_photo(url, patience=QUICK) == PHOTO
    server.script("/photo.png", Reply(raw=b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300, pace=0.02))
    text = message(url, patience=replace(QUICK, read=20, total=0.5))
    assert text == "cannot be fetched: it took longer than 0.5 s"


def test_a_proxy_is_used(server, monkeypatch) -> None:
    server.files["/photo.png"] = File(PHOTO)
    monkeypatch.setenv("HTTP_PROXY", server.url(""))
    assert fetch_photo("http://photos.invalid/photo.png", patience=QUICK) == PHOTO
    raw = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300
    server.script("/photo.png", Reply(raw=raw, pace=0.02))
    text = message("http://photos.invalid/photo.png", patience=replace(QUICK, read=20, total=0.5))
    assert text == "cannot be fetched: it took longer than 0.5 s"


# Addresses


@pytest.mark.parametrize(
    "path",
    [
        "/a b.png",
        "/狗/é.png?größe=1",
        "/%E7%8B%97.png",
        "/100%.png",
        "/a.png#fragment",
        "/[1]{2}|^`.png",
        "/?",
        "/a.png?u=http://x/y&z",
        "/" + "long" * 1000,
    ],
)
def test_odd_paths(server, path) -> None:
    assert message(server.url(path)).endswith("404 Not Found: there is no such file")
    asked = server.requests[0].path
    assert unquote(asked) == unquote(re.split("[?#]", path)[0])
    server.files[asked] = File(PHOTO)
    assert fetch_photo(server.url(path), patience=QUICK) == PHOTO


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///x.png",
        "http://:80/",
        "http://[::1",
        "http://[zz]/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:x/",
        "http://a..b/",
        "http://.a/",
        "http://" + "a" * 64 + ".com/",
        "http://*.example/",
        "http://exa mple/",
        "http://\udce9.invalid/",
        "http://127.0.0.1:1/\udce9.png",
        "http://\u2100.com/",
        "ftp://example.org/x.png",
        "x.png",
        "",
    ],
)
def test_odd_addresses(url) -> None:
    text = message(url)
    assert text.startswith("cannot be fetched: ")


def test_upper_case_and_host_names_with_marks(server, get) -> None:
    assert fetch_photo(server.url("/photo.png").replace("http", "HTTP"), patience=QUICK) == PHOTO
    assert message("http://bücher.invalid/x.png") == (
        "cannot be fetched: its name cannot be resolved"
    )


# Threads


def test_many_threads_at_once(server) -> None:
    names = [f"/{number}.png" for number in range(40)]
    for number, name in enumerate(names):
        server.files[name] = File(bytes([number + 1]) * 30_000)
        if number % 5 == 0:
            server.script(name, Reply(503, b""), Reply(send=100, then="close"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: fetch_photo(server.url(name), patience=QUICK), names))
    assert [len(set(data)) for data in found] == [1] * 40
    assert [data[0] for data in found] == list(range(1, 41))


def test_connections_are_kept_open(get) -> None:
    get()
    session = remote._local.session
    for _ in range(3):
        get()
    assert remote._local.session is session


def test_any_text_is_an_error_in_one_line() -> None:
    random_ = random.Random(0)
    alphabet = "ahtp:/@[]?#%.0159 \\\t\n\0\x7fé狗\udce9\u202e-_*'\"<>"
    for _ in range(300):
        text = "http://" + "".join(random_.choices(alphabet, k=random_.randint(0, 20)))
        with pytest.raises(ImageError) as caught:
            fetch_photo(text, patience=replace(QUICK, connect=0.2, read=0.2, total=0.5))
        assert str(caught.value).isprintable()


def test_requests_is_imported_on_first_use() -> None:
    code = "import sys, resnest_cli.images.remote, resnest_cli.net.download, resnest_cli.net.hub"
    code += "; assert not {'requests', 'huggingface_hub', 'logging'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
