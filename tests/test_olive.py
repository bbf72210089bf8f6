"""The pass for Olive, in workflows that Olive runs.

Skipped where Olive is not installed, as in CI. To run it:
`pip install -c constraints.txt -e ".[cpu,dev,olive]" && pytest tests/test_olive.py`
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxprune as op
from onnxprune import demo
from onnxprune.files.store import digest

os.environ |= {"OLIVE_DISABLE_TELEMETRY": "1", "CI": "1"}  # before it is imported: no network
olive = pytest.importorskip("olive", reason='needs Olive: pip install -e ".[olive]"')

from onnxprune.olive import package_config  # noqa: E402  # it imports Olive

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
DATA = """
import numpy as np
from olive.data.registry import Registry

@Registry.register_dataset()
def digits(count):
    found = np.load("test.npz")
    return [({"images": x}, y) for x, y in zip(found["images"][:count], found["labels"])]
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The digits, and all that Olive keeps."""
    monkeypatch.chdir(tmp_path)
    demo.unpack(tmp_path)
    return tmp_path


def workflow(**options: Any) -> dict[str, Any]:
    loaded = {"type": "digits", "params": {"count": 96}}
    batches = {"batch_size": 16}
    Path("digits_data.py").write_text(DATA)
    return {
        "input_model": {"type": "OnnxModel", "model_path": "digits.onnx"},
        "data_configs": [
            {
                "name": "digits", "user_script": "digits_data.py",
                "load_dataset_config": loaded, "dataloader_config": batches,
            }
        ],
        "passes": {"prune": {"type": "OnnxPrune", **options}},
        "output_dir": "out",
    }  # fmt: skip


def test_the_workflow_of_the_readme(home: Path) -> None:
    (text,) = re.findall(r"^```json\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    commands = re.findall(
        r"^    ((?:python -m onnxprune\.olive|olive run).*)$", README, re.MULTILINE
    )
    assert len(commands) == 2
    Path("workflow.json").write_text(text)

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        cwd=home, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "macs: 3603584.0 before" in done.stdout
    assert json.loads(Path("passes.json").read_text()) == package_config()
    kinds = {weight.data_type for weight in onnx.load("out/model.onnx").graph.initializer}
    assert TensorProto.FLOAT16 in kinds  # the pass behind ran on what this one made
    assert Path("out/model.onnx").stat().st_size < 0.3 * Path("digits.onnx").stat().st_size
    plan = json.loads(Path("out/model.plan.json").read_text())
    assert plan["figures"]["macs"]["after"] <= 0.5 * plan["figures"]["macs"]["before"]


def test_the_data_of_the_workflow_and_their_labels() -> None:
    asked: dict[str, Any] = {"criterion": "l1", "macs": 0.5, "round_to": 4, "keep": ["stem.*"]}
    asked |= {"labels": "y", "samples": 64}
    olive.run(workflow(data_config="digits", **asked), package_config=package_config())

    op.verify("out/model.onnx", "out/model.plan.json", original="digits.onnx")
    images, labels = (np.load("test.npz")[name] for name in ("images", "labels"))
    batches = [{"images": images[i : i + 16], "y": labels[i : i + 16]} for i in range(0, 96, 16)]
    op.prune("digits.onnx", "same.onnx", data=batches, **asked)
    assert digest(Path("out/model.onnx")) == digest(Path("same.onnx"))
    found = op.evaluate("out/model.onnx", "test.npz", reference="digits.onnx")
    assert found.agreement is not None
    assert 0.9 < found.agreement < 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mac": 0.5}, "OnnxPrune has no option 'mac': did you mean 'macs'?"),
        ({"drop-block": "x"}, "did you mean 'drop_block'?"),
        ({"dry_run": True, "macs": 0.5}, "OnnxPrune has no option 'dry_run'"),
        ({"macs": 0.5, "latency": 0.5}, "found --macs and --latency"),
        ({"macs": 0.5, "samples": "many"}, "valid integer"),
        ({"macs": 0.5, "data": "a.npz", "data_config": "digits"}, "leave out one"),
        ({"macs": 0.5, "data": "a.npz"}, "cannot read 'a.npz'"),
        ({"macs": 0.01}, "--macs 0.01 is out of reach"),
    ],
)
def test_what_cannot_be_done_ends_the_workflow(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        olive.run(workflow(**options), package_config=package_config())
    assert not Path("out/model.onnx").exists()
