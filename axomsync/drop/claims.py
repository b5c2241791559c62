"""Which agent carries a content when several share one drop folder: claims in `<drop>/.axomsync`.

    agents/<identity>      an agent that has worked here
    claims/<digest>        a symlink to the identity of the agent that carries this content now
    claims/<digest>.json   what storage has of it, for the other agents; also for later lives of an agent whose files stay

A symlink is made in one atomic call together with what it says, on network filesystems too.

Failures handled: an agent that died (its claim is not touched for `STALE_SECONDS` and may be taken over), one that comes
back (the claim is still its own), a folder that can't be written to (nobody can claim there, each agent works for itself),
records that are cut off or no records at all (the content is uploaded).
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER = b".axomsync"
STALE_SECONDS = 900.0
TOUCH_SECONDS = 60.0


class Claims:
    """The claims of one agent. `keeps` says that files stay after their upload: then records are for later lives, too."""

    def __init__(self, root: Path, identity: str, *, keeps: bool) -> None:
        self._folder = os.path.join(os.fsencode(root), FOLDER)
        self._identity, self._keeps = identity.encode(), keeps

    def register(self) -> None:
        """Be known to the other agents from now on."""
        with suppress(OSError):
            for name in (b"", b"agents", b"claims"):
                with suppress(FileExistsError):
                    os.mkdir(os.path.join(self._folder, name))
            self._mark()

    def take(self, content: str) -> str | None:
        """Claim a content; returns None when this agent may carry it, else the identity of the agent that does."""
        claim = self._claim(content)
        for _ in range(2):
            try:
                os.symlink(self._identity, claim)
            except FileExistsError:
                holder = self._holder(claim)
                if holder == self._identity:
                    self.touch(content)
                    return None
                if holder is not None and not self._take_over(claim):
                    return os.fsdecode(holder)
            except FileNotFoundError:
                self.register()  # whoever tidied up the folder took that away, too
            except OSError:
                return None
            else:
                return None
        return None if not os.path.lexists(claim) else "which just began"

    def touch(self, content: str) -> None:
        """This agent still carries it."""
        with suppress(OSError):
            os.utime(self._claim(content), follow_symlinks=False)

    def record(self, content: str) -> dict[str, Any] | None:
        """What storage has of this content, when an agent here has uploaded it."""
        try:
            with open(self._claim(content) + b".json", encoding="utf-8") as file:
                document = json.load(file)
        except (OSError, ValueError):
            return None
        usable = isinstance(document, dict) and (document.get("upload_id") or document.get("shards"))
        return document if usable else None

    def settle(self, content: str, document: dict[str, Any]) -> None:
        """Storage has it: tell the others, if there are any or will be."""
        if not self._keeps and not self._others():
            return
        path = self._claim(content) + b".json"
        temporary = path + b"." + self._identity
        with suppress(OSError):
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(document, file)
            os.rename(temporary, path)

    def release(self, content: str) -> None:
        """This agent no longer carries it."""
        claim = self._claim(content)
        with suppress(OSError):
            if self._holder(claim) == self._identity:
                os.unlink(claim)

    def _claim(self, content: str) -> bytes:
        name = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()
        return os.path.join(self._folder, b"claims", name.encode())

    def _mark(self) -> float:
        """The time now by the clock of the filesystem, which all agents share."""
        mark = os.path.join(self._folder, b"agents", self._identity)
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        os.utime(mark)
        return os.stat(mark).st_mtime

    def _others(self) -> bool:
        try:
            return any(name != self._identity for name in os.listdir(os.path.join(self._folder, b"agents")))
        except OSError:
            return False

    def _take_over(self, claim: bytes) -> bool:
        """Remove the claim of an agent that died. One at a time judges, lest a fresh claim be taken for the old."""
        judge = claim + b".judged"
        try:
            os.symlink(self._identity, judge)
        except OSError:
            with suppress(OSError):
                if self._mark() - os.lstat(judge).st_mtime > STALE_SECONDS:  # died just here
                    os.unlink(judge)
            return False
        try:
            if self._mark() - os.lstat(claim).st_mtime < STALE_SECONDS:
                return False
            os.unlink(claim)
        except OSError:
            return False
        finally:
            with suppress(OSError):
                os.unlink(judge)
        return True

    @staticmethod
    def _holder(claim: bytes) -> bytes | None:
        try:
            return os.readlink(claim)
        except OSError:
            return None
