"""A hundred thousand uploads in the ledger: what a look at them costs, and how one looks at a few."""

import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database

from axomsync.ledger import Ledger
from tests.rig.agent import AgentProcess

MANY = 100_000
FIRST = 1_700_000_000.0  # when the first of them changed; each later one a second after that
COLUMNS = "path, filename, dev, ino, bytes, mtime_ns, ctime_ns, sha256, lines, state, upload_id, key, etag, in_drop"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path_factory.mktemp("many") / "box", "http://127.0.0.1:9/api", "axom_live_nobody") as agent:
        ledger = Ledger(agent.state, time.time)
        ledger.write(fill)
        ledger.close()
        yield agent


def fill(db: Database) -> None:
    rows = (
        (
            b"run-%d/part-%06d.jsonl" % (number % 50, number), f"part-{number:06d}.jsonl", 1, number + 1, 1000, number,
            number, f"{number:064x}", 10, "failed" if number % 1000 == 0 else "uploaded", f"upload-{number}",
            f"datasets/part-{number:06d}.jsonl", f'"{number:032x}"', 0, FIRST + number, FIRST + number,
        )
        for number in range(MANY)
    )  # fmt: skip
    db.conn.executemany(f"INSERT INTO uploads ({COLUMNS}, created_at, updated_at) VALUES (?{',?' * 15})", rows)


def test_all_are_listed_and_the_last_alone(many: AgentProcess) -> None:
    assert len(many.call("uploads", "--limit", "20").stdout.splitlines()) == 21
    assert many.call("uploads").stdout.count("uploaded") == MANY - MANY // 1000


def cost(agent: AgentProcess, *verb: str) -> tuple[float, str]:
    """CPU seconds that a command takes, and what it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = agent.call(*verb)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@pytest.mark.stress  # nothing is timed in the suite
def test_what_it_costs(many: AgentProcess) -> None:
    last, shown = cost(many, "uploads", "--limit", "20")
    assert len(shown.splitlines()) == 21
    everything, shown = min(cost(many, "uploads") for _ in range(2))  # others use this machine too
    assert shown.count("uploaded") == MANY - MANY // 1000
    assert last <= 0.5, f"the last twenty took {last:.2f} s of CPU"
    assert everything <= 3.0, f"all of them took {everything:.2f} s of CPU"


def test_by_state_time_and_number(many: AgentProcess) -> None:
    def names(*options: str) -> list[int]:
        rows = json.loads(many.call("uploads", "--json", *options).stdout)
        return [int(row["filename"][5:11]) for row in rows]

    assert names("--limit", "3") == [MANY - 3, MANY - 2, MANY - 1], "the newest, oldest first"
    assert names("--state", "failed", "--limit", "2") == [MANY - 2000, MANY - 1000]
    assert len(names("--state", "failed", "--state", "held")) == MANY // 1000
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(FIRST + MANY - 10))
    assert names("--since", since) == list(range(MANY - 10, MANY))
    assert names("--since", "1h") == []


@pytest.mark.parametrize("options", [("--since", "yesterday"), ("--state", "done"), ("--limit", "0")])
def test_what_is_no_time_no_state_and_no_number_is_told(many: AgentProcess, options: tuple[str, str]) -> None:
    done = many.call("uploads", *options)
    assert done.returncode == 2
    assert options[1] in done.stderr


def test_a_csv_of_a_few(many: AgentProcess, tmp_path: Path) -> None:
    assert len(many.call("uploads", "--csv", "--limit", "2").stdout.splitlines()) == 3
