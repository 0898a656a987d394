"""The table of decoding methods: their heads, their options, and a method in a user's own file."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from maya.config import config
from maya.decode.attention.beam import AttentionBeamConfig, attention_beam
from maya.decode.base import Method, MethodConfig, MethodContext
from maya.decode.beams.transducer_beams import TransducerParts
from maya.decode.ctc.beam import BeamConfig
from maya.decode.ctc.greedy import CTCDecoder
from maya.decode.fusion import Fusion
from maya.decode.head_choice import TrainedHeads
from maya.decode.hypothesis import Hypothesis
from maya.decode.methods import (
    METHODS,
    choose_method,
    greedy,
    greedy_method,
    head_of_method,
    possible_methods,
)
from maya.decode.recognizer import Recognizer
from maya.decode.transducer.modified_beam import ModifiedBeamConfig, modified_beam_search
from maya.encoders import Encoded
from maya.errors import MayaError
from maya.heads import AttentionDecoderConfig, CTCConfig
from maya.models.config import SpeechModelConfig, with_vocabulary
from maya.models.speech_model import SpeechModel, build_model
from maya.recipes import presets
from maya.recipes.cli import main
from maya.recipes.experiment import Experiment
from maya.recipes.prepare import prepare
from maya.recipes.tokenizer import tokenizer as train_tokenizer
from maya.recipes.training_texts import training_texts
from maya.text.load import load_tokenizer
from maya.text.tokenizer import Tokenizer
from maya.train.checkpoints.checkpoint import Checkpoint, save_checkpoint
from tests import tiny, tiny_zipformer, tones
from tests.data.making import make_tokenizer, write_corpus

ATTENTION = AttentionDecoderConfig(layers=1, dim=16, heads=2, feed_forward=32)
Texts = Callable[[], Iterator[tuple[str, list[int]]]]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Texts:
    folder = tmp_path_factory.mktemp("methods")
    write_corpus(folder / "c")
    prepare(Experiment(name="test", languages=("en", "hi")), folder / "c", folder / "data")
    return training_texts(folder / "data", tokenizer)


def icefall(*without: str, **options: Any) -> SpeechModelConfig:
    """A pruned transducer, CTC and an attention decoder."""
    cfg = tiny_zipformer.config(blank_first=False, languages=("en", "hi"), **options)
    cfg.heads["attention"] = ATTENTION
    for name in without:
        del cfg.heads[name]
    return cfg


def recognizer(cfg: SpeechModelConfig, tokenizer: Tokenizer) -> Recognizer:
    torch.manual_seed(0)
    model = SpeechModel(with_vocabulary(cfg, tokenizer.vocab_size, ("en", "hi"))).eval()
    return Recognizer(model=model, tokenizer=tokenizer, device=torch.device("cpu"))


def frames(ours: Recognizer) -> tuple[Encoded, Tensor]:
    encoded = Encoded(torch.randn(2, 9, ours.model.cfg.encoder.d_model), torch.tensor([9, 4]))
    return encoded, torch.tensor([0, -1])


def search(
    ours: Recognizer, encoded: Encoded, langs: Tensor, name: str, options: MethodConfig | None = None,
    texts: Texts | None = None,
) -> list[Hypothesis]:  # fmt: skip
    return ours.make_method(ours.choose_method(name), options, texts)(encoded, langs)


def test_greedy_methods_and_ctc_beam(texts: Texts, tokenizer: Tokenizer) -> None:
    ours = recognizer(presets.tiny(), tokenizer)
    encoded, langs = frames(ours)
    for name in ("transducer", "ctc"):
        assert search(ours, encoded, langs, name) == greedy(ours.model, encoded, name, langs)
    beam = search(ours, encoded, langs, "ctc_beam", BeamConfig(), texts)
    without = search(ours, encoded, langs, "ctc_beam", BeamConfig(lm_order=0), texts)
    assert len(beam) == len(without) == 2
    assert [h.tokens for h in beam] != [h.tokens for h in without]


def test_each_row_is_decoded_with_the_model_of_its_language(texts: Texts, tokenizer: Tokenizer) -> None:
    ours = recognizer(presets.tiny(), tokenizer)
    options = BeamConfig(lm_order=4, lm_weight=1.0, token_bonus=0.0)
    method: Any = ours.make_method(ours.choose_method("ctc_beam"), options, texts)

    def total(ids: list[int], lang: int) -> float:
        state = method.fusion.start(1, torch.tensor([lang]))
        like, sum_of_scores = torch.zeros(1, ours.model.cfg.labels + 1), 0.0
        for token in ids:
            sum_of_scores += float(method.fusion.scores(state, like)[0, token])
            state = method.fusion.advance(state, torch.tensor([token]))
        return sum_of_scores + float(method.fusion.final(state, torch.zeros(1)))

    for language, ids in texts():
        own = ("en", "hi").index(language)
        assert total(list(ids), own) > total(list(ids), -1) > total(list(ids), 1 - own)


def test_beam_searches_of_icefall_heads(tokenizer: Tokenizer) -> None:
    ours = recognizer(icefall(), tokenizer)
    encoded, langs = frames(ours)
    transducer, decoder = (ours.model.head(name) for name in ("transducer", "attention"))
    penalty = ModifiedBeamConfig(beam=3, blank_penalty=1.0)
    parts = TransducerParts(predictor=transducer.decoder, joint=transducer.joint, blank=transducer.blank)
    expected = modified_beam_search(encoded, parts, penalty)
    assert search(ours, encoded, langs, "modified_beam", penalty) == expected
    wide = AttentionBeamConfig(beam=3)
    assert search(ours, encoded, langs, "attention", wide) == attention_beam(*encoded, decoder, wide)
    assert len(search(ours, encoded, langs, "attention_rescoring")) == 2


def test_an_attention_decoder_alone_is_decoded_greedily(tokenizer: Tokenizer) -> None:
    ours = recognizer(icefall("transducer", "ctc"), tokenizer)
    encoded, langs = frames(ours)
    expected = attention_beam(*encoded, ours.model.head("attention"), AttentionBeamConfig(beam=1))
    assert search(ours, encoded, langs, "auto") == expected
    with pytest.raises(MayaError, match="cannot decode a stream: it reads whole utterances"):
        ours.stream()


@pytest.mark.parametrize(
    ("method", "without", "kinds"),
    [
        ("ctc_beam", "ctc", "ctc"),
        ("attention_rescoring", "attention", "ctc and one of kind attention"),
        ("attention", "attention", "attention"),
        ("modified_beam", "transducer", "transducer"),
    ],
)
def test_method_without_its_head_is_refused(
    tokenizer: Tokenizer, method: str, without: str, kinds: str
) -> None:
    ours = recognizer(icefall(without), tokenizer)
    message = f"^decode.method={method} reads a head of kind {kinds}, which this model lacks$"
    with pytest.raises(MayaError, match=message):
        ours.choose_method(method)
    assert method not in possible_methods(ours.model.cfg, ours.trained_heads())


@pytest.mark.parametrize(
    "method", ["alsd", "maes", "modified_beam", "ctc_beam", "attention", "attention_rescoring"]
)
def test_beam_searches_fuse_and_give_alternatives(tokenizer: Tokenizer, method: str) -> None:
    """Of an RNN-T and a TDT, with CTC and attention. A penalty for each token gives shorter texts, and no
    weight changes nothing."""
    for kind in ("rnnt", "tdt"):
        ours = recognizer(icefall(transducer=kind), tokenizer)
        encoded, langs = frames(ours)
        choice, cls = ours.choose_method(method), METHODS[method]
        options: Any = cls(n_best=3, **({"lm_order": 0} if "lm_order" in cls.__dataclass_fields__ else {}))
        blank = ours.model.cfg.blank
        plain, zero, shorter = (
            options.build(MethodContext(model=ours.model, heads=choice.heads, fusion=fusion))(encoded, langs)
            for fusion in (None, Fusion([], blank=blank), Fusion([], blank=blank, token_bonus=-8.0))
        )
        assert zero == plain
        assert sum(len(h.tokens) for h in shorter) < sum(len(h.tokens) for h in plain)
        for hyp in plain:
            scores = [h.search_score for h in (hyp, *hyp.alternatives)]
            assert len(scores) > 1 and scores == sorted(scores, reverse=True)
            assert len({tuple(h.tokens) for h in (hyp, *hyp.alternatives)}) == len(scores)


def test_head_name_selects_the_method() -> None:
    cfg = icefall("attention")
    cfg.heads["letters"] = CTCConfig()
    names = tuple(cfg.text_heads)
    all_trained = TrainedHeads(heads=names, trained=names)
    assert choose_method("letters", cfg, all_trained).heads == ("letters",)
    assert choose_method("letters", cfg, all_trained).method == "ctc"
    assert choose_method("ctc", cfg, all_trained).heads == ("ctc",)
    late = TrainedHeads(heads=names, trained=("letters",))
    assert choose_method("ctc_beam", cfg, late).heads == ("letters",)  # the first that was trained
    assert [head_of_method(m, cfg) for m in ("auto", "letters", "ctc_beam")] == [None, "letters", "ctc"]
    with pytest.raises(MayaError, match="unknown decoding method 'leters'; expected one of auto, transducer"):
        choose_method("leters", cfg, all_trained)


USER_FILE = '''
import math
from typing import Literal

from maya.config import config
from maya.decode.base import Method, MethodConfig
from maya.decode.ctc.greedy import greedy_ctc
from maya.heads import CTCConfig
from maya.ranges import Share
from tests import tiny


@config
class ConfidentConfig(MethodConfig):
    """Greedy CTC without the tokens that are less probable than `min_probability`."""

    heads = (CTCConfig,)
    kind: Literal["confident"] = "confident"
    min_probability: Share = 0.5


class Confident(Method, config=ConfidentConfig):
    def search(self, encoded, langs):
        (ctc,) = self.heads
        hyps = greedy_ctc(ctc(encoded.frames), encoded.lens, blank=ctc.blank)
        least = math.log(max(self.cfg.min_probability, 1e-30))
        for hyp in hyps:
            kept = [i for i, score in enumerate(hyp.scores) if score >= least]
            for name in ("tokens", "frames", "durations", "scores"):
                setattr(hyp, name, [getattr(hyp, name)[i] for i in kept])
        return hyps


def experiment():
    return tiny.experiment()
'''


def test_user_file_adds_a_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(USER_FILE.strip().splitlines()) <= 40
    (tmp_path / "mine.py").write_text(USER_FILE)
    data, run = tmp_path / "data", tmp_path / "run"
    exp = tiny.experiment()
    tones.make_corpus(tmp_path / "corpus", utterances=12)
    prepare(exp, tmp_path / "corpus", data)
    train_tokenizer(exp, data, run)
    pieces = load_tokenizer(run / "tokenizer.model")
    model = build_model(with_vocabulary(exp.model, pieces.vocab_size, ("en", "hi")))
    save_checkpoint(run / "best.pt", Checkpoint(model_config=model.cfg, tokenizer=pieces,
                    weights=model.state_dict(), step=0, notes={}))  # fmt: skip
    command = [
        "decode",
        "--experiment",
        str(tmp_path / "mine.py"),
        "--data",
        str(data),
        "--run-dir",
        str(run),
    ]

    def rows(method: str) -> dict[str, Any]:
        lines = (run / "decode" / method / "test" / "hyps.jsonl").read_text().splitlines()
        return {row["id"]: row for row in map(json.loads, lines)}

    option = "decode.methods.confident.min_probability"
    assert main([*command, "--method", "ctc", "confident", "--set", f"{option}=0"]) == 0
    plain = rows("ctc")
    assert {i: r["tokens"] for i, r in rows("confident").items()} == {
        i: r["tokens"] for i, r in plain.items()
    }
    scores = sorted(score for row in plain.values() for score in row["scores"])
    least = torch.tensor(scores[len(scores) // 2]).exp().item()
    assert main([*command, "--method", "confident", "--set", f"{option}={least}"]) == 0
    kept = [score for row in rows("confident").values() for score in row["scores"]]
    assert 0 < len(kept) < len(scores) and min(kept) >= scores[len(scores) // 2] - 1e-6
    assert main([*command, "--method", "confident", "--set", f"{option}=2"]) == 1
    assert f"{option} must be from 0 to 1" in capsys.readouterr().err
    ours = Recognizer(model=model.eval(), tokenizer=pieces, device=torch.device("cpu"))
    with pytest.raises(MayaError, match="decode.method=confident cannot decode a stream: it reads whole utt"):
        ours.stream(method="confident")
    assert "confident" in possible_methods(model.cfg, ours.trained_heads())


@pytest.fixture
def own_methods() -> Iterator[None]:
    """Methods that a test defines are not there for the tests after it."""
    before = dict(METHODS)
    yield
    for name in METHODS.keys() - before.keys():
        del METHODS[name]


@pytest.mark.usefixtures("own_methods")
def test_methods_of_several_heads_and_of_none() -> None:
    @config
    class VoteConfig(MethodConfig):
        heads = (CTCConfig, CTCConfig)
        kind: Literal["test_vote"] = "test_vote"

    @config
    class HeadlessConfig(MethodConfig):
        kind: Literal["test_headless"] = "test_headless"

    cfg = tiny.hybrid(transducer="none")
    cfg.heads = {"words": CTCConfig(), "letters": CTCConfig()}
    both = TrainedHeads(heads=("words", "letters"), trained=("words", "letters"))
    assert choose_method("test_vote", cfg, both).heads == ("words", "letters")
    with pytest.raises(MayaError, match="test_headless reads no head: .* as HeadlessConfig.heads"):
        choose_method("test_headless", cfg, both)
    del cfg.heads["letters"]
    with pytest.raises(MayaError, match="a head of kind ctc and one of kind ctc, which this model lacks"):
        choose_method("test_vote", cfg, TrainedHeads(heads=("words",), trained=("words",)))


@pytest.mark.usefixtures("own_methods")
def test_a_head_of_ones_own_has_the_greedy_method_of_its_own_class() -> None:
    @config
    class LettersConfig(CTCConfig):
        kind: Literal["test_letters"] = "test_letters"  # type: ignore[assignment]

    assert greedy_method(LettersConfig()).kind == "ctc"

    @config
    class SpellConfig(MethodConfig):
        heads = (LettersConfig,)
        greedy = {"limit": 3}  # noqa: RUF012
        kind: Literal["test_spell"] = "test_spell"
        limit: int = 1

    assert greedy_method(LettersConfig()) == SpellConfig(limit=3)
    assert greedy_method(CTCConfig()).kind == "ctc"


@pytest.mark.usefixtures("own_methods")
def test_options_of_a_method_need_defaults() -> None:
    @config
    class LimitConfig(MethodConfig):
        heads = (CTCConfig,)
        kind: Literal["test_limit"] = "test_limit"
        limit: int

    with pytest.raises(MayaError, match="option 'limit' of the method 'test_limit' needs a default"):
        Experiment(name="test")


def test_ctc_beam_without_texts_says_so(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    """Neither language model nor the bonus that it needs."""
    ours = recognizer(presets.tiny(), tokenizer)
    encoded, langs = frames(ours)
    assert search(ours, encoded, langs, "ctc_beam", BeamConfig(token_bonus=5.0)) == search(
        ours, encoded, langs, "ctc_beam", BeamConfig(lm_order=0, token_bonus=0.0)
    )
    assert caplog.messages == [
        "decoding by ctc_beam without a language model: there are no training texts here"
    ]


@pytest.mark.usefixtures("own_methods")
def test_a_method_with_stream_can_stream_and_one_without_search_is_refused(tokenizer: Tokenizer) -> None:
    @config
    class LiveConfig(MethodConfig):
        heads = (CTCConfig,)
        kind: Literal["test_live"] = "test_live"

    class Live(Method, config=LiveConfig):
        def stream(self, batch: int, langs: Tensor | None = None) -> CTCDecoder:
            return CTCDecoder(self.heads[0], batch, blank=self.heads[0].blank)

    ours = recognizer(presets.tiny(), tokenizer)
    assert ours.choose_method("test_live", stream=True).heads == ("ctc",)
    encoded, langs = frames(ours)
    assert search(ours, encoded, langs, "test_live") == greedy(ours.model, encoded, "ctc", langs)
    with pytest.raises(MayaError, match="Nothing has neither `search` nor `stream`"):

        class Nothing(Method, config=LiveConfig):
            pass
