"""Names of parameters in icefall's Zipformer recipe and here: a pure rename, tensor for tensor."""

# icefall's prefix, ours; the first that fits. The rest of a name is the same on both sides.
PREFIXES = (
    ("encoder_embed.", "encoder.encoder_embed."),
    ("encoder.", "encoder."),
    ("decoder.", "decoder."),
    ("joiner.encoder_proj.", "joint.enc."),
    ("joiner.decoder_proj.", "joint.pred."),
    ("joiner.output_linear.", "joint.joint_net.2."),
    ("simple_am_proj.", "simple_joint.am."),
    ("simple_lm_proj.", "simple_joint.lm."),
)


def from_icefall_name(name: str) -> str | None:
    """Our name of an icefall parameter; None for one of a head we do not have.

    Old checkpoints of distributed training put "module." in front.
    """
    name = name.removeprefix("module.")
    for theirs, ours in PREFIXES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None


def to_icefall_name(name: str) -> str | None:
    """icefall's name of one of our parameters; None where it has no such thing."""
    for theirs, ours in PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return None
