"""ONNX -> PyTorch -> ONNX."""
