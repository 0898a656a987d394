"""`maya enroll`: keep the voice of a speaker.

maya enroll RUN anna anna1.wav anna2.wav --out voices.json
maya verify RUN voices.json unknown.wav
"""

import argparse
from pathlib import Path

from maya.align.speakers.enrolment import EnrolledVoices, fingerprint, mean_voice, recording_voice
from maya.errors import MayaError
from maya.recipes.arguments import add_list
from maya.recipes.speaker_options import open_voices, voice_weights

RUN_HELP = "a run or checkpoint with a speaker head; resemblyzer: the weights of that package"


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    p.add_argument("name", metavar="NAME", help="name of the speaker; one that is there is replaced")
    add_list(p, "audio", metavar="FILE", help="recordings of this speaker alone")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="file of voices, made or added to")


def run(args: argparse.Namespace) -> None:
    if not args.audio:
        raise MayaError("name recordings of the speaker after the name")
    encoder = open_voices(voice_weights(args.run))
    if args.out.exists():
        voices = EnrolledVoices.load(args.out, encoder)
    else:
        voices = EnrolledVoices(encoder=fingerprint(encoder))
    done = "replaced" if args.name in voices.voices else "enrolled"
    voices.voices[args.name] = mean_voice([recording_voice(encoder, path) for path in args.audio])
    voices.save(args.out)
    count = len(voices.voices)
    print(f"enroll: {args.name} {done} from {len(args.audio)} recordings; {count} voices → {args.out}")
