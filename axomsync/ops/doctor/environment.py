"""Checks of the environment: the calling user, variables, proxies, certificate authorities, the clock of this machine."""

import ctypes
import os
from collections.abc import Callable, Iterator

from axomsync.config import misspelt
from axomsync.core.errors import BadConfig
from axomsync.ops.doctor.findings import Finding, Verdict
from axomsync.ops.doctor.installation import Installation
from axomsync.transport import authorities
from axomsync.transport.proxies import Proxies

TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised

_SYNCHRONISE = "enable systemd-timesyncd or chrony; for a container, on its host"


def calling_user(installation: Installation) -> Iterator[Finding]:
    """Check that the caller is no stronger than the service."""
    service = installation.service
    yield from user(os.geteuid(), service.pw_name if service else None)


def user(euid: int, service: str | None) -> Iterator[Finding]:
    """Judge the caller: root may do what the service may not."""
    if euid == 0 and service not in (None, "root"):
        fix = f"runuser -u {service} -- axomsync doctor, with the key in $AXOM_KEY"
        yield Finding("user", Verdict.WARN, f"the checks run as root, but the service runs as {service}", fix)


def misspelt_variables(installation: Installation) -> Iterator[Finding]:
    """Check the names of axomsync's own variables."""
    for line in misspelt(installation.environ):
        yield Finding("environment", Verdict.WARN, line, "correct its name, or unset it")


def proxies_in_use(installation: Installation) -> Iterator[Finding]:
    """Check the proxies that variables name."""
    yield from proxies(Proxies.of(installation.environ))


def proxies(found: Proxies) -> Iterator[Finding]:
    """Judge proxies: they answer in place of console and storage."""
    for warning in found.warnings:
        yield Finding("proxy", Verdict.WARN, warning, "correct the variable where the agent is started, or unset it there")
    used = ", ".join(f"{scheme} goes through {proxy}" for scheme, proxy in sorted(found.named.items()))
    yield Finding("proxy", Verdict.OK, used or "none is used")


def known_authorities(installation: Installation) -> Iterator[Finding]:
    """Check that this machine trusts certificate authorities."""
    for complaint in authorities.complaints(installation.environ):
        yield Finding("certificates", Verdict.WARN, complaint, "correct the variable where the agent is started")
    ca_file = installation.ca_file
    try:
        known = authorities.any_known(authorities.tls_context(ca_file))
    except BadConfig as bad:
        yield Finding("certificates", Verdict.FAIL, str(bad), "correct that, or leave ca_file out")
        return
    if known:
        own = f", and those of {ca_file}" if ca_file else ""
        yield Finding("certificates", Verdict.OK, f"the system's authorities are trusted{own}")
    else:
        yield Finding("certificates", Verdict.FAIL, "no certificate authority is known on this machine", authorities.FIX)


def time_synchronisation(_: Installation) -> Iterator[Finding]:
    """Check that something keeps this machine's clock right."""
    adjtimex: Callable[[ctypes.Array[ctypes.c_char]], int] = ctypes.CDLL(None).adjtimex
    yield clock(adjtimex(ctypes.create_string_buffer(512)) != TIME_ERROR)  # all zeros: it only asks


def clock(synchronised: bool) -> Finding:
    """Judge the kernel's word on the clock."""
    if synchronised:
        return Finding("time sync", Verdict.OK, "the kernel's clock is synchronised")
    return Finding("time sync", Verdict.WARN, "nothing synchronises the clock", _SYNCHRONISE)
