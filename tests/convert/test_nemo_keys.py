"""Every key of NeMo's yaml is known, or refused by its name.

The lists are of the constructors, the models' `cfg.get`, and the example configurations of NeMo's main branch
(commit 8cfedd72, 2025-09-20), and of the wheel 3.0.0 where that has more.
"""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from maya.convert.nemo.config import read_config
from maya.convert.nemo.export import nemo_config
from maya.errors import MayaError
from tests.convert.archives import recognizer
from tests.convert.canary_files import archive

KEYS = {
    "": """
        adapters asr_model asr_model_fuse_bn asr_model_path asr_model_type async_streaming
        ats_weight audio_key augmentor aux_ctc beam_search calculate_eou_metrics char_labels
        classifier code_dim compute_eval_loss compute_timestamps crop_or_pad_augment ctc_reduction
        data_name data_path decoder decoder_out decoding diarizer dropout dropout_features
        dropout_features_q embedding embedding_dim encoder enhancer_model enhancer_model_path
        feature_penalty final_dim head high_resolution initialize_prompt_feature interctc
        is_regression_task joint kernel_size_factor label_smoothing labels labels_full labels_subset
        log_prediction loss loss_list mask_position masking max_batch_dur max_num_of_spks
        model_defaults multitask_metrics_cfg negative_init_val normalize_decoder_norm
        normalize_encoder_norm normalize_joint_norm normalize_joint_txu normalize_text num_books
        num_classes num_prompts optim pil_weight preprocessor prompt_defaults prompt_dictionary
        prompt_format quantizer ratio_threshold repeat restore_timestamps_model rnnt_reduction
        sample_rate sample_rate_key separable sequence_generator skip_nan_grad sortformer_modules
        spec_augment spk_kernel_type spk_kernel_layers add_bg_spk_kernel spl_tokens squeeze_single
        streaming streaming_mode symbols_to_keep test_ds text_key timesteps tokenizer
        token_init_method token_init_weight_value token_init_bias_value train_ds transf_decoder
        transf_encoder transformer_encoder tts_model tts_model_path use_cer use_loss_mask_for_prompt
        validation_ds variational_noise
        """,
    "encoder": """
        _target_ feat_in n_layers d_model feat_out causal_downsampling subsampling
        subsampling_factor subsampling_conv_chunking_factor subsampling_conv_channels reduction
        reduction_position reduction_factor ff_expansion_factor self_attention_model n_heads
        att_context_size att_context_probs att_context_style att_chunk_context_size xscaling
        untie_biases pos_emb_max_len conv_kernel_size conv_norm_type conv_context_size
        conv_context_style use_bias dropout dropout_pre_encoder dropout_emb dropout_att
        stochastic_depth_drop_prob stochastic_depth_mode stochastic_depth_start_layer global_tokens
        global_tokens_spacing global_attn_separate use_pytorch_sdpa use_pytorch_sdpa_backends
        sync_max_audio_length use_triton rope_base rotary_fraction drop_rate qkv_bias qk_norm
        ff_expansion pre_block_norm attn_mode activation adaptive_scale bidirectional conv_mask
        dilations filters init_mode jasper kernel_sizes layer_drop pos_embed proj_size rnn_type
        scale time_recovery_idx time_reduce_idx transformer
        """,
    "decoder": """
        _target_ prednet vocab_size normalization_mode random_state_sampling blank_as_pad
        context_size num_layers hidden_size
        """,
    "decoder.prednet": """
        pred_hidden pred_rnn_layers t_max dropout forget_gate_bias weights_init_scale
        hidden_hidden_bias_scale rnn_hidden_size
        """,
    "joint": """
        _target_ jointnet num_classes num_extra_outputs vocabulary log_softmax preserve_memory
        fuse_loss_wer fused_batch_size experimental_fuse_loss_wer masking_prob n_samples
        big_blank_durations
        """,
    "joint.jointnet": "encoder_hidden pred_hidden joint_hidden activation dropout",
    "aux_ctc": "ctc_loss_weight use_cer ctc_reduction decoder decoding",
    "aux_ctc.decoder": "_target_ feat_in num_classes init_mode vocabulary add_blank",
    "preprocessor": """
        _target_ sample_rate window_size window_stride n_window_size n_window_stride window
        normalize n_fft preemph features lowfreq highfreq log log_zero_guard_type
        log_zero_guard_value dither pad_to frame_splicing exact_pad pad_value mag_power rng
        nb_augmentation_prob nb_max_freq use_torchaudio mel_norm stft_exact_pad stft_conv
        """,
    "loss": """
        loss_name warprnnt_numba_kwargs multiblank_rnnt_kwargs tdt_kwargs offline_loss_weight
        streaming_loss_weight
        """,
}
CANARY = {
    "": """
        prompt_format prompt_defaults transf_encoder transf_decoder head loss label_smoothing
        use_loss_mask_for_prompt multitask_metrics_cfg restore_timestamps_model spl_tokens
        beam_search decoding
        """,
    "transf_decoder": """
        _target_ model_name pretrained encoder pre_ln_final_layer_norm config_dict config_file
        checkpoint_file library hidden_size
        """,
    "transf_decoder.config_dict": """
        max_sequence_length num_token_types embedding_dropout learn_positional_encodings hidden_size
        inner_size num_layers num_attention_heads ffn_dropout attn_score_dropout attn_layer_dropout
        hidden_act pre_ln vocab_size mask_future arch
        """,
    "transf_encoder": """
        _target_ num_layers hidden_size inner_size mask_future num_attention_heads
        attn_score_dropout attn_layer_dropout ffn_dropout hidden_act pre_ln pre_ln_final_layer_norm
        """,
    "head": "_target_ hidden_size num_classes num_layers activation log_softmax dropout use_transformer_init",
    "loss": "_target_ label_smoothing pad_id predict_last_k eps per_token_reduction",
}
JUNK: list[Any] = ["junk", {"junk": 1}, 77]


def unknown(base: dict[str, Any], keys: dict[str, str]) -> list[str]:
    """Keys for which a value that nothing expects makes Maya say that it does not know them, or fail without
    their name."""
    failures = []
    for group, names in keys.items():
        for name in names.split():
            for value in JUNK:
                values = copy.deepcopy(base)
                node = values
                for part in filter(None, group.split(".")):
                    node = node[part]
                node[name] = value
                where = f"{group}.{name}".lstrip(".")
                try:
                    said = " ".join(read_config(values, Path("a.nemo")).warnings)
                except MayaError as error:
                    said = str(error)
                    # A class is refused by its section. A wrong size may contradict another setting.
                    named = group.split(".")[-1] if name == "_target_" else name
                    if "a.nemo" not in said or (named not in said and value != 77):
                        failures.append(f"{where} = {value}: {said}")
                if re.search(rf"\b{re.escape(where)} = .* is unknown to Maya", said):
                    failures.append(f"{where} = {value}: {said}")
    return failures


def test_keys_of_recognisers() -> None:
    model = recognizer()
    base = nemo_config(model.model.cfg, model.tokenizer) | {"tokenizer": {"type": "bpe"}}
    assert not read_config(base, Path("a.nemo")).warnings
    assert unknown(base, KEYS) == []


def test_keys_of_canary(tmp_path: Path) -> None:
    base: dict[str, Any] = {}
    archive(tmp_path / "c.nemo", between=1, change=lambda c, w: base.update(c))
    base = yaml.safe_load(yaml.safe_dump(base))
    assert not read_config(base, Path("a.nemo")).warnings
    assert unknown(base, CANARY) == []


@pytest.mark.parametrize(
    ("key", "network"),
    [("sortformer_modules", "Sortformer"), ("quantizer", "self-supervised"), ("spk_kernel_type", "speakers")],
)
def test_networks_are_named(key: str, network: str) -> None:
    model = recognizer()
    base = nemo_config(model.model.cfg, model.tokenizer) | {key: {"a": 1}}
    with pytest.raises(MayaError, match=f"{key} says that the model has .*{network}"):
        read_config(base, Path("a.nemo"))
