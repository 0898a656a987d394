"""From options to scorers: whole searches with a language model and hot words, weight 0, and refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch

from maya.decode.lm.arpa import write_arpa
from maya.decode.lm.fusion_config import FusionConfig
from maya.decode.lm.kneser_ney import NGram
from maya.decode.lm.make_fusion import make_fusion
from maya.decode.lm.token_ngram import named_arpa
from maya.decode.methods import METHODS, MethodChoice
from maya.decode.recognizer import Recognizer
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.models.config import with_vocabulary
from maya.models.speech_model import build_model
from maya.recipes.decode import _inputs
from maya.recipes.experiment import DecodeConfig
from maya.recipes.lm import vocabulary_of
from maya.text.tokenizer import Tokenizer, TokenizerConfig
from tests import tiny

TEXTS = ["the cat sat on the mat", "a dog on a log", "call the doctor"] * 3


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    exp = tiny.experiment()
    pieces = Tokenizer.train({"en": TEXTS}, TokenizerConfig(vocab_size=30))
    torch.manual_seed(0)
    model = build_model(with_vocabulary(exp.model, pieces.vocab_size, ("en", "hi"))).eval()
    return Recognizer(model=model, tokenizer=pieces, device=torch.device("cpu"))


@pytest.fixture
def arpa(recognizer: Recognizer, tmp_path: Path) -> str:
    vocab = vocabulary_of(recognizer)
    lm = NGram([recognizer.tokenizer.encode(t) for t in TEXTS], recognizer.tokenizer.vocab_size, order=3)
    write_arpa(named_arpa(lm, vocab), tmp_path / "lm.arpa")
    return str(tmp_path / "lm.arpa")


def test_nothing_asked_and_weight_0_make_no_fusion(recognizer: Recognizer, arpa: str, tmp_path: Path) -> None:
    (tmp_path / "hot.txt").write_text("cat\n")
    assert make_fusion(FusionConfig(), recognizer) is None
    off = FusionConfig(lm=arpa, lm_weight=0, hotwords=str(tmp_path / "hot.txt"), hotwords_weight=0)
    assert make_fusion(off, recognizer) is None


def test_every_part_has_its_weight(recognizer: Recognizer, arpa: str, tmp_path: Path) -> None:
    (tmp_path / "hot.txt").write_text("cat\ndoctor :2\n")
    cfg = FusionConfig(
        lm=arpa, lm_weight=0.4, lodr=arpa, lodr_weight=0.2, ilm_weight=0.1, token_bonus=0.7,
        hotwords=str(tmp_path / "hot.txt"), hotwords_weight=1.5,
    )  # fmt: skip
    fusion = make_fusion(cfg, recognizer, hotwords=["dog"], head="transducer")
    assert fusion is not None and [part.weight for part in fusion.parts] == [-0.1, 0.4, -0.2, 1.5]
    like = torch.zeros(2, recognizer.tokenizer.vocab_size + 1)
    state = fusion.start(2, torch.tensor([0, -1]))
    parts = zip(fusion.parts, state, strict=True)
    by_hand = sum(part.weight * part.scorer.scores(own) for part, own in parts)
    scores = fusion.scores(state, like)
    assert torch.allclose(scores[:, :-1], (by_hand + 0.7)[:, :-1]) and scores[:, -1].tolist() == [0, 0]


@pytest.mark.parametrize("name", [name for name, cfg in METHODS.items() if cfg.fuses and not cfg.no_stream])
def test_hot_words_change_what_a_search_writes(name: str, recognizer: Recognizer) -> None:
    fusion = make_fusion(FusionConfig(hotwords_weight=50.0), recognizer, lists=[["doctor"], ["cat"]])
    assert fusion is not None
    torch.manual_seed(1)
    encoded = Encoded(torch.randn(3, 12, 32), torch.tensor([12, 12, 12]))
    method: Any = recognizer.make_method(recognizer.choose_method(name), fusion=fusion)
    hyps = recognizer.with_text(method(encoded, None, lists=torch.tensor([0, 1, -1])))
    plain = recognizer.make_method(recognizer.choose_method(name))(encoded, None)
    assert hyps[2].tokens == plain[2].tokens
    if any(hyp.tokens for hyp in plain[:2]):
        assert [hyp.tokens for hyp in hyps[:2]] != [hyp.tokens for hyp in plain[:2]]


def test_refusals_say_what_to_do(recognizer: Recognizer, arpa: str) -> None:
    with pytest.raises(MayaError, match="cannot write the hot word 'ഒന്ന്'"):
        make_fusion(FusionConfig(), recognizer, hotwords=["ഒന്ന്"])
    with pytest.raises(MayaError, match="ilm_weight is for transducers"):
        make_fusion(FusionConfig(ilm_weight=0.1), recognizer, head="ctc")
    with pytest.raises(MayaError, match="cannot read the language model"):
        make_fusion(FusionConfig(lm="missing.arpa"), recognizer)


def test_method_that_does_not_fuse_refuses(recognizer: Recognizer, arpa: str) -> None:
    fusion = make_fusion(FusionConfig(lm=arpa), recognizer)
    for name in ("transducer", "ctc", "ctc_beam", "modified_beam"):
        if name in METHODS and not METHODS[name].fuses:
            choice = MethodChoice(method=name, heads=("ctc" if "ctc" in name else "transducer",), reason="")
            with pytest.raises(MayaError, match="takes no language model and no hot words"):
                recognizer.make_method(choice, fusion=fusion)


def test_stage_marker_depends_on_the_content(arpa: str, tmp_path: Path) -> None:
    (tmp_path / "hot.txt").write_text("cat\n")
    (tmp_path / "c.pt").write_text("x")
    cfg = DecodeConfig(method="transducer", fusion=FusionConfig(lm=arpa, hotwords=str(tmp_path / "hot.txt")))
    before = _inputs(cfg, tmp_path, "test", tmp_path / "c.pt")
    assert _inputs(cfg, tmp_path, "test", tmp_path / "c.pt") == before
    (tmp_path / "hot.txt").write_text("dog\n")
    assert _inputs(cfg, tmp_path, "test", tmp_path / "c.pt") != before
