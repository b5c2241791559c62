"""The proxy for each request: variables as in curl, and unreadable values."""

import pytest

from axomsync.transport.proxies import Proxies, with_loopback_excepted

URL = "https://console.example:8443/api"


@pytest.mark.parametrize(
    ("environ", "url", "place", "variable"),
    [
        ({}, URL, None, None),
        ({"HTTPS_PROXY": "http://p:3128"}, URL, "p:3128", "HTTPS_PROXY"),
        ({"https_proxy": "http://p:3128", "HTTPS_PROXY": "http://other"}, URL, "p:3128", "https_proxy"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://other"}, URL, None, None),
        ({"http_proxy": "http://p:3128"}, URL, None, None),
        ({"HTTP_PROXY": "http://p:3128"}, "http://a.example/", "p:3128", "HTTP_PROXY"),
        ({"ALL_PROXY": "socks5h://p"}, URL, "p:1080", "ALL_PROXY"),
        ({"all_proxy": "p", "https_proxy": "q:1"}, URL, "q:1", "https_proxy"),
        ({"all_proxy": "p"}, "http://a.example/", "p:80", "all_proxy"),
        ({"https_proxy": "foo"}, URL, "foo:80", "https_proxy"),
        ({"https_proxy": "10.0.0.1:3128"}, URL, "10.0.0.1:3128", "https_proxy"),
        ({"https_proxy": " https://p/ "}, URL, "p:443", "https_proxy"),
        ({"https_proxy": "http://[fd00::1]:3128"}, URL, "[fd00::1]:3128", "https_proxy"),
        ({"https_proxy": "http://me:geheim@p:3128"}, URL, "p:3128", "https_proxy"),
        ({"https_proxy": "p"}, "https://localhost/", None, None),
        ({"https_proxy": "p"}, "https://127.8.9.1/", None, None),
        ({"https_proxy": "p"}, "https://[::1]:9/", None, None),
    ],
)
def test_proxies_by_scheme_and_spelling(environ: dict[str, str], url: str, place: str | None, variable: str | None) -> None:
    found = Proxies.of(environ)
    proxy = found.leading_to(url)
    assert (proxy and proxy.place, proxy and proxy.variable) == (place, variable)
    assert found.warnings == ()
    assert "geheim" not in f"{proxy} {proxy!r} {found}"


@pytest.mark.parametrize(
    ("exceptions", "goes_round", "goes_through"),
    [
        ("*", [URL, "https://10.1.2.3/"], []),
        ("localhost,::1/128", ["https://[::1]/"], [URL]),
        ("example", [URL, "https://example/"], ["https://myexample/"]),
        (".example", [URL, "https://example/"], ["https://console.example.org/"]),
        ("*.example", [URL], ["https://a.test/"]),
        ("CONSOLE.Example.", [URL, "https://console.example./"], ["https://example/"]),
        ("console.example:8443", [URL], ["https://console.example/"]),
        ("console.example:443", ["https://console.example/"], [URL]),
        ("a.test console.example", [URL, "https://a.test/"], ["https://b.test/"]),
        (" a.test ,\tconsole.example, ", [URL], ["https://b.test/"]),
        ("10.0.0.0/8", ["https://10.200.3.4/"], ["https://11.0.0.1/", URL]),
        ("10.1.2.3/8", ["https://10.200.3.4/"], ["https://11.0.0.1/"]),
        ("192.168.1.5", ["https://192.168.1.5:444/"], ["https://192.168.1.50/"]),
        ("192.168.1.5:444", ["https://192.168.1.5:444/"], ["https://192.168.1.5/"]),
        ("fd00::/8", ["https://[fd00::9]/"], ["https://[2001:db8::1]/", URL]),
        ("[2001:db8::1]", ["https://[2001:db8::1]:444/"], ["https://[2001:db8::2]/"]),
        ("[2001:db8::1]:444", ["https://[2001:db8::1]:444/"], ["https://[2001:db8::1]/"]),
        ("2001:DB8:0::1", ["https://[2001:db8::1]/"], ["https://[2001:db8::2]/"]),
        ("http://console.example", [URL], ["https://a.test/"]),
        ("", [], [URL]),
    ],
)
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_no_proxy_exceptions(name: str, exceptions: str, goes_round: list[str], goes_through: list[str]) -> None:
    found = Proxies.of({"ALL_PROXY": "http://p:3128", name: exceptions})
    assert [url for url in goes_round if found.leading_to(url)] == []
    assert [url for url in goes_through if not found.leading_to(url)] == []
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"https_proxy": "://"}, "$https_proxy: left out: this is not the address of a proxy; write it like http://"),
        ({"HTTPS_PROXY": "http://p:99999"}, "$HTTPS_PROXY: left out: this is not the address"),
        ({"HTTPS_PROXY": "http://me:geheim@:3128"}, "$HTTPS_PROXY: left out: this is not the address"),
        (
            {"HTTPS_PROXY": "http://me:geheim@proxy..lan:3128"},
            "$HTTPS_PROXY: left out: this is not the address of a proxy: its host name has a dot too many; write it like",
        ),
        (
            {"ALL_PROXY": f"{'a' * 64}.lan:3128"},
            "$ALL_PROXY: left out: this is not the address of a proxy: its host name is",
        ),
        ({"no_proxy": "a..test"}, "$no_proxy: a..test is left out: write a name"),
        ({"HTTPS_PROXY": "http://me:geheim@p:nine"}, "$HTTPS_PROXY: left out: this is not the address"),
        ({"HTTPS_PROXY": "http://[::1"}, "$HTTPS_PROXY: left out: this is not the address"),
        ({"HTTPS_PROXY": "http://a b:1"}, "$HTTPS_PROXY: left out: this is not the address"),
        (
            {"ALL_PROXY": "socks4://p:1080"},
            "$ALL_PROXY: left out: socks4 proxies are not understood; name one of http, https",
        ),
        ({"ALL_PROXY": "ftp://p"}, "$ALL_PROXY: left out: ftp proxies are not understood"),
        ({"no_proxy": "10.0.0.0/99"}, "$no_proxy: 10.0.0.0/99 is left out: write a name, an address, or a network"),
        ({"no_proxy": "a.test, ::1/abc"}, "$no_proxy: ::1/abc is left out"),
        ({"no_proxy": "a:b"}, "$no_proxy: a:b is left out"),
    ],
)
def test_unreadable_variables_are_left_out_with_one_warning(environ: dict[str, str], words: str) -> None:
    found = Proxies.of(environ)
    (warning,) = found.warnings
    assert warning.startswith(words)
    assert "geheim" not in warning
    assert found.leading_to(URL) is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"no_proxy": ".local, ::1", "NO_PROXY": "10.0.0.0/8"}, ".local,::1,10.0.0.0/8,localhost,127.0.0.1"),
    ],
)
def test_environment_for_hooks_excepts_loopback(environ: dict[str, str], expected: str) -> None:
    found = with_loopback_excepted({**environ, "http_proxy": "http://p:3128"})
    assert (found["no_proxy"], found["NO_PROXY"], found["http_proxy"]) == (expected, expected, "http://p:3128")
