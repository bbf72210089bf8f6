"""The nodes and constants that one example of a rule becomes, placeholders filled."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, parser

if TYPE_CHECKING:
    from tests.strategies import Growth, Stream

Array = npt.NDArray[Any]
Float = type[np.float32] | type[np.float16] | type[np.float64]

_PLACEHOLDER = re.compile(r"\{(\w+?)(?::([^{}]*))?\}")
_LENGTH = re.compile(r"(\d*)([CHW])(?:([/+-])(\d+))?")
_ATTRIBUTE = re.compile(r"=(\d*[CHW](?:[/+-]\d+)?)(?=[,>])")

# How ONNX text spells the type that graphs compute in, where examples say float.
_SPELLED: dict[Float, tuple[int, str]] = {
    np.float32: (TensorProto.FLOAT, "float["),
    np.float16: (TensorProto.FLOAT16, "float16["),
    np.float64: (TensorProto.DOUBLE, "double["),
}


class UnfitError(Exception):
    """An example does not fit a stream: a shape is refused, or values leave the sane range."""


class Expansion:
    """The nodes and constants that one example becomes."""

    def __init__(self, growth: Growth, x: Stream, x2: Stream | None) -> None:
        self.growth, self.rng, self.suffix = growth, growth.rng, f"_{len(growth.steps)}"
        self.streams = {"x": x.name, "x2": "" if x2 is None else x2.name}
        self.lengths = x.lengths()
        self.weights: dict[str, Array] = {}

    def nodes(self, text: str) -> list[NodeProto]:
        """Expand the text; `weights` is filled."""
        code, spelled = _SPELLED[self.growth.dtype]
        text = text.replace("Cast<to=1>", f"Cast<to={code}>").replace("float[", spelled)
        text = _ATTRIBUTE.sub(lambda m: f"={self._length(m[1])}", text)
        body = _PLACEHOLDER.sub(self._named, text)
        try:
            return list(parser.parse_graph(f"g () => () {{\n{body}\n}}").node)
        except parser.ParseError as error:  # no floating-point literals in half precision
            raise UnfitError(str(error)) from error

    def _named(self, match: re.Match[str]) -> str:
        key, written = match[1], match[2]
        if written is None:
            return self.streams.get(key) or f"{key}{self.suffix}"
        name = f"{key}{self.suffix}_{len(self.weights)}"
        value = self._constant(key, written)
        if self.growth.shared and self.rng.random() < self.growth.shared:
            alike = [n for n, w in self.growth.weights.items() if _alike(n, w, key, value)]
            if alike:
                chosen = alike[int(self.rng.integers(len(alike)))]
                self.weights[chosen] = self.growth.weights[chosen]
                return chosen
        self.weights[name] = value
        return name

    def _constant(self, key: str, written: str) -> Array:
        items = [item for item in written.strip("[]").split(",") if item]
        if key in {"i", "f", "u"}:
            dtype = {"i": np.int64, "f": self.growth.dtype, "u": np.uint8}[key]
            values = [float(t) if key == "f" else self._length(t) for t in items]
            return np.array(values if written.startswith("[") else values[0], dtype)
        shape = tuple(self._length(item) for item in items)
        noise: Array = np.asarray(self.rng.standard_normal(shape))
        if key == "z":
            return np.asarray(np.clip(128 + 30 * noise, 0, 255), np.uint8)
        if key == "o":
            return np.full(shape, 128, np.uint8)
        if key == "k":
            return np.asarray(300 * noise, np.int32)
        if key in {"v", "q"}:
            noise = (0.5 + np.abs(noise)) * (1 if key == "v" else 0.02)
        if key == "s":
            noise = 1 + 0.4 * noise
        if key == "w":
            noise = noise / np.sqrt(max(1, noise.size // max(shape, default=1)))
        return np.asarray(noise, self.growth.dtype)

    def _length(self, text: str) -> int:
        match = _LENGTH.fullmatch(text.strip())
        if match is None:
            return int(text)
        times, letter, sign, number = match.groups()
        base = int(times or 1) * self.lengths[letter]
        if sign == "/" and base % int(number):
            raise UnfitError(f"{base} is no multiple of {number}")
        steps = {None: base, "/": base // int(number or 1), "+": base + int(number or 0)}
        return steps.get(sign, base - int(number or 0))


def _alike(name: str, weight: Array, key: str, value: Array) -> bool:
    """Whether a weight can stand for one of random values: same use and shape."""
    return key in "wbsv" and name.startswith(f"{key}_") and weight.shape == value.shape
