"""`--model`, `--weights` and `--labels` together: what each combination finds."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from resnest_cli.errors import CheckpointError, LabelsError, UnknownModelError, UsageError
from resnest_cli.model import checkpoint, hashes
from resnest_cli.model.loading import find_model
from resnest_cli.model.resnest import build
from resnest_cli.net import Access
from tests.conftest import CLASSES, Published
from tests.networks import enliven
from tests.server import File, Server


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A bare pickle of a resnest14d with three classes."""
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": enliven(build("resnest14d", num_classes=3)).state_dict()}, path)
    return path


def test_a_checkpoint_of_ours_brings_everything(tiny_checkpoint: Path) -> None:
    model = find_model(str(tiny_checkpoint))
    assert model.name == str(tiny_checkpoint)
    assert model.class_names == CLASSES
    assert model.preprocessing.size == 48
    assert model.num_classes == 5
    assert not model.network().training


def test_published_weights(published: Published) -> None:
    published.serve()
    model = find_model("resnest14d")
    assert model.name == "resnest14d"
    assert model.num_classes == 1000
    assert model.preprocessing == published.variant.preprocessing
    assert model.path.read_bytes() == published.data
    state = torch.random.get_rng_state()
    network = model.network()
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing was drawn to be overwritten
    expected = enliven(build("resnest14d")).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in network.state_dict().items())


def test_a_named_variant_takes_other_weights(mine: Path) -> None:
    model = find_model("resnest14d", source=str(mine))
    assert model.name == "resnest14d"
    assert model.class_names == ("class 0", "class 1", "class 2")
    with pytest.raises(CheckpointError, match="resnest14d"):
        find_model("resnest26d", source=str(mine))


def test_a_bare_file_tells_its_variant_where_only_one_fits(mine: Path, tmp_path: Path) -> None:
    assert find_model(str(mine)).variant.id == "resnest14d"
    ambiguous = tmp_path / "fifty.pth"
    torch.save(build("resnest50d").state_dict(), ambiguous)
    with pytest.raises(CheckpointError, match=r"resnest50d and resnest50d_2s1x64d"):
        find_model(str(ambiguous))
    assert find_model("resnest50d_2s1x64d", source=str(ambiguous)).variant.avd_first


def test_a_pickle_is_remembered_without_torch(mine: Path) -> None:
    code = (
        "import sys\nfrom resnest_cli.model.loading import find_model\n"
        f"model = find_model('resnest14d', source={str(mine)!r})\n"
        "print(model.num_classes, 'torch' in sys.modules)"
    )
    for expected in ("3 True\n", "3 False\n"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout == expected
    # Other content under the same name is looked into again.
    torch.save(enliven(build("resnest14d", num_classes=4)).state_dict(), mine)
    assert find_model("resnest14d", source=str(mine)).num_classes == 4


@pytest.mark.parametrize("note", ["", "{", "[]", '{"variant": "vgg"}',
    '{"variant": "resnest14d", "num_classes": "3", "in_channels": 3}'])  # fmt: skip
def test_a_damaged_note_is_ignored(mine: Path, homes: Path, note: str) -> None:
    find_model("resnest14d", source=str(mine))
    (written,) = (homes / "resnest_home" / "pickles").glob("*.json")
    written.write_text(note)
    assert find_model("resnest14d", source=str(mine)).num_classes == 3


def test_labels(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("1\n2\n3\n4\n5")
    assert find_model(str(tiny_checkpoint), labels=file).class_names == ("1", "2", "3", "4", "5")
    file.write_text("1\n2")
    with pytest.raises(LabelsError, match="has 2 lines"):
        find_model(str(tiny_checkpoint), labels=file)


def test_what_cannot_be(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="Did you mean resnest50d"):
        find_model("resnest5d")
    with pytest.raises(UnknownModelError, match="no such checkpoint file"):
        find_model(str(tmp_path / "gone.safetensors"))
    with pytest.raises(UsageError, match="weights of its own"):
        find_model(str(tiny_checkpoint), source=str(tiny_checkpoint))
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="folder"):
        find_model(str(tmp_path / "folder"))


def test_damage_behind_an_unchanged_stat_is_noticed(published: Published) -> None:
    """As when a disk loses bits: only reading can tell."""
    published.serve()
    messages: list[str] = []
    access = Access(notify=messages.append)
    model = find_model("resnest14d", access=access)
    sha256 = hashes.known_sha256(model.path)
    with model.path.open("r+b") as file:
        file.write(b"\0" * 1000)
    hashes.remember(model.path, sha256)
    offline = find_model("resnest14d", access=replace(access, offline=True))
    with pytest.raises(CheckpointError, match="--offline"):
        offline.network()
    assert find_model("resnest14d", access=access).network() is not None
    assert any("set aside" in text for text in messages)
    assert model.path.read_bytes() == published.data
    assert checkpoint.load(model.path, variant=published.variant).info.num_classes == 1000


# What is behind `--weights URL`, and whether it is kept.


def _torch_file(path: Path, variant: str, classes: int = 3) -> bytes:
    torch.save(enliven(build(variant, num_classes=classes)).state_dict(), path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "bad",
    [b"no such file\n", b'{"error": "not found"}', b"PK\x03\x04 cut", b"\0" * 999],
    ids=["text", "json", "cut", "zeros"],
)
def test_what_an_address_gives_is_not_kept_if_it_holds_no_weights(
    server: Server, tmp_path: Path, bad: bytes
) -> None:
    url = server.url("/a.pth")
    server.files["/a.pth"] = File(bad)
    with pytest.raises(
        CheckpointError, match=r"came from .*a\.pth.* the next run fetches it again"
    ):
        find_model("resnest14d", source=url)
    server.files["/a.pth"] = File(_torch_file(tmp_path / "a.pth", "resnest14d"))
    assert find_model("resnest14d", source=url).num_classes == 3
    assert find_model("resnest14d", source=url).network() is not None
    assert len(server.requests) == 2


def test_weights_of_another_model_are_kept(server: Server, tmp_path: Path) -> None:
    """It is the name of the model that is wrong."""
    server.files["/a.pth"] = File(_torch_file(tmp_path / "a.pth", "resnest14d"))
    url = server.url("/a.pth")
    with pytest.raises(CheckpointError) as caught:
        find_model("resnest50d", source=url)
    assert "set aside" not in str(caught.value)
    assert find_model("resnest14d", source=url).num_classes == 3
    assert len(server.requests) == 1


def test_weights_of_an_address_that_break_on_the_disk(server: Server, tmp_path: Path) -> None:
    network = enliven(build("resnest14d", num_classes=3))
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    server.files["/a.safetensors"] = File(data)
    url = server.url("/a.safetensors")
    model = find_model("resnest14d", source=url)
    model.path.write_bytes(data[:-1000])
    with pytest.raises(CheckpointError, match="the next run fetches it again"):
        find_model("resnest14d", source=url).network()
    assert find_model("resnest14d", source=url).network() is not None
    assert len(server.requests) == 2
