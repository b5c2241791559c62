"""The real huggingface_hub and tokenizers read a mirrored model offline, through a `hf` view."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from axomsync.mirror.appearance import commit_of
from axomsync.sandbox.demo.sample import find_model
from tests.mirror.inprocess import MirrorHere
from tests.rig.faults import Content, FaultyServer

NAMES = ("bot", "org/bot")
SENTENCE = "A kitten sleeps while parliament votes."

_SCRIPT = """
import json, sys
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError
from tokenizers import Tokenizer

seen = {}
for name in sys.argv[2:]:
    tokenizer = Tokenizer.from_pretrained(name)
    seen[name] = {
        "snapshot": snapshot_download(name),
        "by_hash": snapshot_download(name, revision=snapshot_download(name, local_files_only=True)[-40:]),
        "config": json.load(open(hf_hub_download(name, "config.json"))),
        "in_a_folder": open(hf_hub_download(name, "1_Pooling/config.json")).read(),
        "cached": try_to_load_from_cache(name, "config.json"),
        "not_there": try_to_load_from_cache(name, "nothing.bin"),
        "tokens": tokenizer.encode(sys.argv[1]).ids,
    }
try:
    snapshot_download("nobody")
    seen["nobody"] = "there"
except LocalEntryNotFoundError:
    pass
found = scan_cache_dir()
print(json.dumps({
    "seen": seen,
    "warnings": list(map(str, found.warnings)),
    "repositories": {repo.repo_id: [sorted(repo.refs), len(repo.revisions)] for repo in found.repos},
}))
"""


def offline(cache: Path, *names: str) -> dict[str, Any]:
    """What the libraries find, in a process that has nothing but this cache."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, SENTENCE, *names],
        env={**environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "HOME": str(cache.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def files(tokenizer: bytes, version: int) -> dict[str, Content]:
    texts = {
        "config.json": json.dumps({"version": version}).encode(),
        "tokenizer.json": tokenizer,
        "1_Pooling/config.json": b"{}",
    }
    return {rel: Content(len(text), 0, text) for rel, text in texts.items()}


def test_a_mirrored_model_is_found_offline(server: FaultyServer, mirror: MirrorHere, tmp_path: Path) -> None:
    original = (find_model(tmp_path / "spare").folder / "tokenizer.json").read_bytes()
    cache = tmp_path / "hf"
    mirror.settings = {"views": [f"hf:{cache}"]}
    ids = {}
    for version in (1, 2):
        for name in NAMES:
            ids[name] = server.add_model(name, f"v{version}", files(original, version))
        mirror.sync()
        found = offline(cache, *NAMES)
        assert found["warnings"] == []
        assert found["repositories"] == {name: [["main"], version] for name in NAMES}
        assert found["seen"].keys() == set(NAMES)
        for name in NAMES:
            seen = found["seen"][name]
            snapshot = cache / f"models--{name.replace('/', '--')}" / "snapshots" / commit_of(ids[name])
            assert seen["config"] == {"version": version}
            assert seen["snapshot"] == seen["by_hash"] == str(snapshot)
            assert (seen["cached"], seen["not_there"]) == (str(snapshot / "config.json"), None)
            assert seen["in_a_folder"] == "{}"
            assert len(seen["tokens"]) > 5
    assert sorted(os.listdir(cache)) == ["CACHEDIR.TAG", "models--bot", "models--org--bot"], (
        "the libraries leave nothing there"
    )
