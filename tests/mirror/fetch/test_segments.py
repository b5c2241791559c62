"""Any order of leasing, stealing, doubling, failing and finishing covers every byte, and only twins share any."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from axomsync.core.records import Segment
from axomsync.mirror.fetch.segments import Board, Coverage, Lease, Pace, cut, segment_size
from tests.rig.anything import some

MIB = 1 << 20
UNIT = MIB // 4

spans = st.tuples(st.integers(0, 200), st.integers(0, 60)).map(lambda pair: (pair[0], min(200, pair[0] + pair[1])))


@given(st.lists(spans), spans)
def test_coverage_agrees_with_a_set_of_bytes(added: list[tuple[int, int]], window: tuple[int, int]) -> None:
    coverage, there = Coverage(200), set[int]()
    for start, end in added:
        assert coverage.add(start, end) == len(set(range(start, end)) - there)
        there |= set(range(start, end))
    assert coverage.covered == len(there)
    assert coverage.complete == (len(there) == 200)
    assert coverage.prefix == next((n for n in range(200) if n not in there), 200)
    for start, end in [(0, 200), window]:
        gaps = coverage.gaps(start, end)
        assert [n for gap in gaps for n in range(gap.start, gap.end)] == [n for n in range(start, end) if n not in there]
        assert all(gap.start < gap.end for gap in gaps)
        assert all(a.end < b.start for a, b in pairwise(gaps))
    assert Coverage(200, [Segment(*span) for span in added]).gaps() == coverage.gaps()


@given(st.lists(st.integers(1, 1 << 32), max_size=9), st.integers(1, 1 << 28), st.sampled_from([1, 5 * MIB, 8 * MIB]))
def test_pieces_join_to_the_gaps_and_end_where_parts_end(edges: list[int], length: int, align: int) -> None:
    positions = sorted(set(edges))
    gaps = [Segment(a, b) for a, b in zip(positions[::2], positions[1::2], strict=False)]
    length = max(length, 1 << 22)
    length = -(-length // align) * align
    pieces = cut(gaps, length, align)
    assert all(piece.start < piece.end for piece in pieces)
    assert Coverage(1 << 33, pieces).gaps() == Coverage(1 << 33, gaps).gaps()
    assert sum(p.end - p.start for p in pieces) == sum(g.end - g.start for g in gaps)
    ends = {gap.end for gap in gaps}
    assert all(piece.end in ends or piece.end % align == 0 for piece in pieces)
    assert all(piece.end - piece.start <= length * 3 // 2 for piece in pieces)


@given(st.integers(0, 1 << 50), st.integers(1, 256), st.sampled_from([1, 5 * MIB, 8_000_000]))
def test_segments_have_a_sensible_size(size: int, lanes: int, align: int) -> None:
    length = segment_size(size, lanes, align)
    assert length % align == 0
    assert 16 * MIB <= length < 256 * MIB + align


def test_take_skips_files_that_are_not_ready() -> None:
    board: Board[str] = Board()
    for file in ("pauses", "good"):
        board.add(file, [Segment(0, 10), Segment(10, 20)])
    taken = [board.take(MIB, lambda file: file != "pauses") for _ in range(3)]
    assert [lease and (lease.file, lease.start) for lease in taken] == [("good", 0), ("good", 10), None]
    last = board.take(MIB)
    assert last is not None
    assert (last.file, last.start) == ("pauses", 0)


class Game(RuleBasedStateMachine):
    """Plays the lanes of a board. `received` is on disk, and only it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.board: Board[str] = Board()
        self.received: dict[str, Coverage] = {}
        self.running: list[Lease[str]] = []

    @initialize(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=3))
    def plan(self, sizes: list[int]) -> None:
        for number, units in enumerate(sizes):
            file = f"file {number}"
            self.received[file] = Coverage(units * UNIT)
            self.board.add(file, cut(self.received[file].gaps(), segment_size(units * UNIT, 4)))

    @rule(smallest=st.sampled_from([MIB, 8 * MIB]))
    def take(self, smallest: int) -> None:
        if lease := self.board.take(smallest):
            assert lease.left > 0
            self.running.append(lease)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def double(self, data: st.DataObject) -> None:
        slow = data.draw(st.lists(st.sampled_from(self.running), unique_by=id))
        if twin := self.board.duplicate(slow):
            assert not self.board.waiting
            assert twin.twin in slow
            self.running.append(twin)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), units=st.integers(0, 300), ending=st.sampled_from(["goes on", "finishes", "fails"]))
    def work(self, data: st.DataObject, units: int, ending: str) -> None:
        lease = data.draw(st.sampled_from(self.running))
        file = str(lease.file)
        count = min(units * UNIT if ending != "finishes" else lease.left, lease.left)
        self.received[file].add(lease.position, lease.position + count)
        lease.position += count
        if not lease.left:
            self.board.finish(lease)
        elif ending == "fails":
            rest = self.received[file].gaps(lease.position, lease.end)
            self.board.give_back(lease, cut(rest, segment_size(self.received[file].size, 1)))
        else:
            return
        self.running.remove(lease)

    @rule(align=st.sampled_from([1, 5 * MIB, 8 * MIB]))
    def meet_the_etag(self, align: int) -> None:
        for file, coverage in self.received.items():
            self.board.recut(file, segment_size(coverage.size, 4, align), align)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def start_over(self, data: st.DataObject) -> None:
        file = str(data.draw(st.sampled_from(self.running)).file)
        self.board.drop({file})
        self.received[file] = Coverage(self.received[file].size)
        self.board.add(file, cut(self.received[file].gaps(), segment_size(self.received[file].size, 4)))

    @invariant()
    def every_byte_is_there_or_waits_or_is_worked_on(self) -> None:
        for file, coverage in self.received.items():
            promised = Coverage(coverage.size)
            for start, end in self._promised(file):
                promised.add(start, end)
            for gap in coverage.gaps():
                assert promised.gaps(gap.start, gap.end) == []

    @invariant()
    def nobody_works_on_what_another_has_unless_they_are_twins(self) -> None:
        for file in self.received:
            mine = (lease for lease in self.running if lease.file == file and lease.left)
            spans = sorted(((lease.position, lease.end, lease) for lease in mine), key=lambda span: span[:2])
            for (_, end, one), (start, _, other) in pairwise(spans):
                assert start >= end or one.twin is other
            waiting = sorted((s.start, s.end) for owner, s in self.board.waiting if owner == file)
            assert all(a[1] <= b[0] for a, b in pairwise(waiting))

    def teardown(self) -> None:
        """From any position, one working lane finishes the game."""
        for lease in self.running:
            self.board.give_back(lease, self.received[str(lease.file)].gaps(lease.position, lease.end) if lease.left else [])
        for _ in range(10_000):
            taken = self.board.take()
            if taken is None:
                break
            self.received[taken.file].add(taken.position, taken.end)
            taken.position = taken.end
            self.board.finish(taken)
        assert all(coverage.complete for coverage in self.received.values())
        assert not self.board.leases

    def _promised(self, file: str) -> list[tuple[int, int]]:
        waiting = [(s.start, s.end) for owner, s in self.board.waiting if owner == file]
        return waiting + [(lease.position, lease.end) for lease in self.board.leases if lease.file == file and lease.left]


TestGame = Game.TestCase
TestGame.settings = settings(max_examples=some(150), stateful_step_count=40, deadline=None)


def test_a_queue_may_begin_in_its_middle_and_goes_on_there_when_it_is_cut_again() -> None:
    board = Board[str]()
    board.add("other", [Segment(0, 1)])
    board.add("a", [Segment(0, 10), Segment(10, 20)])
    board.add("b", [Segment(0, 10), Segment(10, 20), Segment(20, 30)])
    board.begin_at(0.7, {"a", "b"})
    mine = [("b", 10), ("b", 20), ("a", 0), ("a", 10), ("b", 0)]
    assert [(file, segment.start) for file, segment in board.waiting] == [("other", 0), *mine]
    board.recut("b", 5, 5)
    cut_again = [("b", 10), ("b", 15), ("b", 20), ("b", 25), ("b", 0), ("b", 5)]
    assert [(file, segment.start) for file, segment in board.waiting] == [("other", 0), *cut_again, ("a", 0), ("a", 10)]


def test_shrink_keeps_the_oldest_leases_and_whole_streams() -> None:
    board: Board[str] = Board()
    board.add("file", cut([Segment(0, 80 * MIB)], 16 * MIB))
    first, second, third, fourth = (board.take() for _ in range(4))
    assert third is not None
    third.whole = True
    board.shrink(1)
    assert [lease.surplus for lease in (first, second, third, fourth) if lease] == [False, True, False, True]


def leases(*positions: int) -> list[Lease[str]]:
    return [Lease("file", 0, position, 1 << 40) for position in positions]


def test_straggler_that_is_alone_at_the_end_is_still_one() -> None:
    pace: Pace[str] = Pace()
    fast, slow = leases(0, 0)
    for second in range(3):
        pace.observe([fast, slow], float(second))
        fast.position += 8 * MIB
        slow.position += 10_000
    for second in range(3, 6):
        pace.observe([slow], float(second))
        slow.position += 10_000
        assert pace.stragglers() == [slow]


def test_straggler_at_the_end_of_a_short_transfer() -> None:
    """The other leases ended before they could be observed twice."""
    pace: Pace[str] = Pace()
    (slow,) = leases(0)
    for _ in range(3):
        pace.finish(16 * MIB, 0.5)
    for second in range(3):
        pace.observe([slow], float(second))
        slow.position += 10_000
    assert pace.stragglers() == [slow]


def test_lane_that_is_alone_from_the_beginning_is_no_straggler() -> None:
    pace: Pace[str] = Pace()
    (only,) = leases(0)
    for second in range(10):
        pace.observe([only], float(second))
        only.position += 10_000 if second > 5 else 8 * MIB
        assert pace.stragglers() == pace.lagging(float(second)) == []


def test_lagging_is_empty_when_all_are_slow() -> None:
    pace: Pace[str] = Pace()
    all_of_them = leases(0, 0, 0)
    for second in range(60):
        pace.observe(all_of_them, float(second))
        for lease in all_of_them:
            lease.position += 8 * MIB if second < 20 else 1000
        assert pace.lagging(float(second)) == []
