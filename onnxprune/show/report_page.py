"""The page that `onnxprune report` writes: one file of plans and scores, nothing loaded from elsewhere.

Names come from files that a stranger may have written: templates escape all of them, and the page's own
policy forbids every script and every request. Sections are in `sections/`, one file each.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..core.errors import OnnxPruneError
from ..files.staged import Staged
from ..plan import header, read_frontier, read_plan, read_scores
from ..timing.run import read_bench
from . import sections as room
from .page import inline_hash
from .section import SECTIONS, Documents, Section
from .words import amount, arrow, kept, less, share, size

_KINDS: Mapping[str, Callable[[Path], Any]] = {
    "plan": read_plan, "scores": read_scores, "frontier": read_frontier, "bench": read_bench,
}  # fmt: skip
_STRICT: Any = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}


def report(
    *documents: Path | str, output: Path | str | None = None, markdown: bool = False
) -> Path:
    """Write one self-contained page of plans, scores, frontiers and times.

    Args:
        documents: files that `prune`, `score` and `bench` wrote, in any order.
        output: the page; None: report.html, or report.md.
        markdown: write the main tables as Markdown instead.

    Raises:
        OnnxPruneError: if a file is neither, or the page cannot be written; then nothing was written.
    """
    target = Path(output or ("report.md" if markdown else "report.html"))
    if not documents:
        raise OnnxPruneError("nothing to report on: give plans, scores, frontiers or times")
    for path in documents:
        if target.exists() and Path(path).exists() and target.samefile(path):
            raise OnnxPruneError(f"the output '{target}' is what to report on: choose another path")
    read = read_documents([Path(path) for path in documents])
    text = report_markdown(read) if markdown else report_page(read)
    with Staged() as staged, staged.open(target.resolve()) as stream:
        stream.write(text.encode())
    return target


def read_documents(paths: list[Path]) -> Documents:
    """Read documents of any kind; each goes by its file name, with the folder where names are alike.

    Raises:
        OnnxPruneError: if one is none of ours, or is given twice.
    """
    alike = Counter(path.name for path in paths)
    found: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS}
    for path in paths:
        name = path.name if alike[path.name] == 1 else str(path)
        if any(name in documents for documents in found.values()):
            raise OnnxPruneError(f"'{path}' is given twice: leave one out")
        kind = header(path, "plan or scores").kind
        found[kind if kind in _KINDS else "plan"][name] = _KINDS.get(kind, read_plan)(path)
    return Documents(found["plan"], found["scores"], found["frontier"], found["bench"])


def report_page(documents: Documents) -> str:
    """Return the page as HTML."""
    shown = [  # Markup: made by the template of the section, which escapes
        (key, section.title, Markup(_environment().from_string(section.template).render(filled)))
        for key, section, filled in _filled(documents)
    ]
    own = files(__package__)
    style = "".join((own / name).read_text() for name in ("page.css", "report.css"))
    return (
        _environment()
        .from_string((own / "report.html").read_text())
        .render(
            title=", ".join(documents.models),
            names=documents.names,
            sections=shown,
            style=Markup(style),  # our own file
            style_hash=inline_hash(style),
        )
    )


def report_markdown(documents: Documents) -> str:
    """Return the main tables as Markdown, for a pull request."""
    parts = [f"# {in_markdown(', '.join(documents.models))}"]
    for _, section, filled in _filled(documents):
        if section.markdown:
            body = _markdown().from_string(section.markdown).render(filled)
            parts.append(f"## {section.title}\n\n{_blank_lines(body)}")
    return "\n\n".join(parts) + "\n"


def in_markdown(value: object) -> str:
    """Return text that Markdown shows as it is, within one cell of a table."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", line).replace("&", "&amp;")


def _blank_lines(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _filled(documents: Documents) -> Iterator[tuple[str, Section, Mapping[str, Any]]]:
    """Yield the sections that have something to show, in order."""
    _discover()
    for key, section in sorted(SECTIONS.items(), key=lambda pair: pair[1].place):
        if (filled := section.fill(documents)) is not None:
            yield key, section, filled


@cache
def _environment() -> Environment:
    return _with_words(Environment(autoescape=True, **_STRICT))


@cache
def _markdown() -> Environment:
    return _with_words(Environment(autoescape=False, finalize=in_markdown, **_STRICT))


def _with_words(environment: Environment) -> Environment:
    environment.filters.update(
        amount=amount, arrow=arrow, kept=kept, less=less, share=share, size=size
    )
    return environment


@cache
def _discover() -> None:
    """Import all sections, once."""
    for module in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{room.__name__}.{module.name}")
