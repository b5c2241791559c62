"""Metrics and alert rules: names and labels, zeros from the start, and promtool's checks."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from axomsync.core.records import ModelState, UploadState
from axomsync.drop.rules import Rule
from axomsync.runtime.problems import SUBJECTS
from tests.web.scenes import staged

CHECKOUT = Path(__file__).parents[2]
PROMTOOL = shutil.which("promtool") or str(Path(sys.executable).parent / "promtool")


def promtool(*arguments: str, told: str = "") -> None:
    done = subprocess.run([PROMTOOL, *arguments], input=told, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "") or "SUCCESS" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with staged(tmp_path_factory.mktemp("metrics"), "empty") as stage, stage.page() as url:
        answer = httpx.get(url + "metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        yield answer.text


def families(scrape: str) -> set[str]:
    return set(re.findall(r"^# TYPE (axomsync_\w+)", scrape, re.MULTILINE))


def test_promtool_finds_nothing_in_a_real_scrape(scrape: str) -> None:
    promtool("check", "metrics", told=scrape)


def test_metrics_have_every_series_at_zero(scrape: str) -> None:
    expected = [f'axomsync_uploads{{state="{state}"}} 0.0' for state in UploadState]
    expected += [f'axomsync_models{{state="{state}"}} 0.0' for state in ModelState]
    expected += [f'axomsync_upload_transitions_total{{state="{state}"}} 0.0' for state in UploadState]
    expected += [f'axomsync_problem{{subject="{subject}"}} 0.0' for subject in SUBJECTS]
    expected += [f'axomsync_left_alone{{rule="{rule}"}} 0.0' for rule in Rule]
    for name in ("transferred_bytes_total", "transfers", "remaining_bytes", "last_success_timestamp_seconds"):
        expected += [f'axomsync_{name}{{direction="{direction}"}} 0.0' for direction in ("up", "down")]
    assert [line for line in expected if line not in scrape.splitlines()] == []


def test_metrics_label_has_all_subjects_of_problems() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in (CHECKOUT / "axomsync").rglob("*.py"))
    assert set(re.findall(r'problems\.report\(\s*"([^"]+)"', source)) <= set(SUBJECTS)


def test_reference_has_the_metrics_of_a_real_scrape(scrape: str) -> None:
    told = (CHECKOUT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(axomsync_\w+)`", told, re.MULTILINE)) == families(scrape)


def test_alert_rules_are_sound_and_fire_when_they_should() -> None:
    promtool("check", "rules", str(CHECKOUT / "docs" / "alerts.yml"))
    promtool("test", "rules", str(CHECKOUT / "tests" / "data" / "alerts_test.yml"))


@pytest.mark.parametrize("file", ["alerts.yml", "grafana-dashboard.json"])
def test_rules_and_dashboard_use_existing_metrics(file: str, scrape: str) -> None:
    text = (CHECKOUT / "docs" / file).read_text(encoding="utf-8")
    if file.endswith("json"):
        assert json.loads(text)["title"] == "axomsync"
    asked = set(re.findall(r"\b(axomsync_\w+)", text))
    assert asked
    assert asked <= families(scrape)
