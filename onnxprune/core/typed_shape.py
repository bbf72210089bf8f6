"""A shape that says whose element type goes with it, or which."""

from __future__ import annotations


class TypedShape(tuple[int, ...]):
    """A shape with an element type (a plain shape has the first input's).

    Attributes:
        like: a tensor of the same element type; "" when `kind` says it.
        kind: number of the type in `TensorProto.DataType`; None when `like` says it.
    """

    like: str
    kind: int | None

    @classmethod
    def of(cls, shape: tuple[int, ...], like: str = "", kind: int | None = None) -> TypedShape:
        """Return `shape` with the element type of tensor `like`, or the type `kind`."""
        result = cls(shape)
        result.like, result.kind = like, kind
        return result
