"""Inputs and output on S3: a server of its protocol on this machine, spoken to over HTTP."""

import io
import json
import logging
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import make_photo
from tests.jobs.nodes import Nodes, largest_difference, local_rows, wait_for

pytest.importorskip("ray")
server = pytest.importorskip("moto.server")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COUNT = 70
SLOW = 0.02


@pytest.fixture(scope="module")
def s3():
    """A file system with the buckets `photos` and `out`; what is started now finds it, too."""
    from pyarrow import fs

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it tells of every request
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    given = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key",
             "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
             "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        system = fs.S3FileSystem(
            access_key="key", secret_key="secret", region="us-east-1", scheme="http",
            endpoint_override=f"{host}:{port}", allow_bucket_creation=True,
        )  # fmt: skip
        for bucket in ("photos", "out"):
            system.create_dir(bucket)
        yield system
    running.stop()


@pytest.fixture(scope="module")
def nodes(s3, tmp_path_factory: pytest.TempPathFactory):
    with Nodes(tmp_path_factory.mktemp("home"), slow=SLOW) as running:
        yield running


@pytest.fixture(scope="module")
def photos(s3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, and the same below s3://photos/in/."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(COUNT):
        path = make_photo(folder / f"{index}.png", (60, 40), seed=index)
        if index == 13:
            path.write_bytes(path.read_bytes()[:100])
        upload(s3, f"photos/in/{index % 3}/{path.name}", path.read_bytes())
    upload(s3, "photos/in/notes.txt", b"no photo")
    return folder


def upload(s3, path: str, data: bytes) -> None:
    with s3.open_output_stream(path) as stream:
        stream.write(data)


def parts(s3, folder: str) -> dict[str, object]:
    """The parts below a folder, and when each was written."""
    from pyarrow import fs

    found = s3.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return {i.path: i.mtime_ns for i in found if i.base_name.startswith("part-")}


def content(s3, folder: str) -> dict[str, dict]:
    """All rows by the names of their files; each input once."""
    import pyarrow.parquet as pq

    found = [row for p in parts(s3, folder) for row in pq.read_table(p, filesystem=s3).to_pylist()]
    counts = Counter(row["input"] for row in found)
    assert len(found) == len(counts) == COUNT
    return {row["input"].rpartition("/")[2]: row for row in found}


@pytest.fixture(scope="module")
def local(photos: Path, tiny_checkpoint: Path, tmp_path_factory) -> dict[str, dict]:
    """Rows of the local runner, by the names of files."""
    target = tmp_path_factory.mktemp("local") / "feats.parquet"
    found = local_rows(photos, tiny_checkpoint, target)
    return {Path(name).name: row for name, row in found.items()}


def test_a_run_that_is_killed_goes_on(
    s3, nodes: Nodes, photos: Path, tiny_checkpoint: Path, local: dict
) -> None:
    words = ("features", "s3://photos/in/", "-m", tiny_checkpoint, "-o", "s3://out/feats/")
    process = nodes.start(*words)
    wait_for(lambda: len(parts(s3, "out/feats")) >= 1, process)
    process.kill()
    process.communicate()
    wait_for(lambda: not nodes.workers())
    before = parts(s3, "out/feats")
    assert 1 <= len(before) < 3
    assert "--resume goes on with it" in nodes.run(*words, code=2)
    said = nodes.run(*words, "--resume", code=3)
    assert f"s3://out/feats/: {COUNT} rows in 3 parts, {len(before)} of them found" in said
    assert "1 other file without a known image extension was skipped" in said
    after = parts(s3, "out/feats")
    assert {path: after[path] for path in before} == before
    assert largest_difference(content(s3, "out/feats"), local) <= 1e-5
    with s3.open_input_stream("out/feats/_summary.json") as stream:
        counts = json.loads(stream.read())["counts"]
    assert counts == {"inputs": COUNT, "rows": COUNT - 1, "failed": 1}
    assert "All was finished already" in nodes.run(*words, "--resume")
    assert "--overwrite replaces it" in nodes.run(*words, code=2)
    nodes.run(*words, "--overwrite", code=3)
    assert parts(s3, "out/feats").keys() == after.keys()


def test_shards_and_manifests_on_s3(
    s3, nodes: Nodes, photos: Path, tiny_checkpoint: Path, local: dict, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number in range(2):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for index in range(number, COUNT, 2):
                archive.add(photos / f"{index}.png", f"{index}.png")
        upload(s3, f"photos/shards/{number}.tar", buffer.getvalue())
    out = "s3://out/of-shards"
    nodes.run("features", "s3://photos/shards/*.tar", "-m", tiny_checkpoint, "-o", out, code=3)
    found = content(s3, "out/of-shards")
    assert found["2.png"]["input"] == "s3://photos/shards/0.tar/2.png"
    assert largest_difference(found, local) <= 1e-5

    table = pa.table({"at": [f"s3://photos/in/{index % 3}/{index}.png" for index in range(COUNT)]})
    pq.write_table(table, "photos/list.parquet", filesystem=s3)
    words = ("predict", "s3://photos/list.parquet", "--path-column", "at", "-m", tiny_checkpoint)
    nodes.run(*words, "-o", tmp_path / "out", "--format", "jsonl", code=3)
    written = sorted((tmp_path / "out").glob("part-*.jsonl"))
    text = "".join(path.read_text() for path in written)
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["input"] for record in records] == table["at"].to_pylist()
    assert [r["input"] for r in records if r["error"]] == ["s3://photos/in/1/13.png"]


def test_what_is_not_there_is_told(s3, nodes: Nodes, tiny_checkpoint: Path, tmp_path: Path) -> None:
    words = ("features", "-m", tiny_checkpoint)
    said = nodes.run(*words, "s3://nowhere/in/", "-o", tmp_path / "out", code=3)
    assert "1 of 1 input could not be read (1 missing)" in said
    said = nodes.run(*words, "s3://photos/in/", "-o", "s3://nowhere/out", code=1)
    assert "error: s3://nowhere/out: cannot be written" in said
    assert "Traceback" not in said
