"""A bucket on loopback: the two questions of the S3 protocol that a reader asks, over a folder of files.

Listing (ListObjectsV2 with a delimiter) and getting objects (HEAD, GET with ranges). It can be told to refuse
every request as a bucket does whose caller's session has expired.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "survey"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    refusal: str | None

    def log_message(self, *_):
        """Quiet."""

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        url = urlsplit(self.path)
        key = unquote(url.path).removeprefix(f"/{BUCKET}").lstrip("/")
        if self.refusal is not None:
            self._send(403, _error(self.refusal), body=True)
        elif "list-type" in parse_qs(url.query, keep_blank_values=True):
            self._send(200, self._listing(parse_qs(url.query)), body=body)
        elif key and (self.root / key).is_file():
            self._send_file(self.root / key, body=body)
        elif not key:
            self._send(200, b"", body=body)
        else:
            self._send(404, _error("NoSuchKey"), body=body)

    def _send_file(self, path, *, body):
        data, status = path.read_bytes(), 200
        span = self.headers.get("Range")
        if span is not None:
            first, last = span.removeprefix("bytes=").split("-")
            data, status = data[int(first) : int(last) + 1 if last else None], 206
        self._send(status, data, body=body, kind="binary/octet-stream")

    def _listing(self, query):
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        keys = sorted(str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file())
        keys = [key for key in keys if key.startswith(prefix)]
        folders = set()
        if delimiter:
            rest = [key[len(prefix) :] for key in keys]
            folders = {prefix + r.split(delimiter)[0] + delimiter for r in rest if delimiter in r}
            keys = [key for key, r in zip(keys, rest, strict=True) if delimiter not in r]
        limit = int(query.get("max-keys", ["1000"])[0])
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{(self.root / key).stat().st_size}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in keys[:limit]
        )
        items += "".join(
            f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders)
        )
        count = min(len(keys), limit) + len(folders)
        head = f"<Name>{BUCKET}</Name><KeyCount>{count}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<?xml version='1.0'?><ListBucketResult>{head}{items}</ListBucketResult>".encode()

    def _send(self, status, data, *, body, kind="application/xml"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data)


def _error(code):
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>No.</Message></Error>".encode()


@contextmanager
def bucket(root: Path, refusal: str | None = None, who: str = "key:secret") -> Iterator[str]:
    """Serve a folder as a bucket; yields the address of its root."""
    handler = type("Handler", (_Handler,), {"root": root, "refusal": refusal})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host, port = server.server_address[:2]
    try:
        yield f"s3://{who}@{BUCKET}?scheme=http&region=us-west-2&endpoint_override={host}:{port}"
    finally:
        server.shutdown()
        server.server_close()
