"""Python modules that somebody else put into a folder, under names that the program imports."""

from pathlib import Path

NAMES = ("click", "json", "re", "types", "axomsync")


def modules_planted(folder: Path) -> None:
    """Put them there; each notes that it ran."""
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(folder / f'{name}.ran')!r}, 'w').close()\n")


def ran(folder: Path) -> list[str]:
    """Names of those that were run."""
    return sorted(file.stem for file in folder.glob("*.ran"))
