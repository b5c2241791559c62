"""Prints the lowest versions that pyproject.toml allows of what it names, as requirements for pip.

python tests/rig/lowest_versions.py pyproject.toml
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def lowest(project: dict[str, Any]) -> Iterator[str]:
    """A line for each requirement of the program, its sandbox and its tests; other extras are never needed."""
    extras = project["optional-dependencies"]
    for requirement in (*project["dependencies"], *extras["sandbox"], *extras["dev"]):
        if requirement.startswith(f"{project['name']}["):
            continue
        bound = re.fullmatch(r"([A-Za-z0-9._-]+(?:\[[a-z,]+\])?)>=([0-9.]+)(,<.*)?", requirement)
        if bound is None:
            raise ValueError(f"{requirement}: no lower bound")
        yield f"{bound[1]}=={bound[2]}"


if __name__ == "__main__":
    print(*lowest(tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]), sep="\n")
