"""Generate `docs/reference/` from the program itself: `make docs`.

Each page takes its facts from the module that acts on them. Only words that no module needs are here: the meaning of a
state, a metric's family or a problem's subject. A state or subject without words is a `KeyError`, so that none is forgotten.
`tests/docs/test_docs.py` compares the pages with the output of this module.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from axomsync import config
from axomsync.cli import cli
from axomsync.config import Key, Reload
from axomsync.core import states
from axomsync.core.errors import EXIT_CODES
from axomsync.core.records import ModelState, Published, UploadState
from axomsync.ops.metrics import AgentCollector
from axomsync.runtime.problems import SUBJECTS
from axomsync.runtime.ring import Ring

FOLDER = Path(__file__).parent / "reference"
S = TypeVar("S", UploadState, ModelState)
NOTE = "<!-- `make docs` writes this page. Change docs/generate.py, or the module that it describes. -->"

_FORMS = (
    (config.Duration, "duration"),
    (config.OptionalDuration, 'duration, or ""'),
    (config.Size, "size"),
    (config.OptionalSize, 'size, or ""'),
    (config.Connections, 'number from 1 to 256, or "auto"'),
    (config.Promote, '"now", "manual", or list of windows'),
    (config.Bandwidth, "rate, or list of times with a rate"),
    (config.Folder, "absolute path"),
    (config.OptionalFile, 'absolute path, or ""'),
    (config.Mode, "rights in octal"),
    (config.Group, 'group, or ""'),
    (config.Globs, "list of globs"),
    (config.Command, "list of texts"),
    (config.Switch, "true or false"),
)

# Meaning, remedy.
UPLOAD_STATES: Mapping[UploadState, tuple[str, str]] = {
    UploadState.SETTLING: (
        "The file still changes, or a program has it open for writing.",
        "Nothing. Stop that program if it never closes the file.",
    ),
    UploadState.CHECKING: ("The agent reads the file and checks each line.", "Nothing."),
    UploadState.QUEUED: (
        "The file is valid and waits for its turn, for a next try, or for another agent with the same content.",
        "Nothing.",
    ),
    UploadState.UPLOADING: ("The agent sends the file to storage.", "Nothing."),
    UploadState.UPLOADED: ("Storage has confirmed the file.", "Nothing. The receipt has `upload_id` and `key`."),
    UploadState.REJECTED: (
        "The file is no JSONL dataset, has another shape than `[drop] schema` asks for, or a gate said no.",
        "Read `<file>.reason.txt` in `rejected/`, correct the file, move it back.",
    ),
    UploadState.DUPLICATE: (
        'The same content was uploaded before (with `dedupe = "name"`: under this name).',
        "Nothing. The receipt names the first upload. To send it again: `axomsync forget PATH`, then drop the file again.",
    ),
    UploadState.HELD: (
        "The file is larger than one PUT may be (`[drop] max_put`), or what a compressed file "
        "holds has no room in the state folder.",
        'Read the reason. Set `[drop] shard = "4GiB"`, or split the file at line ends. With more room it is tried again.',
    ),
    UploadState.FAILED: ("The console or storage refused it for good.", "Read the reason: it has their words."),
}
MODEL_STATES: Mapping[ModelState, tuple[str, str]] = {
    ModelState.WAITING: ("The model is not ready in the console.", "Nothing."),
    ModelState.IGNORED: (
        "The selection leaves the model out, or `[mirror] keep` has newer versions.",
        "Nothing, or `axomsync pull MODEL`.",
    ),
    ModelState.QUEUED: ("The model waits for its turn or for a next try.", "Nothing."),
    ModelState.DOWNLOADING: ("The agent fetches segments.", "Nothing."),
    ModelState.VERIFYING: ("The agent compares checksums and checks file formats.", "Nothing."),
    ModelState.PUBLISHED: ("The model is complete, verified and under its path.", "Use it."),
    ModelState.BLOCKED: (
        "The disk has no room, a manifest or a file can't be trusted, or a gate said no.",
        "Read the reason: it names the cause, and the missing bytes. The agent tries again by itself.",
    ),
    ModelState.FAILED: (
        "An unexpected error happened.",
        "Read the log. The agent tries again within the hour.",
    ),
    ModelState.GONE: (
        "The console no longer lists the model.",
        "Nothing. A published model stays. Parts of an unpublished one are removed after a day.",
    ),
    ModelState.PRUNED: (
        "Retention removed the model. The reason names the rule.",
        "Nothing, or `axomsync pull MODEL`.",
    ),
}
SUBJECT_WORDS: Mapping[str, str] = {
    "agent": "A worker makes no progress, or met a bug.",
    "configuration": "A reload brought a bad configuration. The agent goes on with the old one.",
    "console": "The console does not answer, gives invalid answers, or refuses the key.",
    "drop archive": "A bug in the removal of archived files.",
    "drop folder": "A part of the drop folder can't be read or written.",
    "drop folder's filesystem": "The filesystem that held the files is not mounted, or does not answer.",
    "gateways": "A gateway fails, or gave wrong bytes; the next one, then storage, is asked instead.",
    "hooks": "Hooks can't be run at all.",
    "ledger": "The ledger can't be read or written.",
    "list of models": "Entries of the console's list lack documented fields.",
    "mirror folder": "The mirror folder can't be read or written.",
    "mirror folder's filesystem": "The filesystem of the mirror folder does not answer.",
    "promotion": "A `current` can't be read or moved.",
    "reload": "A part of the agent does not follow a reload, pause or resume yet, as its old work has not ended.",
    "rights of models": "Published files can't get the group or mode that `[mirror]` asks for.",
    "state folder's filesystem": "The filesystem of the state folder does not answer.",
    "status page": "The status page can't listen, or its token can't be read.",
    "steering": "The agent can't read the requests of commands.",
    "upkeep": "Published models can't be read again.",
    "views": "A view can't be kept, or holds something that the agent did not put there.",
    "watching the drop folder": "The kernel sends no events. The folder is still scanned every `[drop] rescan`.",
}


def pages() -> dict[str, str]:
    """Text of every page of the reference, by file name."""
    made = {
        "configuration.md": _configuration(),
        "commands.md": _commands(),
        "exit-codes.md": _exit_codes(),
        "states.md": _states(),
        "problems.md": _problems(),
        "metrics.md": _metrics(),
    }
    titles = {name: text.partition("\n")[0].removeprefix("# ") for name, text in made.items()}
    made["index.md"] = _page(
        "Reference",
        "The program generates these pages.",
        "\n".join(f"- [{title}]({name})" for name, title in titles.items()),
    )
    return {name: f"{text}\n{NOTE}\n" for name, text in made.items()}


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", *parts]) + "\n"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


# Configuration


def _configuration() -> str:
    parts = [
        "The file is TOML; [config.example.toml](../../config.example.toml) has every key with its default. "
        "`axomsync config check` reports every error at once, `axomsync config show` the origin of each value. "
        'Durations are written `"90s"`, `"5m"`, `"2h"`; sizes `"64MiB"`, `"5GB"`; rates `"100MB/s"`.',
        "An environment variable overrides a key. The API key is not in the file: it comes from `$AXOM_KEY`, else from "
        "`[console] key_file`, else from the systemd credential `axom_key`. It is never an argument.",
        "The last column is the effect of a reload (`systemctl reload axomsync`) on a changed key: "
        f"`{Reload.AT_ONCE}`: no transfer is interrupted; `{Reload.TRANSFERS}`: from their durable bytes; "
        f"`{Reload.RESTART}`: the reload fails, and the old configuration stays.",
    ]
    for section, keys in config.reference().items():
        rows = (
            (
                f"`{key.name}`",
                _form(key),
                f"`{config.as_toml(key.default)}`",
                f"`{config.ENVIRONMENT_PREFIX}{section.upper()}__{key.name.upper()}`",
                key.why,
                key.reload,
            )
            for key in keys
        )
        parts += [f"## [{section}]", _table(("key", "type", "default", "environment", "meaning", "a reload"), rows)]
    return _page("Configuration keys", *parts)


def _form(key: Key) -> str:
    """The type of a key in words, with its bounds."""
    declared = get_type_hints(config.Settings.model_fields[key.section].annotation, include_extras=True)
    hint = declared.get(key.name, declared.get(f"{key.name}_"))
    if get_origin(hint) is Literal:
        return " · ".join(f'`"{choice}"`' for choice in get_args(hint))
    bounds = "".join(_bound(constraint) for constraint in key.field.metadata)
    for form, words in _FORMS:
        if hint == form:
            return words + bounds
    if key.field.annotation is int:
        return f"whole number{bounds}"
    return "list of texts" if isinstance(key.default, list) else "text"


def _bound(constraint: object) -> str:
    for attribute, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most")):
        if (bound := getattr(constraint, attribute, None)) is not None:
            return f", {words} {bound}"
    return ""


# Commands


def verbs(group: click.Group = cli, words: tuple[str, ...] = ("axomsync",)) -> Iterator[tuple[str, click.Command]]:
    """Every verb of the program with its whole name, in the order of `--help`."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, (*words, name))
        elif not command.hidden:
            yield " ".join((*words, name)), command


def _commands() -> str:
    rows = ((f"[`{name}`](#{_anchor(name)})", _sentence(command)) for name, command in verbs())
    return _page(
        "Commands",
        "`--config FILE` names the configuration. Without it the program takes `$AXOMSYNC_CONFIG`, "
        "`/etc/axomsync/config.toml`, or `~/.config/axomsync/config.toml`. `--json` prints facts as JSON. Both may stand "
        f"before the command too. All commands take `--config` except {_without('--config')}; all take `--json` except "
        f"{_without('--json')}. All have the same [exit codes](exit-codes.md).",
        _table(("command", "does"), rows),
        *(_command(name, command) for name, command in verbs()),
    )


def _without(option: str) -> str:
    """Commands without a general option."""
    return ", ".join(f"`{name}`" for name, command in verbs() if not any(option in known.opts for known in command.params))


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    text = "\n\n".join(_one_line(part) for part in (command.help or "").replace("\b", "").split("\n\n"))
    records = [p.get_help_record(context) for p in command.params if isinstance(p, click.Option)]
    options = [(f"`{option}`", _one_line(words)) for option, words in filter(None, records)]
    parts = [f"## {name}", f"```text\n{usage}\n```", text]
    if options:
        parts.append(_table(("option", "does"), options))
    return "\n\n".join(parts)


def _sentence(command: click.Command) -> str:
    return _one_line((command.help or "").partition("\n\n")[0])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


# Exit codes, states, problems


def _exit_codes() -> str:
    rows = ((f"`{code}`", words) for code, words in EXIT_CODES.items())
    return _page(
        "Exit codes",
        _table(("code", "meaning"), rows),
        "`axomsync run` does not end by itself, except with 75 when its ledger was removed, and for the reasons of 3 and "
        "78: a signal that stops it cleanly gives 0. `axomsync sync` also ends with 75 when a part of a folder can't be "
        "read, since its content is unknown, and with 1 when a published model is not served as asked: a view can't follow, "
        "something else is in the place of `current`, or group and mode of `[mirror]` can't be given. "
        "After 78 systemd does not start the agent again.",
    )


def _states() -> str:
    return _page(
        "States",
        "The same words are in `--json`, the ledger, the page and the metrics. `axomsync explain TARGET` explains the "
        "state of a file or model. The ledger refuses any other change of state than those listed here.",
        "## Uploads",
        _state_table(UPLOAD_STATES, states.UPLOAD_TRANSITIONS),
        "## Models",
        _state_table(MODEL_STATES, states.MODEL_TRANSITIONS),
    )


def _state_table(words: Mapping[S, tuple[str, str]], transitions: Mapping[S, frozenset[S]]) -> str:
    rows = []
    for state, may_become in transitions.items():
        after = " ".join(f"`{other}`" for other in transitions if other in may_become and other is not state)
        meaning, advice = words[state]
        rows.append((f"`{state}`", meaning, advice, after or "nothing: it is final"))
    return _table(("state", "meaning", "what to do", "may become"), rows)


def _problems() -> str:
    rows = [(f"`{subject}`", SUBJECT_WORDS[subject]) for subject in SUBJECTS]
    return _page(
        "Subjects of problems",
        "`axomsync status` lists problems: subject, reason, since when, next try. These subjects are parts of the agent, "
        "and label values of `axomsync_problem`. Other subjects are single files, models and hooks "
        "(`hook model_published`), and versions that failed their health check (`health of NAME/VERSION`).",
        _table(("subject", "meaning"), rows),
    )


# Metrics


def _metrics() -> str:
    rows = []
    for family in _collector().collect():
        labels: dict[str, list[str]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                labels.setdefault(label, []).append(value)
        suffix = "_total" if family.type == "counter" else ""
        told = " · ".join(map(_label, labels, labels.values()))
        rows.append((f"`{family.name}{suffix}`", family.type, told, family.documentation))
    return _page(
        "Metrics",
        "`GET /metrics` at `[web] listen`, in Prometheus' text format. Every series exists from the start, at zero. "
        "There are also `process_*` and `python_info`. [alerts.yml](../alerts.yml) has alert rules, "
        "[grafana-dashboard.json](../grafana-dashboard.json) a dashboard of one box, "
        "[grafana-fleet.json](../grafana-fleet.json) one of all boxes.",
        _table(("metric", "type", "labels", "meaning"), rows),
    )


def _label(name: str, values: list[str]) -> str:
    if name in ("name", "version", "id", "digest"):
        return f"`{name}`"
    if name == "current":
        return "`current`: true, false"
    if name == "gateway":
        return "`gateway`: each of `[transfer] gateways`"
    if name == "state":
        return "`state`: a [state](states.md)"
    if name == "subject":
        return "`subject`: a [subject](problems.md)"
    return f"`{name}`: {', '.join(dict.fromkeys(values))}"


def _collector() -> AgentCollector:
    """The collector of an agent that has done nothing yet."""
    status: Mapping[str, Any] = {
        "agent": {"since": None, "paused": False},
        "console": {"ok": None, "last_poll": None},
        "drop": {"last_success": None, "counts": dict.fromkeys(UploadState, 0), "left_alone": []},
        "mirror": {"last_success": None, "counts": dict.fromkeys(ModelState, 0)},
        "transfers": [],
        "problems": [],
    }
    return AgentCollector(
        status=lambda: status,
        hanging=list,
        moved=lambda: {"up": 0, "down": 0},
        transitions=Counter(),
        folders=lambda: {"drop": 0, "mirror": 0, "state": 0},
        problems=list,
        ring=Ring(["http://box1:9080"]),
        published=lambda: [Published("", "", "", "", None)],
    )


def main() -> None:
    """Write the pages, and remove obsolete ones."""
    made = pages()
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    example = FOLDER.parents[1] / "config.example.toml"
    example.write_text(config.example(), encoding="utf-8")
    print(f"{len(made)} pages in {FOLDER}, and {example.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
