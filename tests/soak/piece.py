"""One piece of a soak: an agent as a process of its own, its far side, a gateway, and what happens to them by the clock.

State is kept in a folder, so that a further piece goes on where this one ended. What comes is drawn from the seed; when a
kill or a fault meets it is left to chance.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import KEY
from tests.rig.gateway import Gateway
from tests.soak import series
from tests.soak.claims import broken, due, is_put_away
from tests.soak.far_side import SoakServer
from tests.soak.plan import CHANGES_A_MINUTE, FILES, FILES_A_MINUTE, KEEP, Progress, Published, change_list, dropped

LIFE_SECONDS = 90.0
LONG_LIVES, LONGER = 10, 20  # each tenth life takes half an hour: only there is seen what a life loses
SAMPLE_SECONDS = 10.0
GATEWAY_SECONDS = 150.0  # on average, until it goes, or comes back
FAILING = 0.05
QUIET_SECONDS = 15.0  # in which an agent with nothing to do asks storage nothing
PATIENCE_SECONDS = 600.0  # until everything is done once nothing fails any more
SECRETS = (KEY, "X-Amz-Signature")


class Piece:
    """A context manager; `run()` lets it happen, `rest()` ends it and tells what is wrong."""

    def __init__(self, folder: Path, seed: int, life: float = LIFE_SECONDS) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._saved, self._samples = folder / "progress.json", folder / "samples.csv"
        self._progress = _load(self._saved, seed)
        self._life_seconds = life
        self._dice = Random()
        self._server = SoakServer(self._progress, FAILING)
        self._gateway = Gateway(folder / "gateway", [self._server.endpoint], listen=f"127.0.0.1:{self._progress.ports[1]}")
        self._agent = AgentProcess(folder / "box", self._server.url, KEY)
        self._began = time.monotonic()
        self._before = self._progress.seconds
        self._born = 0.0

    def __enter__(self) -> "Piece":
        self._server.start()
        self._gateway.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._agent.__exit__(None, None, None)
        self._gateway.stop()
        self._server.stop()
        self._save()

    def run(self, minutes: float) -> None:
        """Let the agent live for so long."""
        beats: list[tuple[Callable[[], object], Callable[[], float]]] = [
            (self._drop, lambda: 60 / FILES_A_MINUTE),
            (self._change, lambda: 60 / CHANGES_A_MINUTE),
            (self._toggle, lambda: self._dice.expovariate(1 / GATEWAY_SECONDS)),
            (self._sample, lambda: SAMPLE_SECONDS),
            (self._begin_life, self._length_of_life),
        ]
        times = [0.0 if act == self._begin_life else pause() for act, pause in beats]
        while (now := self._now()) < 60 * minutes:
            for index, (act, pause) in enumerate(beats):
                if now >= times[index]:
                    act()
                    times[index] = max(now, times[index]) + pause()
            time.sleep(max(0.0, min(times) - self._now()))

    def rest(self) -> dict[str, Any]:
        """Let nothing fail any more, wait until everything is done, end the agent; returns the figures and what is wrong."""
        self._server.failing = 0.0
        self._gateway.stop()
        self._gateway.start()
        self._begin_life(widest=True)
        self._agent.call("retry")
        wrong = []
        try:
            eventually("everything done", self._is_done, patience=PATIENCE_SECONDS)
            self._agent.call("retry")
            wrong += self._restless()
        except AssertionError as late:
            wrong.append(str(late))
        self._sample()
        if code := self._agent.terminate():
            wrong.append(f"it ended with {code}")
        self._server.digest()
        wrong += broken(self._progress, self._agent.home, self._agent.log(), SECRETS)
        self._save()
        grown = series.growth(series.read(self._samples))
        wrong += [f"{name} is not flat: {told}" for name, told in grown.items() if not told["flat"]]
        done = {name: getattr(self._progress, name) for name in ("seed", "lives", "files", "changes", "requests", "faults")}
        counts = {"versions": len(self._progress.versions), "uploads": len(self._progress.uploads)}
        return {"minutes": round(self._progress.seconds / 60, 1), **done, **counts, "series": grown, "wrong": wrong}

    def _now(self) -> float:
        return time.monotonic() - self._began

    # What happens

    def _drop(self) -> None:
        if self._progress.files >= FILES:
            return
        file = dropped(self._progress.seed, self._progress.files)
        self._progress.files += 1
        path = self._agent.drop / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.data)

    def _change(self) -> None:
        change_list(self._progress)
        self._server.follow()

    def _toggle(self) -> None:
        if self._gateway.is_running:
            self._gateway.kill()
        else:
            self._gateway.start()

    def _begin_life(self, *, widest: bool = False) -> None:
        if self._agent.process is not None and self._agent.process.poll() is None:
            self._agent.kill()
        self._progress.lives += 1
        self._agent.configure(self._config(["*"] if widest or self._progress.lives % 2 else ["*.bin"]))
        self._agent.launch("run")
        self._born = self._now()

    def _length_of_life(self) -> float:
        return self._life_seconds * (LONGER if self._progress.lives % LONG_LIVES == 0 else 1)

    def _config(self, files: list[str]) -> dict[str, dict[str, object]]:
        """Lives with fewer and with all files of a model take turns: the latter extend what the former published."""
        return {
            "drop": {"settle": "2s", "rescan": "20s", "include": ["*.jsonl", "*.jsonl.gz"]},
            "mirror": {"poll": "10s", "files": files, "keep": KEEP, "reserve": "1MiB"},
            "transfer": {"gateways": [self._gateway.url], "stall": "5s"},
        }

    # What is seen

    def _sample(self) -> None:
        self._server.digest()
        self._save()
        process = self._agent.process
        assert process is not None
        try:
            looks = series.looked_at(process.pid, self._agent.state, self._agent.mirror)
        except OSError:
            return  # between two lives
        now, progress = self._now(), self._progress
        at, age = round(self._before + now, 1), round(now - self._born, 1)
        sample = series.Sample(
            at=at, life=progress.lives, age=age, files=progress.files, versions=len(progress.versions), **looks
        )
        series.written(self._samples, sample)

    def _is_done(self) -> bool:
        assert self._agent.process is not None
        assert self._agent.process.poll() is None, f"it ended with {self._agent.process.returncode}"
        self._server.digest()
        folders = (self._agent.mirror / version.name / version.version for version in due(self._progress))
        return is_put_away(self._progress, self._agent.drop) and all(folder.is_dir() for folder in folders)

    def _restless(self) -> list[str]:
        """What an agent with nothing to do asks for all the same."""
        time.sleep(QUIET_SECONDS)
        self._server.digest()
        time.sleep(QUIET_SECONDS)
        asked = [f"{r.method} {r.path}" for r in self._server.digest() if r.path != "/api/models"]
        return [f"with nothing to do it asked for {asked[:5]}"] if asked else []

    def _save(self) -> None:
        self._progress.seconds = self._before + self._now()
        new = self._saved.with_suffix(".new")
        new.write_text(json.dumps(asdict(self._progress)), encoding="utf-8")
        new.replace(self._saved)


def _load(saved: Path, seed: int) -> Progress:
    if not saved.exists():
        # Below the ports that the kernel gives out by itself: they must be free in the next piece too.
        first = Random().randrange(20_000, 30_000)
        return Progress(seed, (first, first + 1))
    told = json.loads(saved.read_text(encoding="utf-8"))
    versions = [
        Published(**{**version, "files": {rel: (size, number) for rel, (size, number) in version["files"].items()}})
        for version in told["versions"]
    ]
    first, second = told["ports"]
    return Progress(**{**told, "versions": versions, "ports": (first, second)})
