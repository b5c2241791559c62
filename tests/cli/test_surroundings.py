"""Where strangers start it: proxies, certificate stores, containers. All work, or say in one line what to do."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.rig.installation import CHECKOUT
from tests.rig.surroundings import SECRET

_ALONE = 'ip link set lo up && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && exec "$@"'

WORKS = {"run": 0, "status": 0, "sync": 0, "doctor": 0}
UNREACHED = {"run": 0, "status": 0, "sync": 75, "doctor": 1}
BAD = {"run": 78, "status": 0, "sync": 78, "doctor": 1}
FULL = {"run": 0, "status": 1, "sync": 0, "doctor": 1}
NO_NAME = "can't connect: its name can't be resolved"
THROUGH = r"through the proxy 127\.0\.0\.1:\d+ \(\$HTTPS_PROXY\): "
LEFT_OUT = rf"PROXY: left out: this is not the address of a proxy[\s\S]*{NO_NAME}"
A_KEY = "can't be used: it holds no PEM certificate, but a private key"
# What the verbs end with, and what those say that don't find the console; else what `run` warns of.
EXPECTED = {
    "a proxy": (WORKS, None),
    "a proxy in lower case": (WORKS, None),
    "a SOCKS proxy": (WORKS, None),
    "what container runtimes set": (WORKS, None),
    "a proxy without scheme": (WORKS, None),
    "a proxy with a password": (WORKS, None),
    "an exception": (UNREACHED, NO_NAME),
    "a proxy that is none": (UNREACHED, f"(?i)\\$https_{LEFT_OUT}"),
    "a port that is none": (UNREACHED, f"\\$HTTPS_{LEFT_OUT}"),
    "a proxy that is not there": (
        UNREACHED,
        rf"{THROUGH}can't connect: no service listens there",
    ),
    "a proxy that wants a password": (
        UNREACHED,
        rf"{THROUGH}it answered 407; put a user",
    ),
    "a proxy that refuses": (
        UNREACHED,
        rf"{THROUGH}it answered 502; is the host allowed",
    ),
    "a proxy that hangs up": (UNREACHED, r"\(\$ALL_PROXY\): the connection broke"),
    "a SOCKS proxy of version 4": (UNREACHED, rf"\$all_proxy: left out: socks4 proxies are not understood[\s\S]*{NO_NAME}"),
    "no authorities": (
        UNREACHED,
        r"no certificate authority is known .*; install ca-certificates, or name \[console\] ca_file",
    ),
    "no authorities but one's own": (WORKS, r"\$SSL_CERT_FILE: /nowhere can't be used: No such file"),
    "certificates that are none": (
        WORKS,
        rf"\$SSL_CERT_FILE: .* {A_KEY}",
    ),
    "certificates without an end": (WORKS, r"\$SSL_CERT_FILE: /dev/zero can't be used: it is no regular file; name"),
    "an authority without an end": (BAD, r"\[console\] ca_file /dev/zero: can't be used: it is no regular file"),
    "an authority that is not there": (
        BAD,
        r"\[console\] ca_file /nowhere/ca.pem: can't be used: No such file",
    ),
    "an authority that is a key": (
        BAD,
        rf"\[console\] ca_file .*: {A_KEY}",
    ),
    "a user without a name or a home": (WORKS, None),
    "an address of IPv6, where there is none": (
        WORKS,
        r"status page: \[::1\]:9464: this machine has no such address",
    ),
    "a kernel without IPv6": (WORKS, r"status page: \[::\]:9464: this machine has no IPv6; name an address such as"),
    "a port that is taken": (WORKS, r"status page: .*: another program uses this address"),
    "closed descriptors": (WORKS, None),
    "an output that is full": (FULL, None),
    "no terminal, language or zone": (WORKS, None),
    "no folder for temporary files": (WORKS, None),
    "nothing but the environment": (WORKS, r"\$AXOMSYNC_MIRROR_POL: .* did you mean AXOMSYNC_MIRROR__POLL\?"),
}


def test_every_verb_works_or_says_what_to_do(place: Path) -> None:
    command = [sys.executable, "-m", "tests.rig.surroundings", str(place)]
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", _ALONE, "sh", *command],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results.keys() == EXPECTED.keys()
    faults: list[tuple[object, ...]] = []
    for name, (codes, words) in EXPECTED.items():
        found = {verb: code for verb, (code, _) in results[name].items()}
        said = {verb: text for verb, (_, text) in results[name].items()}
        if found != codes:
            faults.append((name, found, codes, said))
        if any(sign in text for text in said.values() for sign in ("Traceback", "please report", SECRET)):
            faults.append((name, said))
        tell = [verb for verb, code in codes.items() if code] if codes in (UNREACHED, BAD) else []
        for verb in ("run", *tell):
            if words is not None and not re.search(words, said[verb]):
                faults.append((name, verb, words, said[verb]))
            if verb != "doctor" and len(re.findall(words or "$^", said[verb])) > 2:
                faults.append((name, verb, "it is told once", said[verb]))
    assert not faults, "\n".join(map(str, faults))
