"""Corpora and simulated meetings for diarization.

    python -m egs.diarization.data voices --source .../corpora --out exp/diarization/voices/corpus
    python -m egs.diarization.data meetings --data exp/diarization/voices/data --speakers 2 --out SETS/test2

voices: the recordings of people in indic12, and those of digits, six of which are joined into one. Every
third speaker of a language with several is held out: a quarter of them for dev, the others for the test. The
label `turns` of a recording is the speech that the voice detector finds in it alone.
meetings: of any prepared data, as files: audio, ref.rttm, ref.stm with the words, and manifest.jsonl.
Speakers that are in the training data are left out. --set sets options of `maya.data.loading.meetings`.
"""

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from egs.heads.data import read_rows
from egs.separation.evaluate import unseen_rows
from egs.speakers.data import held_out, joined_digits, write_manifest
from maya.audio.load import load_audio
from maya.audio.vad import VADConfig, speech_spans
from maya.config import override
from maya.data.loading.meetings import TURNS, MeetingConfig, MeetingMixer
from maya.data.table.spans import label_of
from maya.data.table.table import Table
from maya.data.table.utterances import Utterances
from maya.errors import MayaError
from maya.files import writing
from maya.recipes.arguments import COUNT, POSITIVE
from maya.recipes.corpus_writer import SAMPLE_RATE
from maya.score.files.transcript import TranscriptRow
from maya.score.files.writing import write_transcripts
from maya.text.characters import CharacterTokenizer

_SHORTEST, _LONGEST = 1.0, 12.0
_SPEAKER_SECONDS = 240.0  # of each speaker for training
_FILES = 16  # of each speaker for dev and test
_PAUSE = 0.3  # seconds; a shorter one does not divide speech, as in SpeakersConfig


def voices(args: argparse.Namespace) -> None:
    rng, vad = random.Random(args.seed), VADConfig(min_silence_seconds=_PAUSE)
    digits = joined_digits(args.source / "digits", args.out / "digits", rng)
    rows = [row | {"id": Path(row["audio"]).stem, "text": "speech"} for row in digits]
    # Those of Gujarati digits are in both corpora.
    rows += [row for row in read_rows(args.source / "indic12") if not row["speaker"].startswith("fsgdd:")]
    by_speaker: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if _SHORTEST <= row.get("duration", _LONGEST) <= _LONGEST:
            by_speaker[row["speaker"]].append(row)
    unseen = sorted(held_out(by_speaker, rng))
    dev = {name for place, name in enumerate(unseen) if place % 4 == 0}
    chosen: list[dict[str, Any]] = []
    for speaker in sorted(by_speaker):
        split = "train" if speaker not in unseen else "dev" if speaker in dev else "test"
        chosen += _of_speaker(by_speaker[speaker], split, rng, vad)
    write_manifest(chosen, args.out)


def _of_speaker(
    rows: Sequence[dict[str, Any]], split: str, rng: random.Random, vad: VADConfig
) -> Iterator[dict[str, Any]]:
    """Rows of a speaker with their split and label; recordings without speech are left out."""
    seconds, count = 0.0, 0
    for row in rng.sample(rows, len(rows)):
        if seconds >= _SPEAKER_SECONDS or (split != "train" and count >= _FILES):
            return
        audio = load_audio(row["audio"], SAMPLE_RATE)
        spans = speech_spans(audio, SAMPLE_RATE, vad)
        if spans:
            seconds, count = seconds + len(audio) / SAMPLE_RATE, count + 1
            label = label_of(("speech", span.start, span.end) for span in spans)
            yield {k: v for k, v in row.items() if k != "duration"} | {
                "split": split,
                "labels": {TURNS: label},
            }


def meetings(args: argparse.Namespace) -> None:
    cfg = MeetingConfig(speakers=(args.speakers, args.speakers), seed=args.seed)
    for assignment in args.overrides:
        override(cfg, assignment)
    table, rows = unseen_rows(args.data, args.part)
    utterances, mixer = mixer_of(cfg, table, rows)
    entries = list(table.entries(rows.tolist()))

    def read(item: int) -> Any:
        return utterances.source.load_audio(item, SAMPLE_RATE)

    turns: list[TranscriptRow] = []
    words: list[TranscriptRow] = []
    manifest = []
    (args.out / "audio").mkdir(parents=True, exist_ok=True)
    for number, item in enumerate(first_items(mixer, args.count, args.seed)):
        made, name = mixer.meeting(item, read(item), 0, read), f"m{number:03d}"
        for turn in made.turns:
            own: dict[str, Any] = {"id": "", "recording": name, "speaker": f"s{turn.speaker}"}
            turns += [TranscriptRow(**own, text="", start=a, end=b) for a, b in turn.spans]
            words.append(TranscriptRow(**own, text=entries[turn.item].text, start=turn.start, end=turn.end))
        with writing(args.out / "audio" / f"{name}.wav") as partial:
            soundfile.write(partial, made.audio.numpy(), SAMPLE_RATE, format="WAV", subtype="PCM_16")
        manifest.append({"id": name, "audio": f"audio/{name}.wav", "language": entries[item].language})
    write_transcripts(turns, args.out / "ref.rttm", "rttm", {})
    write_transcripts(words, args.out / "ref.stm", "stm", {})
    with writing(args.out / "manifest.jsonl") as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in manifest), encoding="utf-8")
    print(f"{args.out}: {len(manifest)} meetings of {args.speakers} speakers")


def mixer_of(cfg: MeetingConfig, table: Table, rows: np.ndarray) -> tuple[Utterances, MeetingMixer]:
    """The utterances of these rows, and what makes meetings of them."""
    entries = list(table.entries(rows.tolist()))
    letters = CharacterTokenizer(sorted({letter for entry in entries for letter in entry.text} | {" "}))
    languages = sorted({entry.language for entry in entries})
    utterances = Utterances.from_table(table, letters, languages, rows)
    return utterances, MeetingMixer(cfg, utterances, SAMPLE_RATE)


def first_items(mixer: MeetingMixer, count: int, seed: int) -> list[int]:
    """The utterances that begin so many meetings: of one speaker after the other, whose language has enough
    speakers for a meeting. Raises MayaError where no language has."""
    rng, most = random.Random(seed), mixer.cfg.speakers[1]
    languages = list(mixer.languages.values())
    voices = [v for v in sorted(mixer.own) if languages.count(mixer.languages[v]) >= most]
    if not voices:
        raise MayaError(f"no language has {most} speakers that are not in the training data")
    rng.shuffle(voices)
    orders = {voice: rng.sample(list(mixer.own[voice]), len(mixer.own[voice])) for voice in voices}
    rounds = [voices[place % len(voices)] for place in range(count)]
    return [int(orders[v][(place // len(voices)) % len(orders[v])]) for place, v in enumerate(rounds)]


def main(argv: Sequence[str] | None = None) -> None:
    tasks = {"voices": voices, "meetings": meetings}
    parser = argparse.ArgumentParser(
        prog="python -m egs.diarization.data", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("task", choices=tasks)
    add("--source", type=Path, help="for voices: the folder of the recordings")
    add("--data", type=Path, help="for meetings: prepared data")
    add("--part", default="test", choices=("dev", "test"), help="for meetings: of the data; default: test")
    add("--speakers", type=POSITIVE, default=2, help="for meetings: in each of them; default: 2")
    add("--count", type=POSITIVE, default=24, help="for meetings: how many; default: 24")
    add("--set", action="append", default=[], dest="overrides", metavar="NAME=VALUE",
        help="for meetings: an option of MeetingConfig, such as overlap=0.2")  # fmt: skip
    add("--out", type=Path, required=True, help="folder to make")
    add("--seed", type=COUNT, default=1, help="another seed gives other speakers to the test; other meetings")
    args = parser.parse_args(argv)
    if (args.source if args.task == "voices" else args.data) is None:
        parser.error(f"{args.task} needs {'--source' if args.task == 'voices' else '--data'}")
    try:
        tasks[args.task](args)
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
