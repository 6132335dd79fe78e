"""http:// and https://: ranges of a file, through urllib3. Each worker process has its own connections."""

from __future__ import annotations

import email.utils
import logging
import netrc
import os
import re
import ssl
import time
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions as wrong

from diptych.base.errors import UserError
from diptych.base.masking import MaskedRecords
from diptych.data.io.address import HTTP, fault, printable, scheme, shown
from diptych.data.io.retry import Fault

for _name in ("connection", "connectionpool", "poolmanager", "response", "util.retry"):  # all of urllib3's loggers
    logging.getLogger(f"urllib3.{_name}").addFilter(MaskedRecords())

REDIRECTS = 5
MOST_SKIPPED = 256 * 2**20  # bytes thrown away at most to reach a place in a file whose server ignores ranges
RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)")
PLAIN = ("", "identity")  # Content-Encoding of unchanged bytes
MOVED = (301, 302, 303, 307, 308)
TEMPORARY = (408, 425, 429)  # and 500 to 599


class Http:
    """Reads parts of files. Raises Fault for what a retry may cure, UserError for everything else."""

    chunk = 2**18

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.pools: dict[str | None, urllib3.PoolManager] = {}

    def connect(self, url: str, start: int, stop: int | None) -> _Answer:
        """The answer from byte `start` on; it may continue beyond `stop` where the server ignores ranges."""
        wanted = None if start == 0 and stop is None else f"bytes={start}-{'' if stop is None else stop - 1}"
        response = self._ask(url, wanted)
        try:
            first, total = _extent(url, response, start)
            if first is None:
                raise UserError(
                    f"{shown(url)} ends at byte {total} where {start} was asked for: index the shards again."
                )
            answer = _Answer(response, total, self.timeout)
            answer.skip(url, start - first)
        except BaseException:
            response.close()
            raise
        return answer

    def size(self, url: str) -> int | None:
        """Bytes of the file; None where there is none. By a GET of one byte, since many servers refuse HEAD."""
        try:
            response = self._ask(url, "bytes=0-0")
        except _Missing:
            return None
        try:
            total = _extent(url, response, 0)[1]
        finally:
            response.close()
        if total is None:
            raise UserError(
                f"The server of {shown(url)} does not say how long the file is: serve it as a plain file."
            )
        return total

    def _ask(self, url: str, wanted: str | None) -> urllib3.BaseHTTPResponse:
        at = url
        for _ in range(REDIRECTS + 1):
            response = self._get(at, wanted, url)
            if response.status not in MOVED:
                break
            response.close()
            at = _redirected(url, at, response.headers.get("Location", ""))
        else:
            raise UserError(f"{shown(url)} redirects more than {REDIRECTS} times: give the address it ends at.")
        if response.status not in (200, 206, 416):
            response.close()
            raise _refusal(url, response)
        if _encoded(url, response):
            response.close()
            raise UserError(
                f"The server of {shown(url)} sends it with a Content-Encoding, which was not asked for: serve it as a"
                " plain file."
            )
        return response

    def _get(self, at: str, wanted: str | None, first: str) -> urllib3.BaseHTTPResponse:
        parts = urlsplit(at)
        headers = {"Accept-Encoding": "identity", "User-Agent": "diptych"}
        if wanted:
            headers["Range"] = wanted
        user, _, given = parts.netloc.rpartition("@")
        if not user and _origin(at) == _origin(first):  # a redirect on the same server keeps the password
            user = urlsplit(first).netloc.rpartition("@")[0]
        user = user or _kept(parts.scheme, parts.hostname or "")
        if user:
            headers |= urllib3.make_headers(basic_auth=unquote(user))
        try:
            return self._pool(at).request(
                "GET",
                parts._replace(netloc=given).geturl(),
                headers=headers,
                timeout=self.timeout,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except wrong.HTTPError as error:
            raise _fault(first, error, self.timeout) from error

    def _pool(self, url: str) -> urllib3.PoolManager:
        """The connections, through the proxy that the environment names, if any."""
        proxy = None if proxy_bypass(urlsplit(url).hostname or "") else getproxies().get(scheme(url))
        if proxy not in self.pools:
            self.pools[proxy] = urllib3.ProxyManager(proxy, maxsize=64) if proxy else urllib3.PoolManager(maxsize=64)
        return self.pools[proxy]


def _kept(scheme: str, host: str) -> str:
    """The user and password, escaped, that ~/.netrc (or the file that NETRC names) has for a host; '' for none.

    Always '' for plain http to another machine: anyone on the way could read them. Raises UserError for a file that
    can't be read.
    """
    if scheme != "https" and host not in ("localhost", "127.0.0.1", "::1"):
        return ""
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        found = netrc.netrc(str(file)).authenticators(host) if file.is_file() else None
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be used for {host}: {getattr(error, 'msg', error)}.") from error
    return f"{quote(found[0])}:{quote(found[2])}" if found else ""


class _Answer:
    """The body of one answer."""

    def __init__(self, response: urllib3.BaseHTTPResponse, total: int | None, timeout: float) -> None:
        self.response, self.total, self.timeout = response, total, timeout
        self.version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        self.skipped = 0

    def read(self, most: int) -> bytes:
        try:
            # read1 returns what has arrived; read waits for everything, and loses it when the connection drops.
            return self.response.read1(most, decode_content=False)
        except wrong.HTTPError as error:
            raise _fault("", error, self.timeout) from error

    def skip(self, url: str, length: int) -> None:
        if length > MOST_SKIPPED:
            raise UserError(
                f"The server of {shown(url)} ignores ranges, and the first {length} bytes would be fetched for"
                " nothing: use a server that supports ranges, or data.files.cache=FOLDER."
            )
        self.skipped = length
        while length:
            data = self.read(min(length, Http.chunk))
            if not data:
                raise Fault("ended early")
            length -= len(data)

    def close(self, finished: bool) -> None:
        """Return the connection to the pool where the answer was read to its end; else close it."""
        if finished and self.response.length_remaining == 0:
            self.response.drain_conn()
            self.response.release_conn()
        else:
            self.response.close()


class _Missing(UserError):
    """404 or 410."""


def _extent(url: str, response: urllib3.BaseHTTPResponse, start: int) -> tuple[int | None, int | None]:
    """(first byte in the answer, or None where `start` is past the end; the file's length, or None where unknown)"""
    if response.status == 200:
        length = response.headers.get("Content-Length")
        if length is None and not getattr(response, "chunked", False):
            raise UserError(
                f"The server of {shown(url)} does not say where the file ends, so a cut file would not be noticed:"
                " serve it with Content-Length."
            )
        return 0, _number(length or "")
    said = RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    total = int(said[3]) if said and said[3] != "*" else None
    if response.status == 416:
        return None, total
    if said is None or said[1] is None or int(said[1]) != start or not start <= int(said[2]) < (total or 10**18):
        raise UserError(
            f"The server of {shown(url)} answered a range with other bytes than were asked for: use a server that"
            " supports ranges."
        )
    return start, total


def _number(digits: str) -> int | None:
    """A whole number in a header; None for anything else. `isdigit` accepts '²', and `int` fails on 5,000 digits."""
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 18 else None


def _encoded(url: str, response: urllib3.BaseHTTPResponse) -> bool:
    """Whether the bytes are not the file's own. Some servers give a .gz file the encoding gzip: that is its own."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    gzipped = encoding in ("gzip", "x-gzip") and urlsplit(url).path.endswith((".gz", ".tgz"))
    return encoding not in PLAIN and not gzipped


def _refusal(url: str, response: urllib3.BaseHTTPResponse) -> Exception:
    status = printable(f"{response.status} {response.reason or ''}".strip()[:80])
    if response.status in TEMPORARY or response.status >= 500:
        return Fault(str(response.status), _asked(response.headers.get("Retry-After", "")))
    if response.status in (404, 410):
        return _Missing(f"{shown(url)} does not exist ({status}): restore it, or index the shards again.")
    if response.status in (401, 403, 407):
        return UserError(f"{shown(url)} is refused by its server ({status}): check the address and the credentials.")
    return UserError(f"{shown(url)} can't be read ({status}): check the address.")


def _asked(retry_after: str) -> float:
    """Seconds of a Retry-After header, a number or a date; 0 for one that can't be read."""
    seconds = _number(retry_after)
    if seconds is not None:
        return float(seconds)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _redirected(url: str, at: str, location: str) -> str:
    try:
        target = urljoin(at, location)
    except ValueError:  # 'http://[::1'
        target = ""
    kinds = scheme(at), scheme(target)
    if not location or kinds[1] not in HTTP or kinds == ("https", "http") or fault(target):
        name = printable(shown(target))[:200] if location and target else "no address"
        raise UserError(
            f"{shown(url)} redirects to {name}, which is refused: redirects go to http or https, and from https only"
            " to https."
        )
    return target


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _fault(url: str, error: wrong.HTTPError, timeout: float) -> Exception:
    if isinstance(error, wrong.SSLError) and isinstance(error.args[0], ssl.SSLCertVerificationError):
        return UserError(
            f"{shown(url)} has a certificate that can't be trusted ({error.args[0].verify_message}):"
            " give its authority's certificate in SSL_CERT_FILE."
        )
    if isinstance(error, wrong.LocationValueError):
        return UserError(f"{shown(url)} is not a valid URL: check the address.")
    reasons: dict[type[wrong.HTTPError], str] = {
        wrong.NameResolutionError: "its host was not found",
        wrong.NewConnectionError: "did not take the connection",
        wrong.TimeoutError: f"nothing came for {timeout:g} s",
        wrong.ProxyError: "the proxy did not answer",
    }
    return Fault(next((why for kind, why in reasons.items() if isinstance(error, kind)), "dropped the connection"))
