"""The status page behind nginx, below a path, set up by the documents; probes with any host name."""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from axomsync.config import WebSettings
from tests.rig.agent import eventually
from tests.rig.documents import examples
from tests.rig.installation import CHECKOUT
from tests.web.scenes import staged

NAME = "console.example"

_NGINX = """
daemon off; pid nginx.pid; error_log stderr; events {{}}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {{ listen 127.0.0.1:{port}; {location} }}
}}
"""


@contextmanager
def nginx(home: Path, page: str) -> Iterator[str]:
    """The page's address behind nginx."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (example,) = examples(CHECKOUT / "docs/operating.md", "nginx")
    location = example.text.replace("127.0.0.1:9464", urlsplit(page).netloc)
    (home / "nginx.conf").write_text(_NGINX.format(port=port, location=location), encoding="utf-8")
    process = subprocess.Popen(["nginx", "-p", str(home), "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        eventually("nginx", lambda: process.poll() is not None or _listens(port))
        yield f"http://127.0.0.1:{port}/axom/"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(("names", "status"), [([NAME], 200), ([], 421)])
def test_page_works_below_a_path_of_nginx(tmp_path: Path, names: list[str], status: int) -> None:
    web = WebSettings.model_validate({"listen": "127.0.0.1:0", "names": names})
    with staged(tmp_path / "box", "busy", web) as stage, stage.page() as page, nginx(tmp_path, page) as url:
        asked = {"Host": NAME}
        answer = httpx.get(url, headers=asked)
        assert answer.status_code == status, answer.text
        assert httpx.get(urljoin(url, "healthz"), headers=asked).status_code == 200
        if status != 200:
            assert "[web] names" in answer.text
            return
        parts = set(re.findall(r"""(?:href|src)="([^"#]+)\"""", answer.text))
        assert {"page.css", "page.js", "icon.svg", "api/status"} <= parts
        for part in parts:
            assert httpx.get(urljoin(url, part), headers=asked).status_code == 200, part
        assert httpx.get(url.removesuffix("/"), headers=asked).headers["location"].endswith("/axom/")
        with httpx.stream("GET", urljoin(url, "api/events"), headers=asked) as stream:
            assert next(stream.iter_lines()).startswith(("event:", "retry:", "id:", "data:", ":"))


@pytest.mark.parametrize("path", ["healthz", "readyz"])
@pytest.mark.parametrize("host", ["axomsync.default.svc.cluster.local:9464", "10.2.3.4", "box", "evil.example", ""])
def test_probes_may_use_any_name(busy: str, path: str, host: str) -> None:
    assert httpx.get(busy + path, headers={"Host": host}).status_code == 200


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    web = WebSettings.model_validate({"listen": "127.0.0.1:0"})
    with staged(tmp_path_factory.mktemp("probed"), "busy", web) as stage, stage.page() as url:
        yield url
