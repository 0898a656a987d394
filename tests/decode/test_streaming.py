"""Streaming output equals the output for the whole utterance."""

import pickle
import random
import re

import numpy as np
import pytest
import torch

from maya.decode.ctc.greedy import CTCDecoder, greedy_ctc
from maya.decode.head_choice import TrainedHeads
from maya.decode.label_looping.loops import make_loop
from maya.decode.label_looping.rules import TransducerRules
from maya.decode.long.buffered import BufferConfig
from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.decode.transducer.greedy import TransducerDecoder, greedy_transducer
from maya.encoders import Encoded, LaCT
from maya.encoders.lact.config import streaming
from maya.errors import MayaError
from maya.heads import AttentionDecoderConfig, LanguageConfig
from maya.heads.transducer import Joint, JointConfig, Predictor, PredictorConfig
from maya.models.speech_model import SpeechModel
from maya.recipes.lact_presets import lact_tiny
from tests.tiny import LetterTokenizer, experiment

VOCAB, DIM = 6, 12
LENS = [60, 41, 0, 1, 33]


def pieces(enc, lens, seed):
    """Yield (enc, lens) of each call: pieces of 0 to 9 frames, of another size for each row."""
    draw = random.Random(seed)
    at = [0] * len(lens)
    while at != lens:
        sizes = [min(draw.randrange(10), n - a) for n, a in zip(lens, at, strict=True)]
        piece = torch.full((len(lens), max(sizes), enc.shape[2]), 9.0)
        for row, size in enumerate(sizes):
            piece[row, :size] = enc[row, at[row] : at[row] + size]
            at[row] += size
        yield piece, torch.tensor(sizes)


def same(hypotheses, expected):
    for a, b in zip(hypotheses, expected, strict=True):
        assert (a.tokens, a.frames, a.durations) == (b.tokens, b.frames, b.durations)
        torch.testing.assert_close(torch.tensor(a.scores), torch.tensor(b.scores), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("durations", [(0, 1, 2, 3, 4), (0, 1, 7), None])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("loop", ["packed", "masked"])
def test_transducer_state_carries_over_pieces(durations, seed, loop):
    """Covers several labels on a frame, durations longer than a piece, and the limit of labels a frame."""
    torch.manual_seed(seed)
    predictor = Predictor(PredictorConfig(hidden=8, layers=2), VOCAB).eval()
    joint = Joint(JointConfig(hidden=8), DIM, 8, VOCAB, len(durations or ())).eval()
    with torch.no_grad():
        for p in [*predictor.parameters(), *joint.parameters()]:
            p.mul_(3)
    enc = torch.randn(len(LENS), max(LENS), DIM) * 2
    options = dict(blank=VOCAB, max_symbols=3)
    expected = greedy_transducer(enc, torch.tensor(LENS), predictor, joint, durations=durations, **options)
    assert sum(len(h.tokens) for h in expected) > 10
    rules = TransducerRules(predictor=predictor, joint=joint, durations=durations, **options)
    decoder = TransducerDecoder(make_loop(rules, loop), len(LENS))
    for piece, lens in pieces(enc, LENS, seed):
        decoder.push(piece, lens)
    same(decoder.hyps, expected)


def test_ctc_runs_continue_over_pieces():
    log_probs = (torch.randn(len(LENS), max(LENS), VOCAB) * 2).log_softmax(-1)
    log_probs = log_probs.repeat_interleave(2, dim=1)  # runs
    lens = [2 * n for n in LENS]
    decoder = CTCDecoder(torch.nn.Identity(), len(lens), blank=VOCAB - 1)
    for piece, piece_lens in pieces(log_probs, lens, 5):
        decoder.push(piece, piece_lens)
    same(decoder.hyps, greedy_ctc(log_probs, torch.tensor(lens), blank=VOCAB - 1))


def recognizer(transducer="tdt", identifies=False, **encoder):
    cfg = experiment().model
    cfg.heads["transducer"].loss = transducer
    cfg.heads["attention"] = AttentionDecoderConfig(layers=1, dim=16, heads=2, feed_forward=16)
    if identifies:
        cfg.heads["language"] = LanguageConfig()
    cfg.vocab_size, cfg.languages = 20, ("en", "hi")
    cfg.features.normalize = "none"
    cfg.encoder.att_context_style, cfg.encoder.att_context_size = "chunked_limited", ((6, 1), (6, 2))
    cfg.encoder.causal_downsampling, cfg.encoder.conv_context = True, "causal"
    cfg.encoder.conv_norm = "layer_norm"
    for name, value in encoder.items():
        setattr(cfg.encoder, name, value)
    model = SpeechModel(cfg).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.15)
    return Recognizer(model=model, tokenizer=LetterTokenizer(), device=torch.device("cpu"))


@pytest.mark.parametrize("method", ["transducer", "ctc"])
@pytest.mark.parametrize("transducer", ["tdt", "rnnt"])
@pytest.mark.parametrize("context", [None, (6, 2)])
def test_audio_in_pieces_gives_the_same_tokens(method, transducer, context):
    """Pieces of 80 ms to 2 s, from samples to tokens. Then a second utterance on the same stream."""
    ours = recognizer(transducer)
    draw = random.Random(7)
    stream = ours.stream("hi", method=method, context=context)
    for samples in (40_123, 16_000):
        audio = torch.randn(samples) * torch.linspace(0.01, 0.5, samples)
        with torch.inference_mode():
            feats, lens = ours.features(audio[None], torch.tensor([samples]))
            encoded = Encoded(*ours.model.encoder(feats, lens, context=context))
            (expected,) = greedy(ours.model, encoded, method, torch.tensor([1]))
        assert len(expected.tokens) > 3
        at, partial = 0, []
        while at < samples:
            size = draw.randrange(1280, 32_000)
            partial.append(len(stream.accept(audio[at : at + size].numpy()).tokens))
            at += size
        hyp = stream.finish()
        same([hyp], [expected])
        assert (
            partial == sorted(partial)
            and hyp.text == LetterTokenizer().decode(hyp.tokens)
            and hyp.language == "hi"
        )


def test_unsupported_streaming_is_refused():
    with pytest.raises(MayaError, match="cannot stream"):
        recognizer(conv_context="symmetric").stream()
    stream = recognizer().stream()
    assert stream.finish().tokens == stream.finish().tokens  # no audio, twice
    with pytest.raises(MayaError, match="does not know the language 'xx'; it knows en, hi$"):
        recognizer().stream("xx")
    advice = "a stream cannot identify the language.*: name one of en, hi, or leave the language out"
    with pytest.raises(MayaError, match=f"^{advice}$"):
        recognizer().stream("auto")
    identifies = recognizer(identifies=True)
    with pytest.raises(MayaError, match=f"^{advice}, or transcribe the whole .* with language='auto'$"):
        identifies.stream("auto")
    nameless = recognizer()
    nameless.model.cfg.languages = ()
    with pytest.raises(MayaError, match="first frame on: leave the language out$"):
        nameless.stream("auto")
    with pytest.raises(MayaError, match="one channel"):
        stream.accept(torch.zeros(2, 100))
    with pytest.raises(MayaError, match="1 of 9 samples are not finite numbers"):
        stream.accept(np.array([0.0] * 8 + [np.nan], np.float32))
    with pytest.raises(MayaError, match="samples of type int64 have no usual full scale"):
        stream.accept(np.zeros(100, np.int64))


def test_integer_samples_equal_float_samples():
    audio = (torch.randn(16_000, generator=torch.Generator().manual_seed(3)) * 3000).short()
    model = recognizer()
    streams = [model.stream() for _ in range(2)]
    streams[0].accept(audio.numpy())
    streams[1].accept(audio.float() / 2**15)
    assert streams[0].finish().tokens == streams[1].finish().tokens


def test_stream_uses_the_best_streamable_head():
    ours = recognizer()
    both = ("transducer", "ctc")
    dev = {"transducer": {"wer": 0.3, "cer": 0.2}, "ctc": {"wer": 0.3, "cer": 0.1}}
    for heads, expected in (
        (TrainedHeads(heads=both, trained=both), "transducer"),
        (TrainedHeads(heads=both, trained=("ctc",)), "ctc"),
        (TrainedHeads(heads=both, trained=both, dev=dev), "ctc"),
        (TrainedHeads(heads=(*both, "attention"), trained=("ctc", "attention")), "ctc"),
    ):
        ours.heads = heads
        assert ours.stream().method.cfg.kind == expected
    ours.heads = TrainedHeads(heads=both, trained=("ctc",))
    with pytest.raises(MayaError, match="needs the head transducer, which was never trained; use ctc"):
        ours.stream(method="transducer")
    ours.heads = TrainedHeads(heads=("attention",), trained=("attention",))
    with pytest.raises(MayaError, match="this model cannot decode a stream: it reads whole utterances"):
        ours.stream()
    with pytest.raises(MayaError, match="reads whole utterances"):
        ours.stream(method="attention")


def test_lact_keeps_fast_weights_for_the_same_speaker():
    cfg = experiment().model
    cfg.vocab_size, cfg.languages, cfg.features.normalize = 20, ("en", "hi"), "none"
    small = lact_tiny(d_model=32, n_layers=2, ff_dim=32, feat_in=cfg.features.num_mels)
    cfg.encoder = streaming(small, chunk=8)
    torch.manual_seed(0)
    model = SpeechModel(cfg).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    ours = Recognizer(model=model, tokenizer=LetterTokenizer(), device=torch.device("cpu"))
    first, second = (torch.randn(n) * torch.linspace(0.01, 0.5, n) for n in (40_123, 37_000))

    def whole(audio, weights=None):
        """Hypothesis, encoder frames and final fast weights of the whole utterance."""
        with torch.inference_mode():
            feats, lens = ours.features(audio[None], torch.tensor([len(audio)]))
            (enc, enc_lens), after = model.encoder.adapt(feats, lens, weights)
            (hyp,) = greedy(model, Encoded(enc, enc_lens), "transducer", torch.tensor([0]))
        return hyp, enc, after

    alone, enc_alone, _ = whole(second)
    opening, _, learnt = whole(first)
    carried, enc_carried, _ = whole(second, learnt)
    assert (enc_alone - enc_carried).abs().max() > 0.01
    assert len(carried.tokens) > 3 and carried.tokens != alone.tokens
    stream = ours.stream("en", method="transducer")

    def transcribe(audio, **options):
        for at in range(0, len(audio), 9_000):
            stream.accept(audio[at : at + 9_000])
        return stream.finish(**options)

    same([transcribe(first, same_speaker=True), transcribe(second)], [opening, carried])
    same([transcribe(second)], [alone])  # another speaker starts with the initial weights
    with pytest.raises(MayaError, match="same_speaker needs a LaCT"):
        recognizer().stream().finish(same_speaker=True)
    state = model.encoder.initial_state(1).describe()
    assert re.fullmatch(r"state of one stream: [0-9.]+ MB \(fast weights .*\)", state)
    with pytest.raises(MayaError, match="cannot stream"):
        LaCT(small).initial_state(1)


def test_a_hypothesis_stays_as_it_was_given():
    ours = recognizer()
    stream = ours.stream("hi", method="ctc")
    audio = torch.randn(64_000) * 0.3
    first = stream.accept(audio[:32_000])
    before = list(first.tokens), list(first.durations), first.text
    second = stream.accept(audio[32_000:])
    assert before[0] and second.durations != before[1]
    assert (first.tokens, first.durations, first.text) == before


class CountingTokenizer(LetterTokenizer):
    """Counts the tokens whose text is asked for."""

    tokens = 0

    def decode(self, ids):
        self.tokens += len(ids)
        return super().decode(ids)


@pytest.mark.parametrize("method", ["transducer", "ctc"])
@pytest.mark.parametrize(
    "buffer", [None, BufferConfig(left_seconds=0.1, chunk_seconds=0.2, right_seconds=0.1)]
)
def test_a_call_takes_no_longer_late_in_a_stream(method, buffer):
    """The hypotheses are copied when they are read, and then are what they were when they were given."""
    ours = recognizer()
    ours.tokenizer = tokenizer = CountingTokenizer()
    audio = torch.randn(96_000) * 0.3
    late, early = [], []
    stream = ours.stream("hi", method=method, buffer=buffer)
    for piece in audio.split(3_200):
        late.append(stream.accept(piece))
    assert tokenizer.tokens == 0
    assert tokenizer.tokens <= len(stream.finish().tokens)
    for piece in audio.split(3_200):
        early.append(stream.accept(piece))
        assert early[-1].text is not None
    assert late == early and pickle.loads(pickle.dumps(late[-1])) == early[-1]
    assert early[9].tokens and early[-1] != early[9]


def test_heads_that_read_hidden_states_cannot_stream(monkeypatch):
    ours = recognizer()
    monkeypatch.setattr(type(ours.model.head("ctc")), "hidden", (1,))
    with pytest.raises(MayaError, match="gives no hidden states"):
        ours.stream("hi", method="ctc")
