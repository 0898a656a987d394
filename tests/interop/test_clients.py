"""The published client programs of Vosk and sherpa-onnx get all texts of a recording from Maya's server.

MAYA_CLIENT_PROGRAMS names a folder with them, see check_clients.py, and MAYA_CLIENT_PYTHON the Python that
runs them.
"""

import os
import socket
import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
from tests.interop.check_clients import VOSK_PORT, check, protocol_of, texts_in  # noqa: E402

pytestmark = pytest.mark.interop
PROGRAMS = (
    "test.py", "test_words.py", "test_alternatives.py", "online-websocket-client-decode-file.py",
    "offline-websocket-client-decode-files-sequential.py",
    "offline-websocket-client-decode-files-paralell.py",
)  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_published_client(name: str) -> None:
    folder = os.environ.get("MAYA_CLIENT_PROGRAMS")
    client = Path(folder or "") / name
    if folder is None or not client.is_file():
        pytest.skip(f"no {name}: name a folder that has it with MAYA_CLIENT_PROGRAMS")
    with socket.socket() as probe:
        if protocol_of(client) == "vosk" and not probe.connect_ex(("127.0.0.1", VOSK_PORT)):
            pytest.skip(f"another program listens on port {VOSK_PORT}")
    outcome = check(client, os.environ.get("MAYA_CLIENT_PYTHON", sys.executable))
    assert outcome.expected and outcome.ok, outcome


def test_what_clients_print_is_read() -> None:
    printed = (
        "2026 INFO [a.py:9] {'text': 'a b', 'segment': 0, 'is_final': True}\n"
        "2026 INFO [a.py:9] {'text': 'c', 'segment': 1, 'is_final': False}\n{'segment': 1, 'text': 'c d', "
        "'is_final': True}"
    )
    assert texts_in("sherpa", "", printed) == ["a b", "c d"]
    assert texts_in("vosk", '{"partial": "a"}\n{"text": "a b"}\n{"text": ""}\n', "") == ["a b"]
