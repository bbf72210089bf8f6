"""What acts on a plan or makes one: criteria score units, surgeries apply plans.

This folder imports `onnxprune.core` only; `onnxprune.discover` finds its modules by name, so a
new criterion or surgery is one new file.
"""
