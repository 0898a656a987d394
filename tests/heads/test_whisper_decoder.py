"""Whisper's encoder and decoder: equal to transformers', with and without a cache, and trained."""

from pathlib import Path

import pytest
import torch

from maya.convert.whisper.load import import_whisper
from maya.data.loading.batch import Batch, make_batch
from maya.encoders import WhisperEncoderConfig
from maya.errors import MayaError
from maya.heads import LossStep, WhisperDecoder
from maya.models.adapters import AdapterConfig
from maya.recipes.train import train
from maya.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from tests import tiny
from tests.convert import whisper_files as models

TOLERANCE = 1e-5


def test_logits_are_those_of_transformers(tmp_path: Path) -> None:
    reference = models.stock(tmp_path)
    ours = import_whisper(tmp_path).recognizer("cpu").model
    feats, tokens = torch.randn(3, 200, 80), torch.randint(0, 260, (3, 7))
    with torch.no_grad():
        right = reference(input_features=feats.mT, decoder_input_ids=tokens)
        encoded = ours.encoder(feats, torch.tensor([200, 120, 1]))
        head = ours.head("whisper")
        assert isinstance(head, WhisperDecoder)
        logits, state = head.step(tokens, head.state(encoded))
        assert encoded.lens.tolist() == [models.POSITIONS] * 3
        assert (encoded.frames - right.encoder_last_hidden_state).abs().max() < TOLERANCE
        assert (logits - right.logits).abs().max() < 1e-4 * right.logits.abs().max()
        state, steps = head.state(encoded), []
        for n in range(tokens.shape[1]):
            step, state = head.step(tokens[:, n : n + 1], state)
            steps.append(step)
        assert state.read == 7 and (torch.cat(steps, 1) - logits).abs().max() < 1e-4


def test_frames_without_the_window_are_independent_of_padding() -> None:
    torch.manual_seed(0)
    encoder = WhisperEncoderConfig(d_model=64, heads=2, n_layers=2, positions=50, whole=False).build().eval()
    feats, lens = torch.randn(3, 90, 80), torch.tensor([90, 31, 0])
    with torch.no_grad():
        batch = encoder(feats, lens, hidden=(0, 2))
        assert batch.lens.tolist() == [45, 16, 0] and batch.frames.isfinite().all()
        for row, size in enumerate(lens.tolist()[:2]):
            lone = encoder(feats[row : row + 1, :size], lens[row : row + 1])
            assert (lone.frames[0] - batch.frames[row, : lone.lens[0]]).abs().max() < TOLERANCE
    assert not batch.frames[1, 16:].any() and set(batch.hidden) == {0, 2}
    with pytest.raises(MayaError, match=r"takes 100 frames \(1 s\) at most, and got 101"):
        encoder(torch.randn(1, 101, 80), torch.tensor([101]))


def utterances(texts: list[list[int]], langs: list[int]) -> Batch:
    return make_batch([models.speech(1.0)] * 2, texts, langs, ["a", "b"], sample_rate=16000)


def test_the_loss_is_that_of_the_text_after_the_prompt(tmp_path: Path) -> None:
    model = models.recognizer(tmp_path).model
    head = model.head("whisper")
    assert isinstance(head, WhisperDecoder)
    ids, texts = head.cfg.tokens, [[65, 66, 67], [70]]
    batch = utterances(texts, [1, 2])
    encoded = model.encode_audio(batch.audio, batch.audio_lens)
    losses = head.losses(encoded, batch, LossStep())["loss"]
    for row, text in enumerate(texts):
        prompt = [ids.start, ids.first_language + row + 1, ids.transcribe, ids.no_timestamps]
        logits = head.step(torch.tensor([prompt + text] * 2), head.state(encoded))[0][row].log_softmax(-1)
        right = -sum(logits[len(prompt) - 1 + n, t] for n, t in enumerate([*text, ids.end]))
        assert abs(float((losses[row] - right).detach())) < 1e-3
    with pytest.raises(MayaError, match="needs the language of each utterance"):
        head.losses(encoded, utterances(texts, [1, -1]), LossStep())
    with pytest.raises(MayaError, match="500 tokens does not fit into the 448 positions"):
        head.losses(encoded, utterances([[65] * 500, []], [0, 0]), LossStep())


@pytest.mark.parametrize("lora", [False, True])
def test_the_trainer_tunes_it(lora: bool, tmp_path: Path) -> None:
    models.stock(tmp_path / "whisper")
    start = import_whisper(tmp_path / "whisper").checkpoint
    save_checkpoint(tmp_path / "start.pt", start)
    start.tokenizer.save(tmp_path / "tokenizer")
    exp = tiny.experiment()
    exp.model = start.model_config
    exp.model.adapters = AdapterConfig(type="lora" if lora else "none", rank=2)
    exp.tokenizer.file = str(tmp_path / "tokenizer")
    exp.train.learn = "adapters" if lora else "all"
    exp.train.init_from = str(tmp_path / "start.pt")
    exp.train.init_modules = ("encoder", "heads.whisper")
    exp.train.steps = exp.train.save_every = exp.train.valid_every = 2
    exp.train.warmup_steps = 1
    exp.data.max_seconds = 2.0
    tiny.prepare_run(exp, tmp_path, utterances=6)
    train(exp, tmp_path / "data", tmp_path / "run", cpu=True)
    made = load_checkpoint(tmp_path / "run")
    moved = {n for n, t in start.weights.items() if n in made.weights and not torch.equal(t, made.weights[n])}
    assert ("heads.whisper.token_embedding.weight" in moved) is not lora
    assert "encoder.positional_embedding" not in moved
    assert lora is any(".parametrizations.weight.0.up" in n for n in made.weights)
