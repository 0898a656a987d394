"""What the frozen layers of pre-trained encoders hold, beside those of random ones, of speakers who are in no
training; with intervals over speakers.

    python -m egs.pretrain.probe exp/pretrain/best_rq/best_rq-1 --random 1 --data exp/pretrain/best_rq/data \
        --corpus exp/pretrain/best_rq/corpus --out exp/pretrain/best_rq/probes.json

The probes are heads of Maya, see egs.pretrain.pretrain.probes: linear layers on weighted sums of the layers.
language: UAR over the languages of the test. phonemes: error rate. speaker: equal error rate of the trials in
CORPUS/voices.txt. The encoder does not learn, so it reads each recording once, and the heads make many passes
over its frames. --random SEED: an encoder with the weights of that seed, as it is before training.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import maya
from egs.heads.data import read_rows
from egs.heads.evaluate import recalls
from egs.heads.measures import batches_of
from egs.pretrain.pretrain import LANGUAGES, probes
from maya.data.loading.batch import Batch
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.files import write_json
from maya.heads import SpeakerHead, UnitCTC
from maya.heads.base import TrainingMeans
from maya.models.speech_model import SpeechModel
from maya.score.labels import LabelledUtterance
from maya.score.report import percent
from maya.score.verification import read_trials, verification_rates
from maya.score.wer import count_errors, interval, pool

Frames = Sequence[tuple[Encoded, Batch]]


def probed_model(recognizer: Recognizer, seed: int | None) -> SpeechModel:
    """Probes on the frozen encoder of a run, or with a seed on a random one of the same kind."""
    torch.manual_seed(seed or 1)
    model = SpeechModel(replace(recognizer.model.cfg, heads=probes(), languages=LANGUAGES))
    if seed is None:
        model.encoder.load_state_dict(recognizer.model.encoder.state_dict())
    model.freeze({"encoder"})
    return model.eval()


@torch.no_grad()
def frames_of(model: SpeechModel, batches: Sequence[Batch]) -> Frames:
    """The frames of all layers."""
    return [(model.encode_audio(b.audio, b.audio_lens, hidden=model.hidden), b) for b in batches]


def train_probes(model: SpeechModel, frames: Frames, passes: int, rate: float, seed: int) -> None:
    """Adam with a rate that falls to 0 as a cosine, a batch a step."""
    labels = {name: [v for _, b in frames for v in b.labels[name] if v] for name in ("speaker",)}
    labels["language"] = [model.cfg.languages[i] for _, b in frames for i in b.langs.tolist() if i >= 0]

    def no_teacher(path: str) -> Any:
        raise MayaError(f"probes have no teacher, such as {path}")

    means = TrainingMeans(texts=list, teacher=no_teacher, counts=lambda name: Counter(labels[name]))
    for head in model.named_heads().values():
        head.begin_training(means)
    steps, order = passes * len(frames), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.heads.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for number in range(passes):
        sums: Counter[str] = Counter()
        for index in torch.randperm(len(frames), generator=order).tolist():
            losses = model.losses(*frames[index])
            losses.total.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            sums.update({name: loss.mean().item() / len(frames) for name, loss in losses.parts.items()})
        if number in (0, passes // 2, passes - 1):
            values = ", ".join(f"{name} {value:.2f}" for name, value in sums.items())
            print(f"pass {number + 1} of {passes}: {values}", flush=True)
    model.eval()


@torch.inference_mode()
def measures(model: SpeechModel, frames: Frames, seen: set[str], corpus: Path) -> dict[str, list[float]]:
    """UAR, phoneme errors and EER of speakers who are not in `seen`: [value, low, high] each."""
    voice, units = model.head("speaker"), model.head("phonemes")
    assert isinstance(voice, SpeakerHead) and isinstance(units, UnitCTC)
    rows, errors, speakers, voices = [], [], [], dict[str, Tensor]()
    for encoded, batch in frames:
        said, read = model.head("language").predict(encoded), units.decode(encoded)
        embeddings = torch.nn.functional.normalize(voice.embed(encoded), dim=1)
        for i, name in enumerate(batch.ids):
            voices[name], who = embeddings[i], batch.labels["speaker"][i] or ""
            if who in seen:
                continue
            code = model.cfg.languages[int(batch.langs[i])]
            rows.append(LabelledUtterance(id=name, value=code, predicted=said[i].label, speaker=who))
            true = [units.cfg.units[number] for number in units.ids(batch.labels["phonemes"][i] or "")]
            errors.append(count_errors([" ".join(true)], [" ".join(read[i])], str.split))
            speakers.append(who)
    names, uar, around, _ = recalls(rows)
    stats, result = pool(errors), {"language": [uar, around.low, around.high]}
    bounds = interval(stats, blocks=speakers)
    result["phonemes"] = [stats.rate, bounds.low, bounds.high]
    result["speaker"] = equal_error_rate(corpus, voices)
    values = (
        f"{name} {percent(v)} [{percent(low)}, {percent(high)}]" for name, (v, low, high) in result.items()
    )
    print(f"{len(rows)} utterances of {len(set(speakers))} speakers, {' '.join(names)}: {', '.join(values)}")
    return result


def equal_error_rate(corpus: Path, voices: Mapping[str, Tensor]) -> list[float]:
    """EER and its interval of the trials whose recordings have embeddings, by the cosine."""
    names = {row["audio"]: row["id"] for row in read_rows(corpus)}
    trials = [
        t for t in read_trials(corpus / "voices.txt") if names[t.enrol] in voices and names[t.test] in voices
    ]
    scores = np.array([float(voices[names[t.enrol]] @ voices[names[t.test]]) for t in trials])
    same, speakers = np.array([t.same for t in trials]), [t.speakers for t in trials]
    value, bounds = verification_rates(scores, same, speakers)["eer"]
    return [value, bounds.low, bounds.high]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m egs.pretrain.probe", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of pre-training; all of one encoder")
    parser.add_argument(
        "--random", type=int, nargs="*", default=[], metavar="SEED", help="random encoders too"
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared data with the test set")
    parser.add_argument("--corpus", type=Path, required=True, help="corpus folder, with voices.txt")
    parser.add_argument("--passes", type=int, default=20, help="of the probes over the training set")
    parser.add_argument("--rate", type=float, default=1e-2, help="highest learning rate of the probes")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the figures")
    args = parser.parse_args(argv)
    try:
        recognizers = {str(run): (maya.load(run, device="cpu"), None) for run in args.runs}
        first = next(iter(recognizers.values()))[0]
        encoders = recognizers | {f"random {seed}": (first, seed) for seed in args.random}
        train, test = (list(batches_of(first, args.data, part, LANGUAGES)) for part in ("train", "test"))
        seen, result = {who for batch in train for who in batch.labels["speaker"] if who}, {}
        for number, (name, (recognizer, seed)) in enumerate(encoders.items(), 1):
            print(f"{name}:", flush=True)
            model = probed_model(recognizer, seed)
            train_probes(model, frames_of(model, train), args.passes, args.rate, number)
            result[name] = measures(model, frames_of(model, test), seen, args.corpus)
            write_json(args.out, result)
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
