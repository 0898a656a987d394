"""A fuzzer of corpora: `python -m tests.data.fuzz --seconds 600 --seed 1`.

Each case is made from its number alone. It is a corpus of a few short recordings in a tar, a manifest, a
metadata.csv or pairs of files. Then it is damaged: bits are flipped, pieces are cut out, numbers become huge,
paths point outside the folder, and so on. The case is read as `maya prepare` and training read a corpus. The
only error that may be raised is MayaError.

The fuzzer runs in its own process (see test_fuzz.py) with a memory limit. It watches which files Python opens
and whether a process or a connection is started (fuzz_lures.py). It prints the number of each case, so that a
crash of a decoder can be repeated with `--only CASE`.
"""

import argparse
import gzip
import importlib.util
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import soundfile
from lhotse import AudioSource, Recording

from maya.audio.byte_ranges import ByteRange, parse_address
from maya.audio.decoding import decode
from maya.audio.load import load_audio, load_cut_audio
from maya.audio.tar_index import index_tar, member_header, scan_tar
from maya.data.corpus.folder import read_corpus
from maya.data.corpus.manifest import Row
from maya.data.measure.entry import Entry
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.table.cuts import entry_cut
from maya.errors import MayaError
from tests.data.fuzz_lures import Lures, Watch
from tests.data.fuzz_shards import write_shards
from tests.data.fuzz_tables import read_tables, write_tables
from tests.data.making import media, tone

CASE_SECONDS = 10  # the slowest sound case takes a tenth of a second
MEMORY = 400 << 20  # bytes a case may add to what the process had; a sound one needs a few MB
NAMES = ("a.wav", "b/c.flac", "../secret.wav", "/etc/passwd", "n" * 150 + ".wav", "ü.ogg", "d.mp3", "e")
ODD_VALUES: tuple[Any, ...] = (
    "", " ", ".", "/", "..", "../secret.wav", "../../etc/passwd", "/etc/passwd", "/dev/zero", "x" * 300,
    "a\0b", "\udcff", "xx", None, True, [], {}, 0, -1, 1.5, 2**31, 2**63, 10**30, 10**400, float("inf"),
    float("nan"),
)  # fmt: skip
NUMBERS = (b"77777777777\0", b"00000000000\0", b"-0000000001\0", b"9999999999x\0", b"\x80" + b"\xff" * 11,
           b"\xff" * 12, b"\x80\0\0\0\x7f" + b"\xff" * 7)  # fmt: skip


class Hang(BaseException):
    """A case that takes too long."""


def recordings() -> list[bytes]:
    """A short recording in every format."""
    kinds = [
        *(("WAV", None), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)),
        *(("AIFF", None), ("AU", None), ("CAF", None), ("W64", None), ("RF64", None), ("NIST", None)),
        *(("VOC", "PCM_16"), ("WAV", "GSM610")),
    ]
    sounds = []
    for kind, subtype in kinds:
        buffer = io.BytesIO()
        soundfile.write(buffer, tone(0.3), 16000, format=kind, subtype=subtype)
        sounds.append(buffer.getvalue())
    if importlib.util.find_spec("av") is not None:
        sounds += [
            media(tone(0.3), *form) for form in (("ipod", "aac"), ("adts", "aac"), ("webm", "libopus"))
        ]
    sounds.append(sounds[5] + sounds[5])  # joined
    sounds.append(sounds[4] + sounds[4])
    return sounds


def write_case(folder: Path, rng: random.Random, sounds: list[bytes], lists: list[bytes]) -> None:
    """A corpus folder with something wrong in it."""
    choices = [*sounds, b"", rng.choice(lists), rng.choice(lists)]
    audio = {name: rng.choice(choices) for name in rng.sample(NAMES, rng.randint(1, 5))}
    kind = rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    buffer, rows = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for number, (name, data) in enumerate(audio.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            try:
                tar.addfile(info, io.BytesIO(data))
            except ValueError:  # too long for this format
                continue
            row = {"id": str(number), "language": "en", "text": "one two", "audio": name, "tar": "a.tar"}
            rows.append(row)
    data = buffer.getvalue()
    (folder / "a.tar").write_bytes(data)
    members = {m.name: m for m in index_tar(folder / "a.tar")}
    for row in rows:
        if rng.random() < 0.7 and row["audio"] in members:
            row |= {"offset": members[row["audio"]].offset, "size": members[row["audio"]].size}  # type: ignore[dict-item]
    (folder / "a.tar").write_bytes(damaged_tar(data, rng))
    if rng.random() < 0.05:
        os.truncate(folder / "a.tar", rng.choice([1 << 20, 1 << 36]))
    loose = f"loose.{rng.choice(['wav', 'flac', 'ogg', 'mp3'])}"
    lure = rng.random() < 0.3
    (folder / loose).write_bytes(rng.choice(lists) if lure else damaged(rng.choice(sounds), rng))
    rows.append({"id": "loose", "language": "en", "text": "one two", "audio": loose})
    write_manifest(folder, rows, rng)


def write_manifest(folder: Path, rows: list[dict[str, Any]], rng: random.Random) -> None:
    """Write the rows in one of the forms of a corpus folder, sometimes damaged."""
    if rng.random() < 0.3:
        row = rng.choice(rows)
        row[rng.choice([*row, "offset", "size", "duration", "sample_rate", "speaker"])] = rng.choice(
            ODD_VALUES
        )
    draw = rng.random()
    if draw < 0.5:
        text = "\n".join(json.dumps(row) for row in rows).encode()
        name = "manifest.jsonl"
    elif draw < 0.65:
        name, text = write_delimited(folder, rows, rng)
    elif draw < 0.9:
        name, text = write_form(folder, rows, rng)
    else:
        (folder / "hi").mkdir()
        for sound in folder.glob("loose.*"):
            sound.rename(folder / "hi" / sound.name)
        text, name = b"one two", "hi/loose.txt"
    if rng.random() < 0.4:
        text = damaged(text, rng)
    if rng.random() < 0.05:
        text = rng.choice(
            [b"[" * 100_000, b'"' + b"x" * 200_000, b"1" * 10_000, b"\xff\xfe\0", b"\0" * 99, text * 99]
        )
    (folder / name).write_bytes(text)


def write_delimited(folder: Path, rows: list[dict[str, Any]], rng: random.Random) -> tuple[str, bytes]:
    """Write a delimited table (with a header, as LJSpeech or as Common Voice) that has unclosed quotes."""
    texts = [
        "one two",
        '"one two',
        '"one, two"',
        'one "two',
        "one\ntwo",
        "&#39;one&amp;amp;two",
        "\u2028one\x0b",
    ]
    cells = [(row.get("audio"), rng.choice(texts), row.get("language")) for row in rows]
    form = rng.choice(["csv", "csv", "tsv", "ljspeech", "common voice"])
    separator = {"csv": ",", "tsv": "\t", "ljspeech": "|", "common voice": "\t"}[form]
    text = "\n".join(separator.join(map(str, line)) for line in cells)
    if form == "common voice":
        (folder / "clips").mkdir()
        for sound in folder.glob("loose.*"):
            sound.rename(folder / "clips" / sound.name)
        text = "path\tsentence\tclient_id\n" + text
    elif form != "ljspeech":
        text = separator.join(["file_name", "text", "language"]) + "\n" + text
    name = {"csv": "metadata.csv", "tsv": "metadata.tsv", "common voice": "train.tsv"}.get(
        form, "metadata.csv"
    )
    return name, text.encode("utf-8", "replace")


def write_form(folder: Path, rows: list[dict[str, Any]], rng: random.Random) -> tuple[str, bytes]:
    """Write the rows in a form of maya.data.corpus. Returns (name, bytes) of the last file (unwritten)."""
    odd = rng.choice(ODD_VALUES) if rng.random() < 0.2 else 0.1
    form = rng.choice(["metadata", "nemo", "kaldi", "lhotse", "recordings", "shards", "shards"])
    if form == "shards":
        return write_shards(folder, rows, odd, rng, damaged)
    if form == "kaldi":
        (folder / "text").write_bytes(
            "".join(f"{row['id']} one two\n" for row in rows).encode("utf-8", "replace")
        )
        waves = "".join(f"{row['id']} {row['audio']}\n" for row in rows).encode("utf-8", "replace")
        (folder / "wav.scp").write_bytes(waves if rng.random() < 0.5 else damaged(waves, rng))
        (folder / "utt2lang").write_bytes(b"".join(b"%d en\n" % n for n in range(9)) + b"loose en\n")
        channel = rng.choice(["", " 0", " 1", " -1", f" {odd}"])
        segments = "".join(f"{row['id']} {row['id']} {odd} 0.25{channel}\n" for row in rows)
        return "segments", segments.encode("utf-8", "replace")
    lines: list[dict[str, Any]] = []
    for row in rows:
        own = {"text": row["text"], "language": row["language"], "start": odd, "duration": 0.15}
        source = {"type": "file", "channels": [0], "source": row["audio"]}
        recording = {"id": row["id"], "sources": [source], "duration": 0.3}
        channel = rng.choice([0, 0, [0], 1, odd])
        supervision = own | {"id": row["id"], "recording_id": row["id"], "channel": channel}
        by_form = {
            "metadata": own | {"file_name": row["audio"]},
            "nemo": own
            | {"audio_filepath": row["audio"], "offset": odd, "channel": rng.choice([None, 0, odd])},
            "recordings": recording
            | {"sampling_rate": 16000, "num_samples": 4800, "supervision": supervision},
            "lhotse": {"start": 0, "channel": 0, "recording": recording, "supervisions": [supervision]},
        }
        lines.append(by_form[form])
    text = "\n".join(map(json.dumps, lines)).encode()
    if form == "recordings":
        supervisions = [json.dumps(line.pop("supervision")).encode() for line in lines]
        recorded = "\n".join(map(json.dumps, lines)).encode()
        sound = rng.random() < 0.5
        (folder / "recordings.jsonl.gz").write_bytes(
            gzip.compress(recorded if sound else damaged(recorded, rng))
        )
        return "supervisions.jsonl.gz", gzip.compress(damaged(b"\n".join(supervisions), rng))
    if form == "lhotse":
        return "cuts.jsonl.gz", gzip.compress(text if rng.random() < 0.5 else damaged(text, rng))
    return {"metadata": "metadata.jsonl", "nemo": "train.json"}[form], text


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A copy of the bytes with a few random changes."""
    changed = bytearray(data)
    for _ in range(rng.randint(0, 4)):
        if not changed:
            break
        at, length = rng.randrange(len(changed)), rng.choice([1, 4, 64, 512, 5000])
        match rng.randrange(6):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at : at + length] = rng.randbytes(length)
            case 4:
                changed[at : at + length] = rng.choice([b"\0", b"\xff"]) * length
            case 5:
                changed[at:at] = changed[at : at + length]
    return bytes(changed)


def damaged_tar(data: bytes, rng: random.Random) -> bytes:
    """A tar with random changes, or with a valid header that has wrong values."""
    if rng.random() < 0.5:
        return damaged(data, rng) if rng.random() < 0.8 else data
    changed = bytearray(data)
    at = rng.randrange(len(data) // 512) * 512
    block = changed[at : at + 512]
    if rng.random() < 0.7:
        block[124:136] = rng.choice(NUMBERS)  # the size
    if rng.random() < 0.3:
        block[156] = rng.choice(b"\x0001234567LKSxgXVMNZ")  # the kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    changed[at : at + 512] = block
    return bytes(changed)


def read_case(folder: Path, rng: random.Random) -> int:
    """Read a corpus as preparation and training do. Returns the number of decoded utterances."""
    tar = folder / "a.tar"
    for look in (scan_tar, index_tar):
        attempt(look, tar)
    size = tar.stat().st_size
    for _ in range(3):
        offset, length = (
            rng.choice([rng.randrange(size + 1), 2**62]),
            rng.choice([rng.randrange(3000), 2**62]),
        )
        attempt(member_header, tar, offset)
        byte_range = ByteRange(str(tar), offset, length)
        attempt(decode, byte_range, rng.choice([0.0, 0.1, 1e9]), rng.choice([None, 0.1, 1e9]))
        address = damaged(byte_range.address.encode(), rng).decode("utf-8", "replace")
        parsed = attempt(parse_address, address)
        if parsed is not None and parsed.path == str(tar):
            attempt(decode, parsed)
    for sound in folder.glob("loose.*"):
        attempt(load_audio, sound)
        attempt(load_audio, sound.read_bytes())
        kind, source = rng.choice(
            [("file", str(sound)), ("url", f"file://{sound}"), ("command", f"cat {sound}")]
        )
        cut = Recording("loose", [AudioSource(kind, [0], source)], 16000, 4800, 0.3).to_cut()
        attempt(load_cut_audio, cut)
    corpus = attempt(read_corpus, folder, None, folder / "made")
    if corpus is None:
        return 0
    cfg = ProbeConfig(decode=rng.random() < 0.7, num_workers=1)
    kept, dropped = probe(folder, corpus[0], cfg)
    for drop in dropped:
        assert drop.reason and "\n" not in drop.detail and len(drop.detail) < 3000, drop
        json.dumps(vars(drop) if hasattr(drop, "__dict__") else repr(drop), ensure_ascii=False)
    rows = {row.id: row for row in corpus[0]}
    for entry in kept:
        check_inside(folder, entry, rows[entry.id])
    if kept and rng.random() < 0.3:
        write_tables(folder / "data", kept, rng, damaged)
        read_tables(folder / "data", rng, attempt)
    if rng.random() < 0.3 and size < 1 << 20:
        tar.write_bytes(damaged(tar.read_bytes(), rng))
    return sum(attempt(rng.choice((Entry.load_audio, cut_audio)), entry) is not None for entry in kept)


def cut_audio(entry: Entry) -> Any:
    """The audio of an entry through lhotse."""
    return load_cut_audio(entry_cut(entry))


def attempt(function: Any, *args: Any) -> Any:
    """The result of the call, or None if it raises MayaError with a message of one line."""
    try:
        return function(*args)
    except MayaError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 3000, str(error)[:3000]
        str(error).encode()
        return None


def check_inside(folder: Path, entry: Entry, row: Row) -> None:
    """A file outside the corpus folder is only used if the manifest gives its absolute path."""
    named = row.tar or row.audio
    assert named.startswith("/") or Path(entry.path).resolve().is_relative_to(folder.resolve()), entry


# Modules are imported when first used; they are no part of a corpus.
ALWAYS = (sys.prefix, sys.base_prefix, "/usr/lib", "/lib", str(Path(__file__).parents[2]))


def run_case(number: int, top: Path, sounds: list[bytes], lures: Lures, watch: Watch) -> int:
    rng = random.Random(number)
    folder = top / "corpus"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
    try:
        write_case(folder, rng, sounds, lures.files)
        watch.on = True
        decoded = read_case(folder, rng)
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    seen, watch.seen = watch.seen, []
    assert not seen, f"not named by the corpus: {seen}"
    lures.check()
    return decoded


def warm_up(top: Path, sounds: list[bytes]) -> None:
    """Read every format once: libraries are loaded, and make files of their own, when first used."""
    for data in sounds:
        (top / "sound").write_bytes(data)
        row = Row(id="a", language="en", text="one two", audio="sound", where="")
        kept, _ = probe(top, [row], ProbeConfig())
        load_cut_audio(entry_cut(kept[0]).resample(8000))
        load_audio(top / "sound")
    (top / "sound").write_bytes(b"none")  # lhotse tries all its decoders in turn
    attempt(load_cut_audio, entry_cut(kept[0]))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case, in thousands")
    parser.add_argument("--only", type=int, help="run this case alone")
    parser.add_argument("--no-programs", action="store_true", help="an empty PATH; else with false programs")
    args = parser.parse_args()

    def too_long(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, too_long)
    top = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
    sounds, decoded, failed = recordings(), 0, []
    (top / "secret.wav").write_bytes(sounds[0])
    lures = Lures(top, top / "secret.wav", programs=not args.no_programs)
    # A manifest may name a tar outside the folder by a relative path; check_inside checks which are used.
    climbing = (f"{top}/corpus/{value}" for value in ODD_VALUES if isinstance(value, str))
    watch = Watch(top / "corpus", ALWAYS, (*ODD_VALUES, *climbing))
    number = first = args.seed * 1_000_000 if args.only is None else args.only
    warm_up(top, sounds)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    until = time.monotonic() + args.seconds
    while time.monotonic() < until and len(failed) < 5:
        print(f"case {number}", flush=True)
        try:
            decoded += run_case(number, top, sounds, lures, watch)
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
            assert used < most + MEMORY, f"{(used - most) >> 20} MB more"
        except BaseException as error:  # whatever it is, it is no MayaError
            if isinstance(error, KeyboardInterrupt):
                raise
            failed.append(number)
            print(f"FAILED case {number}: {traceback.format_exc()}", flush=True)
        number += 1
        if args.only is not None:
            break
    shutil.rmtree(top)
    print(f"{number - first} cases, {decoded} utterances decoded, failed: {failed}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
