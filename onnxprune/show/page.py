"""The page that `inspect --html` writes: one file, nothing loaded from elsewhere.

Names come from the model file, which a stranger may have written: the template escapes all of them, and
the page's own policy forbids every request and every script but the page's own, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..files.staged import Staged
from .overview import Overview
from .overview_text import KINDS, slices
from .picture import picture_of
from .words import amount, inputs, share, size

_MOST_PLACES = 40  # weights listed per group; `inspect --group` lists all


def write_page(view: Overview, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        OnnxPruneError: if it cannot be written.
    """
    with Staged() as staged, staged.open(path.resolve()) as stream:
        stream.write(page(view).encode())


def page(view: Overview) -> str:
    """Return the page as HTML."""
    room = files(__package__)
    script, style = ((room / f"page.{kind}").read_text() for kind in ("js", "css"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(amount=amount, size=size, share=share, slices=slices)
    return environment.from_string((room / "page.html").read_text()).render(
        view=view,
        amount=amount,
        size=size,
        stays=sum(v.count for v in view.frozen),
        opaque=sum(v.count for v in view.opaque),
        picture=picture_of(view),
        kinds=KINDS,
        inputs=inputs(view.inputs),
        most=_MOST_PLACES,
        script=Markup(script),  # our own file
        style=Markup(style),
        hashes={kind: inline_hash(text) for kind, text in (("script", script), ("style", style))},
    )


def inline_hash(text: str) -> str:
    """Return the hash by which a content security policy names an inline element."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
