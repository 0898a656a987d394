"""A language model as a head: encoder frames → projector → a decoder-only LM with LoRA.

The encoder's frames, stacked and projected, stand in the prompt as if they were embedded tokens; the LM
continues with the transcript. As SLAM-ASR (Ma et al. 2024, arXiv:2402.08846: stacked frames, two linear
layers, the LM frozen) and SALM (Chen et al. 2023, arXiv:2310.09424: FastConformer, LoRA on the LM); the LM
comes through transformers, LoRA (Hu et al. 2021, arXiv:2106.09685) through peft.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from maya.config import config
from maya.data.loading.batch import Batch
from maya.encoders.base import Encoded
from maya.errors import MayaError
from maya.heads.base import Head, HeadConfig, HeadContext, LossStep
from maya.heads.lora import LoraConfig, add_lora
from maya.kernels.host import numbers_on
from maya.ranges import PosFloat, PosInt
from maya.text.languages import language_name
from maya.text.llm_tokenizer import LLMTokenizer, PromptIds, prompt_ids

IGNORED = -100  # a target that has no loss


@config
class LanguageModelConfig(HeadConfig):
    """A language model that reads speech. `llm` is a folder that `save_pretrained` wrote, or a name on the
    Hugging Face hub; its weights are not in a checkpoint. The run's tokenizer is the language model's."""

    writes_text: ClassVar[bool] = True
    places: ClassVar[tuple[str, ...]] = ("llm",)

    kind: Literal["language_model"] = "language_model"
    llm: str = ""
    precision: Literal["auto", "bf16", "fp32"] = (
        "auto"  # of the frozen weights; auto: bf16 where the GPU has it
    )
    checkpointing: bool = False  # recompute the LM's layers in the backward pass: a third more work in it
    stack: PosInt = 1  # encoder frames in one position of the LM: 1 is 80 ms a position, 2 is 160 ms
    projector_hidden: PosInt = 2048
    prompt: str = "Transcribe the following {language} speech:"
    lora: LoraConfig = field(default_factory=LoraConfig)
    tokens_per_second: PosFloat = 16.0  # the longest transcript that decoding allows

    def tokenizer(self) -> LLMTokenizer:
        return load_tokenizer(self.llm)

    def build(self, context: HeadContext) -> "LanguageModel":
        if not self.llm:
            raise MayaError("the llm of a language_model head is empty: name one of the hub, or a folder")
        return LanguageModel(self, context)


@dataclass(kw_only=True, slots=True)
class Generated:
    """One transcript: token ids without the one that ends it, the log-probability of each in nats, and
    whether it ended within the limit."""

    tokens: list[int]
    scores: list[float]
    ended: bool


class Projector(nn.Module):
    """`stack` neighbouring frames, side by side → linear, GELU, linear → one position of the LM."""

    def __init__(self, dim: int, stack: int, hidden: int, out: int) -> None:
        super().__init__()
        self.stack = stack
        self.layers = nn.Sequential(nn.Linear(dim * stack, hidden), nn.GELU(), nn.Linear(hidden, out))

    def forward(self, enc: Tensor, enc_lens: Tensor) -> tuple[Tensor, Tensor]:
        """enc (B, S, D), enc_lens (B,) → (B, ⌈S / stack⌉, out), lens (B,). What lies beyond enc_lens counts
        as zero, so that a row's last position does not depend on the batch."""
        rows, frames, dim = enc.shape
        beyond = torch.arange(frames, device=enc.device) >= enc_lens[:, None]
        enc = functional.pad(enc.masked_fill(beyond[..., None], 0.0), (0, 0, 0, -frames % self.stack))
        lens = (enc_lens + self.stack - 1) // self.stack
        return self.layers(enc.reshape(rows, -1, dim * self.stack)), lens


class LanguageModel(Head):
    """A projector and a language model.

    The LM's own weights do not learn and are in no state dict: a checkpoint holds projector and LoRA, and a
    digest by which another LM than the one they were trained with is refused.
    """

    conditioned = False  # the prompt names the language
    lm_digest: Tensor

    def __init__(self, cfg: LanguageModelConfig, context: HeadContext) -> None:
        super().__init__()
        self.cfg: LanguageModelConfig = cfg
        self.lm, tokenizer = load_llm(cfg)
        width = self.lm.get_input_embeddings().weight.shape[1]
        self.projector = Projector(context.dim, cfg.stack, cfg.projector_hidden, width)
        self.register_buffer("lm_digest", digest(self.lm))
        add_lora(self.lm, cfg.lora)
        if cfg.checkpointing:
            self.lm.activation_checkpointing_enable({"use_reentrant": False})
        names = [language_name(code) for code in context.languages]
        self.prompts: list[PromptIds] = [prompt_ids(tokenizer, cfg.prompt, name) for name in (*names, "")]
        self.prefix = ""  # of its names in the state dict that is being loaded
        self.register_state_dict_post_hook(_leave_lm_out)
        self.register_load_state_dict_pre_hook(_refuse_other_lm)
        self.register_load_state_dict_post_hook(_ignore_missing_lm)

    def project(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """Encoder frames → positions of the LM (B, P, E), lens (B,)."""
        return self.projector(*encoded)

    def context(self, speech: Tensor, lens: Tensor, langs: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt and speech, padded on the left so that every transcript begins in the same column.

        speech (B, P, E), lens (B,), langs (B,) indices or -1 → embeddings (B, C, E), mask (B, C) bool. The
        host reads lens and langs, which may be on the CPU.
        """
        embed = self.lm.get_input_embeddings()
        rows = []
        for row, size, lang in zip(speech, lens.tolist(), langs.tolist(), strict=True):
            prompt = self.prompts[lang]  # -1 is the last: no language named
            before, after = (embed(numbers_on(speech.device, ids)) for ids in (prompt.before, prompt.after))
            rows.append(torch.cat([before, row[:size].to(before.dtype), after]))
        width = max(map(len, rows))
        mask = torch.stack([torch.arange(width, device=speech.device) >= width - len(r) for r in rows])
        return torch.stack([functional.pad(r, (0, 0, width - len(r), 0)) for r in rows]), mask

    def losses(self, encoded: Encoded, batch: Batch, step: LossStep) -> dict[str, Tensor]:
        """Minus the log-probability of each transcript and of the token that ends it, in nats, summed."""
        speech, _ = self.project(encoded)
        lens = -(-encoded.lens_on_host // self.cfg.stack)  # as the projector computes them on the device
        logits, targets = self.logits(speech, lens, batch)
        # Row by row: the fp32 copy of a row's logits is 1 MB a token with Gemma's vocabulary.
        rows = [
            functional.cross_entropy(row.float(), target, ignore_index=IGNORED, reduction="sum")
            for row, target in zip(logits, targets, strict=True)
        ]
        return {"loss": torch.stack(rows)}

    def logits(self, speech: Tensor, lens: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, U + 1, vocabulary) that predict the transcript and its end, given what came
        before, and targets (B, U + 1), IGNORED beyond the end."""
        embeds, mask = self.context(speech, lens, batch.on_host("langs"))
        tokens, token_lens = batch.tokens, batch.token_lens
        places = torch.arange(tokens.shape[1] + 1, device=tokens.device)
        within = places[:-1] < token_lens[:, None]
        targets = functional.pad(tokens, (0, 1)).masked_fill(places > token_lens[:, None], IGNORED)
        targets = targets.masked_fill(places == token_lens[:, None], self.prompts[-1].end)
        text = self.lm.get_input_embeddings()(tokens.masked_fill(~within, 0))
        mask = torch.cat([mask, within], dim=1)
        out = self.lm(
            inputs_embeds=torch.cat([embeds, text], dim=1),
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=len(places),
            use_cache=False,
        )
        return out.logits, targets

    @torch.inference_mode()
    def generate(
        self, speech: Tensor, lens: Tensor, langs: Tensor, *, max_tokens: Sequence[int]
    ) -> list[Generated]:
        """Greedy transcripts for what `project` returned, speech (B, P, E), lens (B,), langs (B,), of at most
        `max_tokens` each."""
        from transformers import GenerationConfig

        if max(max_tokens, default=0) == 0:
            return [Generated(tokens=[], scores=[], ended=False) for _ in max_tokens]
        embeds, mask = self.context(speech, lens, langs)
        end, best = self.prompts[-1].end, _Best()
        settings = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=max(max_tokens), eos_token_id=end, pad_token_id=end
        )
        ids = self.lm.generate(
            inputs_embeds=embeds, attention_mask=mask.long(), generation_config=settings,
            logits_processor=[best],
        )  # fmt: skip
        scores = torch.stack(best.scores, dim=1).tolist()
        out = []
        for row, logp, limit in zip(ids.tolist(), scores, max_tokens, strict=True):
            size = min(row.index(end) if end in row else len(row), limit)
            out.append(Generated(tokens=row[:size], scores=logp[:size], ended=end in row[:limit]))
        return out


class _Best:
    """A logits processor that changes nothing and keeps the log-probability of the likeliest token, (B,) a
    step; transformers can keep all logits only."""

    def __init__(self) -> None:
        self.scores: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.scores.append(scores.float().log_softmax(-1).amax(-1))
        return scores


def load_llm(cfg: LanguageModelConfig) -> tuple[Any, Any]:
    """The language model, frozen, and transformers' tokenizer for it. MayaError where transformers is not
    installed or finds no such model."""
    transformers = _transformers()
    gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    half = cfg.precision == "bf16" or (cfg.precision == "auto" and gpu)
    try:
        lm = transformers.AutoModelForCausalLM.from_pretrained(
            cfg.llm, dtype=torch.bfloat16 if half else torch.float32
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(cfg.llm)
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MayaError(f"llm {cfg.llm!r} cannot be loaded as a language model: {reason}") from error
    # What its authors recommend for chat (sampling, penalties) is not for transcripts.
    lm.generation_config = transformers.GenerationConfig()
    return lm.requires_grad_(False), tokenizer


def load_tokenizer(llm: str) -> LLMTokenizer:
    """The language model's tokenizer as one of ours, from a folder or a name on the hub."""
    try:
        return LLMTokenizer(_transformers().AutoTokenizer.from_pretrained(llm).backend_tokenizer.to_str())
    except (OSError, ValueError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MayaError(f"llm {llm!r} has no tokenizer.json that can be loaded: {reason}") from error


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MayaError("a language model as decoder needs pip install 'maya-asr[llm]'") from error
    return transformers


def digest(lm: Any) -> Tensor:
    """(32,) uint8 that tells language models apart, alike in fp32 and bf16: SHA-256 of the first rows of the
    embeddings and of the last vector of weights (a norm's), in bf16."""
    vectors = [p for p in lm.parameters() if p.ndim == 1]
    sha = hashlib.sha256(str(tuple(lm.get_input_embeddings().weight.shape)).encode())
    for part in (lm.get_input_embeddings().weight[:64], *vectors[-1:]):
        sha.update(part.detach().bfloat16().contiguous().view(torch.int16).cpu().numpy().tobytes())
    return torch.frombuffer(bytearray(sha.digest()), dtype=torch.uint8).clone()


def _of_lm(name: str) -> bool:
    """Whether an entry of a state dict is a weight that the LM came with."""
    return name.startswith("lm.") and ".lora_" not in name


def _leave_lm_out(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    for name in [n for n in state if n.startswith(prefix) and _of_lm(n.removeprefix(prefix))]:
        del state[name]


def _ignore_missing_lm(module: nn.Module, incompatible: Any) -> None:
    assert isinstance(module, LanguageModel)
    missing, prefix = incompatible.missing_keys, module.prefix
    missing[:] = [n for n in missing if not (n.startswith(prefix) and _of_lm(n.removeprefix(prefix)))]


def _refuse_other_lm(
    module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any, strict: bool,
    missing: list[str], unexpected: list[str], errors: list[str],
) -> None:  # fmt: skip
    assert isinstance(module, LanguageModel)
    module.prefix = prefix
    saved = state.get(prefix + "lm_digest")
    if saved is not None and not torch.equal(saved.cpu(), module.lm_digest.cpu()):
        raise MayaError(
            f"the weights were trained with another language model than {module.cfg.llm}; name that one"
        )
