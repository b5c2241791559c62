"""Views of an agent as a process: told once when they can't be kept, moved by verbs, left when they are named no more."""

from pathlib import Path
from typing import Any

from tests.mirror.inprocess import MirrorHere
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import FOREVER, Content, FaultyServer, s3_error
from tests.rig.pollers import hub


def files(version: int) -> dict[str, Content]:
    text = f'{{"version": {version}}}'.encode()
    return {"config.json": Content(len(text), 0, text)}


def test_the_life_of_views(server: FaultyServer, agent: AgentProcess) -> None:
    flat, hf = agent.home / "serving", agent.home / "hf"
    off: dict[str, Any] = {"drop": {"enabled": False}}
    agent.configure({**off, "mirror": {"poll": "200ms", "views": [f"flat:{flat}", f"hf:{hf}"]}})

    def version() -> str:
        found, _ = hub(hf, "bot")
        led = {(flat / "bot").resolve().name, (agent.mirror / "bot" / "current").resolve().name}
        return led.pop() if found and led == {Path(found).resolve().name} else "none"

    flat.mkdir()
    (flat / "mine").touch()
    server.add_model("bot", "v1", files(1))
    agent.start()
    eventually("a refusal", lambda: f"views: {flat}: it holds mine, which the agent did not make" in agent.log())
    (flat / "mine").unlink()
    eventually("the view", lambda: version() == "v1" and "views: works again" in agent.log())
    assert agent.log().count("it holds mine") == 1
    server.add_model("bot", "v2", files(2))
    eventually("the next version", lambda: version() == "v2")

    server.inject(s3_error(503, "SlowDown", "not now"), "/api/models", times=FOREVER)
    (flat / "bot").unlink()
    agent.configure({**off, "mirror": {"poll": "200ms", "views": [f"flat:{flat}"]}})
    agent.hangup()
    eventually("the end of a view", lambda: f"hf:{hf}: this view is kept no more" in agent.log())
    eventually("a view that is healed while the console is down", lambda: version() == "v2")
    assert agent.terminate() == 0
    agent.configure({**off, "mirror": {"views": [f"flat:{flat}", f"hf:{hf}"]}})
    assert agent.call("rollback", "bot").returncode == 0
    assert version() == "v1", "verbs move the views, also when no agent runs"

    main = hf / "models--bot" / "refs" / "main"
    main.unlink()
    main.mkdir()
    (main / "mine").touch()
    for verb in (("unpin", "bot"), ("pin", "bot/v1"), ("rollback", "bot", "v1")):
        done = agent.call(*verb)
        assert done.returncode == 1, "a script must not go on to load an engine through the view"
        assert f"{agent.mirror}/bot/current -> v" in done.stdout
        assert f"a view does not show that yet: {main}: " in done.stderr
    (main / "mine").unlink()
    assert agent.call("rollback", "bot", "v1").returncode == 0
    assert version() == "v1"


def test_a_pass_keeps_views(server: FaultyServer, mirror: MirrorHere, tmp_path: Path) -> None:
    flat, hf = tmp_path / "serving", tmp_path / "hf"
    mirror.settings = {"views": [f"flat:{flat}", f"hf:{hf}"], "keep": 1}
    for number in (1, 2, 3):
        server.add_model("bot", f"v{number}", files(number))
        mirror.sync()
        place = mirror.folder / "bot" / f"v{number}"
        assert (flat / "bot").resolve() == place
        assert [link.resolve() for link in (hf / "models--bot" / "snapshots").iterdir()] == [place]
        assert hub(hf, "bot")[0] is not None
