"""The gate `signed`: what it asks of the command that verifies, and what it makes of its answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from axomsync.core.errors import AxomsyncError, Rejected, Transient
from axomsync.gates.signed import verify
from tests.gates.test_no_pickle import gate


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("w.safetensors", "model.sig", ".axomsync.json"):
        (folder / name).write_text("x")
    return folder


def program(tmp_path: Path, text: str) -> str:
    """A stand-in for `model_signing`, which notes its arguments."""
    path = tmp_path / "model_signing"
    note = f"import sys\nopen({str(tmp_path / 'told')!r}, 'w').write(' '.join(sys.argv[1:]))"
    path.write_text(f"#!{sys.executable}\n{note}\n{text}")
    path.chmod(0o755)
    return str(path)


def test_it_asks_as_the_documentation_has_it(tmp_path: Path, model: Path) -> None:
    command = program(tmp_path, "print('Verification succeeded')")
    assert verify(command, model, "model.sig", "key", ["--public_key", "/etc/key.pub"]) == "Verification succeeded"
    assert (tmp_path / "told").read_text() == (
        f"verify key {model} --signature {model}/model.sig --ignore-paths {model}/.axomsync.json --public_key /etc/key.pub"
    )


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (
            "sys.exit('Verification failed with error: another model')",
            Rejected,
            "failed with error: another model",
        ),
        ("raise ImportError('OpenSSL')", Transient, "ended with 1: ImportError: OpenSSL"),
        ("sys.exit(2)", Transient, "does not understand this question"),
        ("import os; os.kill(os.getpid(), 9)", Transient, "ended with -9"),
    ],
)
def test_only_its_yes_is_a_yes(tmp_path: Path, model: Path, text: str, kind: type[AxomsyncError], words: str) -> None:
    with pytest.raises(kind, match=words):
        verify(program(tmp_path, text), model, "model.sig", "key", [])


def test_without_a_signature_or_the_command(tmp_path: Path, model: Path) -> None:
    with pytest.raises(Transient, match="install model-signing"):
        verify(str(tmp_path / "nothing"), model, "model.sig", "key", [])
    with pytest.raises(Rejected, match=r"other\.sig is missing: the model is not signed"):
        verify("true", model, "other.sig", "key", [])
    with pytest.raises(Rejected, match="the model is not signed"):
        verify("true", model, "signatures/model.sig", "key", [])


def test_a_failure_that_is_no_judgement_is_no_no(tmp_path: Path, model: Path) -> None:
    event = {"model": {"path": str(model)}}
    key = ("signed", "--public-key", "/etc/key.pub", "--command", program(tmp_path, "print('Verification succeeded')"))
    assert gate(*key, "--signature", "x" * 300, event=event)[0] == 75, "it could not be looked at"
    assert gate(*key, event={"model": {"path": str(tmp_path / "gone")}})[0] == 75
    with open("/dev/full", "w") as full:  # a yes that nobody hears
        done = subprocess.run(
            [sys.executable, "-m", "axomsync", "gate", *key], input=json.dumps(event), stdout=full, text=True, check=False
        )
    assert done.returncode == 75


def test_the_options_say_whose_signature_counts(tmp_path: Path, model: Path) -> None:
    command, event = program(tmp_path, "print('Verification succeeded')"), {"model": {"path": str(model)}}
    whose = ("--identity", "a@example.org", "--identity-provider", "https://example.org")
    assert gate("signed", *whose, "--command", command, event=event) == (0, "Verification succeeded")
    assert (tmp_path / "told").read_text().endswith("--identity a@example.org --identity_provider https://example.org")
    assert gate("signed", "--command", command, event=event)[0] == 2
    assert gate("signed", "--identity", "a@example.org", "--command", command, event=event)[0] == 2
