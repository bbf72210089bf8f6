"""The doctor finds what is wrong with an installation, and says what to do."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from onnxprune import doctor as module
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.runtime import Session, installed_wheels, onnxruntime
from onnxprune.doctor import Report, doctor, render

CPU = "CPUExecutionProvider"


def shown(report: Report) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(autouse=True)
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import takes seconds; one test below looks at it."""
    version = module._version
    monkeypatch.setattr(module, "_version", lambda name: None if name == "torch" else version(name))


@pytest.mark.skipif(
    list(installed_wheels()) != ["onnxruntime"], reason="a GPU wheel is not well without a GPU"
)
def test_this_machine_is_well() -> None:
    report = doctor()
    assert report.problems == ()
    assert [p.name for p in report.providers if p.works][-1:] == [CPU]
    assert report.cores >= 1
    assert report.packages["onnx"]
    assert list(report.wheels) == list(installed_wheels())
    assert json.loads(json.dumps(dataclasses.asdict(report)))["python"] == report.python
    text = shown(report)
    for part in (CPU, "onnx-graphsurgeon", report.platform, "no problems"):
        assert part in text


def test_two_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1", "onnxruntime-gpu": "1"}
    monkeypatch.setattr(module, "installed_wheels", lambda: both)
    (problem,) = doctor().problems
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in problem


def test_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # its import fails
    monkeypatch.setattr(module, "installed_wheels", dict)
    report = doctor()
    (problem,) = report.problems
    assert "onnxruntime is not installed" in problem
    assert "pip install" in problem
    assert report.providers == ()
    assert "problem" in shown(report)
    with pytest.raises(OnnxPruneError, match="pip install"):
        onnxruntime()


def test_a_wheel_whose_files_another_took_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `pip uninstall` of one of two wheels the package of the other is an empty folder."""
    monkeypatch.setattr(module, "onnxruntime", lambda: ModuleType("onnxruntime"))
    (problem,) = doctor().problems
    assert "--force-reinstall" in problem


def offering(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    fake = SimpleNamespace(get_available_providers=lambda: [*names, CPU])
    monkeypatch.setattr(module, "onnxruntime", lambda: fake)


@pytest.mark.filterwarnings("ignore:Specified provider")  # onnxruntime says it, too
def test_a_provider_that_is_offered_but_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's is in the usual wheel and loads every model, but computes nothing: the CPU does."""
    monkeypatch.setattr(module, "_REMOTE", set())
    offering(monkeypatch, "AzureExecutionProvider", "NoSuchExecutionProvider")
    report = doctor()
    assert [p.works for p in report.providers] == [False, False, True]
    assert all(p.reason and "\n" not in p.reason for p in report.providers[:2])
    assert len(report.problems) == 2
    assert all("the CPU runs instead" in problem for problem in report.problems)
    assert report.providers[0].reason.split()[0] in shown(report)


@pytest.mark.parametrize(
    ("result", "reason"),
    [(lambda x: x @ x + 1, "wrong results"), (lambda x: x @ x, "CPUExecutionProvider ran instead")],
)
def test_a_provider_that_computes_nonsense(
    monkeypatch: pytest.MonkeyPatch, result: Callable[[object], object], reason: str
) -> None:
    class Fake:
        provider = "FakeExecutionProvider" if "wrong" in reason else CPU

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self, feeds: dict[str, object]) -> dict[str, object]:
            return {"y": result(feeds["x"])}

    monkeypatch.setattr(module, "Session", Fake)
    offering(monkeypatch, "FakeExecutionProvider")
    assert reason in doctor().providers[0].reason


def test_a_session_alone_does_not_fall_back() -> None:
    """What the doctor rests on."""
    if "AzureExecutionProvider" not in onnxruntime().get_available_providers():
        pytest.skip("this wheel has no provider that is known to compute nothing")
    Session(module._product(), provider=CPU, alone=True)
    Session(module._product(), provider="AzureExecutionProvider")
    with pytest.raises(OnnxPruneError, match="fallback"):
        Session(module._product(), provider="AzureExecutionProvider", alone=True)


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGES", ("onnx", "no-such-package"))
    report = doctor()
    assert report.packages["no-such-package"] is None
    assert report.problems == (
        "no-such-package is not installed: run `pip install no-such-package`",
    )
    assert "not installed" in shown(report)


@pytest.mark.parametrize("device", [True, False])
def test_torch(monkeypatch: pytest.MonkeyPatch, device: bool) -> None:
    cuda = SimpleNamespace(is_available=lambda: device, get_device_name=lambda: "a GPU")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.0", cuda=cuda))
    monkeypatch.setattr(module, "_version", lambda _: "2.0")
    expected = "2.0, a GPU" if device else "2.0, no CUDA device"
    assert expected in shown(doctor())


def test_torch_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(module, "_version", lambda _: "2.0")
    (problem,) = doctor().problems
    assert "PyTorch does not import" in problem
