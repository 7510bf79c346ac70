"""Where the photo of a record goes, and what goes with it."""

import os
from pathlib import Path

import pytest

from resnest_cli.errors import ImageError
from resnest_cli.inference.ranking import Prediction, Record
from resnest_cli.options import How
from resnest_cli.sorting.plan import Entry, Planner
from resnest_cli.sorting.transfer import do

NAMES = ("cat", "dog", "a/b")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()


def made(name: str, text: str = "photo") -> str:
    path = Path("in", name)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    return str(path)


def record(name: str, index: int = 0, **more: object) -> Record:
    return Record(name, "m", None, (Prediction(1, index, NAMES[index], 0.9),), **more)  # type: ignore[arg-type]


def planner(how: How = "move", **more: bool) -> Planner:
    return Planner(Path("out"), how, NAMES, **more)


def places(entry: Entry) -> dict[str, str]:
    return {os.path.relpath(step.source, "in"): step.target for step in entry.steps}


def test_a_photo_goes_to_its_class_and_refused_answers_to_unsure() -> None:
    photos = [made(f"{i}.jpg") for i in range(5)]
    plan = planner().plan
    assert plan(record(photos[0], 2)).record.sorted_to == ("a_b/0.jpg",)
    assert plan(record(photos[1], unsure=False, unknown=True)).record.sorted_to == ("unsure/1.jpg",)
    assert plan(record(photos[2], unsure=True)).record.sorted_to == ("unsure/2.jpg",)
    nothing = Record(photos[3], "m")  # --threshold has left no class
    assert plan(nothing).record.sorted_to == ("unsure/3.jpg",)
    failed = plan(Record(photos[4], "m", str(ImageError("is empty"))))
    assert (failed.record.sorted_to, failed.steps, failed.stays) == ((), (), "error")


@pytest.mark.parametrize(
    "name", ["https://x.org/a.jpg", "-", "a.zip/in/a.jpg", "in/a.gif#frame=2", "in"]
)
def test_what_is_no_file_stays(name: str) -> None:
    made("a.gif")
    assert planner("copy").plan(record(name)).stays == "no file"


def test_a_photo_in_a_class_folder_stays_and_one_named_twice_goes_once() -> None:
    plan = Planner(Path("in"), "move", NAMES).plan
    assert plan(record(made("dog/1.jpg"), 0)).stays == "sorted before"
    assert plan(record(made("unsure/deep/1.jpg"), 0)).stays == "sorted before"
    assert places(plan(record(made("2.jpg"), 0))) == {"2.jpg": "cat/2.jpg"}
    assert plan(record("in/../in/2.jpg", 1)).stays == "named twice"
    Path("alias").symlink_to("in")
    assert plan(record("alias/2.jpg", 1)).stays == "named twice"
    assert places(plan(record(made("other/2.jpg"), 0))) == {"other/2.jpg": "cat/2-2.jpg"}


def test_names_are_new_without_case_on_the_disk_and_in_the_plan() -> None:
    Path("out/cat").mkdir(parents=True)
    Path("out/cat/1.jpg").write_text("another")
    plan = planner().plan
    assert places(plan(record(made("1.jpg")))) == {"1.jpg": "cat/1-2.jpg"}
    assert places(plan(record(made("b/1-2.JPG")))) == {"b/1-2.JPG": "cat/1-2-2.JPG"}
    assert places(plan(record(made("d/1.jpg")))) == {"d/1.jpg": "cat/1-3.jpg"}
    assert places(plan(record(made("c/1.jpg"), 1))) == {"c/1.jpg": "dog/1.jpg"}


def test_sidecars_take_the_name_of_their_photo() -> None:
    for name in ("1.jpg.xmp", "1.XMP", "1.mov", "b/1.jpg.XMP", "2.xmp", "2.cr2", "2.jpg.xmp"):
        made(name)
    plan = planner(live_photos=True).plan
    made("cat")
    assert places(plan(record(made("1.jpg")))) == {
        "1.jpg": "cat/1.jpg", "1.jpg.xmp": "cat/1.jpg.xmp", "1.XMP": "cat/1.XMP",
        "1.mov": "cat/1.mov",
    }  # fmt: skip
    assert places(plan(record(made("b/1.jpg")))) == {
        "b/1.jpg": "cat/1-2.jpg", "b/1.jpg.XMP": "cat/1-2.jpg.XMP"
    }  # fmt: skip
    assert "1.mov" not in places(planner().plan(record("in/1.jpg")))
    # The raw photo's, too: it stays with that.
    assert places(plan(record(made("2.jpg")))) == {
        "2.jpg": "cat/2.jpg", "2.jpg.xmp": "cat/2.jpg.xmp"
    }  # fmt: skip


def test_a_sidecar_that_is_in_the_way_gives_the_photo_another_name_too() -> None:
    Path("out/cat").mkdir(parents=True)
    Path("out/cat/1.xmp").write_text("another's")
    made("1.xmp")
    assert places(planner().plan(record(made("1.jpg")))) == {
        "1.jpg": "cat/1-2.jpg", "1.xmp": "cat/1-2.xmp"
    }  # fmt: skip


def several(name: str, *selected: bool) -> Record:
    found = (Prediction(i + 1, i, NAMES[i], 0.9 - i / 10, s) for i, s in enumerate(selected))
    return Record(name, "m", None, tuple(found), several=True)


def test_of_several_labels_a_copy_goes_to_each_and_a_move_to_the_best() -> None:
    photo, none = made("1.jpg"), made("2.jpg")
    assert planner("link").plan(several(photo, False, True, True)).record.sorted_to == (
        "dog/1.jpg", "a_b/1.jpg"
    )  # fmt: skip
    assert planner("move").plan(several(photo, False, True, True)).record.sorted_to == (
        "dog/1.jpg",
    )
    assert planner("copy").plan(several(none, False)).record.sorted_to == ("no label/2.jpg",)


@pytest.mark.parametrize("how", ["copy", "link"])
def test_what_an_earlier_run_has_copied_is_not_copied_again(how: How) -> None:
    photos = [made("1.jpg"), made("b/1.jpg"), made("c/1.jpg", "other")]
    first = planner(how)
    entries = [first.plan(record(photo)) for photo in photos]
    Path("out/cat").mkdir(parents=True)
    for entry in entries:
        for step in entry.steps:
            do(step, how, Path("out"))
    again = planner(how)
    found = [again.plan(record(photo)) for photo in photos]
    assert [entry.stays for entry in found] == ["there already"] * 3
    assert [e.record.sorted_to for e in found] == [e.record.sorted_to for e in entries]
    assert planner("move").plan(record(photos[0])).record.sorted_to == ("cat/1-4.jpg",)


def test_names_of_a_plan_that_goes_on_stay_taken() -> None:
    first, photos = planner(), [made("1.jpg"), made("b/1.jpg")]
    entry = first.plan(record(photos[0]))
    second = planner()
    second.remember(entry)
    assert second.plan(record(photos[0])).stays == "named twice"
    assert places(second.plan(record(photos[1]))) == {"b/1.jpg": "cat/1-2.jpg"}
