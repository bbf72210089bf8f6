"""Reference models in PyTorch with their exporter, and the trained digits model of the demo.

PyTorch is imported by the modules that define networks, never here: reading the shipped
`digits.onnx` and `digits.npz` needs the base install only.
"""
