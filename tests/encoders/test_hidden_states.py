"""Hidden states on request: layer 0 is the input of the first block, layer i the output of block i."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from maya.encoders import FastConformerConfig, LaCTConfig
from maya.encoders.conformer import in_place, packed_rows
from maya.errors import MayaError
from tests import tiny_zipformer

SIZES = {"feat_in": 80, "d_model": 32, "n_layers": 3, "n_heads": 4, "subsampling_channels": 8}
ENCODERS: dict[str, Any] = {
    "FastConformer": FastConformerConfig(**SIZES),
    "LaCT": LaCTConfig(**SIZES, ff_dim=32),
    "Zipformer": tiny_zipformer.encoder(),
}
LENS = torch.tensor([203, 90, 0])


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_hidden_states_equal_block_outputs(name: str, checkpointing: bool) -> None:
    cfg = replace(ENCODERS[name], activation_checkpointing=checkpointing)
    torch.manual_seed(0)
    encoder = cfg.build().eval()
    seen: list[Any] = []
    for block in encoder.blocks():
        block.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    count, x = len(encoder.blocks()), torch.randn(3, 203, 80)
    # With gradients the padded batch is the one of the hooks; states must reach the weights.
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_rows, "PACK_ABOVE", 1.0)
        encoded = encoder(x, LENS, hidden=range(count + 1))
    outputs = [seen[0][0], *(out[0] if isinstance(out, tuple) else out for _, out in seen[:count])]
    assert list(encoded.hidden) == list(range(count + 1))
    for number, state in encoded.hidden.items():
        assert state.shape[:2] == encoded.frames.shape[:2]
        assert all(not state[row, n:].any() for row, n in enumerate(encoded.lens.tolist()))
        if name != "Zipformer":
            valid = torch.arange(state.shape[1]) < encoded.lens[:, None]
            assert torch.equal(state[valid], outputs[number][valid])
        else:
            assert state.shape[2] == (cfg.dims[number - 1] if number else cfg.dims[0])
    if name != "Zipformer":
        assert torch.equal(encoded.hidden[count], encoded.frames)
    sum(state.square().sum() for state in encoded.hidden.values()).backward()
    assert all(p.grad is not None for p in encoder.blocks()[0].parameters() if p.requires_grad)
    assert encoder(x, LENS).hidden == {}
    with pytest.raises(MayaError, match=f"no hidden layer {count + 1}"):
        encoder(x, LENS, hidden=[count + 1])


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_hidden_states_do_not_depend_on_the_batch(name: str) -> None:
    """Packed or padded, alone or in a batch."""
    encoder = ENCODERS[name].build().eval()
    x, layers = torch.randn(3, 203, 80), range(len(encoder.blocks()) + 1)
    states = encoder(x, LENS, hidden=layers).hidden  # FastConformer packs so ragged a batch
    for row in (0, 1):
        alone = encoder(x[row : row + 1, : LENS[row]], LENS[row : row + 1], hidden=layers)
        for number, state in alone.hidden.items():
            actual = states[number][row, : alone.lens]
            torch.testing.assert_close(actual, state[0, : alone.lens], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_hidden_states_of_long_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that overwrite their input do not change the states."""
    encoder = ENCODERS["FastConformer"].build().eval()
    x, lens = torch.randn(2, 3000, 80), torch.tensor([3000, 2990])
    whole = encoder(x, lens, hidden=range(4)).hidden
    monkeypatch.setattr(in_place, "BLOCK_FRAMES", 50)
    blocks = encoder(x, lens, hidden=range(4)).hidden
    torch.testing.assert_close(blocks, whole, rtol=0, atol=1e-6)
