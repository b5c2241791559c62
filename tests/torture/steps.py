"""The parts of a schedule: one life, what strikes it, and what happens before it."""

from dataclasses import dataclass, fields

from tests.torture.forge import CHANGES


@dataclass(frozen=True, repr=False)
class Short:
    """A dataclass whose words leave out what is as always."""

    def __repr__(self) -> str:
        everything = ((each, getattr(self, each.name)) for each in fields(self))
        told = (f"{each.name}={value!r}" for each, value in everything if value != each.default)
        return f"{type(self).__name__}({', '.join(told)})"


@dataclass(frozen=True, repr=False)
class Blow(Short):
    """A strike at the share `place` (0 to 1) of the calls of its kind."""

    place: float
    how: int
    kind: int = CHANGES
    lasts: int = 1


@dataclass(frozen=True)
class Wire:
    """A fault of the far side: the `number`-th of `wrong_answers.FAULTS`, for `times` requests after `skip` of them."""

    number: int
    skip: int
    times: int


@dataclass(frozen=True)
class Attack:
    """What happens to the ledger between two lives, at the share `place` of its bytes."""

    how: str  # flip, cut, zero, lose, wal (flips a byte of the write-ahead log)
    place: float
    length: int


@dataclass(frozen=True, repr=False)
class Happening(Short):
    """What people or the console do before a life: a method of `Scene`, `FarSide` or `Damages`, with blanks for `_`.

    `of` picks a version, modulo their number; `place` (0 to 1) a file and a byte; `how` is the method's own word.
    """

    what: str
    of: int = 0
    place: float = 0.0
    how: str = ""


@dataclass(frozen=True, repr=False)
class Step(Short):
    """One life and what surrounds it; all parts but the life may be absent."""

    blow: Blow | None = None
    wire: tuple[Wire, ...] = ()
    attack: Attack | None = None  # before the life
    arrives: int = 0  # so many of the world's files and versions appear before the life
    power_fails: bool = False  # after the blow; else the disk keeps what was written
    descriptors: int = 0
    memory: int = 0
    verb: tuple[str, ...] = ("sync",)
    happens: tuple[Happening, ...] = ()
    like: int = 0  # the step of the calm story whose calls `blow.place` is a share of
    room: int | None = None  # bytes that are free on the disk; None is enough
    inodes: int | None = None  # so many files may be made; None is enough
    group: int = 0  # bytes of memory, above which the kernel kills; 0 leaves it
