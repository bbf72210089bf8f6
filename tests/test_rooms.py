"""Who may import whom, and how long code may be; read from the source, nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60

# Folders that register themselves and are found by name, never imported by the engine.
PLUGINS = ("passes", "calibration", "models")

# Third party -> the only files or folders that may import it.
HOMES = {
    "onnx_graphsurgeon": ("onnxprune/core/surgeon.py",),
    # the runner goes to other machines alone, where there is no core/runtime.py
    "onnxruntime": ("onnxprune/core/runtime.py", "onnxprune/timing/runner.py"),
    "olive": ("onnxprune/olive.py",),
    "torch": ("models/", "onnxprune/torch/"),
}

# Path.rglob does not follow the links inside onnxprune/, so every file comes once.
FILES = sorted(
    path
    for folder in ("onnxprune", *PLUGINS)
    for path in (ROOT / folder).rglob("*.py")
    if not any((ROOT / "onnxprune" / plugin) in path.parents for plugin in PLUGINS)
)

every_file = pytest.mark.parametrize(
    "path", FILES, ids=[path.relative_to(ROOT).as_posix() for path in FILES]
)


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(path: Path) -> str:
    """The name a module is imported by: passes/x.py is onnxprune.passes.x."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "onnxprune" else ("onnxprune", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Absolute names of all that a file imports; for `from a import b` both a and a.b."""
    package = dotted(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_there_is_something_to_check() -> None:
    assert {"onnxprune", *PLUGINS} == {place(path).split("/")[0] for path in FILES}


@every_file
def test_third_parties_stay_in_their_rooms(path: Path) -> None:
    for library, homes in HOMES.items():
        if any(place(path).startswith(home) for home in homes):
            continue
        found = [name for name in imports(path) if inside(name, library)]
        assert not found, f"only {homes} may import {library}"


@every_file
def test_arrows_point_one_way(path: Path) -> None:
    folder = place(path).split("/")[0]
    ours = [name for name in imports(path) if inside(name, "onnxprune")]
    if folder in PLUGINS:
        # The bare package appears in `from onnxprune import x`; x is judged by itself.
        # onnxprune.torch: inside functions only, since a base install has no PyTorch
        allowed: tuple[str, ...] = ("onnxprune.core", f"onnxprune.{folder}", "onnxprune.torch")
        wrong = [n for n in ours if n != "onnxprune" and not any(inside(n, a) for a in allowed)]
        assert not wrong, f"{folder}/ may import onnxprune.core, its siblings and onnxprune.torch"
    else:
        wrong = [n for n in ours if any(inside(n, f"onnxprune.{plugin}") for plugin in PLUGINS)]
        assert not wrong, "the engine finds these folders by name (discover.py)"
    if place(path).startswith("onnxprune/core/"):
        wrong = [n for n in ours if n != "onnxprune" and not inside(n, "onnxprune.core")]
        assert not wrong, "core imports nothing but core"
    if place(path).startswith("onnxprune/ops/"):
        allowed = ("onnxprune.core", "onnxprune.ops")
        wrong = [n for n in ours if n != "onnxprune" and not any(inside(n, a) for a in allowed)]
        assert not wrong, "op rules import nothing but core and their siblings"
    for short in PLUGINS:
        assert not [n for n in imports(path) if inside(n, short)], f"import onnxprune.{short}"


@every_file
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    long = {
        node.name: lines
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert not long, f"functions over {MAX_FUNCTION_LINES} lines"
