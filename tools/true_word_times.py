"""Word times of a model beside the true ones: in the built-in corpus, where eSpeak NG reports them, and in
strings of recorded digits.

    python tools/true_word_times.py exp/indic12/mini/mini --data exp/indic12/mini/data
    python tools/true_word_times.py exp/digits/digits/digits --data exp/digits/digits/data --digits DIR

eSpeak's events give the sample at which each word begins; a word ends where the next begins, and the last at
the closing pause. Of utterances that are decoded without an error the tool prints, in ms, the mean
difference and the median and 95 % of the absolute differences of starts and ends, by frames and measured on
the sound, and the same of forced alignment. It serves models that were trained on the corpora as the scripts
of egs make them by default."""

import argparse
import ctypes
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from maya.audio import espeak
from maya.text.espeak import ESPEAK_RATE

_WORD, _PHONEME = 1, 7
_PHONEME_EVENTS = 1  # espeakINITIALIZE_PHONEME_EVENTS
_SIZES = {"train": 270, "dev": 24, "test": 24}


class Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", ctypes.c_char * 8),
    )  # fmt: skip


def true_times(split: str) -> dict[str, list[tuple[float, float]]]:
    """By utterance the start and end of each word in seconds. Without torch, whose threads do not survive the
    forks of eSpeak."""
    from egs.indic12.data import plan_language  # noqa: PLC0415
    from egs.indic12.words import LANGUAGES, words  # noqa: PLC0415

    library = espeak.library()
    import espeakng_loader  # noqa: PLC0415

    library.espeak_Initialize(2, 0, os.fsencode(espeakng_loader.get_data_path()), _PHONEME_EVENTS)
    times = {}
    for language in LANGUAGES:
        for item in plan_language(language, words(language, 40), _SIZES, 1):
            if item["split"] == split:
                times[item["id"]] = _of_item(library, item)
    return times


def true_digit_times(split: str, source: Path) -> dict[str, list[tuple[float, float]]]:
    """The same of the strings that `egs.digits.data` joins from recordings of one digit each: a digit begins
    and ends where its own recording comes within 35 dB of its loudest 10 ms."""
    from egs.digits.data import plan_language, read_digit, read_source  # noqa: PLC0415

    recordings = {row["id"]: row for row in read_source(source)}
    times = {}
    for language in sorted({row["language"] for row in recordings.values()}):
        own = [row for row in recordings.values() if row["language"] == language]
        for item in plan_language(language, own, {"train": 2400, "heldout": 200}, 1):
            if item["split"] != split:
                continue
            at, spans = item["silences"][0], []
            for name, silence in zip(item["recordings"], item["silences"][1:], strict=True):
                digit = read_digit(source, recordings[name])
                begin, end = _loud(digit)
                spans.append(((at + begin) / 16000, (at + end) / 16000))
                at += len(digit) + silence
            times[item["id"]] = spans
    return times


def _loud(samples: np.ndarray) -> tuple[float, float]:
    """The middle of the first and of the last 10 ms of (n,) int16 that are loud, in samples."""
    window = min(160, len(samples))
    total = np.cumsum(np.append(0.0, samples.astype(float) ** 2))
    at = np.arange(0, max(1, len(samples) - window + 1), 40)
    levels = 10 * np.log10((total[at + window] - total[at]) / window + 1)
    loud = at[levels > levels.max() - 35]
    return float(loud[0] + window / 2), float(loud[-1] + window / 2)


def _of_item(library: Any, item: dict[str, Any]) -> list[tuple[float, float]]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with os.fdopen(writer, "w") as pipe:
            json.dump(_events(library, item), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        events = json.load(pipe)
    os.waitpid(pid, 0)
    text = espeak.precomposed(item["text"])
    places = [1, *(i + 2 for i, char in enumerate(text) if char == " ")]
    begins = {place: sample for kind, place, sample, _ in reversed(events) if kind == _WORD}
    pause = next(sample for kind, _, sample, name in reversed(events) if kind == _PHONEME and name == "_:")
    starts = [begins[place] for place in places]
    lead = item["surroundings"]["lead"]
    return [
        (lead + start / ESPEAK_RATE, lead + end / ESPEAK_RATE)
        for start, end in zip(starts, [*starts[1:], pause], strict=True)
    ]


def _events(library: Any, item: dict[str, Any]) -> list[tuple[int, int, int, str]]:
    """(type, place in the text, sample, phoneme) of all events of an utterance."""
    events: list[tuple[int, int, int, str]] = []

    def keep(wave: Any, count: int, reported: Any) -> int:
        i = 0
        while reported[i].type != 0:
            event = reported[i]
            name = event.id.decode("latin1") if event.type == _PHONEME else ""
            events.append((event.type, event.text_position, event.sample, name))
            i += 1
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
    callback = kind(keep)
    library.espeak_SetSynthCallback(callback)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    ctypes.CDLL(None).srand(1)
    library.espeak_SetVoiceByName(f"{item['language']}+{item['variant']}".encode())
    for name, value in ((1, item["rate"]), (2, 50), (3, item["pitch"]), (4, item["pitch_range"])):
        library.espeak_SetParameter(name, value, 0)
    data = espeak.precomposed(item["text"]).encode()
    library.espeak_Synth(data, len(data) + 1, 0, 1, 0, 1, None, None)
    return events


def compare(args: argparse.Namespace, truth: dict[str, list[tuple[float, float]]]) -> list[list[str]]:
    """A row for each method's decoding and forced alignment."""
    import maya  # noqa: PLC0415
    from maya.align.reference import decode_and_align  # noqa: PLC0415
    from maya.data.table.table import Table, part_path  # noqa: PLC0415
    from maya.data.table.utterances import Utterances  # noqa: PLC0415
    from maya.decode.words import WordRules  # noqa: PLC0415

    recognizer = maya.load(args.run, "cpu")
    recognizer.calibration = None
    table = Table.open(part_path(args.data, args.split))
    utterances = Utterances.from_table(table, recognizer.tokenizer, recognizer.model.cfg.languages)
    texts = {entry.id: entry.text for entry in table.entries()}
    rows = []
    for name in args.method or recognizer.trained_heads().trained:
        choice = recognizer.choose_method(name)
        method, head = recognizer.make_method(choice), choice.heads[0]
        differences: dict[str, list[tuple[float, float]]] = {}
        for row in decode_and_align(recognizer, utterances, method, head):
            if row.hypothesis.text != texts[row.id] or row.aligned is None:
                continue
            for aligned, sound in itertools.product((False, True), (False, True)):
                kind = f"{'aligned' if aligned else 'decoded'}, by {'sound' if sound else 'frames'}"
                words = row.words(recognizer.tokenizer, WordRules(), aligned=aligned, sound=sound)
                pairs = zip(words, truth[row.id], strict=True)
                own = differences.setdefault(kind, [])
                own += [(w.start - a, w.end - b) for w, (a, b) in pairs]  # type: ignore[operator]
        for kind, values in differences.items():
            cells = [_cells(1000 * np.array(values)[:, side]) for side in (0, 1)]
            rows.append([f"{name}, {kind}", str(len(values)), *cells[0], *cells[1]])
    return rows


def arrivals(args: argparse.Namespace, truth: dict[str, list[tuple[float, float]]]) -> list[list[str]]:
    """How long after its true end a word of a stream is there, in ms of audio: the first, the last and every
    word of utterances that are recognised without an error."""
    import maya  # noqa: PLC0415
    from maya.data.table.table import Table, part_path  # noqa: PLC0415
    from maya.recipes.transcribe import limit_context  # noqa: PLC0415

    recognizer = maya.load(args.run, "cpu")
    if args.context:
        limit_context(recognizer, tuple(args.context))
    entries, rows = list(Table.open(part_path(args.data, args.split)).entries()), []
    step = round(args.stream * recognizer.sample_rate)
    for head in recognizer.trained_heads().trained:
        delays: dict[str, list[float]] = {"first": [], "last": [], "any": []}
        for entry in entries:
            audio = entry.load_audio(recognizer.sample_rate)
            seen: list[int] = []
            stream = recognizer.stream(entry.language, method=head)
            for end in range(step, len(audio) + step, step):
                hyp = stream.accept(audio[end - step : end])
                seen += [min(end, len(audio))] * (len(hyp.text.split()) - len(seen))
            hyp = stream.finish()
            seen += [len(audio)] * (len(hyp.text.split()) - len(seen))
            if hyp.text != entry.text:
                continue
            own = [at / recognizer.sample_rate - e for at, (_, e) in zip(seen, truth[entry.id], strict=True)]
            delays["first"].append(own[0])
            delays["last"].append(own[-1])
            delays["any"] += own
        for kind, values in delays.items():
            cells = [f"{1000 * v:.0f}" for v in (np.median(values), np.percentile(values, 95))]
            rows.append([f"{head}, {kind} word", str(len(values)), *cells])
    return rows


def _cells(values: np.ndarray) -> list[str]:
    sizes = np.abs(values)
    return [f"{values.mean():+.0f}", f"{np.median(sizes):.0f}", f"{np.percentile(sizes, 95):.0f}"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", help="a run of the built-in corpus")
    parser.add_argument("--data", type=Path, help="the folder that `maya prepare` wrote for it")
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    text = "the folder of recorded digits, for a run of egs/digits; without it: the built-in corpus"
    parser.add_argument("--digits", type=Path, metavar="DIR", help=text)
    parser.add_argument("--method", nargs="+", help="default: greedy search with each trained head")
    text = "instead: how long after its end a word is there, the audio coming in chunks of so many seconds"
    parser.add_argument("--stream", type=float, metavar="S", help=text)
    parser.add_argument("--context", type=int, nargs=2, metavar=("LEFT", "RIGHT"), help="of --stream")
    args = parser.parse_args(argv)
    if args.run is None:
        truth = true_digit_times(args.split, args.digits) if args.digits else true_times(args.split)
        json.dump(truth, sys.stdout)
        return
    command = [sys.executable, __file__, "--split", args.split]
    command += ["--digits", str(args.digits)] if args.digits else []
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    truth = json.loads(done.stdout)
    if args.stream:
        head, rows = ["head", "words", "ms: median", "95 %"], arrivals(args, truth)
    else:
        head = ["head", "words", "start: mean", "median", "95 %", "end: mean", "median", "95 %"]
        rows = compare(args, truth)
    for row in [head, *rows]:
        print(" | ".join(f"{cell:>12}" if i else f"{cell:<32}" for i, cell in enumerate(row)))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
