"""The documents as tests read them: their text, and their examples.

An example is a fenced block. Its language says how it is proven: `sh` runs in a user's shell against the sandbox, `sh root`
on a booted machine, `toml` is a configuration that is accepted, `nginx` one that nginx serves the page by; `text`, `ini`,
`yaml`, `json`, `caddy` and `mermaid` only show.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.rig.installation import CHECKOUT

DOCUMENTS = (*sorted(CHECKOUT.glob("*.md"), key=lambda d: d.name != "README.md"), *sorted((CHECKOUT / "docs").rglob("*.md")))
LANGUAGES = ("sh", "sh root", "toml", "text", "ini", "yaml", "json", "nginx", "caddy", "mermaid")

_FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """One fenced block; `place` is file and line of its first line."""

    place: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        return [line for line in self.text.splitlines() if line and not line.startswith("#")]


def examples(document: Path, language: str | None = None) -> list[Example]:
    text = document.read_text(encoding="utf-8")
    found = [
        Example(f"{document.relative_to(CHECKOUT)}:{text.count(chr(10), 0, match.start()) + 2}", match[1], match[2])
        for match in _FENCED.finditer(text)
    ]
    return [example for example in found if language in (None, example.language)]
