"""The processes that parse parts of large files: begun when one is wanted, as many as there are cores, ended when idle.

They are new programs and no forks, since the agent has threads; they inherit its priority. They get no secret: neither the
environment nor an open file but their pipe. All have the same secret for hashes, which differs from the agent's.

Failures handled: a system that allows no more processes (there are fewer, or none), a process that has died (it is not given
out again; who had it finds out by the pipe), an agent that ends in whatever way (the pipes end with it, and the processes).
"""

import logging
import math
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.reduction import send_handle

from axomsync.drop.cores import usable_cores
from axomsync.drop.line_worker import Memory

log = logging.getLogger(__name__)

IDLE_SECONDS = 10.0
REFUSED_SECONDS = 60.0  # after a refusal of the system, before it is asked again
TURN_SECONDS = 1.0  # that a reader has a process while others have none
# What Python itself may need to begin. -P: the working folder is none of its places for modules.
INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME")
PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from axomsync.drop.line_worker import main; main(int(sys.argv[1]))"


class LineWorker:
    """One process. Not thread-safe: one reader has it at a time."""

    def __init__(self, hash_seed: int) -> None:
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment["PYTHONHASHSEED"] = str(hash_seed)
        modules = [os.path.abspath(each) for each in sys.path if each]
        self.pipe, far_end = Pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, str(far_end.fileno()), *modules],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(far_end.fileno(),),
                start_new_session=True,  # a terminal's Ctrl-C is for the agent, which then ends the pipe
            )
        except BaseException:
            self.pipe.close()
            raise
        finally:
            far_end.close()
        self.owes_answer, self.is_new = False, True  # new: it has not answered yet
        self.memory = -1  # the number of the memory that it was given
        self.leased = self.idle_since = 0.0  # monotonic time

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def is_well(self) -> bool:
        """False once it has died."""
        return self._process.poll() is None

    def give_memory(self, number: int, descriptor: int, size: int) -> None:
        """Have it take bytes from this memory, unless it does. Raises `OSError` when it has died."""
        if self.memory != number:
            self.pipe.send(Memory(size))
            send_handle(self.pipe, descriptor, self.pid)
            self.memory = number

    def end(self) -> None:
        """End it at once."""
        self.pipe.close()
        self._process.kill()
        self._process.wait()


class Reader:
    """Somebody who reads a large file, with some of the processes."""

    def __init__(self) -> None:
        self.workers: list[LineWorker] = []


class LineWorkers:
    """All processes of one agent, given out to whoever reads a large file. Thread-safe."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._hash_seed = secrets.randbits(32)
        self._lock = threading.Lock()  # guards what follows
        self._idle: list[LineWorker] = []
        self._readers: list[Reader] = []
        self._waiting: list[Reader] = []  # those that have no process
        self._refused_until = -math.inf
        self._sweeper: threading.Thread | None = None

    @property
    def most(self) -> int:
        """How many there may be. On one core, none: they would be in the way of each other."""
        if self._most is None:
            cores = usable_cores()
            self._most = cores if cores > 1 else 0
        return self._most

    @property
    def are_refused(self) -> bool:
        """The system allows none."""
        return time.monotonic() < self._refused_until

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Yield a new reader, and take its processes back at the end; those that owe it an answer are ended."""
        reader = Reader()
        with self._lock:
            self._readers.append(reader)
        try:
            yield reader
        finally:
            for worker in list(reader.workers):
                self.give_back(reader, worker)
            with self._lock:
                self._readers.remove(reader)
                if reader in self._waiting:
                    self._waiting.remove(reader)

    def lease(self, reader: Reader) -> LineWorker | None:
        """Give the reader an idle process, or a new one; None if it has its share, or none is left or allowed."""
        with self._lock:
            worker = self._found(reader)
            if worker is not None:
                worker.leased = time.monotonic()
                reader.workers.append(worker)
                if reader in self._waiting:
                    self._waiting.remove(reader)
            elif not reader.workers and reader not in self._waiting:
                self._waiting.append(reader)
            return worker

    def _found(self, reader: Reader) -> LineWorker | None:
        free = self.most - sum(len(each.workers) for each in self._readers)
        first = [each for each in self._waiting if each is not reader]
        if free <= (0 if reader in self._waiting[:1] else len(first)) or len(reader.workers) >= self._share():
            return None
        while self._idle:
            worker = self._idle.pop()
            if worker.is_well:
                return worker
            worker.end()
        # One after the other: in the time that a start takes, all parts wait, and would call for more than are needed.
        if self.are_refused or any(each.is_new for each in reader.workers):
            return None
        try:
            return LineWorker(self._hash_seed)
        except (OSError, ValueError) as error:  # ValueError: this Python does not know its own program
            self._refused_until = time.monotonic() + REFUSED_SECONDS
            log.warning("a process that parses large files can't be begun: %s; fewer cores are used", error)
            return None

    def _share(self) -> int:
        return max(1, self.most // max(1, len(self._readers)))

    def is_wanted_back(self, reader: Reader, worker: LineWorker) -> bool:
        """Whether others wait, and this reader has more than its share or had it for long."""
        with self._lock:
            others = [each for each in self._waiting if each is not reader]
            had_long = time.monotonic() - worker.leased > TURN_SECONDS
            return bool(others) and (len(reader.workers) > self._share() or had_long)

    def give_back(self, reader: Reader, worker: LineWorker) -> None:
        """Take a process back; end it if it owes an answer."""
        if worker.owes_answer:
            worker.end()
        with self._lock:
            reader.workers.remove(worker)
            if worker.owes_answer:
                return
            worker.idle_since = time.monotonic()
            self._idle.append(worker)
            if self._sweeper is None:
                self._sweeper = threading.Thread(target=self._end_idle, name="line workers", daemon=True)
                self._sweeper.start()

    def close(self) -> None:
        """End those that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()

    def _end_idle(self) -> None:
        """End processes that nobody wanted for a while, until there is none."""
        while True:
            time.sleep(IDLE_SECONDS / 4)
            with self._lock:
                overdue = time.monotonic() - IDLE_SECONDS
                ended = [worker for worker in self._idle if worker.idle_since < overdue]
                self._idle = [worker for worker in self._idle if worker not in ended]
                is_last = not self._idle and not self._readers
                if is_last:
                    self._sweeper = None
            for worker in ended:
                worker.end()
            if is_last:
                return
