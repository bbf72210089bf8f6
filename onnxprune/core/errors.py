"""The exceptions a user can meet; each message says what, where, expected, found, what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class OnnxPruneError(Exception):
    """Something the user can mend: a bad model, bad samples, an unknown name, a budget out of reach.

    The command line prints the message as one line and exits with code 2.
    """


class ModelError(OnnxPruneError):
    """The ONNX file cannot be read, is not valid, or needs something this machine lacks."""


class UnknownOperatorError(ModelError):
    """The model has an operator that onnxruntime does not know: it can be pruned, not run."""


class DataError(OnnxPruneError):
    """The sample inputs do not fit the model."""


class BudgetError(OnnxPruneError):
    """The budget is nonsense or out of reach; the message names the least reachable figure."""


class LimitError(OnnxPruneError):
    """The model lost more than was allowed; `found` is what was measured."""

    def __init__(self, message: str, found: object) -> None:
        """Keep what was measured."""
        super().__init__(message)
        self.found = found


class ProofError(OnnxPruneError):
    """The pruned model does not equal the original with the removed parts silenced."""


class InternalError(Exception):
    """An invariant of onnxprune is broken. This is a bug of ours: the traceback is shown."""


@contextmanager
def needs_torch(what: str, instead: str = "") -> Iterator[None]:
    """Turn an import of the extra `torch` that fails into one line: what needs it, what to do.

    Args:
        what: asks for it, as the user named it.
        instead: what does without.
    """
    try:
        yield
    except (ImportError, OSError) as error:  # a library that does not load is an OSError
        other = f", or {instead}" if instead else ""
        reason = " ".join(str(error).split())
        raise OnnxPruneError(
            f'{what} needs PyTorch: pip install "onnxprune[torch]"{other} ({reason})'
        ) from error


def first_line(error: BaseException) -> str:
    """Return what an error of a library says first, its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
