"""One byte range of a request (RFC 9110, section 14), as a span of the whole."""

import re
from typing import NamedTuple

from protocol.faults import Code, refuse

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


class Span(NamedTuple):
    """The bytes [start, stop) of `size_bytes`; `partial` if a range was asked for."""

    start: int
    stop: int
    size_bytes: int
    partial: bool

    @property
    def headers(self) -> dict[str, str]:
        """The headers that tell a client what it gets."""
        headers = {"Content-Length": str(self.stop - self.start)}
        if self.partial:
            headers["Content-Range"] = f"bytes {self.start}-{self.stop - 1}/{self.size_bytes}"
        return headers


def span_of(header: str | None, size_bytes: int) -> Span:
    """Read a Range header. Several ranges or another unit: the whole, as the RFC allows.

    Raises Refusal: RANGE_INVALID.
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.group(0) == "bytes=-":
        return Span(0, size_bytes, size_bytes, partial=False)
    first, last = match.groups()
    if not first:  # the last n bytes
        start, stop = max(0, size_bytes - int(last)), size_bytes
    else:
        start, stop = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
    if not 0 <= start < stop:
        raise refuse(Code.RANGE_INVALID, f"the stream has {size_bytes} bytes")
    return Span(start, stop, size_bytes, partial=True)
