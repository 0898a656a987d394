"""A language model as head: exact under padding, and the LM itself does not change."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from maya.data.loading.batch import Batch, make_batch
from maya.errors import MayaError
from maya.heads import LanguageModel, LanguageModelConfig
from maya.heads.language_model import LoraConfig, Projector, load_tokenizer
from maya.models.config import SpeechModelConfig
from maya.models.speech_model import SpeechModel
from maya.recipes import presets
from maya.text.llm_tokenizer import LLMTokenizer
from maya.text.tokenizer import Tokenizer
from tests import tiny_llm, tones

pytest.importorskip("transformers", reason="pip install 'maya-asr[llm]'")
pytest.importorskip("peft", reason="pip install 'maya-asr[llm]'")

TEXTS = ["ab", "c dab", "हिन्दी", "a"]


def config(llm: Path | str, **changes: Any) -> SpeechModelConfig:
    """A small encoder and a language model; `changes` are of the head."""
    shape = presets.fastconformer_tdt_ctc(
        d_model=32, n_layers=1, n_heads=2, subsampling_channels=8, subsampling_factor=4, dropout=0.0
    )
    head = {"projector_hidden": 64, "stack": 3, "lora": LoraConfig(rank=4, dropout=0.0)} | changes
    cfg = SpeechModelConfig(
        features=shape.features, encoder=shape.encoder, languages=("en", "hi"), vocab_size=261,
        heads={"llm": LanguageModelConfig(llm=str(llm), **head)},
    )  # fmt: skip
    cfg.features.dither = 0.0  # type: ignore[attr-defined]
    cfg.specaugment.freq_masks = cfg.specaugment.time_masks = 0
    return cfg


def head_of(model: SpeechModel) -> LanguageModel:
    head = model.head("llm")
    assert isinstance(head, LanguageModel)
    return head


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llm.make(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def tokenizer(llm: Path) -> LLMTokenizer:
    return load_tokenizer(str(llm))


def batch_of(tokenizer: Tokenizer, rows: list[int]) -> Batch:
    """Utterances of 0.4 to 1.4 s in English, Hindi and no language."""
    sounds = ["ab", "cdab c", "abc", "a"]
    return make_batch(
        [torch.from_numpy(tones.speak(sounds[i])) for i in rows],
        tokenizer.encode_batch([TEXTS[i] for i in rows]),
        [(0, 1, -1, 0)[i] for i in rows],
        [str(i) for i in rows],
        sample_rate=tones.RATE,
    )


def stirred(llm: Path | str, **changes: Any) -> SpeechModel:
    """A model whose LoRA is not zero, as after some training."""
    torch.manual_seed(1)
    model = SpeechModel(config(llm, **changes)).eval()
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
        transcript = transcripts(model, alone)[0]
        assert transcript.tokens == written[i].tokens
        torch.testing.assert_close(transcript.scores, written[i].scores, rtol=0, atol=2e-5)


def project(model: SpeechModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions of the LM that the speech fills."""
    return head_of(model).project(model.encode_audio(batch.audio, batch.audio_lens))


def transcripts(model: SpeechModel, batch: Batch) -> list:
    with torch.inference_mode():
        limits = [12] * batch.size
        return head_of(model).generate(*project(model, batch), batch.langs, max_tokens=limits)


def test_loss_is_that_of_the_transcript_and_its_end(llm: Path, tokenizer: LLMTokenizer) -> None:
    """Against the LM asked directly, without padding, for all its logits."""
    model = stirred(llm)
    lm = head_of(model).lm
    for i in range(len(TEXTS)):
        batch = batch_of(tokenizer, [i])
        speech, lens = project(model, batch)
        name = ("English ", "Hindi ", "", "English ")[i]
        prompt = f"Transcribe the following {name}speech: "
        embed = lm.get_input_embeddings()
        before = embed(torch.tensor([tiny_llm.SPECIAL.index("<bos>"), *tokenizer.encode(prompt)]))
        after = embed(torch.tensor([*tokenizer.encode("\n"), *tokenizer.encode(TEXTS[i])]))
        logits = lm(inputs_embeds=torch.cat([before, speech[0, : lens[0]], after])[None]).logits[0]
        targets = torch.tensor([*tokenizer.encode(TEXTS[i]), tiny_llm.SPECIAL.index("<eos>")])
        expected = functional.cross_entropy(logits[-len(targets) :], targets, reduction="sum")
        torch.testing.assert_close(model(batch).total[0], expected, rtol=1e-5, atol=0)


def test_generation_is_the_argmax_of_the_loss(llm: Path, tokenizer: LLMTokenizer) -> None:
    model = stirred(llm)
    batch = batch_of(tokenizer, [0, 1, 2])
    written = transcripts(model, batch)
    end = head_of(model).prompts[0].end
    again = make_batch(
        [a[:n] for a, n in zip(batch.audio, batch.audio_lens.tolist(), strict=True)],
        [w.tokens for w in written], batch.langs.tolist(), batch.ids, sample_rate=batch.sample_rate,
    )  # fmt: skip
    logits, _ = head_of(model).logits(*project(model, again), again)
    for row, transcript in enumerate(written):
        assert len(transcript.tokens) <= 12 and transcript.ended == (len(transcript.tokens) < 12)
        best, at = logits[row].log_softmax(-1).max(-1)
        tokens = [*transcript.tokens, end] if transcript.ended else transcript.tokens
        assert at[: len(tokens)].tolist() == tokens
        scores = best[: len(transcript.tokens)].tolist()
        torch.testing.assert_close(scores, transcript.scores, rtol=0, atol=2e-5)


def test_the_lm_does_not_learn(llm: Path, tokenizer: LLMTokenizer) -> None:
    model = stirred(llm).train()
    model(batch_of(tokenizer, [0, 1])).total.sum().backward()
    learns = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    lora = {n for n, _ in model.named_parameters() if ".lora_" in n}
    assert len(lora) == 2 * 2 * 7  # A and B of seven matrices in two layers
    projector = {n for n, _ in model.named_parameters() if n.startswith("heads.llm.projector")}
    assert projector and lora | projector <= learns
    assert any(n.startswith("encoder.") for n in learns)
    base = [p for n, p in head_of(model).lm.named_parameters() if ".lora_" not in n]
    assert all(p.grad is None and not p.requires_grad for p in base)
    model.zero_grad(set_to_none=True)
    model.freeze(("encoder",))
    model(batch_of(tokenizer, [0, 1])).total.sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert head_of(model).projector.layers[0].weight.grad is not None
    model.freeze(())  # the LM does not begin to learn
    assert all(not p.requires_grad for p in base) and all(p.requires_grad for p in model.encoder.parameters())


def test_stacking_does_not_see_the_padding() -> None:
    projector = Projector(8, 3, 16, 4)
    enc = torch.randn(2, 7, 8)
    out, lens = projector(enc, torch.tensor([7, 4]))
    assert out.shape == (2, 3, 4) and lens.tolist() == [3, 2]
    alone, _ = projector(enc[1:, :4], torch.tensor([4]))
    torch.testing.assert_close(out[1, :2], alone[0])


def test_a_state_dict_without_the_lm(llm: Path) -> None:
    model, other = stirred(llm), SpeechModel(config(llm))
    state = model.state_dict()
    assert state and not [n for n in state if ".lm." in n and ".lora_" not in n]
    assert {n.split(".")[0] for n in state} == {"preprocessor", "encoder", "heads"}
    head = {n.removeprefix("heads.llm.").split(".")[0] for n in state if n.startswith("heads.llm.")}
    assert head == {"projector", "lm", "lm_digest"}
    other.load_state_dict(state)  # strict
    for name, value in state.items():
        assert torch.equal(value, other.state_dict()[name]), name
    with pytest.raises(RuntimeError, match="projector"):
        other.load_state_dict({n: t for n, t in state.items() if "projector.layers.0" not in n})


def test_another_lm_of_the_same_shape_is_refused(llm: Path, tmp_path: Path) -> None:
    with pytest.raises(MayaError, match="another language model"):
        SpeechModel(config(tiny_llm.make(tmp_path, seed=7))).load_state_dict(
            SpeechModel(config(llm)).state_dict()
        )


def test_half_precision_weights_are_the_same_lm(llm: Path, tokenizer: LLMTokenizer) -> None:
    """The frozen weights in bf16; LoRA and what else learns stays in fp32."""
    model, half = stirred(llm), SpeechModel(config(llm, precision="bf16")).eval()
    half.load_state_dict(model.state_dict())
    assert head_of(half).lm.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {p.dtype for p in half.parameters() if p.requires_grad} == {torch.float32}
    batch = batch_of(tokenizer, [0, 1, 2])
    torch.testing.assert_close(half(batch).total, model(batch).total, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"llm": ""}, "llm of a language_model head is empty"),
        ({"llm": "no/such/model/here"}, "cannot be loaded as a language model"),
        ({"stack": 0}, "stack must be 1 or more, not 0"),
        ({"lora": LoraConfig(targets=("query",))}, "no layers named query"),
    ],
)
def test_errors_of_the_configuration(llm: Path, changes: dict, complaint: str) -> None:
    with pytest.raises(MayaError, match=complaint):
        SpeechModel(config(**({"llm": llm} | changes)))


def test_recomputed_layers_give_the_same_gradients(llm: Path, tokenizer: LLMTokenizer) -> None:
    batch, grads, written = batch_of(tokenizer, [0, 1]), [], []
    for checkpointing in (False, True):
        model = stirred(llm, checkpointing=checkpointing).train()
        assert head_of(model).lm.is_activation_checkpointing == checkpointing
        torch.manual_seed(3)
        model(batch).total.sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        written.append([transcript.tokens for transcript in transcripts(model.eval(), batch)])
    assert written[0] == written[1]
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-5)


def test_without_lora_only_the_projector_learns(llm: Path) -> None:
    model = SpeechModel(config(llm, lora=LoraConfig(rank=0)))
    assert not [n for n, p in head_of(model).lm.named_parameters() if p.requires_grad]
