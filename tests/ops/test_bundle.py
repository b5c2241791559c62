"""`bundle`: what support needs is in it, no secret is, and it is made on a broken box."""

import io
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database

from axomsync.core.paths import LEDGER_FILE
from axomsync.ledger import Ledger
from axomsync.ops import bundle
from axomsync.ops.redaction import GONE, redacted
from tests.rig.agent import AgentProcess
from tests.rig.disks import small_disk
from tests.rig.planted import modules_planted, ran

KEY = "axom_live_0123456789abcdef"
NOWHERE = "http://127.0.0.1:9/api"

# Texts that others write, and what of each is a secret.
PLANTED = {
    "a signed URL": ("PUT https://s3.example/b/k?X-Amz-Date=1&X-Amz-Signature=feedbeef01 failed", "feedbeef01"),
    "a URL of Azure": ("https://a.blob.example/c/b?se=2027&sig=Zm9vYmFy%3D", "Zm9vYmFy"),
    "a password in a URL": ("https_proxy=http://me:hunter22@proxy:3128", "hunter22"),
    "a password with an at sign": ('Environment="HTTPS_PROXY=http://me:it@opensesame@proxy:3128"', "opensesame"),
    "a user in a URL": ("git+ssh://deploy-tok3n@host/x", "deploy-tok3n"),
    "a bearer token": ("Authorization: Bearer abcdef0123456789", "abcdef0123456789"),
    "a basic login": ("authorization: Basic bWU6aHVudGVyMjI=", "bWU6aHVudGVyMjI="),
    "an API key": ("got axom_live_zzzz9999yyyy", "zzzz9999yyyy"),
    "a key of AWS": ("id AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    "a secret of AWS": ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI/K7MDENG"),
    "a token of GitHub": ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "16C7e42F292c6912E7710c838347Ae178B4a"),
    "a token of Hugging Face": ("hf_AbCdEfGhIjKlMnOpQrStUv", "AbCdEfGhIjKlMnOpQrStUv"),
    "a key of OpenAI": ("sk-proj-AbCdEfGhIjKlMnOpQrStUv", "AbCdEfGhIjKlMnOpQrStUv"),
    "a web token": ("eyJhbGciOi.eyJzdWIiOiIx.SflKxwRJSMeKKF2QT4", "SflKxwRJSMeKKF2QT4"),
    "a private key": ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----", "MIIEow"),
    "half a private key": ("-----BEGIN PRIVATE KEY-----\nMIIEow\nIBAAK", "IBAAK"),
    "a variable of a unit": ('Environment="HF_TOKEN=opensesame" A=b', "opensesame"),
    "a key of TOML": ('api_key = "opensesame"', "opensesame"),
    "a key of YAML": ("password: opensesame", "opensesame"),
    "a block of YAML": ("x:\n  token: |\n    abc\n\n    opensesame\nuser: bob", "opensesame"),
    "a list of YAML": ("secrets:\n- abc\n- opensesame\nuser: bob", "opensesame"),
    "a list further in": ("secrets:\n  - abc\n  - opensesame\nuser: bob", "opensesame"),
    "a key of JSON": ('{"client_secret": "opensesame"}', "opensesame"),
    "an option": ("curl --token opensesame x", "opensesame"),
    "an option with =": ("curl --api-key=opensesame x", "opensesame"),
    "an option in a list": ('hook = ["tell", "--token", "opensesame"]', "opensesame"),
    "a cookie": ("Cookie: session=opensesame", "opensesame"),
    "a passphrase": ("PASSPHRASE='opensesame'", "opensesame"),
    "a credential": ("X-Credential: opensesame", "opensesame"),
    "an option in a list without blanks": ('hook = ["tell","--token","opensesame","x"]', "opensesame"),
    "an option in YAML": ("args:\n  - --token\n  - opensesame", "opensesame"),
    "a value of several words": ('hook = ["mail", "--password", "abc opensesame"]', "opensesame"),
    "a variable of several words": ('Environment="SMTP_PASSWORD=correct opensesame battery"', "opensesame"),
    "words after a colon": ("passphrase: my opensesame", "opensesame"),
    "another scheme": ('curl -H "Authorization: Token opensesame" http://x', "opensesame"),
    "another scheme in a list": ('["curl","-H","Authorization: ApiKey opensesame"]', "opensesame"),
    "a login with fields": ('Authorization: Digest username="bob", response="opensesame"', "opensesame"),
    "several cookies": ("Cookie: a=b; session=opensesame", "opensesame"),
    "a password with a comma": ('["x", "--password=abc,opensesame"]', "opensesame"),
    "a password with a semicolon": ("PASSWORD=abc;opensesame", "opensesame"),
    "a password with an apostrophe": ("password='it''opensesame'", "opensesame"),
    "a password with a shell's apostrophe": ("""PASSWORD='it'"'"'opensesame' B=1""", "opensesame"),
    "a password with an escaped apostrophe": ("""PASSWORD='it'\\''s opensesame' B=1""", "opensesame"),
    "a password of mysqldump": ("mysqldump -u root -popensesame db", "opensesame"),
    "a password of mysqldump in a list": ('["mysqldump", "-popensesame", "db"]', "opensesame"),
    "a password of sshpass": ("sshpass -p opensesame rsync", "opensesame"),
    "a password with a quote": (r'password = "abc\"opensesame"', "opensesame"),
    "a short name": ("DB_PASS=opensesame", "opensesame"),
    "a shorter name": ("pw=opensesame", "opensesame"),
    "a name with a version": ("webhook_secret_v2=opensesame", "opensesame"),
    "a login of curl": ("curl -u bob:opensesame http://x", "opensesame"),
    "a login of curl in a list": ('["curl", "-u", "bob:opensesame", "x"]', "opensesame"),
    "a login of curl without a blank": ('["curl", "-ubob:opensesame", "x"]', "opensesame"),
    "a hook of Slack": ("https://hooks.slack.com/services/T000/B000/opensesame", "opensesame"),
    "a hook of Discord": ('["curl", "https://discord.com/api/webhooks/12/opensesame", "x"]', "opensesame"),
    "a bot": ("https://api.telegram.org/bot12:opensesame/sendMessage", "opensesame"),
    "JSON in JSON": (r'{"message": "{\"password\": \"abc opensesame\"}", "x": 1}', "opensesame"),
    "a list": ('tokens = ["abc", "opensesame"]', "opensesame"),
    "a table": ('"credentials": {"user": {"x": "y"}, "pin": "opensesame"}', "opensesame"),
    "a text of several lines": ('token = """\nabc\nopensesame"""', "opensesame"),
    "a signature without its URL": ("GET /b/k?sv=1&sig=opensesame failed", "opensesame"),
    "a signature after an apostrophe": ("https://h/it's/k?sv=1&sig=opensesame", "opensesame"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_secret_of_any_form_is_removed(kind: str) -> None:
    text, secret = PLANTED[kind]
    shown = redacted(f"before\n{text}\nafter", (), foreign=True)
    assert secret not in shown
    assert GONE in shown
    assert shown.startswith("before\n")


CONFIGURATION = """[console]
key_file = "/etc/axomsync/key"
[hooks]
failed = ["notify","--token","opensesame","x"]
upload_done = ["curl", "-H", "Authorization: Token opensesame", "http://x/"]
model_published = ["curl", "-u", "bob:opensesame", "http://x/"]
health = ['mail', '--password', 'abc opensesame']
current_moved = ["curl", "https://hooks.slack.com/services/T0/B0/opensesame"]
timeout = "1m"
"""


def test_a_configuration_stays_readable() -> None:
    shown = redacted(CONFIGURATION, (), foreign=True)
    assert "opensesame" not in shown
    assert tomllib.loads(shown) == {
        "console": {"key_file": "/etc/axomsync/key"},
        "hooks": {
            "failed": ["notify", "--token", GONE, "x"],
            "upload_done": ["curl", "-H", f"Authorization: {GONE}", "http://x/"],
            "model_published": ["curl", "-u", GONE, "http://x/"],
            "health": ["mail", "--password", GONE],
            "current_moved": ["curl", f"https://hooks.slack.com/{GONE}"],
            "timeout": "1m",
        },
    }


@pytest.mark.parametrize(
    "text",
    [
        '["curl", "--data", "password=", "http://x/"]',
        "the token expired, and 12 files wait",
        'token_file = "/etc/axomsync/token"',
        '{"event": "uploaded", "tokens_estimate": 12}',
        "chown mysql /x && mkdir -p /srv/axom/drop",
        "docker run --name mysql -p 3306:3306 mysql",
        'hook = ["sh", "-c", "mysql stats -p"]\nnext = "value"',
    ],
)
def test_what_is_no_secret_stays_in_texts_of_others(text: str) -> None:
    assert redacted(text, (), foreign=True) == text


@pytest.mark.parametrize(
    "text",
    [
        'key_file = "/etc/axomsync/key"',
        '{"key": "datasets/1/a.jsonl", "tokens_estimate": 12}',
        "http://127.0.0.1:8000/api/models",
        "the API key lacks the scope 'models'",
        "2026-11-27T10:00:00+0000 box axomsync[7]: a.jsonl: uploaded",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text, ()) == text


def test_words_of_others_in_our_documents_are_looked_through() -> None:
    document = {"key": "datasets/1", "reason": "the hook failed: Authorization: Token opensesame", "size": 1}
    shown = redacted(json.dumps(document, indent=2), ())
    assert json.loads(shown) == {**document, "reason": f"the hook failed: Authorization: {GONE}"}


def test_lines_after_a_name_that_does_not_begin_its_line_are_no_block() -> None:
    shown = redacted("Nov 28 10:00:00 box axomsync[7]: unknown key:\n    folderr\n    foo", (), foreign=True)
    assert shown.endswith("\n    foo")


def test_known_secrets_are_removed_wherever_they_are() -> None:
    assert redacted("xsecr3tx, secr3t-and-more", {"secr3t", "secr3t-and-more", "x"}) == f"x{GONE}x, {GONE}"


def test_long_text_takes_no_long_time() -> None:
    """Regular expressions can take for ever on a text that was made for it; the test's own limit would tell."""
    for text in (
        "a." * 500_000,
        "key" * 300_000,
        "http://" * 100_000,
        "eyJ-" * 200_000,
        "--a " * 200_000,
        "-----BEGIN PRIVATE KEY-----" * 30_000,
        "token=[" * 150_000,
        'token="\n' * 150_000,
        "token='''\ntoken=\\'''\n" * 50_000,
        '"token: ' * 120_000,
        "://" + "hook" * 250_000,
        "-u a:" * 200_000,
        "\\" * 1_000_000,
        "password='" + "''" * 500_000,
        "token " + "\n" * 1_000_000,
        "token: |\n" * 100_000,
        "token:\n" * 150_000,
        "token:\nx\n" * 100_000,
        "://" + "a@" * 500_000,
        "mysql " * 150_000,
        "password='" + "a'\\''" * 200_000,
    ):
        redacted(text, {"secret"}, foreign=True)


def plant(db: Database) -> None:
    columns = "path, filename, dev, ino, bytes, mtime_ns, ctime_ns, state, key, in_drop, created_at, updated_at"
    values = (b"a.jsonl", "a.jsonl", 1, 1, 1, 1, 1, "uploading", "datasets/1", 1, 1.0, 1.0)
    db.conn.execute(f"INSERT INTO uploads ({columns}) VALUES (?{',?' * 11})", values)
    db.conn.execute("INSERT INTO signed_urls (upload, url) VALUES (1, 'https://s3.example/b?X-Amz-Signature=feedbeef01')")
    columns = "at, kind, subject, state, reason"
    db.conn.execute(f"INSERT INTO history ({columns}) VALUES (1.0, 'upload', 'a', 'failed', ?)", (f"refused: {KEY}",))


@pytest.fixture
def box(tmp_path: Path) -> Iterator[AgentProcess]:
    """A box whose console is dead, with secrets in all places where it may have one."""
    (tmp_path / "token").write_text("page-token-0123456789")
    (tmp_path / "token").chmod(0o600)
    config = {
        "web": {"token_file": str(tmp_path / "token")},
        "hooks": {
            "model_published": ["notify", "--token", "opensesame"],
            "upload_done": ["curl", "-H", "Authorization: Token opensesame", "http://x/"],
            "health": ["mail", "--password", "abc opensesame"],
        },
    }
    environ = {"HTTPS_PROXY": "http://me:hunter22@127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    with AgentProcess(tmp_path / "box", NOWHERE, KEY, config, environ=environ) as agent:
        with Ledger(agent.state, time.time) as ledger:
            ledger.write(plant)
        yield agent


def unpacked(data: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = {member: archive.extractfile(member) for member in archive.getmembers()}
        return {m.name.removeprefix("axomsync-bundle/"): file.read().decode() for m, file in names.items() if file}


def made(box: AgentProcess) -> dict[str, str]:
    done = subprocess.run([*box.command("bundle", "-o", "-")], env=box.environ, capture_output=True, timeout=60, check=True)
    return unpacked(done.stdout)


def test_it_has_what_support_asks_for_and_no_secret(box: AgentProcess) -> None:
    texts = made(box)
    for secret in (KEY, "page-token-0123456789", "opensesame", "hunter22", "feedbeef01"):
        assert [name for name, text in texts.items() if secret in text] == []
    assert json.loads(texts["status.json"].rpartition("\n(exit")[0])["console"]["url"] == NOWHERE
    assert "ledger/signed_urls.jsonl" not in texts
    assert json.loads(texts["ledger/uploads.jsonl"])["key"] == "datasets/1"
    assert "[hooks]" in texts["config.toml"]
    assert re.search(rf"^console\.url +\"{NOWHERE}\" ", texts["config-effective.txt"], re.MULTILINE)
    assert "no service listens there" in texts["doctor.txt"]
    listed = texts.pop("MANIFEST.txt")
    assert [name for name in texts if f"\n{name} " not in listed] == []


def test_modules_in_the_callers_folder_are_not_run(box: AgentProcess, tmp_path: Path) -> None:
    """Root calls it in folders of others."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    modules_planted(folder)
    installed = [sys.executable, "-P", "-m", "axomsync"]  # a program on the PATH has no other folders for its modules
    command = [*installed, "bundle", "-o", "-", "--config", str(box.config_file)]
    done = subprocess.run(command, env=box.environ, cwd=folder, capture_output=True, timeout=60, check=True)
    assert ran(folder) == []
    assert "no service listens there" in unpacked(done.stdout)["doctor.txt"]


def test_torn_ledger_spoils_only_its_own_parts(box: AgentProcess) -> None:
    ledger = box.state / LEDGER_FILE
    ledger.write_bytes(b"\0" * 4096 + ledger.read_bytes()[4096:])
    texts = made(box)
    assert "not a database" in texts["ledger/error.txt"]
    assert "[hooks]" in texts["config.toml"]


def test_without_a_good_configuration_the_rest_is_told(box: AgentProcess) -> None:
    box.config_file.write_text("[drop\n")
    texts = made(box)
    assert texts["config.toml"] == "[drop\n"
    assert "config.toml:1: not valid TOML" in texts["status.json"]
    assert "axomsync" in texts["machine.txt"]


def test_configuration_that_is_no_file_keeps_nothing_waiting(box: AgentProcess) -> None:
    box.config_file.unlink()
    os.mkfifo(box.config_file)
    texts = made(box)
    assert "it is no regular file" in texts["config.toml"]
    assert "it is no regular file" in texts["doctor.txt"]


def test_of_a_huge_configuration_the_beginning_is_told(box: AgentProcess) -> None:
    with box.config_file.open("a") as file:
        file.truncate(200_000_000)
    text = made(box)["config.toml"]
    assert "[hooks]" in text
    assert text.endswith("the rest is left out)\n")
    assert len(text) < 1_000_000


def test_a_part_that_never_ends_or_fails_keeps_no_other_from_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: bundle.Box) -> str:
        raise ValueError("a bug")

    released = threading.Event()
    parts = (
        bundle.Part("slow.txt", "", lambda _: str(released.wait())),
        bundle.Part("wrong.txt", "", fail),
        bundle.Part("good.txt", "", lambda _: "good"),
    )
    monkeypatch.setattr(bundle, "PARTS", parts)
    monkeypatch.setattr(bundle, "PART_SECONDS", 0.1)
    monkeypatch.setattr(bundle, "MARGIN_SECONDS", 0.1)
    stream = io.BytesIO()
    try:
        bundle.write_bundle(bundle.Box((), None, None, {}), stream, time.time())
    finally:
        released.set()
    texts = unpacked(stream.getvalue())
    assert texts["slow.txt"] == "can't be told: it took more than 0.2 s\n"
    assert "a bug; please report it" in texts["wrong.txt"]
    assert texts["good.txt"] == "good"


def test_of_a_program_that_prints_without_end_the_last_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "LARGEST_PART", 1000)
    monkeypatch.setattr(bundle, "PART_SECONDS", 0.5)
    text = bundle._output(["yes"], os.environ)
    assert re.fullmatch(r"\(the first \d+ bytes are left out\)\n(y?\n)+\(ended after 0.5 s\)\n", text)
    assert len(text) < 1100


def test_file_is_for_its_owner_alone_and_never_replaces_another(box: AgentProcess, tmp_path: Path) -> None:
    file = tmp_path / "out.tar.gz"
    assert box.call("bundle", "-o", str(file)).returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "MANIFEST.txt" in unpacked(file.read_bytes())
    again = box.call("bundle", "-o", str(file))
    assert (again.returncode, again.stderr) == (1, f"axomsync: {file}: it exists; name another file with -o\n")


def test_full_disk_is_told_with_the_way_around_it(box: AgentProcess, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=4k") as small:
        done = box.call("bundle", "-o", str(small / "out.tar.gz"))
        assert done.returncode == 1
        assert "axomsync bundle -o -" in done.stderr
        assert list(small.iterdir()) == []
