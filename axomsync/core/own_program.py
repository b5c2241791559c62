"""The command that starts this program once more, by the Python that runs it now."""

import sys


def own_program(*arguments: str) -> list[str]:
    """Return the command for `axomsync` with these arguments.

    -P: with -m alone, the working folder would be the first place for modules, and whoever may write there would decide
    what runs.
    """
    return [sys.executable, "-P", "-m", "axomsync", *arguments]
