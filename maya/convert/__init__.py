"""Import and export of models: NeMo's `.nemo` archives, icefall's checkpoints, Parakeet folders of Hugging
Face, Whisper in its formats, and ONNX graphs."""

from maya.convert.conv_tasnet import import_conv_tasnet
from maya.convert.conversion import Conversion
from maya.convert.ecapa import import_ecapa
from maya.convert.hugging_face.export import to_hugging_face
from maya.convert.hugging_face.load import from_hugging_face, import_hugging_face
from maya.convert.icefall.export import to_icefall
from maya.convert.icefall.load import from_icefall, import_icefall
from maya.convert.nemo.export import to_nemo
from maya.convert.nemo.load import from_nemo, import_nemo
from maya.convert.wespeaker import import_wespeaker
from maya.convert.whisper.export import to_ctranslate2, to_ggml
from maya.convert.whisper.load import import_whisper

__all__ = [
    "Conversion", "from_hugging_face", "from_icefall", "from_nemo", "import_conv_tasnet", "import_ecapa",
    "import_hugging_face", "import_icefall", "import_nemo", "import_wespeaker", "import_whisper",
    "to_ctranslate2", "to_ggml", "to_hugging_face", "to_icefall", "to_nemo",
]  # fmt: skip
