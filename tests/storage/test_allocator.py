"""The Rust client's own allocator: it is told to give memory back before it is loaded."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["client", "connections", "short_bodies"])
def test_allocator_of_the_rust_client_gives_memory_back_at_once(module: str) -> None:
    telling = os.environ | {"MIMALLOC_VERBOSE": "1"}
    words = [sys.executable, "-c", f"import axomsync.storage.{module}"]
    told = subprocess.run(words, env=telling, capture_output=True, text=True, check=True).stderr
    assert "option 'arena_eager_commit': 0 " in told
    assert "option 'purge_delay': 0 " in told


def test_allocator_heeds_the_options_of_its_user() -> None:
    telling = os.environ | {"MIMALLOC_VERBOSE": "1", "MIMALLOC_PURGE_DELAY": "20"}
    words = [sys.executable, "-c", "import axomsync.storage.client"]
    told = subprocess.run(words, env=telling, capture_output=True, text=True, check=True).stderr
    assert "option 'purge_delay': 20 " in told
