"""Is this the beginning of a pickle? Found by its opcodes, without running or importing anything. Pure.

A pickle is a program: it names functions of any module and calls them while it is loaded. Its opcodes are walked with the
table of `pickletools`, by the lengths of their arguments alone: nothing is decoded, because a text that this module could
not decode might still be one that the unpickler takes. The unpickler runs up to the first byte that it does not understand,
so a pickle with a broken end counts, too.
"""

import pickletools
import struct
from typing import IO

NEWEST_PROTOCOL = 5
ENOUGH = 1000  # opcodes in a row are no accident
LONGEST_NAME = 64 * 1024
LINE_PIECE = 1024 * 1024
LARGEST_SKIP = 1 << 40

_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: "<B",
    pickletools.TAKEN_FROM_ARGUMENT4: "<i",
    pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
    pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
}
_IMPORTS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_CALLS = frozenset({"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"})
_TWO_LINES = frozenset({"GLOBAL", "INST"})
_UNMARKED = "protocol 0 or 1"


def pickle_in(stream: IO[bytes]) -> str | None:
    """Say which kind of pickle begins where the stream stands, for people; None if none does.

    Without the mark of protocol 2 and later, text or numbers may look like a few opcodes: then the walk must import and
    call, or come to the end of the file, or go on for long.
    """
    seen, mark = set[str](), None
    stack: list[bool] = []  # of the unpickler; True is a mark
    for count in range(ENOUGH):
        code = stream.read(1)
        opcode = _OPCODES.get(code[0]) if code else None
        if opcode is None or not _turn(stack, opcode):
            return None
        if mark is not None:
            return f"protocol {mark}"
        if not count and opcode.name == "PROTO":
            mark = next(iter(stream.read(1)), None)
            if mark is None or mark > NEWEST_PROTOCOL:
                return None
            continue
        if not _pass_argument(stream, opcode):
            return None
        seen.add(opcode.name)
        if seen & _IMPORTS and seen & _CALLS:
            return _UNMARKED
        if opcode.name == "STOP":
            return _UNMARKED if seen & _IMPORTS or (len(seen) > 2 and not stream.read(64).strip()) else None
    return _UNMARKED


def _turn(stack: list[bool], opcode: pickletools.OpcodeInfo) -> bool:
    """Do to the stack what an opcode does; False if the unpickler would fail at it."""
    taken = len(opcode.stack_before)
    if pickletools.stackslice in opcode.stack_before:
        while stack and not stack[-1]:
            stack.pop()
        taken -= 1  # the mark and what was below it
    if taken > len(stack):
        return False
    del stack[len(stack) - taken :]
    stack += [each is pickletools.markobject for each in opcode.stack_after]
    return True


def _pass_argument(stream: IO[bytes], opcode: pickletools.OpcodeInfo) -> bool:
    """Move behind the argument of an opcode; False if the unpickler would not get so far."""
    if opcode.arg is None:
        return True
    if opcode.name == "PROTO":
        return stream.read(1) <= bytes([NEWEST_PROTOCOL])
    if opcode.name in _TWO_LINES:
        return all([_is_dotted_name(stream.readline(LONGEST_NAME)), _is_dotted_name(stream.readline(LONGEST_NAME))])
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        while (piece := stream.readline(LINE_PIECE)) and not piece.endswith(b"\n"):
            pass
        return bool(piece)
    if opcode.arg.n >= 0:
        return len(stream.read(opcode.arg.n)) == opcode.arg.n
    form = _LENGTHS[opcode.arg.n]
    length = stream.read(struct.calcsize(form))
    return len(length) == struct.calcsize(form) and _skip(stream, struct.unpack(form, length)[0])


def _skip(stream: IO[bytes], count: int) -> bool:
    if not 0 <= count <= LARGEST_SKIP:
        return False
    stream.seek(count, 1)  # behind the end the next reading finds nothing
    return True


def _is_dotted_name(line: bytes) -> bool:
    """Check that the unpickler could import this: most text is no list of modules."""
    name = line.removesuffix(b"\n").decode("utf-8", "replace")
    return line.endswith(b"\n") and all(part.isidentifier() for part in name.split("."))
