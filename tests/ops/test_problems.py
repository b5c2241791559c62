"""What goes wrong, and what the person on call is told: one line with what, where and what to do, the same everywhere.

Each row of the two tables is provoked for real. Its line must be in the log, once, however often it is met again; in
`status`; in what `explain` says of the file or the model; and on the page.
"""

import json
import re
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from axomsync import config
from axomsync.cli import tables
from axomsync.config import Settings
from axomsync.ledger import Reader
from axomsync.status.explain import explain
from axomsync.status.report import status_document
from axomsync.status.targets import find
from tests.rig.agent import AgentProcess, Config, eventually
from tests.rig.faults import EXPIRED, FOREVER, KEY, Content, Fault, FaultyServer, StoredObject, json_answer, s3_error
from tests.rig.tls import Authority, TlsFront

GOOD = b'{"text": "a"}\n'
MANY = 8  # polls, of half a second each, during which nothing is told twice


@dataclass(frozen=True)
class Item:
    """A file or a model that can't get on. `told` are the parts of its line in their order: what, where and the fix.

    `again`: nothing need be done, it is tried again soon.
    """

    told: tuple[str, ...]
    again: bool = field(default=False, kw_only=True)
    content: bytes = GOOD  # of the file that is dropped
    files: Mapping[str, Content] | None = None  # of the model that is listed
    provoke: Callable[[FaultyServer, str, str], object] = lambda server, name, model_id: None


def presign(fault: Fault) -> Callable[[FaultyServer, str, str], object]:
    return lambda server, name, _: server.inject(
        fault, "/uploads/presign", method="POST", where=lambda r: name.encode() in r.body, times=FOREVER
    )


def put(fault: Fault) -> Callable[[FaultyServer, str, str], object]:
    return lambda server, name, _: server.inject(fault, f"/{name}", method="PUT", times=FOREVER)


def busy(server: FaultyServer, name: str, _: str) -> None:
    for number in range(100):
        fault = s3_error(503, "SlowDown", "Reduce your rate", x_amz_request_id=f"R{number}")
        server.inject(fault, f"/{name}", method="PUT")


def manifest(fault: Fault) -> Callable[[FaultyServer, str, str], object]:
    return lambda server, _, model_id: server.inject(fault, f"/{model_id}/download", times=FOREVER)


def get(fault: Fault) -> Callable[[FaultyServer, str, str], object]:
    return lambda server, _, model_id: server.inject(fault, f"/bucket/{model_id}/", times=FOREVER)


def store(key: str, stored: StoredObject) -> Callable[[FaultyServer, str, str], object]:
    return lambda server, _, model_id: server.objects.update({f"{model_id}/{key}": stored})


def refusal(status: int, detail: str) -> Fault:
    return Fault(status, {"Content-Type": "application/json"}, json.dumps({"detail": detail}).encode())


W = {"w.bin": Content(1000)}
INDEX = json.dumps({"weight_map": {"t": "absent.safetensors"}}).encode()
HEADERS = "http://127.0.0.1/bucket/x?X-Amz-SignedHeaders=host;x-amz-acl"

ITEMS = {
    # Files that are no dataset
    "latin1.jsonl": Item(("line 2", "UTF-8", "rejected/"), b'{"a": 1}\n{"b": "\xe9"}\n'),
    "comma.jsonl": Item(("line 2", "column", "rejected/"), b'{"a": 1}\n{"b": }\n'),
    "list.jsonl": Item(("one JSON array", "one object a line", "rejected/"), b'[{"a": 1}]\n'),
    "cut.jsonl": Item(("line 2", "rejected/"), b'{"a": 1}\n{"b": '),
    "nothing.jsonl": Item(("empty", "rejected/"), b""),
    # Files that are not taken
    "large.jsonl": Item(("max_put", "[drop] shard"), GOOD * 100_000),
    "scope.jsonl": Item(("lacks the scope 'datasets'", "create a key"), provoke=presign(refusal(403, "no"))),
    "unwanted.jsonl": Item(("refuses it with 422", "reserved", "retry"), provoke=presign(refusal(422, "name is reserved"))),
    "method.jsonl": Item(
        ("wants POST for uploads", "this version knows PUT"),
        provoke=presign(json_answer({"upload_id": "u", "key": "k", "url": "http://127.0.0.1/x", "method": "POST"})),
    ),
    "headers.jsonl": Item(
        ("headers", "x-amz-acl"), provoke=presign(json_answer({"upload_id": "u", "key": "k", "url": HEADERS}))
    ),
    "denied.jsonl": Item(("127.0.0.1", "403", "new URLs too", "axomsync doctor"), provoke=put(EXPIRED), again=True),
    "huge.jsonl": Item(
        ("127.0.0.1", "400", "EntityTooLarge", "[drop] shard"), provoke=put(s3_error(400, "EntityTooLarge", "Too large"))
    ),
    "moved.jsonl": Item(
        ("301", "it redirects", "tell the operator"), provoke=put(Fault(301, {"Location": "http://127.0.0.1:1/"}))
    ),
    # Models whose manifest or whose bytes can't be had
    "climbs": Item(("../w", "publish the model again"), files={"../w": Content(1000)}),
    "twins": Item(
        ("W.bin", "publish the model again"), files={"w.bin": Content(1), "W.bin/x": Content(1), "W.bin": Content(1)}
    ),
    "closed": Item(("lacks the scope 'models'", "create a key"), files=W, provoke=manifest(refusal(403, "no"))),
    "shapeless": Item(
        ("documented form", "files", "whoever runs the console"), files=W, provoke=manifest(json_answer({"model_id": "x"}))
    ),
    "other": Item(
        ("manifest of another model", "tell whoever"),
        files=W,
        provoke=manifest(json_answer({"model_id": "x", "files": []})),
        again=True,
    ),
    "giant": Item(("more bytes must be free", "goes on by itself"), files={"w.bin": Content(1 << 50)}),
    "absent": Item(
        ("127.0.0.1", "404", "publish the model again"), files=W, provoke=get(s3_error(404, "NoSuchKey", "Not there"))
    ),
    "expired": Item(("127.0.0.1", "403", "new URLs too", "axomsync doctor"), files=W, provoke=get(EXPIRED), again=True),
    "elsewhere": Item(
        ("301", "it redirects", "tell the operator"), files=W, provoke=get(Fault(301, {"Location": "http://127.0.0.1:1/"}))
    ),
    "short": Item(
        ("10 bytes", "manifest says 1000", "publish the model again"),
        files=W,
        provoke=store("0", StoredObject(Content(10), '"x"')),
        again=True,
    ),
    # Models whose bytes can't be trusted
    "noise": Item(("model.safetensors", "header", "publish the model again"), files={"model.safetensors": Content(1000)}),
    "index": Item(
        ("m.safetensors.index.json", "'absent.safetensors'", "publish the model again"),
        files={"m.safetensors.index.json": Content(len(INDEX), head=INDEX)},
    ),
    "no-gguf": Item(("w.gguf", "GGUF", "publish the model again"), files={"w.gguf": Content(1000)}),
    "altered": Item(
        ("w.bin", "3 times in a row", "publish the model again", "[mirror] verify"),
        files=W,
        provoke=store("0", StoredObject(Content(1000, 5), Content(1000, 6).etag())),
    ),
    "in-the-way": Item(("not a plain folder", "move it away"), files=W),
    # What is tried for longest before it is told
    "busy.jsonl": Item(("127.0.0.1", "503", "SlowDown", "request R"), provoke=busy, again=True),
    "slow": Item(
        ("127.0.0.1", "500", "no bytes arrive", "still trying"),
        files=W,
        provoke=get(s3_error(500, "InternalError", "Oh")),
    ),
}


def is_model(item: Item) -> bool:
    return item.files is not None


def subject(name: str) -> str:
    return f"{name}/v1" if is_model(ITEMS[name]) else name


@dataclass
class Scene:
    """An agent that meets problems, and what it says of them in all places."""

    agent: AgentProcess
    server: FaultyServer
    opened: ExitStack
    settings: Settings  # as it was started: what is provoked may be a bad configuration

    def shown(self) -> dict[str, dict[str, Any]] | None:
        """What the page shows, by subject; None while it is not there, or moves to another port."""
        try:
            with urllib.request.urlopen(f"{self._ledger.facts()['page']}api/status") as answer:
                return {problem["subject"]: problem for problem in json.load(answer)["problems"]}
        except (OSError, ValueError):
            return None

    def problem(self, of: str) -> dict[str, Any] | None:
        """What the page shows, if the command line says the same."""
        problem = (self.shown() or {}).get(of)
        return problem if problem is not None and plain(problem["reason"]) in plain(self.screen()) else None

    def screen(self) -> str:
        """`axomsync status`."""
        return self._rendered(tables.status(status_document(self.settings, self._ledger)))

    def explained(self, name: str) -> str:
        """`axomsync explain`."""
        targets = find(self._ledger, name, self.agent.drop, self.agent.mirror)
        (document,) = explain(self._ledger, targets)
        return self._rendered(tables.explanation(document))

    def polls(self) -> int:
        return len(self.server.console_requests("/models"))

    @cached_property
    def _ledger(self) -> Reader:
        return Reader(self.agent.state / "state.db")

    @staticmethod
    def _rendered(parts: Iterable[Any]) -> str:
        screen = tables.screen()
        with screen.capture() as captured:
            for part in parts:
                screen.print(part)
        return captured.get()


@contextmanager
def scene(home: Path, server: FaultyServer, settings: Config) -> Iterator[Scene]:
    with (
        AgentProcess(home, server.url, KEY, {"web": {"listen": "127.0.0.1:0"}, **settings}) as agent,
        ExitStack() as opened,
    ):
        yield Scene(agent, server, opened, config.load(agent.config_file, agent.environ).settings)


def plain(text: str) -> str:
    """Without numbers: how many bytes are missing changes."""
    return re.sub(r"\d+", "#", text)


def told(log: str, of: str, reason: str) -> list[str]:
    return [line for line in log.splitlines() if f" {of}: " in line and plain(reason) in plain(line)]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All items at once, met several times."""
    home = tmp_path_factory.mktemp("items") / "box"
    with FaultyServer() as server, scene(home, server, {"drop": {"max_put": "1MiB"}}) as items:
        (items.agent.mirror / "in-the-way").write_text("a file")
        for name, item in ITEMS.items():
            model_id = "" if item.files is None else server.add_model(name, "v1", item.files, etag=name != "giant")
            item.provoke(server, name, model_id)
            if not is_model(item):
                (items.agent.drop / name).write_bytes(item.content)
        items.agent.start()
        yield items


@pytest.mark.parametrize("name", ITEMS)
def test_an_item_that_can_not_get_on_says_why_everywhere(items: Scene, name: str) -> None:
    problem = eventually("its line", lambda: items.problem(subject(name)))
    reason = problem["reason"]
    assert re.search(".*".join(map(re.escape, ITEMS[name].told)), reason), reason
    assert not ITEMS[name].again or problem["next_attempt"] is not None
    eventually("the same in explain", lambda: plain(reason) in plain(items.explained(name)))
    eventually("the same in the log", lambda: told(items.agent.log(), subject(name), reason))


def test_the_commands_as_people_run_them_say_the_same(items: Scene) -> None:
    lasting = {subject(name): name for name in ITEMS if name != "slow" and not ITEMS[name].again}
    problems = eventually("all lines", lambda: found if lasting.keys() <= (found := items.shown() or {}).keys() else None)
    reasons = {name: plain(problems[of]["reason"]) for of, name in lasting.items()}
    screen = plain(items.agent.call("status").stdout)
    assert [name for name, reason in reasons.items() if reason not in screen] == []
    for name in ("comma.jsonl", "unwanted.jsonl", "altered"):
        assert reasons[name] in plain(items.agent.call("explain", name).stdout)


def test_nothing_is_told_twice(items: Scene) -> None:
    polls = items.polls()
    eventually("more polls", lambda: items.polls() > polls + MANY)
    lines = Counter(plain(line)[9:] for line in items.agent.log().splitlines())
    assert [line for line, count in lines.items() if count > 1] == []


# What keeps the agent as a whole from its work


@dataclass(frozen=True)
class Whole:
    """As `Item`, for a problem of the agent. `mend` ends it."""

    subject: str
    told: tuple[str, ...]
    provoke: Callable[[Scene], object]
    mend: Callable[[Scene], object] = lambda scene: scene.server.heal()


def console(fault: Fault) -> Callable[[Scene], object]:
    return lambda scene: scene.server.inject(fault, "/api/models", times=FOREVER)


def overloaded(scene: Scene) -> None:
    for number in range(100):
        scene.server.inject(replace(refusal(503, "overloaded"), headers={"X-Request-Id": f"r-{number}"}), "/api/models")


def reload(settings: Config) -> Callable[[Scene], object]:
    def work(scene: Scene) -> None:
        scene.agent.configure({**WHOLE_SETTINGS, **settings})
        scene.agent.hangup()

    return work


def move(folder: str, there: str) -> Callable[[Scene], object]:
    return lambda scene: (scene.agent.home / folder).rename(scene.agent.home / there)


def publish(scene: Scene) -> None:
    scene.server.add_model(f"m-{len(scene.server.models)}", "v1", {"w": Content(10)})


def behind_a_strange_certificate(scene: Scene) -> None:
    authority = scene.agent.home / "authority"
    authority.mkdir()
    front = scene.opened.enter_context(TlsFront(Authority(authority, "localhost"), scene.server.address))
    reload({"console": {"url": f"https://127.0.0.1:{front.address[1]}/api"}})(scene)


def has_failed_again(scene: Scene, problem: dict[str, Any]) -> bool:
    """Where no poll reaches the server."""
    return ((scene.shown() or {}).get(problem["subject"]) or problem)["next_attempt"] != problem["next_attempt"]


WHOLE_SETTINGS: Config = {
    "web": {"listen": "127.0.0.1:0"},
    "drop": {"rescan": "1s"},
    "hooks": {"model_published": ["/bin/false"]},
}
HTML = Fault(200, {"Content-Type": "text/html"}, b"<html>log in</html>")
WHOLES = {
    "console in trouble": Whole("console", ("/api answered 503 (overloaded; request r-",), overloaded),
    "not the console": Whole("console", ("an HTML page", "is [console] url right?"), console(HTML)),
    "wrong path": Whole("console", ("does not know it", "is [console] url right?"), console(refusal(404, "no"))),
    "redirect": Whole("console", ("redirects elsewhere", "correct [console] url"), console(Fault(302, {"Location": "/x"}))),
    "scope read": Whole("console", ("lacks the scope 'read'", "create a key"), console(refusal(403, "no"))),
    "key refused": Whole("console", ("refuses the API key (revoked)", "create a new one"), console(refusal(401, "revoked"))),
    "nobody there": Whole(
        "console", ("127.0.0.1:9", "can't connect"), reload({"console": {"url": "http://127.0.0.1:9/api"}}), reload({})
    ),
    "certificate": Whole(
        "console", ("certificate is not trusted", "[console] ca_file"), behind_a_strange_certificate, reload({})
    ),
    "drop folder": Whole("drop folder", ("/drop", "does not exist", "create it"), move("drop", "d"), move("d", "drop")),
    "mirror folder": Whole(
        "mirror folder", ("/models", "does not exist", "create it"), move("models", "m"), move("m", "models")
    ),
    "configuration": Whole(
        "configuration", ("the old one stays", "[drop] settle", "soon"), reload({"drop": {"settle": "soon"}}), reload({})
    ),
    "hook": Whole(
        "hook model_published", ("/bin/false", "1"), publish, reload({"hooks": {"model_published": ["/bin/true"]}})
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A running agent to which one thing after the other happens."""
    with FaultyServer() as server, scene(tmp_path_factory.mktemp("whole") / "box", server, WHOLE_SETTINGS) as whole:
        whole.agent.start()
        yield whole


@pytest.mark.parametrize("name", WHOLES)
def test_what_keeps_the_agent_from_its_work_is_said_everywhere_and_once(whole: Scene, name: str) -> None:
    row, before = WHOLES[name], len(whole.agent.log())
    row.provoke(whole)
    try:
        problem = eventually("its line", lambda: whole.problem(row.subject))
        reason, polls = problem["reason"], whole.polls()
        whole.agent.call("poll")
        eventually("another poll", lambda: whole.polls() > polls or has_failed_again(whole, problem))
        assert re.search(".*".join(map(re.escape, row.told)), reason), reason
        assert len(told(whole.agent.log()[before:], f"warning {row.subject}", reason)) == 1
    finally:
        row.mend(whole)
    whole.agent.call("poll")
    eventually("that it works again", lambda: f"{row.subject}: works again" in whole.agent.log()[before:])
    eventually("no problem", lambda: (shown := whole.shown()) is not None and row.subject not in shown)
