"""Locating, downloading and verifying weights, with made-up files and a local server."""

import hashlib
import json
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from resnest_cli.errors import CacheError, DownloadError, OfflineError, WeightsError
from resnest_cli.files import lock_file
from resnest_cli.model import hashes, weights
from resnest_cli.model.variants import VARIANTS, HubModel, Variant, WeightsFile
from resnest_cli.net import Access, Patience, download
from tests.processes import wait_for
from tests.server import File, Reply, Server

DATA = random.Random(3).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
NAME = f"net-{SHA256[:8]}.pth"
HTML = b"<html>log in</html>" + b" " * 600
LABELS = b"tench\ngoldfish"
ROOT = Path(__file__).parents[2]

REPLIES_THAT_FAIL = {
    "404": Reply(404),
    "403": Reply(403),
    "html": Reply(200, HTML),
    "lfs": Reply(200, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "wrong hash": Reply(200, b"something else" * 100),
    "500": Reply(500),
}


@pytest.fixture(autouse=True)
def no_public_hosts(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks a real host: a labels URL that refuses at once."""
    monkeypatch.setattr(weights, "LABELS_URL", "http://127.0.0.1:9/imagenet_classes.txt")


@pytest.fixture
def variant(server: Server) -> Variant:
    """A variant whose file two hosts of the local server have."""
    for host in ("/a/", "/b/"):
        server.files[host + NAME] = File(DATA)
    file = WeightsFile(NAME, (server.url("/a/"), server.url("/b/")))
    hub = HubModel("timm/resnest14d.gluon_in1k")  # without the hash of the real one's file
    return replace(VARIANTS["resnest14d"], weights=file, hub=hub)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def access(said: list[str]) -> Access:
    patience = Patience(connect=2, read=0.5, attempts=2, sleep=lambda _: None)
    return Access(notify=said.append, patience=patience)


@pytest.fixture
def target(homes: Path) -> Path:
    return homes / "torch_home" / "hub" / "checkpoints" / NAME


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read in full to hash them."""
    read: list[Path] = []
    real = hashes.sha256_of
    monkeypatch.setattr(hashes, "sha256_of", lambda path: read.append(path) or real(path))
    return read


def put(path: Path, data: bytes = DATA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def asked(server: Server) -> list[str]:
    return [request.path for request in server.requests]


def huggingface(
    homes: Path,
    data: bytes = DATA,
    revision: str = "abc",
    name: str = "model.safetensors",
    repo: str = "models--timm--resnest14d.gluon_in1k",
    blob: str = "",
) -> Path:
    """What timm leaves under `$HF_HOME/hub`."""
    folder = homes / "hf_home" / "hub" / repo
    stored = put(folder / "blobs" / (blob or hashlib.sha256(data).hexdigest()), data)
    entry = folder / "snapshots" / revision / name
    entry.parent.mkdir(parents=True)
    try:
        entry.symlink_to(os.path.relpath(stored, entry.parent))
    except OSError:
        pytest.skip("this system makes no symbolic links")
    return entry


# --- where a file is found -------------------------------------------------------------------


def test_download_under_the_published_name(variant, access, server, target) -> None:
    assert weights.find_cached(variant) is None
    assert weights.ensure(variant, access) == target
    assert target.read_bytes() == DATA
    assert asked(server) == ["/a/" + NAME]
    assert [path.name for path in target.parent.iterdir()] == [NAME]
    assert weights.find_cached(variant) == target


def test_a_file_of_torch_hub_is_reused(variant, access, server, target) -> None:
    put(target)
    assert weights.ensure(variant, access) == target
    assert server.requests == []


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_of_timm_is_reused(variant, access, server, homes, name) -> None:
    entry = huggingface(homes, name=name)
    assert weights.find_cached(variant) == entry
    assert weights.ensure(variant, access) == entry
    assert server.requests == []


def test_timm_names_the_other_variants_differently(server, access, homes) -> None:
    file = WeightsFile(NAME, (server.url("/a/"),))
    entry = huggingface(homes, repo="models--timm--resnest50d.in1k")
    assert weights.ensure(replace(VARIANTS["resnest50d"], weights=file), access) == entry


def test_the_snapshot_of_refs_main_comes_first(variant, homes) -> None:
    old, new = huggingface(homes, revision="old"), huggingface(homes, revision="new")
    os.utime(old.parent, (1, 1))
    assert weights.find_cached(variant) == new
    put(homes / "hf_home/hub/models--timm--resnest14d.gluon_in1k/refs/main", b"old\n")
    assert weights.find_cached(variant) == old


def test_a_damaged_file_of_timm_is_not_used_nor_touched(
    variant, access, server, homes, target, said
) -> None:
    entry = huggingface(homes, b"damaged", blob=SHA256)
    assert weights.ensure(variant, access) == target
    assert entry.read_bytes() == b"damaged"
    assert len([line for line in said if "damaged" in line]) == 1


def test_a_file_of_timm_without_a_hash_is_taken(variant, access, server, homes) -> None:
    folder = homes / "hf_home/hub/models--timm--resnest14d.gluon_in1k/snapshots/abc"
    entry = put(folder / "model.safetensors", b"copied: no links on this system")
    assert weights.ensure(variant, access) == entry
    assert weights.verify(variant).expected == ""


def test_a_dangling_link_of_timm_is_ignored(variant, homes) -> None:
    entry = huggingface(homes)
    entry.resolve().unlink()
    assert weights.find_cached(variant) is None


def test_a_variant_without_weights(access, homes) -> None:
    huggingface(homes)  # of a network that has the same id
    custom = replace(VARIANTS["resnest14d"], weights=None)
    assert weights.find_cached(custom) is None
    for call in (lambda: weights.ensure(custom, access), lambda: weights.verify(custom)):
        with pytest.raises(WeightsError, match="--weights"):
            call()


# --- hosts and mirrors -----------------------------------------------------------------------


@pytest.mark.parametrize("reply", REPLIES_THAT_FAIL.values(), ids=REPLIES_THAT_FAIL)
def test_the_next_host_is_tried(variant, access, server, target, reply) -> None:
    server.script("/a/" + NAME, reply, reply)
    assert weights.ensure(variant, access) == target
    assert target.read_bytes() == DATA
    assert asked(server)[-1] == "/b/" + NAME


@pytest.mark.parametrize("reply", REPLIES_THAT_FAIL.values(), ids=REPLIES_THAT_FAIL)
def test_a_failing_host_never_leaves_a_final_file(variant, access, server, target, reply) -> None:
    for host in ("/a/", "/b/"):
        server.script(host + NAME, reply, reply)
    with pytest.raises(DownloadError):
        weights.ensure(variant, access)
    assert not target.exists()


def test_a_part_of_one_host_is_not_continued_at_another(variant, access, server, target) -> None:
    cut = Reply(send=200_000, then="close")
    server.script("/a/" + NAME, cut, Reply(404))
    assert weights.ensure(variant, access) == target
    assert server.requests[1].range
    assert server.requests[2].range is None
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_mirror_comes_first(variant, access, server, slash) -> None:
    server.files["/private/" + NAME] = File(DATA)
    weights.ensure(variant, replace(access, mirror=server.url("/private") + slash))
    assert asked(server)[0] == "/private/" + NAME
    assert "/a/" + NAME not in asked(server)


def test_the_hosts_follow_the_mirror(variant, access, server) -> None:
    weights.ensure(variant, replace(access, mirror=server.url("/private")))
    assert asked(server)[:2] == ["/private/" + NAME, "/a/" + NAME]


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("as_url", [False, True])
def test_a_folder_as_mirror(variant, access, server, homes, target, offline, as_url) -> None:
    folder = put(homes / "my mirror" / NAME).parent
    mirror = folder.as_uri() if as_url else str(folder)
    assert weights.ensure(variant, replace(access, mirror=mirror, offline=offline)) == target
    assert target.read_bytes() == DATA
    assert server.requests == []


def test_a_damaged_file_in_a_mirror_folder_falls_through(variant, access, server, homes) -> None:
    put(homes / "mirror" / NAME, b"damaged")
    weights.ensure(variant, replace(access, mirror=str(homes / "mirror")))
    assert asked(server)[0] == "/a/" + NAME


def test_offline_never_connects(variant, access, server, target, homes) -> None:
    offline = replace(access, offline=True, mirror=server.url("/private"))
    with pytest.raises(OfflineError) as caught:
        weights.ensure(variant, offline)
    assert server.requests == []
    for part in (
        NAME,
        "resnest14d",
        f"{target}: not there",
        "models--timm--resnest14d.gluon_in1k",
        "resnest download resnest14d",
        server.url("/a/" + NAME),
    ):
        assert part in str(caught.value)
    put(target)
    assert weights.ensure(variant, offline) == target


def test_offline_with_a_damaged_file_leaves_it(variant, access, target) -> None:
    put(target, b"damaged")
    with pytest.raises(OfflineError, match=f"{NAME}: damaged"):
        weights.ensure(variant, replace(access, offline=True))
    assert target.exists()


def test_no_network_says_everything(variant, access, target) -> None:
    hosts = ("http://me:secret@127.0.0.1:9/x/", "http://weights.invalid/")
    unreachable = replace(variant, weights=WeightsFile(NAME, hosts))
    with pytest.raises(DownloadError) as caught:
        weights.ensure(unreachable, access)
    message = str(caught.value)
    assert f"http://127.0.0.1:9/x/{NAME}: it cannot be reached" in message
    assert f"http://weights.invalid/{NAME}: its name cannot be resolved" in message
    assert "secret" not in message
    for part in (str(target), "browser", "HTTPS_PROXY", "REQUESTS_CA_BUNDLE", "--mirror"):
        assert part in message


# --- the user's own weights ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.pth", "no such file"),
        ("s3://bucket/x.pth", "http"),
        ("http://", "http"),
    ],
)
def test_weights_that_cannot_be_used(access, source, message) -> None:
    with pytest.raises(WeightsError, match=message):
        weights.fetched(source, access)


def test_a_url_is_fetched_once(access, server, homes) -> None:
    server.files["/own/my net.pth"] = File(DATA)
    server.files["/own/my%20net.pth"] = File(DATA)
    url = server.url("/own/my%20net.pth?key=1")
    path = weights.fetched(url, access)
    folder = hashlib.sha256(url.encode()).hexdigest()[:16]
    assert path == homes / "resnest_home" / "weights" / folder / "my_net.pth"
    assert path.read_bytes() == DATA
    assert weights.fetched(url, replace(access, offline=True)) == path
    assert len(server.requests) == 1
    assert not (homes / "resnest_home" / "imagenet_classes.txt").exists()


def test_the_hash_in_the_name_of_a_url_is_checked(access, server) -> None:
    name = f"/own-{SHA256}.safetensors"
    server.files[name] = File(b"something else" * 100)
    with pytest.raises(DownloadError, match="wrong file"):
        weights.fetched(server.url(name), access)
    server.files[name] = File(DATA)
    path = weights.fetched(server.url(name), access)
    put(path, b"damaged")
    assert weights.fetched(server.url(name), access).read_bytes() == DATA


def test_the_file_of_a_url_is_private(access, server, homes) -> None:
    server.files["/own.pth"] = File(DATA)
    before = os.umask(0)
    try:
        path = weights.fetched(server.url("/own.pth"), access)
    finally:
        os.umask(before)
    folders = [path, *path.parents[:3]]
    assert [f"{folder.stat().st_mode & 0o777:o}" for folder in folders] == ["600", *["700"] * 3]


@pytest.mark.skipif(os.name == "nt", reason="modes")
def test_the_file_of_a_url_that_others_can_write_is_not_used(access, server) -> None:
    """Where its name has no hash, nothing but its owner vouches for it."""
    for name in ("/own.pth", "/" + NAME):
        server.files[name] = File(DATA)
        weights.fetched(server.url(name), access).chmod(0o666)
    with pytest.raises(
        CacheError, match=r"own\.pth, .* can be written by other users.* RESNEST_HOME"
    ):
        weights.fetched(server.url("/own.pth"), access)
    assert weights.fetched(server.url("/" + NAME), access).read_bytes() == DATA


def test_a_published_file_has_the_size_of_its_network(variant, access, server, target) -> None:
    small = replace(variant, parameters=1000)
    with pytest.raises(DownloadError, match="larger than the limit of 8,000 bytes"):
        weights.ensure(small, access)
    assert not target.exists()


def test_a_url_offline(access, server) -> None:
    with pytest.raises(OfflineError, match=r"/own\.pth"):
        weights.fetched(server.url("/own.pth"), replace(access, offline=True))
    assert server.requests == []


def test_the_errors_of_a_url_name_its_variable(access, server, homes) -> None:
    server.files["/own.pth"] = File(DATA)
    put(homes / "resnest_home", b"a file where the folder should be")
    with pytest.raises(CacheError, match="RESNEST_HOME"):
        weights.fetched(server.url("/own.pth"), access)


# --- damage ----------------------------------------------------------------------------------


def test_a_cached_file_with_a_wrong_hash_is_replaced(variant, access, target, said) -> None:
    put(target, b"damaged")
    assert weights.ensure(variant, access) == target
    assert target.read_bytes() == DATA
    assert (target.parent / f"{NAME}.damaged").read_bytes() == b"damaged"
    assert len(said) == 1
    assert f"{NAME}.damaged" in said[0]


def test_a_file_damaged_later_is_noticed(variant, access, target) -> None:
    weights.ensure(variant, access)
    with target.open("r+b") as file:
        file.write(b"damage")
    os.utime(target, ns=(0, 0))  # two writes within one tick of a coarse clock look alike
    assert weights.ensure(variant, access).read_bytes() == DATA


def test_the_loader_sets_aside_what_it_cannot_read(variant, access, server, target) -> None:
    weights.ensure(variant, access)
    assert weights.set_aside(target).name == f"{NAME}.damaged"
    assert weights.find_cached(variant) is None
    assert weights.ensure(variant, access) == target
    assert weights.set_aside(target).name == f"{NAME}.damaged.2"
    assert weights.set_aside(target).name == f"{NAME}.damaged.3"  # gone already: no error
    assert asked(server).count("/a/" + NAME) == 2


def test_verify(variant, access, target) -> None:
    result = weights.verify(variant)
    assert (result.status, result.path, result.expected) == ("missing", target, SHA256[:8])
    weights.ensure(variant, access)
    result = weights.verify(variant)
    assert (result.status, result.path, result.actual) == ("ok", target, SHA256)


def test_verify_ignores_the_memory(variant, access, target) -> None:
    weights.ensure(variant, access)
    with target.open("r+b") as file:
        file.write(b"damage")
    hashes.remember(target, SHA256)
    assert weights.ensure(variant, access).read_bytes() != DATA  # what the memory cannot see
    result = weights.verify(variant)
    assert result.status == "damaged"
    assert result.actual == hashlib.sha256(target.read_bytes()).hexdigest()
    assert weights.ensure(variant, access).read_bytes() == DATA  # and it is forgotten


# --- memory of hashes ------------------------------------------------------------------------


def test_a_warm_start_does_not_read_the_file(variant, access, target, hashed) -> None:
    weights.ensure(variant, access)
    weights.ensure(variant, access)
    assert hashed == []  # the download itself has hashed it
    os.utime(target, ns=(1, 1))
    weights.ensure(variant, access)
    weights.ensure(variant, access)
    assert hashed == [target]
    put(target.with_name("twin")).rename(target)  # the same content in another inode
    os.utime(target, ns=(1, 1))
    weights.ensure(variant, access)
    assert hashed == [target, target]


def test_a_file_of_timm_is_hashed_once(variant, access, homes, hashed) -> None:
    entry = huggingface(homes)
    weights.ensure(variant, access)
    weights.ensure(variant, access)
    assert hashed == [entry]


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff", b'{"x": 1}', b"[" * 100_000])
def test_a_damaged_memory_counts_as_empty(variant, access, target, homes, hashed, text) -> None:
    put(target)
    memory = put(homes / "resnest_home" / "verified.json", text)
    weights.ensure(variant, access)
    weights.ensure(variant, access)
    assert hashed == [target]
    assert str(target) in json.loads(memory.read_text())


def test_a_memory_with_wrong_entries(variant, access, target, homes, hashed) -> None:
    put(target)
    for entry in (1, None, {}, {"sha256": 5}, {"sha256": SHA256}):
        put(homes / "resnest_home" / "verified.json", json.dumps({str(target): entry}).encode())
        weights.ensure(variant, access)
    assert len(hashed) == 5


def test_a_memory_that_cannot_be_written_is_skipped(variant, access, target, homes) -> None:
    put(homes / "resnest_home", b"a file where the folder should be")
    assert weights.ensure(variant, access) == target
    assert weights.ensure(variant, access) == target
    assert weights.verify(variant).status == "ok"


def test_the_memory_forgets_files_that_are_gone(variant, access, target, homes) -> None:
    gone = put(homes / "gone")
    hashes.remember(gone, SHA256)
    gone.unlink()
    weights.ensure(variant, access)
    assert list(json.loads((homes / "resnest_home/verified.json").read_text())) == [str(target)]
    assert not list((homes / "resnest_home").glob("verified.json.*"))


# --- many processes, awkward disks -----------------------------------------------------------

CHILD = """
    import json, sys
    from dataclasses import replace
    from resnest_cli.model import weights
    from resnest_cli.net import Access
    from resnest_cli.model.variants import VARIANTS, WeightsFile
    weights.LABELS_URL = "http://127.0.0.1:9/"
    name, host = sys.argv[1:]
    said = []
    variant = replace(VARIANTS["resnest14d"], weights=WeightsFile(name, (host,)))
    path = weights.ensure(variant, Access(notify=said.append))
    assert "torch" not in sys.modules
    print(json.dumps([str(path), said]))
"""


def test_four_first_runs_at_once(variant, server, target) -> None:
    server.script("/a/" + NAME, Reply(delay=1.2))  # until then the others have come
    command = [sys.executable, "-c", textwrap.dedent(CHILD), NAME, server.url("/a/")]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        for _ in range(4)
    ]
    ends = [(process.communicate(timeout=120), process.returncode) for process in processes]
    assert [error for (_, error), code in ends if code] == []
    answers = [json.loads(out) for (out, _), _ in ends]
    assert {path for path, _ in answers} == {str(target)}
    assert target.read_bytes() == DATA
    assert [(r.status, r.range) for r in server.requests] == [(200, None)]
    waited = [said for _, said in answers if said]
    assert waited
    assert all(
        said == [f"another process is downloading {NAME}; waiting for it"] for said in waited
    )
    assert [path.name for path in target.parent.iterdir()] == [NAME]


def test_who_waits_goes_on_when_the_first_fails(variant, access, server, target, said) -> None:
    server.script("/a/" + NAME, Reply(403, delay=0.6))
    command = [sys.executable, "-c", textwrap.dedent(CHILD), NAME, server.url("/a/")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT) as process:
        wait_for(lambda: server.requests)
        assert weights.ensure(variant, access) == target
        process.communicate(timeout=100)
    assert process.returncode == 1
    assert len([line for line in said if "another process" in line]) == 1


def test_a_read_only_cache_with_the_file_needs_no_lock(
    variant, access, target, monkeypatch
) -> None:
    put(target)

    def refuse(*_: object) -> None:
        raise AssertionError("a lock was asked for")

    monkeypatch.setattr(download, "locked", refuse)
    assert weights.ensure(variant, access) == target


def test_a_cache_that_cannot_be_written(variant, access, homes) -> None:
    put(homes / "torch_home", b"a file where the folder should be")
    with pytest.raises(CacheError, match=r"torch_home/hub/checkpoints.* TORCH_HOME"):
        weights.ensure(variant, access)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(variant, access, target) -> None:
    target.parent.mkdir(parents=True)
    target.parent.chmod(0o500)
    with pytest.raises(CacheError, match="TORCH_HOME"):
        weights.ensure(variant, access)
    target.parent.chmod(0o700)


def test_a_read_only_file_system_is_named(variant, access, target, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(download, "lock_file", refuse)
    with pytest.raises(CacheError, match=r"Read-only file system.* TORCH_HOME"):
        weights.ensure(variant, access)


def test_an_unreadable_file_is_named(variant, access, target, monkeypatch) -> None:
    put(target)

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hashes, "sha256_of", refuse)
    for call in (lambda: weights.ensure(variant, access), lambda: weights.verify(variant)):
        with pytest.raises(CacheError, match=f"{NAME}: cannot be read: Permission denied"):
            call()


# --- cleaning up -----------------------------------------------------------------------------

PUBLISHED = "resnest50-528c19ca.pth"


def test_only_our_files_are_listed(homes) -> None:
    torch = homes / "torch_home/hub/checkpoints"
    own = homes / "resnest_home/weights/0123456789abcdef"
    ours = [put(torch / PUBLISHED), put(own / "net.pth")]
    rest = [
        *(put(torch / f"{PUBLISHED}.{end}") for end in ("damaged", "damaged.2")),
        *(put(torch / f"{PUBLISHED}.{end}") for end in ("part", "part.json")),
        put(own / "net.pth.part"),
        put(homes / "resnest_home/.verified.json.0123abcd.tmp"),
    ]
    put(torch / f"{PUBLISHED}.lock")  # nobody's: it goes when it is looked at
    put(homes / "resnest_home/imagenet_classes.txt.lock")
    others = ["resnet50-0676ba61.pth", "resnet50-0676ba61.pth.part", "x.lock", "a.damaged"]
    for name in others:
        put(torch / name)
    put(homes / "resnest_home/imagenet_classes.txt")
    put(homes / "resnest_home/notes.part")
    huggingface(homes)
    found = weights.cached_files()
    assert found[: len(ours)] == ours
    assert sorted(found[len(ours) :]) == sorted(rest)
    for path in [*ours, *rest]:
        assert weights.remove(path)
    assert weights.cached_files() == []
    left = sorted(p.name for p in homes.rglob("*") if p.is_file() and not p.is_symlink())
    assert left == sorted([*others, "imagenet_classes.txt", "notes.part", SHA256])
    assert not own.exists()


def test_a_download_under_way_is_left_alone(homes) -> None:
    torch = homes / "torch_home/hub/checkpoints"
    part, damaged = put(torch / f"{PUBLISHED}.part"), put(torch / f"{PUBLISHED}.damaged")
    with lock_file(torch / f"{PUBLISHED}.lock"):
        assert weights.cached_files() == []
        assert not weights.remove(part)
        assert not weights.remove(torch / f"{PUBLISHED}.lock")
        assert (torch / f"{PUBLISHED}.lock").exists()
    assert part.exists()
    assert set(weights.cached_files()) >= {part, damaged}


def test_what_cannot_be_removed_is_named(homes, monkeypatch) -> None:
    part = put(homes / "torch_home/hub/checkpoints" / f"{PUBLISHED}.part")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(CacheError, match="TORCH_HOME"):
        weights.remove(part)


def test_set_aside_names_the_variable(homes, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    paths = {
        "RESNEST_HOME": homes / "resnest_home/weights/0/x.pth",
        "HF_HOME": homes / "hf_home/hub/x",
        "TORCH_HOME": homes / "torch_home/hub/checkpoints/x.pth",
    }
    for variable, path in paths.items():
        with pytest.raises(CacheError, match=variable):
            weights.set_aside(put(path))


# --- labels ----------------------------------------------------------------------------------


@pytest.fixture
def labels(server: Server, homes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A public host of class names; the path where they are kept."""
    monkeypatch.setattr(weights, "LABELS_URL", server.url("/public/imagenet_classes.txt"))
    monkeypatch.setattr(weights, "LABELS_SHA256", hashlib.sha256(LABELS).hexdigest())
    server.files["/public/imagenet_classes.txt"] = File(LABELS)
    return homes / "resnest_home" / "imagenet_classes.txt"


def test_labels_come_with_a_download(variant, access, server, labels, target) -> None:
    weights.ensure(variant, access)
    assert labels.read_bytes() == LABELS
    assert asked(server) == ["/a/" + NAME, "/public/imagenet_classes.txt"]
    target.unlink()
    weights.ensure(variant, access)
    assert asked(server)[2:] == ["/a/" + NAME]  # they are here already


def test_labels_do_not_come_without_a_download(variant, access, server, labels, target) -> None:
    put(target)
    weights.ensure(variant, access)
    assert server.requests == []
    assert not labels.exists()


def test_labels_do_not_come_with_a_file_that_another_process_fetched(
    variant, access, server, labels, target, monkeypatch
) -> None:
    @contextmanager
    def wait(*_: object) -> Iterator[None]:
        put(target)
        yield

    monkeypatch.setattr(download, "locked", wait)
    assert weights.ensure(variant, replace(access, mirror=server.url("/m"))) == target
    assert server.requests == []


def test_labels_come_from_the_mirror_first(variant, access, server, labels) -> None:
    server.files["/m/imagenet_classes.txt"] = File(LABELS)
    weights.ensure(variant, replace(access, mirror=server.url("/m")))
    assert labels.read_bytes() == LABELS
    assert asked(server)[2:] == ["/m/imagenet_classes.txt"]


def test_labels_from_a_mirror_folder_never_connect(variant, access, server, labels, homes) -> None:
    put(homes / "mirror" / NAME)
    mirror = replace(access, mirror=str(homes / "mirror"))
    weights.ensure(variant, mirror)
    assert server.requests == []
    put(homes / "mirror" / "imagenet_classes.txt", LABELS)
    weights.fetch_labels(mirror, public=False)
    assert labels.read_bytes() == LABELS


@pytest.mark.parametrize(
    "reply", [Reply(503), Reply(404), Reply(200, HTML), Reply(200, b"other"), Reply(-1)]
)
def test_labels_fail_quietly_after_one_attempt(
    variant, access, server, labels, target, said, reply
) -> None:
    server.script("/public/imagenet_classes.txt", reply)
    assert weights.ensure(variant, access) == target
    assert len(server.log("/public/imagenet_classes.txt")) == 1
    assert not labels.exists()
    assert said == []


def test_damaged_labels_are_replaced_quietly(variant, access, labels, said) -> None:
    put(labels, b"damaged")
    weights.ensure(variant, access)
    assert labels.read_bytes() == LABELS
    assert said == []


def test_labels_fail_quietly_where_they_cannot_be_kept(variant, access, labels, homes) -> None:
    put(homes / "resnest_home", b"a file where the folder should be")
    weights.ensure(variant, access)
    assert not labels.exists()


def test_the_published_labels_are_ours() -> None:
    """The file in the repository has the hash that a fetched one must have."""
    assert hashes.sha256_of(ROOT / "imagenet_classes.txt") == weights.LABELS_SHA256
