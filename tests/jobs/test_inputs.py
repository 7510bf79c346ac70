"""What the command line names, as inputs; on this machine and on a file system of fsspec."""

import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.images.sources import SourceStats, iter_sources
from resnest_cli.jobs import inputs
from resnest_cli.jobs.filesystems import opened
from resnest_cli.jobs.inputs import iter_inputs
from resnest_cli.jobs.listing import Input
from resnest_cli.options import RunOptions
from tests.conftest import make_photo

pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")


def options(*inputs: object, from_file: Path | None = None, recursive: bool = True) -> RunOptions:
    listed = str(from_file) if from_file else None
    return RunOptions(tuple(map(str, inputs)), listed, recursive=recursive)


def found(*inputs: object, column: str = "path", **more: object) -> list[Input]:
    return list(iter_inputs(options(*inputs, **more), column, SourceStats()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("img10.png", "img2.png", "sub/a.JPG", "b.jpeg"):
        make_photo(folder / "x.png").rename(folder / name)
    (folder / "notes.txt").write_text("no photo")
    (folder / ".hidden.png").write_text("hidden")
    return folder


@pytest.fixture
def memory():
    """An empty file system in memory, of fsspec."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def shard(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            content = path.with_name("content")
            content.write_bytes(data)
            archive.add(content, name.replace("_", "."))
    return path


def test_a_folder_is_read_as_by_the_local_runner(folder: Path) -> None:
    stats = SourceStats()
    names = [item.name for item in iter_inputs(options(folder), "path", stats)]
    assert names == [source.name for source in iter_sources([str(folder)])]
    assert len(names) == 4
    assert stats.skipped == 1


def test_an_address_gives_the_same_files_in_the_same_order(folder: Path) -> None:
    stats = SourceStats()
    address = f"file://{folder}/"
    names = [item.name for item in iter_inputs(options(address), "path", stats)]
    assert names == [f"file://{item.name}" for item in found(folder)]
    assert stats.skipped == 1
    assert [i.name for i in found(address, recursive=False)] == [n for n in names if "sub" not in n]


def test_a_glob_on_a_file_system(folder: Path) -> None:
    names = [item.name for item in found(f"file://{folder}/img*.png")]
    assert names == [f"file://{folder}/img2.png", f"file://{folder}/img10.png"]
    assert [item.name for item in found(f"file://{folder}/s*/*")] == [f"file://{folder}/sub/a.JPG"]
    (missing,) = found(f"file://{folder}/*.webp")
    assert missing == (missing.name, "matched nothing", "is a pattern that matches no file", 0, 0)
    with pytest.raises(UsageError, match="no \\*\\* here"):
        found(f"file://{folder}/**/*.png")


def test_addresses_of_files_are_escaped(tmp_path: Path) -> None:
    odd = tmp_path / "p q"
    odd.mkdir()
    photos = [make_photo(odd / name) for name in ("100%25.png", "a b.png", "é#?.png")]
    address = f"file://{tmp_path}/p%20q"
    for named in (address, f"{address}/*.png", f"FILE://localhost{tmp_path}/p%20q/"):
        items = found(named)
        assert len(items) == 3
        assert [opened(item.where)[1] for item in items] == list(map(str, photos))
    with pytest.raises(ResnestError, match="of this machine"):
        found("file://nas/photos")


def test_droppings_of_systems_are_no_photos(folder: Path) -> None:
    for name in ("@eaDir/b.jpeg/SYNO.jpg", "__MACOSX/img2.png", "#recycle/a.png", "Thumbs.db"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    stats = SourceStats()
    names = [i.name for i in iter_inputs(options(f"file://{folder}"), "path", stats)]
    assert (len(names), stats.skipped) == (4, 1)
    assert len(found(f"file://{folder}/*/*")) == 1


def test_a_file_system_of_fsspec(memory) -> None:
    for name in ("/bucket/b.png", "/bucket/a.png", "/bucket/deep/c.jpg", "/bucket/d.txt"):
        memory.pipe_file(name, b"photo")
    names = [item.name for item in found("memory://bucket/")]
    assert names == [f"memory://bucket/{name}" for name in ("a.png", "b.png", "deep/c.jpg")]


def test_a_scheme_that_nobody_knows_is_told() -> None:
    with pytest.raises(UsageError, match="nosuch"):
        found("nosuch://bucket/photos")


def test_a_named_file_is_an_input_even_if_it_is_missing() -> None:
    assert [item.kind for item in found("file:///nowhere/a.png", "nowhere.png")] == ["file", "file"]
    (url,) = found("https://user:secret@example.org/a.png")
    assert url.kind == "url"
    assert url.name == "https://example.org/a.png"


def test_relative_names_are_kept_and_found_from_anywhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    for item in found("photos"):
        assert item.name.startswith("photos/")
        assert item.where == str(folder.parent / item.name)


def test_a_list_file(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(
        f"{folder}/b.jpeg\nfile://{folder}/img2.png\nhttp://localhost/x.jpg\n{folder}\n"
    )
    kinds = [(item.kind, item.name) for item in found(from_file=listed)]
    assert kinds[:3] == [
        ("file", f"{folder}/b.jpeg"),
        ("file", f"{folder}/img2.png"),
        ("url", "http://localhost/x.jpg"),
    ]
    assert len(kinds) == 7


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_manifest(folder: Path, tmp_path: Path, suffix: str) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    table = pa.table({"n": [1, 2, 3], "photo": [f"{folder}/b.jpeg", None, "https://x.org/1.png"]})
    path = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        pa.csv.write_csv(table, path)
    else:
        pa.parquet.write_table(table, path)
    for name in (path, f"file://{path}"):
        items = found(name, column="photo")
        assert [item.kind for item in items] == ["file", "missing", "url"]
        assert items[0].where == f"{folder}/b.jpeg"
        assert (items[1].name, items[1].where) == (f"{name}:2", "has no photo in this row")
        with pytest.raises(UsageError, match=r"has n, photo\. Name the column"):
            found(name)
    with pytest.raises(UsageError, match="cannot read the list of inputs"):
        found(tmp_path / f"missing.{suffix}")


def test_shards(tmp_path: Path) -> None:
    content = {"a_png": b"first photo", "a_json": b"{}", "b_jpg": b"second"}
    paths = [shard(tmp_path / f"{number}.tar", **content) for number in (10, 9)]
    stats = SourceStats()
    items = list(iter_inputs(options(tmp_path / "*.tar"), "path", stats))
    names = [f"{tmp_path}/{n}.tar/{member}" for n in (9, 10) for member in ("a.png", "b.jpg")]
    assert [item.name for item in items] == names
    assert stats.skipped == 2
    for item in items:
        with Path(item.where).open("rb") as file:
            file.seek(item.offset)
            assert file.read(item.size) == content[item.name.rpartition("/")[2].replace(".", "_")]
    assert [i.name for i in found(paths[0])] == names[2:]
    assert [i.name for i in found(f"file://{tmp_path}/*.tar")] == [f"file://{n}" for n in names]


def test_shards_far_away_are_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many small photos cost few reads, and so few answers of a server."""
    reads = []

    class Far(io.FileIO):
        def readinto(self, buffer: memoryview) -> int:
            reads.append(len(buffer))
            return super().readinto(buffer)

        def size(self) -> int:
            return os.path.getsize(self.name)  # noqa: PTH202

    path = shard(tmp_path / "many.tar", **{f"{index}_png": b"x" * 900 for index in range(300)})
    system = SimpleNamespace(open_input_file=Far, type_name="far")
    monkeypatch.setattr(inputs, "opened", lambda _: (system, str(path)))
    names = [item.name for item in found("file:///far/many.tar")]
    assert names == [f"file:///far/many.tar/{index}.png" for index in range(300)]
    assert len(reads) < 5


def test_shards_are_looked_into_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several at a time; each waits here until another has begun."""
    both = threading.Barrier(2, timeout=60)
    look = inputs.members

    def slow(shard: Input, stats: SourceStats) -> Iterator[Input]:
        both.wait()
        yield from look(shard, stats)

    monkeypatch.setattr(inputs, "members", slow)
    paths = [shard(tmp_path / f"{n}.tar", a_png=b"photo", b_txt=b"no") for n in range(2)]
    photo = make_photo(tmp_path / "p.png")
    stats = SourceStats()
    items = list(iter_inputs(options(paths[0], photo, paths[1]), "path", stats))
    assert [item.name for item in items] == [f"{paths[0]}/a.png", str(photo), f"{paths[1]}/a.png"]
    assert stats.skipped == 2


def test_shards_may_be_looked_into_elsewhere(tmp_path: Path) -> None:
    """No more than so many ahead, and photos between them keep their places."""
    begun, ahead = [], []

    def begin(shard: Input) -> Future[inputs.Looked]:
        begun.append(shard)
        future = Future[inputs.Looked]()
        future.set_result(([Input(f"{shard.name}/a.png", "member", shard.where, 512, 5)], 1))
        return future

    paths = [str(tmp_path / f"{number}.tar") for number in range(6)]
    given = options(*paths[:3], tmp_path / "p.png", *paths[3:])
    stats, names = SourceStats(), []
    for item in iter_inputs(given, "path", stats, begin, 2):
        names.append(item.name)
        ahead.append(len(begun) - sum(name.endswith("a.png") for name in names))
    expected = [f"{path}/a.png" for path in paths]
    assert names == [*expected[:3], str(tmp_path / "p.png"), *expected[3:]]
    assert max(ahead) == 2
    assert stats.skipped == 6


@pytest.mark.parametrize("count", [1, 3])
def test_of_several_nodes_all_look_into_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    pytest.importorskip("ray")
    from resnest_cli.jobs import ray

    begun = []

    def in_tasks(function: Callable[[Input], inputs.Looked]) -> Callable[[Input], Future]:
        def begin(shard: Input) -> Future[inputs.Looked]:
            begun.append(shard.where)
            future = Future[inputs.Looked]()
            future.set_result(function(shard))
            return future

        return begin

    monkeypatch.setattr(ray, "nodes", lambda: {str(n): {"CPU": 2.0} for n in range(count)})
    monkeypatch.setattr(ray, "in_tasks", in_tasks)
    path = shard(tmp_path / "a.tar", a_png=b"photo")
    job = SimpleNamespace(options=options(path), path_column="path", output="s3://bucket/out")
    runner = ray.RayRunner(job, None)
    assert [item.name for item in runner.inputs(SourceStats())] == [f"{path}/a.png"]
    assert begun == ([] if count == 1 else [str(path)])


@pytest.mark.parametrize("far", [False, True])
def test_a_damaged_shard_is_an_input_with_an_error(tmp_path: Path, memory, far: bool) -> None:
    good = shard(tmp_path / "good.tar", a_png=b"x" * 5000, b_png=b"y" * 5000)
    cut = tmp_path / "cut.tar"
    (tmp_path / "none.tar").write_bytes(b"this is no archive, but long enough to be read" * 50)
    whole = good.read_bytes()
    for size in (7000, 7400, 9000):  # in a header, behind one, in a photo
        cut.write_bytes(whole[:size])
        memory.pipe_file("/bucket/cut.tar", whole[:size])
        name = "memory://bucket/cut.tar" if far else str(cut)
        first, second = found(name)
        assert first.name == f"{name}/a.png"
        assert (second.name, second.kind) == (name, "damaged")
        assert second.where.startswith("is a tar shard that is truncated")
    assert len(found(good)) == 2
    (none,) = found(tmp_path / "none.tar")
    assert none.where.startswith("is no tar shard that can be read")
    (missing,) = found(tmp_path / "missing.tar")
    assert (missing.kind, missing.where) == ("missing", "does not exist")


def test_a_photo_on_stdin_is_refused() -> None:
    with pytest.raises(UsageError, match="--runner local"):
        found("-")
