"""What `axomsync service install --gateway` fills in, as text; tests/systemd has it on a booted machine."""

import subprocess
from pathlib import Path

import pytest

from axomsync.core.errors import LocalFault
from axomsync.ops.gateway import SHIPPED_CONFIGURATION, Place, configuration, name_servers

SHIPPED = SHIPPED_CONFIGURATION.read_text()


def made(
    *hosts: str, listen: str = "9080", near: list[str] | None = None, resolvers: tuple[str, ...] = ("10.0.0.2",)
) -> str:
    return configuration(Place(hosts, listen, near, resolvers), SHIPPED)


def allowed(text: str) -> list[str]:
    between = text.partition("$is_storage {\n")[2].partition("}")[0]
    return [line.strip() for line in between.splitlines() if line.strip() and "default" not in line]


def test_hosts_become_the_list_of_what_may_be_asked() -> None:
    text = made("S3.example", "minio.example:9000", "http://10.0.0.5:9000", "[fd00::1]:8333", "*.s3.eu-central-1.example")
    assert allowed(text) == [
        '"https://s3.example:443" 1;',
        '"https://minio.example:9000" 1;',
        '"http://10.0.0.5:9000" 1;',
        '"https://[fd00::1]:8333" 1;',
        r'"~^https://[a-z0-9._-]+\.s3\.eu\-central\-1\.example:443$" 1;',
    ]
    assert "storage.example" not in text


@pytest.mark.parametrize(
    "host", ["", "a b", "ftp://x", "https://x/bucket", 'x";', "x:y", "*", "a*.example", "x:1;", "x\n", "a..b"]
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(LocalFault, match="this is not a host of storage; write it like"):
        made(host)


def test_networks_and_the_address_to_listen_at() -> None:
    text = made("s3.example", listen="10.1.2.3:9999", near=["10.1.0.0/16", "fd00::/8"])
    near = text.partition("geo $is_near {\n")[2].partition("}")[0].split("\n")
    assert [line.strip() for line in near if line.strip()] == [
        "default 0;", "127.0.0.0/8 1;", "::1/128 1;", "10.1.0.0/16 1;", "fd00::/8 1;",
    ]  # fmt: skip
    assert "        listen 10.1.2.3:9999;\n" in text
    for wrong in ("here", "10.0.0.1", "x:1", "1;"):
        with pytest.raises(LocalFault, match="nothing to listen at"):
            made("s3.example", listen=wrong)
    for room, written in (("200GB", "190734m"), ("1TiB", "1048576m"), ("1.5GiB", "1536m")):
        assert f" max_size={written} min_free=10g\n" in configuration(Place(["s3.example"], room=room), SHIPPED)
    for wrong in ("", "much", "0GB", "1TB;", "12"):
        with pytest.raises(LocalFault, match="no room for a cache"):
            configuration(Place(["s3.example"], room=wrong), SHIPPED)
    with pytest.raises(LocalFault, match="not a network"):
        made("s3.example", near=["everybody"])


def test_names_are_resolved_where_the_machine_does() -> None:
    found = name_servers(
        "# mine\nsearch example\nnameserver 10.0.0.2\n nameserver  fd00::2\nnameserver nonsense\noptions x\n"
    )
    assert found == ["10.0.0.2", "fd00::2"]
    assert "    resolver 10.0.0.2 [fd00::2] valid=30s;\n" in made("s3.example", resolvers=tuple(found))
    assert "resolver " not in made("http://10.0.0.5:9000", resolvers=()).replace("_resolver", "")


def test_nginx_takes_what_is_shipped_and_what_is_made(tmp_path: Path) -> None:
    for number, text in enumerate((SHIPPED, made("*.s3.example", "[fd00::1]:1", listen="[::1]:9080"))):
        here = text.replace("/var/cache/axomsync-gateway", str(tmp_path)).replace("/run/axomsync-gateway", str(tmp_path))
        file = tmp_path / f"{number}.conf"
        file.write_text(here)
        argv = ["/usr/sbin/nginx", "-e", "stderr", "-t", "-c", str(file)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "warn" not in done.stderr


def test_the_trust_and_the_traps_are_what_they_must_be() -> None:
    for line in (
        "proxy_cache_lock on;", "proxy_cache_lock_timeout 1h;", "proxy_cache_lock_age 1h;", "proxy_ssl_verify on;",
        "proxy_ssl_server_name on;", "proxy_cache_valid 200 206 365d;", "auth_request /_storage_says;",
        "max_size=50g min_free=10g", "error_log /dev/null emerg;",
    ):  # fmt: skip
        assert line in SHIPPED
    logged = SHIPPED.partition("log_format")[2].partition(";")[0]
    assert not {"$request ", "$request_uri", "$args", "$asked_target", "$http_referer"} & set(logged.split())
