"""Log lines: one format each for people, the journal and machines, and no secret in any of them."""

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axomsync.ops import logs

SIGNED = (
    "https://s.example/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20270101"
    "&X-Amz-Signature=feedfacefeedface&X-Amz-Security-Token=sesame"
)
SECRETS = ("feedfacefeedface", "AKIA", "sesame", "0123456789")


@pytest.mark.parametrize("form", ["console", "journal", "json"])
@pytest.mark.parametrize(
    "secret",
    [
        SIGNED,
        f"GET {SIGNED} failed",
        f"'{SIGNED}'",
        SIGNED.replace("/b/k", "/it's/k"),
        SIGNED.partition("example")[2],
        "/b/k?sv=1&sig=feedfacefeedface",
        "https://s.example/it's/k?sv='1'&sig=feedfacefeedface",
        "X-Amz-Signature=feedfacefeedface",
        "x-amz-credential=AKIA/20270101",
        "the key axom_live_0123456789 is wrong",
        "Authorization: Bearer 0123456789",
        '{"authorization": "bearer 0123456789"}',
    ],
)
def test_secrets_are_taken_out_of_messages_arguments_and_tracebacks(
    form: Literal["console", "journal", "json"], secret: str, stream: io.StringIO
) -> None:
    logs.set_up(form, "debug", {}, stream)
    log = logging.getLogger("axomsync.test")
    log.warning(secret)
    log.warning("failed: %s", secret)
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        log.exception("failed")
    written = stream.getvalue()
    assert written.count("failed") >= 2
    for word in SECRETS:
        assert word not in written


@given(st.text())
def test_what_holds_no_secret_is_left_as_it_is(text: str) -> None:
    if "?" not in text and "bearer" not in text.lower() and "axom_" not in text and "amz" not in text.lower():
        assert logs.redact(text) == text


def test_each_format_is_what_its_reader_expects(stream: io.StringIO) -> None:
    log = logging.getLogger("axomsync.test")
    logs.set_up("json", "info", {}, stream)
    log.warning("two\nlines %s", "größe")
    logs.set_up("journal", "info", {}, stream)
    log.warning("two\nlines")
    logs.set_up("console", "info", {}, stream)
    log.debug("not told")
    log.error("told")
    first, second, third, fourth = stream.getvalue().splitlines()
    assert (
        json.loads(first).items() >= {"level": "warning", "logger": "axomsync.test", "message": "two\nlines größe"}.items()
    )
    assert (second, third) == ("<4>two", "<4>lines")
    assert fourth.split(maxsplit=1)[1] == "error   told"


def test_libraries_that_log_urls_are_quiet_even_at_debug(stream: io.StringIO) -> None:
    logs.set_up("console", "debug", {}, stream)
    for name in ("httpx", "httpcore.connection", "apscheduler.scheduler", "watchdog.observers"):
        logging.getLogger(name).info("request to %s", SIGNED)
    assert stream.getvalue() == ""


FAILS = """
import logging, os, sys, threading
from axomsync.ops import logs
logs.set_up("auto", "info", os.environ)
def fail():
    raise RuntimeError("https://s.example/b?X-Amz-Signature=feedface")
logging.getLogger("x").info("%d", "axom_live_0123456789")
thread = threading.Thread(target=fail, name="lane-3")
thread.start()
thread.join()
fail()
"""


def test_an_event_while_the_watch_stops_is_no_error(stream: io.StringIO) -> None:
    logs.set_up("console", "info", {}, stream)
    watch = logging.getLogger("watchdog.observers.inotify")
    watch.error("InotifyEmitter.queue_events() called when the thread is inactive")
    assert stream.getvalue() == ""
    watch.warning("inotify queue overflow")
    assert "overflow" in stream.getvalue()


def test_an_error_that_nobody_caught_is_told_without_secrets() -> None:
    done = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "thread lane-3 ended unexpectedly: https://s.example/b?…" in done.stderr
    assert "the program ended unexpectedly: https://s.example/b?…" in done.stderr
    assert done.stderr.count("\nRuntimeError: https://") == 2
    assert "feedface" not in done.stderr
    assert "0123456789" not in done.stderr


def test_the_journal_format_is_for_a_stream_that_is_the_journal() -> None:
    """The variable alone is inherited by everything below a login session, whatever its output is."""
    reading, writing = os.pipe()
    status = os.fstat(writing)
    tell = "import os; from axomsync.ops import logs; logs.set_up('auto', 'info', os.environ);"
    tell += "import logging; logging.getLogger('x').info('hello')"
    for stream, expected in ((f"{status.st_dev}:{status.st_ino}", "<6>hello\n"), ("1:2", "info    hello\n")):
        environ = os.environ | {"JOURNAL_STREAM": stream}
        subprocess.run([sys.executable, "-c", tell], env=environ, stderr=writing, check=True)
        assert os.read(reading, 100).decode().endswith(expected)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("form", ["console", "journal", "json"])
def test_no_control_character_comes_through(form: Literal["console", "journal", "json"], stream: io.StringIO) -> None:
    logs.set_up(form, "info", {}, stream)
    logging.getLogger("x").warning("a %s b", "\r\x1b[2J\x00\x9b\u2028")
    assert "\\r\\x1b[2J\\x00\\x9b\\u2028" in stream.getvalue().replace("\\\\", "\\")
    assert len(stream.getvalue().splitlines()) == 1


def test_a_terminal_shows_the_time_and_a_file_the_day_and_the_zone_too() -> None:
    tell = "import logging, os; from axomsync.ops import logs; logs.set_up('console', 'info', os.environ);"
    tell += "logging.getLogger('x').info('hello')"
    parent, child = pty.openpty()
    environ = os.environ | {"TZ": "Asia/Kolkata"}
    subprocess.run([sys.executable, "-c", tell], env=environ, stderr=child, check=True)
    assert re.fullmatch(r"\d\d:\d\d:\d\d info    hello\r\n", os.read(parent, 100).decode())
    os.close(child)
    os.close(parent)
    file = subprocess.run([sys.executable, "-c", tell], env=environ, capture_output=True, text=True, check=True).stderr
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+05:30 info    hello\n", file)
