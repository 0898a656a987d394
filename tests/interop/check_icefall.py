"""icefall loads Maya's exports strictly and computes the same. test_peers.py checks random models; by hand:

    maya export icefall exp/.../run /tmp/out
    python -m tests.interop.check_icefall --icefall CHECKOUT /tmp/out a.wav b.flac  # an export
    python -m tests.interop.check_icefall --icefall CHECKOUT --kinds a.wav b.flac  # random models

Only the model's files are imported, and k2's two functions that they need are replaced by their formulas, so
that neither k2 nor icefall's other dependencies have to be there. Prints a line a comparison.
"""

import argparse
import contextlib
import importlib
import sys
import types
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor

import maya
from maya.audio.load import load_audio
from maya.convert import from_icefall, to_icefall
from maya.convert.icefall.export import SENTENCEPIECE, WEIGHTS
from maya.decode.recognizer import Recognizer
from maya.encoders import Zipformer
from maya.encoders.zipformer.config import Chunking
from tests.interop.check_nemo import Row

BAR = 2e-5  # absolute; relative for outputs above 1
MODEL_FILES = Path("egs/librispeech/ASR/zipformer")


def load_icefall(checkout: Path, saved: Mapping[str, Any]) -> Any:
    """icefall's AsrModel with the options and weights of `saved`, loaded strictly."""
    names = ("zipformer", "subsampling", "decoder", "joiner", "attention_decoder", "model")
    parts = {name: icefall_file(checkout, name) for name in names}
    many = {name: tuple(map(int, v.split(","))) for name, v in saved.items() if isinstance(v, str)}
    dims, vocabulary = many["encoder_dim"], saved["vocab_size"]
    chunks = {name: many[name] for name in ("chunk_size", "left_context_frames") if name in many}
    encoder = parts["zipformer"].Zipformer2(
        output_downsampling_factor=2, downsampling_factor=many["downsampling_factor"],
        num_encoder_layers=many["num_encoder_layers"], encoder_dim=dims,
        encoder_unmasked_dim=many["encoder_unmasked_dim"], query_head_dim=many["query_head_dim"],
        pos_head_dim=many["pos_head_dim"], value_head_dim=many["value_head_dim"], pos_dim=saved["pos_dim"],
        num_heads=many["num_heads"], feedforward_dim=many["feedforward_dim"],
        cnn_module_kernel=many["cnn_module_kernel"], causal=saved["causal"], **chunks,
    )  # fmt: skip
    embed = parts["subsampling"].Conv2dSubsampling(saved["feature_dim"], dims[0], dropout=0.0)
    heads: dict[str, Any] = dict.fromkeys(("decoder", "joiner", "attention_decoder"))
    if saved["use_transducer"]:
        size = saved["decoder_dim"]
        heads["decoder"] = parts["decoder"].Decoder(vocabulary, size, 0, saved["context_size"])
        heads["joiner"] = parts["joiner"].Joiner(max(dims), size, saved["joiner_dim"], vocabulary)
    if saved["use_attention_decoder"]:
        heads["attention_decoder"] = parts["attention_decoder"].AttentionDecoderModel(
            vocab_size=vocabulary, decoder_dim=saved["attention_decoder_dim"],
            num_decoder_layers=saved["attention_decoder_num_layers"],
            attention_dim=saved["attention_decoder_attention_dim"],
            num_heads=saved["attention_decoder_num_heads"],
            feedforward_dim=saved["attention_decoder_feedforward_dim"],
            memory_dim=max(dims), sos_id=1, eos_id=1,
        )  # fmt: skip
    model = parts["model"].AsrModel(
        encoder_embed=embed, encoder=encoder, encoder_dim=max(dims), vocab_size=vocabulary,
        decoder_dim=saved.get("decoder_dim", 512), use_transducer=saved["use_transducer"],
        use_ctc=saved["use_ctc"], use_attention_decoder=saved["use_attention_decoder"], **heads,
    )  # fmt: skip
    model.load_state_dict(saved["model"], strict=True)
    return model.eval()


@torch.inference_mode()
def compare(ours: Recognizer, peer: Any, feats: Tensor, lens: Tensor) -> Iterator[Row]:
    """Compare both models on features (1, T, F), (1,)."""
    model = ours.model
    assert isinstance(model.encoder, Zipformer)
    total = sum(p.numel() for p in peer.parameters())
    yield ("parameters", "equal", f"{total:,}", total == sum(p.numel() for p in model.parameters()))
    if model.encoder.cfg.causal:  # icefall draws one of several, also in evaluation
        peer.encoder.chunk_size, peer.encoder.left_context_frames = (-1,), (-1,)
    enc, enc_lens = peer.forward_encoder(feats, lens)
    own, own_lens = model.encoder(feats, lens)
    yield ("encoder lengths", "equal", f"{own_lens.tolist()}", torch.equal(own_lens, enc_lens))
    yield _bounded("encoder", own, enc)
    if model.encoder.cfg.causal:
        peer.encoder.chunk_size, peer.encoder.left_context_frames = (16,), (64,)
        chunked, _ = peer.forward_encoder(feats, lens)
        own_chunked, _ = model.encoder(feats, lens, chunking=Chunking(16, 64))
        yield _bounded("encoder in chunks of 16", own_chunked[:, : chunked.shape[1]], chunked)
    tokens = torch.randint(3, model.cfg.vocab_size, (1, 6))
    heads: dict[str, Any] = dict(model.named_heads())
    if transducer := heads.get("transducer"):
        started = torch.nn.functional.pad(tokens, (1, 0))
        pred, own_pred = peer.decoder(started), transducer.decoder(tokens)
        yield _bounded("decoder", own_pred, pred)
        logits = peer.joiner(enc[:, :4, None], pred[:, None])
        yield _bounded("joiner", transducer.joint(own[:, :4], own_pred), logits)
    if ctc := heads.get("ctc"):
        yield _bounded("CTC", ctc(own), peer.ctc_output(enc))
    if attention := heads.get("attention"):
        started, size = torch.nn.functional.pad(tokens, (1, 0), value=1), torch.tensor([6])
        logits = peer.attention_decoder.decoder(started, size + 1, enc, enc_lens)
        yield _bounded("attention decoder", attention(own, own_lens, tokens, size), logits)


def check(ours: Recognizer, folder: Path, checkout: Path, audio: list[Path]) -> Iterator[Row]:
    saved = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    peer = load_icefall(checkout, saved)
    for path in audio:
        samples = torch.as_tensor(load_audio(path, ours.sample_rate))[None]
        feats, lens = ours.features(samples, torch.tensor([samples.shape[1]]))
        for what, bar, measured, holds in compare(ours, peer, feats, lens):
            yield (f"{path.name}: {what}", bar, measured, holds)


def _bounded(what: str, ours: Tensor, peer: Tensor) -> Row:
    error = (ours - peer).abs() / peer.abs().clamp(min=1)
    return (what, f"{BAR:g}", f"{error.max():.1e}", ours.shape == peer.shape and error.max().item() <= BAR)


def icefall_file(checkout: Path, name: str) -> Any:
    """A module of the Zipformer recipe, such as zipformer or optim."""
    if "k2" not in sys.modules:
        _stand_in_for_k2()
        sys.path.insert(0, str(checkout / MODEL_FILES))
    return importlib.import_module(name)


def _stand_in_for_k2() -> None:
    """Replacements of k2's two activations, and icefall's helpers that the model's files import."""

    def swoosh(x: Tensor, shift: float, offset: float) -> Tensor:
        return torch.nn.functional.softplus(x - shift) - 0.08 * x - offset

    def with_slope(x: Tensor, shift: float, offset: float) -> tuple[Tensor, Tensor]:
        return swoosh(x, shift, offset), torch.sigmoid(x - shift) - 0.08

    k2 = MagicMock()
    for letter, numbers in (("l", (4.0, 0.035)), ("r", (1.0, 0.313261687))):
        function = partial(swoosh, shift=numbers[0], offset=numbers[1])
        setattr(k2, f"swoosh_{letter}", function)
        setattr(k2, f"swoosh_{letter}_forward", function)
        slope = partial(with_slope, shift=numbers[0], offset=numbers[1])
        setattr(k2, f"swoosh_{letter}_forward_and_deriv", slope)
    utils = types.ModuleType("icefall.utils")
    utils.__dict__.update(
        torch_autocast=lambda **_: contextlib.nullcontext(),
        make_pad_mask=lambda lens, size=0: torch.arange(max(size, int(lens.max()))) >= lens[:, None],
        add_sos=MagicMock(), add_eos=MagicMock(), time_warp=MagicMock(),
    )  # fmt: skip
    sys.modules |= {"k2": k2, "icefall": types.ModuleType("icefall"), "icefall.utils": utils}


def main() -> int:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Load a Maya export with icefall and compare the two."
    )
    parser.add_argument("--icefall", type=Path, required=True, help="a checkout of icefall")
    parser.add_argument("--kinds", action="store_true", help="random models of every kind, no folder")
    parser.add_argument("paths", type=Path, nargs="+", help="the exported folder, then audio files")
    args = parser.parse_args()
    failed = 0
    with TemporaryDirectory() as work:
        models = {}
        if args.kinds:
            files = importlib.import_module("tests.convert.icefall_files")

            torch.manual_seed(0)
            for kind, fields in files.KINDS.items():
                made = files.recognizer(Path(work), **fields)
                to_icefall(made, Path(work) / kind)
                models[kind] = (made, Path(work) / kind)
        else:
            folder = args.paths.pop(0)
            ours = from_icefall(folder / WEIGHTS, folder / SENTENCEPIECE)
            models[str(folder)] = (ours, folder)
        for kind, (ours, folder) in models.items():
            for what, bar, measured, holds in check(ours, folder, args.icefall, args.paths):
                failed += not holds
                print(f"{kind:20} {what:45} | {bar} | {measured} {'' if holds else 'FAILED'}", flush=True)
    print(f"maya {maya.__version__}: {'all hold' if not failed else f'{failed} failed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
