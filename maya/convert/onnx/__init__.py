"""ONNX graphs in the form that sherpa-onnx reads."""
