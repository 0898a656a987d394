"""Word times of decoded tokens against forced alignment of the same tokens with the same audio."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maya.align.transducer import align_transducer
from maya.data.loading.loader import EvalLoader
from maya.data.table.utterances import Utterances
from maya.decode.base import Method
from maya.decode.ctc.alignment import align_ctc
from maya.decode.ctc.greedy import collapse_ctc
from maya.decode.hypothesis import Hypothesis, Word
from maya.decode.recognizer import Recognizer
from maya.decode.words import WordRules, make_words
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel


@dataclass(frozen=True, slots=True)
class TimeDifferences:
    """Of n words, in seconds: decoded start less aligned start (n,), and the same of the ends (n,)."""

    starts: np.ndarray
    ends: np.ndarray

    @property
    def offset(self) -> float:
        """The mean of the starts: by how much the method emits words late; 0 without words."""
        return float(self.starts.mean()) if len(self.starts) else 0.0

    def facts(self, offset: float = 0.0) -> dict[str, float]:
        """Median and 95th percentile of the absolute differences after a shift, in seconds; of the starts and
        of the ends."""
        facts: dict[str, float] = {}
        for name, values in (("start", self.starts), ("end", self.ends)):
            if len(values):
                shifted = np.abs(values - offset)
                facts[f"{name}_median"] = float(np.median(shifted))
                facts[f"{name}_p95"] = float(np.percentile(shifted, 95))
        return facts


def time_differences(pairs: Sequence[tuple[Sequence[Word], Sequence[Word]]]) -> TimeDifferences:
    """Differences of (decoded, aligned) words, which are the same words. Words without times are left out."""
    starts, ends = [], []
    for decoded, aligned in pairs:
        for word, reference in zip(decoded, aligned, strict=True):
            times = (word.start, reference.start, word.end, reference.end)
            if None not in times:
                starts.append(times[0] - times[1])  # type: ignore[operator]
                ends.append(times[2] - times[3])  # type: ignore[operator]
    return TimeDifferences(np.array(starts), np.array(ends))


@torch.inference_mode()
def aligned_hypotheses(
    model: SpeechModel, encoded: Encoded, langs: Tensor | None, hyps: Sequence[Hypothesis], head: str
) -> list[Hypothesis | None]:
    """The tokens of hypotheses at the frames at which forced alignment by a head puts them; None for a text
    that the head cannot align. encoded: what `SpeechModel.encode_audio` returned."""
    module: Any = model.head(head)
    if module.conditioned:
        encoded = model.with_language(encoded, langs)
    aligned: list[Hypothesis | None] = []
    for row, (hyp, length) in enumerate(zip(hyps, encoded.lens.tolist(), strict=True)):
        frames = encoded.frames[row : row + 1, :length]
        try:
            own = _PATHS[module.cfg.kind](module, frames, hyp.tokens)
        except MayaError:
            aligned.append(None)
            continue
        times = {name: getattr(own, name) for name in ("frames", "durations", "scores")}
        aligned.append(replace(hyp, **times, words=[], segments=[], alternatives=[]))
    return aligned


def _ctc_path(head: Any, frames: Tensor, tokens: list[int]) -> Hypothesis:
    """The likeliest path of tokens through frames (1, S, D)."""
    log_probs = head(frames)[0].float().cpu()
    path, scores = align_ctc(log_probs, torch.tensor(tokens, dtype=torch.long), blank=head.blank)
    return collapse_ctc(path.tolist(), scores.tolist(), blank=head.blank)


def _lattice_path(head: Any, frames: Tensor, tokens: list[int]) -> Hypothesis:
    lens = torch.tensor([frames.shape[1]], device=frames.device)
    options = {"blank": head.blank, "durations": head.durations}
    (hyp,) = align_transducer(frames, lens, [tokens], head.decoder, head.joint, **options)
    return hyp


_PATHS = {"ctc": _ctc_path, "transducer": _lattice_path}  # by the kind of the head


@dataclass(frozen=True, slots=True)
class AlignedRow:
    """A decoded utterance, and its tokens as forced alignment places them; None where it cannot."""

    id: str
    hypothesis: Hypothesis
    aligned: Hypothesis | None
    seconds: float


def decode_and_align(
    recognizer: Recognizer, utterances: Utterances, method: Method, head: str, *, max_seconds: float = 120.0
) -> Iterator[AlignedRow]:
    """All utterances, longest first, decoded by a method and aligned by a head of the same model; texts are
    set, and words as without a calibration."""
    model = recognizer.model
    loader = EvalLoader(
        utterances, recognizer.tokenizer, model.cfg.languages, sample_rate=recognizer.sample_rate,
        max_seconds=max_seconds,
    )  # fmt: skip
    for batch in loader:
        moved = batch.to(recognizer.device)
        seconds = [length / recognizer.sample_rate for length in batch.audio_lens.tolist()]
        with torch.inference_mode():
            encoded = model.encode_audio(moved.audio, moved.audio_lens, hidden=model.hidden)
            hyps = recognizer.with_text(method(encoded, moved.langs), seconds=seconds)
            aligned = aligned_hypotheses(model, encoded, moved.langs, hyps, head)
        yield from map(AlignedRow, batch.ids, hyps, aligned, seconds)


def word_differences(rows: Iterable[AlignedRow], recognizer: Recognizer) -> TimeDifferences:
    """The time differences of all words of utterances that could be aligned."""
    rules = WordRules()
    pairs = [
        (row.hypothesis.words, make_words(row.aligned, recognizer.tokenizer, rules, seconds=row.seconds))
        for row in rows
        if row.aligned is not None
    ]
    return time_differences(pairs)
