"""Every bash block of README.md does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    """The shell commands of a block, one per line or `&&`, without comments."""
    joined = block.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines()]
    parts = [
        part.strip() for line in lines if not line.startswith("#") for part in line.split("&&")
    ]
    return [part for part in parts if part]


def check_install(command: str) -> None:
    """A pip command is not run again; what it names must exist."""
    words = command.replace('"', "").split()
    assert words[:2] == ["pip", "install"]
    constraints = [words[i + 1] for i, word in enumerate(words) if word == "-c"]
    assert all((ROOT / name).is_file() for name in constraints)
    (extras,) = re.findall(r"\.\[([\w,]+)\]", command) or [""]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = set(project["optional-dependencies"])
    assert set(filter(None, extras.split(","))) <= known
    assert not {"cpu", "gpu"} <= set(extras.split(",")), "cpu and gpu are exclusive"


def test_readme_has_blocks() -> None:
    assert len(BLOCKS) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_blocks_run(number: int, tmp_path: Path) -> None:
    script = []
    for command in commands(BLOCKS[number]):
        if command.startswith("pip "):
            check_install(command)
        elif command.split()[0] != "pytest":  # this is it
            script.append(command)
    if not script:
        return
    binaries = Path(sys.executable).parent
    if not (binaries / "onnxprune").exists():
        pytest.skip("onnxprune is not installed: pip install -e .")

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


def test_test_command_is_the_one_of_ci() -> None:
    """`.ci/run` takes the line that ends in `&& pytest`; there must be exactly one."""
    assert len(re.findall(r"^pip install .*&& pytest$", README, re.MULTILINE)) == 1
