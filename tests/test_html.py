"""The page of `inspect --html`, in a browser: complete, self-contained, safe, at home on any screen.

The browser is headless Chromium, found by name; without one the tests that need it are skipped.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import onnx
import pytest

import onnxprune as op
from onnxprune.cli import main
from onnxprune.show.page import page
from onnxprune.show.picture import LANE, picture_of
from tests.handmade import handmade
from tests.networks import NETWORKS
from tests.test_inspect import RESIDUAL, WEIGHTS

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_LARGEST = 3_000_000  # bytes of a page
ATTACK = (
    "</title><script>document.title='owned'</script><img src=x onerror=alert(1)>'\"{{7*7}}&amp;"
)


@pytest.fixture(scope="session")
def browser() -> str:
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(_BROWSERS)} is installed")
    return found


def show(browser: str, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Load a page and do what the options say; what its console says is on stderr."""
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    log = ["--enable-logging=stderr", f"--user-data-dir={path.parent / 'profile'}"]
    return subprocess.run(
        [browser, *common, *log, *options, path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


def operated(path: Path, script: str) -> None:
    """Let a page run a script of ours, which its policy would not."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", path.read_text())
    path.write_text(text.replace("</body>", f"<script>{{{script}}}</script></body>"))


def title_of(done: subprocess.CompletedProcess[str]) -> str:
    """The title that a page has in the end."""
    found = re.search(r"<title>(.*?)</title>", done.stdout)
    assert found is not None
    return found[1]


def written(tmp_path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, tmp_path / "m.onnx")
    assert (
        main(["inspect", str(tmp_path / "m.onnx"), "--html", str(tmp_path / "m.html"), "-q"]) == 0
    )
    return tmp_path / "m.html"


def residual() -> onnx.ModelProto:
    return handmade(RESIDUAL, **WEIGHTS)


def hostile() -> onnx.ModelProto:
    """The residual model with an attack in every name that it has."""
    model = residual()
    names = [v.name for v in [*model.graph.input, *model.graph.output, *model.graph.initializer]]
    names += [name for node in model.graph.node for name in node.output]
    new = {name: f"{name}{ATTACK}" for name in names}
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        value.name = new[value.name]
    for node in model.graph.node:
        node.name = f"/{ATTACK.replace('/', '')}/Conv"
        node.input[:] = [new[name] for name in node.input]
        node.output[:] = [new[name] for name in node.output]
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=repr(["", ATTACK, "op"]))
    return model


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


# -- the picture --------------------------------------------------------------------------------
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_bars_of_one_lane_do_not_overlap(network: str, tmp_path: Path) -> None:
    onnx.save(NETWORKS[network].model(), tmp_path / "m.onnx")
    view = op.inspect(tmp_path / "m.onnx", blocks=True)

    picture = picture_of(view)

    assert len(picture.rows) == len(view.operators)
    assert {bar.number for bar in picture.bars} <= set(range(len(view.groups)))
    for one in picture.bars:
        for other in picture.bars:
            apart = one.bottom < other.top or other.bottom < one.top
            assert one is other or one.x != other.x or apart
    places = {bar.number: bar for bar in picture.bars}
    for row in picture.rows:
        assert row.start >= picture.fixed
        assert row.end <= picture.columns[0] - LANE
        for mark in (m for m in row.marks if m.number is not None):
            bar = places[mark.number]  # type: ignore[index]  # not None
            assert (bar.x, bar.top <= row.y <= bar.bottom) == (mark.x, True)


# -- the page, without a browser ----------------------------------------------------------------
def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    text = written(tmp_path, residual()).read_text()

    for tag, attributes in _Elements(text).found:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base", "audio", "video"}
        assert not {"src", "href", "srcset", "action", "style"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?:", text)
    assert "default-src 'none'" in text


def test_everything_is_there(tmp_path: Path) -> None:
    path = written(tmp_path, residual())
    view, text = op.inspect(tmp_path / "m.onnx", blocks=True), path.read_text()

    assert view.blocks is not None
    names = {p.tensor for g in view.groups for p in g.places}
    names |= {o.weight or o.name for o in view.operators} | {b.name for b in view.blocks.blocks}
    names |= {name for v in view.frozen for name in (v.reason.replace("'", "&#39;"), *v.names)}
    assert [name for name in names if name not in text] == []
    tags = [tag for tag, _ in _Elements(text).found]
    assert tags.count("script") == tags.count("style") == 1


def test_names_of_the_file_are_text(tmp_path: Path) -> None:
    text = written(tmp_path, hostile()).read_text()

    tags = [tag for tag, _ in _Elements(text).found]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert "<script>document" not in text
    assert "{{7*7}}" in text  # not computed by the template


def test_a_large_model_gives_a_small_page(tmp_path: Path) -> None:
    """400 groups of 120 weights, 3,000 operators: what is not drawn or listed is said."""
    onnx.save(residual(), tmp_path / "m.onnx")
    small = op.inspect(tmp_path / "m.onnx", blocks=True)
    place = dataclasses.replace(
        small.groups[0].places[0], tensor="features.12.branch.0.conv.weight"
    )
    group = dataclasses.replace(small.groups[0], places=(place,) * 120)

    text = page(dataclasses.replace(small, groups=(group,) * 400, operators=small.operators * 600))

    assert len(text.encode()) < _LARGEST
    assert "1800 more operators are not drawn" in text
    assert "80 more: onnxprune inspect --group" in text


def test_a_page_that_cannot_be_written_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(residual(), tmp_path / "m.onnx")

    assert (
        main(["inspect", str(tmp_path / "m.onnx"), "--html", str(tmp_path / "no" / "m.html")]) == 2
    )
    assert "there is no folder" in capsys.readouterr().err


# -- the page, in a browser ---------------------------------------------------------------------
def test_a_hostile_name_does_nothing(tmp_path: Path, browser: str) -> None:
    path = written(tmp_path, hostile())

    done = show(browser, path, "--dump-dom")

    assert "CONSOLE" not in done.stderr  # no error, no blocked script, style or request
    assert "<title>m.onnx: what can be removed</title>" in done.stdout
    tags = [tag for tag, _ in _Elements(done.stdout).found]
    assert tags.count("script") == 1
    assert "img" not in tags


def test_sorting_filtering_and_lighting_up(tmp_path: Path, browser: str) -> None:
    """A copy of the page, whose policy is lifted, operates itself and writes down what it sees."""
    path = written(tmp_path, residual())
    steps = """
      const said = {}, rows = () => [...document.querySelectorAll("#groups > tbody > tr")];
      const units = () => rows().filter(r => !r.hidden).map(r => r.cells[2].textContent).join();
      const head = document.querySelectorAll("#groups > thead button")[2];
      head.click(); said.falling = units(); head.click(); said.rising = units();
      const filter = document.getElementById("filter");
      filter.value = "W_DEEP"; filter.dispatchEvent(new Event("input")); said.filtered = units();
      const bar = document.querySelector("path.bar.stream");
      bar.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      said.lit = document.querySelectorAll("g.row.lit").length;
      said.row = document.querySelector("tr.lit")?.querySelector("td").textContent.trim().slice(0, 6);
      document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
      said.dark = document.querySelectorAll(".lit").length;
      document.title = JSON.stringify(said);
    """
    operated(path, steps)

    done = show(browser, path, "--dump-dom")

    assert title_of(done) == (
        '{"falling":"16,8","rising":"8,16","filtered":"16","lit":4,"row":"w_stem","dark":0}'
    )


def test_it_fits_a_phone_and_a_desk(tmp_path: Path, browser: str) -> None:
    """Tables and picture scroll inside; the page itself is never wider than the screen."""
    path = written(tmp_path, hostile())
    operated(
        path,
        "parent.document.title += [innerWidth, document.documentElement.scrollWidth].join() + ';'",
    )
    frames = "".join(f"<iframe width={width} height=800></iframe>" for width in (390, 1280))
    inner = json.dumps(path.read_text()).replace("</", "<\\/")
    fill = f"for (const frame of document.querySelectorAll('iframe')) frame.srcdoc = {inner}"
    style = "<style>iframe { border: 0 }</style><title></title>"
    path.write_text(f"<!doctype html><meta charset=utf-8>{style}{frames}<script>{fill}</script>")

    done = show(browser, path, "--dump-dom")

    assert sorted(title_of(done).split(";")) == ["", "1280,1280", "390,390"]


def test_the_page_is_made_of_its_view(tmp_path: Path) -> None:
    onnx.save(residual(), tmp_path / "m.onnx")

    assert page(op.inspect(tmp_path / "m.onnx")).count("<h2>") == 3  # without blocks
