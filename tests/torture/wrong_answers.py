"""Wrong answers of console and storage, by number."""

from tests.rig.faults import EXPIRED, Fault, json_answer, s3_error

# Method, path, and what is wrong with the answer. The number of a fault is its place here; new ones go to the end.
FAULTS: tuple[tuple[str, str, Fault], ...] = (
    *(("GET", "/bucket/", Fault(status, {"Retry-After": "0"}, b"x")) for status in (500, 503, 429, 408, 502, 504)),
    *(("GET", "/bucket/", Fault(cut=cut, ending=ending)) for cut in (0, 1, 4_000, 65_536) for ending in ("fin", "reset")),
    ("GET", "/bucket/", EXPIRED),
    ("GET", "/bucket/", s3_error(403, "AccessDenied", "Access Denied")),
    ("GET", "/bucket/", s3_error(404, "NoSuchKey", "The specified key does not exist.")),
    ("GET", "/bucket/", s3_error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")),
    ("GET", "/bucket/", s3_error(416, "InvalidRange", "The requested range is not satisfiable")),
    ("GET", "/bucket/", Fault(ignores_range=True)),
    ("GET", "/bucket/", Fault(200, {"Content-Type": "text/html"}, b"<html>please log in</html>")),
    ("GET", "/bucket/", Fault(headers={"ETag": '"0123456789abcdef0123456789abcdef"'})),
    ("GET", "/bucket/", Fault(headers={"ETag": None})),
    ("GET", "/bucket/", Fault(headers={"Content-Range": None})),
    ("GET", "/bucket/", Fault(headers={"Content-Range": "bytes 7-9/10"})),
    ("GET", "/bucket/", Fault(headers={"Content-Length": None})),
    ("GET", "/bucket/", Fault(headers={"Content-Encoding": "gzip"})),
    ("GET", "/bucket/", Fault(204, {}, b"")),
    ("GET", "/bucket/", Fault(301, {"Location": "/elsewhere"}, b"")),
    ("GET", "/bucket/", Fault(rate=200_000.0)),
    *(("PUT", "/bucket/", Fault(status, {"Retry-After": "0"}, b"x")) for status in (500, 503, 429, 408, 502, 504, 501)),
    *(("PUT", "/bucket/", Fault(cut=0, ending=ending)) for ending in ("fin", "reset")),
    ("PUT", "/bucket/", EXPIRED),
    ("PUT", "/bucket/", s3_error(403, "SignatureDoesNotMatch", "The request signature does not match")),
    ("PUT", "/bucket/", Fault(headers={"ETag": None})),
    ("PUT", "/bucket/", Fault(headers={"ETag": '"0123456789abcdef0123456789abcdef"'})),
    ("PUT", "/bucket/", Fault(200, {}, b"<html>please log in</html>")),
    ("PUT", "/bucket/", Fault(headers={"Content-Length": None})),
    ("PUT", "/bucket/", Fault(204, {}, b"")),
    ("PUT", "/bucket/", Fault(307, {"Location": "/elsewhere"}, b"")),
    *((method, path, Fault(status, {"Retry-After": "0"}, b"{}"))
      for method, path in (("GET", "/api/models"), ("GET", "/download"), ("POST", "/presign"))
      for status in (400, 403, 404, 408, 409, 422, 429, 500, 502, 503)),
    *((method, path, Fault(200, {}, body))
      for method, path in (("GET", "/api/models"), ("GET", "/download"), ("POST", "/presign"))
      for body in (b"", b"null", b"[[[", b"<html>", b'{"files": null}', b"\xff\xfe", b'[{"id": 1}]')),
    *((method, path, Fault(cut=cut, ending=ending))
      for method, path in (("GET", "/api/models"), ("GET", "/download"), ("POST", "/presign"))
      for cut in (0, 20) for ending in ("fin", "reset")),
    ("GET", "/api/models", json_answer([])),
    ("POST", "/presign", json_answer({"upload_id": "u", "key": "k", "url": "http://127.0.0.1:1/x", "method": "PUT"})),
)  # fmt: skip
