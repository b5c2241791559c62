"""Notifications to the service manager: the sd_notify protocol, without libsystemd.

Owns the datagrams to `$NOTIFY_SOCKET` and the reading of `$WATCHDOG_USEC`. The protocol is that of sd_notify(3) and
sd_watchdog_enabled(3).

Failures handled: no manager (every call is a no-op), a socket that has gone or refuses, a manager too busy to read
within a second. None raises: the service manager must not be able to stop a transfer.
"""

import os
import socket
import time

_PATIENCE = 1.0  # seconds; a full queue of the manager must not hold up a worker


def notify(**fields: str | int) -> bool:
    """Send `FIELD=value` lines as one datagram. True when the manager's socket took it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    message = "\n".join(f"{name}={_one_line(value)}" for name, value in fields.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(_PATIENCE)
            # "@" stands for the zero byte of Linux's abstract namespace
            channel.sendto(message.encode("utf-8", "backslashreplace"), address.replace("@", "\0", 1))
    except OSError:
        return False
    return True


def ready(text: str) -> bool:
    """Tell that start-up or a reload is done; `systemctl status` shows `text`."""
    return notify(READY=1, STATUS=text)


def status(text: str) -> bool:
    """Replace the line that `systemctl status` shows."""
    return notify(STATUS=text)


def reloading() -> bool:
    """Tell that a reload begins; `ready` ends it. Type=notify-reload (systemd 253) asks for the time stamp."""
    return notify(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)


def stopping() -> bool:
    """Tell that shutting down has begun."""
    return notify(STOPPING=1)


def watchdog() -> bool:
    """Tell that the workers make progress, or have nothing to do."""
    return notify(WATCHDOG=1)


def watchdog_interval() -> float | None:
    """Seconds between calls of `watchdog`: half of what the manager allows. None when it does not watch this process."""
    owner = os.environ.get("WATCHDOG_PID", "")
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if owner and owner != str(os.getpid()):
        return None
    return int(allowed) / 2e6 if allowed.isascii() and allowed.isdigit() and int(allowed) > 0 else None


def _one_line(value: str | int) -> str:
    """Return a value without line breaks: each would begin a field of its own."""
    return " ".join(str(value).split())
