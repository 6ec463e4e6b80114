"""Bodies in the encodings of HTTP."""

from __future__ import annotations

import gzip

from tests.support.public_port import BODY

CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


def compress(body: bytes) -> bytes:
    """Compress without a timestamp: the names of parametrized tests must be the same in each process."""
    return gzip.compress(body, mtime=0)
