"""Readers of views, written from what engines do. Each looks once, opens every file, and returns the faults that it met.

Triton with `--model-control-mode=poll`: `Poll` and `VersionsToLoad` in core/src/model_repository_manager, and
core/src/filesystem/implementations/local.h. It examines each entry of the repository through links; an entry that can't be
examined ends the whole poll. Each folder is a model, also if its name begins with a dot. Its versions are the folders whose
name is a number without leading zeros.

vLLM with `VLLM_LORA_RESOLVER_CACHE_DIR`: `resolve_lora` in vllm/plugins/lora_resolvers/filesystem_resolver.py. Since pull
request 46287 it refuses a path whose real place lies outside of the folder (`contained`).

huggingface_hub offline: `snapshot_download` in _snapshot_download.py: `refs/main` holds the name of the snapshot's folder.
"""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def triton(repository: Path) -> tuple[dict[str, list[int]], list[str]]:
    """The models with their versions, and faults."""
    models: dict[str, list[int]] = {}
    faults: list[str] = []
    for name in os.listdir(repository):
        path = repository / name
        try:
            if not stat.S_ISDIR(os.stat(path).st_mode):
                continue
            if not (path / "config.pbtxt").exists():
                faults.append(f"{name}: no config.pbtxt")
            models[name] = sorted(_versions(path))
            if not models[name]:
                faults.append(f"{name}: no version")
            faults += _unread(path)
        except OSError as error:
            faults.append(f"the poll fails: {error}")
    return models, faults


def _versions(model: Path) -> Iterator[int]:
    for name in os.listdir(model):
        if (model / name).is_dir() and name.isdecimal() and (name == "0" or name[0] != "0"):
            yield int(name)


def vllm(cache: Path, name: str, base: str, *, contained: bool) -> tuple[str | None, list[str]]:
    """The folder of an adapter that vLLM loads, and faults."""
    path = os.path.join(cache, name)
    if contained:
        path, root = os.path.realpath(path), os.path.realpath(cache)
        if os.path.commonpath([root, path]) != root:
            return None, []
    if not os.path.exists(path) or not os.path.exists(os.path.join(path, "adapter_config.json")):
        return None, [f"{name}: no adapter"]
    with open(os.path.join(path, "adapter_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    if config["peft_type"] != "LORA" or config["base_model_name_or_path"] != base:
        return None, [f"{name}: another adapter"]
    return path, _unread(Path(path))


def hub(cache: Path, repository: str) -> tuple[str | None, list[str]]:
    """The folder that huggingface_hub finds offline, and faults."""
    place = cache / f"models--{repository.replace('/', '--')}"
    try:
        commit = (place / "refs" / "main").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None, [f"{repository}: no reference"]
    snapshot = place / "snapshots" / commit
    if not snapshot.exists():
        return None, [f"{repository}: {commit!r} has no snapshot"]
    return str(snapshot), _unread(snapshot)


def _unread(folder: Path) -> list[str]:
    """Faults of the files below a folder: each begins with its own size, as `content` makes it."""
    faults = []
    for rel in ("config.pbtxt", "adapter_config.json", "config.json", "1/weights.bin"):
        try:
            data = (folder / rel).read_bytes()
        except OSError as error:
            faults.append(f"{folder / rel}: {error.strerror}")
            continue
        if rel.endswith(".bin") and data != content(data[:1]):
            faults.append(f"{folder / rel}: {len(data)} bytes are not whole")
    return faults


def content(first: bytes) -> bytes:
    """The weights of a version: whole when all bytes are there and are the same."""
    return first * 50_000
