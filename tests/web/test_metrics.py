"""Metrics and alert rules: names and labels, zeros from the start, and promtool's checks."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from axomsync.core.records import DurableSegment, ModelFile, ModelState, Published, RemoteModel, UploadState
from axomsync.drop.rules import Rule
from axomsync.ops.model_metrics import model_samples
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


@pytest.mark.parametrize("file", ["alerts.yml", "grafana-dashboard.json", "grafana-fleet.json"])
def test_rules_and_dashboards_use_existing_metrics(file: str, scrape: str) -> None:
    text = (CHECKOUT / "docs" / file).read_text(encoding="utf-8")
    asked = set(re.findall(r"\b(axomsync_\w+)", text))
    assert asked
    assert asked <= families(scrape)


@pytest.mark.parametrize(
    ("file", "title"), [("grafana-dashboard.json", "axomsync"), ("grafana-fleet.json", "axomsync fleet")]
)
def test_prometheus_understands_every_query_of_a_dashboard(file: str, title: str, tmp_path: Path) -> None:
    dashboard = json.loads((CHECKOUT / "docs" / file).read_text(encoding="utf-8"))
    assert dashboard["title"] == title
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    concrete = [query.replace("$__rate_interval", "5m") for query in queries]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(concrete)]
    written = tmp_path / "rules.yml"
    written.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    promtool("check", "rules", str(written))


def test_published_models_are_told_with_what_current_leads_to(tmp_path: Path) -> None:
    with staged(tmp_path, "empty") as stage:
        for name, version, created, leads in (
            ("org/bot", "v1", "2026-11-01T00:00:00Z", True),
            ("org/bot", "v2", "2026-11-02T00:00:00Z", False),
            ("other", "v1", "no time", True),
        ):
            folder = tmp_path / "mirror" / name.replace("/", "%2F") / version
            folder.mkdir(parents=True)
            if leads:
                (folder.parent / "current").symlink_to(version)
            remote = RemoteModel(f"{name}-{version}", name, version, None, None, "ready", created)
            part = ModelFile("config.json", 2, None, (DurableSegment(0, 2, "0" * 64),))
            stage.ledger.record_found(remote, str(folder), [part], [], [], [])
        stage.model("waits", "v1", "2026-11-03T00:00:00Z", ModelState.WAITING)
        digests = {model.id: model.digest for model in stage.ledger.read.published()}
        with stage.page() as url:
            text = httpx.get(url + "metrics").text
    told = [line for line in text.splitlines() if line.startswith(("axomsync_model_info", "axomsync_current"))]
    info = 'axomsync_model_info{{current="{}",digest="{}",id="{}",name="{}",version="{}"}} 1.0'.format
    assert told[:-1] == [
        info("false", digests["org/bot-v2"], "org/bot-v2", "org/bot", "v2"),
        info("true", digests["org/bot-v1"], "org/bot-v1", "org/bot", "v1"),
        info("true", digests["other-v1"], "other-v1", "other", "v1"),
    ]
    series, _, value = told[-1].partition(" ")
    assert series == 'axomsync_current_version_timestamp_seconds{name="org/bot"}'
    assert float(value) == datetime(2026, 11, 1, tzinfo=UTC).timestamp()


def test_at_most_the_200_newest_models_are_told() -> None:
    many = [Published(str(day), "m", str(day), f"/m/{day}", f"20{day:02}-01-01T00:00:00Z") for day in range(10, 99)]
    many += [Published(f"old {n}", "m", f"old {n}", f"/m/old{n}", "1999-01-01T00:00:00Z") for n in range(300)]
    samples = model_samples(many, frozenset).info
    assert len(samples) == 200
    assert [labels["version"] for labels, _ in samples[:2]] == ["98", "97"]
