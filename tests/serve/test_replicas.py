"""Two replicas behind nginx, with the configuration of docs/guides/serve.md."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.test_command import saved, serving
from tests.serve.test_session import recording, wait_until

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
import httpx  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from maya.serve.access import Access  # noqa: E402
from tests.serve.test_server import KEY, Running, config, expected_texts, int16, rest, wav  # noqa: E402

NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else None)
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "serve.md"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason="nginx is not installed")]


@contextlib.contextmanager
def nginx(folder: Path, replicas: list[int]) -> Iterator[int]:
    """nginx with the guide's file in front of these ports; its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (text,) = re.findall("```nginx\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    for number, address in zip((8081, 8082, 8080), [*replicas, port], strict=True):
        text = text.replace(f"127.0.0.1:{number}", f"127.0.0.1:{address}")
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""  # its workers write into a folder of ours
    about = f"{user} worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;"
    (folder / "nginx.conf").write_text(f"{about}\nevents {{}}\nhttp {{ {temporary}\n{text}}}\n")
    command = [
        str(NGINX),
        "-p",
        str(folder),
        "-c",
        f"{folder}/nginx.conf",
        "-e",
        f"{folder}/error.log",
    ]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: answers(port))
        yield port
    finally:
        process.terminate()
        process.wait(10)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def talk(client: Any, samples: Any) -> list[Any]:
    client.send(samples.tobytes())
    client.send('{"type": "end"}')
    return [message["text"] for message in rest(client) if message["type"] == "final"]


def test_a_killed_and_a_draining_replica(tmp_path: Path) -> None:
    samples, own = int16(recording(0)), Running(config(), Access.of([KEY]))
    key = {"Authorization": f"Bearer {KEY}"}
    (tmp_path / "nginx").mkdir()
    try:
        with (
            serving(saved(tmp_path / "model.pt")) as (process, address),
            nginx(tmp_path / "nginx", [own.port, int(address.rsplit(":", 1)[1])]) as port,
        ):
            url, base = f"ws://127.0.0.1:{port}/v1/stream", f"http://127.0.0.1:{port}"
            clients = [connect(f"{url}?token={KEY}").__enter__() for _ in range(4)]
            assert [json.loads(client.recv())["type"] for client in clients] == ["ready"] * 4
            assert len(own.server.connections) == 2, "sessions are not spread over the replicas"
            process.kill()
            process.wait()
            ends = [talk(client, samples) if client_lives(client) else None for client in clients]
            assert sorted(map(str, ends)) == sorted(map(str, [expected_texts(own, samples)] * 2 + [None] * 2))
            for _ in range(4):  # new ones all go to the replica that lives
                with connect(url, additional_headers=key) as client:
                    assert talk(client, samples) == expected_texts(own, samples)
            files = {"file": ("a.wav", wav(recording(0)))}
            answer = httpx.post(f"{base}/v1/audio/transcriptions", files=files, headers=key, timeout=60)
            assert answer.status_code == 200 and answer.json()["text"]
            with connect(url, additional_headers=key) as client:
                client.recv()
                client.send(samples.tobytes())
                wait_until(lambda: any(c.seconds > 2 for c in own.server.connections))
                loop = next(iter(own.server.connections))._loop
                drained = asyncio.run_coroutine_threadsafe(own.server.drain(), loop)
                texts = [m["text"] for m in rest(client) if m["type"] == "final"]
                drained.result(20)
            assert texts == expected_texts(own, samples) and client.close_code == 1012
            with pytest.raises(InvalidStatus) as refused:
                connect(url, additional_headers=key)
            assert refused.value.response.status_code in (502, 503)
        logged = (tmp_path / "nginx" / "access.log").read_text()
        assert "/v1/stream 101" in logged and KEY not in logged
    finally:
        own.close()


def client_lives(client: Any) -> bool:
    try:
        client.recv(timeout=0.5)
    except TimeoutError:
        return True
    except (ConnectionClosed, OSError):
        return False
    return True
