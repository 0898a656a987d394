"""Members of a tar by name."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from maya.audio.tar_index import TarMember, scan_tar


class TarMembers:
    """The regular files of a tar by name; in a damaged tar those before the damage. Raises MayaError when it
    is not a tar. problem: the damage, as a sentence; None if there is none."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        scan = scan_tar(path)
        self.problem = scan.problem
        self._by_name = {member.name: member for member in scan.members}
        self._by_stem: dict[str, list[TarMember]] | None = None

    def __len__(self) -> int:
        return len(self._by_name)

    def __getitem__(self, name: str) -> TarMember | None:
        """The member of this name; None if there is none."""
        return self._by_name.get(name)

    def by_stem(self, stem: str) -> TarMember | None:
        """The only member whose name without folder and ending is this; None if there is not just one."""
        if self._by_stem is None:
            self._by_stem = {}
            for member in self._by_name.values():
                self._by_stem.setdefault(PurePosixPath(member.name).stem, []).append(member)
        members = self._by_stem.get(stem, [])
        return members[0] if len(members) == 1 else None

    def without_ending(self, suffixes_left_out: Sequence[str]) -> dict[str, TarMember]:
        """Members by name without ending, but for those with one of these endings."""
        return {
            name.rpartition(".")[0] or name: member
            for name, member in self._by_name.items()
            if not name.endswith(tuple(suffixes_left_out))
        }

    def lacks(self, name: str) -> str:
        """A sentence for a member that is missing."""
        damage = f" before its damage: {self.problem}" if self.problem else ""
        return f"{self.path} has no member {name!r}{damage}"
