"""What is installed is what is in the checkout: nothing forgotten, nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("onnxprune", "passes", "calibration", "models")
LINKS = FOLDERS[1:]


def tracked() -> list[Path]:
    """Files under version control, and new ones that are not ignored, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to it is unknown")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = [Path(line) for line in listing.stdout.splitlines()]
    return [path for path in paths if (ROOT / path).exists()]


@dataclass(frozen=True, slots=True)
class Wheel:
    """A built wheel and what it was built from, as paths.

    Attributes:
        sources: files of the checkout, relative to its root.
        names: files of the wheel.
    """

    sources: list[Path]
    names: list[str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """Built from a clean copy of the checkout, so that no ignored file can slip in."""
    copy = tmp_path_factory.mktemp("checkout")
    sources = tracked()
    for path in sources:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, copy / path, follow_symlinks=False)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "out", "."],
        cwd=copy,
        check=True,
        capture_output=True,
    )
    (built,) = (copy / "out").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return Wheel(sources, archive.namelist())


@pytest.mark.slow
def test_wheel_holds_every_module(wheel: Wheel) -> None:
    modules = [p for p in wheel.sources if p.suffix == ".py" and p.parts[0] in FOLDERS]
    expected = {
        (path if path.parts[0] == "onnxprune" else "onnxprune" / path).as_posix()
        for path in modules
    }

    assert {name for name in wheel.names if name.endswith(".py")} == expected
    assert len(wheel.names) == len(set(wheel.names))


@pytest.mark.slow
def test_wheel_holds_the_shipped_data(wheel: Wheel) -> None:
    data = {"py.typed", "models/digits.onnx", "models/digits.npz", "models/digits.json"}

    assert {f"onnxprune/{name}" for name in data} <= set(wheel.names)


@pytest.mark.slow
def test_wheel_brings_one_name(wheel: Wheel) -> None:
    tops = {name.split("/")[0] for name in wheel.names}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"onnxprune"}


@pytest.mark.parametrize("name", LINKS)
def test_links_resolve(name: str) -> None:
    link = ROOT / "onnxprune" / name
    if not link.is_symlink():
        pytest.skip("this checkout has no symlinks; `pip install -e .` works without them")

    assert link.readlink() == Path("..") / name
    assert link.resolve() == ROOT / name


def test_constraints_pin_every_requirement() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    required = [line for lines in (project["dependencies"], *extras) for line in lines]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]

    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    names = {re.split("==", pin)[0].lower().replace("_", "-") for pin in pins}
    wanted = {re.split("[<>=!~]", line)[0].lower().replace("_", "-") for line in required}
    assert wanted <= names
