"""Run the command line as `python -m onnxprune`."""

import sys

from onnxprune.cli import entry

sys.exit(entry())
