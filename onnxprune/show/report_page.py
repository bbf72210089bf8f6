"""The page that `onnxprune report` writes: one file of plans and scores, nothing loaded from elsewhere.

Names come from files that a stranger may have written: templates escape all of them, and the page's own
policy forbids every script and every request. Sections are in `sections/`, one file each.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..core.errors import OnnxPruneError
from ..files.staged import Staged
from ..plan import Plan, Scores, header, read_plan, read_scores
from . import sections as room
from .page import inline_hash
from .section import SECTIONS, Documents
from .words import amount, arrow, kept, less, share, size


def report(*documents: Path | str, output: Path | str = "report.html") -> Path:
    """Write one self-contained page of plans and scores.

    Args:
        documents: files that `prune` and `score` wrote, in any order.
        output: the page.

    Raises:
        OnnxPruneError: if a file is neither, or the page cannot be written; then nothing was written.
    """
    target = Path(output)
    if not documents:
        raise OnnxPruneError("nothing to report on: give plans or scores")
    for path in documents:
        if target.exists() and Path(path).exists() and target.samefile(path):
            raise OnnxPruneError(f"the output '{target}' is what to report on: choose another path")
    text = report_page(read_documents([Path(path) for path in documents]))
    with Staged() as staged, staged.open(target.resolve()) as stream:
        stream.write(text.encode())
    return target


def read_documents(paths: list[Path]) -> Documents:
    """Read plans and scores; each goes by its file name, with the folder where names are alike.

    Raises:
        OnnxPruneError: if one is neither, or is given twice.
    """
    alike = Counter(path.name for path in paths)
    plans: dict[str, Plan] = {}
    scores: dict[str, Scores] = {}
    for path in paths:
        name = path.name if alike[path.name] == 1 else str(path)
        if name in plans or name in scores:
            raise OnnxPruneError(f"'{path}' is given twice: leave one out")
        if header(path, "plan or scores").kind == "scores":
            scores[name] = read_scores(path)
        else:
            plans[name] = read_plan(path)
    return Documents(plans, scores)


def report_page(documents: Documents) -> str:
    """Return the page as HTML."""
    _discover()
    shown = []
    for key, section in sorted(SECTIONS.items(), key=lambda pair: pair[1].place):
        filled = section.fill(documents)
        if filled is not None:
            body = _environment().from_string(section.template).render(filled)
            shown.append((key, section.title, Markup(body)))  # made by that template
    own = files(__package__)
    style = "".join((own / name).read_text() for name in ("page.css", "report.css"))
    return (
        _environment()
        .from_string((own / "report.html").read_text())
        .render(
            title=", ".join(dict.fromkeys(_models(documents))),
            names=documents.names,
            sections=shown,
            style=Markup(style),  # our own file
            style_hash=inline_hash(style),
        )
    )


def _models(documents: Documents) -> list[str]:
    both: list[Plan | Scores] = [*documents.plans.values(), *documents.scores.values()]
    return [document.model.name for document in both]


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        amount=amount, arrow=arrow, kept=kept, less=less, share=share, size=size
    )
    return environment


@cache
def _discover() -> None:
    """Import all sections, once."""
    for module in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{room.__name__}.{module.name}")
