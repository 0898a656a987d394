"""The `.nemo` file: a tar, plain or gzipped, of `model_config.yaml`, `model_weights.ckpt` and the tokenizer.

Members are read by the names the yaml gives, never unpacked to disk, and nothing pickled in them is run.
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

from maya.errors import MayaError
from maya.files import replacing

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
MiB = 2**20
# A 32 K vocabulary is named three times in the yaml: 2 MB. A tokenizer has about 1 MB, the weights of 1.1 B
# parameters 4.3 GB. What is larger is no recogniser, or was made to fill a memory.
MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, MAX_WEIGHTS_BYTES = 32 * MiB, 64 * MiB, 64 * 1024 * MiB
MAX_MEMBERS = 10_000
REFERENCE = "nemo:"  # marks a value of the yaml that names a member
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)


class NemoArchive:
    """An open `.nemo` file; use it in a `with` statement. `config` is its yaml."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise MayaError(f"{path} is not a file")
        try:
            self._tar = tarfile.open(self.path, "r:*")  # noqa: SIM115 (closed by __exit__)
        except _DAMAGE as e:
            raise MayaError(
                f"{path} is not a .nemo archive: it is no tar file, plain or gzipped ({_reason(e)})"
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
        with self._damage_told():
            for member in self._tar:
                if member.isreg():
                    members[str(PurePosixPath(member.name))] = member
                if len(members) > MAX_MEMBERS:
                    raise MayaError(f"{self.path} has more than {MAX_MEMBERS} files, too many for a model")
        return members

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as e:
            raise MayaError(
                f"{self.path} is truncated or damaged ({_reason(e)}); copy or download it again"
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
        """The bytes of a member; MayaError when it is missing, larger than `limit`, or damaged."""
        with self._damage_told(), self._member(name, limit) as f:
            return f.read()

    def artifact(self, value: Any, where: str) -> bytes:
        """The member that a value of the yaml, `nemo:<name>`, refers to; `where` names it in messages."""
        if not isinstance(value, str) or not value.startswith(REFERENCE):
            raise MayaError(f"{self.path}: {where} is {value!r}, which names no file of the archive")
        return self.read(value[len(REFERENCE) :])

    def _read_config(self) -> dict[str, Any]:
        text = self.read(CONFIG, MAX_CONFIG_BYTES)
        try:
            config = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as e:
            raise MayaError(f"{self.path}: {CONFIG} is not readable yaml ({_reason(e)})") from e
        if not isinstance(config, dict):
            raise MayaError(f"{self.path}: {CONFIG} holds no mapping")
        return config

    def weights(self) -> dict[str, Tensor]:
        """The state dict by NeMo's names, on the CPU, as stored; MayaError when it is anything else."""
        try:
            with (
                self._damage_told(),
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
                f"{self.path}: {WEIGHTS} is damaged ({_reason(e)}); copy or download it again"
            ) from e
        if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
            raise MayaError(f"{self.path}: {WEIGHTS} is no state dict")
        return {str(k): v for k, v in state.items()}

    @contextmanager
    def _seekable(self, file: IO[bytes]) -> Iterator[IO[bytes]]:
        """`file` itself from a plain tar; from a packed one a copy on disk: seeking would unpack anew."""
        if isinstance(self._tar.fileobj, io.BufferedReader):
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy, 4 * MiB)
            copy.seek(0)
            yield cast(IO[bytes], copy)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def artifact_name(content: bytes, name: str) -> str:
    """The name under which NeMo keeps a file in an archive: 32 hexadecimal digits, then its own name."""
    return f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}_{name}"


def write_archive(
    path: Path, config: dict[str, Any], weights: dict[str, Tensor], files: dict[str, bytes]
) -> None:
    """Write a plain `.nemo` archive, whole or not at all; the same content gives the same bytes."""
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
    """Writes a list that stands in two places twice, as NeMo does, rather than as a reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    entry = tarfile.TarInfo(f"./{name}")  # NeMo writes and looks for it with the dot
    entry.size, entry.mode = size, 0o644
    tar.addfile(entry, content)
