"""Numbers as people read them; every one has its unit."""

from __future__ import annotations

from ..plan import Change


def amount(value: float) -> str:
    """Write a count with three digits: 4.09 G, 25.6 M, 640.

    >>> amount(25_557_032), amount(999_600), amount(640), amount(0)
    ('25.6 M', '1.00 M', '640', '0')
    """
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * scale:
            return f"{digits(value / scale)} {prefix}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Write bytes.

    >>> size(102_000_000), size(12)
    ('102 MB', '12 B')
    """
    text = amount(value)
    return f"{text}B" if " " in text else f"{text} B"


def digits(value: float) -> str:
    """Write a positive number with three digits, zeros kept.

    >>> digits(3.6), digits(0.0497), digits(102.4), digits(1234.5)
    ('3.60', '0.0497', '102', '1234')
    """
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def share(value: float) -> str:
    """Write a share.

    >>> share(0.93391)
    '93.39 %'
    """
    return f"{100 * value:.2f} %"


def arrow(change: Change) -> str:
    """Write whole numbers before and after, once if they are equal.

    >>> arrow(Change(64, 48)), arrow(Change(64, 64))
    ('64 -> 48', '64')
    """
    before, after = f"{change.before:.0f}", f"{change.after:.0f}"
    return before if before == after else f"{before} -> {after}"


def kept(change: Change) -> str:
    """Write the share that is left, empty if there was nothing.

    >>> kept(Change(64, 48)), kept(Change(0, 0))
    ('75 %', '')
    """
    return f"{100 * change.after / change.before:.0f} %" if change.before else ""


def less(change: Change) -> str:
    """Write by what factor a figure fell.

    >>> less(Change(100, 40))
    '2.50x less'
    """
    return f"{change.before / change.after:.2f}x less" if change.after else ""


def inputs(shapes: dict[str, tuple[int, ...]]) -> str:
    """Write the inputs of a run.

    >>> inputs({"images": (1, 3, 224, 224), "rate": ()})
    'images 1x3x224x224, rate scalar'
    """
    return ", ".join(f"{n} {'x'.join(map(str, s)) or 'scalar'}" for n, s in shapes.items())
