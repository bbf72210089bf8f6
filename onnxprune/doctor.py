"""What is installed, and what of it really works: every provider has to compute something."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import os
import platform

import numpy as np
import onnx
from onnx import ModelProto
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from .core.errors import ModelError, OnnxPruneError
from .core.runtime import Session, installed_wheels, onnxruntime

_PACKAGES = (
    "onnx",
    "onnx-graphsurgeon",
    "numpy",
    "scipy",
    "ml_dtypes",
    "typer",
    "rich",
    "pydantic",
    "pillow",
)
_OPTIONAL = ("torch", "onnxscript", "safetensors")
_REMOTE = {"AzureExecutionProvider"}  # calls a web service: nothing runs on this machine
_CHOOSE = "`pip install onnxruntime`, or `pip install onnxruntime-gpu` with an NVIDIA GPU, not both"
_CAUSES = "its driver or libraries are missing or do not fit this wheel; the CPU runs instead"


@dataclasses.dataclass(frozen=True)
class Provider:
    """One execution provider: whether it computed a small product by itself, and if not, why."""

    name: str
    works: bool
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Torch:
    """PyTorch: its version, and the CUDA device it sees, if any."""

    version: str
    device: str | None


@dataclasses.dataclass(frozen=True)
class Report:
    """The state of this installation.

    Attributes:
        python, platform: versions.
        cores: processors this process may use.
        packages: name -> version of what onnxprune uses; None if it is not installed.
        wheels: the installed onnxruntime distributions (one, if all is well).
        providers: those that onnxruntime offers, tried.
        torch: None if it is not installed or does not import.
        problems: what is wrong and what to do, one line each; empty if all is well.
    """

    python: str
    platform: str
    cores: int
    packages: dict[str, str | None]
    wheels: dict[str, str]
    providers: tuple[Provider, ...]
    torch: Torch | None
    problems: tuple[str, ...]


def doctor() -> Report:
    """Look at this installation; takes a second or two, most of it the import of PyTorch."""
    packages = {name: _version(name) for name in (*_PACKAGES, *_OPTIONAL)}
    missing = [name for name in _PACKAGES if packages[name] is None]
    wheels = installed_wheels()
    providers, refused = _providers()
    torch, broken = _torch() if packages["torch"] else (None, [])
    idle = [p.name for p in providers if not p.works and p.name not in _REMOTE]
    problems = [
        *(f"{name} is not installed: run `pip install {name}`" for name in missing),
        *_wheel_problems(wheels),
        *refused,
        *(f"{name} is offered but does not run: {_CAUSES}" for name in idle),
        *broken,
    ]
    return Report(
        python=platform.python_version(),
        platform=platform.platform(),
        cores=_cores(),
        packages=packages,
        wheels=wheels,
        providers=tuple(providers),
        torch=torch,
        problems=tuple(problems),
    )


def _cores() -> int:
    """Processors this process may use; where the system cannot tell, all there are."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _wheel_problems(wheels: dict[str, str]) -> list[str]:
    """Two wheels own the same files: the last one installed has overwritten the other."""
    if len(wheels) < 2:  # that there is none, `onnxruntime()` says
        return []
    return [
        f"{' and '.join(wheels)} are installed together and overwrite each other: "
        f"run `pip uninstall -y {' '.join(wheels)}`, then {_CHOOSE}"
    ]


def _providers() -> tuple[list[Provider], list[str]]:
    """Try every provider that onnxruntime offers; also what keeps us from asking it."""
    try:
        offered = onnxruntime().get_available_providers()
    except OnnxPruneError as error:
        return [], [str(error)]
    except AttributeError:  # one wheel was uninstalled and took the files of the other with it
        names = " ".join(installed_wheels()) or "onnxruntime"
        return [], [f"onnxruntime is empty: run `pip install --force-reinstall {names}`"]
    return [_tried(name) for name in offered], []


def _tried(name: str) -> Provider:
    """Let a provider compute a product alone: the list of available ones proves nothing."""
    if name in _REMOTE:
        return Provider(name, works=False, reason="calls a web service, runs nothing here")
    x = np.arange(4, dtype=np.float32).reshape(2, 2)
    try:
        session = Session(_product(), provider=name, alone=True)
        found = session.run({"x": x})["y"]
    except ModelError as error:
        return Provider(name, works=False, reason=str(error))
    if session.provider != name:
        return Provider(name, works=False, reason=f"{session.provider} ran instead")
    if not np.allclose(found, x @ x):
        return Provider(name, works=False, reason=f"computes wrong results: {found.tolist()}")
    return Provider(name, works=True)


def _product() -> ModelProto:
    """Return the model y = x x."""
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        "product (float[2,2] x) => (float[2,2] y) { y = MatMul(x, x) }"
    )


def _torch() -> tuple[Torch | None, list[str]]:
    """Import PyTorch by name: the engine itself never needs it."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        return None, [f"PyTorch does not import, reinstall or uninstall it: {reason}"]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return Torch(str(torch.__version__), device), []


def render(report: Report) -> Group:
    """Return the report for a terminal."""
    machine = Table("", "", title="machine", show_header=False)
    machine.add_row("python", report.python)
    machine.add_row("platform", report.platform)
    machine.add_row("cores", str(report.cores))
    if report.torch is not None:
        machine.add_row(
            "torch", f"{report.torch.version}, {report.torch.device or 'no CUDA device'}"
        )
    packages = Table("package", "version", title="packages")
    for name, version in {**report.packages, **report.wheels}.items():
        packages.add_row(name, version or "[yellow]not installed[/]")
    providers = Table("provider", "works", "why not", title="onnxruntime providers, tried")
    for provider in report.providers:
        works = "[green]yes[/]" if provider.works else "[yellow]no[/]"
        providers.add_row(provider.name, works, escape(provider.reason))
    problems = [f"[red]problem:[/] {escape(problem)}" for problem in report.problems]
    return Group(machine, packages, providers, *(problems or ["[green]no problems[/]"]))
