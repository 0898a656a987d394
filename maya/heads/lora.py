"""Low-rank additions to a trained model's linear maps (Hu et al. 2021, arXiv:2106.09685), through peft."""

from torch import nn

from maya.config import config
from maya.errors import MayaError
from maya.ranges import BelowOne, Count, PosInt

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")  # as Gemma, Llama, Mistral and Qwen name them
MLP = ("gate_proj", "up_proj", "down_proj")


@config
class LoraConfig:
    """W + alpha / rank · B A, B zero at the start. The targets that stand here are a language model's."""

    rank: Count = 16  # 0: none
    alpha: PosInt = 32
    dropout: BelowOne = 0.05
    targets: tuple[str, ...] = (*ATTENTION, *MLP)  # names of linear layers, or the ends of their paths


def add_lora(module: nn.Module, cfg: LoraConfig) -> None:
    """Put the matrices beside those of `module` that `cfg.targets` names, in place, in fp32; from then on
    they alone learn. MayaError where peft is absent or `module` has no such layers."""
    if cfg.rank == 0:
        return
    try:
        import peft
    except ImportError as error:
        raise MayaError("LoRA needs pip install 'maya-asr[llm]'; or set its rank to 0") from error
    settings = peft.LoraConfig(
        r=cfg.rank, lora_alpha=cfg.alpha, lora_dropout=cfg.dropout, target_modules=list(cfg.targets)
    )
    try:
        peft.inject_adapter_in_model(settings, module)
    except ValueError as error:
        wanted = ", ".join(cfg.targets)
        raise MayaError(
            f"the model has no layers named {wanted}; name its linear layers in the targets of LoRA"
        ) from error
    for p in module.parameters():
        if p.requires_grad:
            p.data = p.data.float()
