"""What must be true of a run, each claim in a sentence. This module imports nothing of the agent and asks it nothing.

It reads what a stranger could read: the folders, the bytes that storage got, the requests, the words and exit codes.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.torture import claims_of_models
from tests.torture.evidence import Evidence

CODES = {0, 1, 3, 4, 75, 78}  # of the contract


def broken_promises(e: Evidence) -> list[str]:
    """Every claim that does not hold, with what contradicts it."""
    claims = ALWAYS + (AT_REST if e.at_rest else ())
    return [f"{(claim.__doc__ or '').strip()} BUT {fact}" for claim in claims for fact in claim(e)]


# After every life, whatever happened


def no_byte_of_a_user_is_lost(e: Evidence) -> Iterator[str]:
    """The bytes of every dropped file are in its place, in uploaded/, in rejected/, or (delete) in storage."""
    kept = Counter(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in e.drop.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    stored = _stored(e)
    deletes = e.world.config["drop"]["after"] == "delete"
    for data, number in Counter(file.data for file in e.dropped).items():
        there = kept[hashlib.sha256(data).hexdigest()]
        content = next(file.content for file in e.dropped if file.data == data)
        if there < number and not (deletes and content is not None and content in stored):
            yield f"{number - there} of {[file.path for file in e.dropped if file.data == data]} is nowhere"


def receipts_are_true(e: Evidence) -> Iterator[str]:
    """A receipt is whole and names bytes that storage has; the file beside it has these bytes."""
    for path in (e.drop / "uploaded").rglob("*.receipt.json"):
        archived = path.with_name(path.name.removesuffix(".receipt.json"))
        try:
            told = json.loads(path.read_bytes())
        except ValueError:
            yield f"{path} is no JSON: {path.read_bytes()[:80]!r}"
            continue
        if hashlib.sha256(_stored_as(e, told)).hexdigest() != told["sha256"]:
            yield f"{path} names {told['key'] or told['shards']}, which has other bytes or is not there"
        is_plain = archived.exists() and told.get("packed") is None
        if is_plain and hashlib.sha256(archived.read_bytes()).hexdigest() != told["sha256"]:
            yield f"{archived} has other bytes than its receipt says"


def storage_has_only_checked_contents(e: Evidence) -> Iterator[str]:
    """Storage gets nothing but the content of valid files, whole, or their shards."""
    contents = [file.content for file in e.dropped if file.content is not None]
    for key, data in e.uploaded.items():
        if data not in contents and not any(data in content and data.endswith(b"\n") for content in contents):
            yield f"{key} has {len(data)} bytes that no valid file has: {data[:60]!r}"


def no_secret_in_any_output(e: Evidence) -> Iterator[str]:
    """The key and signatures are in no output and in no file but the ledger, which is closed to others."""
    for number, life in enumerate(e.lives):
        for secret in e.secrets:
            if secret in life.words:
                yield f"life {number} wrote {secret}: {_around(life.words, secret)}"
    for folder in (e.drop, e.mirror):
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix == ".json" and any(s.encode() in path.read_bytes() for s in e.secrets):
                yield f"{path} has a secret in it"
    state = e.data / "state"
    if state.exists() and state.stat().st_mode & 0o007:
        yield f"{state} has the mode {state.stat().st_mode & 0o777:o}"


def words_are_for_people(e: Evidence) -> Iterator[str]:
    """Whatever happens is told in words: no traceback, no request to report a bug, and an exit code of the contract."""
    life = e.lives[-1]
    for sign in ("Traceback (most recent call last)", "please report it", "this is a bug"):
        if sign in life.words:
            yield f"it wrote: {_around(life.words, sign, 1500)}"
    if life.code not in CODES and life.code != -9:
        yield f"it ended with {life.code}: {life.words[-600:]}"
    if life.code == -9 and not life.struck:
        yield f"it was killed by nobody: {life.words[-600:]}"
    if life.code and life.code != -9 and not life.words.strip():
        yield f"it ended with {life.code} and said nothing"


def nothing_outside(e: Evidence) -> Iterator[str]:
    """Nothing outside of the configured folders is touched."""
    there = {path.name: path.read_text() for path in e.beside.iterdir()}
    if there != {"mine": "not the agent's"}:
        yield f"beside them lies {there}"
    strange = {path.name for path in e.data.iterdir()} - {"drop", "mirror", "view", "state", "lost+found", "ballast"}
    if strange:
        yield f"{sorted(strange)} is new"


# When nothing goes wrong any more


def every_valid_file_is_in_storage(e: Evidence) -> Iterator[str]:
    """Every valid file is in storage."""
    stored = _stored(e)
    for file in e.dropped:
        if file.content is not None and file.content not in stored:
            yield f"{file.path} is not: {e.lives[-1].words[-500:]}"


def every_content_is_stored_once(e: Evidence) -> Iterator[str]:
    """Each content is one object of its name in storage, or one set of shards."""
    if e.wire_failed or e.ledger_attacked:
        return  # an answer that was lost, or a ledger, may cost a second object
    names = Counter((data, os.path.basename(key)) for key, data in e.uploaded.items())  # another name is another upload
    for (data, name), number in names.items():
        if number > 1:
            yield f"{number} objects named {name} have the same {len(data)} bytes"


def files_are_put_away(e: Evidence) -> Iterator[str]:
    """Valid files are where `after` says, with a receipt if they are archived; invalid ones in rejected/ with the reason."""
    after = e.world.config["drop"]["after"]
    for file in e.dropped:
        place = e.drop / file.path
        if file.content is None:
            if place.exists() or not list((e.drop / "rejected").rglob("*.reason.txt")):
                yield f"{file.path} is not in rejected/ with a reason: {e.lives[-1].words[-500:]}"
        elif after == "keep" and not place.exists():
            yield f"{file.path} did not stay"
        elif after == "delete" and place.exists():
            yield f"{file.path} was not deleted: {e.lives[-1].words[-500:]}"
        elif after == "archive":
            if place.exists():
                yield f"{file.path} was not archived: {e.lives[-1].words[-500:]}"
            archived = [
                path for path in (e.drop / "uploaded").rglob("*") if path.is_file() and path.read_bytes() == file.data
            ]
            if not archived:
                yield f"{file.path} is not in uploaded/"
            elif not any(path.with_name(path.name + ".receipt.json").exists() for path in archived):
                yield f"{archived[0]} has no receipt"


def an_idle_life_does_nothing(e: Evidence) -> Iterator[str]:
    """A life with nothing to do asks storage nothing and changes nothing."""
    if not e.is_idle():
        after = e.everything()
        changed = [key for key in e.before.keys() | after.keys() if e.before.get(key) != after.get(key)]
        yield f"it asked {e.requests} and changed {changed}"


def nothing_is_left_over(e: Evidence) -> Iterator[str]:
    """No unfinished file is left, and no staging, spool or claim."""
    for folder in (e.drop, e.data / "state"):  # mirror and views may be shared: there it goes after an hour
        for path in folder.rglob("*"):
            doomed = path.name.startswith(".axomsync-deleting-") and not e.ledger_attacked  # its name is in the ledger alone
            if path.name.startswith(".axomsync-unfinished-") or doomed:
                yield f"{path} is left"
    claims = e.drop / ".axomsync" / "claims"
    if claims.exists() and (left := [p.name for p in claims.iterdir() if p.is_symlink() and not p.name.endswith(".json")]):
        yield f"the claims {left} are left"
    inside = e.mirror / ".axomsync"
    waits = bool(e.truth.refused)  # what a gate refused is there until it is judged again
    files = (p for p in inside.rglob("*") if p.is_file() and p.stat().st_size) if inside.exists() and not waits else ()
    # What an import left that nobody begins again goes after an hour.
    if left := [str(p) for p in files if not any(part.startswith(".imported-") for part in p.parts)]:
        yield f"{left} are left in staging"


def the_code_is_right(e: Evidence) -> Iterator[str]:
    """The exit code is 1 if a file was rejected, and else 0."""
    life = e.lives[-1]
    is_refused = bool(e.truth.refused) or any(file.content is None for file in e.dropped)
    if life.code not in (0, 1) or (life.code == 1 and not is_refused):
        yield f"it is {life.code}: {life.words[-600:]}"


def zero_means_done(e: Evidence) -> Iterator[str]:
    """A pass that ends with 0 left nothing undone."""
    life = e.lives[-1]
    if life.verb[0] == "sync" and life.code == 0 and not e.wire_failed:  # the far side can say that there is nothing to do
        yield from claims_of_models.every_ready_model_is_there(e)
        yield from every_valid_file_is_in_storage(e)


ALWAYS = (
    *claims_of_models.ALWAYS, no_byte_of_a_user_is_lost, receipts_are_true, storage_has_only_checked_contents,
    no_secret_in_any_output, words_are_for_people, nothing_outside, zero_means_done,
)  # fmt: skip
AT_REST = (
    *claims_of_models.AT_REST, every_valid_file_is_in_storage, every_content_is_stored_once, files_are_put_away,
    an_idle_life_does_nothing, nothing_is_left_over, the_code_is_right,
)  # fmt: skip


def _stored(e: Evidence) -> set[bytes]:
    """Contents that storage has, those in shards as their receipts join them."""
    whole = set(e.uploaded.values())
    for path in (e.drop / "uploaded").rglob("*.receipt.json"):
        try:
            whole.add(_stored_as(e, json.loads(path.read_bytes())))
        except ValueError:
            continue
    parts = list(e.uploaded.values())
    for file in e.dropped:  # without receipts: if every line of a file is in some object of its name
        if file.content is not None and file.content not in whole and _is_joined(file.content, parts):
            whole.add(file.content)
    return whole


def _is_joined(content: bytes, parts: list[bytes]) -> bool:
    place = 0
    while place < len(content):
        fits = [part for part in parts if part and content.startswith(part, place)]
        if not fits:
            return False
        place += len(max(fits, key=len))
    return True


def _stored_as(e: Evidence, told: dict[str, Any]) -> bytes:
    keys = [shard["key"] for shard in told["shards"]] or [told["key"]]
    return b"".join(e.uploaded.get(key, b"") for key in keys)


def _around(text: str, sign: str, size: int = 300) -> str:
    place = text.index(sign)
    return re.sub(r"\s+", " ", text[max(0, place - size) : place + size])
