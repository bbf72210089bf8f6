"""The exceptions a user can meet; each message says what, where, expected, found, what to do."""


class OnnxPruneError(Exception):
    """Something the user can mend: a bad model, bad samples, an unknown name, a budget out of reach.

    The command line prints the message as one line and exits with code 2.
    """


class ModelError(OnnxPruneError):
    """The ONNX file cannot be read, is not valid, or needs something this machine lacks."""


class DataError(OnnxPruneError):
    """The sample inputs do not fit the model."""


class BudgetError(OnnxPruneError):
    """The budget is nonsense or out of reach; the message names the least reachable figure."""


class ProofError(OnnxPruneError):
    """The pruned model does not equal the original with the removed parts silenced."""


class InternalError(Exception):
    """An invariant of onnxprune is broken. This is a bug of ours: the traceback is shown."""
