"""`maya separate`: the speakers of a recording, each in a file of its own.

maya separate meeting.wav --model exp/separation/voices/causal --output-dir separated

A causal model reads and writes the recording piece by piece, in memory that does not grow with its length.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from maya.errors import MayaError
from maya.ranges import Range
from maya.recipes.arguments import add_device, add_list, number

if TYPE_CHECKING:
    import soundfile
    from torch import Tensor

    from maya.models.speech_model import SpeechModel

_BLOCK_SECONDS = 10.0


def arguments(p: argparse.ArgumentParser) -> None:
    add_list(p, "audio", metavar="FILE", help="recordings of several speakers, of any length and rate")
    text = "a run of egs/separation, or a checkpoint"
    p.add_argument("--model", type=Path, required=True, metavar="RUN", help=text)
    text = "folder for NAME_s1.wav, NAME_s2.wav and so on, at the model's sample rate"
    p.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help=text)
    text = "longest recording for a model that is not causal, which needs all of it at once; default: 120"
    p.add_argument("--max-seconds", type=number(float, Range(above=0)), default=120.0, metavar="S", help=text)
    add_device(p)


def run(args: argparse.Namespace) -> int:
    import maya  # noqa: PLC0415  torch, after the options
    from maya.models.separation import separation_head  # noqa: PLC0415

    if not args.audio:
        raise MayaError("name recordings to separate")
    names = [Path(path).stem for path in args.audio]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise MayaError(f"two recordings are named {twice}: separate them into different folders")
    model = maya.load(args.model, args.device).model.eval()
    separation_head(model)
    failed = 0
    for name, path in zip(names, args.audio, strict=True):
        try:
            files = separate_file(model, path, args.output_dir, name, args.max_seconds)
            print(f"separate: {path} → {', '.join(map(str, files))}")
        except MayaError as error:
            failed += 1
            print(f"maya separate: {error}", file=sys.stderr)
    return int(failed > 0)


def separate_file(
    model: "SpeechModel", path: str | Path, folder: Path, name: str, max_seconds: float
) -> list[Path]:
    """Write the sources of a recording to `folder`/NAME_s1.wav and so on, 16-bit; returns the files. Nothing
    is left of a recording that cannot be read to its end."""
    import soundfile  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from maya.audio.blocks import audio_blocks  # noqa: PLC0415
    from maya.files import writing  # noqa: PLC0415
    from maya.models.separation import SeparationStream, separate, separation_head  # noqa: PLC0415

    rate, sources = model.cfg.features.sample_rate, separation_head(model).cfg.sources
    device = next(model.parameters()).device
    blocks = audio_blocks(path, rate, seconds=_BLOCK_SECONDS)
    files = [folder / f"{name}_s{number}.wav" for number in range(1, sources + 1)]
    with ExitStack() as stack:
        partial = [stack.enter_context(writing(file)) for file in files]
        outputs = [
            stack.enter_context(soundfile.SoundFile(p, "w", rate, 1, "PCM_16", format="WAV")) for p in partial
        ]
        if getattr(model.cfg.encoder, "causal", False):
            stream = SeparationStream(model)
            for block in blocks:
                write(outputs, stream.push(block[None])[0])
            write(outputs, stream.push(torch.zeros(1, 0), final=True)[0])
        else:
            audio = _whole(blocks, int(max_seconds * rate), path, max_seconds)
            write(
                outputs, separate(model, audio[None].to(device), torch.tensor([len(audio)], device=device))[0]
            )
    return files


def _whole(blocks, most: int, path: str | Path, max_seconds: float) -> "Tensor":  # type: ignore[no-untyped-def]
    """(N,) of a recording that is not longer than `most` samples; MayaError for a longer one."""
    import torch  # noqa: PLC0415

    parts, total = [], 0
    for block in blocks:
        total += len(block)
        if total > most:
            raise MayaError(
                f"{path} is longer than {max_seconds:g} s, and this model is not causal: it needs the whole "
                "recording in memory. Use a causal model, or raise --max-seconds"
            )
        parts.append(block)
    return torch.cat(parts)


def write(outputs: "list[soundfile.SoundFile]", audio: "Tensor") -> None:
    """Append audio (sources, n) to the files; what is beyond ±1 is clipped."""
    for file, source in zip(outputs, audio.clamp(-1, 1).cpu(), strict=True):
        file.write(source.numpy())
