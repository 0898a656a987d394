"""Targets of masked prediction: k-means clusters of a teacher's frames, as the label `clusters`.

    python -m egs.pretrain.targets mfcc --corpus exp/pretrain/mfcc/corpus
    python -m egs.pretrain.targets speaker --corpus exp/pretrain/speaker/corpus
    python -m egs.pretrain.targets RUN --layer 2 --corpus CORPUS

mfcc: 13 cepstra with first and second differences, as in HuBERT's first iteration (Hsu et al. 2021).
speaker: Resemblyzer's embedding of the 0.8 to 1.6 s before each frame, in the manner of DELULU (Baali et al.
2025), whose teacher is ReDimNet; its weights are those of the installed package (pip install --no-deps
resemblyzer), or of a file, --weights. RUN: a layer of an earlier run, HuBERT's second iteration. Clusters are
learnt from the training set, whose frames are in memory: 185 MB for an hour of embeddings. The manifest is
written anew with the label, which `maya.heads.masked_prediction` reads.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import maya
from egs.heads.data import read_rows
from egs.speakers.data import write_manifest
from maya.align.speakers.encoder import VoiceEncoder, levelled, load_encoder
from maya.audio.load import load_audio
from maya.errors import MayaError
from maya.features import LogMelConfig

RATE, SECONDS = 16000, 0.02  # from one frame of a teacher to the next
_CEPSTRA, _MELS = 13, 80
_WINDOW, _STEP = 160, 80  # frames of 10 ms that Resemblyzer was trained with, and from one window to the next
_FIT, _AT_ONCE = 100_000, 20_000  # frames that clusters are learnt from, and that are compared at a time
_ROUNDS = 25


def cepstral_teacher() -> Callable[[Tensor], Tensor]:
    """From audio (N,) to (n, 39): frames in the middle of each 20 ms."""
    mel = LogMelConfig(normalize="none", dither=0.0, num_mels=_MELS).build().eval()
    steps = torch.arange(_MELS) + 0.5
    cosines = torch.cos(torch.pi / _MELS * steps[:, None] * torch.arange(_CEPSTRA))

    def frames(audio: Tensor) -> Tensor:
        feats, lens = mel(audio[None], torch.tensor([len(audio)]))
        cepstra = feats[0, : int(lens[0])] @ cosines
        first = torch.gradient(cepstra, dim=0)[0]
        return torch.cat([cepstra, first, torch.gradient(first, dim=0)[0]], 1)[1::2]

    return frames


def voice_teacher(encoder: VoiceEncoder) -> Callable[[Tensor], Tensor]:
    """From audio (N,) to (n, 256) of length 1: the embedding of the audio before the middle of each 20 ms."""

    def frames(audio: Tensor) -> Tensor:
        mels = encoder.mels(levelled(audio))
        windows = max(1, -(-(len(mels) - _WINDOW) // _STEP) + 1)
        padded = functional.pad(mels, (0, 0, 0, _WINDOW + (windows - 1) * _STEP - len(mels)))
        states, _ = encoder.lstm(padded.unfold(0, _WINDOW, _STEP).transpose(1, 2))
        joined = torch.cat([states[0, :_STEP], states[:, _STEP:].flatten(0, 1)])[: len(mels)]
        return functional.normalize(encoder.linear(joined[1::2]).relu(), dim=1)

    return frames


def layer_teacher(run: Path, layer: int) -> tuple[Callable[[Tensor], Tensor], float]:
    """From audio (N,) to (n, D) of a layer of a run's encoder, and the seconds of a frame."""
    model = maya.load(run, device="cpu").model
    if model.cfg.features.sample_rate != RATE:
        raise MayaError(f"{run} takes audio at another rate than {RATE} Hz")

    def frames(audio: Tensor) -> Tensor:
        encoded = model.encode_audio(audio[None], torch.tensor([len(audio)]), hidden=[layer])
        return encoded.hidden[layer][0, : int(encoded.lens[0])]

    return frames, model.frame_seconds


def k_means(x: Tensor, clusters: int, seed: int) -> Tensor:
    """(clusters, D) centres of x (n, D): k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's rounds. A
    centre without a frame moves to the frame farthest from its own. Raises MayaError for fewer frames than
    clusters."""
    if len(x) < clusters:
        raise MayaError(f"{len(x)} frames cannot make {clusters} clusters: lower --clusters")
    generator = torch.Generator().manual_seed(seed)
    x = x[torch.randperm(len(x), generator=generator)[:_FIT]]
    centres, distances = x[:1], torch.full((len(x),), torch.inf)
    for _ in range(clusters - 1):
        distances = torch.minimum(distances, (x - centres[-1]).square().sum(1))
        weights = distances if distances.any() else torch.ones(len(x))
        centres = torch.cat([centres, x[torch.multinomial(weights, 1, generator=generator)]])
    for _ in range(_ROUNDS):
        numbers, distances = nearest(x, centres)
        counts = torch.bincount(numbers, minlength=clusters)
        sums = torch.zeros_like(centres).index_add_(0, numbers, x)
        empty = (counts == 0).nonzero()[:, 0]
        centres = sums / counts.clamp(min=1)[:, None]
        centres[empty] = x[distances.topk(len(empty)).indices]
    return centres


def nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) the nearest centre of each row of x (n, D), and its distance."""
    parts = [torch.cdist(part, centres).min(1) for part in x.split(_AT_ONCE)]
    return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])


@torch.inference_mode()
def label(
    corpus: Path,
    frames: Callable[[Tensor], Tensor],
    *,
    seconds: float,
    clusters: int,
    seed: int,
    scaled: bool,
) -> None:
    """Write the label `clusters` of all recordings but those of the test into the manifest. scaled: each
    channel has the deviation 1, as cepstra need it, whose first ones are the largest."""
    rows = read_rows(corpus)
    used = [row for row in rows if row["split"] != "test"]
    table = []
    for number, row in enumerate(used):
        table.append(frames(load_audio(row["audio"], RATE)))
        if number % 200 == 0:
            print(f"teacher: {number} of {len(used)} recordings", file=sys.stderr, flush=True)
    own = torch.cat([x for x, row in zip(table, used, strict=True) if row["split"] == "train"])
    mean, deviation = own.mean(0), own.std(0).clamp(min=1e-5)
    if not scaled:
        mean, deviation = torch.zeros_like(mean), torch.ones_like(deviation)
    centres, shares = k_means((own - mean) / deviation, clusters, seed), torch.zeros(clusters)
    for x, row in zip(table, used, strict=True):
        numbers, _ = nearest((x - mean) / deviation, centres)
        shares += torch.bincount(numbers, minlength=clusters)
        values = " ".join(map(str, numbers.tolist()))
        row["labels"] = (row.get("labels") or {}) | {"clusters": f"{seconds:g} {values}"}
    write_manifest(rows, corpus)
    shares = shares / shares.sum()
    entropy = float(-(shares * shares.clamp(min=1e-12).log()).sum())
    print(f"{clusters} clusters of {len(own)} training frames, entropy {entropy:.2f} nats")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m egs.pretrain.targets", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("teacher", help="mfcc, speaker, or a run folder")
    parser.add_argument("--corpus", type=Path, required=True, help="corpus folder, see egs.pretrain.data")
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--weights", default="", help="for speaker: Resemblyzer's pretrained.pt")
    parser.add_argument("--layer", type=int, default=0, help="for a run: the layer, 0 before the first block")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    try:
        seconds = SECONDS
        if args.teacher == "mfcc":
            frames = cepstral_teacher()
        elif args.teacher == "speaker":
            encoder = load_encoder(args.weights)
            if not isinstance(encoder, VoiceEncoder):
                raise MayaError("--weights must be those of Resemblyzer, whose frames are the targets")
            frames = voice_teacher(encoder)
        else:
            frames, seconds = layer_teacher(Path(args.teacher), args.layer)
        options = {"clusters": args.clusters, "seed": args.seed, "scaled": args.teacher != "speaker"}
        label(args.corpus, frames, seconds=seconds, **options)
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
