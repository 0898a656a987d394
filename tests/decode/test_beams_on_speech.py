"""Beam searches of a model that was trained on a few recordings, against their definitions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.audio.load import load_audio
from maya.data.loading.batch import Batch
from maya.decode.beams.transducer_beams import TransducerParts
from maya.decode.ctc.beam import BeamConfig, nbest_ctc
from maya.decode.transducer.alsd import ALSDConfig, alsd_search
from maya.decode.transducer.maes import MAESConfig, maes_search
from maya.decode.transducer.modified_beam import ModifiedBeamConfig, modified_beam_search
from maya.encoders import Encoded
from maya.heads import TransducerConfig
from maya.heads.base import LossStep
from maya.models.config import with_vocabulary
from maya.models.speech_model import SpeechModel, build_model
from tests import tiny
from tests.decode.reference_beams import Path as Labels
from tests.decode.reference_beams import ReferenceBeam
from tools.bench.ctc_beam_python import reference_ctc

CLIPS, STEPS = 8, 60


def recordings(shared: Path) -> tuple[list[Tensor], list[list[int]]]:
    """Spoken English digits, and their letters as tokens."""
    folder = shared / "corpora/digits"
    lines = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
    rows = [row for row in lines if row["language"] == "en"][::150][:CLIPS]
    letters = sorted({letter for row in rows for letter in row["text"]})
    texts = [[letters.index(letter) for letter in row["text"]] for row in rows]
    return [load_audio(folder / row["audio"], sample_rate=16000) for row in rows], texts


@pytest.fixture(scope="module", params=["rnnt", "tdt"])
def trained(request: pytest.FixtureRequest, shared: Path) -> tuple[SpeechModel, Encoded]:
    """A model that has seen the recordings a few times, so that its outputs are neither flat nor certain."""
    torch.manual_seed(0)
    audio, texts = recordings(shared)
    cfg = tiny.experiment().model
    cfg.head("transducer", TransducerConfig).loss = request.param
    model = build_model(with_vocabulary(cfg, 1 + max(map(max, texts)), ("en",)))
    longest = max(map(len, texts))
    batch = Batch(
        audio=torch.nn.utils.rnn.pad_sequence(audio, batch_first=True),
        audio_lens=torch.tensor([len(x) for x in audio]), sample_rate=16000,
        tokens=torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts]),
        token_lens=torch.tensor([len(text) for text in texts]),
        langs=torch.zeros(CLIPS, dtype=torch.int64), ids=[str(i) for i in range(CLIPS)],
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(STEPS):
        encoded = model.encode_audio(batch.audio, batch.audio_lens)
        optimizer.zero_grad()
        losses = [
            model.head(name).losses(encoded, batch, LossStep(step=step)) for name in ("transducer", "ctc")
        ]
        sum(loss["loss"].clamp(max=1e4).mean() for loss in losses).backward()  # type: ignore[union-attr]
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return model, model.encode_audio(batch.audio, batch.audio_lens)


@torch.no_grad()
def test_beams_equal_their_definitions_on_recorded_speech(trained: tuple[SpeechModel, Encoded]) -> None:
    model, encoded = trained
    head: Any = model.head("transducer")
    parts = TransducerParts(
        predictor=head.decoder, joint=head.joint, blank=head.blank, durations=head.durations
    )
    common = {"beam": 4, "n_best": 4, "length_norm": False}
    results = {
        "alsd": alsd_search(encoded, parts, ALSDConfig(**common)),
        "modified": modified_beam_search(encoded, parts, ModifiedBeamConfig(**common)),
        "maes": maes_search(encoded, parts, MAESConfig(**common)),
    }
    for row, (frames, length) in enumerate(zip(*encoded, strict=True)):

        def outputs(frame: int, path: Labels, frames: Tensor = frames) -> tuple[list[float], list[float]]:
            pred = head.decoder(torch.tensor([path], dtype=torch.int64))[:, -1:]
            tokens, durations = head.joint.split(head.joint(frames[None, frame, None], pred)[0, 0, 0])
            return tokens.log_softmax(-1).tolist(), durations.log_softmax(-1).tolist()

        reference = ReferenceBeam(outputs, int(length), head.blank, head.durations, 4)
        expected = {
            "alsd": reference.alsd(10),
            "modified": reference.modified(),
            "maes": reference.maes(2, 2.3, 2),
        }
        for name, truth in expected.items():
            hyp = results[name][row]
            beam = [hyp, *hyp.alternatives]
            assert [tuple(h.tokens) for h in beam] == [path for path, _, _ in truth]
            assert [h.search_score for h in beam] == pytest.approx([score for *_, score in truth], abs=1e-3)
    assert sum(len(h.tokens) for h in results["alsd"]) > CLIPS


@torch.no_grad()
def test_ctc_beam_equals_its_definition_on_recorded_speech(trained: tuple[SpeechModel, Encoded]) -> None:
    model, encoded = trained
    head: Any = model.head("ctc")
    log_probs, cfg = head(encoded.frames), BeamConfig(beam=8, lm_order=0, token_bonus=0.0)
    expected = reference_ctc(log_probs, encoded.lens, head.blank, cfg, [None] * CLIPS)
    nbest = nbest_ctc(log_probs, encoded.lens, blank=head.blank, cfg=cfg)
    for row, truth in zip(nbest, expected, strict=True):
        assert [tokens for tokens, _ in row] == [tokens for tokens, _ in truth]
        assert [score for _, score in row] == pytest.approx([score for _, score in truth], abs=1e-3)
