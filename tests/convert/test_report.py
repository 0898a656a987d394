"""What is told of a model of any kind, and that only models of NeMo's parts go to NeMo and to ONNX."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from maya.convert import to_nemo
from maya.convert.nemo.export import nemo_config, with_language
from maya.convert.nemo.weights import contradictions
from maya.convert.onnx.fastconformer import metadata, to_onnx
from maya.convert.report import components
from maya.decode.recognizer import Recognizer
from maya.errors import MayaError
from maya.models.speech_model import SpeechModel
from tests import tiny_zipformer
from tests.convert.archives import recognizer, tokenizer


def zipformer() -> Recognizer:
    own = tokenizer()
    cfg = tiny_zipformer.config(causal=True, vocab_size=own.vocab_size, languages=("en",))
    return Recognizer(model=SpeechModel(cfg), tokenizer=own, device=torch.device("cpu"))


def test_the_parts_of_a_zipformer_in_words() -> None:
    model = zipformer().model
    found = {c.module: c for c in components(model.cfg, model.state_dict())}
    assert found["encoder"].parameters == sum(p.numel() for p in model.encoder.parameters())
    told = {name: c.settings for name, c in found.items()}
    assert told == {
        "preprocessor": "80 mel, 25 ms window, 10 ms hop, Kaldi's",
        "encoder": "zipformer, 1 2 1 layers × 16 32 24, 2 2 2 heads, downsampling 1 2 4, causal",
        "decoder": "stateless, 2 labels × 32",
        "joint": "32, tanh, pruned RNN-T, 5 labels a frame",
        "simple_joint": "",
        "ctc_decoder": "weight 0.3",
    }


def test_the_parts_of_a_hybrid_of_nemos_kind() -> None:
    model = recognizer(**{"encoder.att_context_size": ((4, 2),), "features.normalize": "none"}).model
    told = {c.module: c.settings for c in components(model.cfg, model.state_dict())}
    assert told["preprocessor"] == "80 mel, 25 ms window, 10 ms hop, normalize none"
    assert told["encoder"] == (
        "2 layers × 32, 2 heads, kernel 9, subsampling 4 × 8, batch norm, biases, xscaling, "
        "regular attention (4, 2)"
    )
    assert (told["decoder"], told["joint"]) == ("LSTM 1 × 32", "32, relu, durations 0 1 2 3 4")


Entry = Callable[[Recognizer, Path], Any]
ENTRIES: dict[str, tuple[str, Entry]] = {
    "to_nemo": ("NeMo", lambda m, out: to_nemo(m, out / "a.nemo")),
    "nemo_config": ("NeMo", lambda m, out: nemo_config(m.model.cfg, m.tokenizer)),
    "contradictions": ("NeMo", lambda m, out: list(contradictions(m.model.state_dict(), m.model.cfg))),
    "with_language": (
        "fixing the language",
        lambda m, out: with_language(m.model.state_dict(), m.model.cfg, "en"),
    ),
    "to_onnx": ("the ONNX export", lambda m, out: to_onnx(m, out)),
    "metadata": ("the ONNX export", lambda m, out: metadata(m.model, "transducer")),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_another_encoder_is_refused_in_one_sentence(tmp_path: Path, entry: str) -> None:
    if entry == "to_onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    what, call = ENTRIES[entry]
    with pytest.raises(MayaError) as caught:
        call(zipformer(), tmp_path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{what} knows models of log-mel features, FastConformer and an LSTM")
    assert "fbank" in sentence and "\n" not in sentence
    assert list(tmp_path.iterdir()) == []


def test_the_first_part_that_does_not_fit_is_named(tmp_path: Path) -> None:
    other = zipformer()
    ours = recognizer()
    for part in ("encoder", "predictor"):
        ours.model.cfg = replace(recognizer().model.cfg, **{part: getattr(other.model.cfg, part)})
        with pytest.raises(MayaError, match=getattr(other.model.cfg, part).kind):
            to_nemo(ours, tmp_path / "a.nemo")
