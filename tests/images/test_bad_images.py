"""Hundreds of bad files among good ones, through the whole pipeline: a record each, in order."""

import pickle
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.images.batches import prepared_batches
from resnest_cli.images.decode import decode
from resnest_cli.images.sources import Source, iter_sources
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.ranking import Record
from tests.images.corpus import Case, bad_files, encoded, good_files
from tests.server import File, Server

pytestmark = pytest.mark.timeout(120)

GOOD = {f"{case.kind}/{case.name}": case for case in good_files()}
BAD = {f"{case.kind}/{case.name}": case for case in bad_files()}


def test_every_error_has_a_kind_that_its_copies_keep(tmp_path: Path) -> None:
    errors = []
    for case in BAD.values():
        try:
            decode(case.data)
        except ImageError as error:
            errors.append(error)
    copies = pickle.loads(pickle.dumps(errors))
    assert [(str(e), e.kind) for e in copies] == [(str(e), e.kind) for e in errors]
    kinds = {error.kind for error in copies}
    assert kinds == {"empty", "truncated", "damaged", "not an image", "too large"}
    (tmp_path / "text.jpg").write_text("no photo")
    texts = [str(tmp_path / name) for name in ("text.jpg", "none.jpg", "*.gif")]

    def prepare(source: Source) -> tuple[np.ndarray, None]:
        if source.error is not None:
            raise ImageError(source.error, kind=source.kind or "other")
        return np.asarray(decode(str(source.path))), None

    (found,) = prepared_batches(iter_sources(texts), prepare, size=8, workers=0, ahead=1)
    assert [item.kind for item in found] == ["not an image", "missing", "matched nothing"]
    assert ImageError("in other words").kind == "other"


@dataclass
class Run:
    """Every case in the order it was read, with the records that came out."""

    cases: list[Case]
    sources: list[Source]
    records: list[Record]

    def outcomes(self, kind: str) -> Counter[str]:
        pairs = zip(self.cases, self.records, strict=True)
        return Counter(record.status for case, record in pairs if case.kind == kind)


@pytest.fixture(scope="module")
def classifier(tiny_checkpoint: Path) -> Classifier:
    return Classifier(str(tiny_checkpoint), device="cpu", engine="torch")


@pytest.fixture(scope="module")
def run(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All files, good among bad, read from disk by two threads."""
    folder = tmp_path_factory.mktemp("photos")
    cases = [*GOOD.values(), *BAD.values()]
    order = np.random.default_rng(0).permutation(len(cases))
    cases = [cases[index] for index in order]
    sources = []
    for index, case in enumerate(cases):
        path = folder / f"{index} {case.name}"
        path.write_bytes(case.data)
        sources.append(Source(str(path), path=str(path)))
    records = list(classifier.records(sources, batch_size=16, workers=2))
    assert all(Path(s.path).read_bytes() == c.data for s, c in zip(sources, cases, strict=True))
    return Run(cases, sources, records)


def test_there_are_enough_of_them() -> None:
    assert len(BAD) >= 400
    assert len(GOOD) >= 90
    assert sum(case.kind == "truncated" for case in BAD.values()) >= 300


def test_one_record_each_in_order(run: Run) -> None:
    assert [record.input for record in run.records] == [source.name for source in run.sources]
    for record in run.records:
        assert (record.error is None) == (len(record.predictions) == 5)
        assert record.error is None or (record.error and record.error.isprintable())


def test_every_case_ends_as_it_should(run: Run) -> None:
    wrong = [
        f"{case.kind}/{case.name}: {record.error}"
        for case, record in zip(run.cases, run.records, strict=True)
        if case.expect in ("ok", "error") and record.status != case.expect
    ]
    assert wrong == []


def test_good_photos_give_what_they_give_alone(run: Run, classifier: Classifier) -> None:
    pairs = zip(run.sources, run.records, strict=True)
    good = [(s, r) for (s, r), case in zip(pairs, run.cases, strict=True) if case.expect == "ok"]
    for source, record in good:
        (alone,) = classifier.records([source])
        assert _probabilities(record) == pytest.approx(_probabilities(alone), abs=1e-5)


def _probabilities(record: Record) -> dict[int, float]:
    return {found.index: found.probability for found in record.predictions}


def test_orientations_and_first_frames_give_the_upright_still_photo(run: Run) -> None:
    answers = {
        f"{case.kind}/{case.name}": _probabilities(record)
        for case, record in zip(run.cases, run.records, strict=True)
    }
    alike = [(name, case.like) for name, case in GOOD.items() if case.like]
    assert len(alike) >= 50
    for name, like in alike:
        assert answers[name] == pytest.approx(answers[like], abs=1e-5), name


def test_alike_means_every_pixel() -> None:
    for name, case in GOOD.items():
        if case.like:
            expected = np.asarray(decode(GOOD[case.like].data))
            np.testing.assert_array_equal(np.asarray(decode(case.data)), expected, err_msg=name)


def test_a_truncated_photo_is_an_error_or_whole_and_never_half(run: Run) -> None:
    """What is cut off a few formats' end is no pixel: a trailer, or a second picture."""
    whole = []
    for case, record in zip(run.cases, run.records, strict=True):
        if case.expect == "whole" and record.error is None:
            expected = np.asarray(decode(GOOD[case.like].data))
            np.testing.assert_array_equal(np.asarray(decode(case.data)), expected)
            whole.append(case.name)
    assert len(whole) <= 12, whole
    assert not [name for name in whole if name.endswith(("jpg", "ppm", "bmp"))]


def test_bits_flipped_are_found_where_the_format_can_tell(run: Run) -> None:
    """Checksums and headers tell of about half of them; pixels of BMP or PPM tell of none."""
    outcomes = run.outcomes("bits flipped")
    assert outcomes["error"] >= 40, outcomes


def test_bombs_are_refused(run: Run) -> None:
    assert run.outcomes("bomb") == {"error": 10}


def test_inputs_that_are_no_files(classifier: Classifier, tmp_path: Path) -> None:
    data = GOOD["good/png"].data
    names = ["good.png", "folder.jpg", "loop.jpg", "missing.jpg", "unreadable.jpg", "last.png"]
    paths = {name: tmp_path / name for name in names}
    for name in ("good.png", "last.png"):
        paths[name].write_bytes(data)
    paths["folder.jpg"].mkdir()
    paths["loop.jpg"].symlink_to("loop.jpg")
    paths["unreadable.jpg"].symlink_to("/proc/self/mem" if sys.platform == "linux" else "/nowhere")
    sources = [Source(name, path=str(path)) for name, path in paths.items()]
    sources.insert(3, Source("bad\0name.jpg", path=str(tmp_path / "bad\0name.jpg")))
    records = list(classifier.records(sources, workers=2))
    assert [record.status for record in records] == ["ok", *["error"] * 5, "ok"]
    assert _probabilities(records[0]) == pytest.approx(_probabilities(records[-1]), abs=1e-5)


def test_addresses_among_files(classifier: Classifier, server: Server, tmp_path: Path) -> None:
    data = GOOD["good/png"].data
    server.files["/good.png"] = File(data)
    server.files["/page.jpg"] = File(b"<html>Please log in</html>")
    server.files["/half.png"] = File(data[: len(data) // 2])
    names = ["/good.png", "/page.jpg", "/gone.png", "/half.png", "/good.png"]
    sources = [Source(server.url(name), url=server.url(name)) for name in names]
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    records = list(classifier.records([Source("file", path=str(path)), *sources], workers=3))
    reasons = [None, None, "is a web page", "404 Not Found", "is truncated", None]
    for record, reason in zip(records, reasons, strict=True):
        assert record.error is None if reason is None else reason in record.error
        if reason is None:
            assert _probabilities(record) == pytest.approx(_probabilities(records[0]), abs=1e-5)


def test_floats_too_close_to_tell_apart_are_flat_without_a_warning() -> None:
    """Found by the fuzzer: their span was rounded to 0, and divided by."""
    for values in ([[0.0, -1e-45]], [[-1e-45, -1e-44]], [[1e-39, -1e-39]]):
        data = encoded("TIFF", Image.fromarray(np.array(values, np.float32)))
        assert np.asarray(decode(data)).max() == 0


def test_signalling_nans_are_black_without_a_warning() -> None:
    """Found by the fuzzer: arithmetic on them is `invalid` to the processor."""
    values = np.array([[0x7F8000FF, 0xFF8000FF, 0x3F800000]], np.uint32).view(np.float32)
    data = encoded("TIFF", Image.fromarray(values))
    assert np.asarray(decode(data))[0, :, 0].tolist() == [0, 0, 255]


def test_any_bytes_are_a_photo_or_an_error(tmp_path: Path) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path)
    heads = [case.data[:size] for case in GOOD.values() for size in (4, 16, 64)]
    tails = [case.data[at:] for case in GOOD.values() for at in (64, 200)]
    strategies = hypothesis.strategies
    parts = strategies.lists(
        strategies.one_of(
            strategies.sampled_from(heads), strategies.binary(), strategies.sampled_from(tails)
        ),
        max_size=4,
    )

    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @hypothesis.given(parts)
    def check(pieces: list[bytes]) -> None:
        try:
            outcome = decode(b"".join(pieces), max_pixels=2**20).mode
        except ImageError as error:
            outcome = str(error)
        assert outcome
        assert outcome.isprintable()

    check()
