"""Heads with an output layer for each language: training, sizes, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from maya.errors import MayaError
from maya.heads import (
    HeadContext,
    LossStep,
    MultisoftmaxCTC,
    MultisoftmaxCTCConfig,
    MultisoftmaxTransducer,
    MultisoftmaxTransducerConfig,
)
from maya.heads.transducer import PredictorConfig, StatelessConfig
from tests.convert.indic_files import CODES, PIECES, batch_of, streaming


@pytest.fixture(scope="module")
def audio() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, generator=generator) * 0.1 for n in (16000, 9000, 12345, 16000, 7000, 15000)]


@pytest.fixture(scope="module")
def spoken() -> list[str]:
    return ["hi", "or", "as", "as", "hi", "or"]


@pytest.mark.parametrize("loss", ["rnnt", "tdt"])
def test_training_equals_that_of_each_language_by_itself(
    audio: list[Tensor], spoken: list[str], loss: str
) -> None:
    """Losses of a mixed batch, and gradients: zero for the layers of absent languages."""
    model = streaming(loss)
    batch = batch_of(model, audio, spoken)
    model.model.train().encoder.eval()
    for module in model.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    network = model.model
    encoded = network.encode_audio(batch.audio, batch.audio_lens)
    step = LossStep(generator=torch.Generator().manual_seed(7))
    losses = network.losses(encoded, batch, step=step)
    for row, code in enumerate(spoken):
        index = CODES.index(code)
        alone = batch_of(model, audio[row : row + 1], [code])
        alone.tokens -= index * PIECES
        own = type(encoded)(encoded.frames[row : row + 1, : encoded.lens[row]], encoded.lens[row : row + 1])
        for name in ("ctc", "transducer"):
            head: Any = network.head(name)
            step = LossStep(generator=torch.Generator().manual_seed(7))
            expected = head.of_language(index).losses(own, alone, step)["loss"]
            torch.testing.assert_close(losses.parts[name][row : row + 1], expected, rtol=1e-5, atol=1e-4)
    only = batch_of(model, audio[:2], ["hi", "hi"])
    network.losses(
        network.encode_audio(only.audio, only.audio_lens), only, step=LossStep()
    ).total.sum().backward()
    grads = {name: p.grad for name, p in network.heads.named_parameters()}
    assert all(grad is not None for grad in grads.values())  # as DDP needs it
    assert (
        grads["transducer.joint.joint_net.2.hi.bias"].any()
        and not grads["transducer.joint.joint_net.2.or.bias"].any()
    )
    rows = grads["ctc.decoder_layers.0.bias"].nonzero().flatten().tolist()
    assert rows == [*range(2 * PIECES, 3 * PIECES + 1)]


def test_a_few_steps_of_training_lower_the_loss(audio: list[Tensor], spoken: list[str]) -> None:
    model = streaming()
    batch = batch_of(model, audio, spoken)
    network = model.model.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    history = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = network(batch).total.mean()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]


def test_two_views_of_each_utterance(audio: list[Tensor], spoken: list[str]) -> None:
    model = streaming(consistency=0.2)
    batch = batch_of(model, audio, spoken)
    losses = model.model.train()(batch)
    assert losses.parts["ctc_consistency"].shape == losses.total.shape == (6,)
    losses.total.sum().backward()


def test_unequal_numbers_of_pieces(audio: list[Tensor]) -> None:
    """Each language reads its own rows of the shared embedding, and the zero row."""
    sizes = (5, 8, 3)
    context = HeadContext(dim=6, labels=16, blank=16, languages=CODES)
    cfg = MultisoftmaxTransducerConfig(pieces=sizes, predictor=PredictorConfig(hidden=4, layers=1))
    head = MultisoftmaxTransducer(cfg, context)
    ctc = MultisoftmaxCTC(MultisoftmaxCTCConfig(pieces=sizes), context)
    for index, size in enumerate(sizes):
        own = head.of_language(index)
        assert own.decoder.embed(torch.arange(size + 1)).shape == (size + 1, 4)
        assert torch.equal(own.decoder.embed(torch.tensor([size])), torch.zeros(1, 4))
        assert own.joint.output_layer()[0].shape[0] == size + 1
        assert ctc.of_language(index)(torch.randn(2, 6)).shape == (2, size + 1)


def test_heads_that_cannot_be_built_are_refused() -> None:
    context = HeadContext(dim=6, labels=16, blank=16, languages=CODES)
    lstm = PredictorConfig(hidden=4, layers=1)
    for cfg, part in (
        (MultisoftmaxCTCConfig(), "16 pieces are not 3 equal parts"),
        (MultisoftmaxCTCConfig(pieces=(5, 5, 5)), "16 together"),
        (MultisoftmaxCTCConfig(pieces=(8, 5, 3), mmi_share=0.5), "mmi_share=0"),
        (MultisoftmaxTransducerConfig(pieces=(8, 5, 3), loss="pruned", predictor=lstm), "tdt or rnnt"),
        (MultisoftmaxTransducerConfig(pieces=(8, 5, 3), predictor=StatelessConfig(hidden=4)), "kind lstm"),
    ):
        with pytest.raises(MayaError, match=part):
            cfg.build(context)
    with pytest.raises(MayaError, match="needs model.languages"):
        MultisoftmaxCTCConfig().build(HeadContext(dim=6, labels=16, blank=16))
    tongan = HeadContext(dim=6, labels=16, blank=16, languages=("to", "hi"))
    with pytest.raises(MayaError, match="'to' cannot name"):
        MultisoftmaxTransducerConfig(pieces=(8, 8), predictor=lstm).build(tongan)
