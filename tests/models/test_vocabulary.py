"""Models in a larger vocabulary: old rows bit for bit, old texts recognised as before."""

import dataclasses

import pytest
import torch

from maya.data.loading.batch import make_batch
from maya.decode.methods import greedy
from maya.errors import MayaError
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.models.vocabulary import carried_over, language_dims, vocabulary_dims
from maya.train.config import TrainConfig
from maya.train.learn import choose_learning
from maya.train.optimizers.optim import make_optimizer
from tests import tiny, tiny_zipformer

NEW = 5  # pieces


def hybrid_model() -> SpeechModelConfig:
    return tiny.hybrid(attention_weight=0.2, language_id_weight=0.1)


MODELS = {"tdt, ctc, attention": hybrid_model, "pruned, blank first": tiny_zipformer.config}


def grown(cfg: SpeechModelConfig) -> tuple[SpeechModel, SpeechModel]:
    """A model with random weights, and the same with five more pieces and a language."""
    torch.manual_seed(3)
    model = SpeechModel(cfg).eval()
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    languages = (*cfg.languages, "bn") if cfg.languages else ()
    larger = dataclasses.replace(cfg, vocab_size=cfg.vocab_size + NEW, languages=languages)
    new = SpeechModel(larger).eval()
    new.load_state_dict(
        carried_over(model.state_dict(), cfg, larger, [*range(cfg.vocab_size), *[-1] * NEW]), strict=True
    )
    return model, new


@pytest.mark.parametrize("name", MODELS)
def test_old_rows_are_bit_equal(name: str) -> None:
    cfg = MODELS[name]()
    old, new = (model.state_dict() for model in grown(cfg))
    pieces, languages, size = (
        vocabulary_dims(cfg),
        language_dims(cfg) if cfg.languages else {},
        cfg.vocab_size,
    )
    heads = {key.split(".")[1] for key in pieces}
    assert heads == set(cfg.text_heads), "every text head depends on the vocabulary"
    for key, was in old.items():
        now = new[key]
        if key in pieces:
            was, now = (x.movedim(pieces[key], 0) for x in (was, now))
            assert len(now) == len(was) + NEW
            assert torch.equal(now[:size], was[:size])
            assert torch.equal(now[size + NEW :], was[size:]), "blank and durations"
        elif key in languages:
            assert torch.equal(now[: len(cfg.languages)], was)
        else:
            assert torch.equal(now, was)


@pytest.mark.parametrize("name", MODELS)
def test_old_texts_are_recognised_as_before(name: str) -> None:
    old, new = grown(MODELS[name]())
    audio = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1 for n in (24000, 16000)]
    batch = make_batch(audio, [[1], [2]], [0, 0], ["a", "b"], sample_rate=16000)
    with torch.inference_mode():
        frames = [model.encode_audio(batch.audio, batch.audio_lens) for model in (old, new)]
        assert torch.equal(frames[0].frames, frames[1].frames)
        for head in old.cfg.text_heads:
            if head == "attention":
                continue
            hyps = [
                [h.tokens for h in greedy(m, e, head, batch.langs)]
                for m, e in zip((old, new), frames, strict=True)
            ]
            blank = old.cfg.blank
            assert hyps[0] == hyps[1] and any(hyps[0]) and all(t != blank for h in hyps[0] for t in h)


def test_fixed_pieces_do_not_change_in_training() -> None:
    _, model = grown(tiny.hybrid())
    size = 12
    before = {k: v.clone() for k, v in model.state_dict().items()}
    cfg = TrainConfig(lr=1e-2, weight_decay=0.1, fixed_pieces=size)
    choose_learning(model, cfg)
    optimizer = make_optimizer(model, cfg)
    audio = [torch.randn(24000) * 0.1]
    batch = make_batch(audio, [[13, 2, 14, 1]], [0], ["a"], sample_rate=16000)
    for _ in range(3):
        model.train()(batch, torch.Generator().manual_seed(0)).total.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    after, dims = model.state_dict(), vocabulary_dims(model.cfg)
    assert len(dims) >= 5  # CTC's and the joint's weight and bias, and the embedding
    for key, dim in dims.items():
        was, now = before[key].movedim(dim, 0), after[key].movedim(dim, 0)
        assert torch.equal(was[:size], now[:size]), key
        assert not torch.equal(was[size:], now[size:]), key


def test_languages_keep_their_order() -> None:
    cfg = tiny.hybrid()
    other = dataclasses.replace(cfg, languages=("bn", "en", "hi"))
    with pytest.raises(MayaError, match="name new ones after them"):
        carried_over(SpeechModel(cfg).state_dict(), cfg, other, range(12))
