"""`export --hub DIR --push`: what is sent to the hub, over real HTTP."""

import json
from pathlib import Path

import pytest

from resnest_cli.model.loading import find_model
from resnest_cli.net import Access
from tests.conftest import CLASSES, Cli
from tests.hub_server import HubServer
from tests.server import Reply

ID = "user/teapots"
TOKEN = "hf_secret"
FILES = {"config.json", "model.safetensors", "README.md"}


@pytest.fixture
def command(hub: HubServer, tiny_checkpoint: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "secret.txt").write_text("not of the model")
    return ["export", "--model", str(tiny_checkpoint), "--hub", str(tmp_path / "out"), "--push", ID]


@pytest.fixture
def logged_in(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.tokens.add(TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.mark.parametrize("private", [False, True])
def test_the_folder_is_sent_and_can_be_used(
    private: bool, hub: HubServer, logged_in: None, command: list[str], cli: Cli, tmp_path: Path
) -> None:
    done = cli(*command, *(["--private"] if private else []))
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == hub.url(f"/{ID}")
    (said,) = done.err.splitlines()
    assert said.startswith("Sending 3 files, 0.2 MB, to http://127.0.0.1")
    repo = hub.repos[ID]
    files = repo.files("main")
    assert files is not None
    assert set(files) == FILES  # no other file of the folder
    for name, data in files.items():
        assert data == (tmp_path / "out" / name).read_bytes()
    assert repo.private == private
    assert not any("authorization" in one.headers for one in hub.storage.requests)
    assert find_model(ID, access=Access()).class_names == CLASSES


def test_a_dry_run_lists_files_and_sizes_and_does_nothing(
    hub: HubServer, command: list[str], cli: Cli, tmp_path: Path
) -> None:
    done = cli(*command, "--private", "--dry-run")
    assert done.code == 0, done.err
    assert "nothing sent to private user/teapots" in done.err
    record = json.loads(cli(*command, "--dry-run", "--format", "json").out)
    assert set(record["sizes"]) == FILES
    assert hub.requests == []
    assert hub.sent == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["secret.txt"]
    assert cli(*command[:-2]).code == 0  # and these are the sizes of what would have been written
    for name, size in record["sizes"].items():
        assert f"{size:,}" in done.out
        assert (tmp_path / "out" / name).stat().st_size == size


def test_a_model_card_that_is_there_is_kept(
    hub: HubServer, logged_in: None, command: list[str], cli: Cli
) -> None:
    hub.add(ID, {"README.md": b"# My own words", "notes.txt": b"kept"})
    done = cli(*command)
    assert done.code == 0, done.err
    assert "has a README.md, which is kept" in done.err
    files = hub.repos[ID].files("main")
    assert files is not None
    assert files["README.md"] == b"# My own words"
    assert set(files) == FILES | {"notes.txt"}


def test_nothing_private_goes_to_a_public_repository(
    hub: HubServer, logged_in: None, command: list[str], cli: Cli
) -> None:
    hub.add(ID, {})
    done = cli(*command, "--private")
    assert done.code == 1
    assert "is public; nothing was sent" in done.err
    assert hub.repos[ID].files("main") == {}


def test_without_a_token_nothing_is_sent(hub: HubServer, command: list[str], cli: Cli) -> None:
    done = cli(*command)
    assert done.code == 1
    assert "HF_TOKEN" in done.err
    assert ID not in hub.repos


@pytest.mark.parametrize(("status", "told"), [(403, "refuses access (403)"), (500, "answered 500")])
def test_a_hub_that_refuses(
    status: int, told: str, hub: HubServer, logged_in: None, command: list[str], cli: Cli,
    tmp_path: Path,
) -> None:  # fmt: skip
    hub.script("/api/repos/create", *[Reply(status, b"{}")] * 9)
    done = cli(*command)
    assert done.code == 1
    assert told in done.err
    assert (tmp_path / "out" / "model.safetensors").is_file()  # the folder stays


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--push", "no-user"], "USER/NAME"),
        (["--push", "a/b@main"], "USER/NAME"),
        (["--push", ID, "--offline"], "--offline"),
        (["--push", ID, "--hub", ""], "--hub DIR"),
        (["--private"], "--private goes with --push"),
        (["--dry-run"], "--dry-run goes with --push"),
    ],
)
def test_wrong_use_is_said_first(
    wrong: list[str], told: str, hub: HubServer, tiny_checkpoint: Path, cli: Cli, tmp_path: Path
) -> None:
    where = ["-o", tmp_path / "a.onnx"] if "--hub" in wrong else ["--hub", tmp_path / "out"]
    wrong = [text for text in wrong if text not in {"--hub", ""}]
    done = cli("export", "--model", tiny_checkpoint, *where, *wrong)
    assert done.code == 2
    assert told in done.err
    assert not (tmp_path / "out").exists()
    assert hub.requests == []
