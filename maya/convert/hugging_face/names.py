"""Maya's names of a Parakeet's tensors, and those of transformers' classes; no tensor is transposed."""

import re

# (name in transformers, ours), as pieces of names; each occurs in one place only.
PIECES = (
    ("encoder.subsampling.layers.", "encoder.pre_encode.conv."),
    ("encoder.subsampling.linear.", "encoder.pre_encode.out."),
    (".self_attn.q_proj.", ".self_attn.linear_q."),
    (".self_attn.k_proj.", ".self_attn.linear_k."),
    (".self_attn.v_proj.", ".self_attn.linear_v."),
    (".self_attn.o_proj.", ".self_attn.linear_out."),
    (".self_attn.relative_k_proj.", ".self_attn.linear_pos."),
    (".self_attn.bias_u", ".self_attn.pos_bias_u"),
    (".self_attn.bias_v", ".self_attn.pos_bias_v"),
    (".conv.norm.", ".conv.batch_norm."),
    ("ctc_head.", "heads.ctc.decoder_layers.0."),
    ("decoder.embedding.", "heads.transducer.decoder.prediction.embed."),
    ("decoder.lstm.", "heads.transducer.decoder.prediction.dec_rnn.lstm."),
    ("encoder_projector.", "heads.transducer.joint.enc."),
    ("decoder.decoder_projector.", "heads.transducer.joint.pred."),
    ("joint.head.", "heads.transducer.joint.joint_net.2."),
)
_WHOLE = [(a, b) for a, b in PIECES if not a.startswith(".")]
_INNER = [(a, b) for a, b in PIECES if a.startswith(".")]


def maya_name(name: str) -> str:
    """Our name of a tensor of ParakeetForCTC, ForRNNT or ForTDT."""
    return _renamed(name, _WHOLE, _INNER)


def hugging_face_name(name: str) -> str:
    """The inverse."""
    return _renamed(name, [(b, a) for a, b in _WHOLE], [(b, a) for a, b in _INNER])


def _renamed(name: str, whole: list[tuple[str, str]], inner: list[tuple[str, str]]) -> str:
    for old, new in whole:
        if name.startswith(old):
            return new + name.removeprefix(old)
    if re.match(r"encoder\.layers\.\d+\.", name):
        for old, new in inner:
            if old in name:
                return name.replace(old, new, 1)
    return name
