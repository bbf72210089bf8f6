"""Prints the rows of the coverage benchmark, one line an export, and what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

Row = dict[str, Any]

_UNJUDGED = ("not exported", "not finished")  # of the exporter; of us, in the time given
BAR = 0.32  # share of the parameters that may be kept when half of the channels go
_HEAD = (
    "| model | export | groups | units | removable | kept | gap | s | stays, share of parameters |"
    " onnxsim | Torch-Pruning |\n"
    "| :-- | :-- | --: | --: | --: | --: | --: | --: | :-- | --: | --: |"
)


def line(row: Row) -> str:
    """Write one row as a line of the table."""
    cells = [row["name"], row["export"]]
    if row["status"] == "proved":
        took = row["analysis seconds"] + row["cut seconds"] + row["prove seconds"]
        cells += [str(row["groups"]), f"{row['units']:,}", f"{row['removable']:.2f}"]
        cells += [f"{row['kept']:.2f}", f"{row['gap']:.0e}", f"{took:.1f}"]
    else:
        cells += [*[""] * 5, f"{row['status']}: {row.get('error', '')[:160]}"]
    cells += [_stays(row), _peer(row.get("onnxsim")), _peer(row.get("torch-pruning"))]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _stays(row: Row) -> str:
    reasons = [(why, share) for why, share in row.get("frozen", []) if share >= 0.005]
    return "; ".join(f"{why} {share:.0%}" for why, share in reasons)


def _peer(row: Row | None) -> str:
    if row is None:
        return ""
    if not row["error"]:
        return f"{row['kept']:.2f}"
    reason = row["error"].split("Status Message: ")[-1].split(" : ")[-1][:60]
    return f"{'does not run' if row.get('kept') else 'fails'}: {reason}"


def print_table(table: Sequence[Row]) -> None:
    """Print all rows as Markdown, and the summary."""
    print(_HEAD)
    for row in sorted(table, key=lambda r: (r["name"], r["export"])):
        print(line(row))
    print()
    print("\n".join(summary(table)))


def summary(table: Sequence[Row]) -> list[str]:
    """Say how many families are pruned to what, what falls short and why, and what peers do."""
    made = [row for row in table if row["status"] not in _UNJUDGED]
    proved = [row for row in made if row["status"] == "proved"]
    broken = [row for row in made if row["status"] == "broken"]
    refused = [row for row in made if row["status"] == "refused"]
    families = {row["family"] for row in made}
    kept = {f: median(row.get("kept", 1.0) for row in made if row["family"] == f) for f in families}
    good = {f for f in families if all(r["status"] == "proved" for r in made if r["family"] == f)}
    lines = [
        f"{len(made)} exports of {len(families)} families: {len(proved)} pruned and proved, "
        f"{len(broken)} broken, {len(refused)} refused. Besides: "
        + ", ".join(f"{sum(r['status'] == s for r in table)} {s}" for s in _UNJUDGED)
        + "."
    ]
    if proved:
        lines.append(
            f"Families pruned: {len(good)} of {len(families)}; median of parameters kept "
            f"{median(kept.values()):.3f}; {sum(v <= BAR for v in kept.values())} keep at most {BAR}. "
            f"Largest gap {max(r['gap'] for r in proved):.0e}; median analysis "
            f"{median(r['analysis seconds'] for r in proved):.2f} s."
        )
    for peer in ("onnxsim", "torch-pruning"):
        tried = [row for row in proved if row.get(peer)]
        if peer == "torch-pruning":  # once a family: its networks are the same for every export
            tried = list({row["name"]: row for row in tried}.values())
        late = [row for row in tried if row[peer]["error"].startswith("not finished")]
        runs = [row for row in tried if not row[peer]["error"]]
        if runs:
            lines.append(
                f"{peer}: of {len(tried)} results {len(runs)} run, {len(late)} were not finished in "
                f"time; of those that run it keeps a median of "
                f"{median(row[peer]['kept'] for row in runs):.3f}, we "
                f"{median(row['kept'] for row in runs):.3f}."
            )
    for family in sorted(f for f in kept if kept[f] > BAR):
        why = next(_stays(row) for row in made if row["family"] == family)
        lines.append(f"Above {BAR}: {family} keeps {kept[family]:.2f}; stays: {why or 'nothing'}")
    return lines
