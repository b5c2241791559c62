"""Text that shows JSON documents to people: tables and colour on a terminal, plain aligned text in a pipe."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from axomsync.core.text import printable
from axomsync.drop.repeats import repeated_words
from axomsync.drop.shapes import shape_warning, shape_words

GOOD = frozenset({"uploaded", "published", "ready", "whole", "repaired", "ok", "imported", "running"})
BAD = frozenset({"rejected", "failed", "blocked", "held", "damaged", "fail", "refused"})
DRAWN_ROWS = 1000  # that rich draws in a moment
_DISK_WORDS = {"missing": "  (missing)", "silent": "  (does not answer)", "off": "  (off)"}


def size(count: float | None) -> str:
    """Bytes in decimal units: `91.2 MB`."""
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `1h 05m`."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s" if minutes else f"{rest}s"


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # `main` knows what to do; rich would end the process with 1


def screen() -> Console:
    """Return the rich console that writes to standard output; without a terminal it wraps no line."""
    return _Screen(highlight=False) if sys.stdout.isatty() else _Screen(width=10_000, highlight=False)


class Listing:
    """Rows under column heads, which rich draws for a terminal; cells that are states get their colour there."""

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self.columns, self.rows = columns, [[_words(cell) for cell in row] for row in rows]

    def __rich__(self) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold")
        for column in self.columns:
            made.add_column(column, overflow="fold")
        for row in self.rows:
            made.add_row(*(Text(text, style=_colour(text)) for text in row))
        return made

    def plain(self) -> str:
        """Return the rows as text without wrapped lines: rich takes a minute for a hundred thousand rows."""
        lines = [tuple(self.columns), *map(tuple, self.rows)]
        widths = [max(map(cell_len if _is_wide(column) else len, column)) for column in zip(*lines, strict=True)]
        form = "  ".join(f"%-{width}s" for width in widths)
        return "".join((_aligned(line, widths) if _is_wide(line) else form % line).rstrip() + "\n" for line in lines)


def _is_wide(texts: Iterable[str]) -> bool:
    """Return True if a terminal may need more or fewer cells for a text than it has characters."""
    return not all(map(str.isascii, texts))


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Listing:
    """Rows under column heads."""
    return Listing(columns, rows)


def show(listing: Listing) -> None:
    """Print a list: drawn by rich on a terminal if it is short enough to be looked at there, else as plain text."""
    if sys.stdout.isatty() and len(listing.rows) <= DRAWN_ROWS:
        screen().print(listing)
    else:
        sys.stdout.write(listing.plain())


def _words(cell: Any) -> str:
    return "-" if cell is None else printable(str(cell))  # names come from elsewhere, with escape sequences perhaps


def _colour(text: str) -> str:
    return "green" if text in GOOD else "red" if text in BAD else ""


def uploads(documents: Sequence[dict[str, Any]]) -> Listing:
    """Rows of `axomsync uploads`: by sub-folder, since each sub-folder will be one dataset."""
    return table(
        ("STATE", "PATH", "SIZE", "LINES", "UPLOAD ID", "KEY", "REASON"),
        (
            (
                d["state"],
                d["path"],
                size(d["bytes"]),
                d["lines"],
                *_ids(d),
                d["reason"] or repeated_words(d["repeated_lines"], d["lines"]) or "",
            )
            for d in sorted(documents, key=lambda d: d["folder"])
        ),
    )


def _ids(document: dict[str, Any]) -> tuple[str | None, str | None]:
    if not document["shards"]:
        return document["upload_id"], document["key"]
    return f"{len(document['shards'])} shards", "see --csv"


def models(documents: Sequence[dict[str, Any]]) -> Listing:
    """Rows of `axomsync models`."""
    return table(
        ("STATE", "NAME", "VERSION", "CONSOLE", "SIZE", "PATH", "FILES", "REASON"),
        (
            (
                d["state"], d["name"], d["version"], d["remote_status"], size(d["bytes_total"]), d["path"],
                _files_words(d) or None, d["reason"] or "",
            )
            for d in documents
        ),
    )  # fmt: skip


def _files_words(document: dict[str, Any]) -> str:
    """Return words such as `3 proven; 1.2 GB from gateways`."""
    came = document["bytes_from_gateways"]
    words = [_counts(document["proofs"])] if document["proofs"] else []
    return "; ".join([*words, f"{size(came)} from gateways"] if came else words)


def findings(documents: Iterable[dict[str, Any]]) -> Listing:
    """Rows of `axomsync doctor`."""
    return table(("", "WHAT", "FOUND", "FIX"), ((d["verdict"], d["subject"], d["found"], d["fix"]) for d in documents))


def explanation(document: dict[str, Any]) -> list[Text]:
    """Lines of `axomsync explain`, for one file or model."""
    facts = document["facts"]
    lines = [f"{document['name']}: {document['state']}: it {document['means']}"]
    lines += [f"  why: {document['reason']}"] * bool(document["reason"])
    lines += [f"  to have it uploaded: {facts.get('fix')}"] * bool(facts.get("fix"))
    repeated = repeated_words(facts["repeated_lines"], facts["lines"]) if document["kind"] == "upload" else None
    lines += [f"  warning: {repeated}"] * bool(repeated)
    lines += _shape(facts.get("shape"))
    lines += [f"  kept by: {obstacle}" for obstacle in document["keeps"]]
    lines += [f"  next try: {document['next_attempt']}"] * bool(document["next_attempt"])
    known = ("id", "path", "bytes", "bytes_done", "bytes_total", "sha256", "upload_id", "key", "remote_status")
    lines += [f"  {name}: {facts[name]}" for name in known if facts.get(name) is not None]
    if (packed := facts.get("packed")) is not None:
        lines.append(f"  packed: {packed['kind']}, {packed['bytes']} bytes, sha256 {packed['sha256']}")
    lines += _proofs(facts.get("files", []))
    return [Text(printable(line)) for line in lines]


def checked(document: dict[str, Any]) -> list[Text]:
    """Lines of `axomsync check`, for one file."""
    if document["good"]:
        state = f"good, {document['lines']:,} line{'s' * (document['lines'] != 1)}"
    else:
        state = f"would be rejected, {document['problems_total']:,} problem{'s' * (document['problems_total'] != 1)}"
    lines = [f"{document['path']}: {state}"]
    if document["shape"] is not None:
        lines.append(f"  shape: {shape_words(document['shape'])}")
        lines += _remarks(document["shape"]["findings"], document["shape"]["findings_total"])
    repeated = repeated_words(document["repeated_lines"], document["lines"])
    lines += [f"  warning: {repeated}"] * bool(repeated)
    lines += _remarks(document["problems"], document["problems_total"])
    return [Text(printable(line)) for line in lines]


def _remarks(remarks: Sequence[dict[str, Any]], total: int) -> list[str]:
    lines = []
    for each in remarks:
        place = f"line {each['line']}" * bool(each["line"]) + f", column {each['column']}" * bool(each["column"])
        lines.append(f"  {place}: {each['reason']}" if place else f"  {each['reason']}")
    return lines + [f"  … and {total - len(remarks):,} more"] * (total > len(remarks))


def _shape(document: dict[str, Any] | None) -> list[str]:
    """Return the shape of a dataset, and the first thing that is odd about it."""
    if document is None:
        return []
    odd = shape_warning(document)
    return [f"  shape: {shape_words(document)}", *([f"  warning: {odd}"] if odd else [])]


def _proofs(files: Sequence[dict[str, Any]]) -> list[str]:
    """Return how far a model's files are proven, and each file with less proof than storage's own checksum."""
    lesser = [f"    {file['rel']}: {file['proof']}" for file in files if file["proof"] != "proven"]
    return [f"  files: {_proof_counts(files)}"] * bool(files) + lesser


def _proof_counts(files: Sequence[dict[str, Any]]) -> str:
    """Return counts such as `12 proven, 1 size only`."""
    return _counts(Counter(sorted(file["proof"] for file in files)))


def status(document: dict[str, Any]) -> list[Any]:
    """Parts of the screen of `axomsync status`."""
    agent, console, drop, mirror = (document[part] for part in ("agent", "console", "drop", "mirror"))
    running = f"running (pid {agent['pid']}) since {agent['since']}" if agent["running"] else "not running"
    if agent["paused"]:
        running += f", paused until {agent['paused_until'] or '`axomsync resume`'}"
    facts = Table(box=None, show_header=False, pad_edge=False)
    name = f" ({document['instance']})" if document["instance"] else ""
    facts.add_row("agent", f"axomsync {document['version']}{name}, {running}")
    facts.add_row("console", Text(printable(f"{console['url']}  {_reached(console, running=agent['running'])}")))
    orphans = f", {drop['orphans']} orphans in storage" * bool(drop["orphans"])
    watched = f"  ({drop['observer']})" * bool(drop["observer"])
    without = _DISK_WORDS.get(drop["disk"], "")
    facts.add_row("drop", Text(printable(f"{drop['folder']}  {_counts(drop['counts'])}{orphans}{watched}{without}")))
    if held := [_held_words(name, amount) for name, amount in drop["put_away"].items() if amount["files"]]:
        facts.add_row("", Text("; ".join(held)))
    for left in drop["left_alone"]:
        facts.add_row("", Text(_left_alone_words(left)))
    free = f"  {size(mirror['free_bytes'])} free" if mirror["disk"] == "ok" else _DISK_WORDS[mirror["disk"]]
    facts.add_row("mirror", Text(printable(f"{mirror['folder']}  {_counts(mirror['counts'])}{free}")))
    for line in (*map(waiting_words, mirror["waiting"]), *map(_trial_words, mirror["trials"])):
        facts.add_row("", Text(line))
    if mirror["gateways"]:
        facts.add_row("gateways", Text(_gateways_words(mirror["gateways"])))
    parts: list[Any] = [facts]
    if document["transfers"]:
        rows = ((_arrow(t), t["name"], _share(t), size(t["rate"]) + "/s", duration(t["eta"])) for t in document["transfers"])
        parts += ["", table(("", "TRANSFER", "DONE", "RATE", "LEFT"), rows)]
    if document["problems"]:
        parts += ["", Text("PROBLEMS", style="bold"), *map(_problem, document["problems"])]
    return parts


def agents(documents: Iterable[dict[str, Any]]) -> Listing:
    """Rows of `axomsync status --all`: a line for each agent."""
    columns = ("INSTANCE", "AGENT", "CONSOLE", "DROP", "MIRROR", "PAGE", "PROBLEMS")
    return table(columns, map(_agent_row, documents))


def _agent_row(d: dict[str, Any]) -> Sequence[Any]:
    name = d["instance"] or "(without a name)"
    if d["error"] is not None:
        return (name, "unknown", None, None, None, None, d["error"])
    agent, console = d["agent"], d["console"]
    state = "paused" if agent["paused"] else "running" if agent["running"] else "not running"
    counts = (_counts(d[part]["counts"]) for part in ("drop", "mirror"))
    reached = {None: "not asked yet", True: "ok", False: "trouble"}[console["ok"]]
    return (name, state, reached, *counts, agent["page"], len(d["problems"]))


def waiting_words(row: dict[str, Any]) -> str:
    """Return words such as `bot/v2 waits until 2026-11-28T01:00:00+00:00`."""
    name = printable(row["name"])
    until = f"until {row['until']}" if row["until"] else f"for `axomsync promote {name}`"
    return f"{name}/{printable(row['version'])} waits {until}"


def _gateways_words(gateways: Sequence[dict[str, Any]]) -> str:
    """Return words such as `31 of 32 are asked, not http://box7:9080`; PROBLEMS has the reasons."""
    down = [printable(one["gateway"]) for one in gateways if one["up"] is False]
    if all(one["up"] is None for one in gateways):
        return f"{len(gateways)} configured"
    left_out = f", not {', '.join(down[:3])}{' and others' * (len(down) > 3)}" if down else ""
    return f"{len(gateways) - len(down)} of {len(gateways)} are asked{left_out}"


def _trial_words(row: dict[str, Any]) -> str:
    """Return words such as `bot/v2 on trial until 2026-11-28T01:05:00+00:00, else back to v1; not ready yet`."""
    words = f"{row['name']}/{row['version']} on trial" + (f" until {row['until']}" if row["until"] else "")
    words += f", else back to {row['previous']}" if row["previous"] else ""
    return printable(words + (f"; {row['reason']}" if row["reason"] else ""))


def _reached(console: dict[str, Any], *, running: bool) -> str:
    """Return the state of the console: as it is when an agent runs, else as the last agent found it."""
    if console["ok"] is None:
        return "not asked yet"
    if console["ok"] and not console["last_poll"]:  # an agent that only uploads never polls
        return "reachable" if running else "answered the last agent"
    answered = f"answered last at {console['last_poll']}" if console["last_poll"] else "never answered so far"
    if running:
        return f"reachable, {answered}" if console["ok"] else f"trouble: {console['error']}, {answered}"
    return answered if console["ok"] else f"{answered}; trouble when the agent ended: {console['error']}"


def steps(texts: Sequence[str]) -> list[Any]:
    """Next steps, below a list."""
    return ["", *(Text(printable(text)) for text in texts)] if texts else []


def _held_words(name: str, amount: dict[str, int]) -> str:
    """Return words such as `uploaded/ holds 12 files, 3.4 GB`."""
    return f"{name}/ holds {amount['files']} file{'s' * (amount['files'] > 1)}, {size(amount['bytes'])}"


def _left_alone_words(left: dict[str, Any]) -> str:
    """Return words such as `2 files left alone (symlink): a.jsonl, b.jsonl; copy or move the file itself here`."""
    from axomsync.drop.rules import amount

    folders = left.get("folders", 0)  # an older version did not tell
    named = ", ".join(left["examples"]) + ", …" * (left["files"] + folders > len(left["examples"]))
    return printable(f"{amount(left['files'], folders)} left alone ({left['rule']}): {named}; {left['fix']}")


def _problem(problem: dict[str, Any]) -> Group:
    """Return a block and no row: a reason squeezed into a column can't be read on a narrow terminal."""
    times = f"since {problem['since']}" + f", next try {problem['next_attempt']}" * bool(problem["next_attempt"])
    lines = (problem["reason"], times)
    subject = Text(printable(problem["subject"]), style="red")
    return Group(subject, *(Padding(Text(printable(line)), (0, 0, 0, 2), expand=False) for line in lines))


def fitting(parts: Sequence[Any], on: Console) -> Group:
    """Return the lines of `parts` that fit a terminal, and a sign when there are more."""
    lines = on.render_lines(Group(*parts), pad=False)
    room = on.height - 1
    shown = [Text.assemble(*((segment.text, segment.style or "") for segment in line)) for line in lines]
    if len(shown) <= room:
        return Group(*shown)
    more = len(shown) - room + 1
    return Group(*shown[: room - 1], Text(f"… {more} more lines: axomsync status", style="bold"))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "nothing yet"


def _arrow(transfer: dict[str, Any]) -> str:
    return "up" if transfer["direction"] == "up" else "down"


def _share(transfer: dict[str, Any]) -> str:
    total = transfer["bytes_total"] or 1
    return (
        f"{size(transfer['bytes_received'])} of {size(transfer['bytes_total'])} ({transfer['bytes_received'] / total:.0%})"
    )


def verified(documents: Iterable[dict[str, Any]]) -> Listing:
    """Rows of `axomsync verify`: a line for each model, and one for each file that is damaged."""
    rows = []
    for d in documents:
        state = "damaged" if d["damage"] else "repaired" if d["repaired"] else "whole"
        rows.append((f"{d['name']}/{d['version']}", state, size(d["bytes"]), _proof_counts(d["files"])))
        rows += [("", "", "", damage) for damage in d["damage"]]
    return table(("MODEL", "BYTES ARE", "SIZE", "FILES"), rows)


def arrivals(documents: Iterable[dict[str, Any]]) -> Listing:
    """Rows of `axomsync import`: a line for each model, and for each folder that could not be read."""
    rows = []
    for d in documents:
        model = d["source"] if d["name"] is None else f"{d['name']}/{d['version']}"
        rows.append((model, d["outcome"], size(d["bytes"]), d["reason"] or d["path"] or ""))
    return table(("MODEL", "OUTCOME", "SIZE", "PATH OR REASON"), rows)
