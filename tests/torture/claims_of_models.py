"""What must be true of the mirror and the views, each claim in a sentence. Imports nothing of the agent."""

import fnmatch
import json
import os
from collections.abc import Iterator
from pathlib import Path

from tests.torture.evidence import Evidence, folders_of
from tests.torture.worlds import Published

RECORD = ".axomsync.json"  # in each version's folder


# After every life, whatever happened


def never_partial(e: Evidence) -> Iterator[str]:
    """A version's folder is complete and identical to what was published, whenever it is there."""
    for model in e.published:
        least, most = _selected(model, e.truth.took), _selected(model, e.truth.takes)
        for folder in folders_of(e.mirror, model):
            found = _files_of(folder)
            removed = {rel for rel in most if e.truth.damaged.get(folder / rel, b"") is None}
            if not (folder / RECORD).is_file():
                yield f"{folder} has no record"
            if not least - removed <= found <= most:
                yield f"{folder} has {sorted(found)} and not {sorted(most)}"
            for rel in found & most:
                if (folder / rel).read_bytes() not in _allowed(e, model, folder, rel):
                    yield f"{folder / rel} has other bytes"


def current_leads_to_a_version(e: Evidence) -> Iterator[str]:
    """`current`, where it is, leads to a complete version."""
    for name in {model.name for model in e.published}:
        link = e.mirror / name / "current"
        if link.is_symlink() and not (link / RECORD).is_file() and os.readlink(link) not in e.truth.forgotten:
            yield f"{link} leads to {os.readlink(link)}"


def no_durable_byte_is_fetched_twice(e: Evidence) -> Iterator[str]:
    """A range that the ledger calls durable when a life begins is not fetched by it."""
    if (
        e.wire_failed
        or e.ledger_attacked
        or any(life.how is not None and (life.how > 0 or life.how == -3) for life in e.lives)
    ):
        return  # there the bytes on disk may be damaged, or the ledger may be wrong
    if any(sign in e.lives[-1].words for sign in ("; fetched again", "has to agree", "it gave wrong bytes")):
        return  # it says that nothing proves what it has
    yield from e.lives[-1].fetched_again


def current_leads_where_people_agreed(e: Evidence) -> Iterator[str]:
    """With promote = "manual", `current` and views lead to what a person promoted; what was promoted once stays."""
    if e.world.config["mirror"].get("promote") != "manual":
        return
    for name in {model.name for model in e.published}:
        agreed, leads = e.truth.agreed.get(name, set()), _leads(e, name)
        before_any = leads is None and name not in e.truth.promoted
        if leads not in agreed and not before_any:
            yield f"{name}/current leads to {leads}, agreed is {sorted(agreed)}"
        for where, version in _shown(e, name):
            if version not in agreed:
                yield f"the view's {where} leads to {version}, agreed is {sorted(agreed)}"


def views_lead_to_whole_versions(e: Evidence) -> Iterator[str]:
    """A link in a view leads to a whole version, never to nothing."""
    for link in (e.data / "view").rglob("*"):
        if link.is_symlink() and not (link / RECORD).is_file() and link.resolve().name not in e.truth.forgotten:
            yield f"{link} leads to {os.readlink(link)}, which is no version"


def what_a_gate_refuses_appears_nowhere(e: Evidence) -> Iterator[str]:
    """A version that a gate says no to is nowhere to be seen."""
    for model in e.published:
        if model.version in e.truth.refused and folders_of(e.mirror, model):
            yield f"{folders_of(e.mirror, model)} is there"


def nothing_imported_is_fetched(e: Evidence) -> Iterator[str]:
    """Of a model that `import` took, nothing is fetched any more."""
    if e.ledger_attacked:
        return
    if again := sorted(e.truth.imported_before & set(e.lives[-1].asked)):
        yield f"storage was asked for {again}: {e.lives[-1].words[-500:]}"


# When nothing goes wrong any more


def every_ready_model_is_there(e: Evidence) -> Iterator[str]:
    """Every ready version is on disk, or the older ones are pruned as `keep` says; `current` leads to the newest."""
    mirror = e.world.config["mirror"]
    keep, keep_gone = mirror.get("keep", 0), mirror.get("keep_gone", True)
    listed = [model for model in e.published if model.version not in e.truth.unlisted]
    for name in {model.name for model in e.published}:
        versions = [model for model in e.published if model.name == name and model.version not in e.truth.refused]
        ready = [model for model in listed if model.name == name]
        there = [model for model in versions if folders_of(e.mirror, model)]
        leading = [each for each in there if each.version == _leads(e, name)]  # it is never removed
        newest = ready[-keep:] if keep else ready  # also one that a gate refuses: it takes the place of an older one
        wanted = [model for model in newest if model.version not in e.truth.refused]
        for model in wanted:
            newer = [each for each in there if versions.index(each) > versions.index(model)]  # one may be gone upstream
            if model not in there and not (keep and len(newer) >= keep):
                yield f"{name}/{model.version} is not there: {e.lives[-1].words[-500:]}"
        stays = there[-keep:] if keep else there
        if listed and not keep_gone:
            stays = [model for model in stays if model in ready]
        if too_many := [str(folders_of(e.mirror, each)) for each in there if each not in stays and each not in leading]:
            yield f"{too_many} are not pruned"
        link = e.mirror / name / "current"
        if mirror.get("promote") == "manual":
            continue
        if there and (not link.is_symlink() or link.resolve() not in [f.resolve() for f in folders_of(e.mirror, there[-1])]):
            yield f"{link} leads to {os.readlink(link) if link.is_symlink() else 'nothing'}, not to {there[-1].version}"


def every_folder_is_as_it_should_be(e: Evidence) -> Iterator[str]:
    """A version's folder has all selected files, undamaged, and its record lists these."""
    for model in e.published:
        for folder in folders_of(e.mirror, model):
            found = _files_of(folder)
            wanted = _selected(model, e.truth.takes)
            late = e.truth.grown.get(model.version)
            had_all = _selected(model, e.truth.took) >= wanted - {late}  # then its list is not asked for again
            if wanted - found - ({late} if had_all or model.version in e.truth.unlisted else set()):
                yield f"{folder} lacks {sorted(wanted - found)}: {e.lives[-1].words[-500:]}"
            recorded = {file["rel"] for file in json.loads((folder / RECORD).read_bytes())["files"]}
            if recorded != found:
                yield f"the record of {folder} lists {sorted(recorded)}, and there are {sorted(found)}"


ALWAYS = (
    never_partial, current_leads_to_a_version, no_durable_byte_is_fetched_twice, current_leads_where_people_agreed,
    views_lead_to_whole_versions, what_a_gate_refuses_appears_nowhere, nothing_imported_is_fetched,
)  # fmt: skip
AT_REST = (every_ready_model_is_there, every_folder_is_as_it_should_be)


def _files_of(folder: Path) -> set[str]:
    """The files of a published folder, but for its record, and what a killed life was writing, which goes after an hour."""
    own = (RECORD, ".axomsync-unfinished-")
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.name.startswith(own)}


def _leads(e: Evidence, name: str) -> str | None:
    link = e.mirror / name / "current"
    return os.readlink(link) if link.is_symlink() else None


def _shown(e: Evidence, name: str) -> Iterator[tuple[str, str]]:
    """What a view shows as the current version of a name: its place in the view, and the version."""
    view = e.data / "view" / "v"
    if (link := view / name).is_symlink():
        yield name, link.resolve().name
    main = view / f"models--{name}" / "refs" / "main"
    if main.is_file():
        yield str(main.relative_to(view)), (main.parent.parent / "snapshots" / main.read_text()).resolve().name


def _selected(model: Published, globs: list[str]) -> set[str]:
    """The files of a version that `[mirror] files` selects."""
    return {rel for rel, *_ in model.files if any(fnmatch.fnmatchcase(rel, glob) for glob in globs)}


def _allowed(e: Evidence, model: Published, folder: Path, rel: str) -> list[bytes]:
    """What a published file may hold: what was published, or the damage that was done to it and is not repaired."""
    allowed = [e.bytes_of(size, number) for each, size, number in model.files if each == rel]
    damage = e.truth.damaged.get(folder / rel)
    return allowed if damage is None else [*allowed, damage]
