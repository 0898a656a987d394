"""`model_config.yaml` of a `.nemo` archive → `SpeechModelConfig`. A setting that Maya lacks is refused, but
for single values at the top that Maya does not know: they are in no module, and make a warning.

Settings that the yaml omits have the defaults of NeMo's classes (3.0.0).
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from maya.convert.nemo import adapters, canary, multisoftmax
from maya.convert.nemo.keys import (
    FIXED_FEATURES,
    HARMLESS,
    OF_PROMPTS,
    OTHER_NETWORKS,
    OTHER_SETTINGS,
)
from maya.convert.nemo.parts import ENCODER, Family
from maya.convert.nemo.section import Section
from maya.encoders.conformer.config import FastConformerConfig
from maya.errors import MayaError
from maya.features.frames import frame_samples
from maya.features.logmel import LogMelConfig
from maya.features.specaugment import SpecAugmentConfig
from maya.heads import CTCConfig, HeadConfig, TransducerConfig
from maya.heads.transducer import JointConfig, PredictorConfig
from maya.models.adapters import AdapterConfig
from maya.models.config import SpeechModelConfig

FrontEnd = Literal["auto", "since-2.5", "before-2.5"]

DEFAULT_CTC_WEIGHT = 0.3  # CTC's share of the loss where the yaml gives it none
# NeMo's classes by the last part of the yaml's `target`.
FAMILIES: dict[str, Family] = {
    "EncDecCTCModelBPE": "ctc",
    "EncDecRNNTBPEModel": "rnnt",
    "EncDecHybridRNNTCTCBPEModel": "hybrid",
    "EncDecRNNTBPEModelWithPrompt": "rnnt",
    "EncDecHybridRNNTCTCBPEModelWithPrompt": "hybrid",
    "EncDecMultiTaskModel": "canary",
    # With a list of characters in the place of a tokenizer.
    "EncDecCTCModel": "ctc",
    "EncDecRNNTModel": "rnnt",
    "EncDecHybridRNNTCTCModel": "hybrid",
}
CHARACTERS = ("EncDecCTCModel", "EncDecRNNTModel", "EncDecHybridRNNTCTCModel")
RNNT_LOSSES = ("default", "warprnnt", "warprnnt_numba", "pytorch", "graph_rnnt", "graph_w_transducer")


@dataclass(kw_only=True, slots=True)
class NemoModel:
    """The contents of the yaml: NeMo's class, Maya's configuration without vocabulary, remarks."""

    target: str
    version: str
    config: SpeechModelConfig
    front_end_reason: str
    warnings: list[str] = field(default_factory=list)
    codes: tuple[str, ...] = ()  # languages with an output layer each
    prompts: dict[str, int] = field(default_factory=dict)  # number by language, of a model with prompts
    adapter: str = ""  # the name of the one whose layers the encoder has

    @property
    def is_canary(self) -> bool:
        """Whether it has Canary's decoder."""
        return canary.HEAD in self.config.heads


def read_config(
    values: Mapping[str, Any], path: Path, *, front_end: FrontEnd = "auto", ignore: Collection[str] = (),
    encoder_only: bool = False,
) -> NemoModel:  # fmt: skip
    """Maya's configuration of the model that a `.nemo` yaml describes, `vocab_size` left at 0.

    front_end: NeMo 2.5 changed the features; "auto" takes those of the version that saved the model.
    ignore: dotted names of unknown keys to pass over. encoder_only: of a class that Maya does not have, read
    features and encoder, with a CTC head.

    Raises MayaError for another class of model, and for a key or value that may change the network.
    """
    try:
        return _read(values, path, front_end, ignore, encoder_only)
    except MayaError as e:
        if str(path) in str(e):
            raise
        raise MayaError(f"{path}: {e}") from None  # a number out of its range, by Maya's name


def _read(
    values: Mapping[str, Any], path: Path, front_end: FrontEnd, ignore: Collection[str], encoder_only: bool
) -> NemoModel:
    top = Section(path, "", dict(values), ignore)
    target = str(top.raw("target", ""))
    family = FAMILIES.get(target.rsplit(".", 1)[-1])
    if family == "canary" and encoder_only:
        family = None  # its decoder is left behind
    if family is None and not encoder_only:
        raise MayaError(
            f"{path} is a {target.rsplit('.', 1)[-1] or 'model without a class'}; "
            f"Maya converts {', '.join(FAMILIES)}, and --encoder-only the encoder of any other"
        )
    version = str(top.raw("nemo_version", "") or "")
    legacy, reason = choose_front_end(version, front_end)
    warnings: list[str] = []
    encoder = _encoder(top.section("encoder"), warnings)
    adapter = adapters.read(top, warnings)
    codes, prompts = _codes(top), _prompts(top) if target.endswith("WithPrompt") else {}
    config = SpeechModelConfig(
        features=_features(top.section("preprocessor"), legacy),
        specaugment=_specaugment(top, warnings),
        encoder=encoder,
        heads=_heads(top, family, encoder, codes, warnings) if family else {"ctc": CTCConfig()},
        adapters=adapter.config if adapter else AdapterConfig(),
    )
    if family is not None:
        _close(top, warnings, prompts, canary.NETWORK if family == "canary" else ())
    return NemoModel(
        target=target, version=version, config=config, front_end_reason=reason, warnings=warnings,
        codes=codes, prompts=prompts, adapter=adapter.name if adapter else "",
    )  # fmt: skip


def _prompts(top: Section) -> dict[str, int]:
    """The number of each prompt by its name, which is a language mostly."""
    dictionary = top.section("model_defaults").section("prompt_dictionary")
    return {name: dictionary.need(name, int) for name in dictionary}


def _close(top: Section, warnings: list[str], prompts: Mapping[str, int], network: Collection[str]) -> None:
    """What the top level has beside the sections of the network. network: keys that were read for it."""
    _intermediate_ctc(top, warnings)
    if prompts:
        top.harmless("num_prompts", "initialize_prompt_feature", "subsampling_factor", "prompt_dictionary")
    for key, part in OTHER_NETWORKS.items():
        if not (prompts and part == OF_PROMPTS) and key not in network and top.raw(key):
            raise MayaError(f"{top.path}: {key} says that the model has {part}")
    top.harmless(*HARMLESS)
    warnings += [f"{setting} is unknown to Maya and was passed over" for setting in top.unknown_values()]
    top.close()


def _codes(top: Section) -> tuple[str, ...]:
    """The languages of a model with an output layer for each, in the order of the yaml; () for another."""
    values = top.raw("tokenizer")
    tokenizer = Section(top.path, "tokenizer", values) if isinstance(values, dict) else None
    if tokenizer is None or str(tokenizer.raw("type")).lower() != multisoftmax.KIND:
        return ()
    return tuple(tokenizer.section("langs"))


def choose_front_end(version: str, front_end: FrontEnd) -> tuple[bool, str]:
    """Whether to compute features as NeMo did before 2.5, and the reason, a sentence for the report."""
    if front_end != "auto":
        return front_end == "before-2.5", f"--front-end {front_end} was given"
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        return False, "the yaml names no NeMo version; --front-end before-2.5 takes the older one"
    if (int(numbers[1]), int(numbers[2])) < (2, 5):
        return True, (
            f"saved by NeMo {version}, before 2.5, so trained on the older features; NeMo 2.5 and later use "
            "the newer ones, as does --front-end since-2.5"
        )
    return False, (
        f"saved by NeMo {version}; a model trained before 2.5 and saved again needs --front-end before-2.5"
    )


def _is(section: Section, *names: str) -> None:
    """Check the class of a section. `_target_` is a dotted path whose modules moved between versions."""
    target = str(section.raw("_target_", names[0])).rsplit(".", 1)[-1]
    if target not in names:
        raise MayaError(f"{section.path}: {section.name} is a {target}; Maya supports {', '.join(names)}")


def _features(s: Section, legacy: bool) -> LogMelConfig:
    _is(s, "AudioToMelSpectrogramPreprocessor")
    rate = s.take("sample_rate", 16000)
    window_ms = 1000 * s.take("window_size", 0.02)
    s.fixed("normalize", "per_feature", "NA", None, "")
    window_samples = frame_samples(window_ms, rate)
    n_fft = s.take("n_fft", 512) if "n_fft" in s else 1 << (window_samples - 1).bit_length()
    s.fixed("highfreq", None, rate / 2)
    s.fixed("n_window_size", None, window_samples)
    for key, allowed in FIXED_FEATURES.items():
        s.fixed(key, *allowed)
    # pad_to adds masked frames that nothing reads; the noise of nb_* is for training.
    s.harmless("n_fft", "pad_to", "rng", "nb_augmentation_prob", "nb_max_freq", "stft_conv")
    features = LogMelConfig(
        sample_rate=rate, num_mels=s.take("features", 64), n_fft=n_fft, window_ms=window_ms,
        hop_ms=1000 * s.take("window_stride", 0.01), dither=s.take("dither", 1e-5), legacy=legacy,
        preemphasis=0.0 if s.raw("preemph", 0.97) is None else s.take("preemph", 0.97),
        normalize="per_feature" if s.raw("normalize", "per_feature") == "per_feature" else "none",
    )  # fmt: skip
    s.close()
    return features


def _specaugment(top: Section, warnings: list[str]) -> SpecAugmentConfig:
    """Masks are for training only, so nothing is refused. A setting without counterpart makes a warning."""
    masks = SpecAugmentConfig(freq_masks=0, time_masks=0)
    values = top.raw("spec_augment")
    if not isinstance(values, dict):
        return masks
    for name in ("freq_masks", "freq_width", "time_masks"):
        if isinstance(values.get(name), int):
            setattr(masks, name, values[name])
    width = values.get("time_width", 10)
    if isinstance(width, float):
        masks.time_width = width
    elif masks.time_masks:
        warnings.append(
            f"spec_augment.time_width={width} counts frames; Maya has a share instead: {masks.time_width}"
        )
    if values.get("rect_masks"):
        warnings.append("spec_augment.rect_masks has no counterpart and is left out (training only)")
    return masks


def _encoder(s: Section, warnings: list[str]) -> FastConformerConfig:
    # With adapters the class is another, the network the same: the tensors tell whether there are any.
    _is(s, "ConformerEncoder", "ConformerEncoderAdapter")
    s.fixed("feat_out", -1, 0, None)
    s.fixed("subsampling", "striding", "dw_striding")
    s.fixed("reduction", None)
    s.fixed("conv_context_style", "regular", "dcc")  # dcc: cut into chunks while training
    s.fixed("stochastic_depth_mode", "linear", "uniform")
    # Place and size of the reduction have no effect without one; pos_emb_max_len grows with the audio; the
    # others choose an implementation of attention, not its result.
    s.harmless("reduction_position", "reduction_factor", "pos_emb_max_len", "use_pytorch_sdpa")
    s.harmless("use_pytorch_sdpa_backends", "sync_max_audio_length", "stochastic_depth_start_layer")
    s.harmless("subsampling_conv_chunking_factor", "use_triton", "rope_base", "rotary_fraction")
    s.fixed("conv_norm_type", "batch_norm", "layer_norm")
    values: dict[str, Any] = {
        field: s.need(key, default) if default is int else s.take(key, default)
        for key, (field, default) in ENCODER.items()
    }
    channels = s.take("subsampling_conv_channels", -1)
    values["subsampling_channels"] = values["d_model"] if channels == -1 else channels
    values["conv_norm"] = "layer_norm" if s.raw("conv_norm_type") == "layer_norm" else "batch_norm"
    values["conv_context"] = _conv_context(s, values["conv_kernel"])
    encoder = FastConformerConfig(**values)
    _attention_context(s, encoder, warnings)
    s.close(OTHER_SETTINGS["encoder"])
    return encoder


def _conv_context(s: Section, kernel: int) -> Literal["symmetric", "causal"]:
    symmetric, causal = [kernel // 2, kernel // 2], [kernel - 1, 0]
    s.fixed("conv_context_size", None, symmetric, causal, "causal")
    return "causal" if s.raw("conv_context_size") in (causal, "causal") else "symmetric"


def _attention_context(s: Section, encoder: FastConformerConfig, warnings: list[str]) -> None:
    """The context of attention: a pair of frames, or several pairs; training draws one for each batch."""
    # Local attention computes the same band, unless some tokens see everything.
    s.fixed("self_attention_model", "rel_pos", "rel_pos_local_attn")
    if s.raw("self_attention_model") == "rel_pos_local_attn":
        s.fixed("global_tokens", 0)
    s.harmless("global_tokens", "global_tokens_spacing", "global_attn_separate")
    s.fixed("att_context_style", "regular", "chunked_limited", "chunked_limited_with_rc")
    chunks, style = s.raw("att_chunk_context_size"), s.raw("att_context_style", "regular")
    sizes = s.raw("att_context_size") or [-1, -1]
    if style == "chunked_limited_with_rc":  # chunks with frames to their right; with -1 alone there are none
        if not isinstance(sizes, list) or any(size != -1 for size in sizes):
            raise MayaError(
                f"{s.path}: encoder.att_context_style {style} is supported for whole utterances, "
                f"att_context_size [-1, -1], not {sizes!r}"
            )
        sizes, style = [-1, -1], "regular"
    if chunks:
        encoder.att_chunk_context_size = _chunk_sizes(s, chunks)
        warnings.append(
            f"trained for chunks too, att_chunk_context_size={chunks}: streams use them, "
            "and training in Maya is on whole utterances"
        )
    pairs = sizes if isinstance(sizes, list) and isinstance(sizes[0], list) else [sizes]
    chances = s.raw("att_context_probs") or ()
    if not isinstance(chances, list | tuple):
        raise MayaError(f"{s.path}: encoder.att_context_probs is {chances!r}, not a list of probabilities")
    try:
        encoder.att_context_size = tuple(tuple(pair) for pair in pairs)
        encoder.att_context_probs = tuple(chances)
    except TypeError:
        raise MayaError(
            f"{s.path}: encoder.att_context_size is {sizes!r}, not a pair of frames or a list of pairs"
        ) from None
    encoder.att_context_style = style


def _chunk_sizes(s: Section, chunks: Any) -> tuple[tuple[int, ...], ...]:
    """Frames before, in and after a chunk, the choices of each."""
    lists = chunks if isinstance(chunks, list) else []
    if len(lists) != 3 or not all(isinstance(x, list) and x for x in lists):
        raise MayaError(
            f"{s.path}: encoder.att_chunk_context_size is {chunks!r}, not lists of frames before, in and "
            "after a chunk"
        )
    return tuple(tuple(x) for x in lists)


def _heads(
    top: Section, family: Family, encoder: FastConformerConfig, codes: tuple[str, ...], warnings: list[str]
) -> dict[str, HeadConfig]:
    if family == "canary":
        return {canary.HEAD: canary.head_config(top)}
    if family == "ctc":
        _check_ctc_head(top.section("decoder"), encoder, codes)
        return {"ctc": CTCConfig()}
    transducer = _transducer(top, encoder, codes, warnings)
    if family == "rnnt":
        return {"transducer": transducer}
    auxiliary = top.section("aux_ctc")
    share = auxiliary.take("ctc_loss_weight", 0.5)
    if share == 0:
        share = DEFAULT_CTC_WEIGHT
        warnings.append(f"aux_ctc.ctc_loss_weight is 0; the CTC head is kept with {share}")
    if not 0 <= share <= 1:
        raise MayaError(f"{top.path}: aux_ctc.ctc_loss_weight is {share:g}, not a share between 0 and 1")
    auxiliary.harmless("use_cer", "ctc_reduction", "decoding")
    _check_ctc_head(auxiliary.section("decoder"), encoder, codes)
    auxiliary.close()
    transducer.weight = 1 - share
    return {"transducer": transducer, "ctc": CTCConfig(weight=share)}


def _check_ctc_head(s: Section, encoder: FastConformerConfig, codes: tuple[str, ...]) -> None:
    _is(s, "ConvASRDecoder")
    multisoftmax.read_masks(s, codes, ("multisoftmax",))
    s.fixed("add_blank", True)
    s.fixed("feat_in", None, encoder.d_model)
    s.harmless("num_classes", "vocabulary", "init_mode")
    s.close(OTHER_SETTINGS["decoder"])


def _transducer(
    top: Section, encoder: FastConformerConfig, codes: tuple[str, ...], warnings: list[str]
) -> TransducerConfig:
    """Prediction network, joint and loss."""
    s = top.section("decoder")
    _is(s, "RNNTDecoder")
    s.fixed("blank_as_pad", True)
    multisoftmax.read_masks(s, codes, ("multisoftmax",))
    s.fixed("normalization_mode", None)
    s.harmless("vocab_size", "random_state_sampling")
    p = s.section("prednet")
    hidden, layers = p.need("pred_hidden", int), p.need("pred_rnn_layers", int)
    predictor = PredictorConfig(hidden=hidden, layers=layers, dropout=p.take("dropout", 0.0))
    p.fixed("rnn_hidden_size", -1, None, predictor.hidden)
    # Initial values only:
    p.harmless("t_max", "forget_gate_bias", "weights_init_scale", "hidden_hidden_bias_scale")
    p.close()
    s.close(OTHER_SETTINGS["decoder"])
    s = top.section("joint")
    _is(s, "RNNTJoint", "SampledRNNTJoint")
    multisoftmax.read_masks(s, codes, ("multilingual",))
    j = s.section("jointnet")
    j.fixed("activation", "relu", "tanh", "sigmoid")
    joint = JointConfig(
        hidden=j.need("joint_hidden", int), activation=j.raw("activation"), dropout=j.take("dropout", 0.0)
    )
    j.fixed("encoder_hidden", encoder.d_model)
    j.fixed("pred_hidden", predictor.hidden)
    j.close()
    durations = s.take("num_extra_outputs", 0)
    s.harmless("num_classes", "vocabulary", "log_softmax", "preserve_memory", "fuse_loss_wer")
    s.harmless("fused_batch_size", "experimental_fuse_loss_wer", "masking_prob", "n_samples")
    s.close(OTHER_SETTINGS["joint"])
    return TransducerConfig(predictor=predictor, joint=joint, **_loss(top, durations, warnings))


def _loss(top: Section, extra_outputs: int, warnings: list[str]) -> dict[str, Any]:
    """The loss and its settings, fields of `TransducerConfig`. For TDT the joint has `extra_outputs`, one for
    each duration."""
    loss = top.raw("loss") or {}
    loss = loss if isinstance(loss, dict) else {"loss_name": loss}
    name = loss.get("loss_name", "default")
    if name not in (*RNNT_LOSSES, "tdt", "tdt_pytorch"):
        raise MayaError(f"{top.path}: loss.loss_name is {name!r}; Maya supports RNN-T and TDT")
    settings = Section(top.path, f"loss.{name}_kwargs", loss.get(f"{name}_kwargs") or {})
    if penalty := settings.raw("fastemit_lambda"):
        warnings.append(f"loss.fastemit_lambda={penalty} is left out (training only)")
    defaults = Section(top.path, "model_defaults", top.raw("model_defaults") or {})
    durations = settings.raw("durations") or defaults.raw("tdt_durations") or []
    if not name.startswith("tdt"):
        durations = []
    if not isinstance(durations, list):
        raise MayaError(f"{top.path}: {settings.where('durations')} is {durations!r}, not a list of frames")
    if len(durations) != extra_outputs:
        raise MayaError(
            f"{top.path}: joint.num_extra_outputs is {extra_outputs}, but loss {name!r} has {len(durations)} "
            "durations"
        )
    if not name.startswith("tdt"):
        return {"loss": "rnnt"}
    if not durations:
        raise MayaError(f"{top.path}: loss {name!r} has no durations")
    sigma, omega = (settings.take(key, 0.0) for key in ("sigma", "omega"))
    return {"loss": "tdt", "durations": tuple(durations), "sigma": sigma, "omega": omega}


def _intermediate_ctc(top: Section, warnings: list[str]) -> None:
    values = top.raw("interctc")
    if isinstance(values, dict) and values.get("loss_weights"):
        warnings.append("interctc, CTC losses on inner layers, is left out (training only, without weights)")
