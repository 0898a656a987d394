"""Traps for the fuzzer: playlists that name other files and addresses, and programs on PATH.

The playlists have names of audio files. A reader that follows one is detected: the programs write a file, a
socket listens at the address, and a pipe without a writer blocks its reader.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Any

PROGRAMS = ("ffmpeg", "ffprobe", "avconv", "sox", "sph2pipe", "mpg123", "mplayer", "gst-launch-1.0")
# Python's audit events for starting a process or opening a network connection.
FORBIDDEN = (
    "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork", "os.forkpty",
    "pty.spawn", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request",
    "ftplib.connect", "http.client.connect",
)  # fmt: skip


class Lures:
    """secret: a file outside the corpus. programs: whether to put programs on PATH that write a file."""

    def __init__(self, top: Path, secret: Path, programs: bool) -> None:
        self._mark, self._server = top / "program-was-started", socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        (top / "bin").mkdir()
        for name in PROGRAMS if programs else ():
            script = top / "bin" / name
            script.write_text(f"#!/bin/sh\necho {name} >> {self._mark}\n")
            script.chmod(0o755)
        rest = os.environ["PATH"] if programs else ""
        os.environ["PATH"] = f"{top / 'bin'}{os.pathsep}{rest}"
        os.mkfifo(top / "pipe.wav")
        self.files = list(_lists(secret, top / "pipe.wav", self._server.getsockname()[1]))

    def check(self) -> None:
        """Raise AssertionError if something has followed a lure."""
        assert not self._mark.exists(), f"started {self._mark.read_text()}"
        try:
            self._server.accept()
        except BlockingIOError:
            return
        raise AssertionError("connected to an address that a file names")


class Watch:
    """Records files that Python opens outside of `allowed`, and each process or connection, while `on`."""

    def __init__(self, allowed: Path, always: tuple[str, ...], named: tuple[Any, ...]) -> None:
        self.on, self.seen = False, list[str]()
        self._allowed, self._named = (str(allowed), *always), named
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {str(args)[:200]}")
        elif event == "open" and isinstance(args[0], (str, bytes)):
            name = os.fsdecode(args[0])
            if not os.path.realpath(name).startswith(self._allowed) and args[0] not in self._named:
                self.seen.append(f"open {name}")


def _lists(secret: Path, pipe: Path, port: int) -> list[bytes]:
    """Playlists, scripts of ffmpeg's, and descriptions of streams."""
    address = f"http://127.0.0.1:{port}/a.mp3"
    lists = [f"#EXTM3U\n#EXTINF:1,a\n{name}\n" for name in (secret, pipe, address, f"file:{secret}")] + [
        f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9.0,\n{name}\n#EXT-X-ENDLIST\n"
        for name in (secret, pipe, address, f"concat:{secret}|{pipe}", f"crypto:{secret}")
    ]
    for name in (secret, pipe, address, f"subfile,,start,0,end,999,,:{secret}"):
        lists += [
            f"ffconcat version 1.0\nfile '{name}'\n",
            f"[playlist]\nNumberOfEntries=1\nFile1={name}\nLength1=9\nVersion=2\n",
            f"[Reference]\nRef1={name}\n",
            f'<asx version="3.0"><entry><ref href="{name}"/></entry></asx>',
            f'<?xml version="1.0"?><MPD><Period><AdaptationSet mimeType="audio/mp4"><Representation id="1">'
            f"<BaseURL>{name}</BaseURL></Representation></AdaptationSet></Period></MPD>",
            f"{name}\n",
            f"ffmpeg -i {name} -f wav - |",
        ]
    lists.append(f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n")
    texts = [text.encode() for text in lists]
    # An ID3 tag, or the first box of an mp4, before a playlist.
    return [*texts, *(b"ID3\x04\0\0\0\0\0\0" + text for text in texts[:6]),
            *(b"\0\0\0\x10ftypM4A \0\0\0\0" + text for text in texts[:6])]  # fmt: skip
