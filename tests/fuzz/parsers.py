"""The parsers of outside bytes, each with inputs that are right and with the errors that its module documents.

A parser here is a function of bytes that asks the agent's own code, as the agent does. What it raises beyond `may_raise`
is a fault. An `assert` in it states what holds of a value.
"""

from collections.abc import Callable
from dataclasses import dataclass

from axomsync.core.errors import AxomsyncError
from tests.fuzz import answers, documents, files, texts


@dataclass(frozen=True)
class Parser:
    """One parser. `right`: inputs that it takes, where a search begins."""

    name: str
    takes: Callable[[bytes], object]
    right: tuple[bytes, ...]
    may_raise: tuple[type[Exception], ...] = (AxomsyncError,)

    def try_one(self, data: bytes) -> None:
        """Give it one input. Raises what the parser must not raise."""
        try:
            self.takes(data)
        except self.may_raise:
            return


PARSERS = {
    name: Parser(name, *parts)
    for name, parts in {**answers.PARSERS, **documents.PARSERS, **files.PARSERS, **texts.PARSERS}.items()
}
