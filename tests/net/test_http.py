"""What a server may send to be read: lines that end, lengths that are some."""

import io
from http.client import HTTPException

import pytest

from resnest_cli.net import HttpError, Patience, http


def reader(data: bytes) -> http._Reader:
    return http._Reader(io.BytesIO(data))


def test_a_line_without_end_is_not_read_to_its_end() -> None:
    lines = reader(b"short\r\n" + b"x" * 10_000_000)
    assert lines.readline() == b"short\r\n"
    with pytest.raises(HTTPException, match="a line without end"):
        lines.readline()
    assert len(lines.raw.read()) > 9_000_000


@pytest.mark.parametrize("size", [-1, -5, None])
def test_nothing_is_read_to_its_end(size: int | None) -> None:
    with pytest.raises(HTTPException, match="a length that is none"):
        reader(b"x" * 10).read(size)


def test_a_deadline_is_put_off_while_enough_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 0.0, 1.9, 2.0, 2.0, 3.9))
    monkeypatch.setattr(http.time, "monotonic", lambda: next(clock))
    deadline, fixed = http.Deadline(2, slowest=10), http.Deadline(2)
    deadline.advance(10)
    fixed.advance(1000)
    deadline.advance(10)  # at 1.9
    assert not deadline.expired
    assert fixed.expired
    assert deadline.expired  # at 3.9


@pytest.mark.parametrize(
    ("error", "options", "attempts", "pauses"),
    [
        (HttpError("no", again=True), {}, 3, [0.5, 1.0]),
        (HttpError("no", again=True, wait=7), {}, 3, [7, 7]),
        (HttpError("no"), {}, 1, []),
        (HttpError("no", again=True), {"furthered": lambda: True}, 50, [0.5] * 49),
        (HttpError("no", again=True, wait=7), {"deadline": http.Deadline(5)}, 1, []),
    ],
    ids=["as often as asked", "as the server asks", "final", "while it helps", "no time left"],
)
def test_one_loop_of_attempts(error, options, attempts, pauses) -> None:
    slept, made, said = [], [], []

    def attempt() -> None:
        made.append(1)
        raise error

    patience = Patience(attempts=3, pause=0.5, sleep=slept.append)
    with pytest.raises(HttpError, match="no"):
        http.persevere(attempt, patience, notify=said.append, **options)
    assert (len(made), slept) == (attempts, pauses)
    assert len(said) == len(pauses)
