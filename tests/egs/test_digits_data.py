"""Digit strings: one speaker each, no speaker in two splits, texts that match the audio."""

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from egs.digits import data, streaming
from maya.errors import MayaError
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model

DIGITS = ("zero", "one", "two", "three")
FREQUENCIES = (500, 900, 1500, 2300)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six speakers in one language; each digit is a tone, each speaker a level."""
    folder = tmp_path / "source"
    folder.mkdir()
    rows = []
    for speaker in range(6):
        for digit, (word, hertz) in enumerate(zip(DIGITS, FREQUENCIES, strict=True)):
            name = f"{speaker}_{digit}.wav"
            tone = (4000 + 4000 * speaker) * np.sin(2 * np.pi * hertz * np.arange(4000) / 16000)
            soundfile.write(folder / name, tone.astype(np.int16), 16000)
            row = {"id": f"en-{speaker}-{digit}", "language": "en", "text": word, "speaker": f"s{speaker}"}
            rows.append({**row, "source": "tones", "licence": "CC0-1.0", "audio": name})
    write_manifest(folder, rows)
    return folder


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def made(out: Path) -> list[tuple[dict[str, Any], np.ndarray]]:
    pairs = []
    for line in (out / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        data_bytes = (out / row["tar"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        pairs.append((row, np.frombuffer(data_bytes[44:], dtype="<i2").astype(float)))
    return pairs


def evenly(*args: Any, plan: Any, varied: bool = False, **options: Any) -> dict[str, Any]:
    """An item whose words keep their level and have gaps and no hiss, so that tones are told apart."""
    return plan(*args, **options)


def heard(samples: np.ndarray) -> list[str]:
    """The tones in order, from the strongest frequency of each 10 ms. Silence separates tones."""
    words, sounding = [], False
    for frame in samples[: len(samples) // 160 * 160].reshape(-1, 160):
        if np.abs(frame).max() < 1000:
            sounding = False
        elif not sounding and np.abs(frame).max() > 3500:
            sounding = True
            hertz = np.abs(np.fft.rfft(frame * np.hanning(160), 1600)).argmax() * 10
            words.append(DIGITS[int(np.abs(np.array(FREQUENCIES) - hertz).argmin())])
    return words


def test_text_follows_the_order_of_recordings(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "plan_item", partial(evenly, plan=data.plan_item))
    data.prepare_digits(source, tmp_path / "c", strings_per_language=20, eval_per_language=6)
    pairs = made(tmp_path / "c")
    lengths = {len(row["text"].split()) for row, _ in pairs}
    assert min(lengths) == 1 and max(lengths) == 7
    for row, samples in pairs:
        assert heard(samples) == row["text"].split(), row["id"]


def test_one_speaker_per_string_and_splits_share_no_speaker(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "plan_item", partial(evenly, plan=data.plan_item))
    data.prepare_digits(source, tmp_path / "c", strings_per_language=20, eval_per_language=6)
    split_of: dict[str, set[str]] = {}
    for row, samples in made(tmp_path / "c"):
        if row["speaker"].startswith("mixed:"):
            assert row["split"] == "train"
            continue
        split_of.setdefault(row["speaker"], set()).add(row["split"])
        expected = 4000 + 4000 * int(row["speaker"][1])
        blocks = np.abs(samples[: len(samples) // 400 * 400].reshape(-1, 400)).max(1)
        loud = blocks[blocks > 3000]
        assert np.abs(np.median(loud) - expected) < 400 and loud.max() < expected + 400, row["id"]
    assert all(len(splits) == 1 for splits in split_of.values())
    assert sorted(next(iter(s)) for s in split_of.values()) == ["dev", "test", *["train"] * 4]


def test_training_uses_every_recording_of_its_speakers(source: Path) -> None:
    sizes = {"train": 10, "heldout": 4}
    plan = data.plan_language("en", data.read_source(source), sizes, seed=1)
    train = [i for i in plan if i["split"] == "train"]
    singles = [i["recordings"][0] for i in train if len(i["recordings"]) == 1]
    assert len(singles) == 32 and len(set(singles)) == 16  # 4 speakers of 4 digits, twice
    assert len(train) == 42 and len(plan) == 42 + 4 + 4


def test_half_of_the_training_strings_mix_speakers(source: Path) -> None:
    plan = data.plan_language("en", data.read_source(source), {"train": 200, "heldout": 40}, seed=1)
    mixed = {
        split: [len({i.split("-")[1] for i in item["recordings"]}) > 1 for item in plan
                if item["split"] == split and len(item["recordings"]) > 1]
        for split in ("train", "dev", "test")
    }  # fmt: skip
    assert 0.35 < sum(mixed["train"]) / len(mixed["train"]) < 0.6
    assert not any(mixed["dev"] + mixed["test"])


def test_training_varies_what_surrounds_and_spoils_words() -> None:
    rng, digits = random.Random(1), [{"id": "a"}, {"id": "b"}]
    items = [data.plan_item("x", "train", digits, rng, varied=True) for _ in range(400)]
    silences = [item["silences"] for item in items]
    assert all(0 <= s[0] <= 6400 and 0 <= s[1] <= 3200 for s in silences)
    assert sum(s[0] == s[2] == 0 for s in silences) / 400 == pytest.approx(0.3 + 0.7 * 0.09, abs=0.08)
    assert sum("gains_db" in item for item in items) / 400 == pytest.approx(0.5, abs=0.08)
    assert sum("hiss_db" in item for item in items) / 400 == pytest.approx(0.4, abs=0.08)
    plain = data.plan_item("x", "test", digits, rng)
    assert not {"gains_db", "hiss_db"} & set(plain) and all(s >= 320 for s in plain["silences"])


def test_gains_and_hiss_are_those_of_each_word() -> None:
    tone = (10000 * np.sin(np.arange(4000) / 5)).astype(np.int16)
    joined = data.join([tone, tone], [800, 800, 800], 0.0, 1, gains_db=[0.0, -12.0])
    assert np.abs(joined[5600:9600]).max() / np.abs(joined[800:4800]).max() == pytest.approx(0.25, abs=0.01)
    hissing = data.join([tone, tone], [800, 800, 800], 0.0, 1, hiss_db=10.0)
    assert not hissing[4800:5600].any(), "none in the gaps"
    noise = (hissing - data.join([tone, tone], [800, 800, 800], 0.0, 1))[1000:4600]
    assert 20 * np.log10(noise.std() / tone.std()) == pytest.approx(-10, abs=0.5)


def test_few_speakers_split_by_recording(source: Path) -> None:
    rows = [r for r in data.read_source(source) if r["speaker"] != "s5"]
    splits = data.assign(rows, random.Random(1))
    speakers = {name: {r["speaker"] for r in part} for name, part in splits.items()}
    assert len(speakers["train"]) == 4 and len(speakers["test"]) == 1
    assert not speakers["test"] & (speakers["train"] | speakers["dev"])
    assert sorted(r["id"] for part in splits.values() for r in part) == [r["id"] for r in rows]
    assert len(splits["dev"]) == 1


def test_corpus_is_reproducible_and_depends_on_the_seed(source: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        data.prepare_digits(source, tmp_path / name, strings_per_language=4, eval_per_language=4, seed=seed)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "abc")
    assert a == b
    assert a["en.tar"] != c["en.tar"]


def test_changed_recording_rebuilds_the_corpus(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"strings_per_language": 4, "eval_per_language": 4}
    first = data.prepare_digits(source, tmp_path / "c", **sizes)
    assert data.prepare_digits(source, tmp_path / "c", **sizes) == first
    assert "already complete" in capsys.readouterr().err
    recording = next(iter(sorted(source.rglob("*.wav")) or sorted(source.rglob("*.flac"))))
    samples, rate = soundfile.read(recording)
    soundfile.write(recording, -samples, rate)
    second = data.prepare_digits(source, tmp_path / "c", **sizes)
    assert "already complete" not in capsys.readouterr().err
    assert first["settings"]["audio"] != second["settings"]["audio"]


def test_gaps_follow_the_plan() -> None:
    pieces = [np.full(400, 10_000, np.int16), np.full(400, -10_000, np.int16)]
    out = data.join(pieces, [100, 320, 50], noise=0.0, noise_seed=0)
    assert len(out) == 100 + 400 + 320 + 400 + 50
    assert not out[:100].any() and not out[500:820].any() and not out[-50:].any()
    assert (out[100 + 80 : 500 - 80] == 10_000).all() and (out[820 + 80 : 1220 - 80] == -10_000).all()
    assert np.abs(np.diff(out.astype(int))).max() <= 126  # faded, no click: 10 000 over 80 samples


def test_missing_recording_is_named(source: Path, tmp_path: Path) -> None:
    (source / "3_2.wav").unlink()
    with pytest.raises(MayaError, match=r"3_2\.wav of utterance en-3-2"):
        data.prepare_digits(source, tmp_path / "c", strings_per_language=50, eval_per_language=8)
    assert not (tmp_path / "c").exists()


def test_wrong_rate_is_named(source: Path, tmp_path: Path) -> None:
    for speaker in range(6):
        soundfile.write(source / f"{speaker}_0.wav", np.ones(800, np.int16), 8000)
    with pytest.raises(MayaError, match=r"_0\.wav of utterance en-\d-0 is not mono speech at 16 kHz"):
        data.prepare_digits(source, tmp_path / "c", strings_per_language=4, eval_per_language=8)


def test_bad_manifest_line_is_named(source: Path) -> None:
    with open(source / "manifest.jsonl", "a") as file:
        file.write('{"id": "x"}\n')
    with pytest.raises(MayaError, match="line 25"):
        data.read_source(source)
    with pytest.raises(MayaError, match="cannot read"):
        data.read_source(source / "nowhere")


def test_too_few_speakers_are_refused(source: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (source / "manifest.jsonl").read_text().splitlines()]
    write_manifest(source, [r for r in rows if r["speaker"] in ("s0", "s1")])
    with pytest.raises(MayaError, match="2 speakers"):
        data.prepare_digits(source, tmp_path / "c")


def test_split_of_the_real_recordings(shared: Path) -> None:
    rows = data.read_source(shared / "corpora" / "digits")
    for language, counts in (("en", (4, 4, 1)), ("gu", (9, 3, 3))):
        language_rows = [r for r in rows if r["language"] == language]
        plan = data.plan_language(language, language_rows, {"train": 50, "heldout": 40}, seed=1)
        speaker = {r["id"]: r["speaker"] for r in language_rows}
        split_speakers = {
            split: {speaker[x] for i in plan if i["split"] == split for x in i["recordings"]}
            for split in ("train", "dev", "test")
        }
        assert tuple(len(speakers) for speakers in split_speakers.values()) == counts
        assert not split_speakers["test"] & (split_speakers["train"] | split_speakers["dev"])
        used = [{x for i in plan if i["split"] == split for x in i["recordings"]} for split in split_speakers]
        assert not used[0] & used[1] and not used[0] & used[2]
        assert all(len({speaker[x] for x in i["recordings"]}) == 1 for i in plan if i["split"] != "train")


def test_the_streaming_experiment_streams() -> None:
    """The encoder and the features of `--experiment streaming`, with each chunk that it is trained with."""
    exp = streaming.experiment()
    model = build_model(with_vocabulary(exp.model, 30, exp.languages)).eval()
    for context in exp.model.encoder.att_context_size:
        assert model.encoder.stream(1, context) is not None
    frames = model.featurizer.stream().push(torch.zeros(1, 16000))
    assert frames.shape[2] == 40
