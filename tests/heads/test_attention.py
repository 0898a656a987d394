"""The attention decoder: icefall's recorded output, its parameter counts, padding, and one token at a time.

golden/icefall_attention_decoder.pt was recorded from icefall's AttentionDecoderModel (snapshot 36e0420, run
in eval mode, norms and biases made random) with two layers of width 16: its state dict, inputs, logits, loss
of each utterance alone (`calc_att_loss`) and summed negative log likelihoods (`nll`).
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maya.errors import MayaError
from maya.heads.attention import AttentionDecoder, AttentionDecoderConfig

PREFIX = "decoder."


def make(enc_dim: int = 12, vocab_size: int = 10, **changes: Any) -> AttentionDecoder:
    tiny = {"layers": 2, "dim": 16, "heads": 2, "feed_forward": 24}
    return AttentionDecoder(AttentionDecoderConfig(**(tiny | changes)), enc_dim, vocab_size).eval()


def data(lens: list[int], token_lens: list[int], enc_dim: int = 12) -> tuple[Tensor, ...]:
    enc = torch.randn(len(lens), max(lens), enc_dim)
    tokens = torch.randint(0, 10, (len(lens), max(token_lens)))
    return enc, torch.tensor(lens), tokens, torch.tensor(token_lens)


@pytest.fixture(scope="module")
def golden(repo: Path) -> dict[str, Any]:
    return torch.load(repo / "tests/golden/icefall_attention_decoder.pt", weights_only=True)


@pytest.fixture
def icefall(golden: dict[str, Any]) -> AttentionDecoder:
    cfg = dict(golden["config"])
    model = make(cfg.pop("memory_dim"), cfg.pop("vocab") - 1, **cfg)
    model.load_state_dict({k.removeprefix(PREFIX): v for k, v in golden["state_dict"].items()})
    return model


def test_equals_icefall(golden: dict[str, Any], icefall: AttentionDecoder) -> None:
    batch = [golden[name] for name in ("enc", "enc_lens", "tokens", "token_lens")]
    used = torch.arange(golden["logits"].shape[1]) <= golden["token_lens"][:, None]
    torch.testing.assert_close(icefall(*batch)[used], golden["logits"][used], rtol=0, atol=2e-6)
    loss = icefall.loss(*batch)
    assert loss.shape == (3,) and loss.dtype == torch.float32
    torch.testing.assert_close(loss, golden["losses"], rtol=1e-6, atol=0)
    enc, enc_lens, tokens, token_lens = batch
    score = icefall.score(tokens[:, None], token_lens[:, None], icefall.memory(enc, enc_lens))
    torch.testing.assert_close(-score[:, 0], golden["nll"], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("enc_dim", "ctc_aed", "ctc"),
    [(256, 46_282_107, 22_118_279), (512, 89_987_295, 64_250_603), (768, 174_319_650, 147_010_094)],
    ids=["small", "medium", "large"],
)
def test_parameter_counts_are_those_published(enc_dim: int, ctc_aed: int, ctc: int) -> None:
    with torch.device("meta"):
        model = AttentionDecoder(AttentionDecoderConfig(eos=1), enc_dim, 499, blank=0)
    assert sum(p.numel() for p in model.parameters()) == ctc_aed - ctc


def test_parameter_names_equal_icefall() -> None:
    names = set(dict(make(layers=1).named_parameters()))
    layer = {
        f"layers.0.{part}.{kind}"
        for part in (
            *(f"{a}.{x}" for a in ("self_attn", "src_attn") for x in ("linear_q", "linear_k", "linear_v")),
            *("self_attn.out_proj", "src_attn.out_proj", "feed_forward.0", "feed_forward.3"),
            *("norm_self_attn", "norm_src_attn", "norm_ff"),
        )
        for kind in ("weight", "bias")
    }
    assert names == layer | {"embed.weight", "output_layer.weight", "output_layer.bias"}


def test_loss_is_label_smoothed_cross_entropy_with_end_token() -> None:
    model = make(label_smoothing=0.2)
    batch = data([7, 4], [3, 0])
    logits = model(*batch).log_softmax(-1)
    said = [*batch[2][0].tolist(), model.eos]
    expected = [
        (row, u, token) for row, tokens in enumerate((said, [model.eos])) for u, token in enumerate(tokens)
    ]
    loss = torch.zeros(2)
    for row, u, token in expected:
        loss[row] -= 0.8 * logits[row, u, token] + 0.2 * logits[row, u].mean()
    torch.testing.assert_close(model.loss(*batch), loss)


def test_padding_is_ignored() -> None:
    model = make()
    enc, enc_lens, tokens, token_lens = data([9, 5, 1], [4, 2, 0])
    loss = model.loss(enc, enc_lens, tokens, token_lens)
    for row, (s, u) in enumerate(zip(enc_lens.tolist(), token_lens.tolist(), strict=True)):
        only = slice(row, row + 1)
        alone = model.loss(enc[only, :s], enc_lens[only], tokens[only, :u], token_lens[only])
        torch.testing.assert_close(alone[0], loss[row])
        enc[row, s:], tokens[row, u:] = float("nan"), -1
    enc.requires_grad_()
    again = model.loss(enc, enc_lens, tokens, token_lens)
    assert torch.equal(again, loss)
    again.sum().backward()
    assert enc.grad is not None and enc.grad.isfinite().all() and not enc.grad[1, 5:].any()


def test_an_utterance_without_frames_has_a_finite_loss() -> None:
    model = make()
    enc, enc_lens, tokens, token_lens = data([6, 0], [3, 2])
    loss = model.loss(enc, enc_lens, tokens, token_lens)
    alone = model.loss(enc[1:, :0], enc_lens[1:], tokens[1:], token_lens[1:])
    assert loss.isfinite().all()
    torch.testing.assert_close(alone[0], loss[1])


@pytest.mark.parametrize("beam", [1, 3])
def test_stepwise_output_equals_the_whole_sequence(beam: int) -> None:
    model = make(layers=3, dim=32, heads=4)
    enc, enc_lens, _, _ = data([9, 5], [1, 1])
    tokens = torch.randint(0, 10, (2, beam, 7))
    lens = torch.full((2, beam), 7)
    memory = model.memory(enc, enc_lens)
    state = model.start(memory, beam)
    read, total = torch.full((2 * beam,), model.eos), torch.zeros(2 * beam)
    spread = enc.repeat_interleave(beam, 0), enc_lens.repeat_interleave(beam, 0)
    whole = model(*spread, tokens.flatten(0, 1), lens.flatten()).log_softmax(-1)
    for u in range(8):
        log_probs, state = model.step(read, state)
        torch.testing.assert_close(log_probs, whole[:, u], rtol=0, atol=1e-5)
        read = tokens[:, :, u].flatten() if u < 7 else torch.full((2 * beam,), model.eos)
        total += log_probs.gather(1, read[:, None])[:, 0]
    torch.testing.assert_close(model.score(tokens, lens, memory), total.view(2, beam), rtol=0, atol=1e-4)


def test_states_are_selected_by_row() -> None:
    model = make()
    memory = model.memory(*data([8, 6], [1, 1])[:2])
    _, state = model.step(torch.tensor([1, 2, 3, 4]), model.start(memory, 2))
    chosen, _ = model.step(torch.tensor([5, 6, 7, 8]), state.select(torch.tensor([1, 1, 2, 3])))
    straight, _ = model.step(torch.tensor([5, 6, 7, 8]), state)
    torch.testing.assert_close(chosen[1:], straight[1:])
    assert (chosen[0] - straight[0]).abs().max() > 1e-3


def test_autocast_and_double() -> None:
    model = make()
    batch = data([7, 4], [3, 1])
    loss = model.loss(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss(*batch)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss, rtol=0.02, atol=0)
    exact = model.double().loss(batch[0].double(), *batch[1:])
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), loss, rtol=1e-5, atol=0)


def test_it_overfits_a_small_batch() -> None:
    model = make(dropout=0.0, label_smoothing=0.0).train()
    batch = data([6, 6, 6], [4, 3, 2])
    before = model.loss(*batch).mean().item()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(*batch).sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.loss(*batch).mean().item() < 0.1 * before


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"heads": 3}, "heads"),
        ({"layers": 0}, "layers"),
        ({"eos": 11}, "eos"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_invalid_options_are_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(MayaError, match=word):
        make(**changes)


def test_end_token_is_blank_by_default() -> None:
    assert make().eos == 10
    assert AttentionDecoder(AttentionDecoderConfig(layers=1, dim=4, heads=1), 4, 9, blank=0).eos == 0
    assert make(eos=1).eos == 1


def test_loss_compiles_without_graph_breaks() -> None:
    model = make(dropout=0.0).train()
    batch = data([7, 4], [3, 1])
    compiled = torch.compile(model.loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*batch), model.loss(*batch))
