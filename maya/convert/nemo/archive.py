"""The `.nemo` file: a tar, plain or gzipped, of `model_config.yaml`, `model_weights.ckpt` and the tokenizer.

Members are read by the names in the yaml and never unpacked to disk. Nothing pickled in them is run.
"""

import hashlib
import io
import lzma
import pickle
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import torch
import yaml
from torch import Tensor

from maya.convert.report import reason
from maya.errors import MayaError
from maya.files import replacing

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
MiB = 2**20
# A yaml with a vocabulary of 32 K, listed three times, has 2 MB, a tokenizer about 1 MB, the weights of 1.1 B
# parameters 4.3 GB. Larger files are no recogniser, or made to fill the memory.
MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, MAX_WEIGHTS_BYTES = 32 * MiB, 64 * MiB, 64 * 1024 * MiB
MAX_MEMBERS = 10_000
REFERENCE = "nemo:"  # marks a value of the yaml that names a member
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)


class NemoArchive:
    """An open `.nemo` file, a context manager. `config` is its yaml."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise MayaError(f"{path} is not a file")
        try:
            self._tar = tarfile.open(self.path, "r:*")  # noqa: SIM115 (closed by __exit__)
        except _DAMAGE as e:
            raise MayaError(
                f"{path} is not a .nemo archive: it is no tar file, plain or gzipped ({reason(e)})"
            ) from e
        try:
            self._members = self._list()
            self.config = self._read_config()
        except BaseException:
            self._tar.close()
            raise

    def __enter__(self) -> "NemoArchive":
        return self

    def __exit__(self, *exc: object) -> None:
        self._tar.close()

    def _list(self) -> dict[str, tarfile.TarInfo]:
        """The regular files of the archive by name, without a leading "./"."""
        members: dict[str, tarfile.TarInfo] = {}
        with self._damage_named():
            for member in self._tar:
                if member.isreg():
                    members[str(PurePosixPath(member.name))] = member
                if len(members) > MAX_MEMBERS:
                    raise MayaError(f"{self.path} has more than {MAX_MEMBERS} files, too many for a model")
        return members

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as e:
            raise MayaError(
                f"{self.path} is truncated or damaged ({reason(e)}); copy or download it again"
            ) from e

    def _member(self, name: str, limit: int) -> IO[bytes]:
        member = self._members.get(str(PurePosixPath(name)))
        if member is None:
            raise MayaError(f"{self.path} has no {name}; it is incomplete, or not a NeMo model")
        if member.size > limit:
            raise MayaError(f"{self.path}: {name} has {member.size} bytes, more than the {limit} expected")
        opened = self._tar.extractfile(member)
        assert opened is not None  # only regular files are listed
        return opened

    def read(self, name: str, limit: int = MAX_TOKENIZER_BYTES) -> bytes:
        """The bytes of a member. Raises MayaError if it is missing, larger than `limit`, or damaged."""
        with self._damage_named(), self._member(name, limit) as f:
            return f.read()

    def artifact(self, value: Any, where: str) -> bytes:
        """The member that a value of the yaml, `nemo:<name>`, refers to. `where` is its key, for errors."""
        if not isinstance(value, str) or not value.startswith(REFERENCE):
            raise MayaError(f"{self.path}: {where} is {value!r}, which is not a file of the archive")
        return self.read(value[len(REFERENCE) :])

    def _read_config(self) -> dict[str, Any]:
        text = self.read(CONFIG, MAX_CONFIG_BYTES)
        try:
            config = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as e:
            raise MayaError(f"{self.path}: {CONFIG} is not readable yaml ({reason(e)})") from e
        if not isinstance(config, dict):
            raise MayaError(f"{self.path}: {CONFIG} holds no mapping")
        return config

    def weights(self) -> dict[str, Tensor]:
        """The state dict by NeMo's names, on the CPU, as stored. Raises MayaError for any other content."""
        try:
            with (
                self._damage_named(),
                self._member(WEIGHTS, MAX_WEIGHTS_BYTES) as f,
                self._seekable(f) as file,
            ):
                state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as e:
            raise MayaError(
                f"{self.path}: {WEIGHTS} holds objects other than tensors, which are not loaded"
            ) from e
        except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as e:
            raise MayaError(
                f"{self.path}: {WEIGHTS} is damaged ({reason(e)}); copy or download it again"
            ) from e
        if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
            raise MayaError(f"{self.path}: {WEIGHTS} is no state dict")
        return {str(k): v for k, v in state.items()}

    @contextmanager
    def _seekable(self, file: IO[bytes]) -> Iterator[IO[bytes]]:
        """`file` itself from a plain tar, a copy on disk from a gzipped one, where seeking is slow."""
        if isinstance(self._tar.fileobj, io.BufferedReader):
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy, 4 * MiB)
            copy.seek(0)
            yield cast(IO[bytes], copy)


def artifact_name(content: bytes, name: str) -> str:
    """NeMo's name for a file in an archive: 32 hexadecimal digits, then its own name."""
    return f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}_{name}"


def write_archive(
    path: Path, config: dict[str, Any], weights: dict[str, Tensor], files: dict[str, bytes]
) -> None:
    """Write a plain `.nemo` archive atomically. The same content gives the same bytes."""
    text = yaml.dump(config, Dumper=_Plain, sort_keys=False, allow_unicode=True).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in {CONFIG: text, **files}.items():
            _add(tar, name, io.BytesIO(content), len(content))
        with tempfile.TemporaryFile(dir=path.parent) as saved:
            torch.save(weights, saved)
            size = saved.tell()
            saved.seek(0)
            _add(tar, WEIGHTS, cast(IO[bytes], saved), size)


class _Plain(yaml.SafeDumper):
    """Writes a list that occurs twice in full, as NeMo does, not as a reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    entry = tarfile.TarInfo(f"./{name}")  # NeMo needs the dot
    entry.size, entry.mode = size, 0o644
    tar.addfile(entry, content)
