"""HTTP against a real server on loopback: every byte in spite of faults, or one sentence that names them."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator

import http_server as http
import pytest
from http_reading import DATA, LONG, URL, patient, whole
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diptych.base.errors import UserError
from diptych.data.io.files import Files
from diptych.data.io.http import _asked
from diptych.data.io.retry import LONGEST, delay


@pytest.fixture(scope="module")
def lasting() -> Iterator[http.Server]:
    with http.serving() as server:
        yield server


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
    monkeypatch.setattr("diptych.data.io.http.MOST_SKIPPED", 1000)
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


@pytest.mark.parametrize("asked", ["²", LONG, "-1", "Mon, 01 Jan 0001 00:00:00 -0000", "Fri, 99 Foo 2026", "1e9"])
def test_a_retry_after_that_is_none(asked: str) -> None:
    assert _asked(asked) == 0.0
