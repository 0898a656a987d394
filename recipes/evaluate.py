"""`maya evaluate`: a finished model on a list of utterances, or on some files, without preparing anything."""

import time
from pathlib import Path
from typing import Any, cast, get_args

import torch
from lhotse import CutSet

import maya
from maya.data.corpus.folder import read_corpus
from maya.data.corpus.manifest import Row, parse_object, read_lines, read_manifest
from maya.data.corpus.metadata import read_metadata_csv, read_metadata_jsonl
from maya.data.corpus.nemo import is_nemo, read_nemo
from maya.data.loading.loader import EvalLoader
from maya.data.measure.entry import Entry
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.table.cuts import entry_cut
from maya.decode.recognizer import Method, Recognizer, identify_languages
from maya.errors import MayaError
from maya.recipes.experiment import DecodeConfig
from maya.recipes.score import normal_form
from maya.recipes.search import choose_method, make_search
from maya.recipes.transcribe import transcribe
from maya.score.report import GroupScore, Report, Utterance, make_report, percent, span, table, write_result
from maya.score.samples import sample_table
from maya.text.languages import language_among, language_code

METHODS: tuple[str, ...] = get_args(DecodeConfig.__annotations__["method"])


def evaluate(
    checkpoint: Path,
    audio: list[Path],
    *,
    manifest: Path | None = None,
    references: list[str] | None = None,
    method: str = "auto",
    language: str | None = None,
    num_samples: int = 0,
    json_file: Path | None = None,
    device: str = "auto",
) -> Report | None:
    """Transcribe and score `manifest`, or `audio` against `references`, and print error rates; `audio` alone
    is transcribed.

    manifest: JSON lines (Maya's manifest.jsonl, NeMo's, Hugging Face's metadata.jsonl), a CSV file, or a
    corpus folder in any form that `maya prepare` reads. language: of utterances of which it does not tell;
    "auto" lets the model identify each. Without one, a model of a single language decodes in it.
    method: one of decode.method; "auto" takes the best on dev of the model's trained heads. num_samples:
    utterances to show. json_file: everything, for programs. Raises MayaError for an utterance that cannot be
    evaluated (none is left out), and for a method whose head the model lacks or that was never trained.
    """
    if (manifest is None) == (not audio):
        raise MayaError("name what to evaluate once: audio files, or --manifest FILE")
    if manifest is None and not references:
        if method not in get_args(Method):
            greedy = ", ".join(get_args(Method))
            raise MayaError(f"files without --reference are transcribed by one of {greedy}, not {method}")
        head = cast(Method, method)
        transcribe(checkpoint, audio, language=language, method=head, output="text", device=device)
        return None
    recognizer = maya.load(checkpoint, device)
    method, reason = choose_method(method, recognizer)
    known = recognizer.model.cfg.languages
    default = language_code(language_among(language, known)) if language not in (None, "auto") else None
    default = default or (known[0] if len(known) == 1 else None)
    if manifest is not None:
        folder, rows = manifest if manifest.is_dir() else manifest.parent, read_rows(manifest, default)
    else:
        folder, rows = Path(), _files(audio, references or [], default)
    entries = _entries(folder, rows, manifest or Path("the list of files"))
    began = time.perf_counter()
    texts = _texts(recognizer, entries, method, language == "auto")
    spent, seconds = time.perf_counter() - began, sum(e.duration for e in entries)
    report = make_report(
        Utterance(id=e.id, language=e.language, ref=e.text, hyp=normal_form(texts[e.id], e.language),
                  seconds=e.duration, speaker=e.speaker) for e in entries
    )  # fmt: skip
    print(table(report))
    print(_rates(report.pooled))
    print(f"decoded by {method} ({reason})")
    print(f"real-time factor {spent / seconds:.4f} ({seconds / 3600:.2f} h decoded in {spent:.1f} s)")
    if num_samples:
        print("\n" + sample_table(report, num_samples))
    if json_file is not None:
        source = {"manifest": str(manifest)} if manifest is not None else {"audio": [str(a) for a in audio]}
        facts = {"checkpoint": str(checkpoint), **source, "method": method, "audio_seconds": seconds}
        facts |= {"method_reason": reason}
        write_result(report, json_file, facts | {"seconds": spent, "utterances": _rows(report, texts)})
    return report


def read_rows(manifest: Path, language: str | None) -> list[Row]:
    """The utterances that a file or a folder names; `language` is of those of which it does not tell."""
    if manifest.is_dir():
        notes: list[str] = []
        rows, dropped = read_corpus(manifest, language, notes=notes)
        if dropped:
            print(f"{manifest}: {len(dropped)} files are no utterances, the first: {dropped[0].detail}")
        for note in notes:
            print(note)
        return rows
    if not manifest.is_file():
        raise MayaError(
            f"there is no manifest {manifest}: give a file of JSON lines, a .csv file or a folder"
        )
    if manifest.suffix.lower() in (".csv", ".tsv"):
        return read_metadata_csv(manifest, language)
    if is_nemo(manifest):
        return read_nemo([manifest], language)
    first = next((line for line in read_lines(manifest) if line.strip()), "{}")
    try:
        given = parse_object(first)
    except ValueError as error:
        raise MayaError(f"{manifest}:1: {error}; a manifest holds a JSON object a line") from None
    if {"id", "language", "text", "audio"} <= given.keys():
        return read_manifest(manifest)
    return read_metadata_jsonl(manifest, language)


def _files(audio: list[Path], references: list[str], language: str | None) -> list[Row]:
    if len(audio) != len(references):
        raise MayaError(f"{len(audio)} audio files and {len(references)} references: give one for each file")
    if language is None:
        raise MayaError("say with --language what is spoken, such as --language en, to score against it")
    paired = zip(audio, references, strict=True)
    return [
        Row(id=str(a), language=language, text=r, audio=str(a.resolve()), where=str(a)) for a, r in paired
    ]


def _entries(folder: Path, rows: list[Row], source: Path) -> list[Entry]:
    """What the rows stand for, all of them: headers are read, texts brought into normal form."""
    anything = ProbeConfig(
        decode=False, min_seconds=0.0, max_seconds=float("inf"), max_chars_per_second=float("inf")
    )
    found, dropped = probe(folder, rows, anything)
    if dropped:
        one = dropped[0]
        raise MayaError(
            f"{source}: {len(dropped)} of {len(rows)} utterances cannot be evaluated, the first of them "
            f"{one.id!r} ({one.where}): {one.detail}; mend them, or take them out"
        )
    return found


def _texts(recognizer: Recognizer, entries: list[Entry], method: str, identify: bool) -> dict[str, str]:
    """The text of each utterance by its id."""
    model, languages = recognizer.model, recognizer.model.cfg.languages
    cfg: Any = DecodeConfig(method=method, lm_order=0)  # type: ignore[arg-type]
    search = make_search(cfg, Path(), recognizer)
    cuts = CutSet.from_cuts(entry_cut(e) for e in entries)
    loader = EvalLoader(cuts, recognizer.tokenizer, languages, sample_rate=recognizer.sample_rate,
                        max_seconds=cfg.max_seconds)  # fmt: skip
    found: dict[str, str] = {}
    with torch.inference_mode():
        for batch in loader:
            batch = batch.to(recognizer.device)
            heard, lens = model.listen(batch.audio, batch.audio_lens)
            langs = identify_languages(model, heard, lens)[0] if identify else batch.langs
            codes = [languages[i] if i >= 0 else "" for i in langs.tolist()]
            hyps = recognizer.with_text(search(model.with_language(heard, langs), lens, codes))
            found |= {name: hyp.text for name, hyp in zip(batch.ids, hyps, strict=True)}
    return found


def _rates(score: GroupScore) -> str:
    words, characters = score.words, score.characters
    return (
        f"all utterances: WER {percent(words.rate)} % {span(score.wer_interval)}, "
        f"CER {percent(characters.rate)} % {span(score.cer_interval)}"
    )


def _rows(report: Report, texts: dict[str, str]) -> list[dict[str, Any]]:
    """What was said and understood, utterance by utterance; `text` is the hypothesis as it was decoded."""
    pooled = report.pooled
    counts = zip(pooled.words.utterance_errors, pooled.words.utterance_ref_lengths, strict=True)
    return [
        {"id": u.id, "language": u.language, "ref": u.ref, "hyp": u.hyp, "text": texts[u.id],
         "errors": int(errors), "words": int(words)}
        for u, (errors, words) in zip(report.utterances, counts, strict=True)
    ]  # fmt: skip
