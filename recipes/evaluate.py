"""`maya evaluate`: a finished model on a list of utterances, or on some files, without preparing anything."""

import argparse
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lhotse import CutSet

import maya
from maya.data.corpus.folder import read_corpus
from maya.data.corpus.manifest import ReadOptions, Row, parse_object, read_lines, read_manifest
from maya.data.corpus.metadata import read_metadata_csv, read_metadata_jsonl
from maya.data.corpus.nemo import is_nemo, read_nemo
from maya.data.measure.entry import Entry
from maya.data.measure.probe import ProbeConfig, probe
from maya.data.table.cuts import entry_cut
from maya.decode.base import Method
from maya.decode.methods import AUTO
from maya.decode.recognizer import Recognizer
from maya.decode.table import decode_table
from maya.errors import MayaError
from maya.recipes.arguments import add_checkpoint, add_device, add_json, add_list, add_num_samples
from maya.recipes.decode import make_method
from maya.recipes.evaluation.conditions import add_conditions, evaluate_conditions, in_conditions
from maya.recipes.evaluation.decoding import scored, with_snr
from maya.recipes.evaluation.options import (
    ScoringOptions,
    add_measures,
    add_normalizer,
    list_language,
    measure_options,
    scoring_options,
)
from maya.recipes.experiment import DecodeConfig
from maya.recipes.experiment_file import import_recorded
from maya.recipes.fusion_options import add_fusion, fusion_config
from maya.recipes.transcribe import TranscribeOptions, transcribe
from maya.recipes.transcribe_method import SearchOptions
from maya.score.measures.summary import measure, measures_result, measures_table
from maya.score.report import GroupScore, Report, make_report, percent, span, table, write_result
from maya.score.samples import sample_table
from maya.text.languages import language_among, language_code


def arguments(p: argparse.ArgumentParser) -> None:
    add_checkpoint(p)
    add_list(p, "audio", type=Path, help="audio files, instead of --manifest")
    text = "JSON lines (Maya, NeMo, metadata.jsonl), .csv, or a folder"
    p.add_argument("--manifest", type=Path, help=text)
    p.add_argument("--reference", nargs="+", metavar="TEXT", help="the transcript of each audio file")
    text = "auto (the default: the best trained head on dev), ctc, modified_beam ...; see decode.method"
    p.add_argument("--method", default=AUTO, help=text)
    text = "language code for utterances without one in the manifest; auto: identify it"
    p.add_argument("--language", help=text)
    add_normalizer(p)
    add_measures(p)
    add_conditions(p)
    add_fusion(p)
    add_num_samples(p)
    add_json(p, "write all results as JSON, too")
    add_device(p)


def run(args: argparse.Namespace) -> None:
    import_recorded(args.checkpoint, args.experiment)
    source = Source(audio=args.audio, manifest=args.manifest, references=args.reference or [])
    if in_conditions(args):
        _refuse_unused(args)
        evaluate_conditions(args, None if source.is_empty else source.entries)
        return
    if args.context is not None:
        raise MayaError("--context belongs to --stream, --noise and --non-speech: leave it out")
    evaluate(
        args.checkpoint, source, decode=DecodeConfig(method=args.method, fusion=fusion_config(args)),
        language=args.language, num_samples=args.num_samples, json_file=args.json, device=args.device,
        scoring=scoring_options(args),
    )  # fmt: skip


def _refuse_unused(args: argparse.Namespace) -> None:
    """MayaError for options that --noise, --non-speech and --stream do not read."""
    options = ("lm", "hotwords", "groups", "hot_words", "training_texts", "rare_below", "num_samples")
    given = [f"--{name.replace('_', '-')}" for name in options if getattr(args, name, None)]
    if given:
        raise MayaError(
            f"{' and '.join(given)} do nothing with --noise, --non-speech or --stream: leave them out"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The utterances to evaluate: `audio` files with their `references`, or a `manifest`.

    manifest: JSON lines (Maya's manifest.jsonl, NeMo's, Hugging Face's metadata.jsonl), a CSV file, or a
    corpus folder in any form that `maya prepare` reads.
    """

    audio: list[Path]
    manifest: Path | None = None
    references: list[str] = field(default_factory=list)

    def entries(self, language: str | None) -> list[Entry]:
        """All utterances, in normal form; `language` is that of utterances without one. Raises MayaError for
        an utterance that cannot be evaluated; none is left out."""
        if self.manifest is None:
            return _entries(Path(), _files(self.audio, self.references, language), Path("the list of files"))
        folder = self.manifest if self.manifest.is_dir() else self.manifest.parent
        return _entries(folder, read_rows(self.manifest, language), self.manifest)

    @property
    def is_empty(self) -> bool:
        """Whether it names no audio at all."""
        return self.manifest is None and not self.audio

    def facts(self) -> dict[str, Any]:
        """Where the utterances come from, for a program."""
        return {"audio": list(map(str, self.audio))} if self.audio else {"manifest": str(self.manifest)}


def evaluate(
    checkpoint: Path,
    source: Source,
    *,
    decode: DecodeConfig | None = None,
    language: str | None = None,
    num_samples: int = 0,
    json_file: Path | None = None,
    device: str = "auto",
    scoring: ScoringOptions | None = None,
) -> Report | None:
    """Transcribe and score a source, and print error rates; audio without references is only transcribed.

    decode: the method, language models and hot words; its `language` is not read. language: of utterances
    without one; "auto" lets the model identify each. Without it, a model of a single language decodes in
    that. num_samples: utterances to show. json_file: all results, for programs. scoring: normal form and
    further measures. Raises MayaError for an utterance that cannot be evaluated, and for a method whose head
    the model lacks or that was never trained.
    """
    cfg = DecodeConfig() if decode is None else replace(decode)
    if (source.manifest is None) == (not source.audio):
        raise MayaError("name what to evaluate once: audio files, or --manifest FILE")
    if source.manifest is not None and source.references:
        raise MayaError("--reference belongs to audio files; a manifest has its own texts: leave it out")
    if source.manifest is None and not source.references:
        if cfg.fusion.lm or cfg.fusion.hotwords:
            raise MayaError("--lm and --hotwords are evaluated: give --reference the text of each file")
        if num_samples or json_file is not None:
            raise MayaError("--json and --num-samples show errors: give --reference the text of each file")
        options = TranscribeOptions(language=language, search=SearchOptions(method=cfg.method), device=device)
        if transcribe(checkpoint, source.audio, options):
            raise MayaError("some of the files were not transcribed, see above")
        return None
    scoring = scoring or ScoringOptions()
    recognizer = maya.load(checkpoint, device)
    cfg.language = "auto" if language == "auto" else "known"
    decoder, facts = make_method(cfg, recognizer, None)
    if decoder is None:
        raise MayaError(f"{checkpoint} has no text head to evaluate; `maya score` scores predicted labels")
    languages = recognizer.model.cfg.languages
    default = language_code(language_among(language, languages)) if language not in (None, "auto") else None
    entries = source.entries(default or (languages[0] if len(languages) == 1 else None))
    began = time.perf_counter()
    texts = _texts(recognizer, entries, decoder, cfg)
    facts |= {"seconds": time.perf_counter() - began, "audio_seconds": sum(e.duration for e in entries)}
    with_groups = with_snr(entries) if scoring.groups else entries
    report = make_report(scored(with_groups, [texts[e.id] for e in entries], scoring.normalizer))
    of_lists = list_language(entry.language for entry in entries)
    measures = measure(report, measure_options(scoring, of_lists))
    _show(report, facts, num_samples)
    print("\n" + measures_table(measures, groups=scoring.groups))
    if json_file is not None:
        facts |= {"checkpoint": str(checkpoint), **source.facts(), "utterances": _rows(report, texts)}
        facts["measures"] = measures_result(measures)
        write_result(report, json_file, facts)
    return report


def _show(report: Report, facts: dict[str, Any], num_samples: int) -> None:
    """Print the scores, the method and the speed, and `num_samples` utterances."""
    audio_seconds, seconds = facts["audio_seconds"], facts["seconds"]
    print(table(report))
    print(_rates(report.pooled))
    print(f"decoded by {facts['method']} ({facts['method_reason']})")
    amount = f"{audio_seconds / 3600:.2f} h decoded in {seconds:.1f} s"
    print(f"real-time factor {seconds / audio_seconds:.4f} ({amount})")
    if num_samples:
        print("\n" + sample_table(report, num_samples))


def read_rows(manifest: Path, language: str | None) -> list[Row]:
    """The utterances that a file or a folder names; `language` is that of utterances without one."""
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
        return read_metadata_csv(manifest, ReadOptions(language=language))
    if is_nemo(manifest):
        return read_nemo([manifest], ReadOptions(language=language))
    first = next((line for line in read_lines(manifest) if line.strip()), "{}")
    try:
        fields = parse_object(first)
    except ValueError as error:
        raise MayaError(f"{manifest}:1: {error}; a manifest holds a JSON object a line") from None
    if {"id", "language", "text", "audio"} <= fields.keys():
        return read_manifest(manifest)
    return read_metadata_jsonl(manifest, ReadOptions(language=language))


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
    """The entries of all rows: headers are read, texts brought into normal form."""
    anything = ProbeConfig(
        decode=False, min_seconds=0.0, max_seconds=float("inf"), max_chars_per_second=float("inf")
    )
    entries, dropped = probe(folder, rows, anything)
    if dropped:
        first = dropped[0]
        raise MayaError(
            f"{source}: {len(dropped)} of {len(rows)} utterances cannot be evaluated, the first of them "
            f"{first.id!r} ({first.where}): {first.detail}; correct or remove them"
        )
    return entries


def _texts(recognizer: Recognizer, entries: list[Entry], method: Method, cfg: DecodeConfig) -> dict[str, str]:
    """The text of each utterance by its id."""
    cuts = CutSet.from_cuts(map(entry_cut, entries))
    rows = decode_table(recognizer, cuts, method, language=cfg.language, max_seconds=cfg.max_seconds)
    return {row.id: row.hypothesis.text for row in rows if row.hypothesis is not None}


def _rates(score: GroupScore) -> str:
    words, characters = score.words, score.characters
    return (
        f"all utterances: WER {percent(words.rate)} % {span(score.wer_interval)}, "
        f"CER {percent(characters.rate)} % {span(score.cer_interval)}"
    )


def _rows(report: Report, texts: dict[str, str]) -> list[dict[str, Any]]:
    """Reference and hypothesis of each utterance; `text` is the hypothesis as it was decoded."""
    pooled = report.pooled
    counts = zip(pooled.words.utterance_errors, pooled.words.utterance_ref_lengths, strict=True)
    return [
        {"id": u.id, "language": u.language, "ref": u.ref, "hyp": u.hyp, "text": texts[u.id],
         "errors": int(errors), "words": int(words), "duration": u.seconds, "speaker": u.speaker,
         "snr": u.snr}
        for u, (errors, words) in zip(report.utterances, counts, strict=True)
    ]  # fmt: skip
