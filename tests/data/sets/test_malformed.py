"""Evaluation sets that someone else made, or damaged: each a sentence with the file and what is wrong, never a
traceback, and never a class that shifts."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from diptych.base.errors import UserError
from diptych.base.files import ROOT
from diptych.data.sets.benchmark_set import benchmark_sets
from diptych.data.sets.evalset import EvalSet
from diptych.data.sets.folders import folder_set
from samples import COLOURS, benchmark, picture

DEEP = b'{"a":' * 100_000


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(samples):
            for name, data in sample.items():
                info = tarfile.TarInfo(f"{number:03d}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def named_set(root: Path, names: bytes, labels: list[int]) -> EvalSet:
    benchmark(root)
    (root / "classnames.txt").write_bytes(names)
    write_tar(root / "test/0.tar", [{"png": picture(n), "cls": b"%d" % label} for n, label in enumerate(labels)])
    (found,) = benchmark_sets(str(root))
    return found


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (b"\xef\xbb\xbfcow\npig\n", ["cow", "pig"]),
        ("café\u2028au lait\npig\n".encode(), ["café\u2028au lait", "pig"]),
        (b"a\x0bb\x0cc\nd\xc2\x85e", ["a\x0bb\x0cc", "d\x85e"]),
        (b"cow\r\npig\r\n", ["cow", "pig"]),
        (b"near\n\nfar\n", ["near", "", "far"]),
        (b"near\n\n\n", ["near", ""]),  # a picture has the label 1, none the label 2
    ],
)
def test_names_keep_their_places(tmp_path: Path, names: bytes, read: list[str]) -> None:
    found = named_set(tmp_path / "one", names, list(range(len(read))))
    assert found.classnames == read
    assert [label for *_, label, _ in found.items] == list(range(len(read)))


def test_the_locale_has_no_say(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("K\u00e4se\nkaffe\n".encode())
    code = "import sys; from diptych.base.textfile import read_lines; print(ascii(read_lines(sys.argv[1])))"
    ascii_locale = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / "names.txt")]
    ended = subprocess.run(command, cwd=ROOT / "src", env=ascii_locale, capture_output=True, text=True, timeout=60)
    assert ended.stdout.strip() == r"['K\xe4se', 'kaffe']", ended.stderr


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"cls": b"-1"}, "the label '-1', and no class below 4"),
        ({"cls": b"1.0"}, "the label '1.0'"),
        ({"cls": b"4"}, "the label '4'"),
        ({"cls": b"9" * 5000}, "the label '999"),
        ({"cls": "٣".encode()}, "no class below 4"),
        ({"cls": b"\xff"}, "no class below 4"),
        ({"cls": b""}, r"no label \(.cls\)"),
        ({"png": b""}, r"has no image: its files end in .cls, .txt"),
        ({"json": b"{"}, r"one/002.json in .*, line 1: it is not JSON"),
        ({"json": b"[]"}, "holds a list, not a JSON object"),
        ({"json": DEEP}, "nested too deeply"),
        ({"json": b'{"caption": 3}'}, "a caption that is not text: 3"),
        ({"json": b'{"n": ' + b"9" * 5000 + b"}"}, "a number that can't be read"),
        ({"txt": b"caf\xe9"}, r"one/002.txt in .* is not UTF-8"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(tmp_path: Path, spoiled: dict[str, bytes], message: str) -> None:
    benchmark(tmp_path / "one", **spoiled)
    with pytest.raises(UserError, match=message) as raised:
        benchmark_sets(str(tmp_path / "one"))
    assert "one/002" in str(raised.value) and len(str(raised.value)) < 500


def spoil(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(data)


def loop(name: str) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(root / name)

    return make


def folder(name: str) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name).mkdir()

    return make


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil("classnames.txt", b"red\nb\xfcnt\nx\ny"), r"classnames.txt, line 2: the byte 0xfc is not UTF-8"),
        (spoil("classnames.txt", b"\xff\xfer\x00e\x00d\x00"), r"classnames.txt, line 1: the byte 0xff is not UTF-8"),
        (spoil("classnames.txt", b"\n\n"), r"classnames.txt is empty"),
        (spoil("classnames.txt", b""), r"classnames.txt is empty"),
        (spoil("classnames.txt", b"red\ngreen\n"), r"one/002 in .* has the label '2', and no class below 2"),
        (folder("classnames.txt"), r"holds no evaluation set: classnames.txt is missing"),
        (
            spoil("zeroshot_classification_templates.txt", b"a photo\n"),
            r"templates.txt, line 1: the template 'a photo'",
        ),
        (spoil("zeroshot_classification_templates.txt", b" \n"), r"templates.txt is empty"),
        (folder("zeroshot_classification_templates.txt"), r"templates.txt is not a regular file"),
        (loop("zeroshot_classification_templates.txt"), r"templates.txt"),
        (spoil("dataset_type.txt", b"multilabel\n"), r"dataset_type.txt says 'multilabel': a set is one of"),
        (spoil("dataset_type.txt", b"\xff"), r"dataset_type.txt, line 1: the byte 0xff"),
        (folder("dataset_type.txt"), r"dataset_type.txt is not a regular file"),
        (spoil("test/nshards.txt", b"2\n"), r"nshards.txt says '2', but there are 1 tars"),
        (spoil("test/0.tar", bytes(1024)), r"no sample"),
        (spoil("test/0.tar", b"no tar"), r"0.tar"),
        (spoil("dataset_type.txt", b"retrieval"), None),  # every sample has an image and a caption
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, change: Callable[[Path], object], message: str | None) -> None:
    root = benchmark(tmp_path / "one")
    change(root)
    if message is None:
        (found,) = benchmark_sets(str(root))
        assert len(found) == 6 and not found.classnames
        return
    with pytest.raises(UserError, match=message):
        benchmark_sets(str(root))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"../two": {}}', r"names the set '../two': a set is a folder beside it"),
        (b'{"..": {}}', r"names the set '..'"),
        (b'{"/etc": {}}', r"names the set '/etc'"),
        (b'{"": {}}', r"names the set ''"),
        (b'{"one/../two": {}}', r"names the set"),
        (b'{"a\\u0000b": {}}', r"names the set"),
        (b'{"\\ud800": {}}', r"names the set"),
        (b'{"three": {}}', r"names the set 'three', but there is no such folder"),
        (b'{"one": 3}', r"says 3 of one"),
        (b'{"one": {"role": "best"}}', r"gives one the role 'best': take one of validation, shift"),
        (b'{"one": {"role": ["test"]}}', r"gives one the role"),
        (b'{"one": {"note": 5}}', r"gives one a note that is not text"),
        (b'{"one": {}, "one": {}}', r"has the key 'one' twice"),
        (b'["one"]', r"holds a list, not a JSON object"),
        (b"{", r"sets.json, line 1: it is not JSON"),
        (b'{"one": \xff}', r"sets.json, line 1: the byte 0xff is not UTF-8"),
        (b"", r"sets.json, line 1: it is not JSON"),
        (b"{}", r"holds no evaluation set"),
        (DEEP, r"sets.json is nested too deeply"),
        (b'{"one": {"n": ' + b"1" * 5000 + b"}}", r"sets.json holds a number that can't be read"),
    ],
)
def test_what_sets_json_says_is_checked(tmp_path: Path, text: bytes, message: str) -> None:
    benchmark(tmp_path / "sets/one")
    benchmark(tmp_path / "two")
    (tmp_path / "sets/sets.json").write_bytes(text)
    with pytest.raises(UserError, match=message) as raised:
        benchmark_sets(str(tmp_path / "sets"))
    assert len(str(raised.value)) < 500


def test_sets_that_sets_json_leaves_out_are_named(tmp_path: Path) -> None:
    benchmark(tmp_path / "one")
    benchmark(tmp_path / "two")
    (tmp_path / "sets.json").write_text(json.dumps({"two": {}}))
    (found,) = benchmark_sets(str(tmp_path))
    assert found.name == "two" and found.unused == {"set that sets.json does not name": ["one"]}


def test_folders_of_classes_account_for_everything(class_folder: Path, tmp_path: Path) -> None:
    (class_folder / "empty").mkdir()
    (class_folder / "__MACOSX/red").mkdir(parents=True)
    (class_folder / "__MACOSX/red/._0.png").write_bytes(b"x")
    (class_folder / "blue/deep/er").mkdir(parents=True)
    for name in ("deep/er/one.JFIF", "two.JPE"):
        (class_folder / "blue" / name).write_bytes(picture(2, form="JPEG"))
    (class_folder / "blue/notes.TXT").write_text("x")
    (class_folder / "green/up").symlink_to(class_folder)
    (class_folder / "green/gone.png").symlink_to("nowhere")
    (class_folder / "beside.png").write_bytes(picture(0))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/far.png").write_bytes(picture(1))
    (class_folder / "linked").symlink_to(tmp_path / "elsewhere")
    (found,) = folder_set(str(class_folder))
    assert found.classnames == [*sorted(COLOURS)[:2], "linked", *sorted(COLOURS)[2:]]
    assert len(found) == 15 and {key for key, *_ in found.items} >= {
        "blue/deep/er/one.JFIF",
        "blue/two.JPE",
        "linked/far.png",
    }
    assert found.unused == {
        "macOS's copies (__MACOSX, ._NAME)": ["__MACOSX"],
        "a link that leads nowhere": ["green/gone.png"],
        "a folder that is listed already, reached by a link": ["green/up"],
        "a picture in no class folder": ["beside.png"],
        "no picture by its name": ["blue/notes.TXT"],
        "a folder without a picture": ["empty"],
    }
    assert found.remarks == [
        "pictures in folders within a class's count as the class's: blue/deep/er",
        "links that lead out of the folder were followed: linked",
    ]
    assert sum(len(batch.keys) for batch in found.batches(5, 16)) == 15


def test_folders_that_are_splits_or_no_text_are_refused(class_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "both/train").symlink_to(class_folder)
    class_folder.rename(tmp_path / "both/val")
    with pytest.raises(UserError, match=r"holds splits \(.*val\), not classes: give .*/both/val"):
        folder_set(str(tmp_path / "both"))
    odd = tmp_path / "both/val" / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    (odd / "0.png").write_bytes(picture(0))
    with pytest.raises(UserError, match=r"the class folder caf\\udce9, whose name is not text"):
        folder_set(str(tmp_path / "both/val"))


def test_names_of_any_language_are_classes(class_folder: Path) -> None:
    """With what joins and parts letters: a Persian plural, an emoji of two, blanks that are no ASCII."""
    names = [
        "\u06af\u0631\u0628\u0647\u200c\u0647\u0627",
        "\U0001f468\u200d\U0001f680",
        "au\u00a0lait",
        "\u732b\u3000\u72ac",
    ]
    for place, name in enumerate(names):
        (class_folder / list(COLOURS)[place]).rename(class_folder / name)
    (found,) = folder_set(str(class_folder))
    assert found.classnames == sorted(names) and len(found) == 12
    (class_folder / names[0]).rename(class_folder / "\u202ered")
    with pytest.raises(UserError, match=r"the class folder \\u202ered, whose name is not text"):
        folder_set(str(class_folder))


def test_keys_that_are_no_text_can_be_written(class_folder: Path) -> None:
    (class_folder / "red/\x1b[31mred.png").write_bytes(picture(0))
    (class_folder / "red" / os.fsdecode(b"\xff.png")).write_bytes(picture(0))
    (found,) = folder_set(str(class_folder))
    keys = [key for key, *_ in found.items]
    assert "red/\\x1b[31mred.png" in keys and "red/\\udcff.png" in keys
    assert found.hashes() and json.dumps(keys).isprintable()


def test_a_picture_that_is_gone_or_a_folder_is_counted(class_folder: Path) -> None:
    (found,) = folder_set(str(class_folder))
    (class_folder / "red/0.png").unlink()
    (class_folder / "red/4.png").unlink()
    (class_folder / "red/4.png").mkdir()
    assert sum(len(batch.keys) for batch in found.batches(5, 16)) == 10
    assert found.skipped == {
        "can't be read (No such file or directory)": ["red/0.png"],
        "can't be read (Is a directory)": ["red/4.png"],
    }


@pytest.mark.parametrize("name", ["classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt"])
def test_a_text_file_that_links_out_of_the_set_is_refused(tmp_path: Path, name: str) -> None:
    named_set(tmp_path / "one", b"near\nfar\n", [0, 1])
    secret = tmp_path / "credentials"
    secret.write_text("aws_secret_access_key = {}\nb\n")
    (tmp_path / "one" / name).unlink(missing_ok=True)
    (tmp_path / "one" / name).symlink_to(secret)
    with pytest.raises(UserError, match=f"{name} is a link to .*credentials, outside of"):
        benchmark_sets(str(tmp_path / "one"))


def test_links_within_a_set_and_to_a_hub_s_blobs_are_its_own(tmp_path: Path) -> None:
    one = tmp_path / "hub/snapshots/rev/one"
    named_set(one, b"near\nfar\n", [0, 1])
    (tmp_path / "hub/blobs").mkdir()
    for number, name in enumerate(("classnames.txt", "zeroshot_classification_templates.txt")):
        blob = tmp_path / "hub/blobs" / str(number)
        (one / name).rename(blob)
        (one / name).symlink_to(Path("../../../blobs") / str(number))
    (found,) = benchmark_sets(str(one))
    assert found.classnames == ["near", "far"]
