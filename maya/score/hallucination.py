"""Whether the words of a segment were made up: one verdict from four signs.

- likelihood: how much better a CTC head likes its own best path than the text: a second view of the audio.
  A head of phonemes (maya.heads.units) judges the pronunciation of the text, by eSpeak NG if it is installed.
- speech: the share of the segment in which a voice detector hears speech.
- loops: repeated words, too many words a second, text that packs too well (maya.score.measures.loops).
- confidence: of the words, their mean.

Each sign that is known becomes an evidence from 0 to 1, and the suspicion is 1 - Π (1 - evidence). The limits
are set by the evaluation in egs/heads, on silence, noise and texts of other recordings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maya.config import config
from maya.decode.hypothesis import Hypothesis
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.losses import ctc_loss
from maya.models.speech_model import SpeechModel
from maya.ranges import NonNegFloat, PosFloat, Share
from maya.score.measures.loops import loop_signs
from maya.text import phonemes

Pronounce = Callable[[str, str | None], str]
"""Text and language → the units of a head, with a space between them."""


PHONEMES = "phonemes"  # the label of heads that eSpeak's pronunciations are for


@config
class HallucinationConfig:
    """head: the CTC head that judges; "" is that of phonemes, or else the first that was trained. nats: a
    difference of so many for each token or phoneme is evidence 1, and `nats_free` is none. speech: of a
    segment with less than this share of speech, evidence grows to 1 for none. confidence: the same of the
    words' confidence. loop: the evidence of a loop. limit: of the suspicion, from which a segment is called
    made up."""

    head: str = ""
    nats: PosFloat = 6.0
    nats_free: NonNegFloat = 1.0
    speech: Share = 0.3
    confidence: Share = 0.5
    loop: Share = 0.7
    limit: Share = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class TextVerdict:
    """What the signs say of one segment. nats: by which the best path beats the text, for each token; speech:
    a share; confidence: of the words; None for what is not known. loops: a sentence for each rule.
    suspicion: in [0, 1]. made_up: whether it reaches the limit."""

    nats: float | None
    speech: float | None
    confidence: float | None
    loops: tuple[str, ...]
    suspicion: float
    made_up: bool


class HallucinationCheck:
    """The check for one model, in evaluation mode. pronounce: for a head of phonemes; None: eSpeak NG, where
    the model has such a head and eSpeak is installed. A text that cannot be pronounced is judged by a head of
    text, if there is one."""

    def __init__(
        self, model: SpeechModel, cfg: HallucinationConfig | None = None, pronounce: Pronounce | None = None
    ) -> None:
        self.model, self.cfg = model, cfg or HallucinationConfig()
        trained = {name: head for name, head in model.named_heads().items() if name not in model.untrained}
        texts = [h for h in trained.values() if h.ctc_over == "tokens"]
        units: list[Any] = [h for h in trained.values() if h.ctc_over == "units"]
        if (
            pronounce is None
            and any(head.cfg.label == PHONEMES for head in units)
            and phonemes.is_installed()
        ):
            pronounce, units = phonemes.pronounce, [h for h in units if h.cfg.label == PHONEMES]
        self.pronounce = pronounce
        # Phonemes are the better judge: they are no pieces of the same text.
        judges = ([] if pronounce is None else units) + texts
        self.judges: list[Any] = [model.head(self.cfg.head)] if self.cfg.head else judges

    @torch.no_grad()
    def __call__(
        self, hyp: Hypothesis, encoded: Encoded | None = None, *, speech: float | None = None,
        seconds: float = 0.0, langs: Tensor | None = None,
    ) -> TextVerdict:  # fmt: skip
        """The verdict on a hypothesis with text, which may have words.

        encoded: the frames (1, S, D) of its segment as `SpeechModel.encode_audio` gives them. speech: the
        share of the segment in which a voice detector hears speech. seconds: of the segment. langs (1,): the
        language that the recogniser was told.
        """
        cfg, nats = self.cfg, None
        if encoded is not None and hyp.text:
            verdicts = (self.nats(judge, hyp, encoded, langs) for judge in self.judges)
            nats = next((value for value in verdicts if value is not None), None)
        sure = [word.confidence for word in hyp.words if word.confidence is not None]
        sure = sure or hyp.confidences
        confidence = sum(sure) / len(sure) if sure else None
        loops = tuple(loop_signs(hyp.text, seconds).reasons)
        evidence = [cfg.loop if loops else 0.0]
        if nats is not None:
            evidence.append((nats - cfg.nats_free) / (cfg.nats - cfg.nats_free))
        if speech is not None and cfg.speech:
            evidence.append(1 - speech / cfg.speech)
        if confidence is not None and cfg.confidence:
            evidence.append(1 - confidence / cfg.confidence)
        innocent = 1.0
        for value in evidence:
            innocent *= 1 - min(max(value, 0.0), 1.0)
        suspicion = (1 - innocent) if hyp.text else 0.0
        return TextVerdict(
            nats=nats, speech=speech, confidence=confidence, loops=loops, suspicion=suspicion,
            made_up=suspicion >= cfg.limit,
        )  # fmt: skip

    def nats(
        self, judge: Any, hyp: Hypothesis, encoded: Encoded, langs: Tensor | None = None
    ) -> float | None:
        """(log P(best path) - log P(text)) / tokens under a head; 100 where the text has no path, None where
        the text has no tokens or cannot be pronounced."""
        tokens: Sequence[int] = hyp.tokens
        frames = encoded.frames
        if judge.ctc_over == "units":
            assert self.pronounce is not None
            try:
                tokens = judge.ids(self.pronounce(hyp.text, self._language(hyp, langs)))
            except MayaError:  # no voice of the language, or a sound that the head was not trained on
                return None
        else:
            frames = self.model.with_language(encoded, langs).frames
        if not tokens:
            return None
        log_probs = judge(frames)
        if not log_probs.shape[1]:
            return _NO_PATH
        best = float(log_probs.amax(-1).sum())
        sizes = torch.tensor([log_probs.shape[1]]), torch.tensor([len(tokens)])
        loss = float(ctc_loss(log_probs, torch.tensor([tokens]), *sizes, blank=judge.blank))
        return min((best + loss) / len(tokens), _NO_PATH)

    def _language(self, hyp: Hypothesis, langs: Tensor | None) -> str | None:
        """The language of a text. Raises MayaError where it may be one of several."""
        languages = self.model.cfg.languages
        if hyp.language is None and langs is not None and int(langs[0]) >= 0:
            return languages[int(langs[0])]
        if hyp.language is None and len(languages) > 1:
            raise MayaError("the language of a text must be known for its pronunciation")
        return hyp.language or (languages[0] if languages else None)


_NO_PATH = 100.0
