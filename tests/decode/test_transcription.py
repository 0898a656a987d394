"""Recordings in pieces, in batches with those of others, are what each is alone; failures stay apart."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from maya.audio.vad import VADConfig
from maya.decode.hypothesis import Hypothesis
from maya.decode.long.joined_nbest import joined_alternatives
from maya.decode.long.joining import Joiner
from maya.decode.long.long_audio import LongAudioConfig, transcribe_long
from maya.decode.long.pieces import Piece
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import Recording, TranscriptionConfig
from maya.errors import MayaError
from tests import tones
from tests.convert.archives import recognizer
from tests.decode.test_long_audio import WordTokenizer


@pytest.fixture(scope="module")
def ours() -> Recognizer:
    return recognizer()


def speech(seed: int, words: int) -> np.ndarray:
    """Words of tones with pauses of a second among them."""
    rng = np.random.default_rng(seed)
    parts = [tones.speak("".join(rng.choice(list(tones.LETTERS), 3))) for _ in range(words)]
    pause = np.zeros(tones.RATE, np.float32)
    return np.concatenate([part for word in parts for part in (word, pause)])


@pytest.mark.parametrize("strategy", ["vad", "overlap"])
def test_many_recordings_at_once_equal_each_alone(ours: Recognizer, strategy: str, tmp_path: Path) -> None:
    # Batches of one piece: larger ones may round another way, which a model of random weights shows.
    cfg = LongAudioConfig(
        strategy=strategy, window_seconds=4.0, overlap_seconds=1.0, join_seconds=0.5,  # type: ignore[arg-type]
        vad=VADConfig(detector="energy"), batch_seconds=0.1,
    )  # fmt: skip
    paths = []
    for i, words in enumerate((1, 12, 3, 7)):
        paths.append(tmp_path / f"{i}.wav")
        soundfile.write(paths[-1], speech(i, words), tones.RATE, "FLOAT")
    method = ours.make_method(ours.choose_method("ctc"))
    alone = {str(path): transcribe_long(ours, method, path, "en", cfg) for path in paths}
    options = TranscriptionConfig(max_seconds_per_batch=0.1, seconds_ahead=20.0, long_audio=cfg)
    results = list(ours.transcribe_each(paths, "en", decoder=method, cfg=options))
    assert {r.id for r in results} == {*alone} and any(hyp.tokens for hyp in alone.values())
    for result in results:
        hyp = result.hypothesis
        assert hyp is not None and (hyp.tokens, hyp.frames) == (
            alone[result.id].tokens,
            alone[result.id].frames,
        )
        assert hyp.text.split() == [word.text for word in hyp.words] and hyp.language == "en"
        assert all(word.end is not None and word.end <= result.seconds for word in hyp.words)


def test_silence_has_no_words(ours: Recognizer) -> None:
    (result,) = ours.transcribe_each([np.zeros(32000, np.float32)])
    assert result.hypothesis is not None and result.hypothesis.text == "" and result.seconds == 2.0


def test_failures_are_results(ours: Recognizer, tmp_path: Path) -> None:
    items = [
        tmp_path / "missing.wav", np.zeros(8000, np.float32), np.zeros((2, 8000), np.float32),
        Recording(audio=np.zeros(8000, np.float32), id="x", language="xx"),
    ]  # fmt: skip
    results = {r.place: r for r in ours.transcribe_each(items)}
    assert [bool(results[i].error) for i in range(4)] == [True, False, True, True]
    assert (
        "missing.wav" in results[0].error and "audio 2: " in results[2].error and "'xx'" in results[3].error
    )
    with pytest.raises(MayaError, match="audio 2: an audio array is one-dimensional"):
        ours.transcribe([np.zeros(8000, np.float32), np.zeros(8000, np.float32), items[2]])  # type: ignore[list-item]


def test_a_batch_that_is_too_large_is_halved(ours: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = [speech(i, 1)[: 16000 + 100 * i] for i in range(6)]
    expected = [hyp.tokens for hyp in ours.transcribe(audio, method="ctc")]
    encode, sizes = ours.model.encode_audio, []

    def small_memory(samples: torch.Tensor, *arguments: object, **options: object) -> object:
        sizes.append(len(samples))
        if len(samples) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return encode(samples, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ours.model, "encode_audio", small_memory)
    assert [hyp.tokens for hyp in ours.transcribe(audio, method="ctc")] == expected
    assert max(sizes) > 2 and sizes.count(1) + sizes.count(2) > 1


def test_alternatives_of_pieces_are_combined() -> None:
    def hyp(token: int, score: float, *others: Hypothesis) -> Hypothesis:
        return Hypothesis(
            tokens=[token], frames=[1], durations=[1], scores=[score], search_score=score,
            alternatives=list(others),
        )  # fmt: skip

    pieces = [Piece(first_frame=10 * i, frame_samples=1, samples=torch.zeros(5)) for i in range(2)]
    rows = list(
        zip(pieces, [hyp(1, -1.0, hyp(2, -1.5)), hyp(3, -2.0, hyp(4, -2.2), hyp(5, -9.0))], strict=True)
    )
    joined = joined_alternatives(rows, lambda: Joiner(WordTokenizer(), 0.04))  # type: ignore[arg-type]
    assert [h.text for h in joined] == ["w1 w4", "w2 w3"]
    assert [h.search_score for h in joined] == pytest.approx([-3.2, -3.5])
