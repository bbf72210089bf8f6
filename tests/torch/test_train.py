"""Retraining: it learns from the teacher, and a run that was cut off ends as one that was not."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune import cli
from onnxprune.core.errors import OnnxPruneError
from onnxprune.torch import Recipe

from .retraining import RECIPE, prepare, run, train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return prepare(tmp_path)


@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        (None, {}),
        ("y", {}),
        ("y", {"optimizer": "adamw"}),
        (None, {"average": 0.9}),
        (None, {"precision": "bfloat16"}),
        (None, {"precision": "bfloat16", "taught_by": "pytorch"}),
        ("y", {"taught_by": "pytorch", "holdout": 0.2}),
        (None, {"holdout": 0.2}),
    ],
    ids=str,
)
def test_learns_what_the_teacher_says(
    folder: Path, labels: str | None, settings: dict[str, Any]
) -> None:
    x = np.load(folder / "data.npz")["x"]
    truth = run(folder / "teacher.onnx", x).argmax(1)
    recipe = dataclasses.replace(RECIPE, epochs=15, **settings)

    done = train(folder, "trained.onnx", labels=labels, recipe=recipe)

    before = (run(folder / "student.onnx", x).argmax(1) == truth).mean()
    after = (run(folder / "trained.onnx", x).argmax(1) == truth).mean()
    assert before < 0.5
    assert after > 0.8
    assert done.losses[-1] < done.losses[0] / 2
    assert (done.agreement is None) == (done.kept is None) == (not recipe.holdout)
    assert done.kept is None or 0 < done.kept <= 15
    assert done.agreement is None or done.agreement > 0.7


@pytest.mark.parametrize("size", [1, 4])
def test_a_file_of_a_fixed_batch_is_trained_alike(size: int, tmp_path: Path) -> None:
    """As many samples at once as it takes; steps of as many as asked for."""
    found = []
    for fixed in (False, True):
        home = tmp_path / str(fixed)
        home.mkdir()
        prepare(home, ratio=0.0)
        for name in ("teacher", "student") if fixed else ():
            made = onnx.load(home / f"{name}.onnx")
            for value in (*made.graph.input, *made.graph.output):
                value.type.tensor_type.shape.dim[0].dim_value = size
            onnx.save(made, home / f"{name}.onnx")
        recipe = dataclasses.replace(RECIPE, holdout=0.2)
        done = train(home, "trained.onnx", recipe=recipe, labels="y")
        weights = onnx.load(home / "trained.onnx").graph.initializer
        found.append((done, {w.name: numpy_helper.to_array(w) for w in weights}))

    (free, expected), (bound, values) = found
    assert (bound.steps, bound.parts) == (free.steps, 1)
    if size == 1:  # samples are drawn one by one in both
        assert bound.agreement == free.agreement
        for name, value in values.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


def test_an_average_is_what_the_formula_says(folder: Path) -> None:
    """a_1 = w_1, a_t = d a_(t-1) + (1 - d) w_t: two steps, taken apart by their number."""
    recipe = dataclasses.replace(RECIPE, epochs=1, batch=50, warmup=0.0)
    values = []
    for steps, average in ((1, 0.0), (2, 0.0), (2, 0.75)):
        # the same first steps: what comes later only lowers the rate of the steps before it
        path = _cut(folder, dataclasses.replace(recipe, average=average), steps)
        values.append(path)
    first, second, mean = values

    for name, value in mean.items():
        expected = 0.75 * first[name] + 0.25 * second[name]
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)
    assert any(not np.allclose(first[name], second[name], atol=1e-4) for name in first)


def _cut(folder: Path, recipe: Recipe, steps: int) -> dict[str, Any]:
    """Return the weights that a checkpoint has after some steps, averaged if the recipe says so."""
    from safetensors.numpy import load_file

    def stop(_what: str, done: int, _total: int) -> None:
        if done == steps:
            raise KeyboardInterrupt

    work = folder / f"work-{steps}-{recipe.average}"
    with pytest.raises(KeyboardInterrupt):
        train(folder, "never.onnx", recipe=recipe, work=work, every=0.0, progress=stop)
    held = load_file(work / "checkpoint.safetensors")
    prefix = "average.module." if recipe.average else "module."
    return {k.removeprefix(prefix): v for k, v in held.items() if k.startswith(prefix)}


def test_stops_where_held_out_samples_gain_nothing(folder: Path) -> None:
    """At a rate of next to nothing the first epoch stays the best, or nearly."""
    recipe = dataclasses.replace(RECIPE, epochs=50, rate=1e-12, holdout=0.2, patience=2)

    done = train(folder, "a.onnx", recipe=recipe, work=folder / "work")
    again = train(folder, "b.onnx", recipe=recipe, work=folder / "work")

    assert done.steps < 50 * 5
    assert again.resumed == again.steps == done.steps
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


def test_what_training_only_harms_stays_as_it_was(folder: Path) -> None:
    shutil.copy(folder / "teacher.onnx", folder / "student.onnx")

    done = train(folder, "a.onnx", recipe=dataclasses.replace(RECIPE, rate=50.0, holdout=0.2))

    x = np.load(folder / "data.npz")["x"]
    np.testing.assert_array_equal(run(folder / "a.onnx", x), run(folder / "teacher.onnx", x))
    assert done.agreement == 1.0
    assert done.kept == 0
    assert done.losses[-1] > 1.0  # it did harm


def test_a_loss_of_the_users_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "losses.py").write_text(
        "import torch.nn.functional as F\n"
        "def truth(outputs, batch):\n"
        "    return F.cross_entropy(outputs['y'], batch['y'].long())\n"
        "def wrong(outputs, batch):\n"
        "    return batch['z']\n"
        "def many(outputs, batch):\n"
        "    return outputs['y']\n"
    )
    monkeypatch.chdir(folder)
    recipe = dataclasses.replace(RECIPE, loss="losses:truth", label_weight=0.3)

    train(folder, "own.onnx", recipe=recipe)
    train(folder, "built-in.onnx", labels="y", recipe=dataclasses.replace(recipe, loss=None))

    assert (folder / "own.onnx").read_bytes() == (folder / "built-in.onnx").read_bytes()
    for name, message in (
        (
            "wrong",
            r"failed: KeyError: 'z'; it is given outputs \['y'\] and samples with \['x', 'y'\]",
        ),
        ("many", "returned Tensor, expected one number"),
        ("trut", "did you mean 'truth'"),
    ):
        with pytest.raises(OnnxPruneError, match=message):
            train(folder, "a.onnx", recipe=dataclasses.replace(recipe, loss=f"losses:{name}"))


def test_same_seed_same_weights_other_seed_others(folder: Path) -> None:
    texts = []
    for seed in (0, 0, 1):
        train(folder, "a.onnx", recipe=dataclasses.replace(RECIPE, seed=seed))
        texts.append((folder / "a.onnx").read_bytes())

    assert texts[0] == texts[1] != texts[2]


def test_compiles_what_it_trains(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    real, compiled = torch.compile, []

    def eager(module: Any) -> Any:  # kernels would take a compiler and minutes
        compiled.append(module)
        return real(module, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", eager)
    train(folder, "a.onnx", recipe=dataclasses.replace(RECIPE, compile=True))
    train(folder, "b.onnx")

    assert len(compiled) == 1
    x = np.load(folder / "data.npz")["x"]
    np.testing.assert_allclose(run(folder / "a.onnx", x), run(folder / "b.onnx", x), atol=1e-4)


def test_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(folder / name) for name in ("student.onnx", "teacher.onnx", "data.npz", "a.onnx")]
    command = ["retrain", names[0], "--teacher", names[1], "--data", names[2], "-o", names[3]]

    options = ["--epochs", "2", "--batch", "16", "--labels", "y", "--holdout", "0.2"]
    assert cli.main([*command, *options, "--average", "0.9"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "10 steps, " in said
    assert "of the held-out samples agree" in said
    assert "than the weights before training" not in said
    assert cli.main([*command, "--epochs", "1", "--optimizer", "sgd", "--rate", "1e9"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "no epoch did better on held-out samples than the weights before training" in said
    assert cli.main([*command, "--optimizer", "lbfgs"]) == 2
    assert "--optimizer is 'lbfgs': expected sgd or adamw or foof" in capsys.readouterr().err
