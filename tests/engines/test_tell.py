"""`tell` against engines on the wire: what is asked, what a failure becomes, and kills at every request."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import Mirror
from tests.rig.engines import FAULTS, EngineServer, Ollama, Repository, Sglang, Vllm
from tests.rig.teller import Teller, Told

VERSIONED = ("--name", "{name}-{version}")


STORE = ("--store", "STORE")  # the one that this Ollama has


@dataclass(frozen=True)
class Case:
    """An engine, its name on the command line, and options."""

    verb: str
    make: Callable[[Mirror, Path], EngineServer]
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.verb, *self.options))


CASES = (
    Case("vllm-lora", lambda mirror, place: Vllm()),
    Case("vllm-lora", lambda mirror, place: Vllm(), VERSIONED),
    Case("sglang", lambda mirror, place: Sglang(), ("--only", "b*")),
    Case("v2", lambda mirror, place: Repository({"bot": mirror.root / "bot" / "current"})),
    Case("ollama", lambda mirror, place: Ollama(place / "store")),
    Case("ollama", lambda mirror, place: Ollama(place / "store"), STORE),
)
EACH = pytest.mark.parametrize("case", CASES, ids=str)
ENGINES = pytest.mark.parametrize("case", [case for case in CASES if case.options not in (VERSIONED, STORE)], ids=str)


@dataclass
class Table:
    """An engine that runs, a mirror, and the verb."""

    case: Case
    engine: EngineServer
    mirror: Mirror
    teller: Teller

    def tell(self, version: str, *more: str, kind: str = "model_published") -> Told:
        options = ["--url", self.engine.url, *self.case.options, *more]
        if isinstance(self.engine, Ollama):
            options = [str(self.engine.store) if option == "STORE" else option for option in options]
        return self.teller.tell(self.mirror.event(version, kind), self.case.verb, *options)


@pytest.fixture
def table(case: Case, mirror: Mirror, tmp_path: Path, teller: Teller) -> Iterator[Table]:
    with case.make(mirror, tmp_path) as engine:
        yield Table(case, engine, mirror, teller)


@EACH
def test_a_new_version_replaces_the_old_one(table: Table) -> None:
    for version in ("v1", "v2"):
        table.mirror.publish(version)
        told = table.tell(version)
        assert (told.code, told.output.count("\n")) == (0, 1), told.output
        assert f"serves bot/{version}" in told.output
    state = str(table.engine.state())
    assert ("v2" in state, "v1" in state) == (table.case.verb != "ollama", False)


@EACH
def test_telling_it_twice_does_no_harm(table: Table) -> None:
    table.mirror.publish("v1")
    assert table.tell("v1").code == 0
    before, asked = repr(table.engine.state()), len(table.engine.asked)
    assert table.tell("v1").code == 0
    assert repr(table.engine.state()) == before
    if table.case.verb in ("vllm-lora", "sglang"):
        orders = [call for call in table.engine.calls()[asked:] if not call.startswith("GET")]
        assert orders == [], "it was asked first"


@EACH
def test_a_version_that_waits_is_not_loaded_and_a_move_of_current_is(table: Table) -> None:
    table.mirror.publish("v1")
    (table.mirror.root / "bot" / "current").unlink()
    assert table.tell("v1").output == "bot/v1: it waits, there is no current yet\n"
    assert table.engine.asked == []
    table.mirror.lead("v1")
    moved = table.tell("v1", kind="current_moved")
    assert moved.code == 0
    assert table.engine.asked != []


@EACH
def test_a_late_event_does_not_bring_an_old_version_back(table: Table) -> None:
    table.mirror.publish("v1")
    table.mirror.publish("v2")
    told = table.tell("v1")
    assert (told.code, told.output) == (0, "bot/v1: current leads to v2\n")
    shutil.rmtree(table.mirror.root / "bot" / "v1")
    assert table.tell("v1").output == "bot/v1: its folder is no longer there\n"
    assert table.engine.asked == []


@EACH
def test_a_removed_version_is_unloaded(table: Table) -> None:
    for version in ("v1", "v2"):
        table.mirror.publish(version)
        assert table.tell(version).code == 0
    shutil.rmtree(table.mirror.root / "bot" / "v1")
    state = repr(table.engine.state())
    assert table.tell("v1", kind="model_removed").code == 0
    assert repr(table.engine.state()) == state, "the version that is served stays"
    shutil.rmtree(table.mirror.root / "bot")
    for _ in range(2):
        assert table.tell("v2", kind="model_removed").code == 0
    if table.case.verb != "sglang":
        assert "bot" not in str(table.engine.state())


@EACH
def test_killed_at_any_request_and_run_again_it_ends_in_the_same_state(table: Table) -> None:
    """v1 is served, v2 is published; the client is killed before each request and after the effect of each order."""
    engine, mirror = table.engine, table.mirror
    mirror.publish("v1")
    assert table.tell("v1").code == 0
    restore = _saved(engine)
    engine.asked.clear()
    mirror.publish("v2")
    assert table.tell("v2").code == 0
    wanted = repr(engine.state())
    orders = [asked.method not in ("GET", "HEAD") for asked in engine.asked]
    kills = 0
    for number in range(len(orders)):
        for after in (False, True) if orders[number] else (False,):
            restore()
            engine.asked.clear()
            engine.kill = (number, after, lambda: table.teller.pid)
            if table.tell("v2").code == 0:
                continue
            kills += 1
            engine.kill = None
            again = table.tell("v2")
            assert again.code == 0, again.output
            assert repr(engine.state()) == wanted, f"killed at request {number}, after={after}"
    assert kills >= 3


def _saved(engine: EngineServer) -> Callable[[], None]:
    """Remember the state of an engine; returns what brings it back, any number of times."""
    if isinstance(engine, Vllm | Repository):
        before = dict(engine.state())
        return lambda: _refill(engine.state(), before)
    if isinstance(engine, Ollama):
        models, folder = dict(engine.models), engine.store / "blobs"
        blobs = {blob: blob.read_bytes() for blob in folder.iterdir()}

        def bring_back() -> None:
            _refill(engine.models, models)
            for blob in folder.iterdir():
                blob.unlink()
            for blob, content in blobs.items():
                blob.write_bytes(content)

        return bring_back
    assert isinstance(engine, Sglang)
    served = engine.serves
    return lambda: setattr(engine, "serves", served)


def _refill(held: dict[str, Any], before: dict[str, Any]) -> None:
    held.clear()
    held.update(before)


@ENGINES
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_ends_in_words_and_the_right_code(table: Table, fault: str) -> None:
    table.mirror.publish("v1")
    with Sglang() as elsewhere:
        table.engine.fault, table.engine.elsewhere = fault, f"{elsewhere.url}/stolen"
        told = table.tell("v1", "--timeout", "500ms", "--wait", "500ms")
        assert elsewhere.asked == [], "a redirect is not followed"
    assert (told.output.count("\n"), len(told.output) < 1000) == (1, True), told.output
    # vLLM answers a load in text, and the V2 protocol with nothing that counts: what is loaded is asked afterwards.
    final = fault in ("400", "redirect")
    assert told.code == (1 if final else 75), told.output
    if fault == "400":
        assert "the engine's own words" in told.output
    table.engine.fault = None
    again = table.tell("v1")
    assert (again.code, "serves bot/v1" in again.output) == (0, True), again.output


@ENGINES
def test_no_service_there(table: Table) -> None:
    table.mirror.publish("v1")
    told = table.tell("v1", "--url", "http://127.0.0.1:9")
    assert (told.code, "no service listens there" in told.output) == (75, True), told.output


@ENGINES
def test_a_token_is_sent_and_never_shown(table: Table, tmp_path: Path) -> None:
    table.mirror.publish("v1")
    table.engine.token = "right-token-of-the-engine"
    file = tmp_path / "token"
    without = table.tell("v1")
    assert (without.code, "--token-file" in without.output) == (1, True)
    file.write_text("wrong-token-of-nobody\n")
    wrong = table.tell("v1", "--token-file", str(file))
    assert (wrong.code, "refuses the token" in wrong.output, "wrong-token" in wrong.output) == (1, True, False), wrong.output
    file.write_text("right-token-of-the-engine\n")
    assert table.tell("v1", "--token-file", str(file)).code == 0
    os.unlink(file)
    os.mkfifo(file)
    assert table.tell("v1", "--token-file", str(file)).code == 1
    clear = table.tell("v1", "--url", "http://192.0.2.1", "--token-file", str(file))
    assert clear.code == 1


def test_a_token_does_not_cross_the_network_in_the_clear(mirror: Mirror, tmp_path: Path, teller: Teller) -> None:
    mirror.publish("v1")
    file = tmp_path / "token"
    file.write_text("right-token-of-the-engine\n")
    told = teller.tell(mirror.event("v1"), "v2", "--url", "http://192.0.2.1", "--token-file", str(file))
    assert (told.code, "in the clear" in told.output) == (1, True)


def test_a_proxy_is_not_asked_for_an_engine_of_this_machine(mirror: Mirror, teller: Teller) -> None:
    mirror.publish("v1")
    environ = {"http_proxy": "http://127.0.0.1:9", "all_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    with Sglang() as engine:
        assert teller.tell(mirror.event("v1"), "sglang", "--only", "bot", "--url", engine.url, environ=environ).code == 0


@pytest.mark.parametrize(
    ("event", "code", "words"),
    [
        (b"", 1, "it is empty"),
        (b"x" * 2_000_000, 1, "more than 1048576 bytes"),
        (b"[" * 100_000, 1, "no JSON"),
        (b'{"event": 5}', 1, "event: "),
        (b'{"event": "model_published"}', 1, "at: "),
        (b'{"event": "model_published", "at": "2026-01-01T00:00:00", "model": {}}', 1, "time zone"),
        (b'{"event": "upload_done", "upload": {}}', 0, "nothing to do for the event upload_done"),
        (b'{"event": "what\\u001b[31m"}', 0, "nothing to do for the event what\\x1b[31m"),
    ],
)
def test_what_is_no_event_of_a_model(event: bytes, code: int, words: str, teller: Teller) -> None:
    told = teller.tell(event, "v2", "--url", "http://127.0.0.1:9")
    assert (told.code, words in told.output, told.output.count("\n")) == (code, True, 1), told.output


@pytest.mark.parametrize(
    "change", [{"path": "models/bot/v1"}, {"path": "/a\0b"}, {"name": ""}, {"version": 7}, {"id": None}]
)
def test_a_model_that_is_none(change: dict[str, object], mirror: Mirror, teller: Teller) -> None:
    event = mirror.event("v1")
    event["model"] |= change
    told = teller.tell(event, "v2", "--url", "http://127.0.0.1:9")
    assert (told.code, f"model.{next(iter(change))}" in told.output) == (1, True), told.output


@pytest.mark.parametrize(
    "options",
    [
        ("--name", "{model}"), ("--name", ""), ("--wait", "5"), ("--timeout", "x"), ("--url", "localhost:8000"),
        ("--url", "http://user:secret@localhost"), ("--url", "http://localhost/?token=x"), ("--url", "ftp://localhost"),
        ("--url", "http://engine..invalid:8000"), ("--url", f"http://{'a' * 64}.invalid"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(options: tuple[str, str], mirror: Mirror, teller: Teller) -> None:
    told = teller.tell(mirror.event("v1"), "v2", *options)
    assert (told.code, "secret" in told.output) == (2, False), told.output


# One engine each


def test_a_machine_without_systemd(mirror: Mirror, tmp_path: Path) -> None:
    mirror.publish("v1")
    done = subprocess.run(
        [sys.executable, "-m", "axomsync", "tell", "unit", "--name", "vllm@{name}.service"],
        input=json.dumps(mirror.event("v1")).encode(),
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "axomsync: systemctl: it is not here; it comes with systemd, so tell units where systemd runs\n"
    )


def test_vllm_that_can_not_replace_in_place(mirror: Mirror, teller: Teller) -> None:
    with Vllm(in_place=False) as engine:
        for version in ("v1", "v2"):
            mirror.publish(version)
            assert teller.tell(mirror.event(version), "vllm-lora", "--url", engine.url).code == 0
        assert engine.adapters == {"bot": str(mirror.root / "bot" / "v2")}
        assert "POST /v1/unload_lora_adapter" in engine.calls()


def test_vllm_leaves_other_models_and_names_alone(mirror: Mirror, teller: Teller) -> None:
    mirror.publish("v1")
    with Vllm() as engine:
        others = {"other": "/srv/other/v1", "mine": str(mirror.root / "bot" / "v0")}
        engine.adapters = dict(others)
        assert teller.tell(mirror.event("v1"), "vllm-lora", "--url", engine.url).code == 0
        assert engine.adapters == {**others, "bot": str(mirror.root / "bot" / "v1")}
        told = teller.tell(mirror.event("v1"), "vllm-lora", "--url", engine.url, "--name", "base")
        assert (told.code, "is the base model there" in told.output) == (1, True)


def test_models_that_this_engine_does_not_serve(mirror: Mirror, teller: Teller) -> None:
    mirror.publish("v1", "chat-7b")
    (mirror.root / "chat-7b" / "v1" / "adapter_config.json").unlink()
    event = mirror.event("v1", name="chat-7b")
    with Vllm() as engine:
        told = teller.tell(event, "vllm-lora", "--url", engine.url)
        assert (told.code, told.output) == (0, "chat-7b/v1 is no LoRA adapter: it has no adapter_config.json\n")
        told = teller.tell(event, "v2", "--url", engine.url, "--only", "bot", "--only", "cat-*")
        assert (told.code, told.output) == (0, "chat-7b/v1: none of --only\n")
        assert teller.tell(event, "sglang", "--url", engine.url).code == 2, "one server, one model"
        assert engine.asked == []


def test_vllm_that_does_not_allow_it(mirror: Mirror, teller: Teller) -> None:
    mirror.publish("v1")
    with Vllm(allowed=False) as engine:
        told = teller.tell(mirror.event("v1"), "vllm-lora", "--url", engine.url)
        assert (told.code, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in told.output) == (1, True), told.output


def test_a_newer_sglang_and_weights_that_do_not_fit(mirror: Mirror, teller: Teller) -> None:
    folder = mirror.publish("v1")
    with Sglang(info="/model_info") as engine:
        assert teller.tell(mirror.event("v1"), "sglang", "--only", "bot", "--url", engine.url).code == 0
        assert engine.serves == str(folder)
        (mirror.publish("v2") / "config.json").unlink()
        told = teller.tell(mirror.event("v2"), "sglang", "--only", "bot", "--url", engine.url)
        assert (told.code, "Failed to update weights" in told.output, engine.serves) == (1, True, str(folder))


def test_v2_waits_until_the_model_is_ready(mirror: Mirror, teller: Teller) -> None:
    mirror.publish("v1")
    with Repository({"a/b ü": mirror.root / "bot" / "current"}, slow=1) as engine:
        options = ("--url", f"{engine.url}/", "--name", "a/b ü")
        assert teller.tell(mirror.event("v1"), "v2", *options).code == 0
        assert engine.calls() == [
            "POST /v2/repository/models/a%2Fb%20%C3%BC/load",
            *["GET /v2/models/a%2Fb%20%C3%BC/ready"] * 2,
        ]
        engine.slow = 1_000_000
        told = teller.tell(mirror.event("v1"), "v2", *options, "--wait", "100ms")
        assert (told.code, "is not ready, after 0.1 s" in told.output) == (75, True), told.output


def test_ollama_shares_the_files_of_the_mirror(mirror: Mirror, tmp_path: Path, teller: Teller) -> None:
    folder = mirror.publish("v1")
    (folder / "sub").mkdir()
    (folder / "sub" / "config.json").write_text("{}")
    (folder / "README.md").write_text("not for Ollama")
    with Ollama(tmp_path / "store") as engine:
        told = teller.tell(mirror.event("v1"), "ollama", "--url", engine.url, "--store", str(engine.store))
        assert (told.code, told.output) == (0, "bot serves bot/v1; 4 files, 0 of them copied\n")
        assert set(engine.models["bot"]) == {"model.safetensors", "config.json", "adapter_config.json", "sub/config.json"}
        assert not any(call.startswith("POST /api/blobs") for call in engine.calls())
        blob = engine.store / "blobs" / engine.models["bot"]["model.safetensors"].replace(":", "-")
        same = blob.stat().st_ino == (folder / "model.safetensors").stat().st_ino
        assert same or blob.read_bytes() == (folder / "model.safetensors").read_bytes(), "a reflink has an inode of its own"


@pytest.mark.parametrize("store", ["elsewhere", "other filesystem"])
def test_ollama_gets_copies_where_nothing_can_be_shared(store: str, mirror: Mirror, tmp_path: Path, teller: Teller) -> None:
    mirror.publish("v1")
    place = tmp_path / "unused" if store == "elsewhere" else Path("/dev/shm") / f"axomsync-{os.getpid()}"
    (place / "blobs").mkdir(parents=True)
    try:
        with Ollama(tmp_path / "store" if store == "elsewhere" else place / "own") as engine:
            given = place if store == "elsewhere" else engine.store
            told = teller.tell(mirror.event("v1"), "ollama", "--url", engine.url, "--store", str(given))
            assert (told.code, told.output) == (0, "bot serves bot/v1; 3 files, 2 of them copied\n")  # two have one content
            assert list((place / "blobs").iterdir()) == [], "what Ollama does not see is taken away again"
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(place)


def test_ollama_takes_gguf_files_alone_and_says_when_there_is_no_model(
    mirror: Mirror, tmp_path: Path, teller: Teller
) -> None:
    folder = mirror.publish("v1")
    (folder / "model.safetensors").rename(folder / "bot.gguf")
    with Ollama(tmp_path / "store") as engine:
        assert teller.tell(mirror.event("v1"), "ollama", "--url", engine.url).code == 0
        assert list(engine.models["bot"]) == ["bot.gguf"]
        (folder / "bot.gguf").unlink()
        told = teller.tell(mirror.event("v1"), "ollama", "--url", engine.url)
        assert (told.code, "no safetensors and no GGUF files" in told.output) == (1, True)
