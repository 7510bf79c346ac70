import io
import itertools
import os
import sys
import tracemalloc
from pathlib import Path

import pytest

from resnest_cli.errors import ImageError, UsageError
from resnest_cli.images import folders
from resnest_cli.images.decode import decode
from resnest_cli.images.sources import EXTENSIONS, Source, SourceStats, is_one, iter_sources
from resnest_cli.inference.photos import as_source

posix_names = pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="such names do not exist there"
)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder that is also the current one; files are empty, nothing here reads them."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def names(*inputs, **options):
    """The names, each with a mark in front for what is not a path."""
    marked = []
    for source in iter_sources(inputs, **options):
        kind = "E " if source.error else "U " if source.url else ""
        fields = (source.path, source.url, source.data, source.error)
        assert sum(field is not None for field in fields) == 1
        assert source.path in (None, source.name)
        marked.append(kind + source.name.replace(os.sep, "/"))
    return marked


# Explicit inputs


def test_named_inputs_come_in_order_whatever_they_are(tree):
    tree("b.jpg", "a.txt")
    inputs = ["b.jpg", "none.jpg", "a.txt", "", "http://h/x.jpg", "HTTPS://h/*?[1]", "b.jpg"]
    expected = ["b.jpg", "none.jpg", "a.txt", "", "U http://h/x.jpg", "U HTTPS://h/*?[1]", "b.jpg"]
    assert names(*inputs) == expected
    assert names() == []


def test_an_address_is_only_recognised(tree):
    assert list(iter_sources(["https://host/a%20b.jpg?x=1"])) == [
        Source("https://host/a%20b.jpg?x=1", url="https://host/a%20b.jpg?x=1")
    ]


def test_hidden_files_and_folders_when_named(tree):
    tree(".hidden.jpg", ".folder/a.jpg", ".folder/.b.jpg")
    assert names(".hidden.jpg", ".folder", ".folder/.b.jpg") == [
        ".hidden.jpg", ".folder/a.jpg", ".folder/.b.jpg",
    ]  # fmt: skip


def test_every_named_file_that_cannot_be_read_gets_its_error(tree):
    folder = tree("text.jpg", "folder.jpg/readme.md")
    (folder / "text.jpg").write_text("hello")
    sources = list(iter_sources(["none.jpg", "text.jpg", "a\0b"]))
    messages = []
    for source in sources:
        with pytest.raises(ImageError) as caught:
            decode(source.path)
        messages.append(str(caught.value))
    assert messages[:2] == ["does not exist", "is not an image: starts with 'hello'"]
    assert len(messages) == 3


# Folders


def test_folder_in_natural_order(tree):
    tree(*(f"p/{n}.jpg" for n in ("img10", "img2", "IMG1", "img2b", "img02", "a", "B", "c")))
    tree("p/dir2/x.png", "p/dir10/x.png", "p/2020-01-10.jpg", "p/2020-01-9.jpg")
    expected = [
        "2020-01-9.jpg", "2020-01-10.jpg", "a.jpg", "B.jpg", "c.jpg", "dir2/x.png", "dir10/x.png",
        "IMG1.jpg", "img02.jpg", "img2.jpg", "img2b.jpg", "img10.jpg",
    ]  # fmt: skip
    assert names("p") == [f"p/{name}" for name in expected]


def test_natural_order_of_long_numbers(tree):
    digits = ["9" * 200, "1" + "0" * 200, "0" * 220 + "7"]
    tree(*(f"{number}.jpg" for number in digits))
    assert names(".") == [f"./{number}.jpg" for number in (digits[2], digits[0], digits[1])]


def test_order_does_not_depend_on_the_listing(tree, monkeypatch):
    tree(*(f"p/{name}.jpg" for name in ("a1", "a01", "A1", "a001", "b")))
    expected = names("p")
    real = os.scandir

    class Reversed:
        def __init__(self, path):
            self.entries = sorted(real(path), key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(os, "scandir", Reversed)
    assert names("p") == expected


def test_folder_is_named_as_given(tree):
    root = tree("p/q/a.jpg")
    assert names("p") == ["p/q/a.jpg"]
    assert names("p/") == ["p/q/a.jpg"]
    assert names("./p") == ["./p/q/a.jpg"]
    assert names(".") == ["./p/q/a.jpg"]
    assert names("p/../p/q") == ["p/../p/q/a.jpg"]
    assert names(str(root / "p")) == [(root / "p/q/a.jpg").as_posix()]


def test_folder_not_recursive(tree):
    tree("p/a.jpg", "p/q/b.jpg")
    assert names("p", recursive=False) == ["p/a.jpg"]


def test_extensions_in_any_case(tree):
    known = sorted(f"p/a{suffix}" for suffix in EXTENSIONS)
    loud = sorted(f"p/b{suffix.upper()}" for suffix in EXTENSIONS)
    others = ["p/a.txt", "p/jpg", "p/b.jpg.part", "p/c.mp4", "p/d.", "p/e.svg"]
    tree(*known, *loud, *others)
    stats = SourceStats()
    assert sorted(names("p", stats=stats)) == known + loud
    assert stats.skipped == len(others)
    wanted = "jpg jpeg jpe jfif png webp avif gif bmp tif tiff mpo ppm pgm pbm pnm ico heic heif"
    assert {f".{suffix}" for suffix in wanted.split()} == EXTENSIONS


def test_hidden_names_are_passed_over(tree):
    tree("p/.a.jpg", "p/.thumbs/b.jpg", "p/.DS_Store", "p/._c.jpg", "p/c.jpg")
    stats = SourceStats()
    assert names("p", stats=stats) == ["p/c.jpg"]
    assert stats.skipped == 0


def test_folder_with_the_name_of_a_photo(tree):
    tree("p/x.jpg/y.png")
    assert names("p") == ["p/x.jpg/y.png"]
    assert names("p/x.jpg") == ["p/x.jpg/y.png"]


def test_empty_folders_give_nothing(tree):
    (tree() / "empty" / "inner").mkdir(parents=True)
    assert names("empty") == []


def test_links_to_folders_and_files(tree):
    root = tree("real/a.jpg")
    (root / "p").mkdir()
    (root / "p" / "linked").symlink_to(root / "real")
    (root / "p" / "b.jpg").symlink_to(root / "real" / "a.jpg")
    (root / "p" / "dangling.jpg").symlink_to(root / "none")
    (root / "p" / "self.jpg").symlink_to(root / "p" / "self.jpg")
    assert names("p") == ["p/b.jpg", "p/dangling.jpg", "p/linked/a.jpg", "p/self.jpg"]


@pytest.mark.timeout(120)
def test_loops_of_links_end(tree):
    root = tree("p/a.jpg", "p/q/b.jpg", "x/c.jpg", "y/d.jpg")
    (root / "p" / "q" / "up").symlink_to(root / "p")
    (root / "p" / "here").symlink_to(".")
    (root / "x" / "to_y").symlink_to(root / "y")
    (root / "y" / "to_x").symlink_to(root / "x")
    assert names("p") == ["p/a.jpg", "p/q/b.jpg"]
    assert names("x") == ["x/c.jpg", "x/to_y/d.jpg"]
    assert names("p/**/*.jpg") == ["p/a.jpg", "p/q/b.jpg"]


@pytest.mark.timeout(120)
def test_loops_end_without_inodes(tree, monkeypatch):
    """As on file systems of Windows, where the number is 0."""
    root = tree("p/a.jpg", "p/q/b.jpg")
    (root / "p" / "q" / "up").symlink_to(root / "p")
    real = os.stat

    def without_inode(path, **options):
        status = list(real(path, **options))
        return os.stat_result([status[0], 0, *status[2:]])

    monkeypatch.setattr(os, "stat", without_inode)
    assert folders._identity("p") == os.path.realpath("p")
    assert names("p") == ["p/a.jpg", "p/q/b.jpg"]


def test_the_same_folder_twice_is_no_loop(tree):
    root = tree("real/a.jpg", "p/z.jpg")
    (root / "p" / "one").symlink_to(root / "real")
    (root / "p" / "two").symlink_to(root / "real")
    assert names("p", "p") == ["p/one/a.jpg", "p/two/a.jpg", "p/z.jpg"] * 2


def refuse(monkeypatch, *refused):
    """Root may read everything, so a folder without permission is played."""
    real = os.scandir

    def scandir(path):
        if Path(path).name in refused:
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_unreadable_folder_is_a_record(tree, monkeypatch):
    tree("p/a.jpg", "p/locked/b.jpg", "p/z.jpg")
    refuse(monkeypatch, "locked")
    assert names("p") == ["p/a.jpg", "E p/locked", "p/z.jpg"]
    assert names("p/*") == ["p/a.jpg", "E p/locked", "p/z.jpg"]
    assert names("p/**/*.jpg") == ["p/a.jpg", "E p/locked", "p/z.jpg"]
    assert names("p/locked/*.jpg") == ["E p/locked/"]
    (source,) = iter_sources(["p/locked"])
    assert source.error == "is a folder that cannot be read: permission denied"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_file_in_a_folder_without_permission(tree):
    root = tree("p/a.jpg")
    (root / "p").chmod(0)
    try:
        assert names("p", "p/a.jpg") == ["E p", "p/a.jpg"]
    finally:
        (root / "p").chmod(0o700)


def test_folders_nest_thousands_deep(tree, monkeypatch):
    root, depth = tree(), 1500
    assert depth > sys.getrecursionlimit()
    for _ in range(depth):  # one at a time: pytest's clean-up could not remove so many
        os.mkdir("d")  # noqa: PTH102
        os.chdir("d")
    photo = Path("a.jpg")
    try:
        photo.touch()
        os.chdir(root)
        assert names("d") == ["d/" * depth + "a.jpg"]
        assert names("d/**/*.jpg") == ["d/" * depth + "a.jpg"]
    finally:
        os.chdir(root)
        for _ in range(depth):
            os.chdir("d")
        photo.unlink()
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")  # noqa: PTH106


@posix_names
def test_odd_names_pass_unharmed(tree):
    odd = ["line\nbreak.jpg", " space .jpg", "caf\udce9.jpg", "狗.jpg", "-x.jpg", "q\"uote'.jpg"]
    tree(*(f"p/{name}" for name in odd))
    found = names("p")
    assert sorted(found) == sorted(f"p/{name}" for name in odd)
    assert all(Path(name).exists() for name in found)


# Globs


def test_globs(tree):
    tree(
        "p/a1.jpg",
        "p/a2.jpg",
        "p/a10.jpg",
        "p/b.png",
        "p/c.txt",
        "p/.h.jpg",
        "p/q/d.jpg",
        "r/e.jpg",
    )
    stats = SourceStats()
    assert names("p/a?.jpg") == ["p/a1.jpg", "p/a2.jpg"]
    assert names("p/a[!1]*.jpg") == ["p/a2.jpg"]
    assert names("p/*.jpg") == ["p/a1.jpg", "p/a2.jpg", "p/a10.jpg"]
    assert names("?/*.png", "*/q/*") == ["p/b.png", "p/q/d.jpg"]
    assert names("p/*.[jp][pn]g", stats=stats)[-1] == "p/b.png"
    assert stats.skipped == 0
    assert names("./r/*") == ["./r/e.jpg"]
    assert names("*/../r/*.jpg") == ["p/../r/e.jpg", "r/../r/e.jpg"]
    assert names("p/.*") == ["p/.h.jpg"]


def test_glob_of_folders_reads_them_as_the_shell_would(tree):
    tree("p/a.jpg", "p/c.txt", "p/q/d.jpg", "p/q/s/e.jpg")
    stats = SourceStats()
    assert names("p/*", stats=stats) == ["p/a.jpg", "p/q/d.jpg", "p/q/s/e.jpg"]
    assert stats.skipped == 1
    assert names("p/*", recursive=False) == ["p/a.jpg", "p/q/d.jpg"]
    assert names("p/*/") == ["p/q/d.jpg", "p/q/s/e.jpg"]
    assert names("*") == ["p/a.jpg", "p/q/d.jpg", "p/q/s/e.jpg"]


def test_deep_globs_give_each_file_once(tree):
    tree("p/a.jpg", "p/b.txt", "p/q/c.jpg", "p/q/q/d.png", "p/.h/e.jpg", "p/q/.f.jpg", "z/g.jpg")
    below = ["p/a.jpg", "p/q/c.jpg", "p/q/q/d.png"]
    stats = SourceStats()
    assert names("p/**", stats=stats) == below
    assert stats.skipped == 1
    assert names("p/**/", "p/**/*", "p/**/**/*", "p/**/*.*") == below * 4
    assert names("**/*.jpg") == ["p/a.jpg", "p/q/c.jpg", "z/g.jpg"]
    assert names("**/q/*") == ["p/q/c.jpg", "p/q/q/d.png"]
    assert names("*/**/q/**/*.jpg") == ["p/q/c.jpg"]
    assert names("p/**/q/**/q/*.png") == ["p/q/q/d.png"]
    assert names("p/**/.h/*.jpg", "p/**/.*.jpg") == ["p/.h/e.jpg", "p/q/.f.jpg"]
    assert names("p/**", recursive=False) == below  # asked for in so many words


def test_glob_that_matches_nothing_gets_a_record(tree):
    tree("p/a.txt")
    errors = {source.name: source.error for source in iter_sources(["p/*.jpg", "no/*", "p/*.txt"])}
    assert errors == {
        "p/*.jpg": "is a pattern that matches no file",
        "no/*": "is a pattern that matches no file",
        "p/*.txt": "is a pattern that matches 1 file, none of them an image",
    }


@posix_names
def test_what_exists_is_taken_literally(tree):
    root = tree("a[1].jpg", "a1.jpg", "p[x]/b.jpg", "px/c.jpg", "what?.jpg", "**.jpg")
    (root / "l*nk.jpg").symlink_to("none")
    assert names("a[1].jpg", "p[x]", "what?.jpg", "**.jpg", "l*nk.jpg") == [
        "a[1].jpg", "p[x]/b.jpg", "what?.jpg", "**.jpg", "l*nk.jpg",
    ]  # fmt: skip
    assert names("p[x]/*.jpg") == ["px/c.jpg"]


def test_globs_with_the_separators_of_windows(monkeypatch):
    """The parts of the pattern only; the rest needs its file system."""
    monkeypatch.setattr(folders, "_SEPARATORS", "\\/")
    monkeypatch.setattr(folders, "is_folder", lambda path: True)
    seen = []
    monkeypatch.setattr(folders, "_select", lambda *args: seen.append(args) or iter(()))
    for pattern in ("C:\\pics\\*.jpg", "C:\\pics/sub*\\x.jpg", "*.jpg", "..\\a?\\"):
        list(folders.expand(pattern))
    assert seen == [
        ("C:\\pics\\", ["*.jpg"]),
        ("C:\\pics/", ["sub*", "x.jpg"]),
        ("", ["*.jpg"]),
        ("..\\", ["a?", ""]),
    ]
    monkeypatch.setattr(os, "sep", "\\")
    assert folders._join("C:\\pics", "a.jpg") == "C:\\pics\\a.jpg"
    assert folders._join("C:/pics/", "a.jpg") == "C:/pics/a.jpg"


# Lists


def test_list_file(tree):
    root = tree("a.jpg", "p/b.jpg", "p/c.txt")
    lines = b"a.jpg\r\n\n  \np\nhttps://h/d.jpg\r\n*.jpg\n-\nnone.jpg\n# not a comment.jpg\n x.jpg "
    (root / "list.txt").write_bytes(lines)
    stats = SourceStats()
    expected = [
        "a.jpg", "p/b.jpg", "U https://h/d.jpg", "*.jpg", "-", "none.jpg", "# not a comment.jpg",
        " x.jpg ",
    ]  # fmt: skip
    assert names(from_file="list.txt", stats=stats) == expected
    assert stats.skipped == 1
    assert names("first.jpg", from_file="list.txt") == ["first.jpg", *expected]


def test_list_on_stdin(tree):
    tree("a.jpg")
    assert names(from_file="-", stdin=io.BytesIO(b"a.jpg\nb.jpg")) == ["a.jpg", "b.jpg"]


def test_null_separated_list(tree):
    data = b"a b.jpg\0line\nbreak.jpg\0\0carriage\r\0caf\xe9.jpg\0"
    expected = ["a b.jpg", "line\nbreak.jpg", "carriage\r", "caf\udce9.jpg"]
    for stream in (data, data[:-1]):
        assert names(from_file="-", null_separated=True, stdin=io.BytesIO(stream)) == expected
    many = [f"{number:0100}.jpg" for number in range(2000)]  # several chunks
    stream = io.BytesIO("\0".join(many).encode())
    assert names(from_file="-", null_separated=True, stdin=stream) == many


@posix_names
def test_names_that_are_no_text_come_through_a_list(tree):
    root = tree("caf\udce9.jpg")
    (source,) = iter_sources([], from_file="-", stdin=io.BytesIO(b"caf\xe9.jpg\n"))
    assert Path(source.path).exists()
    assert os.fsencode(source.name) == b"caf\xe9.jpg"
    assert [path.name for path in root.iterdir()] == [source.path]


def test_byte_order_marks(tree):
    assert names(from_file="-", stdin=io.BytesIO(b"\xef\xbb\xbfa.jpg\n")) == ["a.jpg"]
    with pytest.raises(UsageError, match="is UTF-16; use UTF-8"):
        names(from_file="-", stdin=io.BytesIO("a.jpg\r\n".encode("utf-16")))


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n\r\n", b"  \n"])
def test_empty_lists_give_nothing(tree, data):
    assert names(from_file="-", stdin=io.BytesIO(data)) == []
    assert names(from_file="-", null_separated=True, stdin=io.BytesIO(b"\0\0")) == []


def test_lists_that_cannot_be_read_fail_before_the_run(tree):
    (tree() / "folder").mkdir()
    with pytest.raises(UsageError, match=r"list of inputs none\.txt: cannot be read: No such file"):
        iter_sources(["a.jpg"], from_file="none.txt")
    with pytest.raises(UsageError, match="folder is a folder; name it as an input"):
        iter_sources(["a.jpg"], from_file="folder")
    for odd in ("", "a\0b"):
        with pytest.raises(UsageError):
            iter_sources(["a.jpg"], from_file=odd)


def test_disk_error_in_a_list():
    class Broken(io.BytesIO):
        def __next__(self):
            raise OSError(5, "Input/output error")

    with pytest.raises(
        UsageError, match="the list of inputs -: cannot be read: Input/output error"
    ):
        names(from_file="-", stdin=Broken())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.timeout(120)
def test_list_from_a_pipe_is_opened_once(tree):
    """As in `--from-file <(find ...)`."""
    import threading

    pipe = tree() / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"a.jpg\nb.jpg\n",))
    writer.start()
    assert names(from_file="pipe") == ["a.jpg", "b.jpg"]
    writer.join()


# Standard input


def test_image_on_stdin():
    sources = list(iter_sources(["a.jpg", "-", "b.jpg"], stdin=io.BytesIO(b"bytes")))
    assert sources[1] == Source("-", data=b"bytes")
    assert "bytes" not in repr(sources[1])
    assert [source.name for source in sources] == ["a.jpg", "-", "b.jpg"]


def test_stdin_twice_or_closed(monkeypatch):
    first, second = iter_sources(["-", "-"], stdin=io.BytesIO(b"bytes"))
    assert first.data == b"bytes"
    assert second.error == "is standard input, which was read already"
    closed = io.BytesIO()
    closed.close()
    assert names("-", stdin=closed) == ["E -"]
    monkeypatch.setattr(sys, "stdin", None)
    assert names("-") == ["E -"]
    with pytest.raises(UsageError, match="standard input is closed"):
        names(from_file="-")


def test_stdin_cannot_be_both():
    with pytest.raises(UsageError, match="both an image and their list"):
        names("a.jpg", "-", from_file="-", stdin=io.BytesIO(b"x"))


def test_stdin_of_the_process(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"bytes")))
    assert next(iter_sources(["-"])).data == b"bytes"


# Laziness


def test_inputs_are_taken_one_at_a_time():
    endless = (f"{number}.jpg" for number in itertools.count())
    first = list(itertools.islice(iter_sources(endless), 5))
    assert [source.name for source in first] == [f"{number}.jpg" for number in range(5)]
    assert next(endless) == "5.jpg"


def test_folders_are_listed_when_their_turn_comes(tree, monkeypatch):
    tree("p/a/1.jpg", "p/b/2.jpg", "q/3.jpg")
    listed = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or real(path))
    sources = iter_sources(["p", "q"])
    assert listed == []
    next(sources)
    assert listed == ["p", "p/a".replace("/", os.sep)]


@pytest.mark.parametrize("null_separated", [False, True])
def test_long_lists_are_not_held_in_memory(null_separated):
    count, width = 100_000, 90

    class Lines(io.RawIOBase):
        """A list of a hundred thousand lines that is nowhere as a whole."""

        line = b"x" * (width - 1) + (b"\0" if null_separated else b"\n")
        left = count * width

        def readable(self):
            return True

        def readinto(self, buffer):
            size = min(len(buffer) // width * width, self.left)
            buffer[:size] = self.line * (size // width)
            self.left -= size
            return size

    stream = io.BufferedReader(Lines(), 2**16)
    sources = iter_sources([], from_file="-", null_separated=null_separated, stdin=stream)
    tracemalloc.start()
    try:
        assert sum(1 for _ in sources) == count
        assert tracemalloc.get_traced_memory()[1] < 2_000_000  # the list has 9 MB
    finally:
        tracemalloc.stop()


# Addresses of files


@pytest.mark.parametrize(
    ("form", "path"),
    [
        ("file://{}/a.jpg", "a.jpg"),
        ("FILE://{}/a.jpg", "a.jpg"),
        ("file:{}/a.jpg", "a.jpg"),
        ("file://localhost{}/a.jpg", "a.jpg"),
        ("file://{}/a%20b.jpg", "a b.jpg"),
        ("file://{}/caf%C3%A9.jpg", "café.jpg"),
        ("file://{}/100%25.jpg", "100%.jpg"),
        ("file://{}/gone.jpg", "gone.jpg"),
    ],
)
def test_an_address_of_a_file_is_its_path(tree, form, path):
    root = tree("a.jpg", "a b.jpg", "café.jpg", "100%.jpg")
    address = form.format(root.as_posix())
    expected = Source(str(root / path), path=str(root / path))
    assert list(iter_sources([address])) == [expected]
    assert as_source(address) == expected
    Path("list").write_text(f"{address}\n")
    assert list(iter_sources([], from_file="list")) == [expected]
    assert is_one(address)


def test_addresses_of_folders_and_globs(tree):
    root = tree("p q/a.jpg", "p q/b.png", "p q/c.txt")
    address = f"file://{root.as_posix()}/p%20q"
    expected = [f"{root}/p q/a.jpg", f"{root}/p q/b.png"]
    assert names(address) == names(f"{address}/") == names(f"{address}/*g") == expected
    assert not is_one(address)
    assert not is_one(f"{address}/*g")


@pytest.mark.parametrize("address", ["file://nas/photos/a.jpg", "file://10.0.0.1/a.jpg"])
def test_an_address_on_another_machine_is_an_error(tree, address):
    error = "is an address of a file on another machine; file:/// begins one of this"
    assert list(iter_sources([address])) == [Source(address, error=error, kind="missing")]
    assert as_source(address) == Source(address, error=error, kind="missing")


# What systems leave behind

DROPPINGS = [
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/p/._a.jpg", "__MACOSX/a.jpg",
    ".ipynb_checkpoints/a-checkpoint.jpg", "#recycle/a.jpg", "#snapshot/a.jpg", "@Recycle/a.jpg",
    "$RECYCLE.BIN/S-1-5/$R1.jpg", "System Volume Information/a.jpg", "lost+found/a.jpg",
    ".Trash-1000/files/a.jpg", ".Trashes/a.jpg", ".@__thumb/a.jpg", "._a.jpg", "Thumbs.db",
    "thumbs.db", "desktop.ini", "Desktop.ini", ".DS_Store", "deep/@eaDir/a.jpg",
]  # fmt: skip


def test_droppings_of_systems_are_no_photos(tree):
    tree("p/a.jpg", "p/deep/b.jpg", *(f"p/{name}" for name in DROPPINGS))
    stats = SourceStats()
    photos = ["p/a.jpg", "p/deep/b.jpg"]
    assert names("p", stats=stats) == photos
    assert names("p/**", stats=stats) == names("p/**/*.jpg", stats=stats) == photos
    assert names("p/*", stats=stats) == photos
    assert names("p/.*", stats=stats) == ["E p/.*"]
    assert stats.skipped == 0


def test_a_dropping_that_is_named_is_read(tree):
    tree("p/@eaDir/a.jpg", "p/q/@eaDir/b.jpg", "p/._c.jpg", "p/Thumbs.db")
    assert names("p/._c.jpg", "p/Thumbs.db") == ["p/._c.jpg", "p/Thumbs.db"]
    assert names("p/@eaDir") == names("p/@eaDir/*") == ["p/@eaDir/a.jpg"]
    assert names("p/**/@eaDir/*.jpg") == ["p/@eaDir/a.jpg", "p/q/@eaDir/b.jpg"]


@pytest.mark.parametrize(
    "name", ["@ea", "macosx", "recycler", "thumbs", "Thumbs.jpg", "lost", "_a.jpg", ".a.jpg", "#1"]
)
def test_names_that_only_look_like_droppings(name):
    assert not folders.is_dropping(name)
