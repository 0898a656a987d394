"""sherpa-onnx decodes Maya's exports to the same tokens as Maya. test_peers.py checks random models; by hand:

    python3 -m venv /tmp/s && /tmp/s/bin/pip install sherpa-onnx numpy
    python -m tests.interop.check_sherpa --python /tmp/s/bin/python exp/.../run a.wav b.flac  # a Zipformer
    python -m tests.interop.check_sherpa --python /tmp/s/bin/python --kinds a.wav b.flac  # random

The model is exported for whole utterances and, if it is causal, for chunks of 320 ms; each head, in fp32 and
in 8 bits. sherpa-onnx computes its own features and decodes greedily, one token a frame at most; Maya does
the same on its own features. With fp32 tokens and frames have to be equal. Prints a line a comparison.
"""

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

CHUNK, LEFT = 16, 64  # frames of 20 ms
TAIL_SECONDS = 0.66  # of silence, so that the last frames fill a chunk
RATE = 16000


def sherpa(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Decode raw float32 files with sherpa-onnx, in its own environment: tokens and their seconds."""
    sherpa_onnx = importlib.import_module("sherpa_onnx")

    folder, kind = Path(job["folder"]), ".int8.onnx" if job["int8"] else ".onnx"
    options = {"tokens": str(folder / "tokens.txt"), "num_threads": 1, "feature_dim": job["mels"]}
    models = {name: str(folder / f"{name}{kind}") for name in ("encoder", "decoder", "joiner")}
    online, offline = sherpa_onnx.OnlineRecognizer, sherpa_onnx.OfflineRecognizer
    if Path(models["joiner"]).exists():
        recognizer = (online if job["streaming"] else offline).from_transducer(**models, **options)
    elif job["streaming"]:
        recognizer = online.from_zipformer2_ctc(model=str(folder / f"model{kind}"), **options)
    else:
        recognizer = offline.from_zipformer_ctc(model=str(folder / f"model{kind}"), **options)
    results = []
    for path in job["audio"]:
        stream = recognizer.create_stream()
        stream.accept_waveform(RATE, np.fromfile(path, dtype=np.float32))
        if job["streaming"]:
            stream.input_finished()
            while recognizer.is_ready(stream):
                recognizer.decode_stream(stream)
            result = recognizer.get_result_all(stream)
        else:
            recognizer.decode_stream(stream)
            result = stream.result
        results.append({"tokens": list(result.tokens), "seconds": list(result.timestamps)})
    return results


def maya_tokens(model: Any, samples: np.ndarray, head: Any, streaming: bool) -> dict[str, Any]:
    """Maya's tokens and their seconds."""
    import torch

    from maya.decode.base import MethodContext
    from maya.decode.methods import greedy_method
    from maya.encoders import Encoded
    from maya.encoders.zipformer.config import WHOLE, Chunking

    with torch.inference_mode():
        feats, lens = model.features(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        network = model.model
        enc, enc_lens = network.encoder(feats, lens, chunking=Chunking(CHUNK, LEFT) if streaming else WHOLE)
        if streaming:  # whole chunks alone
            chunks = (int(lens) - 2 * CHUNK - 13) // (2 * CHUNK) + 1
            enc_lens = enc_lens.clamp(max=chunks * CHUNK // 2)
        method = greedy_method(network.cfg.heads[head])
        if hasattr(method, "max_symbols"):
            method.max_symbols = 1
        context = MethodContext(model=network, heads=(head,))
        (hyp,) = method.build(context)(Encoded(enc, enc_lens))
    pieces = model.tokenizer.pieces(hyp.tokens)
    seconds = [frame * network.frame_seconds for frame in hyp.frames]
    return {"tokens": [piece.replace("▁", " ") for piece in pieces], "seconds": seconds}


def check(model: Any, python: str, audio: list[Path], work: Path) -> Iterator[tuple[str, str, bool]]:
    """Compare all exports of one model: (comparison, measured, whether it holds)."""
    from maya.audio.load import load_audio
    from maya.convert.icefall.export import with_blank_first
    from maya.convert.onnx.zipformer import to_sherpa_onnx

    cfg = model.model.cfg
    samples, raw = [], []
    for number, path in enumerate(audio):
        samples.append(np.append(load_audio(path), np.zeros(int(TAIL_SECONDS * RATE), dtype=np.float32)))
        raw.append(work / f"{number}.raw")
        samples[-1].astype(np.float32).tofile(raw[-1])
    heads: list[Any] = list(cfg.text_heads)
    model = with_blank_first(model)
    for streaming in (False, True) if cfg.encoder.causal else (False,):
        for head in heads:
            folder = work / f"{head}-{streaming}"
            chunks = {"chunk_frames": CHUNK, "left_frames": LEFT} if streaming else {}
            to_sherpa_onnx(model, folder, head=head, int8=True, **chunks)
            expected = [maya_tokens(model, utterance, head, streaming) for utterance in samples]
            for int8 in (False, True):
                job: dict[str, Any] = {
                    "folder": str(folder),
                    "head": head,
                    "streaming": streaming,
                    "int8": int8,
                }
                job |= {"mels": cfg.features.num_mels, "audio": [str(p) for p in raw]}
                done = subprocess.run(
                    [python, __file__, "--job", json.dumps(job)], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise SystemExit(f"sherpa-onnx failed:\n{done.stderr[-2000:]}")
                decoded = json.loads(done.stdout.splitlines()[-1])
                what = f"{head} {'streaming' if streaming else 'whole'} {'int8' if int8 else 'fp32'}"
                yield (what, *_compared(decoded, expected, int8))


def _compared(decoded: list[dict], expected: list[dict], int8: bool) -> tuple[str, bool]:
    count = sum(len(hyp["tokens"]) for hyp in expected)
    same = [a["tokens"] == b["tokens"] and np.allclose(a["seconds"], b["seconds"], atol=1e-3)
            for a, b in zip(decoded, expected, strict=True)]  # fmt: skip
    return f"{sum(same)} of {len(same)} utterances equal, {count} tokens", int8 or all(same)


def random_models(folder: Path) -> Iterator[tuple[str, Any]]:
    """Random models that never emit <unk>, because sherpa-onnx takes it for blank."""
    import torch

    files = importlib.import_module("tests.convert.icefall_files")
    for kind, fields in (("not causal", {}), ("causal", {"causal": True})):
        torch.manual_seed(3)
        model = files.recognizer(folder, **fields)
        with torch.no_grad():
            heads = model.model.heads
            heads["transducer"].joint.joint_net[2].bias[2] = -1e4
            heads["ctc"].decoder_layers[0].bias[2] = -1e4
        yield kind, model


def main() -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Decode with sherpa-onnx and with Maya, and compare."
    )
    parser.add_argument("--python", default=sys.executable, help="the Python that has sherpa_onnx")
    parser.add_argument("--kinds", action="store_true", help="random models, no checkpoint")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("paths", type=Path, nargs="*", help="a checkpoint or run, then audio files")
    args = parser.parse_args()
    if args.job:
        print(json.dumps(sherpa(json.loads(args.job))))
        return 0
    import maya

    failed = 0
    with TemporaryDirectory() as work:
        if args.kinds:
            models = random_models(Path(work))
        else:
            models = iter([(str(args.paths[0]), maya.load(args.paths.pop(0), "cpu"))])
        for kind, model in models:
            (Path(work) / Path(kind).name).mkdir()
            for what, measured, holds in check(model, args.python, args.paths, Path(work) / Path(kind).name):
                failed += not holds
                print(f"{kind:12} {what:28} | {measured} {'' if holds else 'FAILED'}", flush=True)
    print("all hold" if not failed else f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
