"""Configuration: accepted and refused values, and the place named in each error."""

import json
import os
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axomsync import config
from axomsync.config import units
from axomsync.core.errors import BadConfig, KeyRefused
from axomsync.core.policy import BandwidthRule
from tests.rig.anything import ANYTHING, for_any, how_many, nearly
from tests.rig.disks import dead_disk

FILE = Path("/etc/axomsync/config.toml")
CHECKOUT = Path(__file__).parents[2]


def parse(text: str, **environ: str) -> config.Loaded:
    return config.parse(text, FILE, environ)


def errors_of(text: str, **environ: str) -> list[str]:
    with pytest.raises(BadConfig) as refusal:
        parse(text, **environ)
    assert refusal.value.exit_code == 78
    return str(refusal.value).replace(f"{FILE}:", "line ").splitlines()


def test_an_empty_file_is_a_whole_configuration() -> None:
    settings = parse("").settings
    assert settings.console.url == "https://console.axomlabs.ai/api"
    assert (settings.drop.settle, settings.drop.max_put, settings.drop.shard) == (5.0, 5115 * 1024**2, None)
    assert settings.transfer.bandwidth == ()


def test_the_example_is_what_the_program_writes_and_holds_every_key_with_its_default() -> None:
    text = (CHECKOUT / "config.example.toml").read_text(encoding="utf-8")
    assert text == config.example()
    assert parse(text).settings == parse("").settings
    keys = {f"{section}.{key}" for section, values in tomllib.loads(text).items() for key in values}
    assert keys == {row["key"] for row in config.effective(parse(""))}
    for line in text.splitlines():
        assert "=" not in line or "  # " in line, f"no reason given: {line}"


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("[drop]\nsettel = '5s'", ["line 2: [drop] settel: unknown key; did you mean settle?"]),
        ("\n[dorp]\nsettle = '5s'", ["line 2: [dorp]: unknown section; did you mean drop?"]),
        ("[zzz]", ["known ones are console, state, drop, mirror, transfer, web, hooks, log"]),
        ("[log]\nqqq = 1", ["[log] qqq: unknown key; known ones are format, level"]),
        ("settle = '5s'", ["line 1: settle: outside of any section; it belongs below [drop]"]),
        ("folder = '/x'", ["it belongs below [state] or [drop] or [mirror]"]),
        ("drop = 5", ["line 1: [drop] is a section; write [drop] on a line of its own"]),
        ("[[drop]]", ["line 1: [drop] is a section"]),
        ("[drop]\n'settle' = '5 weeks'", ['line 2: [drop] settle: "5 weeks" is not a duration; write it like "90s"']),
        ("[drop]\nsettle = 5", ["line 2: [drop] settle: 5 is not a duration"]),
        ("drop.settle = '-5s'", ['line 1: [drop] settle: "-5s" is not a duration']),
        ("[drop]\nrescan = '400d'", ['"400d" is longer than a year']),
        ("[drop]\nrescan = '0s'", ["line 2: [drop] rescan: ", "greater than 0"]),
        ("[drop]\nmax_put = '5 GIB'", ['"5 GIB" is not a size; write it like "64MiB" or "5GB"']),
        ("[mirror]\nreserve = '99999999999TB'", ["is more than any disk holds"]),
        ("[mirror]\nkeep = true", ["line 2: [mirror] keep: True: write a whole number"]),
        ("[mirror]\nkeep = -1", ["[mirror] keep: ", "greater than or equal to 0"]),
        ("[mirror]\nenabled = 'no'", ['[mirror] enabled: "no": write true or false']),
        ("[mirror]\ninclude = '*'", ['[mirror] include: "*" is not a list of texts; write it like ["one", "another"]']),
        ("[mirror]\ninclude = ['']", ['[mirror] include: "": it is empty']),
        ("[mirror]\nverify = 'md5'", ["[mirror] verify: \"md5\": input should be 'etag' or 'size'"]),
        ("[mirror]\nfolder = 'models'", ['"models" is a relative path; write the whole path']),
        ("[mirror]\nfolder = 5", ["[mirror] folder: 5: write a path"]),
        ('[mirror]\nfolder = "/a\\u0000b"', ["a path can't hold a NUL character"]),
        ("[mirror]\nfolder = '~nobody-has-this-name/x'", ["the user of this home folder does not exist"]),
        ("[transfer]\nconnections = 0", ['[transfer] connections: 0 is not a number of connections; write "auto"']),
        ("[transfer]\nconnections = 1000", ['write "auto", or 1 to 256']),
        ("[transfer]\nconnections = true", ["[transfer] connections: True is not a number"]),
        ("[transfer]\nconnections = '1000'", ['"1000" is not a number of connections']),
        ("[transfer]\nconnections = 'fast'", ['[transfer] connections: "fast" is not a number']),
        ("[transfer]\nbandwidth = '100'", ["'100' is not a rate; write it like \"100MB/s\""]),
        ("[transfer]\nbandwidth = '0MB/s'", ["'0MB/s' is not a rate"]),
        ("[transfer]\nbandwidth = ['Moo 08:00 1MB/s']", ["'Moo 08:00 1MB/s' names an unknown day"]),
        ("[transfer]\nbandwidth = ['24:00 1MB/s']", ["'24:00 1MB/s' is not a line of a timetable"]),
        ("[transfer]\nbandwidth = 100", ['give a rate like "100MB/s" or a list']),
        ("[console]\nurl = 'console.axomlabs.ai'", ["line 2: [console] url: ", "is not a URL"]),
        ("[console]\nurl = 'https://host:port/'", ["is not a URL"]),
        ("[console]\nurl = 'https://[::1'", ["is not a URL"]),
        ("[console]\nurl = 'https://me:pass@host/api'", ["the URL must not hold a user, a password"]),
        (
            "[console]\nurl = 'https://console..example/api'",
            ["console..example", "host name has a dot too many; correct it"],
        ),
        (f"[console]\nurl = 'https://{'a' * 64}.example/api'", ["host name is longer than DNS allows (63 characters"]),
        ("[console]\nurl = 'https://" + "\u00fc" * 60 + ".example/api'", ["host name is longer than DNS allows"]),
        (f"[console]\nurl = 'https://{'a.' * 124}example/api'", ["host name is longer than DNS allows", "253 in all"]),
        ("[console]\nurl = 'https://xn--i-7iq.example/api'", ["no valid international name (IDNA 2008)"]),
        ("[drop]\ncontent_type = ''", ['[drop] content_type: "" is not a content type']),
        ("[drop]\ncontent_type = 'jsonl; é'", ['is not a content type; write it like "application/jsonl"']),
        ('[drop]\ncontent_type = "text/plain\\r\\nX: 1"', ["is not a content type"]),
        ("[transfer]\ngateways = ['http://.box:9080']", ["[transfer] gateways", "host name has a dot too many"]),
        ("[web]\nlisten = 'box..:9464'", ["[web] listen", "host name has a dot too many"]),
        ("[web]\nnames = ['axom..example']", ["[web] names", "host name has a dot too many"]),
        ("[web]\nlisten = '9464'", ['"9464" is not host:port']),
        ("[web]\nlisten = 'localhost:94640'", ["is not host:port"]),
        ("[drop]\nsettle = '5s'\nsettle = '6s'", ["line 3: not valid TOML: Cannot overwrite a value"]),
        ("[drop\n", ["line 1: not valid TOML"]),
        ("[hooks]\nfailed = 'mail'", ["[hooks] failed: ", "is not a list of texts"]),
    ],
)
def test_errors_name_the_place_and_the_correct_form(text: str, errors: list[str]) -> None:
    (told,) = errors_of(text)
    for error in errors:
        assert error in told


def test_errors_are_all_reported_at_once_in_the_order_of_the_file() -> None:
    text = """\
[console]
url = "http://console.example/api"
[drop]
folder = "/srv/axom"
settle = "five"
after = "burn"
[mirror]
folder = "/srv/axom/models"
pol = "1m"
[nonsense]
"""
    told = errors_of(text, AXOMSYNC_LOG__LEVEL="loud")
    assert [line.split(":")[0] for line in told] == [
        *(f"line {number}" for number in (2, 5, 6, 8, 9, 10)),
        "$AXOMSYNC_LOG__LEVEL",
    ]
    assert "plain http would show the key" in told[0]
    assert "lie inside one another" in told[3]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[drop]\nfolder = '/a'\n[mirror]\nfolder = '/a'", "line 4: [drop] folder (/a) and [mirror] folder (/a) lie inside"),
        ("[drop]\nfolder = '/a/../b'\n[mirror]\nfolder = '/b/c'", "line 4: [drop] folder (/a/../b) and [mirror] folder"),
        ("[state]\nfolder = '/srv/axom/drop/state'", "line 2: [state] folder (/srv/axom/drop/state) and [drop] folder"),
        ("[drop]\nenabled = false\n[mirror]\nenabled = false", "line 4: [drop] enabled and [mirror] enabled are both false"),
        ("[console]\nurl = 'http://127.evil.example/api'", "plain http would show the key"),
        ("[console]\nurl = 'http://localhost.example/api'", "plain http would show the key"),
        ("[drop]\nshard = '6GB'", "line 2: [drop] shard: must be more than 0 and at most [drop] max_put"),
        ("[drop]\nshard = '0B'", "line 2: [drop] shard: must be more than 0"),
    ],
)
def test_contradictions_are_refused(text: str, error: str) -> None:
    (told,) = errors_of(text)
    assert error in told


def test_folders_that_meet_through_a_symlink_contradict(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "drop").symlink_to(tmp_path / "models")
    (told,) = errors_of(f"[drop]\nfolder = '{tmp_path}/drop'\n[mirror]\nfolder = '{tmp_path}/models'")
    assert "lie inside one another" in told


@pytest.mark.parametrize(
    "text",
    [
        "[drop]\nenabled = false\nfolder = '/srv/axom/models'",  # an unused folder can't collide
        "[console]\nurl = 'http://127.0.0.2:80/api'",
        "[console]\nurl = 'http://[::1]:8000/api'",
        "[console]\nurl = 'http://localhost/api'",
        "[console]\nurl = 'http://console.example/api'\n[transfer]\nallow_http = true",
        "\ufeff[drop]\nsettle = '5s'"[1:],
    ],
)
def test_unusual_but_correct_values_are_accepted(text: str) -> None:
    parse(text)


# Environment


@pytest.mark.parametrize(
    ("name", "value", "key", "meant"),
    [
        ("DROP__SETTLE", "90s", "drop.settle", 90.0),
        ("DROP__SETTLE", '"90s"', "drop.settle", 90.0),
        ("DROP__ENABLED", "false", "drop.enabled", False),
        ("MIRROR__KEEP", "3", "mirror.keep", 3),
        ("MIRROR__INCLUDE", '["llama-*", "*/v2"]', "mirror.include", ("llama-*", "*/v2")),
        ("MIRROR__RESERVE", "5GB", "mirror.reserve", 5_000_000_000),
        ("MIRROR__VERIFY", "size", "mirror.verify", "size"),
        ("DROP__VALIDATE", "off", "drop.validate_", "off"),
        ("DROP__FOLDER", "/in/coming", "drop.folder", Path("/in/coming")),
        ("DROP__CONTENT_TYPE", "12", "drop.content_type", "12"),
        ("CONSOLE__CA_FILE", "", "console.ca_file", None),
        ("WEB__LISTEN", "", "web.listen", ""),
        ("TRANSFER__BANDWIDTH", "1MB/s", "transfer.bandwidth", (BandwidthRule(frozenset(range(7)), 0, 1e6),)),
        ("TRANSFER__BANDWIDTH", '["20:00 off"]', "transfer.bandwidth", (BandwidthRule(frozenset(range(7)), 1200, None),)),
    ],
)
def test_environment_overrides_each_kind_of_key(name: str, value: str, key: str, meant: object) -> None:
    loaded = parse("[drop]\nsettle = '1s'", **{f"AXOMSYNC_{name}": value})
    section, attribute = key.split(".")
    assert getattr(getattr(loaded.settings, section), attribute) == meant
    assert loaded.origins[key.rstrip("_")] == f"$AXOMSYNC_{name}"


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("AXOMSYNC_DROP__SETTEL", "5s", "$AXOMSYNC_DROP__SETTEL: [drop] settel: unknown key; did you mean settle?"),
        ("AXOMSYNC_DROP_SETTLE", "5s", "two underscores are missing; did you mean AXOMSYNC_DROP__SETTLE?"),
        ("AXOMSYNC_DORP__SETTLE", "5s", "$AXOMSYNC_DORP__SETTLE: [dorp]: unknown section; did you mean drop?"),
        ("AXOMSYNC_DROP__ENABLED", "maybe", '$AXOMSYNC_DROP__ENABLED: [drop] enabled: "maybe": write true or false'),
        ("AXOMSYNC_MIRROR__KEEP", "3\nfolder = '/'", "[mirror] keep: "),
        ("AXOMSYNC_DROP__FOLDER", "drop", "is a relative path"),
        ("AXOMSYNC_DROP__FOLDER", "/srv/dr\udcffop", '$AXOMSYNC_DROP__FOLDER: "/srv/dr\\xffop" is not UTF-8, so'),
        ("AXOMSYNC_MIRROR__VIEWS", '["flat:/srv/\udcff"]', "is not UTF-8, so it can't be written down; set another value"),
        ("AXOMSYNC_HOOKS__FAILED", '["notify", "\udcff"]', "is not UTF-8, so it can't be written down; set another value"),
    ],
)
def test_environment_errors_name_the_variable(name: str, value: str, error: str) -> None:
    (told,) = errors_of("", **{name: value})
    assert error in told


def test_a_home_folder_that_is_not_utf8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/m\udcfcller")
    for key in ('[mirror]\nfolder = "~/models"', '[mirror]\nviews = ["flat:~/serving"]', '[console]\nca_file = "~/ca.pem"'):
        (told,) = errors_of(key)
        assert "/home/m\\xfcller/" in told
        assert "a path that is not UTF-8 can't be written down; name another one" in told


def test_environment_ignores_other_variables_with_its_prefix() -> None:
    parse("", AXOMSYNC_CONFIG="/x", AXOMSYNC_HOME="/y")


# Amounts


UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.integers(0, 366), st.sampled_from(sorted(UNITS)))
def test_durations_are_read_as_written(count: int, unit: str) -> None:
    seconds = units.parse_duration(f"{count}{unit}")
    assert seconds == pytest.approx(count * UNITS[unit])
    assert units.parse_duration(units.show_duration(seconds)) == seconds


@given(st.integers(0, 1 << 62))
def test_sizes_are_read_as_written_to_the_byte(count: int) -> None:
    shown = units.show_size(count)
    assert units.parse_size(shown) == count
    assert len(shown) <= len(f"{count}B")


@given(st.text(max_size=12) | st.from_regex(r"[0-9.]{1,8} ?[a-zA-Z/]{1,4}", fullmatch=True) | st.integers() | st.none())
def test_amounts_are_read_or_refused_but_never_crash(value: object) -> None:
    for read in (units.parse_duration, units.parse_size, units.parse_bandwidth):
        with suppress(ValueError):
            read(value)


_LINES = st.builds(
    "{}{:02}:{:02} {}".format,
    st.sampled_from(["", "Mon ", "Sat-Sun ", "Fri-Mon ", "mon-fri "]),
    st.integers(0, 23),
    st.integers(0, 59),
    st.sampled_from(["off", "50MB/s", "1.5MiB/s", "1B/s", "0.5kB/s"]),
)


@given(st.lists(_LINES, max_size=5))
def test_timetables_are_read_as_written(lines: list[str]) -> None:
    rules = units.parse_bandwidth(lines)
    assert len(rules) == len(lines)
    assert units.parse_bandwidth(units.show_bandwidth(rules)) == rules


def test_timetable_days_may_go_over_the_weekend() -> None:
    (rule,) = units.parse_bandwidth(["Sat-Mon 23:59 1MB/s"])
    assert rule == BandwidthRule(frozenset({5, 6, 0}), 23 * 60 + 59, 1e6)


# config show


def test_config_show_can_be_written_into_a_file_again() -> None:
    given_text = """
[drop]
settle = "1500ms"
exclude = ["a\\"b", "\\\\"]
shard = "100MB"
[mirror]
enabled = false
[transfer]
bandwidth = ["Mon-Fri 08:00 50MB/s", "20:00 off"]
"""
    loaded = parse(given_text)
    sections: dict[str, list[str]] = {}
    for row in config.effective(loaded):
        section, key = str(row["key"]).split(".")
        sections.setdefault(section, []).append(f"{key} = {config.as_toml(row['value'])}")
    again = "\n".join(f"[{section}]\n" + "\n".join(lines) for section, lines in sections.items())
    assert parse(again).settings == loaded.settings


def test_config_show_names_the_origin_of_each_value() -> None:
    rows = {row["key"]: row for row in config.effective(parse("[drop]\n\nsettle = '90s'", AXOMSYNC_MIRROR__KEEP="2"))}
    connections = {"AXOMSYNC_TRANSFER__CONNECTIONS": "64"}
    assert parse("", **connections).settings.transfer.connections == 64
    assert parse("").settings.transfer.connections is None, "auto"
    assert rows["drop.settle"] == {"key": "drop.settle", "value": "90s", "from": f"{FILE}:3"}
    assert rows["mirror.keep"] == {"key": "mirror.keep", "value": 2, "from": "$AXOMSYNC_MIRROR__KEEP"}
    assert rows["drop.validate"] == {"key": "drop.validate", "value": "full", "from": "default"}


# Files


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"there is no such file; `axomsync init --config .*none\.toml` writes one"):
        config.load(tmp_path / "none.toml", {})
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(BadConfig, match="byte 5 is not UTF-8"):
        config.load(tmp_path / "latin.toml", {})
    with pytest.raises(BadConfig, match="can't be read: it is no regular file; name one"):
        config.load(tmp_path, {})
    with (tmp_path / "huge.toml").open("w") as huge:
        huge.truncate(17 << 20)
    with pytest.raises(BadConfig, match=r"can't be read: it has more than 16 MiB; name the right file$"):
        config.load(tmp_path / "huge.toml", {})
    os.mkfifo(tmp_path / "pipe")
    for endless in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BadConfig, match="can't be read: it is no regular file; name one"):
            config.load(endless, {})
        with pytest.raises(KeyRefused, match="the API key can't be read: it is no regular file; name one"):
            key_of({}, endless)


def test_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[drop]\nsettle = '9s'\n", encoding="utf-8-sig")
    assert config.load(file, {}).settings.drop.settle == 9.0


def test_find_chooses_the_first_existing_file(tmp_path: Path) -> None:
    named, user = tmp_path / "named.toml", tmp_path / "home" / ".config" / "axomsync" / "config.toml"
    user.parent.mkdir(parents=True)
    user.touch()
    environ = {"AXOMSYNC_CONFIG": str(named), "HOME": str(tmp_path / "home")}
    assert config.find("/explicit.toml", environ) == Path("/explicit.toml")
    assert config.find(None, environ) == named
    del environ["AXOMSYNC_CONFIG"]
    assert config.find(None, environ) == user
    user.unlink()
    with pytest.raises(BadConfig, match="run `axomsync init`, or set"):
        config.find(None, environ)


def test_init_writes_into_folders_of_its_user() -> None:
    path, values = config.defaults_for_user(None, {"HOME": "/home/elsewhere"}, root=True)
    assert (path, values) == (Path("/etc/axomsync/config.toml"), {})
    path, values = config.defaults_for_user(None, {"HOME": "/home/elsewhere"}, root=False)
    assert path == Path("/home/elsewhere/.config/axomsync/config.toml")
    assert values == {
        "drop.folder": "/home/elsewhere/axom/drop",
        "mirror.folder": "/home/elsewhere/axom/models",
        "state.folder": "/home/elsewhere/.local/state/axomsync",
    }
    moved = {"HOME": "/home/elsewhere", "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s"}
    path, values = config.defaults_for_user(None, moved, root=False)
    assert (path, values["state.folder"]) == (Path("/c/axomsync/config.toml"), "/s/axomsync")
    assert config.defaults_for_user("/x.toml", moved, root=False)[0] == Path("/x.toml")


# The key


def key_of(environ: dict[str, str], key_file: Path | None = None) -> str:
    return config.load_key(parse(f"[console]\nkey_file = '{key_file or ''}'").settings, environ)


def test_load_key_uses_the_first_existing_source(tmp_path: Path) -> None:
    file, credentials = tmp_path / "key", tmp_path / "credentials"
    credentials.mkdir()
    file.write_text("axom_live_file\n")
    (credentials / "axom_key").write_text("  axom_live_credential\n\n")
    systemd = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert key_of({"AXOM_KEY": "axom_live_environment", **systemd}, file) == "axom_live_environment"
    assert key_of({"AXOM_KEY": "", **systemd}, file) == "axom_live_file"
    assert key_of(systemd) == "axom_live_credential"
    handed_over_since = {**systemd, "RUNTIME_DIRECTORY": f"{tmp_path}/run:/run/another"}
    assert key_of(handed_over_since) == "axom_live_credential"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/axom_key").write_text("axom_live_of_a_reload")
    assert key_of(handed_over_since) == "axom_live_of_a_reload"


def test_a_key_of_a_reload_that_can_not_be_reached_is_none(tmp_path: Path) -> None:
    (tmp_path / "axom_key").write_text("axom_live_credential")
    with dead_disk(tmp_path / "dead") as dead:
        assert key_of({"CREDENTIALS_DIRECTORY": str(tmp_path), "RUNTIME_DIRECTORY": str(dead)}) == "axom_live_credential"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "the API key can't be read: No such file or directory"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"two words", "this is not an API key"),
        ("schl\u00fcssel".encode(), "this is not an API key"),
        (b"\xff\xfe", "it is not text"),
        (b"a\x00b", "this is not an API key"),
    ],
)
def test_load_key_names_the_source_of_a_malformed_key(content: bytes | None, error: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KeyRefused, match=error) as refusal:
        key_of({}, file)
    assert str(file) in str(refusal.value)
    assert refusal.value.exit_code == 4


def test_load_key_without_a_source_names_all_three() -> None:
    with pytest.raises(KeyRefused, match=r"\$AXOM_KEY.*key_file.*LoadCredential"):
        key_of({})


def test_environment_suffices_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SYSTEM_CONFIG", str(tmp_path / "etc"))
    environ = {"HOME": str(tmp_path), "AXOMSYNC_CONSOLE__URL": "https://console.test/api", "AXOMSYNC_MIRROR__POLL": "5m"}
    path = config.find(None, environ)
    loaded = config.load(path, environ)
    assert (loaded.settings.console.url, loaded.settings.mirror.poll) == ("https://console.test/api", 300)
    assert loaded.origins["mirror.poll"] == "$AXOMSYNC_MIRROR__POLL"
    with pytest.raises(BadConfig, match=r"^\$AXOMSYNC_MIRROR__POL: \[mirror\] pol: unknown key; did you mean poll\?$"):
        config.load(path, {**environ, "AXOMSYNC_MIRROR__POL": "5m"})
    with pytest.raises(BadConfig, match=r"^\$AXOMSYNC_MIROR__POLL: \[miror\]: unknown section; did you mean mirror\?$"):
        config.load(path, {**environ, "AXOMSYNC_MIROR__POLL": "5m"})
    with pytest.raises(BadConfig, match=r"no configuration at .*; run `axomsync init`, or set variables such as AXOMSYNC_"):
        config.find(None, {"HOME": str(tmp_path), "AXOMSYNC_MIRROR_POL": "5m"})
    file = tmp_path / ".config" / "axomsync" / "config.toml"
    file.parent.mkdir(parents=True)
    file.touch()
    assert config.find(None, environ) == file, "a file counts, and the environment is laid over it"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"AXOMSYNC_MIRROR_POL": "5m"}, "did you mean AXOMSYNC_MIRROR__POLL?"),
        ({"AXOMSYNC_CONSOLE_URLS": "x"}, "did you mean AXOMSYNC_CONSOLE__URL?"),
        ({"axomsync_mirror__poll": "1s"}, "lower case is ignored; did you mean AXOMSYNC_MIRROR__POLL?"),
        ({"Axomsync_Config": "x"}, "did you mean AXOMSYNC_CONFIG?"),
        ({"axom_key": "x"}, "did you mean AXOM_KEY?"),
        ({"mirror__poll": "1s", "axomsync": "x", "axomsync_x__y": "1"}, None),
        ({"AXOMSYNC_XYZZY": "1"}, "known are AXOMSYNC_CONFIG and AXOMSYNC_<SECTION>__<KEY>"),
        ({"AXOMSYNC_CONFIG": "x", "AXOMSYNC_MIRROR__POLL": "5m", "AXOM_KEY": "x", "PATH": "x"}, None),
        ({"AXOMSYNC_SERVICE_HOST": "10.0.0.1", "AXOMSYNC_PORT": "x", "AXOMSYNC_PORT_9464_TCP_ADDR": "x"}, None),
        ({"AXOMSYNC_EVENT": "upload_done", "AXOMSYNC_FILENAME": "x"}, None),
    ],
)
def test_misspelt_variables_are_reported(environ: dict[str, str], words: str | None) -> None:
    told = config.misspelt(environ)
    assert len(told) == (words is not None)
    assert words is None or told[0].endswith(words)


@pytest.mark.parametrize("name", ["http://axom.example", "axom.example:9464", "axom.example/x", "", "a b", "*"])
def test_web_names_are_host_names(name: str) -> None:
    with pytest.raises(BadConfig, match=r"\[web\] names: .* is not a host name; write it without scheme, port and path"):
        config.parse(f'[web]\nnames = ["{name}"]', Path("c.toml"), {})


@pytest.mark.parametrize("line", ["key_file", "ca_file", "url"])
def test_api_key_in_the_wrong_place_is_not_repeated(line: str) -> None:
    (told,) = errors_of(f"[console]\n{line} = 'axom_live_0123456789abcdef'")
    assert "0123456789abcdef" not in told
    (told,) = errors_of("", AXOMSYNC_CONSOLE__KEY="axom_live_0123456789abcdef")
    assert "did you mean key_file?" in told
    assert "0123456789abcdef" not in told


def test_key_file_that_everybody_can_read_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("axom_live_x")
    settings: Any = parse(f"[console]\nkey_file = '{file}'").settings
    file.chmod(0o644)
    assert "run chmod 600" in (config.key_file_warning(settings) or "")
    file.chmod(0o640)
    assert config.key_file_warning(settings) is None
    file.unlink()
    assert config.key_file_warning(settings) is None


# Any content of a configuration

FULL: dict[str, Any] = {
    "console": {"url": "https://console.example/api", "key_file": "/k", "ca_file": ""},
    "state": {"folder": "/s"},
    "drop": {"enabled": True, "folder": "/d", "include": ["*.jsonl"], "settle": "5s", "max_put": "5GB", "after": "archive"},
    "mirror": {"folder": "/m", "poll": "60s", "include": ["*"], "keep": 3, "reserve": "5GB", "verify": "etag"},
    "transfer": {"connections": 16, "bandwidth": ["Mon-Fri 08:00-18:00 20MB/s"], "stall": "60s", "allow_http": False},
    "web": {"listen": "127.0.0.1:9464"},
    "hooks": {"failed": "true", "timeout": "5m"},
    "log": {"format": "text", "level": "info"},
}


def as_toml(value: object) -> str:
    """Write a value as TOML, tables in one line; a value that TOML can't express becomes an empty text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)} = {as_toml(inner)}' for key, inner in value.items())}}}"
    return json.dumps(value or "", ensure_ascii=True)


@how_many()
def test_parse_accepts_or_explains_any_document(examples: int) -> None:
    def holds(document: object) -> None:
        parts = document.items() if isinstance(document, dict) else [("console", document)]
        text = "\n".join(f"{json.dumps(name)} = {as_toml(value)}" for name, value in parts)
        values = [value for value in parts if isinstance(value[1], str) and "\0" not in value[1]]
        try:
            parse(text, **{f"AXOMSYNC_WEB__{name}": str(value) for name, value in values})
        except BadConfig as refusal:
            lines = str(refusal).splitlines()
            if not all(line.isprintable() and len(line) < 2000 for line in lines):
                pytest.fail(str(refusal))

    for_any(nearly(FULL) | nearly(FULL) | ANYTHING, examples, holds)


@how_many()
def test_parse_accepts_or_explains_any_text(examples: int) -> None:
    def holds(text: str) -> None:
        with suppress(BadConfig):
            parse(text)

    for_any(st.text() | st.text("[]{}=.\"'#\n abz019-", max_size=40), examples, holds)


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ('transfer.bandwidth = "1MB/s"', {config.Reload.AT_ONCE}),
        ('log.level = "debug"', {config.Reload.AT_ONCE}),
        ('web.listen = ""', {config.Reload.AT_ONCE}),
        ("transfer.connections = 3", {config.Reload.TRANSFERS}),
        ('state.folder = "/var/lib/other"', {config.Reload.RESTART}),
        ('log.level = "debug"\ndrop.settle = "9s"', {config.Reload.AT_ONCE, config.Reload.TRANSFERS}),
        ("", set()),
    ],
)
def test_reload_asks_for_what_the_changed_keys_need(line: str, asked: set[config.Reload]) -> None:
    old = config.parse("", Path("old.toml"), {}).settings
    changed = config.changes(old, config.parse(line, Path("new.toml"), {}).settings)
    assert set(changed.values()) == asked
    assert set(changed) == {word.partition(" ")[0] for word in line.splitlines()}


def test_views() -> None:
    views = parse("[mirror]\nviews = ['flat:/srv/axom/serving', 'hf:/srv/axom/hf']").settings.mirror.views
    assert [(view.kind, str(view.folder)) for view in views] == [("flat", "/srv/axom/serving"), ("hf", "/srv/axom/hf")]
    assert list(map(str, views)) == ["flat:/srv/axom/serving", "hf:/srv/axom/hf"]
    loaded = parse("", AXOMSYNC_MIRROR__VIEWS='["hf:/x"]')
    assert {"key": "mirror.views", "value": ["hf:/x"], "from": "$AXOMSYNC_MIRROR__VIEWS"} in config.effective(loaded)


@pytest.mark.parametrize(
    ("views", "told"),
    [
        ("'flat:/a'", "is not a list of texts"),
        ("['/a']", 'is not a view; write it like "flat:/srv/axom/serving" or "hf:/srv/axom/hf"'),
        ("['lora:/a']", "is not a view"),
        ("['flat']", "is not a view"),
        ("['hf:a']", "is a relative path"),
        ("['hf:']", "is a relative path"),
        ("['hf:/']", "write the plain path of a folder"),
        ("['hf:/a/../b']", "write the plain path of a folder"),
        ("['flat:/a', 'hf:/b', 'hf:/a']", "name one folder; each view needs its own"),
        ("['flat:/a', 'hf:/a/b']", "the view flat:/a lie inside one another"),
        ("['flat:/srv/axom/models']", "[mirror] folder (/srv/axom/models) lie inside one another"),
        ("['flat:/srv/axom/models/view']", "[mirror] folder (/srv/axom/models) lie inside one another"),
        ("['flat:/srv/axom/drop/view']", "[drop] folder (/srv/axom/drop) lie inside one another"),
        ("['flat:/srv/axom']", "[mirror] folder (/srv/axom/models) lie inside one another"),
        ("['hf:/var/lib/axomsync/hf']", "[state] folder (/var/lib/axomsync) lie inside one another"),
    ],
)
def test_wrong_views(views: str, told: str) -> None:
    errors = errors_of(f"[mirror]\nviews = {views}")
    assert any(told in error for error in errors), errors
    assert all(error.startswith("line 2: [mirror] views: ") for error in errors)
