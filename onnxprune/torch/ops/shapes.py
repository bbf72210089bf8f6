"""Arithmetic on lengths: numbers and lists of Python, so that no value is waited for.

Lists have one axis, so that `axis` and `axes` say nothing. Operators that are not here take tensors.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from onnx import TensorProto
from torch import Tensor

from ..operators import Form, Host, Ints, host_op, torch_op


def _list(_: Sequence[Form]) -> Form:
    return Form.LIST


def _one(_: Sequence[Form]) -> Form:
    return Form.ONE


def _number(_: Sequence[Form]) -> Form:
    return Form.NUMBER


def _widest(forms: Sequence[Form]) -> Form:
    return max(forms)


@torch_op("Shape", form=_list)
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Ints:
    """Return the lengths of x."""
    return list(x.shape[start:end])


@torch_op("Size", form=_number)
def size(x: Tensor) -> int:
    """Return the number of elements of x."""
    return x.numel()


@host_op("Shape", form=_one)
def shape_of_list(x: Host) -> Host:
    """Return how long a list is; a number has no axes."""
    return [len(x)] if isinstance(x, list) else []


def _each(function: Callable[..., Any], *operands: Host) -> Host:
    """Apply a function position by position; numbers and lists of one are repeated."""
    lists = [v if isinstance(v, list) else [v] for v in operands]
    length = max(len(v) for v in lists)
    rows = [v * length if len(v) == 1 else v for v in lists]
    found = [function(*row) for row in zip(*rows, strict=True)]
    return found if any(isinstance(v, list) for v in operands) else found[0]


@host_op("Add", form=_widest)
def add(a: Host, b: Host) -> Host:
    """Return a + b."""
    return _each(operator.add, a, b)


@host_op("Sub", form=_widest)
def sub(a: Host, b: Host) -> Host:
    """Return a - b."""
    return _each(operator.sub, a, b)


@host_op("Mul", form=_widest)
def mul(a: Host, b: Host) -> Host:
    """Return a b."""
    return _each(operator.mul, a, b)


@host_op("Div", form=_widest)
def div(a: Host, b: Host) -> Host:
    """Return a / b; of lengths, which are not negative, what is whole of it."""
    return _each(_quotient, a, b)


def _quotient(a: Any, b: Any) -> Any:
    return a / b if isinstance(a, float) or isinstance(b, float) else a // b


@host_op("Mod", form=_widest, only={"fmod": (0,)})
def mod(a: Host, b: Host) -> Host:
    """Return what is left of a / b."""
    return _each(operator.mod, a, b)


@host_op("Min", form=_widest)
def minimum(*xs: Host) -> Host:
    """Return the smallest."""
    return _each(min, *xs)


@host_op("Max", form=_widest)
def maximum(*xs: Host) -> Host:
    """Return the largest."""
    return _each(max, *xs)


@host_op("Equal", form=_widest)
def equal(a: Host, b: Host) -> Host:
    """Tell whether a = b."""
    return _each(operator.eq, a, b)


@host_op("Less", form=_widest)
def less(a: Host, b: Host) -> Host:
    """Tell whether a < b."""
    return _each(operator.lt, a, b)


@host_op("Greater", form=_widest)
def greater(a: Host, b: Host) -> Host:
    """Tell whether a > b."""
    return _each(operator.gt, a, b)


@host_op("Where", form=_widest)
def where(condition: Host, a: Host, b: Host) -> Host:
    """Return a where the condition holds, else b."""
    return _each(_chosen, condition, a, b)


def _chosen(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


@host_op("Neg", form=_widest)
def neg(a: Host) -> Host:
    """Return -a."""
    return _each(operator.neg, a)


@host_op("Sqrt", form=_widest)
def sqrt(a: Host) -> Host:
    """Return the square root of a."""
    return _each(math.sqrt, a)


@host_op("Floor", form=_widest)
def floor(a: Host) -> Host:
    """Return a rounded down."""
    return _each(math.floor, a)


@host_op("Ceil", form=_widest)
def ceil(a: Host) -> Host:
    """Return a rounded up."""
    return _each(math.ceil, a)


@host_op("Identity", form=_widest)
def identity(a: Host) -> Host:
    """Return a."""
    return a


_CASTS: dict[int, type] = {TensorProto.INT64: int, TensorProto.INT32: int, TensorProto.FLOAT: float}


@host_op("Cast", form=_widest)
def cast(a: Host, *, to: int) -> Host:
    """Return a as whole numbers or floats."""
    return _each(_CASTS[to], a) if to in _CASTS else a


# Lists


def _unsqueezed(forms: Sequence[Form]) -> Form | None:
    return Form.ONE if forms[0] == Form.NUMBER else None


@host_op("Unsqueeze", form=_unsqueezed)
def unsqueeze(x: Host, axes: Host) -> Host:
    """Return a number as a list of one."""
    del axes
    return [x]


@host_op("Squeeze", form=_number)
def squeeze(x: Host, axes: Host | None = None) -> Host:
    """Return a list of one as a number."""
    del axes
    return x[0] if isinstance(x, list) else x


def _of_index(forms: Sequence[Form]) -> Form:
    return forms[1]


@host_op("Gather", form=_of_index, ignores=("axis",))
def gather(x: Host, index: Host) -> Host:
    """Return one of a list, or several."""
    if isinstance(index, list):
        return [x[i] for i in index]
    return x[index]


@host_op("Slice", form=_list)
def slices(
    x: Host, starts: Host, ends: Host, axes: Host | None = None, steps: Host | None = None
) -> Host:
    """Return a part of a list."""
    del axes
    step = steps[0] if steps else 1
    end = None if step < 0 and ends[0] < -len(x) else ends[0]
    return x[starts[0] : end : step]


@host_op("Concat", form=_list, ignores=("axis",))
def concat(*xs: Host) -> Host:
    """Return lists one after the other."""
    return [n for x in xs for n in x]


def _flattened(forms: Sequence[Form]) -> Form | None:
    return max(forms[0], Form.ONE) if forms[1] == Form.ONE else None


@host_op("Reshape", form=_flattened, ignores=("allowzero",))
def reshape(x: Host, shape: Host) -> Host:
    """Return a number or list as a list: the shape has one length."""
    del shape
    return x if isinstance(x, list) else [x]


def _filled(forms: Sequence[Form]) -> Form | None:
    return Form.LIST if forms[0] == Form.ONE else None


@host_op("ConstantOfShape", form=_filled)
def constant_of_shape(shape: Host, *, value: Host | None = None) -> Host:
    """Return a list of equal numbers."""
    return shape[0] * (value or [0])


@host_op("ReduceProd", form=_number, only={"keepdims": (0,)}, ignores=("noop_with_empty_axes",))
def product(x: Host, axes: Host | None = None) -> Host:
    """Return the product of a list."""
    del axes
    return math.prod(x)
