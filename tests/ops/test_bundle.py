"""`bundle`: what support needs is in it, no secret is, and it is made on a broken box."""

import io
import json
import re
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database

from axomsync.core.paths import LEDGER_FILE
from axomsync.ledger import Ledger
from axomsync.ops.redaction import GONE, redacted
from tests.rig.agent import AgentProcess
from tests.rig.disks import small_disk

KEY = "axom_live_0123456789abcdef"
NOWHERE = "http://127.0.0.1:9/api"

# Texts that others write, and what of each is a secret.
PLANTED = {
    "a signed URL": ("PUT https://s3.example/b/k?X-Amz-Date=1&X-Amz-Signature=feedbeef01 failed", "feedbeef01"),
    "a URL of Azure": ("https://a.blob.example/c/b?se=2027&sig=Zm9vYmFy%3D", "Zm9vYmFy"),
    "a password in a URL": ("https_proxy=http://me:hunter22@proxy:3128", "hunter22"),
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
    "a key of JSON": ('{"client_secret": "opensesame"}', "opensesame"),
    "an option": ("curl --token opensesame x", "opensesame"),
    "an option with =": ("curl --api-key=opensesame x", "opensesame"),
    "an option in a list": ('hook = ["tell", "--token", "opensesame"]', "opensesame"),
    "a cookie": ("Cookie: session=opensesame", "opensesame"),
    "a passphrase": ("PASSPHRASE='opensesame'", "opensesame"),
    "a credential": ("X-Credential: opensesame", "opensesame"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_secret_of_any_form_is_removed(kind: str) -> None:
    text, secret = PLANTED[kind]
    shown = redacted(f"before\n{text}\nafter", (), foreign=True)
    assert secret not in shown
    assert GONE in shown
    assert shown.startswith("before\n")


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
        "hooks": {"model_published": ["notify", "--token", "opensesame"]},
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
