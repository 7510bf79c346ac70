"""A teacher's answers on disk: those that it gives, whatever happens, and as training has them."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from resnest_cli.data.dataset import Sample
from resnest_cli.errors import ResnestError
from resnest_cli.files import lock_file
from resnest_cli.images.decode import decode
from resnest_cli.model.training_photos import DIGEST_BYTES, digest_of
from resnest_cli.model.variants import Preprocessing
from resnest_cli.progress import ignore, silent
from resnest_cli.signals import StoppedError
from resnest_cli.training import teacher_answers, teacher_crops
from resnest_cli.training.augment import Augment, RandomCrop
from resnest_cli.training.loader import Batches
from resnest_cli.training.lost_photos import DataLostError
from resnest_cli.training.order import Draw, FixedCrops, Key, ShardPhotos
from resnest_cli.training.settings import Config
from resnest_cli.training.teacher import Teacher
from resnest_cli.training.teacher_answers import TeacherAnswers, packed, unpacked
from resnest_cli.training.teacher_crops import Questions
from tests.conftest import make_photo

SIZE, CLASSES, PHOTOS, CHUNK = 16, 3, 20, 8
STUDENT = Preprocessing(SIZE, 1.0, "bilinear")
CONFIG = Config(
    command="train", data="d", model="m", recipe="quick", teacher="t", teacher_crops=4, seed=5,
    device="cpu", img_size=SIZE, batch_size=4,
)  # fmt: skip


def colours(photos: torch.Tensor) -> torch.Tensor:
    """What the teacher answers: more of the columns on the left, as a mirror would not."""
    left = photos[..., : SIZE // 2]
    return 4 * left.mean(dim=(2, 3)) - photos.mean(dim=(1, 2, 3))[:, None]


def teacher(answer: Callable[[torch.Tensor], torch.Tensor] = colours, digest: str = "d") -> Teacher:
    preprocessing = Preprocessing(SIZE, 1.0, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    names = ("red", "green", "blue")
    made = Teacher("wise.onnx", digest, "", None, names, preprocessing, lambda: answer)
    return made.of_student(names, names, STUDENT)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_answers, "CHUNK", CHUNK)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return [sample(tmp_path / f"{index}.jpg", index) for index in range(PHOTOS)]


def sample(path: Path, index: int) -> Sample:
    make_photo(path, (40 + index, 30), seed=index)
    return Sample(str(path), path.name, index % CLASSES, digest_of(path)[:DIGEST_BYTES])


def asked(samples: list[Sample], folder: Path, config: Config = CONFIG) -> Questions:
    return Questions.of(teacher(), samples, config, folder)


def answered(samples: list[Sample], folder: Path, config: Config = CONFIG) -> TeacherAnswers:
    questions = asked(samples, folder, config)
    questions.answer(silent, lambda: None, ignore)
    return questions.answers


def written(answers: TeacherAnswers) -> bytes:
    return (answers.folder / "answers").read_bytes()


def stopping(after: int) -> Callable[[], None]:
    """Raises the time after so many."""
    left = iter(range(after))

    def check() -> None:
        if next(left, None) is None:
            raise StoppedError("stopped")

    return check


# Crops


@pytest.mark.parametrize("change", [{}, {"scale": 0.9, "ratio": 3.0}, {"hflip": 0.0}])
def test_crops_are_drawn_as_torchvision_draws_them(change: dict) -> None:
    config = replace(CONFIG, **change)
    law, random = RandomCrop(config), np.random.default_rng(0)
    ratio = 1 / config.ratio, config.ratio
    theirs = v2.RandomResizedCrop(8, scale=(config.scale, 1.0), ratio=ratio)
    mirror = v2.RandomHorizontalFlip(config.hflip)
    for seed, (width, height) in enumerate([(40, 30), (1, 300), (300, 2), (1, 1), (7, 9)] * 20):
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        torch.manual_seed(seed)
        expected = mirror(theirs(image)) if config.hflip else theirs(image)
        crop = law.drawn(image, seed)
        assert crop.of(image, STUDENT, 8).tobytes() == expected.tobytes()
        torch.manual_seed(seed)
        assert law(image) == crop


def test_a_crop_of_its_own_seed_is_the_same_in_every_colour_and_size(samples: list[Sample]) -> None:
    image = decode(samples[0].path)
    still = replace(CONFIG, scale=0.3)
    crop = RandomCrop(still).drawn(image, 77)
    for size in (SIZE, 24):
        preprocessing = replace(STUDENT, size=size)
        seen = Augment(still, preprocessing)(image, 1, crop_seed=77)
        again = Augment(replace(still, scale=1.0, ratio=1.0, hflip=0.0), preprocessing)
        assert torch.equal(seen, Augment(still, preprocessing)(image, 2, crop_seed=77))
        expected = again(crop.of(image, preprocessing, size), 0)
        assert torch.equal(seen, expected)
    coloured = Augment(replace(still, color_jitter=0.4), STUDENT)
    assert not torch.equal(coloured(image, 1, crop_seed=77), coloured(image, 2, crop_seed=77))
    assert torch.equal(coloured(image, 1, crop_seed=77), coloured(image, 1, crop_seed=77))


def test_crops_follow_from_seed_content_and_number() -> None:
    crops, photo = FixedCrops(0, 4), Sample("/a/b.jpg", "b.jpg", 0, b"content")
    seeds = {crops.drawn_from(photo, number) for number in range(4)}
    assert len(seeds) == 4
    assert {crops.drawn_from(replace(photo, name="c", label=2), n) for n in range(4)} == seeds
    for other in (FixedCrops(1, 4), FixedCrops(0, 4)):
        changed = photo if other.seed else replace(photo, digest=b"another")
        assert not seeds & {other.drawn_from(changed, number) for number in range(4)}
    drawn = [crops.number(Key(epoch, 3, repeat)) for epoch in range(20) for repeat in range(2)]
    assert set(drawn) == {0, 1, 2, 3}
    assert drawn == [crops.number(Key(epoch, 3, r)) for epoch in range(20) for r in range(2)]
    assert drawn[::2] != drawn[1::2]


# Records


@pytest.mark.parametrize("classes", [2, 50, 51, 1000, 70_000])
def test_records_keep_the_best_and_the_mass_of_the_rest(classes: int) -> None:
    logits = 6 * np.random.default_rng(0).standard_normal((5, classes), np.float32)
    records = packed(logits)
    exact = torch.log_softmax(torch.from_numpy(logits), 1).numpy()
    found = np.stack([unpacked(record, classes) for record in records])
    assert records.dtype.itemsize <= (302 if classes > 2**16 else 202)
    for row, kept in zip(exact, found, strict=True):
        best = np.argsort(-row)[:50]
        np.testing.assert_allclose(kept[best], row[best], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(np.exp(kept).sum(), 1, rtol=2e-3)
        others = np.delete(kept, best)
        assert len(set(others.tolist())) <= 1


def test_probabilities_of_nothing_stay_finite() -> None:
    logits = np.full((1, 60), -1e6, np.float32)
    logits[0, 7] = 1e6
    found = unpacked(packed(logits)[0], 60)
    assert found is not None
    assert np.isfinite(found).all()
    assert (found.argmax(), round(float(np.exp(found[7])), 3)) == (7, 1.0)


# The pass


def test_answers_are_those_of_the_teacher_that_is_asked_in_training(
    samples: list[Sample], tmp_path: Path
) -> None:
    answers, online = answered(samples, tmp_path / "t"), teacher()
    augment = Augment(CONFIG, STUDENT)
    for place, one in enumerate(samples):
        for number in range(4):
            seed = answers.crops.drawn_from(one, number)
            photo = augment(decode(one.path), 0, crop_seed=seed)
            expected = torch.log_softmax(online.answers(photo[None]), 1)[0]
            found = answers.of(place, number)
            assert found is not None
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert answers.size == len(written(answers)) == PHOTOS * 4 * (2 * 3 + 2 * 3 + 2)


def test_answers_travel_without_their_file(samples: list[Sample], tmp_path: Path) -> None:
    answers = answered(samples, tmp_path / "t")
    first = answers.of(3, 1)
    data = pickle.dumps(answers)
    assert len(data) < 1000
    found = pickle.loads(data).of(3, 1)
    assert found is not None
    assert first is not None
    assert torch.equal(found, first)
    (answers.folder / "answers").unlink()
    with pytest.raises(ResnestError, match="answers: the teacher's answers cannot be read"):
        pickle.loads(data).of(3, 1)


def test_what_was_stopped_goes_on_to_the_same_bytes(samples: list[Sample], tmp_path: Path) -> None:
    expected = written(answered(samples, tmp_path / "whole"))
    questions, shown = asked(samples, tmp_path / "t"), list[tuple[int, int | None]]()
    for after in (0, 5, 3):  # groups of two photos
        with pytest.raises(StoppedError):
            questions.answer(silent, stopping(after), ignore)
    missing = questions.answers.missing()
    assert missing == [2]
    questions.answer(
        lambda done, total=None, **_: shown.append((done, total)), lambda: None, ignore
    )
    assert shown[0] == (16, PHOTOS)
    assert shown[-1] == (PHOTOS, PHOTOS)
    assert written(questions.answers) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_loses_the_chunk_in_hand(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Killed before the records of the second chunk are written, and before they get their line."""
    expected = written(answered(samples, tmp_path / "whole"))
    questions = asked(samples, tmp_path / "t")

    def dying() -> None:
        real, name = teacher_answers.append, "append"

        def killed(path: Path, data: bytes) -> None:
            if data.startswith(b"1 "):
                os.kill(os.getpid(), signal.SIGKILL)
            real(path, data)

        if when == "before":
            monkeypatch.setattr(TeacherAnswers, "write", _kill_at_second(TeacherAnswers.write))
        else:
            monkeypatch.setattr(teacher_answers, name, killed)
        questions.answer(silent, lambda: None, ignore)

    process = multiprocessing.get_context("fork").Process(target=dying)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert questions.answers.missing() == [1, 2]
    assert written(answered(samples, tmp_path / "t")) == expected


def _kill_at_second(real: Callable[..., None]) -> Callable[..., None]:
    def write(self: TeacherAnswers, chunk: int, *more: object, **how: bool) -> None:
        if chunk == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, chunk, *more, **how)

    return write


def test_a_damaged_chunk_is_computed_again_and_no_other(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = answered(samples, tmp_path / "t")
    expected, path = written(answers), answers.folder / "answers"
    computed = list[str]()
    real = Questions._prepared
    monkeypatch.setattr(
        Questions,
        "_prepared",
        lambda self, source: computed.append(source.name) or real(self, source),
    )
    answered(samples, tmp_path / "t")
    assert not computed
    damaged = bytearray(expected)
    damaged[len(expected) // 2] ^= 1
    path.write_bytes(damaged)
    with (answers.folder / "chunks").open("ab") as file:
        file.write(b"2 0123")  # half a line
    assert answers.missing() == [1]
    assert not answers.missing(looked_into=False)
    assert written(answered(samples, tmp_path / "t")) == expected
    assert sorted(computed) == sorted(one.name for one in samples[CHUNK : 2 * CHUNK])
    path.write_bytes(expected[:-3])
    assert answers.missing() == [2]
    path.unlink()
    assert answers.missing() == [0, 1, 2]
    assert written(answered(samples, tmp_path / "t")) == expected


def test_chunks_of_many_crops_have_fewer_photos(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, config = samples[:5], replace(CONFIG, teacher_crops=9)
    expected = written(answered(samples, tmp_path / "whole", config))
    monkeypatch.setattr(teacher_answers, "_CHUNK_CROPS", 20)
    questions = asked(samples, tmp_path / "t", config)
    with pytest.raises(StoppedError):
        questions.answer(silent, stopping(1), ignore)
    assert questions.answers.missing() == [2]  # of two photos each, the last of one
    questions.answer(silent, lambda: None, ignore)
    assert written(questions.answers) == expected
    monkeypatch.undo()
    chunks = {
        count: TeacherAnswers(tmp_path, 1, 1, FixedCrops(0, count)).chunk
        for count in (1, 16, 17, 80, 9999)
    }
    assert chunks == {1: 64, 16: 64, 17: 32, 80: 8, 9999: 1}


def test_the_key_is_what_decides_the_answers(samples: list[Sample], tmp_path: Path) -> None:
    def key(of: Teacher, photos: list[Sample] = samples, **more: object) -> str:
        config = replace(CONFIG, **more)  # type: ignore[arg-type]
        return Questions.of(of, photos, config, tmp_path).answers.folder.name

    known = key(teacher())
    changed = [replace(samples[0], digest=b"another"), *samples[1:]]
    renamed = [replace(one, name=f"new/{one.name}", path="elsewhere") for one in samples]
    same = [
        key(teacher()), key(teacher(), renamed), key(teacher(), epochs=9),
        key(teacher(), color_jitter=0.5), key(teacher(), img_size=24), key(teacher(), workers=4),
    ]  # fmt: skip
    others = [
        key(teacher(digest="e")), key(replace(teacher(), columns=(1, 0, 2))),
        key(teacher(), changed), key(teacher(), samples[1:]), key(teacher(), samples[::-1]),
        key(teacher(), seed=6), key(teacher(), teacher_crops=5), key(teacher(), scale=0.5),
        key(teacher(), ratio=1.0), key(teacher(), hflip=0.0), key(teacher(), amp="bfloat16"),
        key(teacher(), device="cuda"),
    ]  # fmt: skip
    assert set(same) == {known}
    assert len({known, *others}) == 1 + len(others)


def test_a_photo_that_is_gone_is_left_out_until_it_is_back(
    samples: list[Sample], tmp_path: Path
) -> None:
    expected = written(answered(samples, tmp_path / "whole"))
    gone = Path(samples[9].path)
    gone.rename(tmp_path / "away")
    answers = answered(samples, tmp_path / "t")
    assert answers.missing() == [1]
    assert [place for place in range(PHOTOS) if answers.of(place, 2) is None] == [9]
    (tmp_path / "away").rename(gone)  # too late for this run
    augment = Augment(CONFIG, STUDENT)
    found = list(Batches(samples, augment, Draw(4, 5), answers=answers).epoch(0))
    (lost,) = [lost for batch in found for lost in batch.lost]
    assert (lost.place, lost.name) == (9, "9.jpg")
    assert "could not be read when the teacher was asked" in lost.error
    assert sorted(place for batch in found for place in batch.indices) == [
        place for place in range(PHOTOS) if place != 9
    ]
    assert written(answered(samples, tmp_path / "t")) == expected


def test_a_disk_that_is_gone_ends_the_pass(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_crops, "MOST_IN_A_ROW", 6)
    for one in samples[5:]:
        Path(one.path).unlink()
    with pytest.raises(DataLostError, match="6 training photos, one after the other, cannot be"):
        answered(samples, tmp_path / "t")


def test_no_room_on_the_disk(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 500}))
    with pytest.raises(ResnestError, match=r"need .* and the disk has .* --teacher-crops"):
        answered(samples, tmp_path / "t")


def test_answers_that_are_no_numbers(samples: list[Sample], tmp_path: Path) -> None:
    wrong = teacher(lambda photos: photos.mean(dim=(2, 3)).log())
    with pytest.raises(
        ResnestError, match=r"wise\.onnx answers \d+\.jpg with numbers that are not"
    ):
        Questions.of(wrong, samples, CONFIG, tmp_path).answer(silent, lambda: None, ignore)


def test_another_run_that_asks_the_same_is_waited_for(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_crops, "_POLL", 0.01)
    questions, said = asked(samples, tmp_path / "t"), list[str]()
    questions.answers.folder.mkdir(parents=True)
    with (
        lock_file(questions.answers.folder / "lock"),
        pytest.raises(StoppedError),
    ):
        questions.answer(silent, stopping(3), said.append)
    assert said == ["Another run is asking the teacher about these photos; waiting for it."]
    questions.answer(silent, lambda: None, said.append)
    assert len(said) == 1


def test_an_estimate_says_what_is_left(samples: list[Sample], tmp_path: Path) -> None:
    questions = asked(samples, tmp_path / "t")
    found = questions.estimate()
    assert (found.photos, found.bytes) == (PHOTOS, questions.answers.size)
    assert found.seconds > 0
    assert not questions.answers.folder.exists()
    with pytest.raises(StoppedError):
        questions.answer(silent, stopping(3), ignore)
    assert questions.estimate().photos == PHOTOS - CHUNK
    questions.answer(silent, lambda: None, ignore)
    assert questions.estimate()[:2] == (0, 0.0)


# Training


@pytest.mark.parametrize("how", ["plain", "worker", "repeats", "balanced", "cache", "growing"])
def test_batches_have_the_answer_to_the_crop_that_they_show(
    samples: list[Sample], tmp_path: Path, how: str
) -> None:
    answers = answered(samples, tmp_path / "t")
    config = replace(CONFIG, color_jitter=0.2, epochs=4)
    config = replace(config, start_size=8) if how == "growing" else config
    augment, repeats = Augment(config, STUDENT), 2 if how == "repeats" else 1
    draw = Draw(4, 5, balanced=how == "balanced", aug_repeats=repeats)
    photos = [decode(one.path) for one in samples] if how == "cache" else []
    loader = Batches(
        samples, augment, draw, workers=int(how == "worker"), photos=photos, answers=answers
    )
    keys = iter(loader._order.keys(1))  # type: ignore[union-attr]
    numbers = set()
    for batch in loader.epoch(1):
        assert batch.answers is not None
        assert batch.answers.shape == (len(batch.indices), CLASSES)
        for photo, answer, place in zip(batch.photos, batch.answers, batch.indices, strict=True):
            key, one = next(keys), samples[place]
            number = answers.crops.number(key)
            seed = answers.crops.drawn_from(one, number)
            assert torch.equal(photo, augment(decode(one.path), key.seed(5), 1, seed))
            expected = answers.of(place, number)
            assert expected is not None
            assert torch.equal(answer, expected)
            numbers.add(number)
    loader.close()
    assert numbers == {0, 1, 2, 3}
    assert (photo.shape[-1] == SIZE) == (how != "growing")


def test_without_answers_batches_have_none(samples: list[Sample]) -> None:
    (batch,) = Batches(samples[:4], Augment(CONFIG, STUDENT), Draw(4, 5)).epoch(0)
    assert batch.answers is None


def test_shards_give_the_same_answers(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    from resnest_cli.data.shards import find_shards
    from tests.data import making

    data = making.load(making.make_data(tmp_path / "data"))
    making.packed(tmp_path / "data", tmp_path / "shards")
    index = find_shards(str(tmp_path / "shards"), val_data=None, classes=None, progress=silent)
    shards = ShardPhotos(index.train, 3)
    questions = Questions.of(teacher(), shards, CONFIG, tmp_path / "t")
    with pytest.raises(StoppedError):
        questions.answer(silent, stopping(CHUNK), ignore)
    questions.answer(silent, lambda: None, ignore)
    folder = answered(list(data.train), tmp_path / "t")
    assert questions.answers.folder != folder.folder
    rows = [
        sorted(tuple(found.tolist()) for p in range(a.photos) if (found := a.of(p, 1)) is not None)
        for a in (questions.answers, folder)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == len(data.train)
    augment = Augment(CONFIG, STUDENT)
    for batch in Batches(shards, augment, Draw(4, 5), answers=questions.answers).epoch(0):
        assert batch.answers is not None
        torch.testing.assert_close(
            torch.log_softmax(teacher().answers(batch.photos), 1),
            batch.answers, rtol=1e-3, atol=1e-3,
        )  # fmt: skip
