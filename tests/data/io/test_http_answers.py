"""What a server answers is not believed: redirects, certificates, ranges, lengths, chunks."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path

import http_server as http
import pytest
from http_reading import DATA, LONG, URL, patient, saying, whole

from diptych.base.errors import UserError
from diptych.data.io.files import Files


def test_other_bytes_than_asked_for_are_refused(server: http.Server) -> None:
    for extent in ("bytes 0-4/10", "bytes */10", "pages 5-9/10", ""):
        server.faults.append(http.status(206, Content_Range=extent))
        with pytest.raises(UserError, match="other bytes than were asked for"):
            whole(patient(), server.url(URL), 5, 10)


def test_an_answer_whose_end_can_not_be_told_is_refused(server: http.Server) -> None:
    server.faults.append(http.endless)
    with pytest.raises(UserError, match="does not say where the file ends"):
        whole(patient(), server.url(URL))


def test_answers_in_chunks_are_whole_or_go_on(server: http.Server) -> None:
    server.faults.append(http.chunked())
    assert whole(patient(), server.url(URL)) == DATA
    server.faults.append(http.chunked(cut=9))
    with pytest.raises(UserError, match="changed"):  # without an ETag there, with one afterwards
        whole(patient(), server.url(URL))
    server.faults += [http.chunked(cut=9) for _ in range(2)]
    with pytest.raises(UserError, match="dropped the connection"):
        whole(patient(retries=0), server.url(URL))


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
        (saying(Content_Encoding="gzip", Content_Length=9), "with a Content-Encoding, which was not asked for"),
        (saying(Content_Encoding="br", Content_Length=9), "with a Content-Encoding, which was not asked for"),
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
