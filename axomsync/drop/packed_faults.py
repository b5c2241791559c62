"""The faults of compressed files, in the form of all faults of datasets. Pure."""

from collections import Counter

from axomsync.drop.jsonl import Fault, InvalidDataset
from axomsync.drop.unpacking import BrokenArchive


def as_invalid(fault: BrokenArchive | InvalidDataset, *, packed: bool) -> InvalidDataset:
    """Return the fault of a file as that of a dataset; what concerns the whole content of a compressed file says so."""
    if isinstance(fault, BrokenArchive):
        return InvalidDataset([Fault(str(fault), kind=str(fault))], Counter({str(fault): 1}))
    if not packed:
        return fault
    faults = [each if each.line else Fault(f"unpacked, {each.reason}", kind=each.kind) for each in fault.faults]
    return InvalidDataset(faults, fault.counts)
