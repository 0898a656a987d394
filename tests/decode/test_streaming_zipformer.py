"""Streaming with a causal Zipformer equals its output for whole utterances."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.decode.label_looping.loops import make_loop
from maya.decode.label_looping.rules import TransducerRules
from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.decode.transducer.greedy import TransducerDecoder, greedy_transducer
from maya.encoders import Encoded, Zipformer
from maya.encoders.zipformer.config import Chunking
from maya.encoders.zipformer.streaming import ZipformerStream
from maya.errors import MayaError
from maya.heads.transducer import Joint, JointConfig, StatelessConfig, StatelessPredictor
from maya.models.speech_model import SpeechModel
from tests import tiny_zipformer
from tests.tiny import LetterTokenizer


def recognizer(causal: bool = True) -> Recognizer:
    torch.manual_seed(3)
    model = SpeechModel(tiny_zipformer.config(causal)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.15)
    return Recognizer(model=model, tokenizer=LetterTokenizer(), device=torch.device("cpu"))  # type: ignore[arg-type]


def offline(ours: Recognizer, audio: Tensor, chunking: Chunking, method: Any) -> tuple[Any, Tensor]:
    """Hypothesis and frames of the whole utterance, with features padded to a whole chunk as in a stream."""
    encoder = ours.model.encoder
    assert isinstance(encoder, Zipformer)
    feats, lens = ours.features(audio[None], torch.tensor([len(audio)]))
    enc_lens = encoder.subsampled_lens(lens)
    chunks = -(-2 * int(enc_lens) // chunking.chunk)
    missing = chunks * 2 * chunking.chunk + 13 - feats.shape[1]
    feats = torch.nn.functional.pad(feats, (0, 0, 0, missing), value=ours.model.cfg.features.padding_value)
    encoder.chunking = chunking
    with torch.inference_mode():
        enc, _ = encoder(feats, torch.tensor([feats.shape[1]]))
        enc = enc[:, : int(enc_lens)]
        (hyp,) = greedy(ours.model, Encoded(enc, enc_lens), method)
    return hyp, enc


@pytest.mark.parametrize("method", ["transducer", "ctc"])
@pytest.mark.parametrize("context", [None, (64, 32)])
def test_audio_in_pieces_gives_the_same_tokens(method: Any, context: tuple[int, int] | None) -> None:
    """Pieces of 1 ms to 0.6 s. Then a second, short utterance on the same stream."""
    ours, draw = recognizer(), random.Random(5)
    stream = ours.stream(method=method, context=context)
    left_frames, chunk = context or (32, 16)
    for samples in (40_123, 7_001):
        audio = torch.randn(samples) * torch.linspace(0.01, 0.5, samples)
        expected, _ = offline(ours, audio, Chunking(chunk, left_frames), method)
        assert expected.tokens
        at = 0
        while at < samples:
            size = draw.choice([17, 801, 1601, 9999])
            stream.accept(audio[at : at + size].numpy())
            at += size
        hyp = stream.finish()
        assert (hyp.tokens, hyp.frames) == (expected.tokens, expected.frames)
        assert hyp.scores == pytest.approx(expected.scores, abs=1e-4)
    assert stream.finish().tokens == []  # no audio


@torch.inference_mode()
def test_frames_are_emitted_once_a_chunk_is_complete() -> None:
    encoder = recognizer().model.encoder
    assert isinstance(encoder, Zipformer)
    stream = ZipformerStream(encoder, 2, Chunking(16, 32))
    x = torch.randn(2, 150, 80)
    sizes = [int(stream.push(piece).lens[0]) for piece in (x[:, :44], x[:, 44:45], x[:, 45:108], x[:, 108:])]
    assert sizes == [0, 8, 8, 16]
    enc, lens = stream.push(x[:, :0], final=True)
    rest = int(encoder.subsampled_lens(torch.tensor(150))) - 32
    assert rest == 4 and enc.shape == (2, rest, 32) and lens.tolist() == [rest] * 2


def test_end_without_padding_is_close_to_whole_file() -> None:
    """Only the last chunk differs, because the front end does not see its padding as silence."""
    ours = recognizer()
    audio, chunking = torch.randn(40_123) * 0.1, Chunking(16, 32)
    _, padded = offline(ours, audio, chunking, "ctc")
    with torch.inference_mode():
        feats, lens = ours.features(audio[None], torch.tensor([len(audio)]))
        plain, _ = ours.model.encoder(feats, lens)
    torch.testing.assert_close(padded[:, :56], plain[:, :56], rtol=0, atol=1e-4)


def test_unsupported_streaming_is_refused() -> None:
    with pytest.raises(MayaError, match="cannot stream: encoder.causal is false"):
        recognizer(causal=False).stream()
    with pytest.raises(MayaError, match="not a multiple"):
        recognizer().stream(context=(32, 6))
    with pytest.raises(MayaError, match="1 frame or more"):
        recognizer().stream(context=(-1, 16))


@torch.no_grad()
def one_by_one(enc: Tensor, predictor: StatelessPredictor, joint: Joint, most: int) -> tuple[list, list]:
    """Greedy RNN-T of one utterance (S, D). The predictor reads the whole history; blank is 0."""
    tokens: list[int] = []
    frames: list[int] = []
    for t in range(len(enc)):
        for _ in range(most):
            history = predictor(torch.tensor([tokens], dtype=torch.int64))[:, -1:]
            best = int(joint(enc[None, t : t + 1], history)[0, 0, 0].argmax())
            if best == 0:
                break
            tokens.append(best)
            frames.append(t)
    return tokens, frames


@pytest.mark.parametrize("context", [1, 2, 3])
def test_stateless_predictor_with_blank_first(context: int) -> None:
    """Whole and streamed output equal a plain loop."""
    torch.manual_seed(context)
    predictor = StatelessPredictor(StatelessConfig(hidden=8, context=context), 6, 0).eval()
    joint = Joint(JointConfig(hidden=16), 5, 8, 6, blank=0).eval()
    with torch.no_grad():
        for weight in (joint.enc.weight, joint.pred.weight, joint.joint_net[2].weight):
            weight.normal_(std=1.5)
        joint.joint_net[2].bias[0] += 2.0
    enc, lens = 2 * torch.randn(4, 20, 5), torch.tensor([20, 13, 1, 0])
    expected = [one_by_one(x[:n], predictor, joint, 3) for x, n in zip(enc, lens.tolist(), strict=True)]
    assert sum(len(tokens) for tokens, _ in expected) > 5
    hyps = greedy_transducer(enc, lens, predictor, joint, blank=0, max_symbols=3)
    assert [(h.tokens, h.frames) for h in hyps] == expected
    rules = TransducerRules(predictor=predictor, joint=joint, blank=0, max_symbols=3)
    decoder = TransducerDecoder(make_loop(rules), 4)
    for begin in range(0, 20, 7):
        decoder.push(enc[:, begin : begin + 7], (lens - begin).clamp(0, min(7, 20 - begin)))
    assert [(h.tokens, h.frames) for h in decoder.hyps] == expected
