"""Models of the hub, over real HTTP: fetched, cached, offline, and all that can go wrong."""

import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from resnest_cli.errors import (
    CheckpointError,
    DownloadError,
    OfflineError,
    ResnestError,
    WeightsError,
)
from resnest_cli.model import variants
from resnest_cli.model.loading import Model, find_model
from resnest_cli.model.variants import VARIANTS, HubModel, Variant, WeightsFile
from resnest_cli.model.weights import find_cached
from resnest_cli.net import Access, Patience
from resnest_cli.progress import Progress
from tests.conftest import CLASSES, Cli, make_photo
from tests.hub_server import HubServer
from tests.model.test_names import SPELLINGS
from tests.server import File, Reply, Server

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
ID = "user/model"
TOKEN = "hf_secret"


def config(**changes: object) -> bytes:
    record = {
        "architecture": "resnest50d_2s2x40d", "num_classes": 5, "label_names": list(CLASSES),
        "model_args": {"layers": [1, 2, 1, 1], "channels": [16, 16, 16, 32], "stem_width": 8,
                       "base_width": 32},
        "pretrained_cfg": {"input_size": [3, 48, 48], "crop_pct": 0.9, "interpolation": "bicubic"},
    }  # fmt: skip
    return json.dumps(record | changes).encode()


@pytest.fixture
def access(said: list[str], slept: list[float]) -> Access:
    return Access(notify=said.append, patience=Patience(attempts=2, sleep=slept.append))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture(scope="session")
def tiny_weights(tiny_checkpoint: Path) -> bytes:
    """The tiny network as bare safetensors: nothing but tensors."""
    import safetensors.torch

    return safetensors.torch.save(safetensors.torch.load_file(tiny_checkpoint))


@pytest.fixture
def tiny(hub: HubServer, tiny_weights: bytes) -> str:
    return hub.add(ID, {"config.json": config(), "model.safetensors": tiny_weights})


@pytest.fixture
def eight(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The eight published variants with small stand-ins for weights, on the hub alone."""
    found = {}
    for variant in [v for v in VARIANTS.values() if v.hub]:
        data = f"weights of {variant.id}".encode() * 50
        fed = variant.preprocessing
        pretrained_cfg = {
            "input_size": [3, fed.size, fed.size], "crop_pct": fed.crop_pct,
            "interpolation": fed.interpolation,
        }  # fmt: skip
        record = {"architecture": variant.id, "num_classes": 1000, "pretrained_cfg": pretrained_cfg}
        files = {"config.json": json.dumps(record).encode(), "model.safetensors": data}
        hub.add(variant.hub.id, files)
        sha256 = hashlib.sha256(data).hexdigest() if variant.hub.sha256 else ""
        put_into_table(
            monkeypatch,
            replace(
                variant,
                hub=HubModel(variant.hub.id, sha256),
                weights=WeightsFile(variant.weights.name, ("http://127.0.0.1:9/",)),
            ),
        )
        found[variant.id] = data
    return found


def put_into_table(monkeypatch: pytest.MonkeyPatch, variant: Variant) -> None:
    for name in (variant.id, *variant.aliases, variant.hub.name):
        monkeypatch.setitem(variants._BY_NAME, name, variant)
    monkeypatch.setitem(VARIANTS, variant.id, variant)


def spelled(variant: Variant) -> list[str]:
    return [text.format(name=variant.hub.name, id=variant.hub.id) for text in SPELLINGS]


def test_forty_eight_names_online_cached_and_offline(
    eight: dict[str, bytes], hub: HubServer, access: Access, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tried = 0
    for id_, data in eight.items():
        for name in spelled(VARIANTS[id_]):
            monkeypatch.setenv("HF_HOME", str(tmp_path / f"hf{tried}"))
            for online in (True, False):
                before = len(hub.requests)
                found = find_model(name, access=replace(access, offline=not online))
                assert found.path.read_bytes() == data, name
                assert found.variant == VARIANTS[id_], name
                assert found.name == id_
                assert (len(hub.requests) > before) == online, name
            assert find_model(name, access=access).path == found.path  # cached, though online
            assert len(hub.requests) == before, name
            tried += 1
    assert tried == 48


def test_six_spellings_give_the_weights_of_the_network(
    hub: HubServer, seeded_weights: bytes, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    import safetensors.torch
    import torch

    state = torch.load(io.BytesIO(seeded_weights))
    put_into_table(
        monkeypatch, replace(VARIANTS["resnest14d"], hub=HubModel("timm/resnest14d.gluon_in1k"))
    )
    files = {
        "config.json": b'{"architecture": "resnest14d", "pretrained_cfg": {}}',
        "model.safetensors": safetensors.torch.save(state),
    }
    hub.add("timm/resnest14d.gluon_in1k", files)
    models = [find_model(name, access=access) for name in spelled(VARIANTS["resnest14d"])]
    assert len({model.path for model in models}) == 1
    tensors = models[0].load().tensors
    assert all(torch.equal(tensors[name], value) for name, value in state.items())
    # What the hub's config.json says of preprocessing wins over the table, and is told.
    assert {model.preprocessing.interpolation for model in models} == {"bicubic"}


def test_where_config_and_table_differ_both_are_shown(
    eight: dict[str, bytes], hub: HubServer, access: Access, said: list[str], cli: Cli
) -> None:
    import safetensors.numpy

    variant = VARIANTS["resnest26d"]
    record = {"architecture": "resnest26d", "pretrained_cfg": {"input_size": [3, 288, 288]}}
    data = safetensors.numpy.save({})
    hub.add(variant.hub.id, {"config.json": json.dumps(record).encode(), "model.safetensors": data})
    for name in ("resnest26d", "timm/resnest26d.gluon_in1k"):
        assert find_model(name, access=access).preprocessing.size == 288
        assert "models show resnest26d" in said.pop()
    record = json.loads(cli("models", "show", "resnest26d", "--format", "json").out)
    assert record["preprocessing"]["size"] == 288
    assert record["preprocessing_of_table"]["size"] == 224
    table = cli("models", "show", "resnest50d", "--format", "json").out  # not on this machine
    assert json.loads(table)["preprocessing"]["size"] == 224
    assert json.loads(table)["file"] is None


def test_another_repository(
    tiny: str, hub: HubServer, access: Access, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    expected = find_model(str(tiny_checkpoint))
    names = [ID, f"{ID}@main", f"hf-hub:{ID}@{tiny}", f"https://huggingface.co/{ID}"]
    for name in names:
        check_tiny(find_model(name, access=access), expected)
    for name in names:
        check_tiny(find_model(name, access=Access(offline=True)), expected)
    assert find_model(ID, access=Access(offline=True)).name == ID


def check_tiny(found: Model, expected: Model) -> None:
    import torch

    assert found.class_names == CLASSES
    assert found.variant.architecture == expected.variant.architecture
    assert found.preprocessing == expected.preprocessing
    theirs, ours = found.load().tensors, expected.load().tensors
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_branches_tags_and_commits(
    hub: HubServer, tiny_weights: bytes, access: Access, cli: Cli
) -> None:
    first = hub.add(ID, {"config.json": config(), "model.safetensors": tiny_weights})
    files = {"config.json": config(label_names=list("vwxyz")), "model.safetensors": tiny_weights}
    hub.add(ID, files, "refs/pr/1")
    assert find_model(f"{ID}@refs/pr/1", access=access).class_names == tuple("vwxyz")
    assert find_model(ID, access=access).class_names == CLASSES
    hub.add(ID, files)  # main moves on; what is cached is used, until it is asked for
    assert find_model(ID, access=access).class_names == CLASSES
    assert cli("download", ID).code == 0
    assert find_model(ID, access=access).class_names == tuple("vwxyz")
    assert find_model(f"{ID}@{first}", access=access).class_names == CLASSES


def test_a_pickle_where_there_is_no_safetensors(
    hub: HubServer, tiny_checkpoint: Path, access: Access
) -> None:
    import io

    import safetensors.torch
    import torch

    buffer = io.BytesIO()
    torch.save(safetensors.torch.load_file(tiny_checkpoint), buffer)
    hub.add(ID, {"config.json": config(), "pytorch_model.bin": buffer.getvalue()})
    check_tiny(find_model(ID, access=access), find_model(str(tiny_checkpoint)))


def test_a_pickle_that_runs_code_is_refused(hub: HubServer, access: Access, tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "touched",)

    hub.add(ID, {"config.json": config(), "pytorch_model.bin": pickle.dumps({"a": Evil()})})
    with pytest.raises(CheckpointError):
        find_model(ID, access=access)
    assert not (tmp_path / "touched").exists()


def gone(hub: HubServer) -> None:
    hub.repos.clear()


def without_weights(hub: HubServer) -> None:
    hub.add(ID, {"config.json": config(), "README.md": b"# A model"})


def without_config(hub: HubServer) -> None:
    hub.add(ID, {"model.safetensors": b"x", "README.md": b"# A model"})


def hidden(hub: HubServer) -> None:
    hub.private.add(ID)


def gated(hub: HubServer) -> None:
    hub.gated.add(ID)


def scripted(*replies: Reply, file: str = "config.json") -> Callable[[HubServer], None]:
    return lambda hub: hub.script(f"/{ID}/resolve/main/{file}", *replies)


def pointer(hub: HubServer) -> None:
    hub.add(ID, {"config.json": config(), "model.safetensors": POINTER})


def other_network(hub: HubServer) -> None:
    hub.add(ID, {"config.json": b'{"architecture": "resnet50"}', "model.safetensors": b"x"})


BUSY = Reply(429, b"", headers={"Retry-After": "300"})


@pytest.mark.parametrize(
    ("name", "arrange", "told"),
    [
        (ID, gone, ("no such repository", "HF_TOKEN", "no path user/model here")),
        (f"hf-hub:{ID}", gone, ("no such repository", "or it is private")),
        ("timm/resnest50d", gone, ("no such repository", "are timm/resnest50d.in1k")),
        (ID, hidden, ("no such repository", "hf auth login")),
        (ID, gated, ("granted on request", f"/{ID}", "HF_TOKEN")),
        (f"{ID}@v9", lambda _: None, ("no revision v9",)),
        (ID, without_weights, ("no model.safetensors and no pytorch_model.bin", "README.md")),
        (ID, without_config, ("no config.json", "model.safetensors")),
        (ID, scripted(Reply(403)), ("refuses access (403)",)),
        (ID, scripted(Reply(401, headers={"X-Error-Message":
            "Invalid credentials in Authorization header"})), ("does not accept the token (401)",)),
        (ID, scripted(BUSY), ("asked too often", "(429)", "in 300 s")),
        (ID, scripted(*[Reply(500)] * 3), ("answered 500",)),
        (ID, scripted(Reply(200, b"{}")), ("does not answer as a hub",)),
        (ID, pointer, ("Git LFS pointer",)),
        (ID, other_network, ("resnet50, which is no ResNeSt",)),
        (f"hf://{ID}/sub/best.pth", lambda _: None, ("holds no sub/best.pth", f"hf://{ID}/sub/best")),
    ],
)  # fmt: skip
def test_errors_in_words(
    name: str, arrange: Callable[[HubServer], None], told: tuple[str, ...], tiny: str,
    hub: HubServer, access: Access,
) -> None:  # fmt: skip
    arrange(hub)
    with pytest.raises(ResnestError) as error:
        find_model(name, access=access)
    for text in told:
        assert text in str(error.value)
    assert "Traceback" not in str(error.value)


def test_the_weights_of_other_networks_are_not_fetched(hub: HubServer, access: Access) -> None:
    record = config(architecture="vit_giant_patch14_224")
    hub.add(ID, {"config.json": record, "model.safetensors": b"gigabytes"})
    for _ in range(2):
        with pytest.raises(CheckpointError, match="vit_giant_patch14_224, which is no ResNeSt"):
            find_model(ID, access=access)
    assert not [request for request in hub.requests if "model.safetensors" in request.path]


def test_a_hub_that_is_busy_is_asked_again(
    tiny: str, hub: HubServer, access: Access, slept: list[float], said: list[str]
) -> None:
    scripted(Reply(429, b"", headers={"Retry-After": "7"}))(hub)
    assert find_model(ID, access=access).class_names == CLASSES
    assert slept == [7.0]
    assert "429" in said[0]


def test_a_hub_that_cannot_be_reached(access: Access, hub: HubServer, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9 cannot be reached"):
        find_model(ID, access=access)


def test_a_proxy(tiny: str, hub: HubServer, access: Access, monkeypatch) -> None:
    from huggingface_hub.utils import close_session

    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("HTTP_PROXY", hub.url())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()  # the library reads the variables when it begins
    assert find_model(ID, access=access).class_names == CLASSES
    assert {request.headers["host"] for request in hub.requests} == {"hub.invalid"}


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", ""])
def test_offline_says_what_to_fetch_and_where_to_put_it(
    tiny: str, hub: HubServer, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    with pytest.raises(OfflineError) as error:
        find_model(f"{ID}@v1", access=Access(offline=not variable))
    for text in (
        variable or "--offline", "There is no path user/model@v1 here",
        f"resnest download {ID}@v1", f"hf download {ID} config.json model.safetensors",
        "--revision v1", "models--user--model", str(tmp_path / "hf_home" / "hub"),
    ):  # fmt: skip
        assert text in str(error.value)
    assert not hub.requests


def test_a_truncated_config(tiny: str, hub: HubServer, access: Access) -> None:
    """One that is cut off on its way is fetched again; one that is short on the hub is an error."""
    sha1 = hashlib.sha1(config(), usedforsecurity=False).hexdigest()
    whole = Reply(200, config(), headers={"X-Repo-Commit": tiny, "ETag": f'"{sha1}"'})
    scripted(whole, whole, replace(whole, send=40, then="close"), whole)(hub)
    assert find_model(ID, access=access).class_names == CLASSES
    commit = hub.add(ID, {"config.json": config()[:40], "model.safetensors": b"x"})
    with pytest.raises(CheckpointError, match="not JSON"):
        find_model(f"{ID}@{commit}", access=access)


def test_what_was_mixed_from_two_versions_is_found_out(
    hub: HubServer, tiny_weights: bytes, access: Access, said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The download breaks off; the rest that the storage gives is that of another file."""
    hub.add(ID, {"config.json": config(), "model.safetensors": tiny_weights})
    path = f"/{hashlib.sha256(tiny_weights).hexdigest()}"
    other = bytes(len(tiny_weights))
    hub.storage.script(
        path,
        Reply(send=150_000, then="close"),
        Reply(206, other[131_072:], headers={
            "Content-Range": f"bytes 131072-{len(other) - 1}/{len(other)}", "ETag": '"other"'}),
    )  # fmt: skip
    monkeypatch.setattr("resnest_cli.net.hub._CHUNK", 1 << 16)
    found = find_model(ID, access=access)
    assert found.path.read_bytes() == tiny_weights
    assert "another SHA-256" in said[0]
    assert [request.range for request in hub.storage.log(path)] == [None, "bytes=131072-", None]


def test_a_storage_that_lies_is_found_out(
    hub: HubServer, tiny_weights: bytes, access: Access
) -> None:
    hub.add(ID, {"config.json": config(), "model.safetensors": tiny_weights})
    hub.storage.files[f"/{hashlib.sha256(tiny_weights).hexdigest()}"].data = bytes(
        len(tiny_weights)
    )
    with pytest.raises(DownloadError, match="another SHA-256"):
        find_model(ID, access=access)
    assert not list(Path(found_cache()).rglob("*.safetensors"))


_OK = b"HTTP/1.1 200 OK\r\n"
LYING = {
    "drips": (Reply(raw=_OK + b"Content-Length: 500\r\n\r\n" + b"2" * 500, pace=0.02), "less than"),
    "goes on": (Reply(raw=_OK + b"\r\n", endless=b"2" * 65536), "more than the whole file"),
    "unpacks": (
        Reply(body=gzip.compress(bytes(10**8)), headers={"Content-Encoding": "gzip"}),
        "more than the whole file",
    ),
}


@pytest.mark.parametrize(("reply", "message"), LYING.values(), ids=LYING)
def test_a_storage_without_end_is_given_up(
    reply: Reply, message: str, tiny: str, hub: HubServer, tiny_weights: bytes, access: Access
) -> None:
    hub.storage.script(f"/{hashlib.sha256(tiny_weights).hexdigest()}", reply)
    patience = replace(access.patience, window=0.3)
    with pytest.raises(DownloadError, match=message):
        find_model(ID, access=replace(access, patience=patience))
    left = [path.stat().st_size for path in found_cache().rglob("*") if path.is_file()]
    assert max(left) < 10**7
    assert find_model(ID, access=access).path.read_bytes() == tiny_weights


def test_a_file_that_is_too_large_is_not_begun(tiny: str, hub: HubServer, access: Access) -> None:
    for path in (f"/{ID}/resolve/{tiny}/model.safetensors", f"/{ID}/resolve/main/config.json"):
        headers = {"X-Repo-Commit": tiny, "ETag": '"0"', "X-Linked-Size": str(10**12)}
        hub.script(path, Reply(200, headers=headers))
        with pytest.raises(DownloadError, match="larger than the limit"):
            find_model(ID, access=access)


def found_cache() -> Path:
    from resnest_cli.paths import huggingface_hub_dir

    return huggingface_hub_dir()


@pytest.mark.parametrize(("then", "asked"), [("close", "bytes=131072-"), ("reset", None)])
def test_a_download_that_breaks_off_goes_on(
    then: str, asked: str | None, tiny: str, hub: HubServer, tiny_weights: bytes, access: Access,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The library resumes after a closed connection; after a reset one it starts afresh."""
    monkeypatch.setattr("resnest_cli.net.hub._CHUNK", 1 << 16)
    path = f"/{hashlib.sha256(tiny_weights).hexdigest()}"
    hub.storage.script(path, Reply(send=150_000, then=then))
    assert find_model(ID, access=access).path.read_bytes() == tiny_weights
    assert [request.range for request in hub.storage.log(path)] == [None, asked]


def test_a_damaged_cache_is_mended(
    tiny: str, hub: HubServer, tiny_weights: bytes, access: Access, said: list[str]
) -> None:
    path = find_model(ID, access=access).path
    path.resolve().write_bytes(b"rotten")
    with pytest.raises(CheckpointError, match="is damaged"):
        find_model(ID, access=Access(offline=True))
    assert find_model(ID, access=access).path.read_bytes() == tiny_weights
    assert "fetching it again" in said[0]


@pytest.mark.parametrize("redirected", [False, True])
def test_the_token_goes_to_the_hub_alone(
    redirected: bool, tiny: str, hub: HubServer, tiny_weights: bytes, access: Access,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    hub.private.add(ID)
    hub.tokens.add(TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    if redirected:  # the hub answers the first question itself, and the second with a redirect
        other = hub.storage.url("/config.json")
        hub.storage.files["/config.json"] = File(config())
        path = f"/{ID}/resolve/main/config.json"
        sha1 = hashlib.sha1(config(), usedforsecurity=False).hexdigest()
        answer = Reply(200, config(), headers={"X-Repo-Commit": tiny, "ETag": f'"{sha1}"'})
        hub.script(path, answer, answer, Reply(302, b"", headers={"Location": other}))
    assert find_model(ID, access=access).class_names == CLASSES
    assert any(request.headers.get("authorization") for request in hub.requests)
    assert hub.storage.requests
    assert not any("authorization" in request.headers for request in hub.storage.requests)


def test_the_public_hub_gets_no_token_of_a_private_one() -> None:
    from resnest_cli.net.hub import Hub, _token_stays_with

    class Request:
        def __init__(self, url: str) -> None:
            import httpx2

            self.url, self.headers = httpx2.URL(url), {"Authorization": TOKEN}

    check = _token_stays_with(Hub("https://hub.example", Access()))
    for url, kept in {
        "https://hub.example/a/b": True, "https://hub.example:443/a": True,
        "https://huggingface.co/a/b": False, "http://hub.example/a": False,
        "https://hub.example:8443/a": False,
    }.items():  # fmt: skip
        request = Request(url)
        check(request)
        assert ("Authorization" in request.headers) == kept, url


class Shown:
    """A progress display that notes what it is told."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.totals: dict[str, int | None] = {}
        self.open = 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[Progress]:
        def show(done: int, total: int | None = None, **_: object) -> None:
            self.done[name], self.totals[name] = done, total

        self.open += 1
        yield show
        self.open -= 1


def test_our_progress_shows_it_and_the_library_is_silent(
    tiny: str, hub: HubServer, tiny_weights: bytes, access: Access,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shown = Shown()
    find_model(ID, access=replace(access, progress=shown))
    sizes = {"config.json": len(config()), "model.safetensors": len(tiny_weights)}
    assert shown.totals == shown.done == sizes
    assert shown.open == 0
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_the_hub_is_a_further_host_of_published_weights(
    eight: dict[str, bytes], hub: HubServer, server: Server, access: Access,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """After the release pages; before them where HF_ENDPOINT names it."""
    data = b"as released" * 99
    name = f"resnest50-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    server.files[f"/{name}"] = File(data)
    released = replace(VARIANTS["resnest50d"], weights=WeightsFile(name, (server.url(),)))
    put_into_table(monkeypatch, released)
    monkeypatch.setattr("resnest_cli.model.weights.LABELS_URL", server.url("/labels.txt"))
    monkeypatch.setattr("resnest_cli.paths.PUBLIC_HUB", hub.url().rstrip("/"))  # the usual one
    assert find_model("resnest50d", access=access).path.read_bytes() == data
    assert not hub.requests
    find_cached(released).unlink()
    server.files.clear()
    assert find_model("resnest50d", access=access).path.read_bytes() == eight["resnest50d"]
    server.requests.clear()
    monkeypatch.setattr("resnest_cli.paths.PUBLIC_HUB", "https://huggingface.co")
    assert find_model("resnest101e", access=access).path.read_bytes() == eight["resnest101e"]
    assert not server.requests


def test_all_hosts_are_named_where_none_gives_the_weights(
    eight: dict[str, bytes], hub: HubServer, access: Access
) -> None:
    hub.repos.clear()
    with pytest.raises(DownloadError) as error:
        find_model("timm/resnest50d.in1k", access=access)
    assert "hf://timm/resnest50d.in1k: 127.0.0.1" in str(error.value)
    assert "http://127.0.0.1:9/resnest50-528c19ca.pth" in str(error.value)


def test_a_known_hash_is_checked(eight: dict[str, bytes], hub: HubServer, access: Access) -> None:
    variant = VARIANTS["resnest14d"]
    record = b'{"architecture": "resnest14d", "pretrained_cfg": {}}'
    hub.add(variant.hub.id, {"config.json": record, "model.safetensors": b"another's"})
    with pytest.raises(DownloadError, match=f"is to be {variant.hub.sha256}"):
        find_model("resnest14d", access=access)
    assert find_cached(variant) is None


def test_a_pointer_in_the_place_of_published_weights_is_no_copy_of_them(
    eight: dict[str, bytes], hub: HubServer, access: Access
) -> None:
    variant = VARIANTS["resnest50d"]
    record = b'{"architecture": "resnest50d", "pretrained_cfg": {}}'
    hub.add(variant.hub.id, {"config.json": record, "model.safetensors": POINTER})
    with pytest.raises(DownloadError, match="Git LFS pointer"):
        find_model("resnest50d", access=access)
    assert find_cached(variant) is None


def test_a_mirror(
    tiny: str, hub: HubServer, tiny_weights: bytes, access: Access, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A folder with USER/NAME in it, or a hub's address, which gets no token."""
    folder = tmp_path / "mirror" / ID
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(config(label_names=list("vwxyz")))
    (folder / "model.safetensors").write_bytes(tiny_weights)
    mirrored = replace(access, mirror=str(tmp_path / "mirror"), offline=True)
    assert find_model(ID, access=mirrored).class_names == tuple("vwxyz")
    assert not hub.requests
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = find_model(ID, access=replace(access, mirror=hub.url()))
    assert found.class_names == CLASSES
    assert not any("authorization" in request.headers for request in hub.requests)


def test_weights_of_the_hub_for_a_named_variant(
    hub: HubServer, tiny_weights: bytes, access: Access
) -> None:
    hub.add(ID, {"config.json": config(), "model.safetensors": tiny_weights})
    with pytest.raises(CheckpointError, match=r"resnest50d_2s2x40d; resnest50d was expected"):
        find_model("resnest50d", source=f"hf-hub:{ID}", access=access)
    with pytest.raises(WeightsError, match="there is no such file"):
        find_model("resnest50d", source="gone.pth", access=access)
    hub.add(ID, {"config.json": config(), "old/net.pth": b"no network"})
    with pytest.raises(CheckpointError):
        find_model(
            "resnest50d", source=f"https://huggingface.co/{ID}/blob/main/old/net.pth", access=access
        )
    assert (found_cache() / "models--user--model").is_dir()


@pytest.mark.parametrize("file", ["best.safetensors", "runs/best.safetensors"])
def test_any_file_of_weights_by_its_address(
    hub: HubServer, tiny_checkpoint: Path, tiny_weights: bytes, access: Access, cli: Cli, file: str
) -> None:
    folder = file.rpartition("best")[0]
    hub.add("user/ours", {file: tiny_checkpoint.read_bytes()})
    hub.add("user/bare", {file: tiny_weights, f"{folder}config.json": config()})
    expected = find_model(str(tiny_checkpoint))
    for id_ in ("user/ours", "user/bare"):  # it describes itself, or what lies beside it does
        address = f"https://huggingface.co/{id_}/blob/main/{file}"
        with pytest.raises(OfflineError, match=f"resnest download hf://{id_}@main/{file}"):
            find_model(address, access=replace(access, offline=True))
        assert cli("download", address).code == 0
        for name in (address, f"hf://{id_}/{file}"):
            check_tiny(find_model(name, access=Access(offline=True)), expected)
        assert cli("download", address, "--offline").code == 0


@pytest.mark.parametrize("how", ["option", "variable"])
def test_download_of_what_is_here_needs_no_hub(
    tiny: str, hub: HubServer, cli: Cli, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("download", ID).code == 0
    hub.requests.clear()
    if how == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli("download", ID, *(["--offline"] if how == "option" else [])).code == 0
    assert not hub.requests


def test_a_backbone_is_compiled_for_its_features(
    hub: HubServer, tiny_weights: bytes, cli: Cli, photo: Path, tmp_path: Path
) -> None:
    import safetensors.numpy

    tensors = safetensors.numpy.load(tiny_weights)
    body = {name: value for name, value in tensors.items() if not name.startswith("fc.")}
    files = {
        "config.json": config(num_classes=0),
        "model.safetensors": safetensors.numpy.save(body),
    }
    hub.add(ID, files)
    done = cli("download", ID)
    assert (done.code, "not stored" in done.err) == (0, False)
    assert cli("features", photo, "--model", ID, "-o", tmp_path / "f.npy").code == 0
    refused = cli("predict", photo, "--model", ID)
    assert refused.code == 1
    assert "has no classifier" in refused.err


@pytest.mark.parametrize("offline", [False, True])
def test_the_commands_take_names_of_the_hub(
    tiny: str, hub: HubServer, cli: Cli, photo: Path, offline: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if offline:
        assert cli("download", f"hf-hub:{ID}").code == 0
        hub.requests.clear()
    more = ["--offline"] if offline else []
    shown = json.loads(cli("models", "show", ID, "--format", "json", *more).out)
    assert shown["class_names"] == list(CLASSES)
    assert shown["config"].endswith("config.json")
    assert shown["preprocessing_of_table"]["size"] == 224
    monkeypatch.setenv("RESNEST_MODEL", f"https://huggingface.co/{ID}")
    done = cli("predict", photo, "--device", "cpu", "--format", "json", *more)
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["model"] == ID
    assert {one["label"] for one in record["predictions"]} == set(CLASSES)
    assert (not hub.requests) == offline


@pytest.mark.usefixtures("no_pictures")
def test_finetune_and_its_config_file_take_names_of_the_hub(
    tiny: str, hub: HubServer, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(CLASSES[:2]):
        (tmp_path / "data" / name).mkdir(parents=True)
        for seed in range(4):
            make_photo(tmp_path / "data" / name / f"{seed}.png", seed=4 * number + seed)
    (tmp_path / "own.toml").write_text(f'model = "hf-hub:{ID}"\nepochs = 1\nbatch_size = 2\n')
    done = cli("finetune", "data", "--config", "own.toml", "--device", "cpu", "--workers", "0")
    assert done.code == 0, done.err
    found = find_model("runs/finetune/exp/weights/best.safetensors")
    assert found.class_names == CLASSES[:2]
    assert found.preprocessing.size == 48
    done = cli("train", "data", "--model", f"hf-hub:{ID}")
    assert done.code == 2
    assert f"resnest finetune data --model hf-hub:{ID}" in done.err


def test_benchmark_fetches_nothing(tiny: str, hub: HubServer, cli: Cli) -> None:
    done = cli("benchmark", "--model", f"hf-hub:{ID}", "--device", "cpu", "--min-time", "0")
    assert done.code == 2
    assert f"resnest download hf-hub:{ID}" in done.err
    assert not hub.requests


def test_a_model_for_a_process_in_another_folder(
    homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnest_cli.jobs.job import portable
    from resnest_cli.options import ModelOptions

    monkeypatch.chdir(homes)
    (homes / "own").mkdir()
    given = ModelOptions(
        "", None, None, "cpu", "auto", None, None, None, None, exif=True, mirror=None, offline=True
    )
    for name, expected in {
        "own": str(homes / "own"), "local-dir:own": str(homes / "own"), ID: ID,
        f"hf-hub:{ID}@v1": f"hf-hub:{ID}@v1", "resnest50d": "resnest50d",
    }.items():  # fmt: skip
        assert portable(replace(given, model=name)).model == expected
    assert portable(replace(given, model="demo", weights="local-dir:own")).weights == str(
        homes / "own"
    )
    assert portable(replace(given, model="demo", weights=f"hf://{ID}")).weights == f"hf://{ID}"
    assert portable(replace(given, model="demo")).weights is None


def test_a_warm_start_imports_no_library_of_the_hub(
    tiny: str, hub: HubServer, cli: Cli, photo: Path
) -> None:
    assert cli("download", ID).code == 0
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "resnest_cli", "predict", photo, "--model", ID,
         "--device", "cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "numpy" in names
    assert not {name.partition(".")[0] for name in names} & {
        "huggingface_hub", "httpx2", "torch", "requests", "filelock",
    }  # fmt: skip


def test_the_token_file_and_silence_in_a_process_of_its_own(
    tiny: str, hub: HubServer, homes: Path, photo: Path
) -> None:
    hub.private.add(ID)
    hub.tokens.add(TOKEN)
    (homes / "hf_home").mkdir()
    (homes / "hf_home" / "token").write_text(TOKEN)
    done = subprocess.run(
        [sys.executable, "-m", "resnest_cli", "download", ID],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line.partition(" (")[0] for line in done.stderr.splitlines()]
    assert said == ["Downloading config.json", "Downloading model.safetensors"]
    assert done.stdout.startswith(f"{ID}\t")
    asked = {request.path.split("/")[1] for request in hub.requests}
    assert asked == {"user"}  # nothing but the repository: no telemetry
