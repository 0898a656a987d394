"""The built-in corpus: reproducible bytes, disjoint splits, real words, different voices."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from maya.errors import MayaError

REASON = "the built-in corpus needs espeakng-loader and babel: pip install 'maya-asr[mini]'"
pytest.importorskip("espeakng_loader", reason=REASON)
pytest.importorskip("babel", reason=REASON)

from egs.indic12 import data, speak  # noqa: E402
from egs.indic12.words import LANGUAGES, SCRIPTS, is_word, words  # noqa: E402

SIZES = {"train": 60, "dev": 9, "test": 9}
PLAIN = {"rate": 160, "pitch": 50, "pitch_range": 50}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mini") / "corpus"
    small = {"utterances_per_language": 6, "eval_utterances_per_language": 2}
    data.prepare_mini(out, languages=["as", "en"], workers=1, **small)
    return out


def test_two_workers_equal_one_worker(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    small = {"utterances_per_language": 6, "eval_utterances_per_language": 2}
    data.prepare_mini(out, languages=["as", "en"], workers=2, **small)
    for path in corpus.iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name


def test_finished_corpus_is_not_made_again(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data, "write_corpus", lambda *a, **k: pytest.fail("made again"))
    small = {"utterances_per_language": 6, "eval_utterances_per_language": 2}
    seal = data.prepare_mini(corpus, languages=["as", "en"], **small)
    assert seal["summary"]["as"]["train"]["utterances"] == 6
    assert "already complete" in capsys.readouterr().err


def test_byte_ranges_are_spoken_wavs(corpus: Path) -> None:
    for row in rows(corpus):
        with open(corpus / row["tar"], "rb") as file:
            file.seek(row["offset"])
            samples, rate = soundfile.read(io.BytesIO(file.read(row["size"])), dtype="int16")
        assert rate == 16000 and len(samples) / rate == pytest.approx(row["duration"], abs=1e-4)
        peak = np.abs(samples.astype(int)).max()
        assert 0.29 * 32768 < peak < 32767, row["id"]  # loud enough, never clipped
        assert 0.2 < row["duration"] / len(row["text"].split()) < 1.6, row["id"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_splits_share_words_but_no_sequence_and_no_voice(language: str) -> None:
    vocabulary = words(language)
    plan = data.plan_language(language, vocabulary, SIZES, seed=1)
    split = {name: [i for i in plan if i["split"] == name] for name in SIZES}
    assert {name: len(items) for name, items in split.items()} == SIZES
    texts = [i["text"] for i in plan]
    assert len(set(texts)) == len(texts)
    voices = {name: {i["variant"] for i in items} for name, items in split.items()}
    assert not voices["train"] & voices["dev"] and not voices["train"] & voices["test"]
    assert not voices["dev"] & voices["test"]
    assert set(" ".join(i["text"] for i in split["train"]).split()) == set(vocabulary)
    assert {len(t.split()) for t in texts} <= set(range(2, 7))


def test_train_size_does_not_change_dev_and_test() -> None:
    vocabulary = words("hi")
    plans = [data.plan_language("hi", vocabulary, {**SIZES, "train": n}, seed=1) for n in (10, 60)]
    few, many = ([i for i in plan if i["split"] != "train"] for plan in plans)
    assert few == many


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_are_in_the_script_and_normalized(language: str) -> None:
    from maya.text.normalize import normalize

    chosen = words(language)
    assert len(set(chosen)) == 40 and chosen == sorted(chosen)
    for word in chosen:
        assert is_word(word, language), word
        assert normalize(word, language) == word
        assert all(SCRIPTS[language] in unicodedata.name(c) for c in word)


def test_calendar_words_are_included() -> None:
    assert {"सोमवार", "जनवरी"} <= set(words("hi"))
    assert {"monday", "january"} <= set(words("en"))
    assert not is_word("हिन्दी मराठी", "hi") and not is_word("क्\u200dष", "hi") and not is_word("hindi", "hi")


def test_too_many_words_and_unknown_languages_are_refused() -> None:
    with pytest.raises(MayaError, match="ask for fewer"):
        words("hi", 10_000)
    with pytest.raises(MayaError, match="no language 'xx'"):
        words("xx")
    with pytest.raises(MayaError, match="ask for more words"):
        data.plan_language("hi", ["एक"], SIZES, seed=1)


@pytest.mark.parametrize("language", ["as", "bn", "ml", "or"])
def test_words_are_read_not_spelled_out(language: str) -> None:
    """If eSpeak cannot read a word it spells it, which takes several times as long."""
    for word in words(language):
        letters = sum(unicodedata.category(c).startswith("L") for c in word)
        assert len(speak.speak(word, language, "m1", **PLAIN)) / 16000 / letters < 0.32, word


def test_speech_does_not_depend_on_earlier_speech() -> None:
    first = speak.speak("मंगलवार", "hi", "f5", **PLAIN)
    speak.speak("friday", "en", "m3", rate=200, pitch=70, pitch_range=70)
    assert np.array_equal(first, speak.speak("मंगलवार", "hi", "f5", **PLAIN))


@pytest.mark.parametrize("variant", ["f3", "Alicia", "klatt4"])
def test_breath_noise_does_not_depend_on_the_clock(variant: str) -> None:
    """f3 and Alicia have breath noise, which eSpeak seeds with the second of its initialisation."""
    call = f"speak.speak('monday', 'en', {variant!r}, rate=160, pitch=50, pitch_range=50).tobytes()"
    code = f"import hashlib; from egs.indic12 import speak; print(hashlib.sha256({call}).hexdigest())"
    root = Path(data.__file__).parents[2]
    here = hashlib.sha256(speak.speak("monday", "en", variant, **PLAIN).tobytes()).hexdigest()
    time.sleep(1.1 - time.time() % 1)  # into another second
    other = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    assert other.stdout.strip() == here


def test_unknown_voice_is_named() -> None:
    with pytest.raises(MayaError, match=r"no voice xx\+f1"):
        speak.speak("सोमवार", "xx", "f1", **PLAIN)


def log_spectrum(samples: np.ndarray) -> np.ndarray:
    """Mean log power in 16 bands without the level: a rough description of a voice."""
    frames = np.lib.stride_tricks.sliding_window_view(samples / 32768, 512)[::160] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    power = power[power.sum(1) > power.sum(1).max() * 1e-3, :256].reshape(-1, 16, 16).sum(2)
    bands = np.log(power + 1e-8).mean(0)
    return bands - bands.mean()


def test_voices_differ_and_heldout_voices_differ_most() -> None:
    names = [v for voices in data.VOICES.values() for v in voices]
    assert len(set(names)) == len(names) and len(data.VOICES["train"]) >= 10
    text = "सोमवार जापान हिंदी मंगलवार"
    spectra = {v: log_spectrum(speak.speak(text, "hi", v, **PLAIN)) for v in names}

    def apart(a: str, b: str) -> float:
        return float(np.sqrt(((spectra[a] - spectra[b]) ** 2).mean()))

    train = data.VOICES["train"]
    assert min(apart(a, b) for a in train for b in train if a != b) > 0.15
    assert min(apart(a, b) for a in (*data.VOICES["dev"], *data.VOICES["test"]) for b in train) > 0.3


def test_resampling_keeps_the_passband_and_prevents_aliasing() -> None:
    time_s = np.arange(22050) / 22050

    def level(hertz: float) -> float:
        out = speak.resample((20000 * np.sin(2 * np.pi * hertz * time_s)).astype(np.int16))
        assert len(out) == 16000
        return float(20 * np.log10(out[200:-200].std() / (20000 / np.sqrt(2)) + 1e-9))

    assert abs(level(440)) < 0.01 and abs(level(5000)) < 0.05
    assert level(9000) < -60
    out = speak.resample((20000 * np.sin(2 * np.pi * 1000 * time_s)).astype(np.int16))
    expected = 20000 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(out - expected)[200:-200].max() < 40  # in phase: no delay


def test_speaking_does_not_load_torch() -> None:
    """The threads of torch would not survive the fork, and each worker would start a second later."""
    code = "import sys, egs.indic12.data; sys.exit('torch' in sys.modules)"
    root = Path(data.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def _hear_ctrl_c() -> None:
    """A shell makes its background jobs ignore SIGINT, and all children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_no_files_and_prints_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "egs.indic12.data", "--out", str(tmp_path / "corpus"), "--workers", "1"]
    root = Path(data.__file__).parents[2]
    run = subprocess.Popen(
        command, cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_hear_ctrl_c
    )
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for p in tmp_path.glob(".corpus.partial-*/hi.tar")):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)  # as from a terminal: the parent and all workers receive it
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("error: stopped before")
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_speaking_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """A pool alone waits for ever: six such processes were alive an hour after a killed run."""
    command = [sys.executable, "-m", "egs.indic12.data", "--out", str(tmp_path / "corpus"), "--workers", "2"]
    run = subprocess.Popen(command, cwd=Path(data.__file__).parents[2], start_new_session=True)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for p in tmp_path.glob(".corpus.partial-*/hi.tar")):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    run.kill()
    run.wait()
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(run.pid, 0)  # raises once no process of the session is left
            time.sleep(0.1)


def test_missing_espeak_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    speak.library.cache_clear()
    try:
        with pytest.raises(MayaError, match=r"maya-asr\[mini\]"):
            speak.library()
    finally:
        speak.library.cache_clear()


def test_missing_babel_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "babel", None)
    with pytest.raises(MayaError, match=r"maya-asr\[mini\]"):
        words("hi")


@pytest.mark.parametrize("option", ["--utterances-per-language", "--words-per-language", "--workers"])
@pytest.mark.parametrize("value", ["0", "-3", "two"])
def test_numbers_have_a_range(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        data.main(["--out", str(tmp_path / "corpus"), option, value])
    assert f"argument {option}: " in capsys.readouterr().err and not (tmp_path / "corpus").exists()
