"""The packages of the sandbox, which a service installation lacks.

Failures handled: one of them is missing (`LocalFault`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from axomsync.core.errors import LocalFault


@contextmanager
def sandbox_packages() -> Iterator[None]:
    """Turn the error for a missing Python package into a `LocalFault` with the remedy."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise LocalFault(f"{error.name} is missing; in a checkout of axomsync, run: pip install '.[sandbox]'") from None
