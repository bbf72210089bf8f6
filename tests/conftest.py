"""What every test may ask for, and one thread for everybody."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

# Before any numerical library is imported: sums in a fixed order, and workers side by side do not
# fight for the cores.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np  # noqa: E402  # after the threads are set
import pytest  # noqa: E402

from onnxprune import demo  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name only, so any test can be run alone."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the quick-start model and its data, one for each file of tests."""
    folder = tmp_path_factory.mktemp("home")
    demo.unpack(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of data sets and trained models; skips where there is none."""
    folder = Path(os.environ.get("ONNXPRUNE_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip("no data: set ONNXPRUNE_DATA to the folder of data sets and trained models")
    return folder


@pytest.fixture(scope="session")
def zoo_dir(request: pytest.FixtureRequest) -> Path:
    """Where `tests.zoo.exported` keeps its files: $ONNXPRUNE_ZOO, or pytest's own cache."""
    if folder := os.environ.get("ONNXPRUNE_ZOO"):
        return Path(folder)
    cache = request.config.cache
    assert cache is not None, "the zoo needs pytest's cache: run without -p no:cacheprovider"
    return Path(cache.mkdir("zoo"))
