"""egs/phonemes: readers of TIMIT, SpeechOcean762 and L2-ARCTIC in their layouts; the spoken plan."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from egs.phonemes import learners, spoken, timit
from egs.phonemes.data import main, write_manifest
from egs.phonemes.phonemes import UNITS
from maya.audio.load import load_audio
from maya.errors import MayaError
from maya.text.phonemes import is_installed

AUDIO = (0.1 * np.sin(np.arange(1600) / 5)).astype(np.float32)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def put_audio(path: Path, *, rate: int = 16000, kind: str = "WAV") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, AUDIO, rate, format=kind, subtype="PCM_16")


def timit_folder(root: Path, *, lower: bool = False) -> Path:
    speakers = {"TRAIN/DR1/FCJF0": ("SA1", "SI1027"), "TEST/DR1/FAKS0": ("SX43",),
                "TEST/DR2/MWEW0": ("SI1361",), "TEST/DR3/MABC9": ("SX1",)}  # fmt: skip
    for folder, names in speakers.items():
        for name in names:
            base = root / (f"{folder}/{name}".lower() if lower else f"{folder}/{name}")
            suffix = str.lower if lower else str
            phones = ["h#", "q", "dcl", "d", "ao", "ix", "zh", "h#"]
            lines = "".join(f"{200 * i} {200 * i + 200} {phone}\n" for i, phone in enumerate(phones))
            put(base.with_suffix(suffix(".PHN")), lines)
            put(base.with_suffix(suffix(".TXT")), "0 1600 She had, your dark suit.\n")
            put_audio(base.with_suffix(suffix(".WAV")), kind="NIST")
    return root


@pytest.mark.parametrize("lower", [False, True])
def test_timit(tmp_path: Path, lower: bool) -> None:
    rows = list(timit.rows(timit_folder(tmp_path, lower=lower)))
    assert {row["id"]: row["split"] for row in rows} == {
        "fcjf0-si1027": "train", "faks0-sx43": "dev", "mwew0-si1361": "test",
    }  # fmt: skip
    assert rows[0]["text"] == "she had your dark suit" and rows[0]["speaker"] == "fcjf0"
    assert rows[0]["labels"]["phonemes"] == "sil vcl d ao ix zh sil"
    assert abs(load_audio(rows[0]["audio"], 16000).numpy() - AUDIO).max() < 1e-3  # SPHERE
    each = {size: next(timit.rows(tmp_path, size=size))["labels"]["phonemes"] for size in timit.SIZES}
    assert each[61] == "h# q dcl d ao ix zh h#" and each[39] == "sil sil d aa ih sh sil"


def test_folding_gives_48_and_39_phones_in_one_step_or_two() -> None:
    assert len(timit.FOLD) == 60 and timit.GLOTTAL not in timit.FOLD
    small, smaller = ({own[i] for own in timit.FOLD.values()} for i in (0, 1))
    assert len(small) == 48 and len(smaller) == 39
    for phone, (in_48, in_39) in timit.FOLD.items():
        assert timit.fold([phone], 48) == [in_48] and timit.fold([phone], 39) == timit.fold([in_48], 39) == [
            in_39
        ]
    assert timit.fold(["q", "ax"], 61) == ["q", "ax"] and timit.fold(["q", "ax"], 39) == ["ah"]
    assert timit.fold(["pau", "tcl", "t", "h#"], 39, merge=True) == ["sil", "t", "sil"]
    with pytest.raises(MayaError, match="'xx' is no phone"):
        timit.fold(["xx"], 39)


def test_timit_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="has no TRAIN and TEST"):
        list(timit.rows(tmp_path))
    root = timit_folder(tmp_path)
    (root / "TRAIN/DR1/FCJF0/SI1027.PHN").write_text("0 1 xyz\n")
    with pytest.raises(MayaError, match=r"SI1027.PHN:1: '0 1 xyz' is no"):
        list(timit.rows(root))


def speechocean_folder(root: Path) -> Path:
    scores: dict[str, Any] = {}
    for part, speakers in (("train", ("0001", "0003")), ("test", ("0002",))):
        names = {f"00{s}0011": f"SPEAKER{s}" for s in speakers}
        for name, speaker in names.items():
            put_audio(root / f"WAVE/{speaker}/{name}.WAV")
            scores[name] = {
                "text": "WE CALL", "accuracy": 8, "completeness": 10.0, "fluency": 9, "prosodic": 9,
                "total": 8,
                "words": [
                    {"text": "WE", "accuracy": 10, "stress": 10, "total": 10, "phones": "W IY0",
                     "phones-accuracy": [2.0, 1.8]},
                    {"text": "CALL", "accuracy": 4, "stress": 10, "total": 5, "phones": ["K", "AO0", "L"],
                     "phones-accuracy": [2.0, 0.4, 0.0], "mispronunciations": [
                         {"canonical-phone": "AO", "index": 1, "pronounced-phone": "AA"},
                         {"canonical-phone": "L", "index": 2, "pronounced-phone": "<DEL>"}]},
                ],
            }  # fmt: skip
        put(root / part / "wav.scp", "".join(f"{n}\tWAVE/{s}/{n}.WAV\n" for n, s in names.items()))
        put(root / part / "text", "".join(f"{n}\tWE CALL\n" for n in names))
        put(root / part / "utt2spk", "".join(f"{n}\t{s[7:]}\n" for n, s in names.items()))
    put(root / "resource/scores.json", json.dumps(scores))
    return root


def test_speechocean(tmp_path: Path) -> None:
    rows = list(learners.speechocean(speechocean_folder(tmp_path)))
    assert [(row["speaker"], row["split"]) for row in rows] == [
        ("0001", "dev"), ("0003", "train"), ("0002", "test"),
    ]  # fmt: skip
    labels = rows[0]["labels"]
    assert labels["canonical"] == "w i k ɔ l" and labels["phonemes"] == "w i k ɑ"
    assert (
        labels["phone_scores"] == "2 1.8 2 0.4 0" and labels["accuracy"] == "8" and labels["fluency"] == "9"
    )
    assert len(load_audio(rows[0]["audio"], 16000)) == len(AUDIO) and rows[0]["text"] == "we call"


def test_speechocean_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match=r"scores.json cannot be read"):
        list(learners.speechocean(tmp_path))
    root = speechocean_folder(tmp_path)
    put(root / "train/text", "")
    with pytest.raises(MayaError, match="has no text, speaker or scores"):
        list(learners.speechocean(root))


GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = {end}
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = {end}
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = {end}
            text = "the"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = {end}
        intervals: size = {count}
{rows}"""


def grid(labels: list[str]) -> str:
    rows = "".join(
        f"        intervals [{i + 1}]:\n            xmin = {i / 10}\n            xmax = {(i + 1) / 10}\n"
        f'            text = "{label}"\n'
        for i, label in enumerate(labels)
    )
    return GRID.format(end=len(labels) / 10, count=len(labels), rows=rows)


def l2arctic_folder(root: Path) -> Path:
    labels = ["sil", "DH,D,s", "AH0", "sil, IH, a", "K, sil, d", "AO1,AO*,s", "L,err,s", "", "sp"]
    for speaker in ("ABA", "HKK", "TNI"):
        put(root / speaker / "annotation/arctic_a0001.TextGrid", grid(labels))
        put(root / speaker / "transcript/arctic_a0001.txt", "The Author, of it's etc.\n")
        put_audio(root / speaker / "wav/arctic_a0001.wav", rate=44100)
    return root


def test_l2arctic(tmp_path: Path) -> None:
    rows = list(learners.l2arctic(l2arctic_folder(tmp_path)))
    assert {row["speaker"]: row["split"] for row in rows} == {"ABA": "train", "HKK": "dev", "TNI": "test"}
    labels = rows[0]["labels"]
    assert labels["canonical"] == "ð ə k ɔ l" and labels["phonemes"] == "d ə ɪ ɔ"
    assert labels["phone_scores"] == "0 2 0 0 0" and rows[0]["text"] == "the author of it's etc"
    assert not set(learners.DEV_SPEAKERS) & set(learners.TEST_SPEAKERS)


def test_l2arctic_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="has no SPEAKER/annotation"):
        list(learners.l2arctic(tmp_path))
    root = l2arctic_folder(tmp_path)
    path = root / "ABA/annotation/arctic_a0001.TextGrid"
    put(path, grid(["DH,D,x"]))
    with pytest.raises(MayaError, match=r"'DH,D,x' is no phone and no"):
        list(learners.l2arctic(root))
    put(path, "no grid")
    with pytest.raises(MayaError, match="is no TextGrid with a tier of phones"):
        list(learners.l2arctic(root))


def test_manifest_has_the_units_and_every_set(tmp_path: Path) -> None:
    main(["l2arctic", "--source", str(l2arctic_folder(tmp_path / "l2")), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out/units.txt").read_text().strip().split(",") == sorted(["d", "ə", "ɪ", "ɔ"])
    rows = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == {"train", "dev", "test"}
    with pytest.raises(MayaError, match="no utterances for dev"):
        write_manifest([row for row in rows if row["split"] != "dev"], tmp_path / "less")
    with pytest.raises(SystemExit, match="needs --source"):
        main(["timit", "--out", str(tmp_path / "out")])


@pytest.mark.skipif(not is_installed(), reason="eSpeak NG is not installed")
def test_spoken_test_shares_no_word_and_no_voice_with_training() -> None:
    pytest.importorskip("babel", reason="babel is not installed")
    items = spoken.plan({"train": 300, "dev": 20, "test": 40}, 1)
    words, voices, units = (
        {split: {part for item in items if item["split"] == split for part in item[key].split()}
         for split in ("train", "dev", "test")} for key in ("text", "variant", "phonemes")
    )  # fmt: skip
    for held in ("dev", "test"):
        assert not words["train"] & words[held] and not voices["train"] & voices[held]
    assert not voices["dev"] & voices["test"] and len(voices["test"]) == 8
    assert set().union(*units.values()) <= set(UNITS)
    assert (
        spoken.plan({"train": 5, "dev": 20, "test": 40}, 1)[-1] == items[-1]
    )  # a larger training set changes no test
