"""The parts of a FastConformer model as plain tensor operations that can be traced for ONNX, for any batch
and length.

The weights are those of the model. Packing, fused attention and pieces of long audio, which only speed up the
model, are left out. The tests compare the graphs with the model on real speech.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maya.encoders import FastConformer
from maya.encoders.conformer.attention import RelPositionAttention
from maya.encoders.conformer.fastconformer import FastConformerLayer
from maya.errors import MayaError
from maya.features.logmel import LOG_GUARD, STD_GUARD, LogMel
from maya.heads.transducer.joint import Joint
from maya.heads.transducer.predictor import Predictor
from maya.models.speech_model import SpeechModel


class FeatureGraph(nn.Module):
    """audio (B, N), audio_lens (B,) -> features (B, F, T), feature_lens (B,): `LogMel` in evaluation.

    The Fourier transform is a convolution with windowed cosines and sines, because ONNX runtimes differ in
    their own transforms.
    """

    kernel: Tensor

    def __init__(self, front: LogMel) -> None:
        super().__init__()
        self.front, self.cfg = front, front.cfg
        n_fft, hop = front.cfg.n_fft, front.hop_samples
        self.n_fft, self.hop = n_fft, hop
        turns = torch.outer(torch.arange(n_fft // 2 + 1), torch.arange(n_fft)) % n_fft
        angle = turns.double() * (2 * math.pi / n_fft)
        before = (n_fft - front.window_samples) // 2
        window = F.pad(front.window.float().cpu(), (before, n_fft - front.window_samples - before))
        waves = torch.cat([angle.cos(), -angle.sin()])
        self.register_buffer("kernel", (waves * window).float()[:, None])  # (2 (n_fft / 2 + 1), 1, n_fft)

    def forward(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        cfg, lens = self.cfg, self.front.feat_lens(audio_lens)
        if cfg.preemphasis:
            audio = torch.cat([audio[:, :1], audio[:, 1:] - cfg.preemphasis * audio[:, :-1]], dim=1)
        if not cfg.legacy:
            audio = audio * (torch.arange(audio.shape[1]) < audio_lens[:, None])
        mode = "reflect" if cfg.legacy else "constant"
        audio = F.pad(audio[:, None], (self.n_fft // 2, self.n_fft // 2), mode=mode)
        real, imaginary = F.conv1d(audio, self.kernel, stride=self.hop).chunk(2, dim=1)
        power = (real.square() + imaginary.square()).transpose(1, 2)
        feats = torch.log(power @ self.front.fb[0].float().t() + LOG_GUARD)
        if not cfg.legacy:
            feats = feats[:, :-1]
        valid = (torch.arange(feats.shape[1]) < lens[:, None])[:, :, None].to(feats.dtype)
        if cfg.normalize == "per_feature":
            n = lens.clamp(min=1)[:, None, None]
            feats = (feats - (feats * valid).sum(1, keepdim=True) / n) * valid
            variance = feats.square().sum(1, keepdim=True) / (n - 1).clamp(min=1)
            feats = feats / (variance.sqrt() + STD_GUARD)
        return (feats * valid).transpose(1, 2), lens


class EncoderGraph(nn.Module):
    """audio_signal (B, F, T), length (B,)[, language (B,)] -> outputs (B, D, S), encoded_lengths (B,)."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        assert isinstance(model.encoder, FastConformer)
        self.encoder = model.encoder
        self.language_embedding = model.language_embedding if model.cfg.language_embedding else None

    def forward(
        self, audio_signal: Tensor, length: Tensor, language: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        cfg = self.encoder.cfg
        x, lens = self._subsample(audio_signal.transpose(1, 2), length)
        if cfg.xscaling:
            x = x * math.sqrt(cfg.d_model)
        valid = torch.arange(x.shape[1]) < lens[:, None]
        place = torch.arange(x.shape[1] - 1, -x.shape[1], -1, dtype=torch.float32)
        even = torch.arange(0, cfg.d_model, 2, dtype=torch.float32)
        angle = place[:, None] * torch.exp(even * (-math.log(10000.0) / cfg.d_model))
        positions = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (2 S - 1, D)
        for layer in self.encoder.layers:
            assert isinstance(layer, FastConformerLayer)
            x = self._layer(layer, x, positions, valid)
        x = self.encoder.last(x)
        if self.language_embedding is not None:
            assert language is not None
            is_known = (language >= 0).to(x.dtype)[:, None]
            x = x + (self.language_embedding(language.clamp(min=0)) * is_known)[:, None]
        return (x * valid[..., None].to(x.dtype)).transpose(1, 2), lens

    def _subsample(self, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B,) -> (B, S, D), (B,); see `DepthwiseStridedSubsampling`."""
        causal = self.encoder.cfg.causal_downsampling
        pre = self.encoder.pre_encode
        x = (x * (torch.arange(x.shape[1]) < lens[:, None])[..., None].to(x.dtype))[:, None]
        for layer in pre.conv:
            if isinstance(layer, nn.ReLU):
                mask = (torch.arange(x.shape[2]) < lens[:, None])[:, None, :, None]
                x = x.relu() * mask.to(x.dtype)
                continue
            assert isinstance(layer, nn.Conv2d)
            if layer.stride == (2, 2):
                lens = (lens // 2 + 1) * (lens > 0).to(lens.dtype) if causal else (lens + 1) // 2
                # Causal: two frames and bins before the first, one after the last.
                x = F.pad(x, (2, 1, 2, 1) if causal else (1, 1, 1, 1))
                x = F.conv2d(x, layer.weight, layer.bias, stride=2, groups=layer.groups)
            else:
                x = layer(x)
        return pre.out(x.transpose(1, 2).flatten(2)), lens

    def _layer(self, layer: FastConformerLayer, x: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        x = x + 0.5 * layer.feed_forward1(layer.norm_feed_forward1(x))
        x = x + self._attend(layer.self_attn, layer.norm_self_att(x), positions, valid)
        x = x + layer.conv(layer.norm_conv(x), valid)
        x = x + 0.5 * layer.feed_forward2(layer.norm_feed_forward2(x))
        return layer.norm_out(x)

    def _attend(self, attn: RelPositionAttention, x: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        batch, size = x.shape[0], x.shape[1]
        heads, head_size = attn.heads, attn.head_size
        q, k, v = (
            linear(x).view(batch, size, heads, head_size)
            for linear in (attn.linear_q, attn.linear_k, attn.linear_v)
        )
        p = attn.linear_pos(positions).view(-1, heads, head_size).permute(1, 2, 0)  # (H, K, 2 S - 1)
        content = (q + attn.pos_bias_u).transpose(1, 2) @ k.permute(0, 2, 3, 1)
        place = (q + attn.pos_bias_v).transpose(1, 2) @ p
        # With one more number in front of each row of 2 S - 1, and without the first S numbers, every row
        # begins one number earlier than the row above it: [i, j] = place[i, S - 1 - i + j].
        place = F.pad(place, (1, 0)).view(batch, heads, 2 * size, size)[:, :, 1:]
        place = place.reshape(batch, heads, size, 2 * size - 1)[..., :size]
        scores = (content + place) / math.sqrt(head_size)
        scores = scores.masked_fill(~self._visible(valid), -30000.0)
        y = scores.softmax(-1) @ v.transpose(1, 2)
        return attn.linear_out(y.transpose(1, 2).reshape(batch, size, heads * head_size))

    def _visible(self, valid: Tensor) -> Tensor:
        """(B, S) -> (B, 1, 1 or S, S) bool: the keys that each query attends to."""
        cfg, keys = self.encoder.cfg, valid[:, None, None]
        behind, ahead = self.encoder.context or cfg.att_context_size[0]
        if behind < 0 and ahead < 0:
            return keys
        place = torch.arange(valid.shape[1])
        query, key = place[:, None], place[None]
        if cfg.att_context_style == "chunked_limited":
            begin = torch.div(query, ahead + 1, rounding_mode="floor") * (ahead + 1)
            seen = key < begin + ahead + 1
            begins = key >= begin - behind
        else:
            seen = key <= query + ahead if ahead >= 0 else key >= 0
            begins = key >= query - behind
        return keys & (seen & begins if behind >= 0 else seen)


class CTCGraph(nn.Module):
    """encoder_outputs (B, D, S) -> logprobs (B, S, V), blank last."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, encoder_outputs: Tensor) -> Tensor:
        return self.head(encoder_outputs.transpose(1, 2))


class CTCModelGraph(nn.Module):
    """audio_signal (B, F, T), length (B,)[, language (B,)] -> logprobs (B, S, V), encoded_lengths (B,)."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.encoder, self.head = EncoderGraph(model), model.head("ctc")

    def forward(
        self, audio_signal: Tensor, length: Tensor, language: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        enc, lens = self.encoder(audio_signal, length, language)
        return self.head(enc.transpose(1, 2)), lens


class PredictorGraph(nn.Module):
    """targets (B, U), target_length (B,), h and c (layers, B, H) -> outputs (B, H, U), lengths, new h and c.

    Integers are int32, as in sherpa-onnx. The first target is blank, which means that no label was read.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        layers = predictor.prediction
        self.embed = layers["embed"]
        self.lstm = layers["dec_rnn"]["lstm"]  # type: ignore[index]

    def forward(
        self, targets: Tensor, target_length: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        out, (h, c) = self.lstm(self.embed(targets.long()), (h, c))
        return out.transpose(1, 2), target_length + 0, h, c


class JoinerGraph(nn.Module):
    """encoder_outputs (B, D, S), decoder_outputs (B, H, U) -> raw logits (B, S, U, V + durations)."""

    def __init__(self, joint: Joint) -> None:
        super().__init__()
        self.joint = joint

    def forward(self, encoder_outputs: Tensor, decoder_outputs: Tensor) -> Tensor:
        f = self.joint.enc(encoder_outputs.transpose(1, 2))[:, :, None]
        g = self.joint.pred(decoder_outputs.transpose(1, 2))[:, None]
        hidden = self.joint.cfg.activation
        y = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[hidden](f + g)
        return self.joint.joint_net[2](y)


class StreamingEncoderGraph(EncoderGraph):
    """One chunk of each of B streams, with the inputs and outputs of NeMo's cache-aware export.

    audio_signal (B, F, T), T = factor * chunk; length (B,), not read; cache_last_channel (B, L + 1, left, D):
    inputs of each layer's attention, and in the last row the features before the chunk, which saves computing
    frames twice; cache_last_time (B, L, D, kernel - 1); cache_last_channel_len (B,) int64: frames so far ->
    outputs (B, D, chunk), their lengths, and the three states behind the chunk. Zeros begin a stream.
    """

    def __init__(self, model: SpeechModel) -> None:
        super().__init__(model)
        cfg, state = self.encoder.cfg, self.encoder.initial_state(1)
        self.left_frames, self.past, self.chunk = int(state.attention.shape[2]), state.past, state.step
        self.mels, self.window = cfg.feat_in, cfg.subsampling_factor * state.step
        if self.past * self.mels > self.left_frames * cfg.d_model:
            raise MayaError(
                f"{self.left_frames} frames of left context are too few for the export of a stream"
            )

    def forward(  # type: ignore[override]
        self, audio_signal: Tensor, length: Tensor, channel: Tensor, time: Tensor, frames: Tensor
    ) -> tuple[Tensor, ...]:
        cfg, x = self.encoder.cfg, audio_signal.transpose(1, 2)
        row = channel[:, -1].flatten(1)
        count = self.past * self.mels
        feats = torch.cat([row[:, :count].reshape(-1, self.past, self.mels), x], 1)
        row = torch.cat([feats[:, self.window :].flatten(1), row[:, count:]], 1)
        x = self._convolve(feats, (self.past - cfg.subsampling_factor * frames).clamp(min=0))
        if cfg.xscaling:
            x = x * math.sqrt(cfg.d_model)
        reach = self.left_frames + self.chunk - 1
        place = torch.arange(reach, -self.chunk, -1, dtype=torch.float32)
        even = torch.arange(0, cfg.d_model, 2, dtype=torch.float32)
        angle = place[:, None] * torch.exp(even * (-math.log(10000.0) / cfg.d_model))
        positions = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
        keys = (
            torch.arange(self.left_frames + self.chunk)
            >= self.left_frames - frames.clamp(max=self.left_frames)[:, None]
        )
        channels, times = [], []
        for number, layer in enumerate(self.encoder.layers):
            assert isinstance(layer, FastConformerLayer)
            x = x + 0.5 * layer.feed_forward1(layer.norm_feed_forward1(x))
            inputs = torch.cat([channel[:, number], layer.norm_self_att(x)], 1)
            x = x + self._attend_chunk(layer.self_attn, inputs, positions, keys)
            gated = layer.conv.gated(layer.norm_conv(x), keys[:, self.left_frames :])
            gated = torch.cat([time[:, number].transpose(1, 2), gated], 1)
            x = x + layer.conv.after(layer.conv.depthwise(gated, 0), keys[:, self.left_frames :])
            x = layer.norm_out(x + 0.5 * layer.feed_forward2(layer.norm_feed_forward2(x)))
            channels.append(inputs[:, self.chunk :])
            times.append(gated[:, self.chunk :].transpose(1, 2))
        channels.append(row.reshape(-1, self.left_frames, cfg.d_model))
        lens = length * 0 + self.chunk
        states = torch.stack(channels, 1), torch.stack(times, 1), frames + self.chunk
        return self.encoder.last(x).transpose(1, 2), lens, *states

    def _convolve(self, x: Tensor, starts: Tensor) -> Tensor:
        """(B, past + T, F) -> (B, chunk, D); frames before `starts` (B,) are padding on each level."""
        pre = self.encoder.pre_encode
        x = (x * (torch.arange(x.shape[1]) >= starts[:, None])[..., None].to(x.dtype))[:, None]
        for layer in pre.conv:
            if isinstance(layer, nn.ReLU):
                x = x.relu() * (torch.arange(x.shape[2]) >= starts[:, None])[:, None, :, None].to(x.dtype)
                continue
            assert isinstance(layer, nn.Conv2d)
            if layer.stride == (2, 2):
                starts = torch.div(starts, 2, rounding_mode="floor")
                x = F.conv2d(F.pad(x, (2, 1, 2, 1)), layer.weight, layer.bias, stride=2, groups=layer.groups)
            else:
                x = layer(x)
        return pre.out(x.transpose(1, 2).flatten(2)[:, pre.overlap : pre.overlap + self.chunk])

    def _attend_chunk(self, attn: RelPositionAttention, x: Tensor, positions: Tensor, keys: Tensor) -> Tensor:
        """Queries are the last `chunk` of the frames x (B, left + chunk, D); keys (B, left + chunk) bool."""
        heads, size, total = attn.heads, attn.head_size, self.left_frames + self.chunk
        q = attn.linear_q(x[:, self.left_frames :]).reshape(-1, self.chunk, heads, size)
        k, v = (linear(x).reshape(-1, total, heads, size) for linear in (attn.linear_k, attn.linear_v))
        p = attn.linear_pos(positions).reshape(-1, heads, size).permute(1, 2, 0)
        content = (q + attn.pos_bias_u).transpose(1, 2) @ k.permute(0, 2, 3, 1)
        place = (q + attn.pos_bias_v).transpose(1, 2) @ p  # (B, H, chunk, total + chunk - 1)
        shifted = [place[:, :, i, self.chunk - 1 - i : self.chunk - 1 - i + total] for i in range(self.chunk)]
        scores = (content + torch.stack(shifted, 2)) / math.sqrt(size)
        scores = scores.masked_fill(~keys[:, None, None], -30000.0)
        y = scores.softmax(-1) @ v.transpose(1, 2)
        return attn.linear_out(y.transpose(1, 2).flatten(2))
