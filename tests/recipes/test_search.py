"""The decoder that a method names, and the heads that it needs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from maya.decode.attention_beam import attention_beam
from maya.decode.modified_beam import modified_beam_search
from maya.decode.recognizer import Recognizer, decode_frames
from maya.errors import MayaError
from maya.heads.attention import AttentionDecoderConfig
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.recipes import presets
from maya.recipes.experiment import DecodeConfig, Experiment
from maya.recipes.prepare import prepare
from maya.recipes.search import make_search
from maya.text.tokenizer import Tokenizer
from tests import tiny_zipformer
from tests.data.making import make_tokenizer, write_corpus


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    write_corpus(folder / "c")
    prepare(Experiment(name="test", languages=("en", "hi")), folder / "c", folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


def recognizer(cfg: SpeechModelConfig, tokenizer: Tokenizer, **settings: Any) -> Recognizer:
    cfg.vocab_size, cfg.languages = tokenizer.vocab_size, ("en", "hi")
    for name, value in settings.items():
        setattr(cfg, name, value)
    torch.manual_seed(0)
    return Recognizer(model=SpeechModel(cfg).eval(), tokenizer=tokenizer, device=torch.device("cpu"))


def frames(made: Recognizer) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 9, made.model.cfg.encoder.d_model), torch.tensor([9, 4])


def test_greedy_methods_and_ctc_beam(data: Path, tokenizer: Tokenizer) -> None:
    made = recognizer(presets.tiny(), tokenizer)
    enc, lens = frames(made)
    for method in ("transducer", "ctc"):
        found = make_search(DecodeConfig(method=method), data, made)(enc, lens, ["en", ""])
        assert found == decode_frames(made.model, enc, lens, method=method)
    beam = make_search(DecodeConfig(method="ctc_beam"), data, made)(enc, lens, ["en", ""])
    without = make_search(DecodeConfig(method="ctc_beam", lm_order=0), data, made)(enc, lens, ["en", ""])
    assert len(beam) == len(without) == 2
    assert [h.tokens for h in beam] != [h.tokens for h in without]


def test_searches_of_icefalls_heads(data: Path, tokenizer: Tokenizer) -> None:
    decoder = AttentionDecoderConfig(layers=1, dim=16, heads=2, feed_forward=32)
    cfg = tiny_zipformer.config(blank_first=False, attention_weight=0.5, attention_decoder=decoder)
    made = recognizer(cfg, tokenizer)
    model, (enc, lens) = made.model, frames(made)
    options: dict[str, Any] = {"hypotheses": 3, "blank_penalty": 1.0}
    found = {
        method: make_search(DecodeConfig(method=method, **options), data, made)(enc, lens, ["en", ""])
        for method in ("transducer", "modified_beam", "attention_rescoring", "attention")
    }
    assert all(len(hyps) == 2 for hyps in found.values())
    assert found["modified_beam"] == modified_beam_search(
        enc, lens, model.decoder, model.joint, blank=model.blank, beam=3, blank_penalty=1.0
    )
    assert found["attention"] == attention_beam(enc, lens, model.attention_decoder, beam=3)
    assert found["transducer"] == decode_frames(model, enc, lens)


def test_an_attention_decoder_alone_is_decoded_greedily(data: Path, tokenizer: Tokenizer) -> None:
    decoder = AttentionDecoderConfig(layers=1, dim=16, heads=2, feed_forward=32)
    cfg = tiny_zipformer.config(blank_first=False, attention_weight=1.0, attention_decoder=decoder)
    made = recognizer(cfg, tokenizer, transducer="none", ctc_weight=0.0)
    enc, lens = frames(made)
    assert decode_frames(made.model, enc, lens) == attention_beam(
        enc, lens, made.model.attention_decoder, beam=1
    )


@pytest.mark.parametrize(
    ("method", "settings", "missing"),
    [
        ("ctc_beam", {"ctc_weight": 0.0}, "CTC head"),
        ("attention_rescoring", {}, "attention decoder"),
        ("attention", {}, "attention decoder"),
        ("modified_beam", {"transducer": "none"}, "transducer"),
    ],
)
def test_a_method_needs_its_head(
    data: Path, tokenizer: Tokenizer, method: Any, settings: dict, missing: str
) -> None:
    made = recognizer(tiny_zipformer.config(blank_first=False), tokenizer, **settings)
    with pytest.raises(MayaError, match=missing):
        make_search(DecodeConfig(method=method), data, made)
