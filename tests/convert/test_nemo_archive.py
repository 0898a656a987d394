"""The tar of a NeMo model: members are read by name within size limits; writing is atomic."""

import io
import tarfile
from pathlib import Path

import pytest
import torch

from maya.convert.nemo.archive import NemoArchive, artifact_name, write_archive
from maya.errors import MayaError

FILES = {artifact_name(b"pieces", "tokenizer.model"): b"pieces"}


def test_an_archive_round_trips(tmp_path: Path) -> None:
    path, config, weights = tmp_path / "a.nemo", {"target": "x", "list": ["अ", 1]}, {"w": torch.arange(5.0)}
    write_archive(path, config, weights, FILES)
    with NemoArchive(path) as archive:
        assert archive.config == config
        assert torch.equal(archive.weights()["w"], weights["w"])
        assert archive.artifact(f"nemo:{next(iter(FILES))}", "tokenizer.model_path") == b"pieces"
        with pytest.raises(MayaError, match="is not a file"):
            archive.artifact("/etc/hostname", "tokenizer.model_path")
        with pytest.raises(MayaError, match=r"has no \.\./\.\./etc/hostname"):
            archive.artifact("nemo:../../etc/hostname", "tokenizer.model_path")
        with pytest.raises(MayaError, match="6 bytes, more than the 5"):
            archive.read(next(iter(FILES)), limit=5)


def test_links_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nemo"
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("./model_config.yaml")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(entry)
    with pytest.raises(MayaError, match="has no model_config.yaml"):
        NemoArchive(path)


@pytest.mark.parametrize("text", ["a: [", "just a text", "!!python/object/apply:os.getcwd []", "\x00"])
def test_invalid_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.nemo"
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("model_config.yaml")
        entry.size = len(text.encode())
        tar.addfile(entry, io.BytesIO(text.encode()))
    with pytest.raises(MayaError, match="model_config.yaml"):
        NemoArchive(path)


def test_a_failed_export_writes_no_file(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cannot represent"):
        write_archive(tmp_path / "a.nemo", {"x": object()}, {}, FILES)
    assert list(tmp_path.iterdir()) == []
