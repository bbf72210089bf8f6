"""What needs PyTorch, the optional extra `torch`: imported only where it is asked for.

`from_onnx` makes a module of a file, to be trained or looked at; `to_onnx` puts what was trained back.
`unfold_batchnorm` brings back the BatchNormalization that an exporter folded, while training lasts;
`refresh_batchnorm` gives what is there the statistics of the samples.
`insert_dropout` brings back what inference has none of.
`export` has PyTorch write such a module anew, and holds that against the file.
`apply_plan` slices the module that a file was exported from as the file was pruned.
`retrain` does all of that: the original model teaches the pruned one.
"""

from .anew import export as export
from .apply import apply_plan as apply_plan
from .convert import from_onnx as from_onnx
from .dropout import insert_dropout as insert_dropout
from .recipe import Recipe as Recipe
from .train import Retrained as Retrained
from .train import retrain as retrain
from .unfold import refresh_batchnorm as refresh_batchnorm
from .unfold import unfold_batchnorm as unfold_batchnorm
from .writeback import to_onnx as to_onnx
