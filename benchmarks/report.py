"""Keeps what the cases found (results.json) and makes it readable: RESULTS.md, and a picture for every curve."""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.bench import CASES, Case, Curve, Goal, Result, Row
from benchmarks.measure import Spread

FOLDER = Path(__file__).parent
KEPT = FOLDER / "results.json"
PAGE = FOLDER / "RESULTS.md"

_PREFACE = """# What was measured

Written by `make bench`; `make bench CASE=name` measures one case anew. Contenders run in turns (A B A B …) after a round
that only warms up. Figures are medians, with the least and the most in brackets. CPU-seconds are user and system time of
the client's whole process tree, for 1e9 bytes; the servers' are not counted, though they share the machine. axomsync is
measured as `axomsync sync`, a process with a fresh state folder: start-up, console calls, ledger, fsync and publishing
included. All servers are on this machine's loopback.
"""


def shown(name: str, result: Result) -> str:
    """One case, for a terminal and for the page alike."""
    parts = [_table(result.rows)] if result.rows else []
    parts += ["\n".join(_goal(goal) for goal in result.goals)] if result.goals else []
    parts += result.notes
    parts += [f"![{curve.title}]({curve.name}.svg)" for curve in result.curves]
    return f"## {name}\n\n" + "\n\n".join(parts) + "\n"


def keep(case: Case, result: Result, rounds: int) -> None:
    """Add a case to what is known, and write the page and the pictures anew."""
    known: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    known[case.name] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "rounds": rounds,
        "machine": _machine(),
        "versions": peers.versions(),
        "result": asdict(result),
    }
    KEPT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(_page(known), encoding="utf-8")
    for curve in result.curves:
        (FOLDER / f"{curve.name}.svg").write_text(picture(curve), encoding="utf-8")


def _page(known: dict[str, Any]) -> str:
    results = {name: _result(known[name]["result"]) for name in CASES if name in known}
    summary = ["| case | goal | measured |", "|---|---|---|"]
    for name, result in results.items():
        verdicts = "<br>".join(_goal(goal).removeprefix("- ") for goal in result.goals)
        summary.append(f"| [{CASES[name].title}](#{name}) | {CASES[name].goal} | {verdicts} |")
    parts = [_PREFACE, "\n".join(summary) + "\n"]
    for name, result in results.items():
        facts = known[name]
        versions = ", ".join(f"{program} {version}" for program, version in facts["versions"].items())
        about = (
            f"{CASES[name].title}. Goal: {CASES[name].goal}.\n\n"
            f"{facts['date']}, {facts['rounds']} rounds. {facts['machine']}; {versions}."
        )
        head, _, rest = shown(name, result).partition("\n\n")
        parts.append(f"{head}\n\n{about}\n\n{rest}")
    return "\n".join(parts)


def _result(kept: dict[str, Any]) -> Result:
    return Result(
        [Row(**row) for row in kept["rows"]],
        [Goal(**goal) for goal in kept["goals"]],
        kept["notes"],
        [Curve(**curve) for curve in kept["curves"]],
    )


def _table(rows: list[Row]) -> str:
    moved = any(row.size for row in rows)
    extras = list(dict.fromkeys(name for row in rows for name in row.extra))
    heads = ["", "wall, s", *(["MB/s", "CPU-s/GB"] if moved else ["CPU-s"]), "peak RSS, MiB", *extras]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        cells = [row.name, _spread(row.wall)]
        if moved:
            cells += [
                _spread(row.size / wall / 1e6 for wall in row.wall),
                _spread(cpu / (row.size / 1e9) for cpu in row.cpu),
            ]
        else:
            cells.append(_spread(row.cpu))
        cells.append(_spread(rss / 2**20 for rss in row.rss))
        cells += [_spread(row.extra[name]) if row.extra.get(name) else "-" for name in extras]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _spread(figures: Any) -> str:
    known = [float(figure) for figure in figures]
    spread = Spread.of(known)
    middle = _figure(spread.median)
    return middle if len(known) == 1 else f"{middle} ({_figure(spread.least)}-{_figure(spread.most)})"


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _goal(goal: Goal) -> str:
    verdict = "met" if goal.met else "**not met**"
    sign = "≥" if goal.at_least else "≤"
    unit = goal.unit if goal.unit in ("x", "%") else f" {goal.unit}"
    return f"- {goal.claim}: {goal.value:.2f}{unit} (goal {sign} {goal.limit:g}{unit}): {verdict}"


def _machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {kernel}, Python {platform.python_version()}"


# Pictures

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 50
_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700")


def picture(curve: Curve) -> str:
    """The curve as SVG: axes from zero, every point marked and labelled."""
    points = [point for line in curve.lines.values() for point in line]
    across = _scale(max(x for x, _ in points), _LEFT, _WIDTH - _RIGHT)
    up = _scale(max(y for _, y in points) * 1.15, _HEIGHT - _BOTTOM, _TOP)
    middle_x, middle_y = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_WIDTH / 2}" y="22" text-anchor="middle" font-size="15">{curve.title}</text>',
        f'<path d="M{_LEFT} {_TOP} V{_HEIGHT - _BOTTOM} H{_WIDTH - _RIGHT}" fill="none" stroke="#57606a"/>',
        f'<text x="{middle_x}" y="{_HEIGHT - 10}" text-anchor="middle">{curve.x}</text>',
        f'<text transform="translate(18 {middle_y}) rotate(-90)" text-anchor="middle">{curve.y}</text>',
    ]
    for x in sorted({x for x, _ in points}):
        parts.append(f'<text x="{across(x):.0f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
    for number, (name, line) in enumerate(curve.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [_mark(across(x), up(y), y, colour) for x, y in line]
        parts.append(f'<text x="{_LEFT + 12}" y="{_TOP + 14 + 16 * number}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _mark(x: float, y: float, value: float, colour: str) -> str:
    label = f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle" fill="{colour}">{_figure(value)}</text>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>{label}'


def _scale(most: float, low: float, high: float) -> Callable[[float], float]:
    return lambda value: low + (high - low) * value / (most or 1.0)
