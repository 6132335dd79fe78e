"""HTTP against a real server on loopback: every byte in spite of faults, or one sentence that names them."""

from __future__ import annotations

import contextlib
import email.utils
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import http_server as http
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diptych.data.files import Files
from diptych.data.reading.http import _asked
from diptych.data.reading.resume import LONGEST, delay
from diptych.errors import UserError

DATA = os.urandom(1_500_000)
URL = "/set/x.tar"


@pytest.fixture
def server() -> Iterator[http.Server]:
    with http.serving() as server:
        server.files[URL] = DATA
        yield server


@pytest.fixture(scope="module")
def lasting() -> Iterator[http.Server]:
    with http.serving() as server:
        yield server


def patient(**changes: float) -> Files:
    return Files(**{"retries": 3, "timeout": 5.0, "backoff": 0.001} | changes)  # type: ignore[arg-type]


def whole(files: Files, url: str, start: int = 0, stop: int | None = None, size: int | None = None) -> bytes:
    with files.open(url, start, stop, size) as file:
        return file.read()


def reasons(files: Files) -> dict[str, int]:
    return {name.partition(": ")[2]: count for name, count in files.take_retries().items()}


def test_parts_and_sizes(server: http.Server) -> None:
    files = patient()
    url = server.url(URL)
    assert files.size(url) == len(DATA) and files.size(server.url("/none")) is None
    for start, stop in [(0, None), (1, None), (0, 1), (1000, 1_000_000), (5, 5), (len(DATA) - 1, len(DATA))]:
        assert whole(files, url, start, stop, len(DATA)) == DATA[start:stop]
    server.files["/empty"] = b""
    assert whole(files, server.url("/empty")) == b"" and files.size(server.url("/empty")) == 0
    assert not files.take_retries()


def test_files_are_read_side_by_side_and_connections_are_kept(server: http.Server) -> None:
    files = patient()
    opened = [files.open(server.url(URL), 1000 * number) for number in range(20)]
    parts = [b""] * 20
    for _ in range(30):
        parts = [part + file.read(50_000) for part, file in zip(parts, opened, strict=True)]
    assert all(part == DATA[1000 * number :] for number, part in enumerate(parts))
    for file in opened:
        file.close()
    assert server.connections == 20
    assert whole(files, server.url(URL), 3, 90) == DATA[3:90]
    assert server.connections == 20


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(min_size=1, max_size=3000),
    drops=st.lists(st.tuples(st.integers(0, 1500), st.booleans()), max_size=6),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    to_end=st.booleans(),
)
@example(data=bytes(3000), drops=[(0, False), (1000, True), (0, True)], at=(0.1, 0.9), to_end=False)
def test_whatever_is_dropped_every_byte_comes_once(
    lasting: http.Server, data: bytes, drops: list[tuple[int, bool]], at: tuple[float, float], to_end: bool
) -> None:
    start, stop = sorted(int(part * len(data)) for part in at)
    start = min(start, len(data) - 1)
    lasting.files[URL] = data
    lasting.faults.clear()
    lasting.faults += [http.drop(after, reset) for after, reset in drops]
    files = patient(retries=6)
    end = None if to_end else max(start, stop)
    assert whole(files, lasting.url(URL), start, end, len(data)) == data[start:end]
    counted = sum(files.take_retries().values())
    assert counted <= len(drops)
    if drops and drops[0][0] == 0 and end != start:
        assert counted >= 1


def test_faults_are_counted_by_reason(server: http.Server) -> None:
    files = patient()
    server.faults += [http.status(503), http.status(503), http.drop(10, reset=True), http.status(429), http.drop(9)]
    assert whole(files, server.url(URL)) == DATA
    counted = files.take_retries()
    here = f"127.0.0.1:{server.server_port}"
    assert counted == {f"{here}: 503": 2, f"{here}: 429": 1, f"{here}: dropped the connection": 2}
    assert not files.take_retries()


def test_it_goes_on_from_the_byte_that_was_reached(server: http.Server) -> None:
    server.faults.append(http.drop(600_000))
    assert whole(patient(), server.url(URL), 1000, 1_400_000) == DATA[1000:1_400_000]
    assert server.asked == [(URL, "bytes=1000-1399999"), (URL, "bytes=601000-1399999")]


def test_progress_renews_the_patience(server: http.Server) -> None:
    """More drops than retries, each after some bytes: that is a bad line, not a dead server."""
    server.faults += [http.drop(100_000) for _ in range(9)]
    assert whole(patient(retries=1), server.url(URL)) == DATA


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429])
def test_a_fault_that_stays_ends_in_one_sentence(server: http.Server, code: int) -> None:
    server.faults += [http.status(code) for _ in range(4)]
    with pytest.raises(UserError) as error:
        whole(patient(), server.url(URL, user="me:secret@") + "?Signature=secret")
    assert str(error.value) == (
        f"{server.url(URL)} could not be read: {code}, after 4 tries in a row;"
        " check the server or raise data.files.retries."
    )
    assert len(server.asked) == 4


def test_a_server_that_is_not_there_is_named() -> None:
    with http.serving() as gone:
        url = gone.url(URL)
    with pytest.raises(UserError, match=r"x\.tar could not be read: did not take the connection, after 3 tries"):
        whole(patient(retries=2), url)
    with pytest.raises(UserError, match="its host was not found"):
        whole(patient(retries=0), "http://none.invalid/x.tar")


def test_a_server_that_hangs_is_left(server: http.Server) -> None:
    server.faults.append(http.hang(500_000))
    files = patient(timeout=0.1)
    assert whole(files, server.url(URL)) == DATA
    assert reasons(files) == {"nothing came for 0.1 s": 1}
    server.faults.append(http.hang(0))
    with pytest.raises(UserError, match=r"nothing came for 0\.1 s, after 1 tries"):
        whole(patient(timeout=0.1, retries=0), server.url(URL))


@pytest.mark.parametrize(
    "code, why",
    [(404, "does not exist"), (410, "does not exist"), (401, "is refused"), (403, "is refused"), (400, "can't be")],
)
def test_what_will_not_pass_is_named_at_once(server: http.Server, code: int, why: str) -> None:
    server.faults.append(http.status(code))
    with pytest.raises(UserError, match=rf"x\.tar {why}.*\({code} "):
        whole(patient(), server.url(URL))
    assert len(server.asked) == 1


def test_a_range_beyond_the_end_is_named(server: http.Server) -> None:
    for start, stop in [(len(DATA) + 1, None), (len(DATA) + 1, len(DATA) + 2), (0, len(DATA) + 1)]:
        with pytest.raises(UserError, match=rf"x\.tar ends at byte {len(DATA)} where"):
            whole(patient(), server.url(URL), start, stop)
    assert len(server.asked) == 3


def test_a_server_without_ranges_is_read_from_its_start(server: http.Server) -> None:
    files = patient()
    server.faults += [http.plain, http.drop(500_000), http.plain]
    assert whole(files, server.url(URL), 700, 900) == DATA[700:900]
    assert reasons(files) == {"ignored a range": 1}
    with pytest.raises(UserError, match="changed"):  # the plain answer has no ETag, the first one had
        whole(files, server.url(URL))
    server.faults += [http.plain]
    assert files.size(server.url(URL)) == len(DATA)


def test_much_is_not_skipped(server: http.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.data.reading.http.MOST_SKIPPED", 1000)
    server.faults += [http.plain]
    with pytest.raises(UserError, match=r"ignores ranges, and the first 1001 bytes.*data\.files\.cache"):
        whole(patient(), server.url(URL), 1001, 2000)


def test_a_file_of_another_size_than_the_index_says_is_refused(server: http.Server) -> None:
    for fault in (http.serve, http.plain):
        server.faults.append(fault)
        with pytest.raises(UserError, match=rf"x\.tar has {len(DATA)} bytes where its index says 7"):
            whole(patient(), server.url(URL), 0, 5, 7)


@pytest.mark.parametrize("other", [DATA[:-1], DATA[::-1]], ids=["another size", "same size"])
def test_two_versions_are_never_mixed(server: http.Server, other: bytes) -> None:
    server.faults.append(http.hang(400_000))
    with patient(timeout=0.2).open(server.url(URL)) as file:
        assert file.read(1000) == DATA[:1000]
        server.files[URL] = other
        with pytest.raises(UserError, match=r"x\.tar changed on the server while it was read"):
            file.read()


def test_answers_in_chunks_are_whole_or_go_on(server: http.Server) -> None:
    server.faults.append(http.chunked())
    assert whole(patient(), server.url(URL)) == DATA
    server.faults.append(http.chunked(cut=9))
    with pytest.raises(UserError, match="changed"):  # without an ETag there, with one afterwards
        whole(patient(), server.url(URL))
    server.faults += [http.chunked(cut=9) for _ in range(2)]
    with pytest.raises(UserError, match="dropped the connection"):
        whole(patient(retries=0), server.url(URL))


def test_an_answer_whose_end_can_not_be_told_is_refused(server: http.Server) -> None:
    server.faults.append(http.endless)
    with pytest.raises(UserError, match="does not say where the file ends"):
        whole(patient(), server.url(URL))


def test_other_bytes_than_asked_for_are_refused(server: http.Server) -> None:
    for extent in ("bytes 0-4/10", "bytes */10", "pages 5-9/10", ""):
        server.faults.append(http.status(206, Content_Range=extent))
        with pytest.raises(UserError, match="other bytes than were asked for"):
            whole(patient(), server.url(URL), 5, 10)


def test_redirects_are_followed_and_keep_the_range(server: http.Server) -> None:
    server.files["/moved"] = DATA
    server.faults += [http.redirect("/moved"), http.redirect(server.url("/moved"))]
    assert whole(patient(), server.url(URL, user="me:secret@"), 5, 50) == DATA[5:50]
    assert server.asked[-1] == ("/moved", "bytes=5-49")
    assert all("authorization" in headers for headers in server.headers)


def test_a_redirect_to_another_server_gets_no_password(server: http.Server) -> None:
    with http.serving() as other:
        other.files["/x"] = b"abc"
        server.faults.append(http.redirect(other.url("/x")))
        assert whole(patient(), server.url(URL, user="me:secret@")) == b"abc"
        assert "authorization" not in other.headers[0]


@pytest.mark.parametrize(
    "to",
    ["file:///etc/passwd", "ftp://host/x", "gopher://host/x", "data:,x", "pipe:x", "", "http://host", "http:\\\\x"],
)
def test_redirects_elsewhere_are_refused(server: http.Server, to: str) -> None:
    server.faults.append(http.redirect(to))
    with pytest.raises(UserError, match="which is refused"):
        whole(patient(), server.url(URL))
    assert len(server.asked) == 1


def test_redirects_end(server: http.Server) -> None:
    server.faults += [http.redirect(URL) for _ in range(9)]
    with pytest.raises(UserError, match="redirects more than 5 times"):
        whole(patient(), server.url(URL))
    assert len(server.asked) == 6


def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, config = tmp_path / "both.pem", "subjectAltName=IP:127.0.0.1"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = [
        "-subj",
        "/CN=loopback",
        "-addext",
        config,
        "-keyout",
        str(tmp_path / "key"),
        "-out",
        str(tmp_path / "crt"),
    ]
    subprocess.run([*command, *names], check=True, capture_output=True)
    pem.write_text((tmp_path / "key").read_text() + (tmp_path / "crt").read_text())
    with http.serving(str(pem)) as server:
        server.files[URL] = DATA
        url = server.url(URL).replace("http:", "https:")
        with pytest.raises(UserError, match=r"x\.tar has a certificate that can't be trusted \(self.signed"):
            whole(patient(), url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "crt"))
        assert whole(patient(), url, 7, 70) == DATA[7:70]
        server.faults.append(http.redirect("http://127.0.0.1/x"))
        with pytest.raises(UserError, match="https only to https"):
            whole(patient(), url)


def test_a_proxy_is_used_where_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.serving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url("/"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        proxy.files["http://set.invalid/x"] = b"by proxy"
        assert whole(patient(), "http://set.invalid/x") == b"by proxy"


def test_waiting_doubles_is_spread_and_ends(server: http.Server) -> None:
    waits = [delay("http://host/x", tries, 1.0) for tries in range(1, 12)]
    assert all(0.5 <= wait / 2.0**tries <= 1.5 for tries, wait in enumerate(waits[:5]))
    assert waits[-1] == LONGEST and delay("http://host/x", 3, 1.0) == waits[2]
    assert len({delay(f"http://host/{number}", 1, 1.0) for number in range(50)}) == 50
    assert delay("x", 1, 0.001, asked=7.0) == 7.0 and delay("x", 1, 0.001, asked=1e9) == LONGEST


def test_retry_after_is_honoured(server: http.Server) -> None:
    assert _asked("3") == 3.0 and _asked("") == 0.0 and _asked("soon") == 0.0
    assert 8 < _asked(email.utils.formatdate(time.time() + 10, usegmt=True)) <= 10
    assert _asked(email.utils.formatdate(time.time() - 10, usegmt=True)) == 0.0
    server.faults.append(http.status(503, Retry_After=1))
    begin = time.monotonic()
    assert whole(patient(), server.url(URL)) == DATA
    assert time.monotonic() - begin >= 1.0


def saying(code: int = 200, body: bytes | None = None, reason: str | None = None, **headers: object) -> http.Fault:
    """An answer of these headers, whatever is true."""

    def fault(handler: http.Handler, data: bytes) -> None:
        handler.send_response(code, reason)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(data if body is None else body)
        handler.close_connection = True

    return fault


LONG = "9" * 5000


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (saying(Content_Length="²"), "does not say how long|does not say where the file ends"),
        (saying(Content_Length=LONG), "does not say how long|does not say where the file ends"),
        (saying(Content_Length="-5"), "does not say how long|does not say where the file ends"),
        (saying(206, Content_Range=f"bytes 0-0/{LONG}"), "other bytes than were asked for"),
        (saying(206, Content_Range=f"bytes {LONG}-{LONG}/*"), "other bytes than were asked for"),
        (saying(206, Content_Range="bytes ²-²/9"), "other bytes than were asked for"),
        (saying(206, Content_Range="bytes 0-9/5"), "other bytes than were asked for"),
        (saying(206, Content_Range="bytes 7-9/50"), "other bytes than were asked for"),
        (saying(206), "other bytes than were asked for"),
        (saying(301, b"", Location="http://[::1"), "redirects to no address, which is refused"),
        (saying(301, b"", Location="//[::1"), "redirects to no address, which is refused"),
        (saying(301, b""), "redirects to no address, which is refused"),
        (saying(301, b"", Location="file:///etc/passwd"), "redirects to file:///etc/passwd, which is refused"),
        (saying(301, b"", Location="s3://bucket/x"), "which is refused"),
        (saying(301, b"", Location="http://host:port/x"), "which is refused"),
        (saying(404, b"", "\x1b[2J\x1b]0;x\x07"), r"does not exist|\\x1b\[2J"),
        (saying(418, b"", "\x1b[2J gone" * 50), r"can't be read \(418 \\x1b\[2J gone"),
        (saying(Content_Encoding="gzip", Content_Length=9), "sends it encoded although it was asked not to"),
        (saying(Content_Encoding="br", Content_Length=9), "sends it encoded although it was asked not to"),
    ],
    ids=range(19),
)
def test_what_a_server_says_is_not_believed(server: http.Server, fault: http.Fault, why: str) -> None:
    """One sentence for each, without a sign that steers a terminal."""
    files = patient(retries=0)
    refused = 0
    for ask in (lambda: files.size(server.url(URL)), lambda: whole(files, server.url(URL), 0, 9)):
        server.faults.append(fault)
        try:
            found = ask()
        except UserError as error:
            refused += 1
            assert re.search(why, str(error)) and str(error).isprintable() and len(str(error)) < 400
        else:  # a missing file has no size; a length that can't be read is none, and its bytes are counted
            assert found is None or found == DATA[:9]
    assert refused


def test_an_answer_in_chunks_that_never_ends_stops_where_the_index_says(server: http.Server, tmp_path: Path) -> None:
    """Into a cache and without one: no more is taken, and that there is more is told."""
    sent = []

    def endless(handler: http.Handler, data: bytes) -> None:
        handler.start(200, Transfer_Encoding="chunked")
        with contextlib.suppress(OSError):
            while len(sent) < 400:  # 400 MB, where the index says 1.5
                handler.wfile.write(b"%x\r\n%s\r\n" % (2**20, bytes(2**20)))
                sent.append(1)
        handler.close_connection = True

    folder = tmp_path / "cache"
    for files in (patient(retries=0), Files(retries=0, timeout=5.0, cache=str(folder), cache_gb=1.0)):
        sent.clear()
        server.faults.append(endless)
        with pytest.raises(UserError, match=f"has more than the {len(DATA)} bytes that its index says"):
            whole(files, server.url(URL), 0, None, len(DATA))
        assert len(sent) < 40
    assert list(folder.iterdir()) == []


def test_a_file_that_is_gzip_on_its_server_may_be_called_so(server: http.Server) -> None:
    server.files["/x.tar.gz"] = DATA[:1000]
    server.faults.append(saying(Content_Encoding="x-gzip", Content_Length=1000))
    assert whole(patient(), server.url("/x.tar.gz"), size=1000) == DATA[:1000]


@pytest.mark.parametrize("asked", ["²", LONG, "-1", "Mon, 01 Jan 0001 00:00:00 -0000", "Fri, 99 Foo 2026", "1e9"])
def test_a_retry_after_that_is_none(asked: str) -> None:
    assert _asked(asked) == 0.0
