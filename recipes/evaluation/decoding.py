"""Decoding of audio that is not in a file: noisy copies of utterances, noise, and streams."""

from collections.abc import Sequence

from torch import Tensor

from maya.audio.sound import measure_sound
from maya.data.measure.entry import Entry
from maya.decode.hypothesis import Hypothesis
from maya.decode.methods import AUTO
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.score.measures.normalizers import DEFAULT, DROPS_EMPTY, make_normalizer
from maya.score.report import Utterance

AT_ONCE = 64  # utterances whose audio is in memory


def decoding_language(recognizer: Recognizer, entry: Entry, language: str | None) -> str | None:
    """The language to decode an utterance in: "auto" as it is, its own if the model knows it, else none."""
    if language == AUTO:
        return AUTO
    return entry.language if entry.language in recognizer.model.cfg.languages else None


def decode_audio(
    recognizer: Recognizer, entries: Sequence[Entry], audio: Sequence[Tensor], method: str,
    language: str | None,
) -> list[Hypothesis]:  # fmt: skip
    """The hypotheses of `audio`, (N,) each at the model's rate, which stands for these entries."""
    codes = [decoding_language(recognizer, entry, language) for entry in entries]
    hyps: dict[int, Hypothesis] = {}
    for code in dict.fromkeys(codes):
        places = [i for i, own in enumerate(codes) if own == code]
        rows = recognizer.transcribe([audio[i] for i in places], code, method=method)
        hyps |= dict(zip(places, rows, strict=True))
    return [hyps[i] for i in range(len(entries))]


def scored(
    entries: Sequence[Entry], texts: Sequence[str], normalizer: str = DEFAULT, snr: float | None = None
) -> list[Utterance]:
    """Entries with their hypotheses, to score in a normal form. Another form than Maya's starts from the
    published text. snr: of the noise that was added, None: the measured one."""
    normal, rows = make_normalizer(normalizer), list[Utterance]()
    for entry, text in zip(entries, texts, strict=True):
        ref = entry.text
        if normalizer != DEFAULT:
            ref = normal(entry.raw_text or entry.text, entry.language)
        if ref or normalizer not in DROPS_EMPTY:
            rows.append(Utterance(
                id=entry.id, language=entry.language, ref=ref, hyp=normal(text, entry.language),
                seconds=entry.duration, speaker=entry.speaker, snr=entry.snr if snr is None else snr,
            ))  # fmt: skip
    return rows


def with_snr(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, with the SNR of those whose audio nobody measured; it is read for that."""

    def measured(entry: Entry) -> Entry:
        if entry.snr is not None:
            return entry
        audio = entry.load_audio()
        return entry._replace(snr=measure_sound(audio.numpy()[:, None], entry.sample_rate).snr)

    return [measured(entry) for entry in entries]


def chosen_method(recognizer: Recognizer, name: str, *, stream: bool = False) -> str:
    """The name of the method that `name` means. Raises MayaError for a model without a text head."""
    if not recognizer.model.cfg.text_heads:
        raise MayaError("this model has no text head to evaluate")
    return recognizer.choose_method(name, stream=stream).method
