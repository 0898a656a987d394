"""Streams of models trained for whole utterances and for chunks (parakeet-unified): windows with a mask."""

from typing import Any

import pytest
import torch

from maya.decode.long.buffered import BufferConfig, WindowBuffer, encode_windows
from maya.encoders.conformer.attention import Frames, positions_needed, span_of
from tests.convert.archives import recognizer

SIZES = ((8,), (2, 4), (0, 3))
OPTIONS: dict[str, Any] = {
    "encoder.att_chunk_context_size": SIZES, "features.normalize": "none", "transducer": "none",
    "ctc_weight": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(("before", "chunk", "after"), [(8, 4, 3), (2, 2, 0), (0, 3, 5), (70, 7, 7)])
def test_frames_see_their_chunk_and_its_context(before: int, chunk: int, after: int) -> None:
    span, size = span_of((before, chunk, after), "regular"), 40
    seen = span.visible(torch.arange(size), torch.arange(size))
    for i in range(size):
        first = i // chunk * chunk
        right = [first - before <= j <= first + chunk - 1 + after for j in range(size)]
        assert seen[i].tolist() == right


def test_attention_keeps_to_the_chunks() -> None:
    """Whatever form computes it: what lies beyond the last chunk's context changes nothing before it."""
    torch.manual_seed(1)
    encoder: Any = recognizer(**OPTIONS).model.encoder
    layer, frames = encoder.layers[0].self_attn, torch.randn(1, 200, 32)
    for context in ((8, 4, 3), (0, 5, 2)):
        span = span_of(context, "regular")
        forms = []
        for other in (False, True):
            x = frames.clone()
            if other:
                x[:, 104:] += 1.0  # chunks of 4 and 5 begin at frame 100
            forms.append(attended(encoder, layer, x, span))
        reach = 104 - 1 - span.right
        chunk_of_reach = reach // span.chunk * span.chunk
        assert torch.equal(forms[0][:, :chunk_of_reach], forms[1][:, :chunk_of_reach])
        short = attended(encoder, layer, frames[:, :20], span)  # computed whole, not in blocks
        assert (short[:, :8] - forms[0][:, :8]).abs().max() < 1e-5


def attended(encoder: Any, layer: Any, x: torch.Tensor, span: Any) -> torch.Tensor:
    positions = encoder.positions(positions_needed(span, x.shape[1]), x)
    frames = Frames(valid=torch.ones(x.shape[:2], dtype=torch.bool), positions=positions, span=span)
    with torch.no_grad():
        return layer(x, frames)


def test_a_stream_is_the_windows_of_the_trained_sizes() -> None:
    torch.manual_seed(2)
    model = recognizer(**OPTIONS)
    audio = torch.randn(16000 * 3) * 0.1
    stream = model.stream()
    frame = model.model.frame_seconds
    assert stream.buffer == BufferConfig(
        left_seconds=8 * frame, chunk_seconds=4 * frame, right_seconds=3 * frame
    )
    assert stream.latency_seconds == pytest.approx(7 * frame)
    for piece in audio.split(1600):
        stream.accept(piece)
    hyp = stream.finish()
    buffer = WindowBuffer(stream.buffer, model.model)
    windows = [*buffer.push(audio), buffer.finish()]
    assert {w.context for w in windows} == {(8, 4, 3)} and all(w.skip % 4 == 0 for w in windows)
    with torch.inference_mode():
        for window in windows[:5]:  # one by one, by the definition: the window's frames with the mask
            feats, lens = model.model.features(window.samples[None], torch.tensor([len(window.samples)]))
            whole = model.model.encoder(feats, lens, context=(8, 4, 3)).frames[0]
            (chunk,) = encode_windows(model.model, [window])
            assert (chunk - whole[window.skip : window.skip + 4]).abs().max() < 1e-5
        frames = torch.cat(encode_windows(model.model, windows))[None]
        log_probs = model.model.head("ctc")(frames)
    best = log_probs.argmax(-1)[0].unique_consecutive().tolist()
    assert hyp.tokens == [token for token in best if token != model.tokenizer.vocab_size]


def test_left_context_is_whole_chunks_and_other_sizes_can_be_asked_for() -> None:
    model = recognizer(**OPTIONS)
    frame = model.model.frame_seconds
    buffer = BufferConfig(left_seconds=8 * frame, chunk_seconds=3 * frame, right_seconds=2 * frame)
    assert WindowBuffer(buffer, model.model).context == (6, 3, 2)
    assert model.stream(buffer=buffer).latency_seconds == pytest.approx(5 * frame)
    assert recognizer().model.cfg.encoder.att_chunk_context_size == ()  # type: ignore[attr-defined]
