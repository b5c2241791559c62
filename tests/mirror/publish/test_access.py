"""`[mirror] group` and `mode`: never more open than asked, and a change mends what is there."""

import os
import re
import shutil
import stat
import struct
from pathlib import Path

import pytest

from axomsync import config
from axomsync.core.errors import BadConfig, LocalFault
from axomsync.core.records import ModelState
from axomsync.mirror.publish.access import Access
from axomsync.ops.doctor.findings import Verdict
from axomsync.ops.doctor.installation import Installation
from axomsync.ops.doctor.service import group_of_models
from tests.mirror.inprocess import MirrorHere
from tests.rig.agent import AgentProcess, eventually
from tests.rig.faults import FOREVER, KEY, Content, Fault, FaultyServer

MIB = 1 << 20
FILES = {"a.bin": Content(2 * MIB, 1), "sub/b.bin": Content(5000, 2), "config.json": Content(20, 3, b"{}")}
GROUP, OTHER, NOBODY = 100, 12, 65534  # numbers that need no name
# Every call by which a file or folder gets rights, with the path where the kernel knows it.
CALLS = "trace=openat,open,creat,mkdir,mkdirat,mknod,mknodat,chmod,fchmod,fchmodat,chown,fchown,fchownat,lchown"
_MADE = re.compile(r"\b(?:open|openat|creat)\(.*O_CREAT[^,]*, (?P<mode>0[0-7]*)\) = \d+<(?P<path>[^>]+)>")
_FOLDER = re.compile(r'\bmkdir(?:at)?\(.*?"(?P<path>[^"]+)", (?P<mode>0[0-7]*)\)')
_CHANGED = re.compile(r'\bf?chmod(?:at)?\((?:\d+<(?P<open>[^>]*)>|.*?"(?P<path>[^"]+)"), (?P<mode>0[0-7]*)')


def rights(mirror: Path) -> dict[str, tuple[int, int]]:
    """Mode and group of everything that is published."""
    found = {}
    for path in (path for path in mirror.rglob("*") if not path.is_symlink() and ".axomsync/" not in f"{path}/"):
        found[str(path.relative_to(mirror))] = (stat.S_IMODE(path.lstat().st_mode), path.lstat().st_gid)
    return found


def expected(mirror: Path, mode: int, group: int) -> dict[str, tuple[int, int]]:
    folder_mode = mode | (mode & 0o444) >> 2
    return {rel: (folder_mode if (mirror / rel).is_dir() else mode, group) for rel in rights(mirror)}


def too_open(trace: str, root: Path, mode: int) -> list[str]:
    """Calls that give something below `root` more rights than `mode`."""
    folder_mode, wrong, seen = mode | (mode & 0o444) >> 2, [], 0
    for line in trace.splitlines():
        for pattern, most in ((_MADE, mode), (_FOLDER, folder_mode), (_CHANGED, folder_mode)):
            match = pattern.search(line)
            if match is None or " = -1 " in line:
                continue
            path = match.groupdict().get("open") or match["path"]
            if path is None or not path.startswith(f"{root}/"):
                continue
            seen += 1
            if int(match["mode"], 8) & ~most:
                wrong.append(line)
    assert seen > 2, "the trace has nothing of the mirror folder"
    return wrong


def test_at_no_moment_is_anything_more_open_than_asked(tmp_path: Path, server: FaultyServer) -> None:
    """With a umask that takes nothing away: a download, a shared file, an import and a repair."""
    server.add_model("bot", "v1", FILES)
    settings = {"mode": "0640", "group": str(GROUP)}
    with AgentProcess(tmp_path / "box", server.url, KEY, {"drop": {"enabled": False}, "mirror": settings}) as agent:

        def traced(*words: str) -> None:
            trace = tmp_path / "trace"
            prefix = ("sh", "-c", 'umask 0; exec "$@"', "sh", "strace", "-f", "-qq", "-y", "-s", "4096", "-o", str(trace))
            agent.launch(*words, prefix=(*prefix, "-e", CALLS))
            assert agent.wait() == 0, agent.log()
            assert too_open(trace.read_text(errors="replace"), agent.mirror, 0o640) == []

        traced("sync")
        assert rights(agent.mirror) == expected(agent.mirror, 0o640, GROUP)
        server.add_model("bot", "v2", FILES)
        traced("sync")
        shutil.copytree(agent.mirror / "bot" / "v1", tmp_path / "usb")
        damaged = agent.mirror / "bot" / "v1" / "sub/b.bin"
        damaged.write_bytes(bytes(5000))
        traced("verify", "--repair")
        assert FILES["sub/b.bin"].fault_in(damaged) is None
        shutil.rmtree(agent.mirror / "bot" / "v1")
        traced("import", str(tmp_path / "usb"))
        assert (agent.mirror / "bot" / "v1" / "a.bin").exists()
        assert rights(agent.mirror) == expected(agent.mirror, 0o640, GROUP)
        assert len(rights(agent.mirror)) == 13


def test_a_change_mends_what_is_there_and_fetches_nothing(mirror: MirrorHere, server: FaultyServer) -> None:
    server.add_model("bot", "v1", FILES)
    mirror.sync()
    own = mirror.folder.stat().st_gid
    assert rights(mirror.folder) == expected(mirror.folder, 0o644, own)
    stored = len(server.storage_requests())
    server.inject(Fault(500), "/api/models", times=FOREVER)  # also while the console is down
    for mode, group in ((0o640, GROUP), (0o600, OTHER), (0o644, GROUP)):
        mirror.settings |= {"mode": f"{mode:04o}", "group": str(group)}
        with mirror.running():
            eventually_mended(mirror.folder, mode, group)
    assert len(server.storage_requests()) == stored


def eventually_mended(folder: Path, mode: int, group: int) -> None:
    eventually("the rights", lambda: rights(folder) == expected(folder, mode, group))


def test_bytes_of_a_download_are_closed_when_less_is_asked(mirror: MirrorHere, server: FaultyServer) -> None:
    left = mirror.folder / ".axomsync" / "here" / "mdl" / "sub" / "a.bin"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"a")
    left.chmod(0o644)
    (mirror.folder / ".axomsync").chmod(0o755)
    mirror.settings |= {"mode": "0600"}
    mirror.sync()
    for path in (left, *left.parents):
        if path == mirror.folder:
            break
        assert path.stat().st_mode & 0o077 == 0, path


def test_without_its_group_nothing_appears(mirror: MirrorHere, server: FaultyServer) -> None:
    model = server.add_model("bot", "v1", FILES)
    mirror.settings |= {"group": "no-such-group"}
    with pytest.raises(LocalFault, match="there is no group no-such-group; run: groupadd no-such-group"):
        mirror.sync()
    assert not (mirror.folder / "bot").exists()
    mirror.settings |= {"group": str(GROUP)}
    mirror.sync()
    assert mirror.model(model).state is ModelState.PUBLISHED


def test_a_user_who_is_not_in_the_group(place: Path, server: FaultyServer) -> None:
    server.add_model("bot", "v1", FILES)
    settings = {"drop": {"enabled": False}, "mirror": {"mode": "0640", "group": str(GROUP)}}
    with AgentProcess(place / "box", server.url, KEY, settings) as agent:
        agent.state.mkdir()
        for folder in (agent.home, agent.mirror, agent.state):
            os.chown(folder, NOBODY, NOBODY)
        someone = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}")
        agent.launch("sync", prefix=(*someone, "--clear-groups"))
        assert agent.wait() != 0
        assert f"is not in the group {GROUP}; run: usermod -aG {GROUP}" in agent.log()
        assert not (agent.mirror / "bot").exists()
        agent.launch("sync", prefix=(*someone, f"--groups={GROUP}"))
        assert agent.wait() == 0, agent.log()
        assert rights(agent.mirror) == expected(agent.mirror, 0o640, GROUP)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as the kernel stores it (posix_acl_xattr.h): tag, rights and number of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_a_default_acl_is_bounded_by_the_mode(mirror: MirrorHere, server: FaultyServer) -> None:
    """What an ACL grants to a user is without effect until the mode lets the group read."""
    owner, user, group, mask, others, nobody = 0x01, 0x02, 0x04, 0x10, 0x20, 0xFFFFFFFF
    server.add_model("bot", "v1", FILES)
    generous = acl((owner, 7, nobody), (user, 7, NOBODY), (group, 7, nobody), (mask, 7, nobody), (others, 7, nobody))
    os.setxattr(mirror.folder, "system.posix_acl_default", generous)
    mirror.settings |= {"mode": "0600"}
    mirror.sync()
    for path in mirror.folder.rglob("*"):
        if path.is_symlink():
            continue
        assert path.stat().st_mode & 0o077 == 0, path
        told = os.getxattr(path, "system.posix_acl_access")
        rights_by_tag = {tag: perm for tag, perm, _ in struct.iter_unpack("<HHI", told[4:])}
        assert (rights_by_tag[user], rights_by_tag[mask]) == (7, 0), path


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('mode = "0640"', None),
        ('mode = "600"', None),
        ("mode = 640", 'write it in octal and in quotes, such as "0640"'),
        ('mode = "rw-r-----"', "is not a mode"),
        ('mode = "0664"', "others read at most"),
        ('mode = "0755"', "the owner reads and writes"),
        ('mode = "0440"', "the owner reads and writes"),
        ('mode = "4644"', "is not a mode"),
        ('group = "ml"', None),
        ('group = "a b"', "is not the name of a group"),
        ('group = "../x"', "is not the name of a group"),
    ],
)
def test_what_may_be_written(written: str, words: str | None) -> None:
    if words is None:
        settings = config.parse(f"[mirror]\n{written}", Path("c.toml"), {}).settings.mirror
        assert settings.mode in ("0640", "0600", "0644")
    else:
        with pytest.raises(BadConfig, match=re.escape(words)):
            config.parse(f"[mirror]\n{written}", Path("c.toml"), {})


def test_doctor_knows_the_group() -> None:
    def found(group: str) -> list[tuple[Verdict, str]]:
        settings = config.parse(f"[mirror]\ngroup = '{group}'", Path("c.toml"), {}).settings
        return [(finding.verdict, finding.fix) for finding in group_of_models(Installation(settings, {}, [], False))]

    assert found("") == []
    assert found("no-such-group") == [(Verdict.FAIL, "groupadd no-such-group, or correct it")]
    assert found(str(GROUP)) == [(Verdict.OK, "")]


def test_rights_of_folders() -> None:
    assert [Access(mode).folder_mode for mode in (0o644, 0o640, 0o604, 0o600)] == [0o755, 0o750, 0o705, 0o700]
