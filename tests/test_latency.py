"""A budget in time: the fit finds what was planted, widths meet it, the clock has the last word."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune.cli import main
from onnxprune.core.analysis import Analysis, Mask
from onnxprune.core.cost import CostModel, Floats, in_blocks
from onnxprune.core.rules import OP_RULES
from onnxprune.core.shapes import Instance, instantiate
from onnxprune.latency.copies import Copy, drawn
from onnxprune.latency.model import Observed, fitted
from onnxprune.pipeline import fit, sweep
from onnxprune.selection.budget import Budget, Options
from onnxprune.selection.select import select
from onnxprune.selection.widths import allowed_widths
from onnxprune.structure.dependency import analyse
from tests.networks import NETWORKS, bottlenecks

FINE = Options(round_to=1)
SHALLOW = bottlenecks((1, 1), (16, 24), 16)
networks = pytest.mark.parametrize("network", ["residual", "depthwise", "concat", "dense"])


def opened(network: str) -> tuple[CostModel, Instance]:
    graph = NETWORKS[network].graph()
    analysis = analyse(graph)
    instance = instantiate(analysis.graph, OP_RULES.shape_functions)
    assert instance is not None
    return CostModel(analysis, instance), instance


def kernels_at(
    cost: CostModel, instance: Instance, lengths: Floats, step: int = 1
) -> dict[str, float]:
    """Kernels that take exactly what the model of the time allows for, some of them in whole steps."""
    kernels = {"ReorderInput": 0.1 + 1e-4 * cost.macs(lengths)}
    lengths = in_blocks(lengths, step)
    macs = cost.macs_by_node(lengths)
    for number, node in enumerate(cost.analysis.graph.nodes):
        name, out = node.name or node.output[0], node.output[0]
        rows, constant = cost.tensor_term(out, instance.shapes[out])
        elements = constant * lengths[rows].prod()
        kind = len(node.op_type)  # what a kernel is like does not depend on its place
        kernels[name] = 0.1 * kind + 1e-3 * macs.get(number, 0.0) + 1e-2 * (kind % 3) * elements
    return kernels


def planted(
    cost: CostModel, instance: Instance, masks: Sequence[Mask], step: int = 1
) -> list[Observed]:
    """Copies whose kernels take just that."""
    found = []
    for lengths in [cost.lengths(), *(cost.lengths(mask.removed) for mask in masks)]:
        kernels = kernels_at(cost, instance, lengths, step)
        found.append(Observed(lengths, sum(kernels.values()), kernels))
    whole = found[0].ratio
    return [
        Observed(o.lengths, o.ratio / whole, {n: t / whole for n, t in o.kernels.items()})
        for o in found
    ]


@networks
def test_the_fit_finds_what_was_planted(network: str) -> None:
    cost, instance = opened(network)
    model = fitted(cost, instance, planted(cost, instance, drawn(cost.analysis, FINE, 16)), 7.0)

    assert model.error < 1e-6
    assert model.milliseconds == 7.0
    for other in planted(cost, instance, drawn(cost.analysis, FINE, 20, seed=3)):
        assert model.ratio(other.lengths) == pytest.approx(other.ratio, rel=1e-5)


@networks
def test_the_fit_finds_which_kernels_compute_whole_steps(network: str) -> None:
    cost, instance = opened(network)
    copies = planted(cost, instance, drawn(cost.analysis, FINE, 40), step=4)
    smooth, model = (fitted(cost, instance, copies, 7.0, step) for step in (1, 4))

    assert model.error < 1e-6 < 1e-3 < smooth.error
    for other in planted(cost, instance, drawn(cost.analysis, FINE, 20, seed=3), step=4):
        assert model.ratio(other.lengths) == pytest.approx(other.ratio, rel=1e-5)


@networks
def test_a_budget_in_time_is_met_where_single_steps_save_nothing(network: str) -> None:
    cost, _ = opened(network)
    macs = cost.products("macs")
    blocks = dataclasses.replace(macs, blocks=np.full(len(macs.constants), 4.0))
    cost = cost.with_latency(blocks.scaled(1 / blocks.sum(cost.full)))
    scores = [np.random.default_rng(0).random(len(g)) for g in cost.analysis.groups]
    floors = [g.units[: len(g) - int(w[-1])] for g, w in zip(
        cost.analysis.groups, allowed_widths(cost.analysis, FINE), strict=True
    )]  # fmt: skip
    low = cost.figure("latency", cost.lengths(cost.analysis.mask(np.concatenate(floors)).removed))

    for limit in (0.95, (1 + low) / 2, low + 1e-6):
        for comparable in (True, False):  # ranked, or a common share
            budget = Budget("latency", limit, relative=False, asked="")
            found = select(cost, scores, budget, FINE, comparable=comparable)
            mask = cost.analysis.mask(found.units)
            assert cost.figure("latency", cost.lengths(mask.removed)) <= limit + 1e-9


@networks
def test_a_budget_in_time_is_met_as_one_in_macs_is(network: str) -> None:
    cost, instance = opened(network)
    model = fitted(cost, instance, planted(cost, instance, drawn(cost.analysis, FINE, 16)), 7.0)
    cost = cost.with_latency(model.products.scaled(7.0))
    scores = [np.random.default_rng(0).random(len(g)) for g in cost.analysis.groups]

    found = select(cost, scores, Budget.parse("latency", "0.95"), FINE, comparable=True)
    left = cost.lengths(cost.analysis.mask(found.units).removed)
    assert 0.7 < model.ratio(left) <= 0.95 + 1e-9

    same = select(cost, scores, Budget.parse("latency", "6.65ms"), FINE, comparable=True)
    assert np.array_equal(found.units, same.units)


@networks
def test_masks_reach_from_hardly_cut_to_the_floors(network: str) -> None:
    cost, _ = opened(network)
    masks = drawn(cost.analysis, FINE, 16)
    left = np.array([cost.macs(cost.lengths(mask.removed)) for mask in masks]) / cost.macs(
        cost.full
    )
    assert not any(mask.emptied() for mask in masks)
    assert left.max() > 0.7
    assert left.min() < 0.5


Clock = Callable[[float], float]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(SHALLOW.model(), "net.onnx")
    return tmp_path


def instanced(analysis: Analysis, feeds: dict[str, Any]) -> Instance:
    found = instantiate(
        analysis.graph, OP_RULES.shape_functions,
        inputs={name: np.shape(array) for name, array in feeds.items()},
    )  # fmt: skip
    assert found is not None
    return found


def duration(copy: Copy) -> float:
    """What a model takes whose kernels take what they would in copies."""
    analysis = analyse(copy.graph)
    instance = instanced(analysis, copy.feeds)
    cost = CostModel(analysis, instance)
    return sum(kernels_at(cost, instance, cost.full).values())


def with_clock(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[int]:
    """Replace the machine: a copy takes `clock(what the kernels say)`. Returns the copies per call."""
    calls: list[int] = []

    def observed(
        _: object, cost: CostModel, feeds: dict[str, Any], masks: Sequence[Mask], *__: object
    ) -> tuple[list[Observed], float]:
        calls.append(len(masks))
        return planted(cost, instanced(cost.analysis, feeds), masks), 7.0

    def raced(original: Copy, other: Copy, *_: object) -> tuple[float, float]:
        """Every kernel takes what it would in a whole model of these widths."""
        calls.append(1)
        before, after = map(duration, (original, other))
        return clock(after / before), 7.0

    monkeypatch.setattr(fit, "observed", observed)
    monkeypatch.setattr(fit, "raced", raced)
    return calls


def pruned(*options: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code = main(["prune", "net.onnx", "-o", "out.onnx", "--round-to", "1", *options, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return dict(json.loads(out))


@pytest.mark.usefixtures("home")
def test_the_aim_moves_until_the_clock_agrees(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = with_clock(monkeypatch, lambda ratio: ratio**0.7)
    found = pruned("--latency", "0.7", "--work", "work", capsys=capsys)

    times = json.loads(Path("out.plan.json").read_text())["selection"]["times"]
    rounds = times["rounds"]
    assert rounds[0]["measured"] > 0.7 * 1.03  # the fit alone would have been too slow
    assert abs(rounds[times["chosen"]]["measured"] / 0.7 - 1) <= 0.03
    assert calls == [fit.COPIES] + [1] * len(rounds)
    assert any("asked 70.0%" in note for note in found["notes"])
    assert found["proof"] is not None

    again = pruned("--latency", "4.9ms", "--work", "work", capsys=capsys)
    assert again["figures"] == found["figures"]
    assert calls[len(rounds) + 1 :] == [1] * len(rounds)  # the copies are not timed again


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("depths", "options", "said"),
    [
        ((1, 1), (), []),
        ((2, 1), (), ["1 residual block "]),
        ((2, 2), (), ["2 residual blocks "]),
        ((2, 2), ("--drop-block", "s0b17"), []),
    ],
)
def test_blocks_that_could_go_are_said_where_none_were_asked_for(
    depths: tuple[int, int],
    options: tuple[str, ...],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_clock(monkeypatch, lambda ratio: ratio)
    onnx.save(bottlenecks(depths, (16, 24), 16).model(), "net.onnx")
    found = pruned("--latency", "0.7", *options, capsys=capsys)

    notes = [note.partition("could")[0] for note in found["notes"] if "--depth" in note]
    assert notes == said


@pytest.mark.usefixtures("home")
def test_a_clock_that_never_agrees_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = with_clock(monkeypatch, lambda ratio: max(ratio, 0.9))
    found = pruned("--latency", "0.7", capsys=capsys)
    assert len(calls) == 1 + 3
    assert any("was not met within 3%" in note for note in found["notes"])


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("options", [(), ("--drop-block", "s0b17")])
def test_a_sweep_times_its_copies_once(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = with_clock(monkeypatch, lambda ratio: ratio)
    monkeypatch.setattr(sweep, "_SECONDS", 0.02)
    onnx.save(bottlenecks((2, 2), (16, 24), 16).model(), "net.onnx")  # with two blocks
    shape = [d.dim_value for d in SHALLOW.graph().inputs[0].type.tensor_type.shape.dim]
    np.savez("x.npz", x=np.random.default_rng(0).random((24, *shape[1:]), dtype=np.float32))
    asked = ["--by", "latency", "--criterion", "l1", "--round-to", "1", "--data", "x.npz"]
    asked += ["--samples", "16", *options]

    code = main(["prune", "net.onnx", "-o", "out", "--sweep", "0.8,0.6", *asked])

    assert code == 0, capsys.readouterr().err
    plans = [json.loads(path.read_text()) for path in sorted(Path("out").glob("*.plan.json"))]
    rounds = sum(len(plan["selection"]["times"]["rounds"]) for plan in plans)
    assert len(plans) == 2
    assert calls == [fit.COPIES] + [1] * (rounds + bool(options))


def test_in_earnest_on_a_target(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("device.toml").write_text(
        f'shell = ["sh", "-c"]\npython = "{sys.executable}"\nfolder = "{home}/bench"\n'
    )
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr(fit, "_SECONDS", 0.1)
        patch.setattr(fit, "COPIES", 4)
        found = pruned(
            "--latency", "0.9", "--target", "device.toml", "--threads", "1", capsys=capsys
        )
    assert found["figures"]["macs"]["after"] < found["figures"]["macs"]["before"]
    assert any("of the original's" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--macs", "0.5", "--target", "x.toml"], "--target is of use with --latency only"),
        (["--macs", "0.5", "--threads", "2"], "--threads is of use with --latency only"),
        (["--latency", "0.5", "--target", "x.toml"], "cannot read target 'x.toml'"),
        (["--latency", "0.5", "--macs", "0.5"], "found --macs and --latency"),
        (["--latency", "0.5", "--threads", "-1"], "--threads -1: expected at least 0"),
        (["--latency", "12"], "is no budget"),
    ],
)
@pytest.mark.usefixtures("home")
def test_nonsense_is_refused(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", "net.onnx", "-o", "out.onnx", *options]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert expected in err
    assert not Path("out.onnx").exists()
