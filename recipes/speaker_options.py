"""The options by which commands tell speakers apart."""

import argparse
from pathlib import Path
from typing import Any

from maya.align.speakers.config import SpeakersConfig
from maya.errors import MayaError
from maya.ranges import Range
from maya.recipes.arguments import number


def add_speakers(p: Any) -> None:
    """The options."""
    text = "say who speaks: words and segments get a speaker, A, B, ..., by the sound of the voices"
    p.add_argument("--speakers", action="store_true", help=text)
    text = "speakers of a recording or session at most, up to 26; default: 8"
    p.add_argument("--most-speakers", type=number(int, Range(min=1, max=26)), metavar="N", help=text)
    text = "weights of the voice encoder; default: those of the package resemblyzer"
    p.add_argument("--speaker-weights", type=Path, metavar="FILE", help=text)


def speakers_of(args: argparse.Namespace) -> SpeakersConfig | None:
    """The speakers that the options ask for. Raises MayaError for options that do nothing, and where the
    weights are missing."""
    if not args.speakers:
        if args.most_speakers or args.speaker_weights:
            raise MayaError("--most-speakers and --speaker-weights belong to --speakers")
        return None
    from maya.align.speakers.encoder import load_encoder  # noqa: PLC0415  torch, after the options

    cfg = SpeakersConfig(most=args.most_speakers or 8, weights=str(args.speaker_weights or ""))
    load_encoder(cfg.weights)
    return cfg
