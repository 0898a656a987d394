"""Long recordings in pieces, each of which begins with what LaCT has learnt from those before it."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from maya.audio.vad import VADConfig
from maya.decode.long.long_audio import LongAudioConfig, make_joiner, pieces, transcribe_long
from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import Recording, TranscriptionConfig
from maya.errors import MayaError
from maya.models.speaker_memory import encode_after, encode_rows
from maya.models.speech_model import SpeechModel
from maya.recipes.lact_presets import lact_tiny
from tests.convert.archives import recognizer
from tests.decode.test_streaming import LetterTokenizer, experiment
from tests.decode.test_transcription import speech


@pytest.fixture(scope="module")
def ours() -> Recognizer:
    cfg = experiment().model
    cfg.vocab_size, cfg.languages = 20, ("en", "hi")
    cfg.encoder = lact_tiny(d_model=32, n_layers=2, ff_dim=32, feat_in=cfg.features.num_mels, base_rate=3.0)
    torch.manual_seed(0)
    model = SpeechModel(cfg).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return Recognizer(model=model, tokenizer=LetterTokenizer(), device=torch.device("cpu"))


def config(strategy: str, **options: object) -> LongAudioConfig:
    return LongAudioConfig(
        strategy=strategy, window_seconds=4.0, overlap_seconds=1.0, join_seconds=0.5, remember=True,
        vad=VADConfig(detector="energy"), **options,
    )  # type: ignore[arg-type]  # fmt: skip


@torch.inference_mode()
@pytest.mark.parametrize("strategy", ["vad", "overlap"])
def test_pieces_are_a_row_of_utterances_as_in_training(ours: Recognizer, strategy: str) -> None:
    audio, cfg = torch.from_numpy(speech(1, 6)), config(strategy)
    cut = [*pieces(ours, [audio], cfg)]
    lens = torch.tensor([len(piece.samples) for piece in cut])
    features = ours.features(pad_sequence([piece.samples for piece in cut], batch_first=True), lens)
    row = encode_rows(ours.model.encoder, *features, torch.zeros(len(cut), dtype=torch.int64))
    joiner, memory = make_joiner(ours, cfg), None
    for i, piece in enumerate(cut):
        feats, feat_lens = ours.features(piece.samples[None], lens[i : i + 1])
        encoded, (memory,) = encode_after(ours.model.encoder, feats, feat_lens, [memory])
        size = int(row.lens[i])
        torch.testing.assert_close(encoded.frames[0], row.frames[i, :size], rtol=1e-3, atol=1e-4)
        joiner.add(piece, greedy(ours.model, encoded, "ctc", torch.tensor([0]))[0])
    expected = joiner.finish()
    result = transcribe_long(ours, "ctc", [audio], "en", cfg)
    assert len(cut) > 2 and (result.tokens, result.frames) == (expected.tokens, expected.frames)
    cfg.remember = False
    assert transcribe_long(ours, "ctc", [audio], "en", cfg).tokens != expected.tokens


def test_many_recordings_at_once_keep_their_memories_apart(
    ours: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio, cfg = {str(i): speech(i, words) for i, words in enumerate((1, 7, 3, 5))}, config("overlap")
    method = ours.make_method(ours.choose_method("ctc"))
    alone = {id: transcribe_long(ours, method, [torch.from_numpy(x)], "en", cfg) for id, x in audio.items()}
    sizes = []
    decode = Recognizer._decode_batch

    def counted(self, samples, *args, **options):  # type: ignore[no-untyped-def]
        sizes.append(len(samples))
        return decode(self, samples, *args, **options)

    monkeypatch.setattr(Recognizer, "_decode_batch", counted)
    options = TranscriptionConfig(max_seconds_per_batch=20.0, seconds_ahead=200.0, long_audio=cfg)
    recordings = [Recording(audio=x, id=id) for id, x in audio.items()]
    results = {r.id: r for r in ours.transcribe_each(recordings, "en", decoder=method, cfg=options)}
    assert max(sizes) > 1  # rows with and without a memory in one batch
    for id, hyp in alone.items():
        assert results[id].hypothesis.tokens == hyp.tokens and not results[id].error  # type: ignore[union-attr]


def test_other_encoders_and_buffered_chunks_are_refused(ours: Recognizer) -> None:
    audio = [torch.from_numpy(speech(0, 2))]
    with pytest.raises(MayaError, match="'fastconformer' remembers nothing.*set long_audio.remember=false"):
        transcribe_long(recognizer(), "ctc", audio, "en", config("overlap"))
    with pytest.raises(MayaError, match="remember=true needs pieces"):
        transcribe_long(ours, "ctc", audio, "en", config("buffered"))
