"""Credentials in addresses, commands and configs are never written or printed."""

from __future__ import annotations

import logging
import re
import sys

import pytest

import diptych.data.io.http  # noqa: F401 (what urllib3 logs is masked from there on)
from diptych.base.masking import HIDDEN, filled, masked, masked_argument, masked_overrides, masked_text, masked_value
from diptych.base.terminal import complain, say, visible

SECRETS = [
    "http://user:SECRET@host/a.tar",
    "https://SECRET@host/x/{000..003}.tar",
    "https://user:SEC:RET@host/a.tar",
    "http://user:SECRET@SECRET@host/a.tar",
    "http://user:SEC/RET@host/a.tar",
    "http://user:SEC?RET@host/a.tar",
    "http://user:SEC'RET SECRET@host/a.tar",
    "HTTP://USER:SECRET@HOST/a.tar",
    "s3://KEY:SECRET@bucket/a.tar",
    "https://host/a.tar?X-Amz-Credential=SECRET&X-Amz-Signature=SECRET",
    "https://host/a.tar?download=true&token=SECRET",
    "https://host/a.tar?sv=2024-01-01&sig=SECRET%3D",
    "https://host/a.tar?SECRET",
    "https://host/a.tar?opaque=SECRET",
    "https://host/a.tar?pin=1234",
    "https://host/a.tar#SECRET",
    "http://u:SECRET@h/a.tar::http://v:SECRET@h/b.tar",
    "http:/user:SECRET@host/a.tar",
    "'http://user:SEC RET@host/a.tar'",
    '["http://user:SEC RET@host/a.tar",b]',
    "pipe:curl -u me:SECRET http://host/a.tar",
    "pipe:curl --user=me:SECRET http://host/a.tar",
    "pipe:curl -H 'Authorization: Bearer SECRETSECRET' http://host/a.tar",
    "pipe:curl -H 'X-Auth-Token: SECRET' http://host/a.tar",
    "pipe:AWS_KEPT_ACCESS_KEY=SECRET aws s3 cp s3://x/a.tar -",
    "pipe:wget --password SECRET http://host/a.tar",
    "pipe:curl https://u:SECRET@host/a.tar?sig=SECRET",
]


@pytest.mark.parametrize("address", SECRETS)
def test_a_secret_is_hidden_wherever_it_stands(address: str) -> None:
    for shown in (
        masked_value(address),
        masked_argument(f"data.shards={address}"),
        str(masked({"data": {"sources": {"own": {"shards": [address]}}}})),
    ):
        assert "SEC" not in shown and "RET" not in shown and "1234" not in shown and HIDDEN in shown
    assert masked_value(masked_value(address)) == masked_value(address)
    assert filled(masked({"a": [address]}), {"a": [address]}) == {"a": [address]}


PLAIN = [
    "/data/a@b/x?y=z.tar",
    "runs/x",
    "http://host:8080/a@b.tar",
    "http://[::1]:80/{000..003}.tar",
    "https://host/a.tar?download=true&v=3",
    "s3://bucket/a.tar",
    "pipe:cat /x/tokens.tar",
    "a photo of a token: a {}.",
    "torch.nn.GELU",
]


@pytest.mark.parametrize("value", PLAIN)
def test_what_hides_nothing_stays(value: str) -> None:
    assert masked_value(value) == value and masked({"data": [value]}) == {"data": [value]}


def test_keys_that_say_what_they_hold() -> None:
    config = {"logger": {"api_key": "x", "wandb_api_key": "y", "project": "p"}, "tokenizer": "t", "password": None}
    hidden = {
        "logger": {"api_key": HIDDEN, "wandb_api_key": HIDDEN, "project": "p"},
        "tokenizer": "t",
        "password": None,
    }
    assert masked(config) == hidden
    assert masked_argument("+logger.api_key=abc") == f"+logger.api_key={HIDDEN}"


def test_only_the_same_address_fills_what_is_hidden() -> None:
    stored = masked({"data": {"shards": "http://u:p@host/a.tar", "x": 1}})
    assert filled(stored, {"data": {"shards": "http://v:q@host/a.tar"}})["data"]["shards"] == "http://v:q@host/a.tar"
    for other in ("http://u:p@evil/a.tar", "http://host/a.tar", None, ["http://u:p@host/a.tar"], 3):
        assert filled(stored, {"data": {"shards": other}}) == stored
    assert filled(stored, None) == stored


def test_a_sentence_keeps_its_words() -> None:
    said = masked_text("See http://u:p@host/x, then ['https://h/a?token=abc'] and \"http://h/b\".")
    assert "u:p" not in said and "abc" not in said
    assert said.startswith("See http://<hidden>@host/x, then ['https://h/a?token=<hidden>']")


def test_a_terminal_only_shows(capsys: pytest.CaptureFixture[str]) -> None:
    say("\x1b]0;title\x07\x1b[2J", "a\tb\nc\r\x9b31m\u202e\u2028\udc80 é", end="")
    complain("no http://u:SECRET@h/x\x1b[1A")
    out, err = capsys.readouterr()
    assert out == "\\x1b]0;title\\x07\\x1b[2J a\tb\nc\\r\\x9b31m\\u202e\\u2028\\udc80 é"
    assert err == "diptych: no http://<hidden>@h/x\\x1b[1A\n"
    every = visible("".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)])))
    assert all(letter in "\t\n" or letter.isprintable() for letter in every)
    assert sys.stdout is not None


def test_what_hydra_prints_and_writes_of_a_command_line() -> None:
    typed = "#0 : seed=1 data.shards=http\\://bob\\:hunter2pass@host/index.json?sig=abcdef logger=none\n"
    assert masked_overrides(typed) == (
        "#0 : seed=1 data.shards=http://<hidden>@host/index.json?sig=<hidden> logger=none\n"
    )
    by_key = masked_overrides(
        "#1 : seed=1 data.files.token=abc,def +x.api_key='a b' ++password=[q,r] max_tokens_x=7\n"
    )
    assert by_key == (
        f"#1 : seed=1 data.files.token={HIDDEN} +x.api_key={HIDDEN} ++password={HIDDEN} max_tokens_x=7\n"
    )


def test_a_config_that_lists_overrides_is_masked() -> None:
    """As Hydra keeps them: hydra.overrides.task, hydra.job.override_dirname."""
    record = {
        "task": [
            "seed=1",
            "data.shards=s3://key:pw@host/x",
            "data.files.token=abc",
            "data.shards=[http://h/x?sig=abc]",
        ],
        "override_dirname": "data.files.token=abc,seed=1",
        "shards": ["http://a:b@h/x?sig=abc"],
    }
    hidden = masked(record)
    assert not re.search("pw|abc|a:b", str(hidden))
    assert hidden["task"][0] == "seed=1" and hidden["override_dirname"] == f"data.files.token={HIDDEN}"
    assert hidden["shards"] == [f"http://{HIDDEN}@h/x?sig={HIDDEN}"]


def test_what_stands_at_a_secrets_key_is_hidden_whatever_it_is() -> None:
    secrets = {"token": 8675309123, "api_key": ["abc", 12345], "password": {"a": "abc", "b": None}, "sig": True}
    hidden = {"token": HIDDEN, "api_key": [HIDDEN, HIDDEN], "password": {"a": HIDDEN, "b": None}, "sig": True}
    assert masked(secrets) == hidden and filled(hidden, secrets) == secrets
    assert masked({"tokens": 77, "max_tokens": None}) == {"tokens": 77, "max_tokens": None}
    for typed in ("+data.files={token:abc,x:1}", "+data={files:{'token': 'abc',x:1}}", "+data.files.token=[abc,d]"):
        for shown in (masked_argument(typed), masked_overrides(f"\t#0 : seed=1 {typed}")):
            assert "abc" not in shown and HIDDEN in shown, shown
    assert masked_argument("+data.files={token:abc,x:1}") == f"+data.files={{token:{HIDDEN},x:1}}"


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("Failed to parse headers (url=%s): x", ("http://me:pass@h/a.tar?sig=abcdef",)),
        ('"GET %s HTTP/1.1" 200', ("/a.tar?sig=abcdef",)),
        ("Retrying after http://me:pass@h/a.tar?sig=abcdef", ()),
    ],
)
def test_what_urllib3_logs_of_an_address_has_no_secret(
    said: str, arguments: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    logging.getLogger("urllib3.connectionpool").warning(said, *arguments)
    assert HIDDEN in caplog.text and "/a.tar" in caplog.text
    assert "pass@" not in caplog.text and "abcdef" not in caplog.text
