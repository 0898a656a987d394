"""Language models with some thousand random weights, in folders as `save_pretrained` writes them."""

from pathlib import Path
from typing import Any

CHAT = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<turn>", "<end>")


def make(folder: Path, kind: str = "gemma3", *, chat: bool = False, seed: int = 0) -> Path:
    """A Gemma 3, Gemma 2 or Llama of two layers × 32 and a tokenizer of bytes."""
    import torch
    import transformers

    shape: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": len(SPECIAL) + 256, "max_position_embeddings": 512,
    }  # fmt: skip
    if kind.startswith("gemma"):
        # One layer looks back 16 positions, fewer than a prompt has; Gemma 2 also caps its logits.
        shape |= {"head_dim": 8, "sliding_window": 16}
        shape |= {"layer_types": ["sliding_attention", "full_attention"]}
    config = {
        "gemma3": transformers.Gemma3TextConfig, "gemma2": transformers.Gemma2Config,
        "llama": transformers.LlamaConfig,
    }[kind](**shape)  # fmt: skip
    torch.manual_seed(seed)
    lm = transformers.AutoModelForCausalLM.from_config(config)
    for p in lm.parameters():
        if p.ndim == 2:
            torch.nn.init.normal_(p, std=0.2)  # the usual 0.02 leaves so small a model all but constant
    lm.save_pretrained(folder)
    _tokenizer(chat).save_pretrained(folder)
    return folder


def _tokenizer(chat: bool) -> Any:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate([*SPECIAL, *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        extra_special_tokens=["<turn>", "<end>"],
    )  # fmt: skip
    if chat:
        made.chat_template = CHAT
    return made
