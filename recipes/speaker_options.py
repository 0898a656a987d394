"""The options by which commands tell speakers apart."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maya.align.speakers.config import SpeakersConfig
from maya.errors import MayaError
from maya.ranges import Range
from maya.recipes.arguments import number

if TYPE_CHECKING:
    from maya.align.speakers.encoder import TrainedVoices, VoiceEncoder


def add_speakers(p: Any) -> None:
    """The options."""
    text = "say who speaks: words and segments get a speaker, A, B, ..., by the sound of the voices"
    p.add_argument("--speakers", action="store_true", help=text)
    text = "speakers of a recording or session at most, up to 26; default: 8"
    p.add_argument("--most-speakers", type=number(int, Range(min=1, max=26)), metavar="N", help=text)
    text = "voice encoder: a run with a speaker or diarization head, or weights of resemblyzer, the default"
    p.add_argument("--speaker-weights", type=Path, metavar="RUN", help=text)


def speakers_of(args: argparse.Namespace, *, whole: bool = False) -> SpeakersConfig | None:
    """The speakers that the options ask for. whole: of whole recordings, for which a diarization head will do
    as well. Raises MayaError for options that do nothing, and where the weights are missing."""
    if not args.speakers:
        if args.most_speakers or args.speaker_weights:
            raise MayaError("--most-speakers and --speaker-weights belong to --speakers")
        return None
    weights = voice_weights(args.speaker_weights) if args.speaker_weights else ""
    cfg = SpeakersConfig(most=args.most_speakers or 8, weights=weights)
    if whole:
        from maya.align.speakers.encoder import load_speakers  # noqa: PLC0415  torch, after the options

        load_speakers(weights)
    else:
        open_voices(weights)
    return cfg


def voice_weights(path: Path) -> str:
    """The file of weights that a run folder or a file stands for; "" for the word resemblyzer."""
    from maya.recipes.experiment_file import import_recorded  # noqa: PLC0415
    from maya.train.checkpoints.checkpoint import find_checkpoint  # noqa: PLC0415

    if str(path) == "resemblyzer" and not path.exists():
        return ""
    if not path.is_dir():
        return str(path)
    import_recorded(path)
    return str(find_checkpoint(path))


def open_voices(weights: str) -> "VoiceEncoder | TrainedVoices":
    """See `maya.align.speakers.encoder.load_encoder`."""
    from maya.align.speakers.encoder import load_encoder  # noqa: PLC0415  torch, after the options

    return load_encoder(weights)
