"""The recipes of files that hear: there is one sound, so they are calibrated on what they are judged by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.files_samples import Array, Recipe, Samples, outputs, sound
from onnxprune.core.runtime import Session


def _chunks(folder: Path, session: Session) -> Iterator[tuple[Samples, float]]:
    """Yield what Silero is fed chunk by chunk, and the probability of speech."""
    state = {"h": np.zeros((2, 1, 64), np.float32), "c": np.zeros((2, 1, 64), np.float32)}
    heard = sound(folder)
    for start in range(0, len(heard) - 511, 512):
        feeds = {"input": heard[None, start : start + 512], "sr": np.array(16000), **state}
        probability, state["h"], state["c"] = outputs(session, feeds)
        yield feeds, float(probability.ravel()[0])


def voice_activity() -> Recipe:
    """Return the recipe of Silero VAD: the share of chunks that are speech."""

    def samples(folder: Path, original: Session) -> Samples:
        fed = [feeds for feeds, _ in _chunks(folder, original)]
        kept = {n: np.stack([f[n] for f in fed]) for n in ("input", "h", "c")}
        kept = {"input": kept["input"][:, 0], "h": kept["h"], "c": kept["c"]}
        return kept | {"sr": np.full(len(fed), 16000)}

    def figure(folder: Path, session: Session, original: Session) -> str:
        found = np.array([p for _, p in _chunks(folder, session)]) > 0.5
        meant = np.array([p for _, p in _chunks(folder, original)]) > 0.5
        return f"{100 * found.mean():.0f} % / {100 * (found == meant).mean():.0f} %"

    note = "calibrated on the sound it is judged by: there is one"
    return Recipe("chunks of speech / as the original", samples, figure, note)


def enhancer() -> Recipe:
    """Return the recipe of DTLN's second part, behind the original first part."""

    def first(folder: Path) -> Session:
        return Session(folder / "onnx" / "dtln_1.onnx")

    def frames(folder: Path, second: Session) -> Iterator[tuple[Samples, Array]]:
        one, state = first(folder), np.zeros((1, 2, 128, 2), np.float32)
        other, heard = np.zeros((1, 2, 128, 2), np.float32), sound(folder)
        for start in range(0, len(heard) - 511, 128):
            spectrum = np.fft.rfft(heard[start : start + 512])
            size = np.abs(spectrum).astype(np.float32)[None, None]
            mask, state = outputs(one, {"input_2": size, "input_3": state})
            frame = np.fft.irfft(spectrum * mask.ravel()).astype(np.float32)[None, None]
            feeds = {"input_4": frame, "input_5": other}
            block, other = outputs(second, feeds)
            yield feeds, block.ravel()

    def heard(folder: Path, second: Session) -> Array:
        blocks = [block for _, block in frames(folder, second)]
        whole = np.zeros(128 * (len(blocks) - 1) + 512)
        for i, block in enumerate(blocks):
            whole[128 * i : 128 * i + 512] += block
        return whole

    def samples(folder: Path, original: Session) -> Samples:
        fed = [feeds for feeds, _ in frames(folder, original)][::2]
        return {name: np.concatenate([f[name] for f in fed]) for name in fed[0]}

    def figure(folder: Path, session: Session, original: Session) -> str:
        clean = heard(folder, original)
        ours = np.corrcoef(heard(folder, session), clean)[0, 1]
        noisy = np.corrcoef(sound(folder)[: len(clean)], clean)[0, 1]
        return f"{ours:.3f} (unprocessed {noisy:.3f})"

    note = "calibrated on every second frame of the sound it is judged by: there is one"
    return Recipe("correlation with the original's output", samples, figure, note)
