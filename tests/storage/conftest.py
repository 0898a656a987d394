"""The S3 server of these tests."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from maya.storage import watcher
from maya.storage.s3 import Place
from tools import s3_server
from tools.s3_server import BUCKET, Proxy


@pytest.fixture(scope="session")
def server() -> Iterator[int]:
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    with s3_server.serve() as port:
        yield port


@pytest.fixture
def proxy(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server, which boto3 uses; pauses between tries are short."""
    monkeypatch.setattr(watcher, "_LONGEST_PAUSE", 0.05)
    with s3_server.before(server) as proxy:
        for name, value in s3_server.environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def place() -> Place:
    return Place(BUCKET, f"runs/{uuid.uuid4().hex[:8]}")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    return tmp_path / "run"
