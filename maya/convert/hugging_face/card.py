"""The model card: README.md of a Hugging Face folder, with what was measured."""

import json
from pathlib import Path
from typing import Any

from maya.decode.recognizer import Recognizer
from maya.errors import MayaError


def model_card(
    model: Recognizer, name: str, count: int, notes: list[str], results: Path | None
) -> str:  # fmt: skip
    """The card. name: of the class. count: parameters. notes: limits. results: decodings with result.json."""
    cfg, rows = model.model.cfg, _rows(results) if results is not None else []
    languages = "".join(f"\n- {code}" for code in cfg.languages)
    head = "---\nlibrary_name: transformers\npipeline_tag: automatic-speech-recognition\n"
    head += f"language:{languages}\n---\n" if languages else "---\n"
    lines = [
        head,
        "# A speech recogniser trained with Maya",
        "",
        f"{name}: {count / 1e6:.1f} M parameters, {model.tokenizer.vocab_size} pieces, audio at "
        f"{cfg.features.sample_rate} Hz.",
        "",
        "## Measured",
        "",
        *(rows or ["Nothing was measured: the export did not find a scored run."]),
        "",
        "## Use",
        "",
        "```python",
        "from transformers import AutoProcessor, pipeline",
        "",
        'print(pipeline("automatic-speech-recognition", model="FOLDER")("audio.wav")["text"])',
        "```",
        "",
        "or `maya transcribe FOLDER audio.wav`.",
        "",
        "## Limits",
        "",
        *(f"- {note}." for note in notes),
        "",
    ]
    return "\n".join(lines)


def _rows(results: Path) -> list[str]:
    """A markdown table with a row for each decoding and language, as result.json has them."""
    lines: list[str] = []
    for path in sorted(results.rglob("result.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MayaError(f"{path} cannot be read ({error}); run maya score again") from error
        name = str(path.parent.relative_to(results))
        for code, report in (result.get("languages") or {}).items():
            lines.append(f"| {name} | {result.get('method', '')} | {code} | {_figures(report)} |")
        if commit := result.get("commit"):
            lines.append(f"| {name} | commit | | {commit[:10]} | | | |")
    if not lines:
        return []
    header = (
        "| set | method | language | utterances | hours | WER % (95 % interval) | CER % (95 % interval) |"
    )
    return [header, "|---|---|---|---|---|---|---|", *lines]


def _figures(report: dict[str, Any]) -> str:
    rates = []
    for name in ("wer", "cer"):
        low, high = report.get(f"{name}_interval") or (float("nan"),) * 2
        value = report.get(name)
        rates.append("" if value is None else f"{100 * value:.2f} ({100 * low:.2f} to {100 * high:.2f})")
    return f"{report.get('utterances', '')} | {report.get('hours', 0):.2f} | " + " | ".join(rates)
