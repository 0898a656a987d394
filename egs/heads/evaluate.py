"""What the heads of a run know, on the test set of its data, with intervals over speakers.

    python -m egs.heads.evaluate language exp/heads/language/heads_language --data exp/heads/language/data
    python -m egs.heads.evaluate words exp/heads/words/heads_words --data exp/heads/words/data
    python -m egs.heads.evaluate pitch exp/heads/pitch/heads_pitch --data exp/heads/pitch/data
    python -m egs.heads.evaluate phonemes exp/heads/phonemes/heads_phonemes --data exp/heads/phonemes/data
    python -m egs.heads.evaluate punctuation exp/heads/punctuation/heads_punctuation --data ...
    python -m egs.heads.evaluate recognised exp/heads/written/heads_written --data exp/heads/written/data
    python -m egs.heads.evaluate made-up exp/digits/digits/digits --data exp/digits/digits/data

language: UAR of the middle second, the middle three, and all of each utterance. words: F1 of digit words by
their start. pitch: agreement with the teacher, beside that of the teacher with pYIN. phonemes: error rate by
language. punctuation: F1 of each mark, of all words and of those inside of an utterance, and of capitals.
recognised: the same of the text that the run's own text head writes, see egs.heads.recognised. made-up: how
well the signs of `maya.score.hallucination` part texts that were said from texts on silence, noise, music and
babble, and of other recordings, with each CTC head of the run as the judge.
"""

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import maya
from egs.heads.measures import mark_counts, shown, test_batches
from egs.heads.recognised import recognised
from egs.heads.sounds import COUNT, KINDS, sounds
from maya.audio.vad.detector import speech_spans
from maya.data.loading.batch import Batch
from maya.data.table.spans import events_in
from maya.data.table.table import Table, part_path
from maya.decode.hypothesis import Hypothesis
from maya.decode.long.long_audio import speech_defaults
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.heads import EventHead, PitchHead, PunctuationHead, UnitCTC
from maya.heads.frames import pitch_in
from maya.pages import columns
from maya.score.hallucination import HallucinationCheck, HallucinationConfig, TextVerdict
from maya.score.labels import LabelledUtterance
from maya.score.report import percent, span
from maya.score.resampling import of_sums
from maya.score.tracks import (
    auc_interval,
    event_counts,
    pitch_counts,
    roc_auc,
    score_events,
    score_pitch,
)
from maya.score.wer import ErrorStats, Interval, count_errors, interval, pool

SECONDS = (1.0, 3.0, float("inf"))
_VOICED = 0.5  # the probability from which a step counts as voiced
_SHORTEST = 1.0  # utterances that count for the languages, in all columns alike


def middle(batch: Batch, seconds: float) -> tuple[Tensor, Tensor]:
    """(B, n) audio and (B,) samples of the middle `seconds` of each utterance, or all of a shorter one."""
    kept = batch.audio_lens.clamp(max=int(min(seconds, 1e6) * batch.sample_rate))
    start = (batch.audio_lens - kept) // 2
    index = (start[:, None] + torch.arange(int(kept.max()))).clamp(max=batch.audio.shape[1] - 1)
    audio = batch.audio.gather(1, index)
    return audio * (torch.arange(audio.shape[1]) < kept[:, None]), kept


@torch.inference_mode()
def language(recognizer: Recognizer, data: Path, lengths: Sequence[float] = SECONDS) -> dict[str, Any]:
    """UAR over the languages that have unseen speakers; the others, whose speakers are few, apart."""
    model = recognizer.model
    head = model.head("language")
    trained = set(Table.open(part_path(data, "train")).read("speaker"))
    rows: dict[float, list[LabelledUtterance]] = {seconds: [] for seconds in lengths}
    for batch in test_batches(recognizer, data):
        for seconds in lengths:
            encoded = model.encode_audio(*middle(batch, seconds), hidden=model.hidden)
            for i, said in enumerate(head.predict(encoded)):
                if batch.audio_lens[i] >= _SHORTEST * batch.sample_rate:
                    code, who = model.cfg.languages[int(batch.langs[i])], batch.labels["speaker"][i]
                    row = LabelledUtterance(id=batch.ids[i], value=code, predicted=said.label, speaker=who)
                    rows[seconds].append(row)
    heads = ["all" if seconds == float("inf") else f"{seconds:g} s" for seconds in lengths]
    lines = [["UAR %", "languages", "utterances", "speakers", *heads]]
    result: dict[str, Any] = {}
    for name, is_new in (("unseen speakers", True), ("speakers of training", False)):
        chosen = {s: [r for r in own if ((r.speaker,) not in trained) == is_new] for s, own in rows.items()}
        if not chosen[lengths[0]]:
            continue
        scores = {s: recalls(own) for s, own in chosen.items()}
        names, _, _, each = scores[lengths[-1]]
        speakers = len({row.speaker for row in chosen[lengths[0]]})
        cells = [f"{percent(value)} {span(bounds)}" for _, value, bounds, _ in scores.values()]
        lines.append([name, " ".join(names), str(len(chosen[lengths[0]])), str(speakers), *cells])
        result[name] = {
            f"{s:g}": [value, bounds.low, bounds.high] for s, (_, value, bounds, _) in scores.items()
        }
        result[name] |= {"recall": dict(zip(names, each, strict=True))}
    print("\n".join(columns(lines)))
    return result


def recalls(rows: Sequence[LabelledUtterance]) -> tuple[list[str], float, Interval, list[float]]:
    """The classes, UAR and its interval, and the recall of each class. The bootstrap draws speakers of all
    classes together, because some have a single one; a class that a draw lacks is left out of it."""
    names = sorted({row.value for row in rows})
    counts = np.zeros((len(rows), len(names), 2))
    for own, row in zip(counts, rows, strict=True):
        own[names.index(row.value)] = row.predicted == row.value, 1

    def uar(sums: np.ndarray) -> np.ndarray:
        hits, whole = np.moveaxis(sums.reshape(len(sums), -1, 2), 2, 0)
        return np.nanmean(hits / whole, 1)

    value, bounds = of_sums(counts.reshape(len(rows), -1), uar, blocks=[row.speaker for row in rows])
    return names, value, bounds, (counts.sum(0)[:, 0] / counts.sum(0)[:, 1]).tolist()


@torch.inference_mode()
def words(recognizer: Recognizer, data: Path) -> dict[str, Any]:
    """F1 of words that begin within 200 ms of where they are said, over unseen speakers."""
    head = recognizer.model.head("words")
    assert isinstance(head, EventHead)
    counts, speakers = [], []
    for batch in test_batches(recognizer, data):
        encoded = recognizer.model.encode_audio(batch.audio, batch.audio_lens, hidden=recognizer.model.hidden)
        for i, track in enumerate(head.track(encoded)):
            detected = [(e.label, e.start, e.end) for e in track.events]
            counts.append(event_counts(events_in(batch.labels["words"][i]), detected, head.cfg.classes))
            speakers.append(batch.labels["speaker"][i])
    title = f"{len(counts)} utterances, {len(set(speakers))} speakers"
    return shown(title, score_events(counts, blocks=speakers))


@torch.inference_mode()
def pitch(recognizer: Recognizer, data: Path) -> dict[str, Any]:
    """The head against its teacher, and the teacher against pYIN, at the teacher's times."""
    head = recognizer.model.head("pitch")
    assert isinstance(head, PitchHead)
    by_head, by_teacher, speakers = [], [], []
    for batch in test_batches(recognizer, data):
        encoded = recognizer.model.encode_audio(batch.audio, batch.audio_lens, hidden=recognizer.model.hidden)
        for i, track in enumerate(head.track(encoded)):
            if batch.labels["pyin"][i] is None:  # of a speaker of training: its language has too few
                continue
            labels = {name: pitch_in(batch.labels[name][i] or "") for name in ("f0", "pyin")}
            hop, teacher = labels["f0"]
            steps = (np.arange(len(teacher)) * hop / track.seconds).astype(int)
            inside = steps < len(track.values)
            said = track.values.numpy()[steps[inside]]
            voiced = said[:, 1] >= _VOICED
            by_head.append(pitch_counts(teacher[inside], said[:, 0], voiced))
            pyin = labels["pyin"][1]
            size = min(len(pyin), len(teacher))
            by_teacher.append(pitch_counts(pyin[:size], teacher[:size]))
            speakers.append(batch.labels["speaker"][i])
    title = f"{len(speakers)} utterances, {len(set(speakers))} speakers"
    result = {"head": shown(f"head against CREPE, {title}", score_pitch(by_head, blocks=speakers))}
    result["teacher"] = shown("CREPE against pYIN", score_pitch(by_teacher, blocks=speakers))
    # CREPE's labels hold no frequency where it hears no voice: its agreement is of the frames voiced in both.
    agreement = result["teacher"]["rpa"][0] / result["teacher"]["recall"][0]
    ratio = result["head"]["rpa"][0] / agreement
    print(f"the teachers agree on {percent(agreement)} % of what both call voiced")
    print(f"RPA of the head / that agreement: {ratio:.3f}")
    return result | {"agreement": agreement, "ratio": ratio}


def phonemes(recognizer: Recognizer, data: Path) -> dict[str, Any]:
    """Errors by language, and how well the head judges texts."""
    return phoneme_errors(recognizer, data) | made_up(recognizer, data)


@torch.inference_mode()
def phoneme_errors(recognizer: Recognizer, data: Path) -> dict[str, Any]:
    """Errors of the best path against the pronunciations of the texts, by language."""
    head = recognizer.model.head("phonemes")
    assert isinstance(head, UnitCTC)
    trained = set(Table.open(part_path(data, "train")).read("speaker"))
    rows: dict[str, list[tuple[ErrorStats, str]]] = defaultdict(list)
    for batch in test_batches(recognizer, data):
        encoded = recognizer.model.encode_audio(batch.audio, batch.audio_lens, hidden=recognizer.model.hidden)
        for i, said in enumerate(head.decode(encoded)):
            true = [head.cfg.units[number] for number in head.ids(batch.labels["phonemes"][i] or "")]
            speaker = batch.labels["speaker"][i] or ""
            row = (count_errors([" ".join(true)], [" ".join(said)], str.split), speaker)
            rows[recognizer.model.cfg.languages[int(batch.langs[i])]].append(row)
            rows["speakers of training" if (speaker,) in trained else "unseen speakers"].append(row)
            rows["all"].append(row)
    lines, result = [["phoneme errors %", "utterances", "speakers", "rate", "interval"]], {}
    for name, own in rows.items():
        stats, speakers = pool([row[0] for row in own]), [row[1] for row in own]
        bounds = interval(stats, blocks=speakers)
        result[name] = [stats.rate, bounds.low, bounds.high]
        lines.append([name, str(len(own)), str(len(set(speakers))), percent(stats.rate), span(bounds)])
    print("\n".join(columns(lines)))
    return result


@torch.inference_mode()
def punctuation(recognizer: Recognizer, data: Path) -> dict[str, Any]:
    """F1 by mark and language, over all words and without the last of each utterance, whose mark is easy."""
    head = recognizer.model.head("punctuation")
    assert isinstance(head, PunctuationHead)
    counts: dict[str, list[tuple[NDArray[np.int64], str]]] = defaultdict(list)
    cases: list[tuple[NDArray[np.int64], str]] = []
    for batch in test_batches(recognizer, data):
        encoded = recognizer.model.encode_audio(batch.audio, batch.audio_lens)
        rows, true_marks, true_cases = head.targets(batch)
        for i, said in enumerate(head.write(encoded, rows)):
            true = ["" if n < 1 else head.cfg.marks[n - 1] for n in true_marks[i, : len(said)].tolist()]
            marks, speaker = [mark for mark, _ in said], batch.labels["speaker"][i] or ""
            for place, size in (("all words", len(true)), ("inside", len(true) - 1)):
                row = mark_counts(true[:size], marks[:size], head.cfg.marks), speaker
                counts[place].append(row)
                counts[f"{place} {recognizer.model.cfg.languages[int(batch.langs[i])]}"].append(row)
            cased = [(a, b[1]) for a, b in zip(true_cases[i].tolist(), said, strict=False) if a >= 0]
            names = [str(n) for n in range(3)]
            own = mark_counts([str(a) for a, _ in cased], [str(b) for _, b in cased], names)
            cases.append((own[1:], speaker))  # capitals, and words in capitals
    result = {}
    for place, rows_of in (counts | {"case": cases}).items():
        tables, speakers = [table for table, _ in rows_of], [speaker for _, speaker in rows_of]
        totals = np.sum(tables, 0)[:, :2].sum(1)
        shown_names = ("capital", "upper") if place == "case" else head.cfg.marks
        measures = {
            f"F1 of {name}": score_events([table[[n]] for table in tables], blocks=speakers)["f1"]
            for n, name in enumerate(shown_names) if totals[n]
        }  # fmt: skip
        if totals.any():
            pooled = score_events(tables, blocks=speakers)
            measures |= {"F1": pooled["f1"], "macro": pooled["macro_f1"]}
            result[place] = shown(f"{place}, {totals.sum()} marks", measures)
    return result


@torch.inference_mode()
def made_up(recognizer: Recognizer, data: Path) -> dict[str, Any]:
    """AUC of each sign and of the suspicion, on texts that were said against those that were not."""
    heads = {n: h for n, h in recognizer.model.named_heads().items() if n not in recognizer.model.untrained}
    return {name: made_up_by(name, recognizer, data) for name, head in heads.items() if head.ctc_over}


def made_up_by(head: str, recognizer: Recognizer, data: Path) -> dict[str, Any]:
    """The same with one head as the judge."""
    model, check = recognizer.model, HallucinationCheck(recognizer.model, HallucinationConfig(head=head))
    print(f"judged by {head}:")
    clips: list[tuple[Tensor, Hypothesis, int]] = []
    decoder = recognizer.make_method(recognizer.choose_method()) if model.cfg.text_heads else None
    for batch in test_batches(recognizer, data):
        for i in range(batch.size):
            audio = batch.audio[i, : batch.audio_lens[i]]
            tokens = batch.tokens[i, : batch.token_lens[i]].tolist()
            lang = int(batch.langs[i])
            text, code = recognizer.tokenizer.decode(tokens), model.cfg.languages[lang]
            clips.append((audio, Hypothesis(tokens=tokens, text=text, language=code), lang))
    rng = random.Random(1)
    kinds = ("said", "recognised", "other", *KINDS)
    verdicts: dict[str, list[TextVerdict]] = {name: [] for name in kinds}

    def judge(kind: str, audio: Tensor, hyp: Hypothesis | None, lang: int) -> None:
        langs, lens = torch.tensor([lang]), torch.tensor([len(audio)])
        encoded, seconds = model.encode_audio(audio[None], lens), len(audio) / recognizer.sample_rate
        if hyp is None and decoder is None:
            return
        if hyp is None:
            assert decoder is not None
            (hyp,) = recognizer.with_text(decoder(encoded, langs), method=decoder.cfg.kind, seconds=[seconds])
        if hyp.text:
            spans = speech_spans(audio, recognizer.sample_rate, speech_defaults())
            speech = sum(s.duration for s in spans) / seconds
            verdicts[kind].append(check(hyp, encoded, speech=speech, seconds=seconds, langs=langs))

    for audio, hyp, lang in clips:
        judge("said", audio, hyp, lang)
        judge("recognised", audio, None, lang)
        others = [o for _, o, code in clips if code == lang and o.text != hyp.text]
        if others:
            judge("other", audio, rng.choice(others), lang)
    invented = dict.fromkeys(KINDS, 0)
    voices = [audio for audio, *_ in clips]
    for kind, audio in sounds(recognizer.sample_rate, np.random.default_rng(1), voices):
        _, hyp, lang = rng.choice(clips)
        before = len(verdicts[kind])
        judge(kind, audio, None, lang)
        invented[kind] += len(verdicts[kind]) - before
        judge(kind, audio, hyp, lang)
    print(f"texts that the model made of {COUNT} sounds of each kind: {invented}")
    return _aucs(verdicts) | {"invented": invented}


def _aucs(verdicts: dict[str, list[TextVerdict]]) -> dict[str, Any]:
    signs = {
        "likelihood": lambda v: v.nats, "speech": lambda v: -v.speech, "suspicion": lambda v: v.suspicion,
    }  # fmt: skip
    good = verdicts["said"] + verdicts["recognised"]
    lines, result = [["AUC", "texts", *signs, "called made up %"]], {}
    for kind in ("other", *KINDS):
        cells = []
        for name, sign in signs.items():
            low, high = [sign(v) for v in good], [sign(v) for v in verdicts[kind]]
            bounds = auc_interval(low, high)
            result[f"{kind} {name}"] = [roc_auc(low, high), bounds.low, bounds.high]
            cells.append(f"{roc_auc(low, high):.3f} [{bounds.low:.3f}, {bounds.high:.3f}]")
        share = np.mean([v.made_up for v in verdicts[kind]]) if verdicts[kind] else float("nan")
        lines.append([kind, str(len(verdicts[kind])), *cells, f"{100 * share:.1f}"])
    for kind in ("said", "recognised"):
        share = 100 * np.mean([v.made_up for v in verdicts[kind]])
        lines.append([kind, str(len(verdicts[kind])), "", "", "", f"{share:.1f}"])
    print("\n".join(columns(lines)))
    return result


def main(argv: Sequence[str] | None = None) -> None:
    tasks = {
        "language": language,
        "words": words,
        "pitch": pitch,
        "phonemes": phonemes,
        "punctuation": punctuation,
        "recognised": recognised,
        "made-up": made_up,
    }
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(
        prog="python -m egs.heads.evaluate", description=about, allow_abbrev=False
    )
    parser.add_argument("task", choices=tasks)
    parser.add_argument("run", type=Path, help="run folder or checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="prepared data with the test set")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args(argv)
    try:
        result = tasks[args.task](maya.load(args.run), args.data)
    except MayaError as error:
        sys.exit(f"error: {error}")
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
