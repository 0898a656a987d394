"""Models of other systems in and out: NeMo's `.nemo` archives, and ONNX."""

from maya.convert.nemo import NemoImport, from_nemo, import_nemo
from maya.convert.nemo_export import to_nemo

__all__ = ["NemoImport", "from_nemo", "import_nemo", "to_nemo"]
