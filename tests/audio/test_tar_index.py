import io
import os
import tarfile
import time
from pathlib import Path

import pytest

from maya.audio.byte_ranges import read_range
from maya.audio.tar_index import index_tar, member_header, scan_tar
from maya.errors import MayaError

GIGABYTE = 1 << 30
NAMES = ["a.wav", "ü/ə.wav", "ह" * 60 + ".wav", "deep/" * 60 + "x.wav", "n" * 99, "n" * 100, "n" * 101]


def write(path: Path, kind: int, names: list[str], **options: object) -> dict[str, bytes]:
    """Write a tar of this format with one member for each name, all of different sizes."""
    data = {name: bytes([i % 251]) * (i * 300) for i, name in enumerate(names)}
    with tarfile.open(path, "w", format=kind, **options) as tar:  # type: ignore[call-overload]
        for name, content in data.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_700_000_000.5  # type: ignore[assignment]
            tar.addfile(info, io.BytesIO(content))
    return data


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_empty_members(tmp_path: Path, kind: int) -> None:
    data = write(tmp_path / "a.tar", kind, NAMES)
    members = index_tar(tmp_path / "a.tar")
    assert [m.name for m in members] == NAMES and members[0].size == 0
    assert [read_range(tmp_path / "a.tar", m.offset, m.size) for m in members] == list(data.values())
    for member in members:
        header = member_header(tmp_path / "a.tar", member.offset)
        assert header is not None and header.size == member.size


def test_headers_for_all_members_and_other_kinds_of_members(tmp_path: Path) -> None:
    with tarfile.open(
        tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}
    ) as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("odd")
            info.type, info.linkname = kind, "l" * 150
            tar.addfile(info)
        info = tarfile.TarInfo("../../etc/passwd")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert [(m.name, m.size) for m in index_tar(tmp_path / "a.tar")] == [("../../etc/passwd", 3)]


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_over_8_gigabytes(tmp_path: Path, kind: int) -> None:
    """The file is sparse and takes a few kilobytes of disk."""
    path, sizes = tmp_path / "big.tar", [9 * GIGABYTE + 5, 700, 20 * GIGABYTE]
    with path.open("wb") as file:
        for i, size in enumerate(sizes):
            info = tarfile.TarInfo(f"{i}.wav")
            info.size = size
            file.write(info.tobuf(kind, "utf-8", "surrogateescape"))
            start = file.tell()
            file.write(b"first")
            file.seek(start + size - 4)
            file.write(b"last")
            file.seek(start + -(-size // 512) * 512)
        file.write(bytes(1024))
    started = time.monotonic()
    members = index_tar(path)
    assert [m.size for m in members] == sizes and time.monotonic() - started < 1
    for m in members:
        assert read_range(path, m.offset, 5) == b"first"
        assert read_range(path, m.offset + m.size - 4, 4) == b"last"


def test_only_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.tar", tarfile.USTAR_FORMAT, [f"{i}" for i in range(50)])
    asked, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: asked.append(size) or pread(fd, size, offset))
    index_tar(tmp_path / "a.tar")
    assert sum(asked) == 512 * 51, "one header for each member, and the end mark"


def test_a_truncated_tar_gives_its_complete_members(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", tarfile.GNU_FORMAT, ["a", "b" * 120, "c", "d"])
    whole, data = index_tar(tmp_path / "a.tar"), (tmp_path / "a.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    end = whole[-1].offset + whole[-1].size
    for length in [*range(1, end + 1200, 97), end, end - 1]:
        cut.write_bytes(data[:length])
        scan = scan_tar(cut)
        expected = [m for m in whole if m.offset + m.size <= length]
        assert scan.members == expected
        if scan.problem is None:
            # A tar that was cut between two members cannot be told from one without an end mark.
            assert length % 512 == 0 or length > end + 512
        else:
            assert scan.problem.startswith(f"{cut} is truncated: it") and "\n" not in scan.problem
            with pytest.raises(MayaError, match="is truncated"):
                index_tar(cut)


def test_members_before_damage_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write(path, tarfile.USTAR_FORMAT, ["a", "b", "c", "d"])
    members, data = index_tar(path), bytearray(path.read_bytes())
    data[members[2].offset - 512 + 3] ^= 1
    path.write_bytes(data)
    scan = scan_tar(path)
    assert scan.members == members[:2]
    assert scan.problem is not None and f"damaged: at byte {members[2].offset - 512} lies no" in scan.problem


def test_a_second_tar_behind_the_first_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", tarfile.GNU_FORMAT, ["a", "b"])
    write(tmp_path / "b.tar", tarfile.PAX_FORMAT, ["c"])
    first = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "both.tar").write_bytes(first + (tmp_path / "b.tar").read_bytes())
    scan = scan_tar(tmp_path / "both.tar")
    assert [member.name for member in scan.members] == ["a", "b"]
    assert scan.problem is not None and f"the second begins at byte {len(first)}" in scan.problem
    with pytest.raises(MayaError, match="both.tar is several tars joined"):
        index_tar(tmp_path / "both.tar")
    (tmp_path / "both.tar").write_bytes(first + b"noise" * 5000)
    assert scan_tar(tmp_path / "both.tar").problem is None


def test_sparse_files_are_skipped_and_named(tmp_path: Path) -> None:
    """The old GNU form with a second map block; tarfile cannot write it, so it is made by hand."""
    first = tarfile.TarInfo("holes.wav")
    first.size, first.type = 1024, tarfile.GNUTYPE_SPARSE
    header = bytearray(first.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    after = tarfile.TarInfo("b.wav")
    after.size = 3
    blocks = [bytes(header), bytes(512), b"x" * 1024, after.tobuf(tarfile.GNU_FORMAT), b"abc" + bytes(509)]
    (tmp_path / "a.tar").write_bytes(b"".join(blocks) + bytes(1024))
    scan = scan_tar(tmp_path / "a.tar")
    assert [m.name for m in scan.members] == ["b.wav"] and scan.skipped == ["holes.wav"]
    assert read_range(tmp_path / "a.tar", scan.members[0].offset, 3) == b"abc"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"20 size=99999999999\n", "goes past the end"),
        (b"11 size=-5\n", "gives its size as '-5'"),
        (b"99 path=a\n", "cannot be understood"),
        (b"0 path=a\n", "cannot be understood"),
        (b"-3 path=a\n", "cannot be understood"),
        (b"\xff\xff", "cannot be understood"),
    ],
)
def test_bad_pax_headers_are_refused(tmp_path: Path, record: bytes, message: str) -> None:
    good, special = tarfile.TarInfo("a"), tarfile.TarInfo("p")
    special.type, special.size = tarfile.XHDTYPE, len(record)
    blocks = [special.tobuf(), record.ljust(512, b"\0"), good.tobuf(), bytes(1024)]
    (tmp_path / "a.tar").write_bytes(b"".join(blocks))
    assert message in (scan_tar(tmp_path / "a.tar").problem or "")


def test_claimed_sizes_of_special_headers_allocate_no_memory(tmp_path: Path) -> None:
    """A sparse file of 64 GB with a header that claims that all of it is a name."""
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 60 * GIGABYTE
        with (tmp_path / "a.tar").open("wb") as file:
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.truncate(64 * GIGABYTE)
        assert "bytes of names" in (scan_tar(tmp_path / "a.tar").problem or "")


@pytest.mark.parametrize(("suffix", "kind"), [("gz", "gzip"), ("bz2", "bzip2"), ("xz", "xz")])
def test_compressed_tars_are_named(tmp_path: Path, suffix: str, kind: str) -> None:
    with tarfile.open(tmp_path / "a.tar", f"w:{suffix}") as tar:  # type: ignore[call-overload]
        tar.add(__file__)
    with pytest.raises(MayaError, match=f"not an uncompressed tar file but compressed with {kind}"):
        scan_tar(tmp_path / "a.tar")


def test_an_empty_file_is_not_a_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(MayaError, match="is empty"):
        scan_tar(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(bytes(1024))
    assert index_tar(tmp_path / "a.tar") == []
