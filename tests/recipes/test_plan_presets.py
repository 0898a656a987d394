"""`maya plan` of every preset, encoder and head; and of a model that FSDP2 divides."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from maya.errors import MayaError
from maya.heads import HeadConfig
from maya.models.config import SpeechModelConfig
from maya.recipes import lact_presets, presets
from maya.recipes.plan import Setup, plan
from tests.tiny import experiment

MODELS: dict[str, Callable[[], SpeechModelConfig]] = {
    name: getattr(presets, name)
    for name in (
        "tiny", "low_resource", "small", "large", "xlarge", "xxlarge", "zipformer_small", "zipformer_medium",
        "zipformer_large", "zipformer_low_resource",
    )
}  # fmt: skip
MODELS |= {
    f"{size}, {loss}": lambda size=size, loss=loss: lact_presets.lact(getattr(lact_presets, size)(), loss)
    for size, loss in [
        ("lact_tiny", "tdt"),
        ("lact_small", None),
        ("lact_base", "rnnt"),
        ("lact_large", "tdt"),
    ]
}
MODELS["CR-CTC"] = lambda: presets.with_cr_ctc(presets.zipformer_low_resource())
QUICK = ("tiny", "xxlarge", "zipformer_low_resource")


def planned(model: SpeechModelConfig, **options: Any) -> dict[str, Any]:
    return plan(replace(experiment(), model=model), Setup(hours=150_000, **options))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_every_preset_has_a_plan(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = planned(MODELS[name](), price=3.0)
    assert report["largest_batch"]["utterances"] >= 1 and report["time"]["days_per_pass"] > 0
    needed = report["resources"]
    assert needed["audio_gb"] == pytest.approx(150_000 * 3600 * 17_500 / 1e9) and needed["price"] > 0
    text = capsys.readouterr().out
    assert "disk, audio" in text and "core hours" in text and "FSDP2" not in text


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(HeadConfig.kinds()))
def test_every_head_has_a_plan_or_a_reason(kind: str) -> None:
    model = presets.tiny()
    try:
        model.heads["other"] = HeadConfig.kinds()[kind](weight=0.5)
        report = planned(model)
    except MayaError as error:
        assert "\n" not in str(error)
    else:
        assert report["largest_batch"]["utterances"] >= 1


def test_a_model_that_fsdp_divides(capsys: pytest.CaptureFixture[str]) -> None:
    def states(parallel: Any, gpus: int) -> tuple[float, dict[str, float]]:
        tiny = experiment()
        tiny.train.parallel = parallel
        some = plan(tiny, Setup(gpus=gpus))["memory"]["no checkpointing"]["states"]
        return sum(some.values()), some

    (_, whole), (_, divided) = states("ddp", 4), states("fsdp", 4)
    assert "FSDP2 divides weights, gradients and optimizer among 4 GPUs" in capsys.readouterr().out
    for name in ("weights (fp32)", "optimizer (AdamW, fp32)", "gradients (fp32)"):
        assert divided[name] == pytest.approx(whole[name] / 4)
    assert 0 < divided["gathered weights (fp32)"] <= whole["weights (fp32)"]
    assert states("fsdp", 1)[1].keys() == states("ddp", 1)[1].keys()
