"""A hub on this machine: Hugging Face's protocol over real HTTP, for huggingface_hub itself.

    with HubServer() as hub:
        hub.add("user/model", {"config.json": b"{}", "model.safetensors": b"..."})
        monkeypatch.setenv("HF_ENDPOINT", hub.url())

Large files are redirected to a second host (another port), as the real hub does to its storage.
`tokens` are those that it accepts, `private` and `gated` the repositories that need one. Scripts of
`tests.server` go before it: `hub.script("/user/model/resolve/main/config.json", Reply(429))`.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from tests.server import File, Reply, Request, Server, _Handler

LARGE = (".safetensors", ".bin", ".pth")


@dataclass
class Repo:
    """Files by commit, and the commits of branches and tags."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.refs.get(revision, revision))


class HubServer(Server):
    """The hub, with its storage; a context manager for both."""

    def __init__(self) -> None:
        super().__init__()
        self._http.RequestHandlerClass = _HubHandler
        self.storage = Server()
        self.storage._http.RequestHandlerClass = _StorageHandler
        self.repos: dict[str, Repo] = {}
        self.tokens: set[str] = set()
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.sent: list[tuple[str, str]] = []  # method and path of what changes something

    def __enter__(self) -> Self:
        super().__enter__()
        self.storage.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self.storage.__exit__(*details)
        super().__exit__(*details)

    def add(self, id_: str, files: dict[str, bytes], revision: str = "main") -> str:
        """A commit of a repository, the newest of the branch; returns its hash."""
        repo = self.repos.setdefault(id_, Repo())
        text = repr((id_, revision, len(repo.commits), sorted(files.items())))
        commit = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        repo.commits[commit] = dict(files)
        repo.refs[revision] = commit
        for name, data in files.items():
            if name.endswith(LARGE):
                self.storage.files[f"/{hashlib.sha256(data).hexdigest()}"] = File(data)
        return commit


class _StorageHandler(_Handler):
    def do_PUT(self) -> None:  # noqa: N802
        data = self.rfile.read(int(self.headers["Content-Length"]))
        path, owner = urlsplit(self.path).path, self.server.owner
        received = {name.lower(): value for name, value in self.headers.items()}
        owner.requests.append(Request(path, received, 200))
        owner.files[path] = File(data)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


class _HubHandler(_Handler):
    def do_HEAD(self) -> None:  # noqa: N802
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        owner, path = self.hub, unquote(urlsplit(self.path).path)
        reply = owner.next_reply(path)
        if reply.status and self.command == "HEAD":
            headers = {name: value for name, value in reply.headers.items() if value is not None}
            self.reply(reply.status, headers, reply.body or b"")
            return
        if reply.status or reply.raw is not None:
            owner._scripts[path].appendleft(reply)
            super().do_GET()
            return
        status, headers, body = self.found(path)
        self.reply(status, headers, body)

    def do_POST(self) -> None:  # noqa: N802
        path = unquote(urlsplit(self.path).path)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.sent.append(("POST", path))
        reply = self.hub.next_reply(path)
        if reply.status:
            self.reply(reply.status, {}, reply.body or b"")
        else:
            self.reply(*self.changed(path, data))

    @property
    def hub(self) -> HubServer:
        assert isinstance(self.server.owner, HubServer)
        return self.server.owner

    @property
    def known(self) -> bool:
        """Whether the request has a token that is accepted."""
        return self.headers.get("Authorization", "").removeprefix("Bearer ") in self.hub.tokens

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        received = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(unquote(urlsplit(self.path).path), received, status))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def found(self, path: str) -> tuple[int, dict[str, str], bytes]:
        api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models").strip("/").split("/")
        id_, rest = "/".join(parts[:2]), parts[2:]
        if self.headers.get("Authorization") and not self.known:
            told = "Invalid credentials in Authorization header"
            return 401, {"X-Error-Message": told}, b""
        repo = self.hub.repos.get(id_)
        hidden = id_ in self.hub.private and not self.known
        if repo is None or hidden or len(parts) < 2:
            return 401 if not self.known else 404, {"X-Error-Code": "RepoNotFound"}, b""
        if id_ in self.hub.gated and not self.known and not api:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if api:
            return self.told(id_, repo, rest)
        if not rest:
            return 200, {}, b"<!DOCTYPE html><html>the model's page</html>"
        _, revision, *names = rest
        if revision == "refs":  # refs/pr/1
            revision, names = "/".join(["refs", *names[:2]]), names[2:]
        return self.resolved(repo, revision, "/".join(names))

    def resolved(self, repo: Repo, revision: str, name: str) -> tuple[int, dict[str, str], bytes]:
        files = repo.files(revision)
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        headers = {"X-Repo-Commit": repo.refs.get(revision, revision)}
        if name not in files:
            return 404, headers | {"X-Error-Code": "EntryNotFound"}, b""
        data = files[name]
        if not name.endswith(LARGE) or data.startswith(b"version https://git-lfs"):
            blob = b"blob %d\0" % len(data) + data
            sha1 = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
            return 200, headers | {"ETag": f'"{sha1}"'}, data
        sha256 = hashlib.sha256(data).hexdigest()
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
        return 302, headers | {"Location": self.hub.storage.url(f"/{sha256}")}, b""

    def told(self, id_: str, repo: Repo, rest: list[str]) -> tuple[int, dict[str, str], bytes]:
        """Model info and trees."""
        kind, revision = [*rest, "", ""][:2]
        files = repo.files(revision or "main")
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if kind == "tree":
            found: Any = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in files.items()
            ]
        else:
            sha = repo.refs.get(revision or "main", revision)
            found = {"id": id_, "modelId": id_, "sha": sha, "tags": [], "downloads": 0, "likes": 0}
            found |= {"private": repo.private, "siblings": [{"rfilename": n} for n in files]}
        return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()

    def changed(self, path: str, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """What changes something: new repositories, uploads and commits."""
        answer: Any = {"errors": [], "warnings": []}  # of validate-yaml
        if path.startswith("/api/validate-yaml"):
            pass
        elif not self.known:
            return 401, {"X-Error-Message": "Invalid username or password."}, b""
        elif path == "/api/repos/create":
            asked = json.loads(data)
            id_ = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if id_ in self.hub.repos:
                return 409, {}, json.dumps({"url": self.hub.url(f"/{id_}")}).encode()
            self.hub.add(id_, {})
            self.hub.repos[id_].private = asked.get("visibility") == "private"
            answer = {"url": self.hub.url(f"/{id_}"), "name": id_}
        elif path.endswith("/preupload/main"):
            answer = {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(data)["files"]
                ]
            }
        elif path.endswith("/info/lfs/objects/batch"):
            answer = {"transfer": "basic", "objects": []}
            for wanted in json.loads(data)["objects"]:
                href = self.hub.storage.url(f"/{wanted['oid']}")
                action = {"upload": {"href": href}}
                answer["objects"].append(wanted | {"actions": action})
        elif path.endswith("/commit/main"):
            id_ = "/".join(path.split("/")[3:5])
            answer = {"success": True, "commitOid": self.committed(id_, data), "pullRequestUrl": ""}
            answer["commitUrl"] = self.hub.url(f"/{id_}/commit/{answer['commitOid']}")
        return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()

    def committed(self, id_: str, data: bytes) -> str:
        repo = self.hub.repos[id_]
        files = dict(repo.files("main") or {})
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.storage.files[f"/{value['oid']}"].data
        return self.hub.add(id_, files)


__all__ = ["HubServer", "Reply"]
