import io
import os
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from maya.audio.byte_ranges import ByteRange, RangeFile, file_stamp, parse_address, read_range
from maya.audio.decoding import decode
from maya.audio.object_store import S3Store, s3_store, use_s3_store
from maya.audio.stamps import Stamp
from maya.audio.tar_index import index_tar
from maya.errors import MayaError
from tests.data.making import write_tar, write_tone


@pytest.mark.parametrize(
    "where",
    [
        ByteRange("/data/a b?c&d=e%20.tar/ü.tar", 3, 4),
        ByteRange("/a.tar", 2**61, 0, Stamp(2**62, 1763700000)),
        ByteRange("s3://bucket/a folder/x?.tar", 512, 7, Stamp(9, 0)),
    ],
)
def test_addresses_round_trip(where: ByteRange) -> None:
    assert parse_address(where.address) == where
    assert where.address.isascii() and " " not in where.address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "bytes:///a.tar",
        "bytes:///a.tar?offset=1",
        "bytes:///a.tar?offset=-1&size=3",
        "bytes:///a.tar?offset=1&size=x",
        "bytes:///a.tar?offset=1&size=" + "9" * 5000,
        "bytes:///a.tar?offset=99999999999999999999&size=3",
        "bytes:///a.tar?offset=1&size=3&mtime=5",
        "bytes:///a%00.tar?offset=1&size=3",
        "bytes:///a%ff.tar?offset=1&size=3",
        "bytes://?offset=1&size=3",
        "file:///a.tar?offset=1&size=3",
        "bytes:///a.tar?offset=٣&size=3",
    ],
)
def test_bad_addresses_are_refused(address: str) -> None:
    with pytest.raises(MayaError, match="is not the address of a byte range") as caught:
        parse_address(address)
    assert len(str(caught.value)) < 500


def test_a_replaced_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")
    stamp = file_stamp(path)
    assert read_range(path, 2, 3, stamp) == b"234"
    os.utime(path, (stamp.mtime + 1, stamp.mtime + 1))
    assert read_range(path, 2, 3, stamp) == b"234", "a copy may lose fractions of seconds"
    os.utime(path, (stamp.mtime + 60, stamp.mtime + 60))
    with pytest.raises(MayaError, match=rf"a\.bin was replaced .* touch -d @{stamp.mtime} '"):
        read_range(path, 2, 3, stamp)
    path.write_bytes(b"01234567890")
    with pytest.raises(MayaError, match="replaced since the manifest was made: it has 11 bytes and had 10"):
        read_range(path, 2, 3, stamp)
    assert read_range(path, 2, 3, file_stamp(path)) == b"234", "prepared again, in the same process"


def test_a_replaced_file_is_detected_without_a_stamp(tmp_path: Path) -> None:
    path, other = tmp_path / "a.bin", tmp_path / "b.bin"
    path.write_bytes(b"old")
    assert read_range(path, 0, 3) == b"old"
    other.write_bytes(b"new")
    other.replace(path)
    assert read_range(path, 0, 3) == b"new"


def test_a_claimed_size_allocates_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")
    tracemalloc.start()
    for offset, size in ((0, 2**60), (2**61, 2**61), (5, 2**40)):
        with pytest.raises(MayaError, match="ends before byte"):
            read_range(path, offset, size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(MayaError, match="is not a file"):
            read_range(path, 0, 10)
    with pytest.raises(MayaError, match="cannot read"):
        read_range("a\0b", 0, 10)


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maya.audio.byte_ranges._MAX_OPEN_FILES", 3)
    for i in range(10):
        (tmp_path / str(i)).write_bytes(bytes([i]) * 4)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        for i in range(10):
            assert read_range(tmp_path / str(i), 1, 2) == bytes([i]) * 2
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_a_byte_range_acts_as_a_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    (tmp_path / "a.bin").write_bytes(b"x" * 100 + data + b"y" * 100)
    file = io.BufferedReader(RangeFile(ByteRange(str(tmp_path / "a.bin"), 100, len(data))), 512)
    assert file.read() == data and file.read() == b""
    assert file.seek(-10, io.SEEK_END) == len(data) - 10 and file.read(100) == data[-10:]
    assert file.seek(5) == 5 and file.read(3) == data[5:8] and file.seek(2, io.SEEK_CUR) == 10
    assert file.seek(len(data) + 50) and file.read(1) == b""


class FakeClient:
    """Objects in memory, with the answers of boto3's client."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects, self.sent, self.requests = objects, 0, 0
        self.time = datetime(2026, 1, 2, tzinfo=UTC)

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        return {"ContentLength": len(self._find(Bucket, Key)), "LastModified": self.time}

    def get_object(self, *, Bucket: str, Key: str, Range: str) -> dict[str, Any]:
        data = self._find(Bucket, Key)
        first, last = map(int, Range.removeprefix("bytes=").split("-"))
        if first >= len(data):
            raise _Refused("InvalidRange")
        part = data[first : last + 1]
        self.sent, self.requests = self.sent + len(part), self.requests + 1
        return {"Body": io.BytesIO(part), "LastModified": self.time, "ContentRange": f"bytes 0-1/{len(data)}"}

    def _find(self, bucket: str, key: str) -> bytes:
        if f"{bucket}/{key}" not in self.objects:
            raise _Refused("NoSuchKey")
        return self.objects[f"{bucket}/{key}"]


class _Refused(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}}


def test_object_storage_equals_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{i}.flac": write_tone(tmp_path / f"{i}.flac", 0.3 + i).read_bytes() for i in range(3)}
    files["long.wav"] = write_tone(tmp_path / "long.wav", 200.0).read_bytes()
    tar = write_tar(tmp_path / "a.tar", files)
    client = FakeClient({"bucket/data/a.tar": tar.read_bytes()})
    before = s3_store()
    use_s3_store(S3Store(client))
    try:
        path = "s3://bucket/data/a.tar"
        members = index_tar(path)
        assert members == index_tar(tar) and client.sent <= 512 * (len(members) + 1)
        stamp = file_stamp(path)
        for member in members:
            remote = ByteRange(path, member.offset, member.size, stamp)
            local = ByteRange(str(tar), member.offset, member.size)
            assert (decode(parse_address(remote.address))[0] == decode(local)[0]).all()
        client.sent = 0
        part, _ = decode(remote, offset=120.0, duration=2.0)
        assert (part == decode(local, 120.0, 2.0)[0]).all() and client.sent <= 4 << 20 < len(
            files["long.wav"]
        )
        with pytest.raises(MayaError, match=r"cannot read s3://bucket/none: An error occurred \(NoSuchKey\)"):
            index_tar("s3://bucket/none")
        with pytest.raises(MayaError, match="does not name an object"):
            index_tar("s3://bucket")
        with pytest.raises(MayaError, match="ends before byte"):
            read_range(path, 10**9, 5)
        client.time = datetime(2026, 1, 3, tzinfo=UTC)
        with pytest.raises(MayaError, match="was replaced since"):
            read_range(*remote)
    finally:
        use_s3_store(before)


def test_without_boto3_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(MayaError, match=r"needs boto3: pip install 'maya-asr\[cloud\]'"):
        S3Store().stamp("s3://bucket/key")
