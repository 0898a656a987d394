"""What a start costs: the user time of `maya transcribe` on 2 s of audio beside that of `import torch`.

    python -m tools.bench.startup [--against DIR] [--repeats 7]

Each command runs in a process of its own, in turn, so that a busy machine slows all of them alike. The
figures are medians. --against measures another checkout, too. "decoding" is loading and transcribing, in
processor time, inside a process that has imported everything.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]

# Writes a checkpoint (2 layers of 32 channels, untrained) and 2 s of noise to the folder argv[1].
INPUT = """
import sys
from pathlib import Path
import numpy, soundfile, torch
from maya.models.speech_model import build_model
from maya.recipes import presets
from maya.text.tokenizer import Tokenizer, TokenizerConfig
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
torch.manual_seed(0)
words = ["one two three four", "five six seven eight", "nine ten eleven twelve"]
tokenizer = Tokenizer.train({"en": words}, TokenizerConfig(vocab_size=30))
cfg = presets.fastconformer_tdt_ctc(d_model=32, n_layers=2, n_heads=2, subsampling_channels=8, hidden=32)
cfg.vocab_size, cfg.languages = tokenizer.vocab_size, ("en",)
save_checkpoint(Path(sys.argv[1]) / "best.pt", Checkpoint(
    model_config=cfg, tokenizer=tokenizer, weights=build_model(cfg).state_dict(), step=1, notes={}))
noise = 0.1 * numpy.random.default_rng(0).standard_normal(32000)
soundfile.write(sys.argv[1] + "/a.wav", noise.astype("float32"), 16000)
"""
DECODING = """
import sys, time
import maya, maya.decode.recognizer, maya.recipes.transcribe, maya.train.checkpoints.checkpoint
begin = time.process_time()
maya.load(sys.argv[1], "cpu").transcribe([sys.argv[1] + "/a.wav"])
print(time.process_time() - begin)
"""


def user_seconds(command: list[str], top: Path) -> float:
    """User time of a command that runs in a checkout; for DECODING, the time it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(top)}
    done = subprocess.run(command, cwd=top, check=True, capture_output=True, text=True, env=environment)
    if DECODING in command:
        return float(done.stdout.split()[-1])
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m tools.bench.startup", description="Measure what a start costs."
    )
    parser.add_argument("--against", type=Path, help="another checkout to measure, too")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each command (default: 7)")
    options = parser.parse_args(arguments)
    checkouts = {"this": TOP} | ({"other": options.against.resolve()} if options.against else {})
    with tempfile.TemporaryDirectory() as folder:
        user_seconds([sys.executable, "-c", INPUT, folder], TOP)
        program = [sys.executable, "-m", "maya.recipes.cli", "transcribe", folder, f"{folder}/a.wav"]
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "import maya": [sys.executable, "-c", "import torch, maya"],
            "transcribe": program,
            "decoding": [sys.executable, "-c", DECODING, folder],
        }
        times: dict[tuple[str, str], list[float]] = {(c, n): [] for c in checkouts for n in commands}
        for _ in range(options.repeats):
            for checkout, top in checkouts.items():
                for name, command in commands.items():
                    times[checkout, name].append(user_seconds(command, top))
    medians = {key: statistics.median(values) for key, values in times.items()}
    for (checkout, name), seconds in medians.items():
        spread = f"{min(times[checkout, name]):.2f} to {max(times[checkout, name]):.2f}"
        print(f"{checkout:<6} {name:<13} {seconds:6.3f} s user ({spread})")
    for checkout in checkouts:
        floor = medians[checkout, "import torch"] + medians[checkout, "decoding"]
        ratio = medians[checkout, "transcribe"] / floor
        print(f"{checkout:<6} transcribe / (import torch + decoding) = {ratio:.2f}")


if __name__ == "__main__":
    main()
