from pathlib import Path

import pytest

from maya.audio.tar_members import TarMembers
from maya.errors import MayaError
from tests.data.making import write_tar


def test_members_are_found_by_name(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"x/a.wav": b"1", "x/a.json": b"22", "y/b.c.wav": b"333", "d": b""})
    members = TarMembers(path)
    member = members["x/a.wav"]
    assert member is not None and member.size == 1 and members["a.wav"] is None
    assert members.by_stem("b.c") == members["y/b.c.wav"] and members.by_stem("a") is None, "two of them"
    audio = members.without_ending((".json",))
    assert {name: member.size for name, member in audio.items()} == {"x/a": 1, "y/b.c": 3, "d": 0}
    assert members.problem is None and members.lacks("e") == f"{path} has no member 'e'"


def test_the_message_names_the_damage(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a": b"1" * 600, "b": b"2" * 600})
    path.write_bytes(path.read_bytes()[:1800])
    members = TarMembers(path)
    assert members["a"] is not None and members["b"] is None
    assert "has no member 'b' before its damage: " in members.lacks("b") and "truncated" in members.lacks("b")
    (tmp_path / "no.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(MayaError, match="is not an uncompressed tar file"):
        TarMembers(tmp_path / "no.tar")
