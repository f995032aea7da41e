"""What the runs of the fault laboratory came to: kept as JSON below build/faults/, printed as one table."""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

KEPT = Path(__file__).parents[2] / "build" / "faults"
# In this order they are told; a run of a kind and seed takes the place of the one before.
KINDS = ("crash", "mutants", "simulation", "fuzz", "fuzz-guided", "suite")


def save(kind: str, seed: int | str, result: dict[str, Any]) -> None:
    """Keep the result of one run, or what it came to so far; a later run of the same kind and seed takes its place."""
    KEPT.mkdir(parents=True, exist_ok=True)
    about = {
        "kind": kind,
        "seed": seed,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "platform": sys.platform,
    }
    path = KEPT / f"{kind}-{seed}.json"
    written = path.with_suffix(".new")
    written.write_text(json.dumps(about | result, indent=1) + "\n")
    written.replace(path)


def report() -> str:
    """Return what all kept runs came to, as Markdown."""
    runs = [json.loads(path.read_text()) for path in sorted(KEPT.glob("*.json"))]
    if not runs:
        return f"no run is kept in {KEPT}"
    return "\n\n".join(part for part in (_crashes(runs), _others(runs), _where(runs)) if part)


def _crashes(runs: list[dict[str, Any]]) -> str:
    runs = [run for run in runs if run["kind"] == "crash"]
    points: Counter[tuple[str, str]] = Counter()
    failed: Counter[str] = Counter()
    for run in runs:
        for row in run["rows"]:
            points[row["scenario"], row["disturbance"]] += row["points"]
            failed[row["scenario"]] += row["failed"]
    if not points:
        return ""
    ways = sorted({way for _, way in points})
    lines = [f"| command | {' | '.join(ways)} | failed |", f"|---|{'---:|' * (len(ways) + 1)}"]
    lines += [
        f"| {name} | {' | '.join(str(points[name, way]) for way in ways)} | {failed[name]} |"
        for name in sorted({name for name, _ in points})
    ]
    sums = [sum(count for (_, each), count in points.items() if each == way) for way in ways]
    lines.append(f"| all: {sum(sums)} | {' | '.join(map(str, sums))} | {sum(failed.values())} |")
    told = "; ".join(f"seed {run['seed']}: {run['points']} of {run['there']} in {run['seconds']} s" for run in runs)
    return "\n".join([*lines, "", f"Runs: {told}."])


def _others(runs: list[dict[str, Any]]) -> str:
    ordered = sorted((run for run in runs if run["kind"] != "crash"), key=lambda run: KINDS.index(run["kind"]))
    rows = [row for run in ordered for row in run["rows"]]
    if not rows:
        return ""
    lines = ["| what was tried | how much | what came out |", "|---|---:|---|"]
    lines += [f"| {row['tried']} | {row['count']} | {row['out']} |" for row in rows]
    return "\n".join(lines)


def _where(runs: list[dict[str, Any]]) -> str:
    days = sorted({run["when"][:10] for run in runs})
    pythons, kernels = (sorted({run[what] for run in runs}) for what in ("python", "kernel"))
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"Run on {span}, Python {', '.join(pythons)}, kernel {', '.join(kernels)}."
