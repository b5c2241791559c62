"""The tour: the real agent, as a process of its own, on real input, against the sandbox. `axomsync demo`, `make demo`.

Owns a temporary folder and everything that runs in it. The agent's own commands say what is shown, and every claim is
checked against storage, the relay's record or the files.

Failures handled: a claim that does not hold, an agent that gets stuck and a store that does not start (told, exit code 1),
a disk that is too small (told at once), Ctrl-C, SIGTERM and SIGHUP anywhere (agent and sandbox stopped, folder removed).
"""

import json
import os
import shlex
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from axomsync.core.errors import LocalFault
from axomsync.core.own_program import own_program
from axomsync.sandbox.console import Sandbox
from axomsync.sandbox.demo import download, upload
from axomsync.sandbox.demo.installation import Installation, TourFailed
from axomsync.sandbox.demo.recording_relay import RecordingRelay
from axomsync.sandbox.demo.sample import find_model
from axomsync.sandbox.demo.story import CONNECTIONS, Story
from axomsync.sandbox.demo.voice import Voice, size
from axomsync.sandbox.errors import ObjectStoreError

URL_LIFETIME = timedelta(seconds=6)  # shorter than the time to the crash
CONFIG = f"""[transfer]
connections = {CONNECTIONS}
[web]
listen = ""
"""


def tour(*, keep: bool) -> int:
    """Run the tour and return the exit code: 0 when every check holds. `keep` leaves all running until Ctrl-C."""
    voice = Voice()
    with ExitStack() as cleanup:
        cleanup.enter_context(_signals_as_interrupts())
        home = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="axomsync-demo-", ignore_cleanup_errors=True)))
        cleanup.callback(_ignore_signals)
        try:
            return _tour(voice, home, cleanup, keep=keep)
        except (TourFailed, ObjectStoreError) as failure:
            voice.say(f"FAILED: {failure}", style="red")
            return 1
        except KeyboardInterrupt:
            voice.say("interrupted: stopping the agent and the sandbox")
            raise


def _tour(voice: Voice, home: Path, cleanup: ExitStack, *, keep: bool) -> int:
    sample = find_model(home / "original")
    _check_room(home, 4 * sample.size)
    voice.step("A sandbox and an agent")
    sandbox = Sandbox(home / "sandbox", url_lifetime=URL_LIFETIME, relay_class=RecordingRelay)
    cleanup.enter_context(sandbox)
    agent = cleanup.enter_context(Installation(home, sandbox.url, sandbox.key, CONFIG))
    cleanup.callback(_ignore_signals)
    agent.start()
    story = Story(voice, sandbox, agent, sample)
    _tell(story)
    failed = story.summary()
    if keep:
        _keep(story)
    return 1 if failed else 0


def _tell(story: Story) -> None:
    """Go through the chapters."""
    _introduce(story)
    upload.drop_files(story)
    model = download.train_model(story)
    kept = download.download_half(story, model)
    download.let_urls_expire(story)
    download.resume(story, kept)
    download.open_model(story)
    _look_for_secrets(story)


def _introduce(story: Story) -> None:
    story.voice.table(
        [
            ("console", story.sandbox.url),
            ("storage", f"{story.relay.endpoint} (SeaweedFS, a real S3 server, pid {story.sandbox.store.pid})"),
            ("agent", f"python -m axomsync run (pid {story.agent.pid})"),
            ("drop folder", str(story.agent.drop)),
            ("mirror", str(story.agent.mirror)),
        ]
    )


def _look_for_secrets(story: Story) -> None:
    written = story.agent.log_file.read_text(encoding="utf-8", errors="replace")
    silent = story.sandbox.key not in written and "X-Amz-Signature=" not in written
    story.check("no key and no signature is in the log", silent)
    story.check("storage was never shown the key", not any("authorization" in r.headers for r in story.relay.requests))


def _keep(story: Story) -> None:
    """Say what to try next, and wait for Ctrl-C."""
    story.sandbox.rate = None
    story.sandbox.url_lifetime = timedelta(minutes=15)
    body = json.dumps({"name": story.sample.name, "version": "2", "folder": str(story.sample.folder)})
    publish = shlex.join(["curl", "-s", f"{story.sandbox.admin_url}/models", "-d", body])
    clean = "env -u AXOM_KEY " if "AXOM_KEY" in os.environ else ""
    axomsync = clean + shlex.join(own_program())
    config = shlex.quote(str(story.agent.config_file))
    story.voice.step("All of it goes on until Ctrl-C; try, in another terminal")
    story.voice.table(
        [
            ("how it stands", f"{axomsync} status --config {config}"),
            ("what is mirrored", f"{axomsync} models --config {config}"),
            ("a file to upload", f'echo \'{{"text": "hello"}}\' > {shlex.quote(str(story.agent.drop / "hello.jsonl"))}'),
            ("where it went", f"{axomsync} uploads --config {config}"),
            ("another version", publish),
            ("the newest one", f"ls -l {shlex.quote(str(story.agent.mirror / story.sample.name / 'current'))}/"),
            ("the agent's log", f"tail -f {shlex.quote(str(story.agent.log_file))}"),
        ]
    )
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        story.voice.say("stopping the agent and the sandbox")


def _check_room(home: Path, need: int) -> None:
    free = shutil.disk_usage(home).free
    if free < need:
        raise LocalFault(
            f"{home.parent}: the tour needs {size(need)} there, {size(free)} are free; set $TMPDIR to a larger place"
        )


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does. One that is ignored, by nohup for instance, stays so."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])


def _ignore_signals() -> None:
    """Cleaning up takes some seconds, in which an impatient Ctrl-C must not leave processes behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
