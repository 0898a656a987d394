"""Small recognisers of spoken tones, trained in seconds: for tests that compare texts, not tensors."""

import functools
from typing import Any

import numpy as np
import torch

from maya.data.loading.batch import make_batch
from maya.decode.recognizer import Recognizer
from maya.models.config import SpeechModelConfig, with_vocabulary
from maya.models.speech_model import build_model
from maya.recipes.lact_presets import lact_tiny
from maya.text.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from tests import tiny, tiny_zipformer, tones

WORDS = ("a", "b", "g", "ab", "ha", "dc", "ea", "bad", "cab", "fed", "gab", "had", "bead", "cafe", "chef")


@functools.cache
def tokenizer() -> Tokenizer:
    """A piece for each letter, and for the beginning of a word."""
    return train_tokenizer({"en": [" ".join(WORDS)] * 3}, TokenizerConfig(vocab_size=10))


def sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(list(WORDS), words))


def config(encoder: str) -> SpeechModelConfig:
    if encoder == "zipformer":
        cfg = tiny_zipformer.config(vocab_size=0, blank_first=False, ctc_weight=0.5)
    else:
        cfg = tiny.experiment().model
        if encoder == "lact":
            cfg.encoder = lact_tiny(feat_in=cfg.encoder.feat_in, d_model=32, n_layers=2)
    cfg.language_embedding = False
    cfg.heads["ctc"].weight = 1.0
    return with_vocabulary(cfg, tokenizer().vocab_size, ("en",))


@functools.cache
def trained(encoder: str = "fastconformer", steps: int = 600, seed: int = 0) -> Recognizer:
    """A recogniser that has learnt the tones: utterances of one to eight words, with silence around them."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model: Any = build_model(config(encoder)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        texts = [sentence(rng, int(rng.integers(1, 9))) for _ in range(8)]
        audio = [torch.from_numpy(padded(rng, tones.speak(text))) for text in texts]
        tokens = [tokenizer().encode(text) for text in texts]
        batch = make_batch(audio, tokens, [0] * 8, [str(i) for i in range(8)], sample_rate=tones.RATE)
        model.begin_step(step, step)
        losses = model(batch)
        loss = losses.total.sum() / batch.token_lens.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return Recognizer(model=model.eval(), tokenizer=tokenizer(), device=torch.device("cpu"))


def padded(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
    """Silence around it, and a little noise over all."""
    lead, trail = (np.zeros(int(rng.uniform(0, 0.6) * tones.RATE)) for _ in range(2))
    joined = np.concatenate([lead, audio, trail])
    return (joined + 0.001 * rng.standard_normal(len(joined))).astype(np.float32)
