"""Calibration: where samples come from, and what one streaming run over them leaves behind.

This folder imports `onnxprune.core` only and meets the criteria in the statistics kept there.
"""
