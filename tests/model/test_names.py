"""What people type for a model, and what they mean by it."""

from pathlib import Path

import pytest

from resnest_cli.errors import UnknownModelError
from resnest_cli.model import names
from resnest_cli.model.names import Repository, find_named, understand
from resnest_cli.model.variants import VARIANTS

PUBLISHED = [variant for variant in VARIANTS.values() if variant.hub]

SPELLINGS = (
    "{name}",
    "{id}",
    "hf-hub:{id}",
    "hf_hub:{id}",
    "hf://{id}",
    "https://huggingface.co/{id}",
)
MORE = (
    "HF-HUB:{id}@main",
    "hf://models/{id}",
    "hf://{id}@main/model.safetensors",
    "hf-hub:{name}",
    "{id}@main",
    "huggingface.co/{id}",
    "hf.co/{id}",
    "http://www.huggingface.co/{id}/",
    "https://huggingface.co/{id}/tree/main",
    "https://huggingface.co/{id}/blob/main/model.safetensors",
    "https://huggingface.co/{id}/resolve/main/pytorch_model.bin?download=true",
    "https://huggingface.co/{id}/discussions/3",
    "https://huggingface.co/{id}?library=timm#model-card",
)


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every path exists."""
    monkeypatch.setattr(names, "there", lambda _: True)


@pytest.mark.parametrize("variant", PUBLISHED, ids=lambda variant: variant.id)
@pytest.mark.parametrize("spelling", [*SPELLINGS, *MORE])
def test_every_spelling_of_a_published_name_is_its_variant(variant, spelling: str) -> None:
    name = spelling.format(name=variant.hub.name, id=variant.hub.id)
    assert understand(name).variant == variant
    assert find_named(name) == variant


def test_eight_are_on_the_hub() -> None:
    assert len(PUBLISHED) == 8
    assert VARIANTS["resnest14d"].hub.id == "timm/resnest14d.gluon_in1k"


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("user/model", Repository("user/model", plain=True)),
        ("user/model@v1.2", Repository("user/model", "v1.2", plain=True)),
        ("hf-hub:user/model", Repository("user/model")),
        ("hf-hub:user/model@refs/pr/1", Repository("user/model", "refs/pr/1")),
        ("hf_hub:user/model@0123abc", Repository("user/model", "0123abc")),
        ("hf://user/model@refs/pr/1/a.bin", Repository("user/model", "refs/pr/1", "a.bin")),
        ("hf://user/model@refs%2Fpr%2F1", Repository("user/model", "refs/pr/1")),
        ("hf://user/model/sub/a.pth", Repository("user/model", None, "sub/a.pth")),
        ("https://huggingface.co/user/model@v1", Repository("user/model", "v1")),
        ("https://huggingface.co/user/model/tree/v1", Repository("user/model", "v1")),
        ("https://huggingface.co/user/model/tree/refs%2Fpr%2F1",
         Repository("user/model", "refs/pr/1")),
        ("https://huggingface.co/user/model/blob/v1/x/a.pth",
         Repository("user/model", "v1", "x/a.pth")),
        # Not the published weights: another revision, another tag, another owner.
        ("timm/resnest50d.in1k@v2", Repository("timm/resnest50d.in1k", "v2", plain=True)),
        ("timm/resnest50d.a1_in1k", Repository("timm/resnest50d.a1_in1k", plain=True)),
        ("hf-hub:me/resnest50d.in1k", Repository("me/resnest50d.in1k")),
        ("hf://timm/resnest50d.in1k/other.pth",
         Repository("timm/resnest50d.in1k", None, "other.pth")),
    ],
)  # fmt: skip
def test_other_repositories(name: str, repository: Repository) -> None:
    meaning = understand(name)
    assert meaning.variant is None
    assert meaning.repository == repository


def test_the_page_of_a_private_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example:8443/base/")
    found = understand("https://hub.example:8443/base/user/model/tree/v1")
    assert found.repository == Repository("user/model", "v1")
    with pytest.raises(UnknownModelError, match="no address of a model"):
        understand("https://other.example/user/model")


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("timm/resnest50d.in1k", "timm/resnest50d.in1k"),
        ("user/model", "user/model"),
        ("user/best.pth", "user/best.pth"),
        ("model", "model"),
        ("./resnest50d", "resnest50d"),
        ("local-dir:resnest50d", "resnest50d"),
        ("local-dir:a/b", "a/b"),
        ("file:///a/b", "/a/b"),
        ("FILE://localhost/a%20b/best.pth", "/a b/best.pth"),
    ],
)
def test_a_path_that_exists_wins_over_a_name_of_the_hub(name: str, path: str) -> None:
    assert understand(name).path == Path(path)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("name", ["resnest50d", "resnest50", "RESNEST50D.IN1K"])
def test_the_table_wins_over_a_path(name: str) -> None:
    assert understand(name).variant == VARIANTS["resnest50d"]


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("name", ["hf-hub:user/model", "hf://user/model"])
def test_a_prefix_of_the_hub_means_the_hub(name: str) -> None:
    assert understand(name).repository == Repository("user/model")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnest50d.a1_in1k", "timm has resnest50d.in1k"),
        ("resnest14d.in1k", "timm has resnest14d.gluon_in1k"),
        ("resnest50d_1s1x64d.in1k", "timm has none"),
        ("resnst50d", "Did you mean resnest50d"),
        ("best.pth", "no such checkpoint file"),
        ("file:///best.pth", "no such checkpoint file"),
        ("file://server/best.pth", "no such checkpoint file"),
        ("runs/best.safetensors", "no such checkpoint file"),
        ("openvino/model.xml", "no such checkpoint file"),
        ("runs/best.safetensors", "hf-hub:runs/best.safetensors"),
        ("a/b/c", "no such checkpoint file or folder"),
        ("my-model/", "no such checkpoint file or folder"),
        ("local-dir:my-model", "no such folder"),
        ("local-dir:", "no such folder"),
        ("", "empty"),
        ("hf-hub:resnet50", "USER/NAME"),
        ("hf-hub:a/b/c", "USER/NAME"),
        ("hf-hub:a/b@", "USER/NAME"),
        ("hf-hub:../x", "USER/NAME"),
        ("hf-hub:a/b@../../x", "USER/NAME"),
        ("hf-hub:a/b--c", "USER/NAME"),
        ("hf://", "USER/NAME"),
        ("https://huggingface.co/", "USER/NAME"),
        ("hf://datasets/a/b", "a data set"),
        ("https://huggingface.co/datasets/a/b", "a data set"),
        ("https://huggingface.co/spaces/a/b", "a space"),
        ("https://example.com/a/b", "no address of a model"),
    ],
)  # fmt: skip
def test_what_means_nothing_says_why(name: str, told: str) -> None:
    with pytest.raises(UnknownModelError) as error:
        understand(name)
    assert told in str(error.value)
