"""The shape of a dataset: samples of each shape, faults with their place, and two ways of counting that agree."""

import io
import json
import os
import pickle
import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axomsync.core.records import Shape
from axomsync.drop.columns import column_of
from axomsync.drop.forms import KINDS, QUOTED
from axomsync.drop.jsonl import LARGE_LINE, InvalidDataset, check, check_stream
from axomsync.drop.shapes import EXTRA_KEYS, KEPT, Shapes

Lines = list[bytes]


def user(text: str = "Hello", **more: object) -> dict[str, object]:
    return {"role": "user", "content": text, **more}


def assistant(text: str | None = "Hi", **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": text, **more}


def system(text: str = "Be kind.") -> dict[str, object]:
    return {"role": "system", "content": text}


def tool(text: str = "12 degrees", **more: object) -> dict[str, object]:
    return {"role": "tool", "content": text, "tool_call_id": "1", **more}


CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


def lines_of(values: list[dict[str, Any]]) -> Lines:
    return [orjson.dumps(value) for value in values]


def one_by_one(lines: Lines, wanted: str | None = None) -> Shapes:
    shapes = Shapes(wanted)
    for number, line in enumerate(lines, 1):
        shapes.take(orjson.loads(line), line, number)
    return shapes


def by_windows(lines: Lines, size: int, wanted: str | None = None) -> Shapes:
    shapes = Shapes(wanted)
    for start in range(0, len(lines), size):
        window = lines[start : start + size]
        shapes.take_window([orjson.loads(line) for line in window], b"".join(line + b"\n" for line in window), start + 1)
    return shapes


def report(lines: Lines, wanted: str | None = None) -> Shape:
    """The report of these lines, which is the same whichever way they are taken in."""
    found = one_by_one(lines, wanted).report()
    assert by_windows(lines, 1, wanted).report() == found
    assert by_windows(lines, len(lines), wanted).report() == found
    return found


# Samples as documents of trainers show them: kind, lines, turns, characters.
GOOD: dict[str, tuple[str, list[dict[str, Any]], int, int]] = {
    "the vendor's text": ("text", [{"text": "One example a line."}, {"text": "And another."}], 0, 31),
    "one message a side": ("chat", [{"messages": [user("ab"), assistant("cde")]}], 2, 5),
    "system first": ("chat", [{"messages": [system("a"), user("b"), assistant("c")]}], 3, 3),
    "developer first": ("chat", [{"messages": [{"role": "developer", "content": "a"}, user("b"), assistant("c")]}], 3, 3),
    "many turns": ("chat", [{"messages": [user("a"), assistant("b"), user("c"), assistant("d")]}] * 3, 12, 12),
    "ends with a question": ("chat", [{"messages": [user("a"), assistant("b"), user("c")]}], 3, 3),
    "weights of 0 and 1": (
        "chat",
        [{"messages": [user("a"), assistant("b", weight=0), user("c"), assistant("d", weight=1)]}],
        4,
        4,
    ),
    "tools": (
        "chat",
        [
            {
                "messages": [user("a"), assistant(None, tool_calls=[CALL, CALL]), tool("b"), tool("c"), assistant("d")],
                "tools": TOOLS,
                "parallel_tool_calls": True,
            }
        ],
        5,
        4,
    ),
    "a call without content": ("chat", [{"messages": [user("a"), {"role": "assistant", "tool_calls": [CALL]}]}], 2, 1),
    "a call with empty content": ("chat", [{"messages": [user("a"), assistant("", function_call={"name": "f"})]}], 2, 1),
    "an empty answer of a tool": ("chat", [{"messages": [user("a"), assistant(None, tool_calls=[CALL]), tool("")]}], 3, 1),
    "names and thinking": (
        "chat",
        [
            {
                "messages": [
                    user("a", name="Ann"),
                    assistant("b", reasoning_content="hm"),
                    user("c"),
                    assistant("d", thinking="h"),
                ]
            }
        ],
        4,
        4,
    ),
    "keys that an export filled with null": (
        "chat",
        [{"messages": [user("a", weight=None), assistant("b", tool_calls=None)]}],
        2,
        2,
    ),
    "parts of a content": (
        "chat",
        [{"messages": [user("a") | {"content": [{"type": "text", "text": "ab"}, {"type": "image_url"}]}, assistant("c")]}],
        2,
        3,
    ),
    "a weight of the whole line": ("chat", [{"messages": [user("a"), assistant("b")], "weight": 2.5}], 2, 2),
    "metadata": ("chat", [{"messages": [user("a"), assistant("b")], "metadata": {"from": "x"}}], 2, 2),
    "pairs of texts": ("pairs", [{"prompt": "The sky is", "completion": " blue."}] * 2, 0, 32),
    "pairs of messages": ("pairs", [{"prompt": [user("ab")], "completion": [assistant("c")]}] * 2, 4, 6),
    "unpaired preference": ("pairs", [{"prompt": "a", "completion": "b", "label": True}], 0, 2),
    "preference of texts": ("preference", [{"prompt": "a", "chosen": "bc", "rejected": "def"}] * 2, 0, 12),
    "preference with the prompt within": ("preference", [{"chosen": "bc", "rejected": "def"}], 0, 5),
    "preference of messages": (
        "preference",
        [{"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("cd")], "score_chosen": 1.0}] * 2,
        6,
        8,
    ),
    "preference of whole conversations": (
        "preference",
        [{"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("cd")]}],
        4,
        5,
    ),
    "preference of OpenAI": (
        "preference",
        [
            {
                "input": {"messages": [user("a")], "tools": [], "parallel_tool_calls": True},
                "preferred_output": [assistant("b")],
                "non_preferred_output": [assistant("cd")],
            }
        ]
        * 2,
        6,
        8,
    ),
    "preference that begins with a greeting": (
        "preference",
        [
            {
                "input": {"messages": [assistant("a"), user("b")]},
                "preferred_output": [assistant("c")],
                "non_preferred_output": [assistant("d")],
            }
        ],
        4,
        4,
    ),
    "other scripts": ("text", [{"text": "Ĝis — 日本語 🙂"}], 0, 11),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_sample_has_its_shape_and_no_finding(name: str) -> None:
    kind, values, turns, characters = GOOD[name]
    for copies in (1, 30):
        found = report(lines_of(values * copies))
        assert found.findings == ()
        assert (found.kind, found.examples, found.mixed, found.findings_total) == (kind, len(values) * copies, 0, 0)
        assert (found.turns, found.characters) == (turns * copies, characters * copies)
        assert not one_by_one(lines_of(values), kind).faults
        assert set(one_by_one(lines_of(values), next(each for each in KINDS if each != kind)).counts) == {"another shape"}


def test_the_longest_line_is_that_with_the_most_characters_of_text() -> None:
    values = [{"messages": [user("ab"), assistant("c" * n)]} for n in (3, 17, 5)] * 20
    assert report(lines_of(values)).longest_line == 19
    assert report(lines_of([{"text": "é" * n} for n in (3, 17, 5)])).longest_line == 17


OWN, LEAVE = "; put each shape into a file of its own", "; write a text, or leave the line out"
JOIN = "; join them, or add the missing message between them"
KNOWN = "; write text, messages, prompt and completion, or chosen and rejected, if it is to be trained on"
WEIGHT = "the weight of message 2 of messages is neither 0 nor 1; write 1 to learn it, 0 to pass it over"
U = b'{"role": "user", "content": "a"}'
A, C = b'{"role": "assistant", "content": "b"}', b'{"role": "assistant", "content": "c"}'


def chat(*messages: bytes) -> bytes:
    return b'{"messages": [%b]}' % b", ".join(messages)


CHAT = chat(U, A)
TEXT, PAIR = b'{"text": "a"}', b'{"prompt": "a", "completion": "b"}'
CHOICE = b'{"prompt": "a", "chosen": "b", "rejected": "c"}'
# Lines before the faulty one, that, the column, and the whole reason.
FAULTY: dict[str, tuple[Lines, bytes, int, str]] = {
    "text beside messages": ([CHAT], TEXT, 1, "the line has text, and the first has messages" + OWN),
    "messages beside text": ([TEXT], CHAT, 1, "the line has messages, and the first has text" + OWN),
    "pairs beside preferences": (
        [CHOICE], PAIR, 1,
        "the line has prompt and completion, and the first has chosen and rejected" + OWN,
    ),
    "a header beside text": (
        [TEXT], b'{"rows": 1}', 1, "the line has no known shape, and the first has text" + OWN,
    ),
    "pairs of messages beside texts": (
        [PAIR], b'{"prompt": [%b], "completion": [%b]}' % (U, A), 1,
        "the line has prompt and completion as lists of messages, and the first has prompt and completion" + OWN,
    ),
    "two forms of preference": (
        [CHOICE],
        b'{"input": {"messages": [%b]}, "preferred_output": [%b], "non_preferred_output": [%b]}' % (U, A, C), 1,
        "the line has input, preferred_output and non_preferred_output, and the first has chosen and rejected" + OWN,
    ),
    "two shapes in one line": (
        [CHAT], CHAT[:-1] + b', "text": "a"}', 89, "the line has two shapes: messages, and text; leave one out",
    ),
    "no known shape": (
        [], b'{"a": 1, "b": 2, "c": 3, "d": 4}', 1,
        'the keys "a", "b", "c", … belong to no known shape' + KNOWN,
    ),
    "an empty object": (
        [], b"{}", 1,
        "the line is an empty object" + KNOWN,
    ),
    "ShareGPT": (
        [], b'{"conversations": [{"from": "human", "value": "a"}]}', 1,
        'the key "conversations" belongs to no known shape; write messages, each with role and content, in the place of '
        "conversations with from and value",
    ),
    "Alpaca": (
        [], b'{"instruction": "a", "input": "", "output": "b"}', 1,
        'the keys "instruction", "input", "output" belong to no known shape; write prompt and completion in the place of '
        "instruction, input and output",
    ),
    "text is null": ([TEXT], b'{"text": null}', 10, "text is null; write a text"),
    "text is a number": ([TEXT], b'{"text": 5}', 10, "text is a number; write a text"),
    "text is a list": ([TEXT], b'{ "text" :  ["a"]}', 13, "text is a list; write a text"),
    "text is empty": ([TEXT], b'{"text": ""}', 10, "text is empty" + LEAVE),
    "text is blank": ([TEXT], '{"tools": "é", "text": " \\n\\t"}'.encode(), 24, "text is empty" + LEAVE),
    "prompt is missing": ([PAIR], b'{"completion": "b"}', 1, "prompt is missing; write it beside completion"),
    "completion is missing": ([PAIR], b'{"prompt": "b"}', 1, "completion is missing; write it beside prompt"),
    "completion is empty": (
        [PAIR], b'{"prompt": "b", "completion": ""}', 31, "completion is empty" + LEAVE,
    ),
    "prompt is an object": ([PAIR], b'{"prompt": {"a": 1}, "completion": "b"}', 12, "prompt is an object; write a text"),
    "one text, one list": (
        [], b'{"prompt": [%b], "completion": "b"}' % U, 62,
        'completion is a text; write a list like [{"role": "user", "content": "…"}]',
    ),
    "completion of messages without an answer": (
        [], b'{"prompt": [%b], "completion": [{"role": "user", "content": "b"}]}' % U, 62,
        "no message of completion has the role assistant; write the answer that is to be learnt, or leave the line out",
    ),
    "rejected is missing": ([CHOICE], b'{"prompt": "a", "chosen": "b"}', 1, "rejected is missing; write it beside chosen"),
    "chosen is missing": ([CHOICE], b'{"prompt": "a", "rejected": "b"}', 1, "chosen is missing; write it beside rejected"),
    "rejected is empty": (
        [CHOICE], b'{"prompt": "a", "chosen": "b", "rejected": ""}', 44, "rejected is empty" + LEAVE,
    ),
    "prompt of a preference is empty": (
        [CHOICE], b'{"prompt": "", "chosen": "b", "rejected": "c"}', 12, "prompt is empty" + LEAVE,
    ),
    "chosen without an answer": (
        [],
        b'{"chosen": [%b], "rejected": [%b, %b]}' % (U, U, A), 12,
        "no message of chosen has the role assistant; write the answer that is to be learnt, or leave the line out",
    ),
    "input is a text": (
        [],
        b'{"input": "a", "preferred_output": [%b], "non_preferred_output": [%b]}' % (A, C), 11,
        'input is a text; write {"messages": […]}',
    ),
    "input without messages": (
        [],
        b'{"input": {}, "preferred_output": [%b], "non_preferred_output": [%b]}' % (A, C), 11,
        "messages is missing in input; write the prompt as a list of messages",
    ),
    "non_preferred_output is missing": (
        [],
        b'{"input": {"messages": [%b]}, "preferred_output": [%b]}' % (U, A),
        1, "non_preferred_output is missing; write it beside input and preferred_output",
    ),
    "preferred_output is one message": (
        [],
        b'{"input": {"messages": [%b]}, "preferred_output": %b, "non_preferred_output": [%b]}' % (U, A, C), 81,
        'preferred_output is an object; write a list like [{"role": "user", "content": "…"}]',
    ),
    "messages is a text": (
        [CHAT], b'{"messages": "a"}', 14, 'messages is a text; write a list like [{"role": "user", "content": "…"}]',
    ),
    "messages is empty": (
        [CHAT], b'{"messages": []}', 14, "messages is an empty list; write the messages, or leave the line out",
    ),
    "a message is a text": (
        [CHAT], chat(b'"a"', A), 15,
        'message 1 of messages is a text; write {"role": "…", "content": "…"}',
    ),
    "unknown role": (
        [CHAT], chat(b'{"role": "human", "content": "a"}', A), 24,
        'message 1 of messages has the unknown role "human"; set role to user',
    ),
    "role in capitals": (
        [CHAT], chat(U, b'{"role": "Assistant", "content": "b"}', U, A), 58,
        'message 2 of messages has the unknown role "Assistant"; set role to assistant',
    ),
    "a role that nobody knows": (
        [CHAT], chat(b'{"role": "narrator", "content": "a"}', A), 24,
        'message 1 of messages has the unknown role "narrator"; set role to system, user, assistant or tool',
    ),
    "empty role": (
        [CHAT], chat(b'{"role": "", "content": "a"}', A), 24,
        "the role of message 1 of messages is empty; set role to system, user, assistant or tool",
    ),
    "role is null": (
        [CHAT], chat(b'{"role": null, "content": "a"}', A), 24,
        "the role of message 1 of messages is null; write a text",
    ),
    "no role": (
        [CHAT], chat(b'{"content": "a"}', A), 15,
        "message 1 of messages has no role; set role to system, user, assistant or tool",
    ),
    "no assistant turn": (
        [CHAT], chat(U), 14,
        "no message of messages has the role assistant; write the answer that is to be learnt, or leave the line out",
    ),
    "two users in a row": (
        [CHAT],
        chat(U, b'{"role": "user", "content": "b"}', C),
        58, 'message 2 of messages has the role "user", as the one before it' + JOIN,
    ),
    "two answers in a row": (
        [CHAT],
        chat(U, A, C),
        97, 'message 3 of messages has the role "assistant", as the one before it' + JOIN,
    ),
    "system later": (
        [CHAT],
        chat(U, b'{"role": "system", "content": "b"}', C),
        58, "message 2 of messages has the role system, and is not the first; move it to the front",
    ),
    "empty content": (
        [CHAT], chat(b'{"role": "user", "content": ""}', A), 43,
        "the content of message 1 of messages is empty; write a text, or leave the message out",
    ),
    "blank content": (
        [CHAT], chat(U, b'{"role": "assistant", "content": " \\n"}'), 82,
        "the content of message 2 of messages is empty; write a text, or leave the message out",
    ),
    "content is null": (
        [CHAT], chat(U, b'{"role": "assistant", "content": null}'), 82,
        "the content of message 2 of messages is null; write a text",
    ),
    "no content": (
        [CHAT], chat(U, b'{"role": "assistant"}'), 49,
        "message 2 of messages has no content; write a text, or leave the message out",
    ),
    "content without parts": (
        [CHAT], chat(b'{"role": "user", "content": []}', A), 43,
        "the content of message 1 of messages is an empty list; write a text, or leave it out",
    ),
    "a part without a type": (
        [CHAT], chat(b'{"role": "user", "content": ["a"]}', A), 44,
        'part 1 of the content of message 1 of messages has no type; write {"type": "text", "text": "…"}',
    ),
    "a part without a text": (
        [CHAT],
        chat(b'{"role": "user", "content": [{"type": "text", "text": " "}]}', A), 44,
        "part 1 of the content of message 1 of messages has no text; write a text, or leave the part out",
    ),
    "weight of 2": (
        [CHAT], chat(U, b'{"role": "assistant", "content": "b", "weight": 2}'), 97,
        WEIGHT,
    ),
    "weight of a half": (
        [CHAT], chat(U, b'{"role": "assistant", "content": "b", "weight": 0.5}'), 97,
        WEIGHT,
    ),
    "weight of true": (
        [CHAT], chat(U, b'{"role": "assistant", "content": "b", "weight": true}'), 97,
        WEIGHT,
    ),
    "weight in quotes": (
        [CHAT], chat(U, b'{"weight": "1", "role": "assistant", "content": "b"}'), 60,
        WEIGHT,
    ),
    "an extra key": (
        [TEXT], b'{"text": "a", "source": "b"}', 15,
        'the key "source" of the line belongs to no shape; leave it out if the trainer refuses it',
    ),
    "an extra key of a message": (
        [CHAT], chat(b'{"role": "user", "content": "a", "lang": "b"}', A), 48,
        'the key "lang" of a message belongs to no shape; leave it out if the trainer refuses it',
    ),
    "an extra key of the input": (
        [],
        b'{"input": {"messages": [%b], "k": 1}, "preferred_output": [%b], "non_preferred_output": [%b]}' % (U, A, C), 60,
        'the key "k" of input belongs to no shape; leave it out if the trainer refuses it',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_told_with_line_and_column(name: str) -> None:
    before, line, column, reason = FAULTY[name]
    good = before * 30
    after = before * 30 or [line] * ("known shape" in reason)
    found = report([*good, line, *after])
    assert [(each.line, each.column, each.reason) for each in found.findings] == [(len(good) + 1, column, reason)]
    assert found.findings_total == 1
    assert found.examples == len(good) + 1 + len(after)
    assert found.mixed == ("of its own" in reason)


def test_forty_faults_and_twelve_good_samples_are_there() -> None:
    assert len(FAULTY) >= 40
    assert len(GOOD) >= 12


def test_findings_are_bounded_and_counted() -> None:
    found = report([b'{"text": ""}'] * 500)
    assert found.findings_total == 500
    assert [each.line for each in found.findings] == list(range(1, KEPT + 1))
    found = report([b'{"text": "a", "k%d": 1}' % number for number in range(500)])
    assert found.findings_total == EXTRA_KEYS


def test_an_extra_key_is_told_once() -> None:
    found = report([b'{"id": %d, "text": "a"}' % number for number in range(500)])
    assert [(each.line, each.column) for each in found.findings] == [(1, 2)]
    shapes = one_by_one([b'{"id": 1, "text": "a"}'], "text")
    assert not shapes.faults, "a remark is no reason to reject a file"


def test_the_kind_is_that_of_the_first_line_that_has_one() -> None:
    found = report([b'{"version": 2}', b'{"rows": 9}', TEXT, TEXT, CHAT])
    assert (found.kind, found.examples, found.mixed) == ("text", 5, 3)
    assert report([b'{"a": 1}'] * 3).kind == "other"
    assert Shapes().report().kind is None


def test_no_finding_repeats_more_than_a_short_escaped_piece() -> None:
    long = "\x1b[31mkey\u202e\n" + "x" * 1000
    values: list[dict[str, Any]] = [
        {long: 1},
        {"text": "a", long: 1},
        {"messages": [{"role": long, "content": "a", long: 1}]},
    ]
    for value in values:
        for each in report(lines_of([value])).findings:
            assert each.reason.isprintable()
            assert "x" * (QUOTED + 1) not in each.reason
            assert len(each.reason) < 250


def test_a_column_is_found_as_the_parser_of_lines_reads() -> None:
    assert column_of(b'{"a": 1, "a": 2}', ("a",)) == 15, "of equal keys the last one counts"
    assert column_of(b'{"\\u0061": [1, {"b": 2}]}', ("a", 1, "b")) == 22
    assert column_of(b'{"a": %b, "b": 1}' % (b"9" * 5000), ("b",), of_key=True) == 5009
    assert column_of(b'{"a": 1}', ("b",)) == 1
    assert column_of(b'{"a": 1}', (0, "b")) == 1
    assert column_of(b"{}", ()) == 1
    assert column_of(b" {}", ()) == 2


WORDS = st.sampled_from(["", " ", "a", "bc", "é🙂"])
VALUES = st.one_of(WORDS, st.none(), st.integers(0, 2), st.booleans(), st.just([]), st.just({}))
ROLES = st.sampled_from(["user", "assistant", "system", "developer", "tool", "human", ""])
MESSAGES = st.one_of(
    st.fixed_dictionaries(
        {"role": ROLES, "content": WORDS}, optional={"weight": VALUES, "name": WORDS, "tool_calls": VALUES, "extra": VALUES}
    ),
    st.fixed_dictionaries({}, optional={"role": VALUES, "content": VALUES}),
    VALUES,
)
CONVERSATIONS = st.one_of(
    st.just([user(), assistant()]),
    st.just([system(), user(), assistant(), user(), assistant()]),
    st.lists(MESSAGES, max_size=4),
)
PARTS = st.one_of(WORDS, CONVERSATIONS, VALUES)
INPUTS = st.one_of(st.fixed_dictionaries({"messages": CONVERSATIONS}, optional={"tools": VALUES, "extra": VALUES}), VALUES)
KEYS = ("text", "messages", "prompt", "completion", "chosen", "rejected", "preferred_output", "non_preferred_output")
OBJECTS = st.one_of(
    st.fixed_dictionaries({"text": st.just("good")}),
    st.fixed_dictionaries({"messages": st.just([user(), assistant()])}),
    st.fixed_dictionaries({"prompt": st.just("a"), "completion": st.just("b")}),
    st.fixed_dictionaries({}, optional={"prompt": st.just("a"), "completion": st.just("b"), "id": st.just(1)}),
    st.fixed_dictionaries(
        {"messages": st.just([user(), assistant()])}, optional={"prompt": st.just("a"), "text": st.just("b")}
    ),
    st.fixed_dictionaries({"text": WORDS}, optional={"id": VALUES, "meta": VALUES}),
    st.fixed_dictionaries({"messages": CONVERSATIONS}, optional={"tools": VALUES, "prompt": WORDS}),
    st.fixed_dictionaries({"chosen": PARTS, "rejected": PARTS}, optional={"prompt": PARTS}),
    st.fixed_dictionaries({"input": INPUTS, "preferred_output": CONVERSATIONS, "non_preferred_output": CONVERSATIONS}),
    st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, PARTS) | {"input": INPUTS, "id": VALUES}),
    st.dictionaries(st.sampled_from([*KEYS, *"abcdefghijklmnopqrstuvwxyz"]), VALUES, max_size=4),
)


@pytest.mark.parametrize("read_size", [50, 333, 4096, 1 << 18])
def test_a_file_has_the_same_shape_whatever_is_read_at_once(read_size: int) -> None:
    lines = [CHAT, TEXT, CHAT[:-1] + b', "id": 1}', b'{"messages": []}', PAIR] * 40
    data = b"\n".join(lines)
    with os.fdopen(os.memfd_create("dataset"), "wb", buffering=0) as file:
        file.write(data)
        shape = check(file.fileno(), len(data), "full", lambda: None, shapes=Shapes(), read_size=read_size).shape
    assert shape == one_by_one(lines).report()
    assert check_stream(io.BytesIO(data).read, Shapes()).shape == shape


def test_a_line_that_is_not_held_is_counted_and_told() -> None:
    long = b'{"text": "%b"}' % (b"x" * 2 * LARGE_LINE)
    shapes = Shapes("text")
    shape = check_stream(io.BytesIO(b"\n".join([TEXT, long, TEXT])).read, shapes).shape
    assert shape is not None
    assert (shape.kind, shape.examples, shape.characters, shapes.faults) == ("text", 3, 2, [])
    [finding] = shape.findings
    assert (finding.line, finding.column) == (2, 1)
    assert f"the line has {len(long)} bytes, and its shape was not looked at" in finding.reason


def test_a_wanted_shape_makes_other_files_invalid() -> None:
    with pytest.raises(InvalidDataset) as caught:
        check_stream(io.BytesIO(b"\n".join([PAIR, CHAT, PAIR])).read, Shapes("chat"))
    assert (caught.value.total, len(caught.value.faults)) == (2, 2)
    assert str(caught.value).startswith("line 1, column 1: the line has the shape pairs (prompt and completion), and [drop]")


def assert_both_ways_agree(values: list[dict[str, Any]], size: int, wanted: str | None) -> None:
    lines = [json.dumps(value, ensure_ascii=False).encode() for value in values]
    slow, fast = one_by_one(lines, wanted), by_windows(lines, size, wanted)
    assert fast.report() == slow.report()
    assert (fast.faults, fast.counts) == (slow.faults, slow.counts)


RUNS = st.lists(st.tuples(OBJECTS, st.integers(1, 40)), min_size=1, max_size=12)
WANTED = st.sampled_from([None, *KINDS])


@settings(max_examples=200, deadline=None)
@given(RUNS, st.integers(1, 200), WANTED)
def test_runs_of_lines_by_windows_and_one_by_one_give_the_same_report(
    runs: list[tuple[dict[str, Any], int]], size: int, wanted: str | None
) -> None:
    assert_both_ways_agree([value for value, times in runs for _ in range(times)], size, wanted)


@settings(max_examples=100, deadline=None)
@given(RUNS, st.integers(1, 100), WANTED)
def test_what_was_found_in_parts_of_a_file_is_joined(
    runs: list[tuple[dict[str, Any], int]], size: int, wanted: str | None
) -> None:
    lines = [json.dumps(value, ensure_ascii=False).encode() for value, times in runs for _ in range(times)]
    whole, joined = one_by_one(lines, wanted), Shapes(wanted)
    parts: list[tuple[int, Shapes]] = []
    for start in range(0, len(lines), size):
        begun = joined.begun()
        if begun is not None:
            parts.append((start, pickle.loads(pickle.dumps(begun))))
        shapes, first = (joined, start + 1) if begun is None else (parts[-1][1], 1)
        for number, line in enumerate(lines[start : start + size], first):
            shapes.take(orjson.loads(line), line, number)
    for before, shapes in parts:
        joined.join(pickle.loads(pickle.dumps(shapes)), before)
    assert joined.report() == whole.report()
    assert (joined.faults, joined.counts) == (whole.faults, whole.counts)


@settings(max_examples=60, deadline=None)
@given(st.lists(OBJECTS, min_size=1, max_size=4), st.randoms(use_true_random=False), st.integers(1, 200), WANTED)
def test_mixed_lines_by_windows_and_one_by_one_give_the_same_report(
    values: list[dict[str, Any]], chance: random.Random, size: int, wanted: str | None
) -> None:
    assert_both_ways_agree(chance.choices(values, k=150), size, wanted)
