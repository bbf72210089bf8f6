"""The settings of CMI: each keeps its promises, approximations say their error, arrays of any library."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from typing import Any

import numpy as np
import pytest

from onnxprune.core.configured import configured
from onnxprune.core.contracts import CRITERIA, REPAIRS, Evidence, Ranking, Samples
from onnxprune.core.errors import OnnxPruneError
from onnxprune.passes.criteria import _arrays, _cuts, _kernels, _renyi, cmi
from onnxprune.passes.criteria._kernels import target_of
from onnxprune.pipeline.collect import collect
from onnxprune.pipeline.quality import Quality
from onnxprune.structure.dependency import analyse
from tests.test_seen_by_readers import evidence_of, residual, weight

SETTINGS = (
    "mode=robust",
    "mode=paper",
    "mode=paper,cut=x-means,xmeans=values",
    "alpha=1.01,shortlist=0",
    "alpha=3",
    "alpha=1.01,entropy=low-rank,eigenvalues=24",
    "alpha=1.5,entropy=low-rank,target=predictions",
    "alpha=1.5,entropy=stochastic",
    "alpha=1.01,entropy=stochastic,vectors=64,target=outputs",
    "width=median",
    "width=knn,alpha=1.01",
    "width=paper",
    "labels=rbf",
    "labels=rbf,width=paper",
    "cut=x-means",
    "cut=x-means,xmeans=indices",
    "cut=permutation",
    "conditioning=full",
    "conditioning=layer",
    "direction=forward",
    "arrays=torch",
    "arrays=torch,alpha=1.01,shortlist=3",
    "arrays=torch,alpha=1.5,entropy=low-rank",
)
LABELS = np.arange(48) % 3


def labelled(**changed: Any) -> Evidence:
    """Evidence of a stem and a branch, with three classes that the samples do not know of."""
    evidence = evidence_of(residual(**changed))
    maps = evidence.required().maps
    assert maps is not None
    maps.labels["class"] = LABELS
    return evidence


@functools.cache
def plain() -> Evidence:
    return labelled()


def rankings(settings: str, evidence: Evidence | None = None) -> dict[str, Ranking]:
    if "arrays=torch" in settings:
        pytest.importorskip("torch")
    evidence = evidence or plain()
    found = configured(CRITERIA, f"cmi:{settings}")[1].rank(evidence)
    return {g.name: r for g, r in zip(evidence.analysis.groups, found, strict=True)}


@pytest.mark.parametrize("settings", SETTINGS)
def test_channels_in_another_order_are_judged_alike(settings: str) -> None:
    """What is kept, too, but by the test that draws permutations."""
    rng = np.random.default_rng(0)
    trunk, inner = rng.permutation(6), rng.permutation(8)
    graph = residual()
    ws, wa, wc, wy = (weight(graph, name) for name in ("ws", "wa", "wc", "wy"))
    moved = labelled(ws=ws[trunk], wa=wa[inner][:, trunk], wc=wc[trunk][:, inner], wy=wy[trunk])

    before, after = rankings(settings), rankings(settings, moved)

    for name, order in (("ws", trunk), ("wa", inner)):
        expected = before[name].scores[order]
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(after[name].scores, expected, rtol=1e-4, atol=1e-5 * scale)
        kept = before[name].keep
        assert kept is not None
        np.testing.assert_array_equal(after[name].keep, kept[order])


@pytest.mark.parametrize(
    "approximate", ["entropy=low-rank,eigenvalues=40", "entropy=stochastic,vectors=200"]
)
@pytest.mark.parametrize("target", ["labels", "predictions"])
@pytest.mark.parametrize("alpha", [1.01, 1.5])
def test_approximate_information_is_as_near_as_it_says(
    approximate: str, target: str, alpha: float
) -> None:
    """The bound of eigenvalues holds; of random vectors it is a standard error."""
    common = f"alpha={alpha},target={target},conditioning=layer"
    exact, found = rankings(common), rankings(f"{common},{approximate}")
    for name, ranking in found.items():
        error = ranking.curves["error"]
        assert (error > 0).all()
        assert error.max() < 0.2
        assert f"about {error.max():.2g} nats" in ranking.notes[-1]
        own = sorted(zip(ranking.curves["joint"], error, strict=True))[-1]
        whole = exact[name].curves["joint"][-1]  # of all units: whatever the order
        assert abs(ranking.curves["joint"][-1] - whole) <= 4 * error[-1]
        assert own[0] <= exact[name].curves["joint"].max() + 4 * own[1]
        assert "error" not in exact[name].curves


def test_modes_are_sets_of_settings() -> None:
    literal = "alpha=1.01,width=paper,labels=rbf,xmeans=indices"
    for cut in ("scree", "x-means"):
        paper = rankings(f"mode=paper,conditioning=layer,direction=forward,cut={cut}")
        spelt = rankings(f"{literal},conditioning=layer,direction=forward,cut={cut}")
        for name in paper:
            np.testing.assert_array_equal(paper[name].curves["joint"], spelt[name].curves["joint"])
            if cut == "x-means" and paper[name].keep is not None:
                np.testing.assert_array_equal(paper[name].keep, spelt[name].keep)


def test_kernels_of_labels() -> None:
    """e^-1 between classes, or what Silverman's rule says of three columns; 1 inside."""
    evidence = plain()
    maps = evidence.required().maps
    assert maps is not None
    rows, columns = np.triu_indices(len(LABELS), 1)
    same = LABELS[rows] == LABELS[columns]
    sigma = 5 * 48 ** (-1 / 7)
    for width, between in (("median", math.exp(-1)), ("paper", math.exp(-1 / sigma**2))):
        found = np.exp(target_of(evidence, maps, "labels", width, "rbf").log)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, np.where(same, 1.0, between), atol=1e-12)


def test_widths_by_hand() -> None:
    """One unit: the rule itself; four: twice as wide, that all together are as wide as one."""
    points = np.array([[0.0], [1.0], [3.0], [3.5], [7.0], [7.5]])
    squared = _renyi.squared_distances(points).astype(np.float32)
    nearest = (np.sort(np.abs(points - points.T), axis=1)[:, 1:] ** 2).mean()
    found = [_kernels._sigma(squared, "knn", units, 1) for units in (1, 4)]
    np.testing.assert_allclose(found, [math.sqrt(nearest), 2 * math.sqrt(nearest)], rtol=1e-6)


def test_the_information_criterion_in_the_plane_by_hand() -> None:
    """Squares around (1, 1) and (11, 1): s2 = 16 / (8 - 2), p = 1 + 4 + 1."""
    square = np.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]])
    points, labels = np.concatenate([square, square + np.array([10, 0])]), np.repeat([0, 1], 4)
    each = 4 * math.log(4) - 4 * math.log(8) - 2 * math.log(2 * math.pi) - 4 * math.log(16 / 6) - 1
    assert _cuts.bic(points, labels) == pytest.approx(2 * each - 3 * math.log(8), abs=1e-12)


@pytest.mark.parametrize("bytes_held", [0, 2**30])
def test_kernels_are_made_once_while_they_fit(
    bytes_held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(group: Any, *rest: Any) -> Any:
        made.append(group.name)
        return _kernels.log_kernels(group, *rest)

    expected = rankings("direction=both")
    monkeypatch.setattr(cmi, "log_kernels", counted)
    monkeypatch.setattr(cmi, "_HELD", bytes_held)

    found = rankings("direction=both")

    assert sorted(made) == sorted([*expected] * (1 if bytes_held else 2))
    for name, ranking in found.items():
        np.testing.assert_array_equal(ranking.scores, expected[name].scores)


# -- cuts that are judged ---------------------------------------------------------------------------


def test_a_cut_is_judged_as_it_will_be_repaired() -> None:
    """One of two equal channels: nothing is lost once the other is read twice as much."""
    wa = weight(residual(), "wa").copy()
    wa[1] = wa[0]
    graph = residual(wa=wa)
    x = np.random.default_rng(1).standard_normal((48, 3, 6, 6)).astype(np.float32)
    samples = Samples(48, lambda a, b: {"x": x[a:b]})
    analysis = analyse(graph)
    both = Evidence(analysis, collect(analysis, samples, frozenset({"moments", "second"})))
    means = Evidence(analysis, collect(analysis, samples, frozenset({"moments"})))
    (group,) = [group for group in analysis.groups if group.name == "wa"]

    def judged(repair: str, evidence: Evidence = both) -> float:
        found = configured(REPAIRS, repair)[1]
        quality = Quality(evidence, samples, None, "CPUExecutionProvider", found, 1e-6)
        assert quality(np.empty(0, np.int64)) == 1.0
        return quality(group.units[[1]])

    assert judged("least-squares") == judged("sequential") == 1.0
    assert max(judged("none"), judged("mean")) < 1.0
    assert judged("sequential", means) == judged("mean")


@pytest.mark.parametrize("allowed", range(6))
def test_where_no_candidate_is_accepted_the_search_goes_on_beyond(allowed: int) -> None:
    """As many go as may, over all groups together; 5 of 6 and 4 of 8 are what the curve offers."""
    evidence = dataclasses.replace(plain(), quality=lambda gone: float(len(gone) <= allowed))

    found = rankings("direction=forward", evidence).values()

    assert sum((~r.keep).sum() for r in found if r.keep is not None) == allowed


# -- arrays -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    "settings",
    [
        "alpha=2",
        "alpha=1.01,shortlist=3",
        "alpha=1.01,shortlist=0",
        "alpha=1.5,entropy=stochastic",
        "alpha=3",
    ],
)
@pytest.mark.parametrize("target", ["labels", "predictions"])
def test_tensors_give_what_numpy_gives(
    device: str, settings: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of CUDA tensors, on the CPU where there are none; nothing turns to NumPy unasked."""
    torch = pytest.importorskip("torch")
    from onnxprune.torch import arrays

    if device == "cuda" and not arrays.has_cuda():
        pytest.skip("no CUDA device")

    def refused(*_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def given(held: Any) -> Any:
        return held.cpu().numpy() if isinstance(held, torch.Tensor) else held

    placed: list[str] = []

    def tensor(array: Any, device: str, real: Any = arrays.tensor) -> Any:
        placed.append(device)
        return real(array, ready)

    ready, expected = device, rankings(f"arrays=numpy,{settings},target={target}")
    monkeypatch.setattr("shutil.which", lambda _: "nvidia-smi")
    monkeypatch.setattr(arrays, "has_cuda", lambda: True)
    monkeypatch.setattr(arrays, "tensor", tensor)
    monkeypatch.setattr(torch.Tensor, "__array__", refused)
    for module in ("_renyi", "_approximations"):
        monkeypatch.setattr(f"onnxprune.passes.criteria.{module}.host", given)

    found = rankings(f"arrays=auto,{settings},target={target}")

    assert set(placed) == {"cuda"}
    for name, ranking in found.items():
        np.testing.assert_allclose(
            ranking.curves["joint"], expected[name].curves["joint"], atol=1e-6
        )
        # channels whose information differs by the rounding of float32 may trade places
        np.testing.assert_array_equal(ranking.curves["kept"], expected[name].curves["kept"])


def test_without_a_device_numpy_computes_and_cuda_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("onnxprune.torch.arrays.has_cuda", lambda: False)
    for tools in (None, "nvidia-smi"):
        monkeypatch.setattr("shutil.which", lambda _, tools=tools: tools)
        assert _arrays.placing("auto", "cmi:arrays") is np.asarray
    with pytest.raises(OnnxPruneError, match="cmi:arrays=cuda: PyTorch finds no CUDA device"):
        _arrays.placing("cuda", "cmi:arrays")


def test_without_pytorch_numpy_computes_and_torch_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxprune.torch.arrays", None)
    monkeypatch.setattr("shutil.which", lambda _: "nvidia-smi")
    assert _arrays.placing("auto", "cmi:arrays") is np.asarray
    with pytest.raises(OnnxPruneError, match="cmi:arrays=torch needs PyTorch") as caught:
        _arrays.placing("torch", "cmi:arrays")
    assert "\n" not in str(caught.value)


# -- refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "entropy=low-rank",
            "entropy=low-rank: at alpha=2 the entropy has a closed form: leave it",
        ),
        ("entropy=stochastic,alpha=3", "entropy=stochastic: at alpha=3 the entropy has a closed"),
        ("entropy=stochastic,alpha=1", "entropy=stochastic: expected alpha above 1, found 1"),
        ("eigenvalues=0", "cmi:eigenvalues=0: expected 1 or more"),
        ("vectors=2", "cmi:vectors=2: expected 3 or more"),
        ("shortlist=-1", "cmi:shortlist=-1: expected 0 or more"),
        ("alpha=0", "cmi:alpha=0.0: expected a number above 0"),
        ("alpha=nan", "cmi:alpha=nan: expected a number above 0"),
        ("alpha=1.01,entropy=low-rank,eigenvalues=48", "48 eigenvalues of 48 samples: ask for"),
        ("entropy=rough", "criterion 'cmi', entropy='rough': input should be 'exact', 'low-rank'"),
        ("width=neighbours", "criterion 'cmi', width='neighbours': input should be 'readers'"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(settings: str, message: str) -> None:
    with pytest.raises(OnnxPruneError) as caught:
        rankings(settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
