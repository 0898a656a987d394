"""The ONNX export for the encoder of a model."""

from pathlib import Path

from maya.convert.heads import HeadName, of_language
from maya.convert.onnx.fastconformer import to_onnx
from maya.convert.onnx.whisper import to_whisper_onnx
from maya.convert.onnx.zipformer import to_sherpa_onnx
from maya.decode.recognizer import Recognizer
from maya.encoders import WhisperEncoderConfig, ZipformerConfig
from maya.errors import MayaError


def export_onnx(
    model: Recognizer, out: Path, *, head: HeadName | None = None, language: str | None = None,
    int8: bool = False, chunk_frames: int | None = None, left_frames: int = 128, stream: bool = False,
) -> list[Path]:  # fmt: skip
    """Write `model` as ONNX graphs and tokens.txt into the folder `out`; returns the files.

    `chunk_frames` and `left_frames`, in frames of 20 ms, are for causal Zipformers that stream; `stream` and
    `language` are for FastConformers. See `to_onnx`, `to_sherpa_onnx` and `to_whisper_onnx` for the other
    arguments and errors.
    """
    if isinstance(model.model.cfg.encoder, WhisperEncoderConfig):
        if head is not None or language is not None or chunk_frames is not None or stream:
            raise MayaError(
                "Whisper is exported whole, for windows of 30 s: leave --head, --language, --chunk-frames "
                "and --stream out"
            )
        return to_whisper_onnx(model, out, int8=int8)
    model, language = of_language(model, language, "the ONNX export")
    if isinstance(model.model.cfg.encoder, ZipformerConfig):
        if language is not None:
            raise MayaError("Zipformers are exported without language embedding; leave --language out")
        chunks = {"chunk_frames": chunk_frames, "left_frames": left_frames}
        return to_sherpa_onnx(model, out, head=head, int8=int8, **chunks)  # type: ignore[arg-type]
    if chunk_frames is not None:
        raise MayaError("--chunk-frames is for causal Zipformers; this model is none")
    return to_onnx(model, out, head=head, language=language, int8=int8, stream=stream)
