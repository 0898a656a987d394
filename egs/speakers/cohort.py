"""The cohort of AS-norm: the mean voice of each training speaker.

python -m egs.speakers.cohort RUN exp/speakers/voxceleb/corpus/manifest.jsonl --out RUN/cohort.json
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from maya.align.speakers.encoder import VoiceEncoder
from maya.align.speakers.enrolment import EnrolledVoices, fingerprint, mean_voice, recording_voice
from maya.align.speakers.trained import TrainedVoices
from maya.errors import MayaError
from maya.recipes.speaker_options import open_voices, voice_weights

_FILES = 12  # of a speaker


def cohort_of(encoder: VoiceEncoder | TrainedVoices, manifest: Path, files: int = _FILES) -> EnrolledVoices:
    """The voice of each training speaker, of their first `files` recordings."""
    by_speaker: dict[str, list[str]] = defaultdict(list)
    for line in manifest.read_text(encoding="utf-8").strip().split("\n"):
        if (row := json.loads(line))["split"] == "train":
            by_speaker[row["speaker"]].append(row["audio"])
    voices = EnrolledVoices(encoder=fingerprint(encoder))
    for speaker, own in sorted(by_speaker.items()):
        voices.voices[speaker] = mean_voice([recording_voice(encoder, name) for name in own[:files]])
    return voices


def main(argv: Sequence[str] | None = None) -> None:
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(
        prog="python -m egs.speakers.cohort", description=about, allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="run folder or checkpoint")
    parser.add_argument("manifest", type=Path, help="manifest.jsonl of the corpus")
    parser.add_argument("--out", type=Path, required=True, help="file of voices to write")
    args = parser.parse_args(argv)
    try:
        cohort_of(open_voices(voice_weights(args.run)), args.manifest).save(args.out)
    except MayaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
