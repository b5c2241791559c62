"""Large files, parsed by processes: the same result as one reading, whatever the file and wherever it is cut."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from axomsync.core.errors import SourceChanged, Stopping
from axomsync.core.records import Segment
from axomsync.drop import jsonl, ranges
from axomsync.drop.cores import quota_of, usable_cores
from axomsync.drop.jsonl import InvalidDataset
from axomsync.drop.line_workers import LineWorkers
from axomsync.drop.ranges import Sizes, WorkersLost, check_in_parts
from axomsync.drop.repeats import REMEMBERED
from axomsync.drop.shapes import Shapes
from tests.drop.conftest import idle, opened

GOOD = b'{"text": "good"}\n'
LINES = [
    GOOD,
    b'{"text": "another", "id": 1}\n',
    b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
    b'{"prompt": "a", "completion": ""}\n',
    b'{"other": [1, {"a": 2}]}\n',
    '{"text": "é🙂é🙂"}\n'.encode(),
    b'{"text": "%b"}\n' % (b"long " * 40),
    b'{"text": "%b"}\n' % (b"x" * 900),
    b'{"text": "%b", }\n' % (b"y" * 900),
    b"\n",
    b" \t\n",
    b" " * 200 + b"\n",
    b'{"a": [1\n',
    b"2]}\n",
    b"[1]\n",
    b'{"text": "\xff"}\n',
    b'{"a": NaN}\n',
    b'{"a": 1}, {"b": 2}\n',
    b'{"text": "' + b"[" * 700 + b'"}\n',
]
ENDS = [b"", b'{"text": "no end"}', b'{"text": "cut', b"  ", b'{"text": "\xc3', b'{"text": "%b' % (b"z" * 700)]


@pytest.fixture(scope="module")
def workers() -> Iterator[LineWorkers]:
    workers = LineWorkers(2)
    yield workers
    workers.close()


def outcome(check: Callable[[Shapes | None], object], shapes: Shapes | None) -> object:
    """What a check comes to, in a form that can be compared."""
    try:
        return check(shapes), shapes and (shapes.faults, shapes.counts)
    except InvalidDataset as invalid:
        return invalid.faults, +invalid.counts, str(invalid)


def assert_same(data: bytes, workers: LineWorkers, sizes: Sizes, wanted: str | None, shards: list[Segment]) -> None:
    with opened(data) as file:
        one = outcome(
            lambda shapes: jsonl.check(
                file,
                len(data),
                "full",
                idle,
                shards=shards,
                shapes=shapes,
                read_size=sizes.read_size,
                line_limit=sizes.line_limit,
                large_line=sizes.large_line,
            ),
            None if wanted == "off" else Shapes(wanted),
        )
        many = outcome(
            lambda shapes: check_in_parts(file, len(data), idle, workers, shards=shards, shapes=shapes, sizes=sizes),
            None if wanted == "off" else Shapes(wanted),
        )
    assert many == one


RUNS = st.lists(st.tuples(st.sampled_from(LINES), st.integers(1, 12)), max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    RUNS,
    st.sampled_from(ENDS),
    st.sampled_from([64, 100, 333, 1000]),
    st.integers(1, 6),
    st.sampled_from([1000, 100_000]),
    st.sampled_from(["off", None, "text", "chat"]),
)
def test_any_file_has_the_same_result_however_it_is_cut(
    workers: LineWorkers, runs: list[tuple[bytes, int]], end: bytes, read: int, times: int, limit: int, wanted: str | None
) -> None:
    data = b"".join(line * count for line, count in runs) + end
    sizes = Sizes(read * times, read, limit if read < limit else 100_000, max(read, 400))
    half = len(data) // 2
    assert_same(data, workers, sizes, wanted, [Segment(0, half), Segment(half, len(data))] if half else [])


def test_lines_that_repeat_others_are_found_as_in_one_reading(workers: LineWorkers) -> None:
    lines = b"".join(b'{"number": %d, "text": "any"}\n' % number for number in range(REMEMBERED + 20_000))
    odd = b'{"a": x}\n' * 100
    assert_same(lines + lines, workers, Sizes(1 << 19, 1 << 18), None, [])
    assert_same(lines + odd + lines, workers, Sizes(1 << 18, 1 << 18), "off", [])
    one_long = b'{"text": "%b"}\n' % (b"x" * (3 << 20))
    assert_same(lines[:1000] + one_long * 2 + lines[:500], workers, Sizes(1 << 18, 1 << 18), None, [])


def test_lines_end_where_pieces_do(workers: LineWorkers) -> None:
    line = b'{"number": 123}\n'
    assert len(line) == 16
    assert_same(line * 1000, workers, Sizes(256, 64), None, [])
    assert_same(line * 1000 + b"\n" * 1000, workers, Sizes(256, 64), None, [])
    assert_same(b"\n" * 1000 + line * 10 + b"\n" * 500 + line, workers, Sizes(256, 64), None, [])


def test_a_form_that_turns_up_late_is_seen(workers: LineWorkers) -> None:
    data = b'{"other": 1}\n' * 500
    for late in (b"", GOOD, LINES[2] * 3 + GOOD):
        for wanted in (None, "text"):
            assert_same(data + late + data, workers, Sizes(256, 64), wanted, [])


def numbered(count: int) -> bytes:
    return b"".join(b'{"number": %d, "text": "any"}\n' % number for number in range(count))


@pytest.fixture(scope="module")
def data() -> bytes:
    return numbered(600_000)


@pytest.mark.parametrize(("kills", "told"), [(1, "another one takes its place"), (9, "this process checks the file")])
def test_processes_that_die_are_replaced_or_done_without(
    workers: LineWorkers, caplog: pytest.LogCaptureFixture, data: bytes, kills: int, told: str
) -> None:
    killed = 0

    def kill() -> None:
        nonlocal killed
        if killed < kills and (children := children_of(os.getpid())):
            killed += 1
            for child in children:
                os.kill(child, signal.SIGKILL)

    shapes = Shapes()
    with opened(data) as file:
        one = jsonl.check(file, len(data), "full", idle, shapes=Shapes())
        check_in_parts(file, len(data), idle, workers)  # so that processes are there
        assert ranges.check(file, len(data), "full", kill, workers, shapes=shapes, large=0) == one
        said = [record.message for record in caplog.records]
        assert all("a process that parses lines was lost" in each for each in said)
        assert any(told in each for each in said), said
        assert shapes.report() == one.shape
        assert ranges.check(file, len(data), "full", idle, workers, shapes=Shapes(), large=0) == one
        assert len(caplog.records) == len(said)


def children_of(pid: int) -> list[int]:
    """The processes that parse lines for process `pid`: other tests of this process have others."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            children += map(int, (task / "children").read_text().split())
    return [child for child in children if b"line_worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_stop_ends_the_check_and_its_processes_at_once(workers: LineWorkers) -> None:
    data = numbered(100_000)
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise Stopping("the agent is stopping")

    with opened(data) as file, pytest.raises(Stopping):
        check_in_parts(file, len(data), stop, workers, sizes=Sizes(1 << 18, 1 << 18))


def test_a_file_that_becomes_shorter_is_told(workers: LineWorkers) -> None:
    with opened(GOOD * 1000) as file, pytest.raises(SourceChanged, match="shorter"):
        check_in_parts(file, len(GOOD) * 2000, idle, workers)


def test_a_system_that_allows_no_process_leaves_the_check_to_this_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    refused = LineWorkers(2)
    with opened(GOOD * 1000) as file:
        for _ in range(2):
            assert ranges.check(file, len(GOOD) * 1000, "full", idle, refused, large=0).lines == 1000
        with pytest.raises(WorkersLost):
            check_in_parts(file, len(GOOD) * 1000, idle, refused)
    [told] = [record.message for record in caplog.records if "can't be begun" in record.message]
    assert "fewer cores are used" in told


def test_where_no_memory_can_be_shared_this_process_checks(workers: LineWorkers, caplog: pytest.LogCaptureFixture) -> None:
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(GOOD * 1000) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            assert ranges.check(file, len(GOOD) * 1000, "full", idle, workers, large=0).lines == 1000
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    [told] = [record.message for record in caplog.records]
    assert "no memory that processes can share: [Errno 27] File too large; this process checks the file again" in told


def test_several_large_files_at_once_share_the_processes(workers: LineWorkers) -> None:
    data = numbered(60_000)
    found: list[int] = []

    def read() -> None:
        with opened(data) as file:
            found.append(check_in_parts(file, len(data), idle, workers, sizes=Sizes(1 << 18, 1 << 18)).lines)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [60_000] * 4
    assert len(workers._idle) <= 2


ENDLESS = """
import os, sys
from axomsync.drop.line_workers import LineWorkers
from axomsync.drop.ranges import check_in_parts
workers = LineWorkers(2)
file = os.memfd_create("dataset")
os.write(file, b'{"text": "good"}\\n' * 200_000)
while len(workers._idle) < 2:
    check_in_parts(file, os.fstat(file).st_size, lambda: None, workers)
print("checked", flush=True)
while True:
    check_in_parts(file, os.fstat(file).st_size, lambda: None, workers)
"""


def test_the_processes_end_with_the_agent_however_it_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        children = children_of(agent.pid)
        assert len(children) == 2
        agent.kill()
    deadline = time.monotonic() + 10
    while any(is_alive(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    return False


def test_a_process_gets_no_secret(workers: LineWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXOM_KEY", "axom_secret")
    fresh = LineWorkers(1)
    with opened(GOOD * 1000) as file:
        check_in_parts(file, len(GOOD) * 1000, idle, fresh)
    [worker] = fresh._idle
    try:
        assert b"AXOM_KEY" not in Path(f"/proc/{worker.pid}/environ").read_bytes()
        files = [os.readlink(each) for each in Path(f"/proc/{worker.pid}/fd").iterdir()]
        assert not any("dataset" in each for each in files)
        assert len(files) == 5, files  # the standard ones, the pipe, the shared memory
    finally:
        fresh.close()


def test_the_quota_of_a_cgroup_limits_the_cores(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert quota_of("1:name=systemd:/\n0::/a/b\n", tmp_path) == 1.5
    assert quota_of("0::/\n", tmp_path) is None
    assert quota_of("4:cpu:/\n", tmp_path) is None
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
