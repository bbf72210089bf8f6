"""Settings on the command line: read as their types, refused by name."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from onnxprune.core.configured import configured
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.registry import Registry


@dataclasses.dataclass(frozen=True)
class Thing:
    alpha: float = 1.01
    steps: int = 3
    smooth: bool = True
    cut: Literal["scree", "x-means"] = "scree"
    parts: tuple[str, ...] = ()


class Plain:
    pass


THINGS: Registry[object] = Registry("thing")
THINGS.register("main")(Thing())
THINGS.register("plain")(Plain())


def test_settings_are_read_as_their_types() -> None:
    assert configured(THINGS, "main:alpha=2, steps=5,smooth=no,cut=x-means") == (
        "main",
        Thing(2.0, 5, False, "x-means"),
    )
    assert configured(THINGS, "main:parts=a+b") == ("main", Thing(parts=("a", "b")))
    assert configured(THINGS, "Main") == ("main", Thing())
    assert configured(THINGS, "plain:")[0] == "plain"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mian", "unknown thing 'mian': did you mean 'main'? known: main, plain"),
        ("main:alhpa=2", "thing 'main' has no setting 'alhpa': did you mean 'alpha'? known: alpha"),
        ("main:steps=2.5", "thing 'main', steps='2.5': input should be a valid integer"),
        ("main:steps", "thing 'main', steps='': input should be a valid integer"),
        ("main:cut=knee", "thing 'main', cut='knee': input should be 'scree' or 'x-means'"),
        ("plain:a=1", "thing 'plain' has no setting 'a': known: none"),
    ],
)
def test_bad_settings_are_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(OnnxPruneError) as caught:
        configured(THINGS, text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
