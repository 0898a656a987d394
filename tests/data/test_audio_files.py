from pathlib import Path

import numpy as np

from maya.data.corpus.manifest import Row
from maya.data.prepare import audio_files


def test_files_are_listed_once_with_size_and_time(tmp_path: Path) -> None:
    for name in ("a.wav", "b.tar"):
        (tmp_path / name).write_bytes(b"12345")
    places = [("a.wav", None), ("x", "b.tar"), ("y", "b.tar"), ("c.wav", None)]
    rows = [
        Row(id=str(n), language="en", text="", audio=audio, where="", tar=tar)
        for n, (audio, tar) in enumerate(places)
    ]
    files = audio_files.of_rows(tmp_path, rows)
    assert files.paths == [str(tmp_path / name) for name in ("a.wav", "b.tar", "c.wav")]
    stat = (tmp_path / "b.tar").stat()
    assert files.stamps[1].tolist() == [5, stat.st_mtime_ns] and files.stamps[2].tolist() == [-1, -1]
    assert files.digest() == files.now().digest() and not files.changed(files.now())
    (tmp_path / "a.wav").write_bytes(b"1")
    (tmp_path / "c.wav").write_bytes(b"")
    assert files.changed(files.now()) == [str(tmp_path / name) for name in ("a.wav", "c.wav")]
    assert files.digest() != files.now().digest()


def test_a_saved_list_is_read_back(tmp_path: Path) -> None:
    names = [f"/somewhere/{n}.wav" for n in range(2000)] + ["/with\nline", "/bytes\udcff", "/nul\0", "/ह"]
    files = audio_files.of_paths([*names, *names])
    files.write(tmp_path / "list")
    again = audio_files.read(tmp_path / "list")
    assert again is not None and again.paths == names and again.digest() == files.digest()
    assert np.array_equal(again.stamps, files.stamps)
    assert audio_files.digest_of(tmp_path / "list") == files.digest()
    audio_files.of_paths([]).write(tmp_path / "empty")
    empty = audio_files.read(tmp_path / "empty")
    assert empty is not None and not empty.paths and not empty.changed(empty.now())


def test_a_damaged_list_reads_as_none(tmp_path: Path) -> None:
    assert audio_files.read(tmp_path / "absent") is None
    files = audio_files.of_paths(["/a", "/b"])
    files.write(tmp_path / "list")
    whole = (tmp_path / "list").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 3):
        (tmp_path / "list").write_bytes(whole[:size])
        assert audio_files.read(tmp_path / "list") is None
