"""Speech into a language model: exact under padding, the LM itself stays, and it learns to transcribe."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from maya.data.loading.batch import Batch, make_batch
from maya.errors import MayaError
from maya.heads.language_model import LoraConfig, Projector, SpeechLLM, SpeechLLMConfig, load_tokenizer
from maya.recipes import presets
from maya.text.llm_tokenizer import LLMTokenizer
from maya.text.tokenizer import Tokenizer
from tests import tiny_llm, tones

pytest.importorskip("transformers", reason="pip install 'maya-asr[llm]'")
pytest.importorskip("peft", reason="pip install 'maya-asr[llm]'")

TEXTS = ["ab", "c dab", "हिन्दी", "a"]


def config(llm: Path | str, **changes: object) -> SpeechLLMConfig:
    shape = presets.fastconformer_tdt_ctc(
        d_model=32, n_layers=1, n_heads=2, subsampling_channels=8, subsampling_factor=4, dropout=0.0
    )
    cfg = SpeechLLMConfig(features=shape.features, encoder=shape.encoder, llm=str(llm))
    cfg.features.dither = 0.0
    cfg.specaugment.freq_masks = cfg.specaugment.time_masks = 0
    cfg.projector_hidden, cfg.stack, cfg.languages = 64, 3, ("en", "hi")
    cfg.lora.rank, cfg.lora.dropout = 4, 0.0
    for name, value in changes.items():
        setattr(cfg, name, value)
    return cfg


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm.make(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def tokenizer(llm: Path) -> LLMTokenizer:
    return load_tokenizer(str(llm))


def batch_of(tokenizer: Tokenizer, rows: list[int]) -> Batch:
    """Utterances of 0.4 to 1.4 s in English, Hindi and no language."""
    spoken = ["ab", "cdab c", "abc", "a"]
    return make_batch(
        [torch.from_numpy(tones.speak(spoken[i])) for i in rows],
        tokenizer.encode_batch([TEXTS[i] for i in rows]),
        [(0, 1, -1, 0)[i] for i in rows],
        [str(i) for i in rows],
        sample_rate=tones.RATE,
    )


def stirred(llm: Path | str, **changes: object) -> SpeechLLM:
    """A model whose LoRA is not zero, as after some training."""
    torch.manual_seed(1)
    model = SpeechLLM(config(llm, **changes)).eval()
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    return model


@pytest.mark.parametrize("kind", ["gemma3", "gemma2", "llama"])
def test_a_batch_is_its_utterances(kind: str, tmp_path: Path) -> None:
    model = stirred(tiny_llm.make(tmp_path, kind))
    tokenizer = load_tokenizer(str(tmp_path))
    everything = range(len(TEXTS))
    whole = batch_of(tokenizer, list(everything))
    losses = model(whole).total
    assert losses.shape == (4,) and losses.dtype == torch.float32
    written = transcripts(model, whole)
    for i in everything:
        alone = batch_of(tokenizer, [i])
        torch.testing.assert_close(model(alone).total[0], losses[i], rtol=2e-5, atol=0)
        mine = transcripts(model, alone)[0]
        assert mine.tokens == written[i].tokens
        torch.testing.assert_close(mine.scores, written[i].scores, rtol=0, atol=2e-5)


def transcripts(model: SpeechLLM, batch: Batch) -> list:
    with torch.inference_mode():
        return model.generate(
            *model.project(batch.audio, batch.audio_lens), batch.langs, max_tokens=[12] * batch.size
        )


def test_loss_is_that_of_the_transcript_and_its_end(llm: Path, tokenizer: LLMTokenizer) -> None:
    """Against the LM asked directly, without padding, for all its logits."""
    model = stirred(llm)
    for i in range(len(TEXTS)):
        batch = batch_of(tokenizer, [i])
        speech, lens = model.project(batch.audio, batch.audio_lens)
        name = ("English ", "Hindi ", "", "English ")[i]
        asked = f"Transcribe the following {name}speech: "
        embed = model.lm.get_input_embeddings()
        before = embed(torch.tensor([tiny_llm.SPECIAL.index("<bos>"), *tokenizer.encode(asked)]))
        after = embed(torch.tensor([*tokenizer.encode("\n"), *tokenizer.encode(TEXTS[i])]))
        said = model.lm(inputs_embeds=torch.cat([before, speech[0, : lens[0]], after])[None]).logits[0]
        wanted = torch.tensor([*tokenizer.encode(TEXTS[i]), tiny_llm.SPECIAL.index("<eos>")])
        expected = functional.cross_entropy(said[-len(wanted) :], wanted, reduction="sum")
        torch.testing.assert_close(model(batch).total[0], expected, rtol=1e-5, atol=0)


def test_generation_is_the_argmax_of_the_loss(llm: Path, tokenizer: LLMTokenizer) -> None:
    model = stirred(llm)
    batch = batch_of(tokenizer, [0, 1, 2])
    written = transcripts(model, batch)
    end = model.prompts[0].end
    again = make_batch(
        [a[:n] for a, n in zip(batch.audio, batch.audio_lens.tolist(), strict=True)],
        [w.tokens for w in written], batch.langs.tolist(), batch.ids, sample_rate=batch.sample_rate,
    )  # fmt: skip
    speech, lens = model.project(again.audio, again.audio_lens)
    logits, _ = model.logits(speech, lens, again)
    for row, found in enumerate(written):
        assert len(found.tokens) <= 12 and found.ended == (len(found.tokens) < 12)
        best, at = logits[row].log_softmax(-1).max(-1)
        wanted = [*found.tokens, end] if found.ended else found.tokens
        assert at[: len(wanted)].tolist() == wanted
        torch.testing.assert_close(best[: len(found.tokens)].tolist(), found.scores, rtol=0, atol=2e-5)


def test_the_lm_does_not_learn(llm: Path, tokenizer: LLMTokenizer) -> None:
    model = stirred(llm).train()
    model(batch_of(tokenizer, [0, 1])).total.sum().backward()
    learns = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    lora = {n for n, _ in model.named_parameters() if ".lora_" in n}
    assert len(lora) == 2 * 2 * 7  # A and B of seven matrices in two layers
    assert lora <= learns and {n for n, _ in model.named_parameters() if n.startswith("projector")} <= learns
    assert any(n.startswith("encoder.") for n in learns)
    base = [p for n, p in model.lm.named_parameters() if ".lora_" not in n]
    assert all(p.grad is None and not p.requires_grad for p in base)
    model.zero_grad(set_to_none=True)
    model.freeze_encoder(True)
    model(batch_of(tokenizer, [0, 1])).total.sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert model.projector.layers[0].weight.grad is not None


def test_stacking_does_not_see_the_padding() -> None:
    projector = Projector(8, 3, 16, 4)
    enc = torch.randn(2, 7, 8)
    out, lens = projector(enc, torch.tensor([7, 4]))
    assert out.shape == (2, 3, 4) and lens.tolist() == [3, 2]
    alone, _ = projector(enc[1:, :4], torch.tensor([4]))
    torch.testing.assert_close(out[1, :2], alone[0])


def test_a_state_dict_without_the_lm(llm: Path) -> None:
    model, other = stirred(llm), SpeechLLM(config(llm))
    state = model.state_dict()
    assert state and not [n for n in state if n.startswith("lm.") and ".lora_" not in n]
    assert {n.split(".")[0] for n in state} == {"preprocessor", "encoder", "projector", "lm", "lm_digest"}
    other.load_state_dict(state)  # strict
    for name, value in state.items():
        assert torch.equal(value, other.state_dict()[name]), name
    with pytest.raises(RuntimeError, match="projector"):
        other.load_state_dict({n: t for n, t in state.items() if not n.startswith("projector.layers.0")})


def test_another_lm_of_the_same_shape_is_refused(llm: Path, tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="another language model"):
        SpeechLLM(config(tiny_llm.make(tmp_path, seed=7))).load_state_dict(
            SpeechLLM(config(llm)).state_dict()
        )


def test_half_precision_weights_are_the_same_lm(llm: Path, tokenizer: LLMTokenizer) -> None:
    """The frozen weights in bf16; LoRA and what else learns stays in fp32."""
    model, half = stirred(llm), SpeechLLM(config(llm, llm_precision="bf16")).eval()
    half.load_state_dict(model.state_dict())
    assert half.lm.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {p.dtype for p in half.parameters() if p.requires_grad} == {torch.float32}
    batch = batch_of(tokenizer, [0, 1, 2])
    torch.testing.assert_close(half(batch).total, model(batch).total, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"llm": ""}, "model.llm is empty"),
        ({"llm": "no/such/model/here"}, "no language model that can be loaded"),
        ({"stack": 0}, "stack must be 1 or more, not 0"),
        ({"lora": LoraConfig(targets=("query",))}, "no layers named query"),
    ],
)
def test_what_cannot_be_built_is_told(llm: Path, changes: dict, complaint: str) -> None:
    with pytest.raises(MayaError, match=complaint):
        SpeechLLM(config(llm, **changes) if "llm" not in changes else config(changes["llm"]))


def test_recomputed_layers_give_the_same_gradients(llm: Path, tokenizer: LLMTokenizer) -> None:
    batch, grads, written = batch_of(tokenizer, [0, 1]), [], []
    for checkpointing in (False, True):
        model = stirred(llm, llm_checkpointing=checkpointing).train()
        assert model.lm.is_activation_checkpointing == checkpointing
        torch.manual_seed(3)
        model(batch).total.sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        written.append([found.tokens for found in transcripts(model.eval(), batch)])
    assert written[0] == written[1]
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-5)


def test_without_lora_only_the_projector_learns(llm: Path) -> None:
    model = SpeechLLM(config(llm, lora=LoraConfig(rank=0)))
    assert not [n for n, p in model.lm.named_parameters() if p.requires_grad]
