"""One file over HTTP: every way in which a server or a network fails, over real TCP."""

import errno
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import FileIO
from pathlib import Path

import pytest

from resnest_cli import net
from resnest_cli.errors import CacheError, DownloadError
from resnest_cli.net import Access, Patience, download
from resnest_cli.net.download import CHUNK, Note, Place, WrongFileError
from resnest_cli.progress import Progress
from tests.processes import wait_for
from tests.server import File, Reply, Server

DATA = random.Random(1).randbytes(5 * CHUNK + 123)
OTHER = random.Random(2).randbytes(5 * CHUNK + 123)
SHA256 = hashlib.sha256(DATA).hexdigest()
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>" + b" " * 600
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 110\n"
HALF = 3 * CHUNK  # what is stored of a body that breaks off soon after

pytestmark = pytest.mark.usefixtures("homes")


@dataclass
class Recorder:
    """A progress display that writes down what it was told, and the pauses and messages."""

    events: list[tuple[object, ...]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[Progress]:
        self.events.append(("start", name))
        try:
            yield lambda done, total=None, **_: self.events.append((done, total))
        finally:
            self.events.append(("stop",))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def patience(recorder: Recorder) -> Patience:
    return Patience(connect=5, read=1.0, attempts=3, sleep=recorder.pauses.append)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "cache"
    folder.mkdir()
    return Place(folder / "net.pth", SHA256[:8], "TORCH_HOME")


@pytest.fixture
def get(server: Server, place: Place, patience: Patience, recorder: Recorder):
    server.files["/net.pth"] = File(DATA)

    def run(*replies: Reply, place: Place = place) -> str:
        server.script("/net.pth", *replies)
        access = Access(patience=patience, progress=recorder, notify=recorder.said.append)
        return download.download(server.url("/net.pth"), place, access)

    return run


def assert_whole(place: Place, data: bytes = DATA) -> None:
    assert place.target.read_bytes() == data
    assert [path.name for path in place.target.parent.iterdir()] == ["net.pth"]


def ranges(server: Server) -> list[str | None]:
    return [request.range for request in server.requests]


def begin(place: Place, server: Server, data: bytes = DATA[:HALF], **note: object) -> None:
    """Leave what an interrupted run leaves."""
    record = Note(server.url("/net.pth"), File(DATA).etag or "", len(DATA))
    place.begin(replace(record, **note))
    place.part.write_bytes(data)


def test_plain_download_shows_progress(get, place, server, recorder) -> None:
    assert get() == SHA256
    assert_whole(place)
    assert recorder.events[:2] == [("start", "net.pth"), (0, len(DATA))]
    assert recorder.events[-2:] == [(len(DATA), len(DATA)), ("stop",)]
    assert server.requests[0].headers["accept-encoding"] == "identity"
    assert server.requests[0].headers["user-agent"].startswith("resnest")
    assert recorder.pauses == []


@pytest.mark.parametrize(
    "broken",
    [
        Reply(send=HALF + 10, then="close"),
        Reply(send=HALF + 10, then="reset"),
        Reply(send=HALF + 10, then="stall"),
        Reply(send=200_000, then="close", framing="chunked"),
        Reply(send=200_000, then="stall", framing="chunked"),
    ],
    ids=["short", "reset", "stalled", "chunked-short", "chunked-stalled"],
)
def test_broken_body_is_resumed(get, place, server, recorder, broken) -> None:
    assert get(broken) == SHA256
    assert_whole(place)
    first, second = server.requests
    assert first.range is None
    assert second.range.startswith("bytes=")
    assert int(second.range[6:-1]) >= HALF
    assert second.headers["if-range"] == File(DATA).etag
    assert second.status == 206
    assert len(recorder.said) == 1


def test_short_body_again_and_again_gets_there(get, place, server) -> None:
    """Each attempt brings some bytes, so more of them are made than `attempts`."""
    cut = Reply(send=CHUNK, then="close")
    assert get(cut, cut, cut, cut, cut) == SHA256
    assert ranges(server) == [None, *(f"bytes={n * CHUNK}-" for n in (1, 2, 3, 4, 5))]


def test_attempts_without_progress_end(get, place, server) -> None:
    with pytest.raises(DownloadError, match="the connection broke"):
        get(*[Reply(send=0, then="close")] * 9)
    assert len(server.requests) == 3
    assert not place.target.exists()


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_short_body_of_unknown_length_is_noticed_by_the_hash(get, place, server, framing) -> None:
    """It ends in an orderly way: nothing but the hash tells that bytes are missing."""
    assert get(Reply(send=HALF, framing=framing)) == SHA256
    assert_whole(place)
    assert ranges(server) == [None, None]


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_whole_body_of_unknown_length(get, place, recorder, framing) -> None:
    assert get(Reply(framing=framing)) == SHA256
    assert_whole(place)
    assert recorder.events[1] == (0, None)


@pytest.mark.parametrize("then", ["stall", "reset", "close"])
def test_no_answer_is_asked_again(get, place, server, then) -> None:
    assert get(Reply(-1, then=then), Reply(-1, then=then)) == SHA256
    assert_whole(place)


def test_silence_ends(get, place, server) -> None:
    with pytest.raises(DownloadError, match="it stopped sending"):
        get(*[Reply(-1, then="stall")] * 9)
    assert len(server.requests) == 3


def test_no_server_fails_at_once(place, patience, recorder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(DownloadError, match=r"cannot be reached.*refused"):
        download.download(f"http://127.0.0.1:{port}/net.pth", place, Access(patience=patience))
    assert recorder.pauses == []


def test_unknown_host_name(place, patience) -> None:
    with pytest.raises(DownloadError, match="cannot be resolved"):
        download.download("http://weights.invalid/net.pth", place, Access(patience=patience))


def test_a_tls_error_names_the_variable(get, place, server, patience) -> None:
    url = server.url("/net.pth").replace("http", "https")
    with pytest.raises(DownloadError, match="REQUESTS_CA_BUNDLE"):
        download.download(url, place, Access(patience=patience))


def test_a_missing_certificate_file_is_named(place, server, patience, monkeypatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(DownloadError, match=r"/nowhere/ca\.pem"):
        download.download(
            server.url("/net.pth").replace("http", "https"), place, Access(patience=patience)
        )


def test_the_proxy_variable_is_honoured(place, server, patience, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url(""))
    server.files["/net.pth"] = File(DATA)
    assert (
        download.download("http://weights.invalid/net.pth", place, Access(patience=patience))
        == SHA256
    )
    assert server.requests[0].headers["host"] == "weights.invalid"


@pytest.mark.parametrize("url", ["http://[", "http:///net.pth", "s3://bucket/net.pth"])
def test_a_malformed_url_is_an_error_not_a_crash(place, patience, url) -> None:
    with pytest.raises(DownloadError):
        download.download(url, place, Access(patience=patience))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_busy_server_is_asked_again(get, place, recorder, status) -> None:
    assert get(Reply(status), Reply(status)) == SHA256
    assert recorder.pauses == [1.0, 2.0]
    assert str(status) in recorder.said[0]
    assert_whole(place)


@pytest.mark.parametrize(("value", "pause"), [("7", 7.0), ("0", 0.0), ("3600", 60.0), ("?", 1.0)])
def test_retry_after_in_seconds(get, recorder, value, pause) -> None:
    assert get(Reply(503, headers={"Retry-After": value})) == SHA256
    assert recorder.pauses == [pause]


@pytest.mark.parametrize(("ahead", "low", "high"), [(50, 20, 50), (9999, 60, 60), (-50, 0, 0)])
def test_retry_after_as_a_date(get, recorder, ahead, low, high) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
    assert get(Reply(429, headers={"Retry-After": date})) == SHA256
    assert low <= recorder.pauses[0] <= high


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_refusal_is_final(get, server, place, recorder, status) -> None:
    with pytest.raises(DownloadError, match=f"it answered {status}"):
        get(*[Reply(status, b"no")] * 3)
    assert len(server.requests) == 1
    assert recorder.pauses == []


def test_refusal_keeps_what_has_arrived(get, place, server) -> None:
    begin(place, server)
    with pytest.raises(DownloadError):
        get(Reply(403, b"no"))
    assert get() == SHA256
    assert ranges(server)[-1] == f"bytes={HALF}-"


def test_what_an_earlier_run_left_is_resumed(get, place, server, recorder) -> None:
    begin(place, server)
    assert get() == SHA256
    assert_whole(place)
    assert ranges(server) == [f"bytes={HALF}-"]
    assert recorder.events[1] == (HALF, len(DATA))


def test_what_is_whole_already_needs_no_request(get, place, server) -> None:
    begin(place, server, DATA)
    assert get() == SHA256
    assert server.requests == []
    assert_whole(place)


def test_ignored_range_starts_over(get, place, server) -> None:
    begin(place, server)
    assert get(Reply(ranges=False)) == SHA256
    assert_whole(place)
    assert [r.status for r in server.requests] == [200]


@pytest.mark.parametrize(
    "content_range",
    [
        f"bytes {HALF - 1}-{len(DATA) - 1}/{len(DATA)}",
        f"bytes {HALF}-{len(DATA) - 1}/{len(DATA) + 1}",
        f"bytes 0-{len(DATA) - 1}/{len(DATA)}",
        "nonsense",
        None,
    ],
)
def test_wrong_content_range_starts_over(get, place, server, content_range) -> None:
    begin(place, server)
    assert get(Reply(206, headers={"Content-Range": content_range})) == SHA256
    assert_whole(place)
    assert ranges(server) == [f"bytes={HALF}-", None]


def test_416_with_a_part_that_is_whole(get, place, server) -> None:
    begin(place, server, DATA, total=None)  # of a server that gave no length
    assert get() == SHA256
    assert [r.status for r in server.requests] == [416]
    assert_whole(place)


def test_416_with_a_part_that_is_whole_and_no_known_hash(get, place, server) -> None:
    place = replace(place, sha256="")
    begin(place, server, DATA, total=None)
    assert get(place=place) == SHA256
    assert [r.status for r in server.requests] == [416]


@pytest.mark.parametrize("sha256", [SHA256[:8], ""])
def test_416_with_another_part_starts_over(get, place, server, sha256) -> None:
    place = replace(place, sha256=sha256)
    begin(place, server, DATA + b"more", total=None)
    assert get(place=place) == SHA256
    assert [r.status for r in server.requests] == [416, 200]
    assert_whole(place)


def test_changed_etag_is_never_spliced(get, place, server) -> None:
    """Without a hash: only the validator keeps the two files apart."""
    place = replace(place, sha256="")
    begin(place, server)
    server.files["/net.pth"] = File(OTHER)
    get(place=place)
    assert_whole(place, OTHER)
    assert server.requests[0].status == 200  # If-Range did not hold


@pytest.mark.parametrize("note", [{}, {"validator": File(DATA).modified}])
def test_changed_file_on_a_server_that_ignores_if_range(get, place, server, note) -> None:
    place = replace(place, sha256="")
    begin(place, server, **note)
    changed = "Tue, 03 Nov 2026 08:00:00 GMT"
    etag = None if note else File(OTHER).etag
    server.files["/net.pth"] = File(OTHER, etag, changed)
    rest = OTHER[HALF:]
    headers = {"Content-Range": f"bytes {HALF}-{len(OTHER) - 1}/{len(OTHER)}", "ETag": etag}
    get(Reply(206, rest, headers), place=place)
    assert_whole(place, OTHER)
    assert [r.status for r in server.requests] == [206, 200]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_last_modified_serves_where_there_is_no_strong_etag(get, place, server, etag) -> None:
    server.files["/net.pth"] = File(DATA, etag=etag)
    assert get(Reply(send=HALF + 10, then="close")) == SHA256
    assert server.requests[1].headers["if-range"] == File(DATA).modified
    assert server.requests[1].status == 206


def test_without_a_validator_nothing_is_resumed(get, place, server) -> None:
    server.files["/net.pth"] = File(DATA, etag=None, modified=None)
    assert get(Reply(send=HALF + 10, then="close")) == SHA256
    assert ranges(server) == [None, None]


def test_part_of_another_url_is_not_resumed(get, place, server) -> None:
    begin(place, server, url="http://other/net.pth")
    assert get() == SHA256
    assert ranges(server) == [None]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1}', '{"other": 1}', "null", "\x00"])
def test_damaged_note_starts_afresh(get, place, server, text) -> None:
    begin(place, server)
    place.note.write_text(text)
    assert get() == SHA256
    assert ranges(server) == [None]


def test_damaged_part_is_noticed_and_fetched_afresh(get, place, server) -> None:
    begin(place, server, OTHER[:HALF])
    assert get() == SHA256
    assert ranges(server) == [f"bytes={HALF}-", None]
    assert_whole(place)


def test_redirect_is_followed(get, place, server) -> None:
    server.script("/a", Reply(302, headers={"Location": "/net.pth"}))
    assert download.download(server.url("/a"), place, Access()) == SHA256


def test_redirect_loop_is_an_error(get, place, server) -> None:
    loop = Reply(302, headers={"Location": "/net.pth"})
    with pytest.raises(DownloadError, match="it redirects more than 10 times"):
        get(*[loop] * 30)
    assert len(server.requests) == 11


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,x"])
def test_redirects_elsewhere_are_not_followed(get, target) -> None:
    with pytest.raises(DownloadError, match=r"it redirects to \w+:, which is not followed"):
        get(Reply(302, headers={"Location": target}))


def test_an_endless_body_of_a_redirect_is_not_read(get, place) -> None:
    assert get(Reply(302, b"x", {"Location": "/net.pth", "Content-Length": "9" * 12})) == SHA256
    assert_whole(place)


# Servers without an end. Each case would run for ever, or fill the memory or the disk, unless it
# is cut short.

_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
_WHOLE = _CHUNKED + f"{len(DATA):x}\r\n".encode() + DATA + b"\r\n0\r\n"
SLOW = {
    "status": Reply(raw=b"HTTP/1.1 " + b"2" * 500, pace=0.02),
    "header": Reply(raw=_OK + b"X: " + b"2" * 500, pace=0.02),
    "body": Reply(raw=_OK + b"\r\n" + b"2" * 500, pace=0.02),
    "length": Reply(raw=_CHUNKED + b"0" * 500, pace=0.02),
    "chunks": Reply(raw=_CHUNKED + b"1\r\nx\r\n" * 500, pace=0.02),
    "continue": Reply(raw=b"", endless=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "trailers": Reply(raw=_CHUNKED + b"1\r\nx\r\n0\r\n", endless=b"X: y\r\n"),
    "extensions": Reply(raw=_CHUNKED, endless=b"1;x=y\r\nx\r\n" + b"0;" + b"y" * 9999),
}
BROKEN = {
    "headers": Reply(raw=_OK, endless=b"A: b\r\n"),
    "a header": Reply(raw=_OK + b"A: ", endless=b"b" * 9999),
    "a length": Reply(raw=_CHUNKED, endless=b"0" * 9999),
    "a trailer": Reply(raw=_CHUNKED + b"1\r\nx\r\n0\r\nA: ", endless=b"b" * 9999),
    "negative": Reply(raw=_CHUNKED + b"-5\r\nabcde\r\n0\r\n\r\n", then="close"),
    "minus one": Reply(raw=_CHUNKED + b"-1\r\n", endless=b"b" * 9999),
    "huge": Reply(raw=_CHUNKED + b"f" * 30 + b"\r\nabc", then="close"),
    "no number": Reply(raw=_CHUNKED + b"zz\r\nabc", then="close"),
    "two lengths": Reply(raw=_OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
    "HTTP/0.9": Reply(raw=b"weights\n" * 9, then="close"),
    "another protocol": Reply(raw=b"SSH-2.0-OpenSSH_9.6\r\n", then="close"),
    "longer than sent": Reply(200, b"x" * 999, {"Content-Length": "1000"}, then="close"),
}
IMPATIENT = Patience(connect=2, read=1, window=0.3, slowest=10_000, attempts=1)


@pytest.mark.parametrize("reply", SLOW.values(), ids=SLOW)
def test_a_server_that_drips_is_given_up(server, place, reply) -> None:
    server.script("/net.pth", reply)
    with pytest.raises(DownloadError, match="it sends less than 10,000 bytes a second"):
        download.download(
            server.url("/net.pth"), replace(place, sha256=""), Access(patience=IMPATIENT)
        )
    assert not place.target.exists()


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_is_an_error_in_words(server, place, reply) -> None:
    server.script("/net.pth", reply)
    with pytest.raises(DownloadError, match=r"^(the connection broke|it sent|its answer)"):
        download.download(
            server.url("/net.pth"), replace(place, sha256=""), Access(patience=IMPATIENT)
        )
    assert not place.target.exists()


def test_drips_of_every_attempt_count_as_failures(server, place, recorder) -> None:
    """A few bytes each time are no progress."""
    server.files["/net.pth"] = File(DATA)
    server.script("/net.pth", *[SLOW["chunks"]] * 9)
    patience = replace(IMPATIENT, attempts=2, sleep=recorder.pauses.append)
    with pytest.raises(DownloadError, match="less than"):
        download.download(server.url("/net.pth"), place, Access(patience=patience))
    assert len(server.requests) == 2


def test_a_steady_server_is_waited_for_longer_than_a_window(server, place) -> None:
    raw = _OK + f"Content-Length: {len(DATA)}\r\n\r\n".encode()
    steady = Reply(raw=raw + DATA[:400], pace=0.002, then="close")  # 0.8 s
    server.files["/net.pth"] = File(DATA)
    server.script("/net.pth", steady)
    patience = Patience(read=1, window=0.4, slowest=1, attempts=2, sleep=lambda _: None)
    assert download.download(server.url("/net.pth"), place, Access(patience=patience)) == SHA256


@pytest.mark.parametrize("length", ["100001", "9" * 15, "9" * 30, "9" * 3999])
def test_an_announced_length_beyond_the_limit(get, place, length) -> None:
    small = replace(place, largest=100_000)
    with pytest.raises(DownloadError, match="larger than the limit of 100,000 bytes"):
        get(Reply(headers={"Content-Length": length}), place=small)
    assert list(place.target.parent.iterdir()) == []


@pytest.mark.parametrize(
    "reply",
    [Reply(framing="chunked"), Reply(framing="close"), Reply(body=b"\0" * 10**7, compress=True)],
    ids=["chunked", "close", "bomb"],
)
def test_a_body_beyond_the_limit(get, server, place, reply) -> None:
    small = replace(place, largest=100_000)
    with pytest.raises(DownloadError, match="larger than the limit of 100,000 bytes"):
        get(reply, place=small)
    assert len(server.requests) == 1
    assert list(place.target.parent.iterdir()) == []


@pytest.mark.parametrize("length", ["-5", "+5", "5 6", "\u0665", "five", ""])
def test_a_length_that_is_none_is_unknown(get, place, length) -> None:
    headers = {"Content-Length": length.encode("utf-8").decode("latin-1"), "Connection": "close"}
    assert get(Reply(headers=headers, then="close")) == SHA256
    assert_whole(place)


def test_a_length_that_is_too_short_is_found_by_the_hash(get, place) -> None:
    with pytest.raises(WrongFileError):
        get(Reply(headers={"Content-Length": "1000"}))
    assert not place.target.exists()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="no links")
@pytest.mark.parametrize("end", [".part", ".part.json"])
def test_links_beside_the_file_are_not_followed(get, place, tmp_path, end) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    place.target.with_name(f"net.pth{end}").symlink_to(precious)
    assert get() == SHA256
    assert precious.read_text() == "precious"
    assert_whole(place)


@pytest.mark.parametrize(
    ("body", "message"), [(HTML, "web page"), (LFS, "Git LFS pointer"), (b"", "empty")]
)
@pytest.mark.parametrize("known", [True, False])
def test_body_that_is_no_weights(get, place, server, body, message, known) -> None:
    """It is refused with or without a known hash, and does not cost the part that is here."""
    place = place if known else replace(place, sha256="")
    begin(place, server)
    with pytest.raises(DownloadError, match=message):
        get(Reply(200, body), place=place)
    assert len(server.requests) == 1
    assert not place.target.exists()
    assert place.size() == HALF


def test_other_beginnings_of_a_web_page() -> None:
    for head in (b"\xef\xbb\xbf\n<HTML>", b"<!-- moved -->", b"<?xml version='1.0'?>", b" <head>"):
        assert "web page" in net.misfit(head)
    for head in (b"PK\x03\x04", b"\x80\x02", b"<\0\0\0\0\0\0\0{", b"a"):
        assert net.misfit(head) == ""


def test_wrong_hash_shows_both_and_keeps_nothing(get, place, server) -> None:
    server.files["/net.pth"] = File(OTHER)
    actual = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(WrongFileError, match=f"{SHA256[:8]}, but is {actual}"):
        get()
    assert len(server.requests) == 1
    assert list(place.target.parent.iterdir()) == []


def test_wrong_hash_leaves_an_older_file_alone(get, place, server) -> None:
    place.target.write_bytes(b"older")
    server.files["/net.pth"] = File(OTHER)
    with pytest.raises(WrongFileError):
        get()
    assert place.target.read_bytes() == b"older"


def test_more_bytes_than_announced_starts_over(get, place, server) -> None:
    place = replace(place, sha256="")
    begin(place, server)
    rest = DATA[HALF:] + b"more"
    headers = {"Content-Range": f"bytes {HALF}-{len(DATA) - 1}/{len(DATA)}"}
    get(Reply(206, rest, headers), place=place)
    assert_whole(place)
    assert [r.status for r in server.requests] == [206, 200]


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_compressed_all_the_same(get, place, recorder, framing) -> None:
    assert get(Reply(compress=True, framing=framing)) == SHA256
    assert_whole(place)
    assert recorder.events[1] == (0, None)


def test_compressed_and_cut_is_not_resumed(get, place, server) -> None:
    assert get(Reply(compress=True, send=HALF, then="close")) == SHA256
    assert ranges(server) == [None, None]
    assert_whole(place)


def test_unknown_compression_is_refused(get, place) -> None:
    with pytest.raises(DownloadError, match="content encoding zz"):
        get(Reply(headers={"Content-Encoding": "zz"}))


def test_too_little_room_is_found_before_the_download(get, place, server, monkeypatch) -> None:
    begin(place, server)
    left = len(DATA) - HALF
    usage = shutil.disk_usage(place.target.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=left - 1000))
    with pytest.raises(CacheError, match=r"lacks 1,000 bytes .* set TORCH_HOME"):
        get()
    assert place.size() == HALF
    monkeypatch.undo()
    assert get() == SHA256
    assert ranges(server)[-1] == f"bytes={HALF}-"


def test_too_little_room_for_the_whole(get, place, monkeypatch) -> None:
    usage = shutil.disk_usage(place.target.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(DATA) - 5))
    with pytest.raises(CacheError, match="lacks 5 bytes"):
        get()
    assert list(place.target.parent.iterdir()) == []


def test_a_part_that_is_replaced_makes_room(get, place, server, monkeypatch) -> None:
    begin(place, server, url="http://other/net.pth")
    left = len(DATA) - HALF
    usage = shutil.disk_usage(place.target.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=left))
    assert get() == SHA256


CHILD = """
    import sys
    from pathlib import Path
    from resnest_cli.errors import CacheError
    from resnest_cli.net import Access, Patience
    from resnest_cli.net.download import Place, download
    url, target, sha256, limit = sys.argv[1:]
    if int(limit):
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        download(url, Place(Path(target), sha256, "TORCH_HOME"), Access(patience=Patience(read=20)))
    except CacheError as error:
        sys.exit(str(error))
"""


def child(server: Server, place: Place, limit: int = 0) -> subprocess.Popen[str]:
    arguments = [server.url("/net.pth"), str(place.target), place.sha256, str(limit)]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE")
def test_full_disk_while_writing_stays_resumable(get, place, server) -> None:
    with child(server, place, limit=HALF + 1000) as process:
        assert process.stderr is not None
        message = process.stderr.read()
    server.files["/net.pth"] = File(DATA)
    assert process.returncode == 1
    assert f"lacks {len(DATA) - HALF - 1000:,} bytes" in message
    assert "TORCH_HOME" in message
    assert place.size() == HALF + 1000
    assert get() == SHA256
    assert ranges(server) == [None, f"bytes={HALF + 1000}-"]


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_each_kind_of_full_disk_tells_what_to_do(place, name) -> None:
    number = getattr(errno, name, errno.ENOSPC)  # Windows has no EDQUOT
    full = pytest.raises(CacheError, match=r"full.* set RESNEST_HOME")
    with full, download.writing(place.target.parent, "RESNEST_HOME"):
        raise OSError(number, "full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")
def test_enospc_while_writing(place) -> None:
    with FileIO("/dev/full", "r+") as file, pytest.raises(CacheError, match=r"lacks .* bytes"):
        place.write(file, b"1234", None)


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_NOFILE")
def test_no_more_files_can_be_opened(get, place, server) -> None:
    import resource

    assert get() == SHA256  # whatever is imported on the way
    place.target.unlink()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # those that are open stay so
    try:
        with pytest.raises(DownloadError, match="Too many open files"):
            get()
        with pytest.raises(CacheError, match="ulimit -n"):
            begin(place, server)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_folder_that_cannot_be_written(get, place) -> None:
    place.target.parent.rmdir()
    place.target.parent.write_text("a file where the folder should be")
    with pytest.raises(CacheError, match=r"cache folder .* cannot be written: .* set TORCH_HOME"):
        get()


@pytest.mark.parametrize("total_known", [True, False])
def test_kill_9_is_resumed(get, place, server, total_known) -> None:
    framing = "length" if total_known else "chunked"
    server.script("/net.pth", Reply(send=HALF + 10, then="stall", framing=framing))
    with child(server, place) as process:
        wait_for(lambda: place.size() >= HALF)
        process.kill()
    arrived = place.size()
    assert arrived >= HALF
    assert not place.target.exists()
    assert json.loads(place.note.read_text())["total"] == (len(DATA) if total_known else None)
    assert get() == SHA256
    assert ranges(server) == [None, f"bytes={arrived}-"]
    assert_whole(place)


def test_copy_of_a_local_mirror(place, tmp_path, recorder) -> None:
    source = tmp_path / "mirror.pth"
    source.write_bytes(DATA)
    assert download.copy(source, place, recorder) == SHA256
    assert_whole(place)
    assert recorder.events[1] == (0, len(DATA))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (LFS, "LFS"), (OTHER, "wrong file")]
)
def test_copy_of_a_bad_mirror(place, tmp_path, content, message) -> None:
    source = tmp_path / "mirror.pth"
    if content:
        source.write_bytes(content)
    with pytest.raises(DownloadError, match=message):
        download.copy(source, place)
    assert not place.target.exists()


def test_passwords_are_not_shown() -> None:
    assert net.without_login("https://me:secret@host:8/x") == "https://host:8/x"
