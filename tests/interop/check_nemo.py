"""NeMo restores Maya's exports and computes the same. test_peers.py checks tiny models; by hand:

    python3.11 -m venv /tmp/nemo && source /tmp/nemo/bin/activate        # about 6 GB
    pip install "nemo_toolkit[asr]" "torch==2.11.0" && pip install -e .
    python -m tests.interop.check_nemo exp/.../run a.wav b.flac        # a run, a .pt or a .nemo file
    python -m tests.interop.check_nemo --kinds a.wav b.flac            # a tiny model of every kind

The model goes into a .nemo archive, NeMo restores it, both run on the batch of audio files, NeMo saves it
again, and Maya reads that. Prints a line a comparison: what, the bar, what was measured.
"""

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import maya
from maya.audio.load import load_audio
from maya.convert import from_nemo, to_nemo
from maya.convert.nemo.config import read_config
from maya.convert.nemo.export import nemo_config, with_language
from maya.convert.nemo.parts import nemo_parts
from maya.decode.methods import greedy
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.text.aggregate import AggregateTokenizer

Row = tuple[str, str, str, bool]  # comparison, limit, measured, whether it holds

ENCODER_BAR = 2e-5  # of encoder and CTC output, given the same features; relative for values above 1
FEATURE_BAR, FEATURE_SHARE, FEATURE_WORST = 1e-5, 0.97, 3e-4  # see tests/features/test_logmel.py


def compare(model: Recognizer, nemo: Any, audio: Tensor, lens: Tensor) -> list[Row]:
    """Compare both models on audio (B, N), lens (B,): (comparison, limit, measured, whether it holds)."""
    rows: list[Row] = []
    with torch.inference_mode():
        nemo_feats, their_lens = nemo.preprocessor(input_signal=audio, length=lens)
        if not nemo_parts(
            model.model.cfg, "NeMo"
        ).features.legacy:  # NeMo 2.5 and later does not compute those
            rows += _features(*model.features(audio, lens), nemo_feats, their_lens)
        enc, enc_lens = nemo.encoder(audio_signal=nemo_feats, length=their_lens)
        own, own_lens = model.model.encoder(nemo_feats.transpose(1, 2), their_lens)
        rows.append(("encoder lengths", "equal", f"{own_lens.tolist()}", torch.equal(own_lens, enc_lens)))
        rows.append(_bounded("encoder", own, enc.transpose(1, 2), own_lens))
        head = getattr(nemo, "ctc_decoder", None if hasattr(nemo, "joint") else nemo.decoder)
        if head is not None:
            log_probs = head(encoder_output=enc)
            rows.append(_bounded("CTC", model.model.head("ctc")(own), log_probs, own_lens))
        if hasattr(nemo, "joint"):
            hyps = nemo.decoding.rnnt_decoder_predictions_tensor(enc, enc_lens, return_hypotheses=True)
            expected = [(_numbers(h.y_sequence), _numbers(h.timestamp)) for h in hyps]
            hyps = greedy(model.model, Encoded(own, own_lens), "transducer")
            count = sum(len(tokens) for tokens, _ in expected)
            same = [(h.tokens, h.frames) for h in hyps] == expected
            rows.append(("greedy tokens and frames", "equal", f"{count} tokens", same))
    return rows


def _features(ours: Tensor, our_lens: Tensor, nemo_feats: Tensor, their_lens: Tensor) -> list[Row]:
    error = _errors(ours, nemo_feats.transpose(1, 2), our_lens)
    near, worst = (error <= FEATURE_BAR).double().mean().item(), error.max().item()
    holds = near >= FEATURE_SHARE and worst <= FEATURE_WORST
    bar = f"{FEATURE_BAR:g} in {FEATURE_SHARE:.0%}, worst {FEATURE_WORST:g}"
    return [
        ("feature lengths", "equal", f"{our_lens.tolist()}", torch.equal(our_lens, their_lens)),
        ("features", bar, f"{near:.2%}, worst {worst:.1e}", holds),
    ]


def _errors(ours: Tensor, peer: Tensor, lens: Tensor) -> Tensor:
    """Absolute differences over the valid frames of all rows, flattened."""
    pairs = zip(ours, peer, lens.tolist(), strict=True)
    return torch.cat([(a[:n] - b[:n]).abs().flatten() for a, b, n in pairs])


def _bounded(name: str, ours: Tensor, peer: Tensor, lens: Tensor) -> Row:
    size = peer.abs().clamp(min=1)  # a log-probability of -30 has no more digits than one of -0.3
    worst = _errors(ours / size, peer / size, lens).max().item()
    return name, f"{ENCODER_BAR:g}", f"{worst:.1e}", worst <= ENCODER_BAR


def _numbers(values: Any) -> list[int]:
    return [int(v) for v in values]


def check(model: Recognizer, files: Sequence[Path], language: str | None) -> list[Row]:
    """All comparisons of a model on audio files."""
    from nemo.collections.asr.models import ASRModel

    if model.model.cfg.language_embedding:
        state = with_language(model.model.state_dict(), model.model.cfg, language)
        model.model.load_state_dict(state)  # the encoder's output now has the language in it
    samples = [torch.as_tensor(load_audio(file, model.sample_rate)) for file in files]
    audio = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
    lens = torch.tensor([len(s) for s in samples])
    with TemporaryDirectory() as folder:
        first, second = Path(folder) / "first.nemo", Path(folder) / "second.nemo"
        to_nemo(model, first, language="unknown" if model.model.cfg.language_embedding else None)
        nemo = ASRModel.restore_from(str(first), map_location="cpu").eval()
        rows = compare(model, nemo, audio, lens)
        nemo.save_to(str(second))
        again, sent = from_nemo(second).model.state_dict(), from_nemo(first).model.state_dict()
        equal = again.keys() == sent.keys() and all(torch.equal(again[k], v) for k, v in sent.items())
        rows.append(("saved again by NeMo", "every tensor equal", f"{len(sent)} tensors", equal))
    return rows


def unknown_arguments() -> list[str]:
    """Arguments of NeMo's classes that Maya's reader of the yaml neither knows nor refuses by name."""
    import inspect

    from nemo.collections.asr import modules

    from tests.convert.archives import recognizer

    model = recognizer(ctc_weight=0.3)
    base = nemo_config(model.model.cfg, model.tokenizer) | {"tokenizer": {"type": "bpe"}}
    sections: dict[str, list[str]] = {
        "AudioToMelSpectrogramPreprocessor": ["preprocessor"], "ConformerEncoder": ["encoder"],
        "RNNTDecoder": ["decoder"], "RNNTJoint": ["joint"], "SampledRNNTJoint": ["joint"],
        "ConvASRDecoder": ["aux_ctc", "decoder"],
    }  # fmt: skip
    read_config(base, Path("made.nemo"))
    unknown = []
    for name, where in sections.items():
        parameters = inspect.signature(getattr(modules, name).__init__).parameters.values()
        for parameter in [p for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]:
            config = copy.deepcopy(base)
            section: Any = config
            for key in where:
                section = section[key]
            default = None if parameter.default is parameter.empty else parameter.default
            section.setdefault(parameter.name, default)
            try:
                read_config(config, Path("made.nemo"))
            except MayaError as error:
                if "unknown to Maya" in str(error):
                    unknown.append(f"{name}.{parameter.name}")
    return unknown


def main() -> int:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=description,
        epilog=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="the model, then audio files")
    parser.add_argument("--kinds", action="store_true", help="no model, but tiny ones of every kind")
    parser.add_argument("--language", help="of a model with a language embedding")
    args = parser.parse_args()
    audio = args.files if args.kinds else args.files[1:]
    if not audio:
        parser.error("name audio files as well")
    failed = 0
    models = every_kind() if args.kinds else [(str(args.files[0]), maya.load(args.files[0], "cpu"))]
    for name, model in models:
        print(name)
        for what, bar, measured, holds in check(model, audio, args.language):
            print(f"{'ok  ' if holds else 'FAIL'}  {what:<26}  {bar:<32}  {measured}")
            failed += not holds
    return 1 if failed else 0


def every_kind() -> Iterator[tuple[str, Recognizer]]:
    """Random models of all kinds that archives support, and one with two tokenizers."""
    from tests.convert.archives import (
        KINDS,
        recognizer,
        tokenizer,
    )

    for fields in KINDS:
        torch.manual_seed(0)
        yield ", ".join(f"{k}={v}" for k, v in fields.items()) or "hybrid TDT and CTC", recognizer(**fields)
    both = AggregateTokenizer({"en": tokenizer("en"), "hi": tokenizer("hi", 30)})
    yield "aggregate tokenizer", recognizer(both)


if __name__ == "__main__":
    sys.exit(main())
