"""What people type where a model is named, and what they mean by it. Nothing is read or fetched.

    resnest50d, resnest50                        an id or alias of the table
    resnest50d.in1k                              timm's name, with its tag
    my-model/, local-dir:my-model                a folder with a config.json
    best.safetensors                             a file of weights
    USER/NAME, hf-hub:USER/NAME, hf_hub:, hf://  a repository on Hugging Face's hub, @REVISION
    https://huggingface.co/USER/NAME             its page

They are tried in this order: the table, then a path that exists, then the hub. timm's eight
repositories of ResNeSts are the table's variants, unless a revision is asked for.

Sources: timm.models._factory.parse_model_name; huggingface_hub.utils._hf_uris for hf://.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from resnest_cli.errors import UnknownModelError
from resnest_cli.model.variants import VARIANTS, Variant, find_variant, no_such_model
from resnest_cli.paths import expanded, huggingface_endpoint, is_url

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".pt2", ".bin", ".tar", ".ckpt", ".onnx", ".xml")

WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")  # in a repository, in this order

CONFIG_FILE = "config.json"
HUB_PREFIXES = ("hf-hub:", "hf_hub:", "hf://")
_LOCAL_PREFIX = "local-dir:"
_PUBLIC_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_ID = f"{_PART}/{_PART}"  # compiled when needed: the names of the table need none
_REVISION = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*){0,4}"
_PLAIN = f"(?P<id>{_ID})(?:@(?P<revision>.+))?"
_OTHER_KINDS = {"datasets": "a data set", "spaces": "a space", "kernels": "a kernel",
                "buckets": "a bucket"}  # fmt: skip
_BRANCH = r"(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+)(?:/(?P<file>.+))?"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of models on the hub; `revision` None is its main branch.

    `file` is one that an address names, such as that of model.safetensors; None: what is needed.
    `plain` says that it was written as USER/NAME, which could be a path as well.
    """

    id: str
    revision: str | None = None
    file: str | None = None
    plain: bool = False

    @property
    def foreign_file(self) -> bool:
        """Whether `file` is weights other than those that a repository's config.json describes."""
        if self.file is None or self.file in WEIGHTS_NAMES:
            return False
        return self.file.lower().endswith(WEIGHTS_SUFFIXES)

    def __str__(self) -> str:
        branch = f"{self.id}@{self.revision}" if self.revision else self.id
        return f"hf://{branch}/{self.file}" if self.foreign_file else branch


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name means: a variant, a path, or a repository.

    A variant has its `repository` as well where the name was that of a repository.
    """

    variant: Variant | None = None
    path: Path | None = None
    repository: Repository | None = None


def there(path: Path) -> bool:
    """Whether something of that name exists; a name too long for this system does not."""
    try:
        return path.exists()
    except OSError:
        return False


def understand(name: str) -> Meaning:
    """What a name means.

    Raises:
        UnknownModelError: it means nothing; the message says what is near.
    """
    if variant := find_variant(name):
        return Meaning(variant=variant)
    if name.lower().startswith(_LOCAL_PREFIX):
        text = name[len(_LOCAL_PREFIX) :]
        if not text or not there(expanded(text)):
            raise UnknownModelError(f"{name}: there is no such folder.")
        return Meaning(path=expanded(text))
    if not name.strip():
        raise UnknownModelError("the name of the model is empty. `resnest models` lists variants.")
    repository = _repository(name)
    if repository is None or repository.plain:
        path = expanded(name)
        if there(path):
            return Meaning(path=path)
        if repository is None or path.suffix.lower() in WEIGHTS_SUFFIXES:
            raise _unknown(name, path)
    return Meaning(variant=published(repository), repository=repository)


def find_named(name: str) -> Variant | None:
    """The variant that a name means, however it is spelled; None where it means something else."""
    try:
        return understand(name).variant
    except UnknownModelError:
        return None


def get_named(name: str) -> Variant:
    """The variant that a name means, however it is spelled."""
    meaning = understand(name)
    if meaning.variant is None:
        raise UnknownModelError(f"{name} is no model of the table. `resnest models` lists them.")
    return meaning.variant


def repository_id(name: str) -> str:
    """USER/NAME of a repository, however it is spelled, to which something is sent."""
    repository = _repository(name)
    if repository is None or repository.revision or repository.file:
        raise UnknownModelError(f"{name} is no repository to send to: give USER/NAME, no more.")
    return repository.id


def published(repository: Repository) -> Variant | None:
    """The variant whose published weights are those of the repository's main branch, if any."""
    if repository.revision not in {None, "main"} or repository.foreign_file:
        return None
    wanted = repository.id.lower()
    found = (v for v in VARIANTS.values() if v.hub and v.hub.id == wanted)
    return next(found, None)


def known_near(repository: Repository) -> str:
    """A sentence with timm's repositories of that architecture, where the name begins with one."""
    head = repository.id.rpartition("/")[2].partition(".")[0]
    variant = find_variant(head)
    if variant is None or variant.hub is None or variant.hub.id == repository.id.lower():
        return ""
    return f" timm's weights of {variant.id} are {variant.hub.id}."


def _unknown(name: str, path: Path) -> UnknownModelError:
    if is_url(name):
        return UnknownModelError(
            f"{name} is no address of a model on the hub. The address of a file goes to --weights, "
            "with the variant as --model."
        )
    if path.suffix.lower() in WEIGHTS_SUFFIXES or len(path.parts) > 1 or name.endswith(("/", "\\")):
        hub = f" For the hub's repository write hf-hub:{name}." if re.fullmatch(_ID, name) else ""
        return UnknownModelError(f"{name}: there is no such checkpoint file or folder.{hub}")
    head, dot, tag = name.partition(".")
    variant = find_variant(head)
    if dot and variant is not None:
        known = f"timm has {variant.hub.name}" if variant.hub else "timm has none"
        return UnknownModelError(
            f"{variant.id} has no published weights {tag!r}: {known}. Another repository of the "
            f"hub is named in full, such as hf-hub:timm/{name}."
        )
    return no_such_model(name, [key for v in VARIANTS.values() for key in (v.id, *v.aliases)])


def _repository(name: str) -> Repository | None:
    """The repository that a name spells; None where it has no form of one."""
    prefix = next((known for known in HUB_PREFIXES if name.lower().startswith(known)), "")
    page = None if prefix else _page(name)
    if not prefix and page is None:
        match = re.fullmatch(_PLAIN, name)
        if match is None or not _sound(match["id"], match["revision"]):
            return None
        return Repository(match["id"], match["revision"], plain=True)
    if page is None:
        id_, revision, file = _prefixed(name, name[len(prefix) :], uri=prefix == "hf://")
    else:
        id_, revision, file = _addressed(name, page)
    if not _sound(id_, revision):
        raise _no_name(name)
    return Repository(id_, revision, file)


def _prefixed(name: str, rest: str, *, uri: bool) -> tuple[str, str | None, str | None]:
    """Id, revision and file in what stands behind a prefix; only a `uri` may name a file."""
    rest, at, branch = rest.strip("/").partition("@")
    parts = rest.split("/")
    if uri:
        _check_kind(name, parts[0])
        parts = parts[1:] if parts[0] == "models" else parts
    if len(parts) == 1 and (variant := find_variant(parts[0])) and variant.hub:
        parts = variant.hub.id.split("/")  # timm's name without timm
    revision, file = unquote(branch) or None, "/".join(parts[2:]) or None
    if uri and at and (match := re.fullmatch(_BRANCH, branch)):
        revision, file = unquote(match["revision"]), match["file"]
    if (file and not uri) or (at and not revision):
        raise _no_name(name)
    return "/".join(parts[:2]), revision, file


def _page(name: str) -> str | None:
    """The path of an address on the hub, with no slash before it; None where it is none."""
    text = name if "://" in name else f"https://{name}"
    try:
        parts = urlsplit(text)
        own = urlsplit(huggingface_endpoint())
        hosts = _PUBLIC_HOSTS | ({own.netloc.lower()} if own.netloc else set())
    except ValueError:
        return None
    if parts.scheme.lower() not in {"http", "https"} or parts.netloc.lower() not in hosts:
        return None
    base = own.path.strip("/") if parts.netloc.lower() == own.netloc.lower() else ""
    path = parts.path.strip("/")
    return path.removeprefix(base).strip("/") if base else path


def _addressed(name: str, path: str) -> tuple[str, str | None, str | None]:
    """Id, revision and file in the path of an address, such as USER/NAME/tree/main."""
    owner, title, kind, rest = (*path.split("/", 3), "", "", "")[:4]
    _check_kind(name, owner)
    title, at, revision = title.partition("@")
    if at and (kind or not revision):
        raise _no_name(name)
    match = None
    if kind in {"tree", "blob", "resolve", "raw", "commit"}:  # others are tabs of the page
        match = re.fullmatch(_BRANCH, rest)
    revision, file = (match["revision"], match["file"]) if match else (revision, "")
    return f"{owner}/{title}", unquote(revision) or None, unquote(file or "") or None


def _check_kind(name: str, first: str) -> None:
    if first in _OTHER_KINDS:
        raise UnknownModelError(f"{name} is {_OTHER_KINDS[first]} of the hub, not a model.")


def _sound(id_: str, revision: str | None) -> bool:
    """Whether both can be names on the hub, and so paths in its cache that lead nowhere else."""
    if not re.fullmatch(_ID, id_) or "--" in id_ or ".." in id_ or id_.endswith(".git"):
        return False
    return revision is None or bool(re.fullmatch(_REVISION, revision) and ".." not in revision)


def _no_name(name: str) -> UnknownModelError:
    return UnknownModelError(
        f"{name} names no model of the hub. Give USER/NAME, with @REVISION where it is not main, "
        "such as hf-hub:timm/resnest50d.in1k."
    )
