import os
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import AudioSource, CutSet, Recording

from maya.audio.byte_ranges import file_stamp, parse_address, read_range
from maya.audio.lhotse_audio import byte_range_source
from maya.audio.load import load_audio, load_cut_audio
from maya.audio.tar_index import index_tar, member_header
from maya.data.corpus.manifest import Row
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.table.cuts import entry_cut
from maya.errors import MayaError
from tests.data.making import write_tar, write_tone


def make_tar(
    folder: Path, count: int = 4, rate: int = 22050, channels: int = 1
) -> tuple[Path, dict[str, Path]]:
    files = {
        f"clips/{i}.flac": write_tone(folder / f"{i}.flac", 0.3 + 0.1 * i, rate, channels, pitch=200 + 30 * i)
        for i in range(count)
    }
    files["clips/" + "long" * 40 + ".wav"] = write_tone(folder / "long.wav", 0.5)
    tar = write_tar(folder / "odd name?&=%.tar", {name: path.read_bytes() for name, path in files.items()})
    return tar, files


def tar_rows(tar: Path) -> list[Row]:
    return [
        Row(
            id=f"u{i}", language="en", text="one", audio=m.name, where="x", tar=tar.name, offset=m.offset,
            size=m.size,
        )
        for i, m in enumerate(index_tar(tar))
    ]  # fmt: skip


def test_index_equals_tarfile(tmp_path: Path) -> None:
    tar, files = make_tar(tmp_path)
    with tarfile.open(tar, "a") as writer:
        writer.addfile(tarfile.TarInfo("empty"))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        writer.addfile(folder)
    members = index_tar(tar)
    assert [m.name for m in members] == [*files, "empty"]
    for member in members[:-1]:
        assert read_range(tar, member.offset, member.size) == files[member.name].read_bytes()
        header = member_header(tar, member.offset)
        assert header is not None and header.size == member.size and header.name[:100] == member.name[:100]
    assert member_header(tar, members[0].offset + 1) is None


@pytest.mark.parametrize("channels", [1, 2])
def test_tar_audio_equals_file_audio_even_after_a_manifest_is_saved(tmp_path: Path, channels: int) -> None:
    tar, files = make_tar(tmp_path, channels=channels)
    kept, dropped = probe(tmp_path, tar_rows(tar), ProbeConfig())
    assert not dropped
    CutSet.from_cuts([entry_cut(entry) for entry in kept]).to_file(tmp_path / "cuts.jsonl.gz")
    for cut, (name, path) in zip(CutSet.from_file(tmp_path / "cuts.jsonl.gz"), files.items(), strict=True):
        assert torch.equal(load_cut_audio(cut, 16000), load_audio(path, 16000)), name
        assert cut.sampling_rate == soundfile.info(path).samplerate
        assert cut.load_audio().shape == (1 if name.endswith(".wav") else channels, cut.num_samples)


def test_a_new_process_needs_only_the_import(tmp_path: Path) -> None:
    """Data workers may be new processes; importing the module must be enough."""
    tar, _ = make_tar(tmp_path, count=1)
    kept, _ = probe(tmp_path, tar_rows(tar)[:1], ProbeConfig())
    CutSet.from_cuts([entry_cut(kept[0])]).to_file(tmp_path / "cuts.jsonl.gz")
    code = (
        "import maya.audio.lhotse_audio, lhotse, sys;"
        "print(next(iter(lhotse.CutSet.from_file(sys.argv[1]))).load_audio().shape)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cuts.jsonl.gz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 6615)"


def test_threads_share_a_tar(tmp_path: Path) -> None:
    tar, files = make_tar(tmp_path)
    members, wrong = index_tar(tar), []

    def read() -> None:
        for _ in range(50):
            for m in members:
                if read_range(tar, m.offset, m.size) != files[m.name].read_bytes():
                    wrong.append(m.name)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_address_survives_odd_paths(tmp_path: Path) -> None:
    path = tmp_path / "a b?c&d=e%20.tar" / "ü.tar"
    source = byte_range_source(path, 3, 4, [0])
    assert parse_address(source.source) == (str(path), 3, 4, None)


def test_unreadable_byte_ranges_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match=r"cannot read .*none\.tar: No such file"):
        index_tar(tmp_path / "none.tar")
    (tmp_path / "bad.tar").write_bytes(b"x" * 3000)
    with pytest.raises(MayaError, match=r"bad\.tar is not an uncompressed tar"):
        index_tar(tmp_path / "bad.tar")
    tar, files = make_tar(tmp_path)
    with tarfile.open(tmp_path / "z.tar.gz", "w:gz") as packed:
        packed.add(tar, "a.tar")
    with pytest.raises(MayaError, match="not an uncompressed tar"):
        index_tar(tmp_path / "z.tar.gz")
    short = tmp_path / "short.tar"
    short.write_bytes(tar.read_bytes()[: index_tar(tar)[1].offset + 10])
    with pytest.raises(MayaError, match=r"short\.tar"):
        index_tar(short)
    last = index_tar(tar)[-1]
    with pytest.raises(MayaError, match="ends before byte"):
        read_range(tar, last.offset, 10**6)
    with pytest.raises(MayaError, match=r"cannot read .*gone\.tar"):
        read_range(tmp_path / "gone.tar", 0, 1)


def test_wrong_ranges_drop_the_utterance(tmp_path: Path) -> None:
    tar, _ = make_tar(tmp_path)
    good = tar_rows(tar)
    rows = [
        replace(good[0], offset=good[0].offset + 512),
        replace(good[1], size=good[1].size - 1),
        replace(good[2], audio="clips/other.flac"),
        replace(good[3], offset=10**9),
        replace(good[0], id="by name", offset=None, size=None),
        replace(good[0], id="no such", audio="none.wav", offset=None, size=None),
    ]
    kept, dropped = probe(tmp_path, rows, ProbeConfig())
    assert [p.id for p in kept] == ["by name"] and kept[0].offset == good[0].offset
    assert [d.id for d in dropped] == ["u0", "u1", "u2", "u3", "no such"]
    assert {d.reason for d in dropped} == {"tar_mismatch"}
    assert "lies 'clips/1.flac'" in dropped[1].detail


@pytest.mark.parametrize("options", [{}, {"subtype": "FLOAT"}, {"format": "FLAC"}])
def test_a_cut_of_a_long_recording_reads_few_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    """The recording has 120 s at 16 kHz and the cut 2 s. FLAC needs a binary search for the start."""
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.5, 0.5, 120 * 16000).astype(np.float32)
    soundfile.write(tmp_path / "a", samples, 16000, **({"format": "WAV"} | options))
    data = (tmp_path / "a").read_bytes()
    tar = write_tar(tmp_path / "a.tar", {"before.wav": b"x" * 700, "a": data, "after": b"y" * 900})
    member = index_tar(tar)[1]
    source = byte_range_source(tar, member.offset, member.size, [0], file_stamp(tar))
    recording = Recording("r", [source], 16000, 120 * 16000, 120.0)
    cut = recording.to_cut().truncate(offset=71.3, duration=2.0)
    read, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: read.append(size) or pread(fd, size, offset))
    expected = samples[round(71.3 * 16000) :][: 2 * 16000]
    np.testing.assert_allclose(cut.load_audio()[0], expected, atol=4e-5)
    needed = len(data) * 2 / 120
    assert sum(read) < needed + (20 if "format" in options else 4) * 65536 < len(data) / 2
    read.clear()
    np.testing.assert_allclose(recording.to_cut().load_audio()[0], samples, atol=4e-5)
    assert len(data) <= sum(read) <= len(data) + 65536


@pytest.mark.parametrize("suffix", ["wav", "flac", "opus", "mp3"])
def test_sub_cuts_of_every_format(tmp_path: Path, suffix: str) -> None:
    options = {"opus": {"format": "OGG", "subtype": "OPUS"}, "mp3": {"format": "MP3"}}.get(suffix, {})
    path = write_tone(tmp_path / f"a.{suffix}", 30.0, 16000, **options)
    tar = write_tar(tmp_path / "a.tar", {path.name: path.read_bytes()})
    member = index_tar(tar)[0]
    of_file = Recording.from_file(path, "r")
    ours = replace(of_file, sources=[byte_range_source(tar, member.offset, member.size, [0])])
    for offset, duration in ((0.0, 30.0), (0.0, 1.5), (12.345, 3.0), (29.0, 1.0)):
        a, b = (r.to_cut().truncate(offset=offset, duration=duration).load_audio() for r in (ours, of_file))
        np.testing.assert_allclose(a, b, atol=0 if suffix != "mp3" else 1e-6)  # mpg123 rounds by buffers


def test_manifests_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Their sources are of type "url", and have no stamp."""
    tar, files = make_tar(tmp_path, count=1, rate=16000)
    member = index_tar(tar)[0]
    old = AudioSource("url", [0], byte_range_source(tar, member.offset, member.size, [0]).source)
    recording = Recording("r", [old], 16000, 4800, 0.3)
    torch.testing.assert_close(load_cut_audio(recording.to_cut()), load_audio(files["clips/0.flac"]))


def test_a_replaced_tar_is_refused_by_the_cut(tmp_path: Path) -> None:
    tar, _ = make_tar(tmp_path)
    kept, _ = probe(tmp_path, tar_rows(tar), ProbeConfig())
    cuts = [entry_cut(entry) for entry in kept]
    load_cut_audio(cuts[0])
    os.utime(tar, (1, 1))
    with pytest.raises(
        MayaError, match=r"utterance 'u1': cannot read .*\.tar was replaced since the manifest"
    ):
        load_cut_audio(cuts[1])


def test_cuts_can_be_copied_into_shar(tmp_path: Path) -> None:
    tar, files = make_tar(tmp_path, count=2, rate=16000)
    cuts = CutSet.from_cuts([entry_cut(entry) for entry in probe(tmp_path, tar_rows(tar), ProbeConfig())[0]])
    (tmp_path / "shar").mkdir()
    cuts.to_shar(tmp_path / "shar", fields={"recording": "wav"})
    copies = CutSet.from_shar(in_dir=tmp_path / "shar")
    for cut, shar, path in zip(cuts, copies, files.values(), strict=True):
        expected = load_audio(path)
        torch.testing.assert_close(load_cut_audio(cut), expected)
        torch.testing.assert_close(load_cut_audio(shar), expected, atol=4e-5, rtol=0)


def test_an_empty_member_is_a_clear_error(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.wav": b""})
    source = byte_range_source(tar, 512, 0, [0])
    with pytest.raises(MayaError, match=r"utterance 'r': cannot read .*a\.tar as audio: it has no bytes"):
        load_cut_audio(Recording("r", [source], 16000, 16000, 1.0).to_cut())
