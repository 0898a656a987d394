"""`maya transcribe --check`: a verdict for each segment of a transcript, whether its text was made up."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from maya.audio.vad.detector import speech_spans
from maya.decode.hypothesis import Hypothesis, TextSegment
from maya.decode.long.long_audio import speech_defaults
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import Recording, Transcript, recording_audio
from maya.encoders import Encoded
from maya.score.hallucination import HallucinationCheck

_MARGIN_SECONDS = 0.3  # of audio that is heard on either side of a segment


class SegmentCheck:
    """The check for one recogniser. It reads a recording again when its text is complete, so that no audio is
    kept until then."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer, self.check = recognizer, HallucinationCheck(recognizer.model)

    def __call__(self, recording: Recording, transcript: Transcript) -> None:
        """Set `check` of each segment. The audio of a segment without times is the whole recording."""
        hyp = transcript.hypothesis
        if hyp is None or not hyp.segments:
            return
        audio = recording_audio(recording, self.recognizer.sample_rate, transcript.channel)
        for segment in hyp.segments:
            segment.check = self._verdict(audio, segment, hyp.language)

    @torch.inference_mode()
    def _verdict(self, audio: Tensor, segment: TextSegment, language: str | None) -> dict[str, Any]:
        ours, rate = self.recognizer, self.recognizer.sample_rate
        start, end = segment.start or 0.0, segment.end or len(audio) / rate
        part = audio[max(0, int((start - _MARGIN_SECONDS) * rate)) : int((end + _MARGIN_SECONDS) * rate)]
        code = language or (ours.model.cfg.languages[0] if ours.model.cfg.languages else "en")
        tokens = ours.tokenizer.encode(segment.text, code)
        hyp = Hypothesis(tokens=tokens, text=segment.text, words=segment.words, language=language)
        encoded: Encoded | None = None
        if self.check.judges:  # Whisper has none, and reads no more than 30 s
            lens = torch.tensor([len(part)]).to(ours.device)
            encoded = ours.model.encode_audio(part[None].to(ours.device), lens)
        spoken = sum(span.duration for span in speech_spans(part, rate, speech_defaults()))
        index = ours.model.cfg.languages.index(language) if language in ours.model.cfg.languages else -1
        verdict = self.check(
            hyp, encoded, speech=min(1.0, spoken / max(end - start, 1e-3)), seconds=end - start,
            langs=torch.tensor([index], device=ours.device),
        )  # fmt: skip
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(verdict).items()}
