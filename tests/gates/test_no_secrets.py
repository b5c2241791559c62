"""The example of a gate that looks for secrets in a dataset."""

import json
import subprocess
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "systemd" / "examples" / "no-secrets"


def judged(event: object) -> tuple[int, str]:
    done = subprocess.run([EXAMPLE], input=json.dumps(event).encode(), capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode().strip()


@pytest.mark.parametrize(
    ("secret", "what"),
    [
        ("AKIAIOSFODNN7EXAMPLE", "an access key of AWS"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        ("ghp_" + "a" * 36, "a token of GitHub"),
        ("axom_live_0123456789abcdef", "a key of Axom"),
    ],
)
def test_it_says_where_a_secret_is_and_not_what_it_is(tmp_path: Path, secret: str, what: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "fine"}\n' * 3 + f'{{"text": "{secret}"}}\n')
    assert judged({"file": str(path)}) == (1, f"line 4, column 11: {what}")


def test_a_file_without_one_passes_and_without_a_file_it_does_not_judge(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "fine"}\n' * 3)
    assert judged({"file": str(path)}) == (0, "")
    assert judged({"file": str(tmp_path / "gone")})[0] == 75
    assert judged({})[0] == 75
