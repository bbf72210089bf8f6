"""A shape that says whose element type goes with it."""

from __future__ import annotations


class TypedShape(tuple[int, ...]):
    """A shape with the name of a tensor of the same element type (a plain one: the first input's)."""

    like: str

    @classmethod
    def of(cls, shape: tuple[int, ...], like: str) -> TypedShape:
        """Return `shape` with the element type of tensor `like`."""
        result = cls(shape)
        result.like = like
        return result
