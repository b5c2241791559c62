"""Trusted certificate authorities for TLS: the system's, those named by the environment, and `[console] ca_file`.

Failures handled: a `[console] ca_file` that is missing, unreadable or no certificate (`BadConfig` with the reason), a
machine without any authority, such as a slim image (plain http to loopback still works; TLS errors name the package to
install), `SSL_CERT_FILE` and `SSL_CERT_DIR` that lead to no certificate (see `complaints`).
"""

import errno
import os
import re
import ssl
from collections.abc import Mapping

from axomsync.core.errors import BadConfig
from axomsync.core.named_files import read_named

FIX = "install ca-certificates, or name [console] ca_file, and start again"

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
# The Rust transport needs at least one authority. This one has expired, may only vouch for names below "invalid", and its
# private key was never kept.
NOBODY = b"""-----BEGIN CERTIFICATE-----
MIIByDCCAW6gAwIBAgIUT94Cl80JoBxI2Kic3kRrO7Zhom8wCgYIKoZIzj0EAwIw
ITEfMB0GA1UEAwwWYXhvbXN5bmMgdHJ1c3RzIG5vYm9keTAeFw0yMDAxMDEwMDAw
MDBaFw0yMDAxMDIwMDAwMDBaMCExHzAdBgNVBAMMFmF4b21zeW5jIHRydXN0cyBu
b2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARxvvJxFL2a9Qyd91E/AeED
IRMLKM2k1asv4h47UUTJNTUsjeoKfBQXp/aQN9toinQcshhxuC+HnPPvZIUKqtbP
o4GDMIGAMBIGA1UdEwEB/wQIMAYBAf8CAQAwSwYDVR0eAQH/BEEwP6ALMAmCB2lu
dmFsaWShMDAKhwgAAAAAAAAAADAihyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
AAAAAAAAADAdBgNVHQ4EFgQUNRjkY97++T4w98IJ+cB+4hk4fCcwCgYIKoZIzj0E
AwIDSAAwRQIhALsk/mXq9j9df6pG7bgzmbxpMhmh+f64Mm2AUSzY915nAiBKA+E+
ORqf6xeEAcbpNpH6ZGl+47SEQ0rOCr51vHU91Q==
-----END CERTIFICATE-----
"""


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Trust the system's certificate authorities (or `SSL_CERT_FILE`) and those of `ca_file`. Raises `BadConfig`."""
    _leave_out_what_is_no_file()
    context = ssl.create_default_context()
    # Since Python 3.13 authorities must have fields that older company authorities lack; no other client asks for them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if ca_file is not None:
        try:
            read_named(ca_file)  # refuses a device, which OpenSSL would read for ever
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:
            reason = _what_it_is(ca_file) if isinstance(error, ssl.SSLError) else error.strerror or str(error)
            fix = "name a PEM file with the certificate of your authority"
            raise BadConfig(f"[console] ca_file {ca_file}: can't be used: {reason}; {fix}") from None
    return context


def roots(ca_file: str | None, context: ssl.SSLContext) -> bytes | None:
    """PEM for the Rust transport, beyond the system's authorities. `context` belongs to the same `ca_file`."""
    if ca_file is not None:
        return read_named(ca_file)
    return None if any_known(context) else NOBODY


def any_known(context: ssl.SSLContext) -> bool:
    """Check for any known authority. Those in a folder are loaded only when needed, so the folder is listed."""
    if context.cert_store_stats()["x509"]:
        return True
    paths = ssl.get_default_verify_paths()
    folder = os.environ.get(paths.openssl_capath_env) or paths.openssl_capath
    return _has_authorities(folder)


def complaints(environ: Mapping[str, str]) -> list[str]:
    """Warnings about `SSL_CERT_FILE` and `SSL_CERT_DIR` that lead to no certificate."""
    found = []
    if file := environ.get("SSL_CERT_FILE"):
        try:
            read_named(file)
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
        except OSError as error:
            reason = _what_it_is(file) if isinstance(error, ssl.SSLError) else error.strerror
            found.append(f"$SSL_CERT_FILE: {file} can't be used: {reason}; name a PEM file with certificates, or unset it")
    if (folder := environ.get("SSL_CERT_DIR")) and not _has_authorities(folder):
        found.append(f"$SSL_CERT_DIR: {folder} holds no certificates under their hashes; run openssl rehash, or unset it")
    return found


def _leave_out_what_is_no_file() -> None:
    """Drop an `SSL_CERT_FILE` that is no regular file: libraries read it to its end, and a device has none."""
    if file := os.environ.get("SSL_CERT_FILE"):
        try:
            read_named(file)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EFBIG):
                del os.environ["SSL_CERT_FILE"]


def _has_authorities(folders: str) -> bool:
    for folder in folders.split(":"):
        try:
            if any(re.fullmatch(r"[0-9a-f]{8}\.[0-9]+", name) for name in os.listdir(folder)):
                return True
        except OSError:
            continue
    return False


def _what_it_is(file: str) -> str:
    """The reason why OpenSSL finds no certificate in a readable file."""
    try:
        start = read_named(file)
    except OSError as error:
        return error.strerror or str(error)
    if _CERTIFICATE in start:
        return "it holds no complete PEM certificate"
    if b"PRIVATE KEY-----" in start:
        return "it holds no PEM certificate, but a private key"
    return "it holds no PEM certificate"
