"""The registry of what ONNX operators are in PyTorch: one function each, by domain, name and opset.

The signature of a function is that of the operator: operands by place, attributes by name (what was
an attribute once and is an operand now has one name for both). Annotations say what an operand is:

    @torch_op("Gemm")
    def gemm(a: Tensor, b: Learned, c: Learned | None = None, *, alpha: float = 1.0, ...) -> Tensor:

An attribute that is no parameter of the function is refused, so that nothing is left out unseen.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, IntEnum, auto
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from onnx import NodeProto
from torch import Tensor, nn

from ..core.errors import InternalError, ModelError
from .refused import REFUSED


class Kind(Enum):
    """What an operand is to its operator."""

    SIGNAL = auto()  # a tensor; a constant of several values that meets a signal here is learned
    LEARNED = auto()  # a tensor; a constant here is learned, whatever its size
    FIXED = auto()  # a tensor; a constant here is never learned
    HOST = auto()  # a number or a list of numbers of Python: lengths, axes, bounds
    EITHER = auto()  # a tensor, or a number of Python
    ABSENT = auto()  # an optional operand that is not carried


Learned = Annotated[Tensor, Kind.LEARNED]
Fixed = Annotated[Tensor, Kind.FIXED]
Ints = Annotated[list[int], Kind.HOST]
Floats = Annotated[list[float], Kind.HOST]
Number = Annotated[float, Kind.HOST]
Host = Annotated[Any, Kind.HOST]
Index = Annotated[Tensor | int, Kind.EITHER]
Absent = Annotated[None, Kind.ABSENT]


class Form(IntEnum):
    """What a value is while the module runs."""

    TENSOR = -1
    NUMBER = 0
    ONE = 1  # a list of one number
    LIST = 2


FormRule = Callable[[Sequence[Form]], Form | None]
C = TypeVar("C", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, slots=True)
class Operator:
    """One operator of ONNX from opset `since` on.

    Attributes:
        call: a function of operands and attributes; or a module made of attributes and called on
            operands, where training differs from evaluation.
        slots: what the operands are; `rest` is what all further ones are.
        keywords: names under which attributes are taken.
        several: whether results come in a tuple or list.
        ignores: attributes that say nothing new (the kernel's shape is that of the weight).
        only: values that are taken, of attributes that have but one meaning here.
        form: of a result that is no tensor, from the operands' forms; None as its value where they
            do not allow it.
    """

    op_type: str
    domain: str
    since: int
    call: Callable[..., Any]
    slots: tuple[Kind, ...]
    rest: Kind | None
    keywords: frozenset[str]
    several: bool
    ignores: frozenset[str]
    only: Mapping[str, tuple[Any, ...]]
    form: FormRule | None

    @property
    def is_module(self) -> bool:
        """Whether `call` is the class of a module."""
        return inspect.isclass(self.call)

    def kind(self, slot: int) -> Kind:
        """Return what operand `slot` is."""
        return self.slots[slot] if slot < len(self.slots) else self.rest or Kind.ABSENT


class OperatorTable:
    """Operators by domain and name, newest first."""

    def __init__(self) -> None:
        """Create an empty table."""
        self._table: dict[tuple[str, str], list[Operator]] = {}

    def register(
        self,
        *op_types: str,
        domain: str = "",
        since: int = 1,
        ignores: Sequence[str] = (),
        only: Mapping[str, tuple[Any, ...]] | None = None,
        form: FormRule | None = None,
        operands: int | None = None,
    ) -> Callable[[C], C]:
        """Return a decorator that enters a function, or the class of a module.

        `operands` is how many tensors a function of PyTorch takes, which has no signature to read;
        for the rest see `Operator`.

        Raises:
            InternalError: if there is one for the same operator, domain and opset.
        """

        def enter(call: C) -> C:
            for op_type in op_types:
                versions = self._table.setdefault((domain, op_type), [])
                if any(o.since == since for o in versions):
                    raise InternalError(f"'{domain}:{op_type}' since {since} is registered twice")
                read = _read(call) if operands is None else _plain(operands)
                versions.append(
                    Operator(
                        op_type, domain, since, call, *read, frozenset(ignores), only or {}, form
                    )
                )
                versions.sort(key=lambda o: -o.since)
            return call

        return enter

    def get(self, node: NodeProto, opsets: Mapping[str, int]) -> Operator | None:
        """Return the operator of a node under the file's opsets, or None."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = opsets.get(domain, 1)
        versions = self._table.get((domain, node.op_type), [])
        return next((o for o in versions if o.since <= version), None)

    def find(self, node: NodeProto, opsets: Mapping[str, int]) -> Operator:
        """Return the operator of a node.

        Raises:
            ModelError: if it is not carried to PyTorch; says why.
        """
        operator = self.get(node, opsets)
        if operator is not None:
            return operator
        key = ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
        raise refusal(node, REFUSED.get(key, "nobody has written this operator in PyTorch yet"))

    def all(self) -> list[Operator]:
        """Return every operator, sorted by domain, name and opset."""
        found = [o for versions in self._table.values() for o in versions]
        return sorted(found, key=lambda o: (o.domain, o.op_type, o.since))


def refusal(node: NodeProto, reason: str) -> ModelError:
    """Return the error that says why a node is not carried to PyTorch."""
    title = node.name or next(filter(None, node.output), "")
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return ModelError(f"node '{title}' ({kind}) cannot become PyTorch: {reason}")


_Signature = tuple[tuple[Kind, ...], Kind | None, frozenset[str], bool]


def _plain(operands: int) -> _Signature:
    return (Kind.SIGNAL,) * operands, None, frozenset(), False


def _read(call: Callable[..., Any]) -> _Signature:
    """Return slots, the kind of further operands, keywords, and whether there are several results."""
    body, made = call, call
    if inspect.isclass(call):
        if not issubclass(call, nn.Module):
            raise InternalError(f"{call.__name__} is no module")
        body, made = call.forward, call.__init__
    hints = get_type_hints(body, include_extras=True)
    slots, rest = [], None
    for name, parameter in inspect.signature(body).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            rest = _kind(hints[name])
        elif parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and name != "self":
            slots.append(_kind(hints[name]))
    names = {*inspect.signature(made).parameters, *inspect.signature(body).parameters}
    several = str(hints["return"]).startswith(("tuple", "list"))
    return tuple(slots), rest, frozenset(names - {"self"}), several


def _kind(hint: Any) -> Kind:
    """Return the kind that an annotation names, in a union too; a plain tensor is a signal."""
    found = [part for one in (hint, *get_args(hint)) for part in getattr(one, "__metadata__", ())]
    return next((part for part in found if isinstance(part, Kind)), Kind.SIGNAL)


TORCH_OPS = OperatorTable()
HOST_OPS = OperatorTable()  # the same operators on numbers and lists of Python
torch_op = TORCH_OPS.register
host_op = HOST_OPS.register
