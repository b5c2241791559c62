"""The documented forms of training data, and what is wrong with one line of it. Pure.

A line is an example in one of four shapes, the last two with texts or with lists of messages:

- text: `{"text": …}`, which the vendor's own documentation shows
- chat: `{"messages": [{"role": …, "content": …}, …]}`
- pairs: `{"prompt": …, "completion": …}`
- preference: `{"prompt": …, "chosen": …, "rejected": …}`, the prompt may be part of both; or
  `{"input": {"messages": …}, "preferred_output": […], "non_preferred_output": […]}`

The rules are those that trainers document and all of them can live with:

- OpenAI: developers.openai.com/api/docs/guides/supervised-fine-tuning and …/direct-preference-optimization (roles, `weight`
  0 or 1, `tools`, `parallel_tool_calls`, calls in place of a content)
- Together: docs.together.ai/docs/fine-tuning/data-preparation, and the client's `utils/files.py` (one shape a file and a
  line, no other keys, turns alternate, ≥ 1 message)
- Fireworks: docs.fireworks.ai/fine-tuning/fine-tuning-models and …/weighted-training (system first, thinking, a weight of
  any size beside `messages`)
- TRL: huggingface.co/docs/trl/dataset_formats (texts or messages, implicit prompts, `label`, scores, images)
- Mistral: docs.mistral.ai/capabilities/finetuning/text_finetuning; NeMo: docs.nvidia.com/nemo, format-training-dataset

Failures handled: lines of any content; no finding repeats more of it than a short, escaped piece.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import _lru_cache_wrapper, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from axomsync.core.text import printable
from axomsync.drop.columns import Path

Line = Mapping[str, Any]

T = TypeVar("T")

KEYS_KEPT, LENGTH_KEPT = 100, 2000  # keys of a line that are remembered, and the characters of all
QUOTED = 24  # characters of a text that are repeated
SYSTEM = frozenset({"system", "developer"})
TOOLS = frozenset({"tool", "function"})  # several may answer in a row, and an answer may be empty
ROLES = SYSTEM | TOOLS | {"user", "assistant"}

# Keys that somebody documents for the line, and for a message.
LINE_EXTENSIONS = frozenset({
    "tools", "functions", "parallel_tool_calls", "metadata", "weight", "label", "images", "chat_template_kwargs",
    "score_chosen", "score_rejected",
})  # fmt: skip
MESSAGE_EXTENSIONS = frozenset({
    "name", "weight", "tool_calls", "tool_call_id", "function_call", "refusal", "audio", "reasoning_content",
    "reasoning", "thinking", "prefix",
})  # fmt: skip
IN_PLACE_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")
INPUT_KEYS = LINE_EXTENSIONS | {"messages"}
PLAIN_KEYS = frozenset({"role", "content"})
MESSAGE_KEYS = MESSAGE_EXTENSIONS | PLAIN_KEYS

_WHERE = {"line": "the line", "input": "input", "message": "a message"}
_MEANT_ROLES = {
    "human": "user", "prompter": "user", "question": "user",
    "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant",
    "instruction": "system", "observation": "tool", "ipython": "tool",
}  # fmt: skip
_OTHER_FORMS = (
    ({"conversations"}, "write messages, each with role and content, in the place of conversations with from and value"),
    ({"instruction", "output"}, "write prompt and completion in the place of instruction, input and output"),
    ({"question", "answer"}, "write prompt and completion in the place of question and answer"),
    ({"prompt_text", "completion_text"}, "write prompt and completion in the place of prompt_text and completion_text"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """One form of a shape. `needed` are the keys that make it, in `lists` of messages or as texts."""

    kind: str  # as `[drop] schema` names it
    needed: tuple[str, ...]
    lists: bool = False
    more: frozenset[str] = LINE_EXTENSIONS

    def __reduce__(self) -> tuple[Callable[[int], "Form"], tuple[int]]:
        """Another process has the same forms: each of them stays one object there."""
        return _form_of_number, (FORMS.index(self),)

    @property
    def keys(self) -> frozenset[str]:
        """The keys that a line of this form may have."""
        return self.more.union(self.needed)

    @property
    def words(self) -> str:
        """The keys for people, with what they hold where that is not clear."""
        both = " and ".join((", ".join(self.needed[:-1]), self.needed[-1])) if self.needed[1:] else self.needed[0]
        return f"{both} as lists of messages" if self.lists and self not in (CHAT, OUTPUTS) else both


TEXT = Form("text", ("text",))
CHAT = Form("chat", ("messages",), lists=True)
PAIRS = Form("pairs", ("prompt", "completion"))
PAIRS_OF_MESSAGES = Form("pairs", ("prompt", "completion"), lists=True)
PREFERENCE = Form("preference", ("chosen", "rejected"), more=LINE_EXTENSIONS | {"prompt"})
PREFERENCE_OF_MESSAGES = Form("preference", ("chosen", "rejected"), lists=True, more=LINE_EXTENSIONS | {"prompt"})
OUTPUTS = Form("preference", ("input", "preferred_output", "non_preferred_output"), lists=True)

FORMS = (TEXT, CHAT, PAIRS, PAIRS_OF_MESSAGES, PREFERENCE, PREFERENCE_OF_MESSAGES, OUTPUTS)


def _form_of_number(number: int) -> Form:
    return FORMS[number]


# Each with the keys of which one is enough to see that the form was meant; in the order in which they are looked for.
_FAMILIES = (
    (OUTPUTS, OUTPUTS, ("preferred_output", "non_preferred_output")),
    (PREFERENCE, PREFERENCE_OF_MESSAGES, ("chosen", "rejected")),
    (PAIRS, PAIRS_OF_MESSAGES, ("prompt", "completion")),
    (CHAT, CHAT, ("messages",)),
    (TEXT, TEXT, ("text",)),
)
MARKERS = frozenset(key for _, _, keys in _FAMILIES for key in keys)
KINDS = ("chat", "pairs", "preference", "text")


class Finding(NamedTuple):
    """Something odd about a line: the path to it, its words, and what it has in common with others of its sort."""

    path: Path
    what: str
    remedy: str
    sort: str
    of_key: bool = False
    extra: tuple[str, str] | None = None  # where a key is that no form has, and the key: it is told once, and no fault

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


def form_of(line: Line) -> Form | None:
    """Return the form that a line has, or that was meant; None when it is no known one."""
    texts, lists, keys = _by_keys(_family_of, tuple(line))
    if lists is not texts:
        for key in keys:
            if type(line.get(key)) is list:
                return lists
    return texts


def _by_keys(ask: "_lru_cache_wrapper[T]", keys: tuple[str, ...]) -> T:
    """Return what a cached function says of these keys. Most lines of a file have the same; very long ones are not kept."""
    if len(keys) > KEYS_KEPT or sum(map(len, keys)) > LENGTH_KEPT:
        return ask.__wrapped__(keys)
    return ask(keys)


@lru_cache(maxsize=200)
def _family_of(keys: tuple[str, ...]) -> tuple[Form | None, Form | None, tuple[str, ...]]:
    """Return the forms with texts and with lists that a line with these keys has, and the keys that tell them apart."""
    for texts, lists, markers in _FAMILIES:
        if set(texts.needed) <= set(keys):
            return texts, lists, markers
    for texts, lists, markers in _FAMILIES:
        if not set(markers).isdisjoint(keys):
            return texts, lists, markers
    return None, None, ()


@lru_cache(maxsize=200)
def _findings_of_keys(keys: tuple[str, ...]) -> "tuple[Finding, ...]":
    """Return what is odd about the keys of a line of a known form, whatever it holds."""
    form = _family_of.__wrapped__(keys)[0]
    if form is None:
        return ()
    others = [other for other, _, _ in _FAMILIES if other is not form and set(other.needed) <= set(keys)]
    known = form.keys.union(*(other.needed for other in others))
    found = [
        Finding((), f"{key} is missing", f"write it beside {_others(form, key)}", f"{key} is missing")
        for key in form.needed
        if key not in keys
    ]
    found += [
        Finding(
            (other.needed[-1],),
            f"the line has two shapes: {form.words}, and {other.words}",
            "leave one out",
            "two shapes",
            of_key=True,
        )
        for other in others
    ]
    return (*found, *_extra_keys(keys, known, (), "line"))


def parts_of(line: Line, form: Form) -> Iterator[tuple[Path, Any, bool]]:
    """Yield the texts or lists of messages of a line: the path to each, the value, and whether it is an answer to learn.

    What is not there is left out.
    """
    if form is OUTPUTS:
        given = line.get("input")
        if type(given) is dict and "messages" in given:
            yield ("input", "messages"), given["messages"], False
        keys: tuple[str, ...] = OUTPUTS.needed[1:]
    elif form.kind == "preference":
        keys = ("prompt", *form.needed)
    else:
        keys = form.needed
    for key in keys:
        if key in line:
            yield (key,), line[key], key != "prompt"


def weigh(line: Line, form: Form) -> tuple[int, int]:
    """Return the turns and the characters of a line, whatever is wrong with it."""
    turns = characters = 0
    for _, value, _ in parts_of(line, form):
        if type(value) is str:
            characters += len(value)
        elif type(value) is list:
            turns += len(value)
            for message in value:
                if type(message) is dict:
                    content = message.get("content")
                    characters += len(content) if type(content) is str else _characters(content)
    return turns, characters


def _characters(content: object) -> int:
    if type(content) is list:
        return sum(_characters(part.get("text")) for part in content if type(part) is dict)
    return len(content) if isinstance(content, str) else 0


def unknown_form(line: Line) -> Finding:
    """Return what is to be said of a line that has no known form."""
    remedy = "write text, messages, prompt and completion, or chosen and rejected, if it is to be trained on"
    remedy = next((words for keys, words in _OTHER_FORMS if keys <= line.keys()), remedy)
    if not line:
        return Finding((), "the line is an empty object", remedy, "no known shape")
    named = ", ".join(map(quoted, list(line)[:3])) + ", …" * (len(line) > 3)
    what = f"the keys {named} belong to no known shape" if len(line) > 1 else f"the key {named} belongs to no known shape"
    return Finding((), what, remedy, "no known shape")


@lru_cache(maxsize=100)
def other_form(form: Form | None, first: Form) -> Finding:
    """Return what is to be said of a line whose form is another than that of the first."""
    here = "no known shape" if form is None else form.words
    return Finding(
        (), f"the line has {here}, and the first has {first.words}", "put each shape into a file of its own", "mixed"
    )


def unwanted(form: Form | None, kind: str) -> Finding:
    """Return what is to be said of the first line when `kind` was asked for."""
    here = "no known shape" if form is None else f"the shape {form.kind} ({form.words})"
    remedy = f'write it as {kind}, or set [drop] schema = "report"'
    return Finding((), f'the line has {here}, and [drop] schema is "{kind}"', remedy, "another shape")


def findings_of(line: Line, form: Form) -> Iterator[Finding]:
    """Yield everything that is odd about a line of this form."""
    yield from findings_of_keys(line)
    if form is OUTPUTS and "input" in line:
        yield from _input(line["input"])
    for path, value, learnt in parts_of(line, form):
        name = str(path[0]) if len(path) == 1 else "input.messages"
        if form.lists:
            yield from _conversation(value, path, name, learnt=learnt)
        else:
            yield from _text(value, path, name)


def findings_of_keys(line: Line) -> tuple[Finding, ...]:
    """Return what is odd about the keys alone of a line of a known form."""
    return _by_keys(_findings_of_keys, tuple(line))


def _others(form: Form, key: str) -> str:
    return " and ".join(other for other in form.needed if other != key)


def _extra_keys(keys: Iterable[str], known: frozenset[str], path: Path, where: str) -> Iterator[Finding]:
    for key in keys:
        if key in known:
            continue
        what = f"the key {quoted(key)} of {_WHERE[where]} belongs to no shape"
        remedy = "leave it out if the trainer refuses it"
        yield Finding((*path, key), what, remedy, "extra key", of_key=True, extra=(where, key))


def _input(value: object) -> Iterator[Finding]:
    if type(value) is not dict:
        yield Finding(("input",), f"input is {_kind_of(value)}", 'write {"messages": […]}', "wrong type")
    elif "messages" not in value:
        yield Finding(
            ("input",), "messages is missing in input", "write the prompt as a list of messages", "messages is missing"
        )
    else:
        yield from _extra_keys(value, INPUT_KEYS, ("input",), "input")


def _text(value: object, path: Path, name: str) -> Iterator[Finding]:
    if type(value) is not str:
        yield Finding(path, f"{name} is {_kind_of(value)}", "write a text", "wrong type")
    elif not value or value.isspace():
        yield Finding(path, f"{name} is empty", "write a text, or leave the line out", "empty content")


def _conversation(messages: object, path: Path, name: str, *, learnt: bool) -> Iterator[Finding]:
    if type(messages) is not list:
        remedy = 'write a list like [{"role": "user", "content": "…"}]'
        yield Finding(path, f"{name} is {_kind_of(messages)}", remedy, "wrong type")
        return
    if not messages:
        yield Finding(path, f"{name} is an empty list", "write the messages, or leave the line out", "empty content")
        return
    previous: object = None
    for number, message in enumerate(messages, 1):
        if type(message) is dict and _is_plain(message) and message["role"] not in SYSTEM and message["role"] != previous:
            previous = message["role"]
            continue
        here = (*path, number - 1)
        if type(message) is not dict:
            what = f"message {number} of {name} is {_kind_of(message)}"
            yield Finding(here, what, 'write {"role": "…", "content": "…"}', "wrong type")
            previous = None
            continue
        words = f"message {number} of {name}"
        yield from _message(message, here, words)
        role = message.get("role")
        if role == previous and type(role) is str and role not in TOOLS:
            what = f"{words} has the role {quoted(role)}, as the one before it"
            yield Finding(
                (*here, "role"), what, "join them, or add the missing message between them", "turns that do not alternate"
            )
        elif number > 1 and type(role) is str and role in SYSTEM:
            what = f"{words} has the role {role}, and is not the first"
            yield Finding((*here, "role"), what, "move it to the front", "turns that do not alternate")
        previous = role
    if learnt and not any(type(message) is dict and message.get("role") == "assistant" for message in messages):
        what = f"no message of {name} has the role assistant"
        yield Finding(path, what, "write the answer that is to be learnt, or leave the line out", "no assistant turn")


def are_in_order(roles: tuple[str, ...], *, learnt: bool) -> bool:
    """Return whether `findings_of` finds nothing in the roles of such a list of messages."""
    if not roles or not ROLES.issuperset(roles) or (learnt and "assistant" not in roles):
        return False
    if not SYSTEM.isdisjoint(roles[1:]):
        return False
    return all(one != other or one in TOOLS for one, other in pairwise(roles))


def _is_plain(message: Line) -> bool:
    """Return whether a message is one of the many that call for no closer look by themselves."""
    content, role = message.get("content"), message.get("role")
    if type(content) is not str or not content or content.isspace() or type(role) is not str or role not in ROLES:
        return False
    return len(message) == len(PLAIN_KEYS) or (message.keys() <= MESSAGE_KEYS and "weight" not in message)


def length_of(message: Line) -> int | None:
    """Return the characters of a message's content; None when there is a finding."""
    content = message.get("content")
    if type(content) is str and content and not content.isspace():
        return len(content)
    return None if any(_content(message, (), "")) else _characters(content)


def _message(message: Line, path: Path, words: str) -> Iterator[Finding]:
    role = message.get("role")
    if "role" not in message:
        yield Finding(path, f"{words} has no role", "set role to system, user, assistant or tool", "no role")
    elif type(role) is not str:
        yield Finding((*path, "role"), f"the role of {words} is {_kind_of(role)}", "write a text", "wrong type")
    elif not role or role.isspace():
        yield Finding(
            (*path, "role"), f"the role of {words} is empty", "set role to system, user, assistant or tool", "empty role"
        )
    elif role not in ROLES:
        meant = role.strip().lower()
        meant = meant if meant in ROLES else _MEANT_ROLES.get(meant, "system, user, assistant or tool")
        yield Finding(
            (*path, "role"), f"{words} has the unknown role {quoted(role)}", f"set role to {meant}", "unknown role"
        )
    yield from _content(message, path, words)
    weight = message.get("weight")
    if weight is not None and not (type(weight) is int and weight in (0, 1)):
        what = f"the weight of {words} is neither 0 nor 1"
        yield Finding((*path, "weight"), what, "write 1 to learn it, 0 to pass it over", "weight")
    if not message.keys() <= MESSAGE_KEYS:
        yield from _extra_keys(message, MESSAGE_KEYS, path, "message")


def _content(message: Line, path: Path, words: str) -> Iterator[Finding]:
    content = message.get("content")
    if not content:
        for key in IN_PLACE_OF_CONTENT:
            if message.get(key):
                return
    if "content" not in message:
        yield Finding(path, f"{words} has no content", "write a text, or leave the message out", "empty content")
    elif type(content) is list:
        yield from _content_parts(content, (*path, "content"), words)
    elif type(content) is not str:
        yield Finding((*path, "content"), f"the content of {words} is {_kind_of(content)}", "write a text", "wrong type")
    elif (not content or content.isspace()) and message.get("role") not in ("tool", "function"):
        remedy = "write a text, or leave the message out"
        yield Finding((*path, "content"), f"the content of {words} is empty", remedy, "empty content")


def _content_parts(parts: list[Any], path: Path, words: str) -> Iterator[Finding]:
    if not parts:
        yield Finding(path, f"the content of {words} is an empty list", "write a text, or leave it out", "empty content")
    for number, part in enumerate(parts):
        if type(part) is not dict or type(part.get("type")) is not str:
            what = f"part {number + 1} of the content of {words} has no type"
            yield Finding((*path, number), what, 'write {"type": "text", "text": "…"}', "wrong type")
        elif part["type"] == "text" and (type(part.get("text")) is not str or not part["text"].strip()):
            what = f"part {number + 1} of the content of {words} has no text"
            yield Finding((*path, number), what, "write a text, or leave the part out", "empty content")


def quoted(text: str) -> str:
    """Return at most the beginning of a text, escaped, in quotes."""
    return f'"{printable(text[:QUOTED])}{"…" * (len(text) > QUOTED)}"'


def _kind_of(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
