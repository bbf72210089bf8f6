"""The fuzzer of hostile files: a short run of it, and that it would notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onnxprune.cli import main
from tests.hostile import DECK, KINDS, bases, lay_out
from tests.hostile.attempt import MEMORY, SECONDS, Outcome, complaint

ROOT = Path(__file__).resolve().parent.parent
GOOD = Outcome(("inspect", "m.onnx"), 0, "table", "", 1.0, 1.0, 100.0, written=False)
REFUSED = Outcome(("inspect", "m.onnx"), 2, "", "onnxprune: no\n", 1.0, 1.0, 100.0, written=False)


def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *([code] if code.endswith(".py") else ["-c", code]), *words],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.slow
def test_each_kind_ends_with_one_line_or_a_proof() -> None:
    """Two files of every kind. The benchmark runs ten thousand."""
    done = run("benchmarks/hostile.py", str(2 * len(DECK)), "--each", "2")

    assert done.returncode == 0, done.stdout


def test_every_kind_is_in_the_deck() -> None:
    assert set(DECK) == set(KINDS)


def test_a_number_is_always_the_same_file(tmp_path: Path) -> None:
    for number in range(0, len(DECK), 7):
        folders = [tmp_path / f"{number}{twin}" for twin in "ab"]
        for folder in folders:
            folder.mkdir()
            lay_out(number, folder)
        first, second = (
            {
                f.name: f.read_bytes()
                for f in folder.iterdir()
                if f.suffix == ".onnx" and f.is_file()
            }
            for folder in folders
        )
        assert first == second, DECK[number]


@pytest.mark.parametrize("name", bases.NAMES)
def test_undamaged_models_are_pruned(name: str, tmp_path: Path) -> None:
    """Else the damage would not be what is refused."""
    path = tmp_path / "m.onnx"
    path.write_bytes(bases.content(name))

    assert main(["inspect", str(path), "--quiet"]) == 0
    code = main(["prune", str(path), "--ratio", "0.5", "--round-to", "1", "--quiet"])
    assert code == (2 if name == "loop" else 0)  # behind a Loop, shapes are unknown


@pytest.mark.parametrize(
    ("outcome", "wrong"),
    [
        (GOOD, None),
        (REFUSED, None),
        (Outcome(GOOD.words, 1, "", "Traceback\nE\nbug\n", 1, 1, 1, written=False), "ended with 1"),
        (Outcome(GOOD.words, -11, "", "", 1, 1, 1, written=False), "ended with -11"),
        (Outcome(GOOD.words, 2, "", "onnxprune: a\nonnxprune: b\n", 1, 1, 1, written=False), "2 lines"),
        (Outcome(GOOD.words, 2, "", "", 1, 1, 1, written=False), "0 lines"),
        (Outcome(GOOD.words, 0, "t", "", SECONDS + 1, 1, 1, written=False), "took"),
        (Outcome(GOOD.words, 0, "t", "", 1, 1, MEMORY + 1, written=False), "MB"),
        (Outcome(("prune",), 0, '{"proof": null}', "", 1, 1, 1, written=True), "without a proof"),
        (Outcome(("prune",), 2, "", "onnxprune: no\n", 1, 1, 1, written=True), "wrote a model"),
    ],
    ids=range(10),
)  # fmt: skip
def test_what_counts_as_wrong(outcome: Outcome, wrong: str | None) -> None:
    found = complaint(outcome)

    assert found is None if wrong is None else wrong in str(found)


@pytest.mark.parametrize("ended_by", [signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT])
def test_a_crash_of_native_code_is_one_line(ended_by: signal.Signals) -> None:
    code = (
        "import os, sys\n"
        "from onnxprune.supervise import supervised\n"
        f"sys.exit(supervised(lambda: os.kill(os.getpid(), {int(ended_by)})))"
    )

    done = run(code, "prune", "m.onnx")

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"'prune m.onnx' was stopped by {ended_by.name}" in done.stderr


def test_exit_codes_and_output_pass_through() -> None:
    code = (
        "import sys\n"
        "from onnxprune.supervise import supervised\n"
        "sys.exit(supervised(lambda: print('said') or 7))"
    )

    done = run(code)

    assert (done.returncode, done.stdout, done.stderr) == (7, "said\n", "")


def test_being_ended_is_no_crash() -> None:
    code = (
        "import os, signal, sys\n"
        "from onnxprune.supervise import supervised\n"
        "sys.exit(supervised(lambda: os.kill(os.getpid(), signal.SIGTERM)))"
    )

    done = run(code)

    assert (done.returncode, done.stderr) == (143, "")


@pytest.mark.skipif(sys.platform != "linux", reason="only there the work has a process of its own")
def test_who_kills_the_command_kills_the_work() -> None:
    code = (
        "import os, signal, sys, time\n"
        "from onnxprune.supervise import supervised\n"
        "supervised(lambda: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(900)))"
    )

    done = run(code)  # returns when the last of both has closed the pipe

    assert done.returncode == -signal.SIGKILL
