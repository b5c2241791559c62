"""Signatures of URLs in text that others wrote: none comes through, in whatever form it is repeated."""

import json
import time
from urllib.parse import quote, quote_plus, unquote
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axomsync.core.signatures import repeats_signature, without_queries, without_signature

SIGNATURE = "abc+defGHIJKLMNOP/qrstuvwxyz0123456789/AB="
QUERY = f"sv=2022-11-02&sr=b&sp=cw&sig={quote(SIGNATURE, safe='')}"
URL = f"https://acc.store.test/b/it's%20k.jsonl?{QUERY}"

FORMS = {
    "as sent": QUERY,
    "decoded": unquote(QUERY),
    "in lower case": QUERY.replace("%2B", "%2b").replace("%2F", "%2f"),
    "decoded as a form": unquote(QUERY).replace("+", " "),
    "encoded once more": quote(QUERY, safe=""),
    "in a URL in a URL": quote(quote(QUERY, safe=""), safe=""),
    "for XML": escape(QUERY),
    "for XML, decoded": escape(unquote(QUERY)),
    "as numbers for XML": unquote(QUERY).replace("+", "&#43;").replace("/", "&#x2F;").replace("=", "&#0061;"),
    "for JSON": json.dumps(unquote(QUERY)).replace("/", "\\/"),
    "as numbers for JSON": unquote(QUERY).replace("+", "\\u002b").replace("/", "\\u002F"),
    "the value alone": SIGNATURE,
    "the value alone, as sent": quote(SIGNATURE, safe=""),
    "the value alone, encoded for a form": quote_plus(SIGNATURE),
    "the beginning alone": QUERY[: QUERY.index("sig=") + 24],
    "with the path": f"/b/it's k.jsonl?{QUERY}",
    "the whole URL": URL,
    "in apostrophes": f"'{URL}'",
}


@pytest.mark.parametrize("repeated", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("around", ["{}", "it refuses {}: no right", "<{}>", "({})", "x{}"])
def test_no_form_of_a_signature_comes_through(repeated: str, around: str) -> None:
    text = around.format(repeated)
    left = without_signature(text, URL)
    for part in ("GHIJKLMNOP", "qrstuvwxyz"):
        assert part not in left
    assert repeats_signature(text, URL)


def test_the_rest_of_a_message_stays() -> None:
    text = f"/b/k?{QUERY}: no right; request 7"
    assert without_signature(text, URL) == "/b/k?sv=…&sr=…&sp=…&sig=… no right; request 7"


@pytest.mark.parametrize("value", [SIGNATURE, "x" + SIGNATURE, SIGNATURE[5:25], "sv=2022-11-02", "store.test"])
def test_a_part_of_the_url_repeats_it(value: str) -> None:
    assert repeats_signature(value, URL)


@given(st.text(st.sampled_from("abc09+/=-_~.% &'ü"), min_size=16, max_size=60))
def test_any_value_is_found_in_its_usual_forms(value: str) -> None:
    url = f"https://store.test/k?Signature={quote(value, safe='')}"
    for form in (value, quote(value), quote(value, safe=""), quote_plus(value), escape(quote_plus(value))):
        left = without_signature(f"before {form} after", url)
        assert "before" in left
        assert form.strip() == "" or form not in left


@pytest.mark.parametrize(
    "text", ["", "Access Denied", "The difference between the request time and the server's time is too large.", "a=b?c&d"]
)
def test_plain_words_are_left_as_they_are(text: str) -> None:
    assert without_signature(text, URL) == text
    assert text == "" or not repeats_signature(text, URL)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("GET https://h/k?a=1&b=2 failed", "GET https://h/k?… failed"),
        ("https://h/it's/k?a='1'&sig=abc", "https://h/it's/k?…"),
        ('{"one":"https://h/a?x=1","two":"https://h/b?y=2"}', '{"one":"https://h/a?…","two":"https://h/b?…"}'),
        ("<a>https://h/a?x=1</a>", "<a>https://h/a?…</a>"),
        ("/b/k?sv=1&sig=abcdef", "/b/k?sv=1&sig=…"),
        ("Signature%3Dabc", "Signature%3D…"),
        ("what? no://", "what? no://"),
    ],
)
def test_queries_of_any_url_are_cut_off(text: str, left: str) -> None:
    assert without_queries(text) == left


@pytest.mark.parametrize("piece", ["https://", "https://?", "?", "sig=", "sig", "%25", "&#0", 'a://b?"', "\\"])
def test_a_long_text_takes_a_moment(piece: str) -> None:
    text = piece * 100_000
    began = time.process_time()
    without_queries(text)
    without_signature(text[:8192], URL)
    assert time.process_time() - began < 5.0


@given(st.text())
def test_any_url_and_any_text_are_taken(text: str) -> None:
    for url in (text, f"https://h/{text}", f"https://h/k?{text}"):
        without_signature(text, url)
        repeats_signature(text, url)
