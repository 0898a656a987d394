"""An S3 server process on the loopback (moto's), and a proxy before it that misbehaves as it is told."""

import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

HOST = "127.0.0.1"
BUCKET = "maya-tests"
Action = Literal[
    "cut upload", "cut answer", "corrupt upload", "corrupt answer", "500", "500 after", "SlowDown", "slow",
    "hang", "refuse", "forbid",
]  # fmt: skip


@dataclass(kw_only=True)
class Fault:
    """Happens to requests that match `when` (of "METHOD path?query"), after the first `skip` of them and
    `times` times; rate: bytes a second of a slow one."""

    action: Action
    when: str
    times: int = 1
    skip: int = 0
    rate: float = 2e6
    happened: int = 0


@dataclass
class Proxy:
    """Passes requests on to the server. faults: the rules; the first that applies is used. hold: while set,
    matching requests of action "hang" wait. log: "METHOD path?query" of every request."""

    port: int
    faults: list[Fault] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    body_bytes: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def choose(self, request: str) -> Fault | None:
        with self.lock:
            self.log.append(request)
            for fault in self.faults:
                if not re.search(fault.when, request) or fault.happened >= fault.times:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    return None
                fault.happened += 1
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    upstream: int

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        fault = self.proxy.choose(f"{self.command} {self.path}")
        action = fault.action if fault else ""
        if action == "refuse":
            return self._cut()
        if self.headers.get("Expect", "").lower() == "100-continue":
            pass  # http.server has answered it
        body = self._body(length, fault)
        if action == "cut upload":
            return self._cut()
        if action == "hang":
            self.proxy.closing.wait(20)
            return self._cut()
        if action in ("500", "SlowDown", "forbid"):
            status, code = {"500": (500, "InternalError"), "SlowDown": (503, "SlowDown"),
                            "forbid": (403, "AccessDenied")}[action]  # fmt: skip
            return self._error(status, code)
        if action == "corrupt upload" and body:
            body = _flipped(body)
        status, headers, answer = self._forward(body)
        if action == "500 after":
            return self._error(500, "InternalError")
        if action == "corrupt answer" and answer:
            answer = _flipped(answer)
        self._answer(status, headers, answer, fault)

    def _body(self, length: int, fault: Fault | None) -> bytes:
        wanted = length // 2 if fault and fault.action == "cut upload" else length
        pieces = []
        while wanted > 0:
            piece = self.rfile.read(min(wanted, 1 << 16))
            if not piece:
                break
            pieces.append(piece)
            wanted -= len(piece)
            if fault and fault.action == "slow":
                time.sleep(len(piece) / fault.rate)
        body = b"".join(pieces)
        with self.proxy.lock:
            self.proxy.body_bytes += len(body)
        return body

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(HOST, self.upstream, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("expect", "connection")}
        try:
            connection.request(self.command, self.path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, fault: Fault | None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = dict((n.lower(), v) for n, v in headers).get("content-length", str(len(data)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and fault.action == "cut answer":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if fault and fault.action == "slow":
            for start in range(0, len(data), 1 << 16):
                self.wfile.write(data[start : start + (1 << 16)])
                time.sleep((1 << 16) / fault.rate)
            return
        self.wfile.write(data)

    def _error(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _cut(self) -> None:
        """End the connection as a broken network does: with a reset."""
        self.close_connection = True
        try:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def log_message(self, *_: Any) -> None: ...

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@contextmanager
def serve() -> Iterator[int]:
    """The port of an S3 server in a process of its own, with an empty bucket."""
    import boto3

    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    # Parts of 1 MiB, which S3 itself would refuse, keep the tests short.
    small = os.environ | {"S3_UPLOAD_PART_MIN_SIZE": str(1 << 20)}
    process = subprocess.Popen(command, env=small, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            assert process.poll() is None, "moto's server ended"
            try:
                socket.create_connection((HOST, port), 0.2).close()
                break
            except OSError:
                time.sleep(0.1)
        client = boto3.client("s3", endpoint_url=f"http://{HOST}:{port}", region_name="us-east-1",
                              aws_access_key_id="test", aws_secret_access_key="test")  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def before(upstream: int) -> Iterator[Proxy]:
    """A proxy before the server of that port."""
    handler: Any = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer((HOST, 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    proxy = Proxy(server.server_address[1])
    handler.proxy, handler.upstream = proxy, upstream
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        server.shutdown()
        server.server_close()


def environment(url: str) -> dict[str, str]:
    """What boto3 reads to find the server, for os.environ or a process."""
    return {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "NO_PROXY": HOST,
    }  # fmt: skip
