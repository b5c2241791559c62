"""Fixtures for every test; what they do is in `tests/rig`."""

pytest_plugins = ["tests.rig.fixtures"]
