"""Evaluation sets: class names, templates, labels, sets.json, folders a class, Parquet."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from random import Random
from typing import Any

from fuzz import mutate
from fuzz.cases import Trial, secret_of
from fuzz.oracles import Lost
from fuzz.tars import member, small, tar

from diptych.base.errors import UserError
from diptych.commands.resolvers import register_resolvers
from diptych.data.sets.benchmark_set import benchmark_sets
from diptych.data.sets.evalset import EvalSet
from diptych.data.sets.folders import folder_set
from diptych.data.text.tokenizer import Tokenizer

register_resolvers()
SEPARATORS = ["\n", "\n", "\n", "\r\n", "\u2028", "\u0085", "\x0b", "\x0c", "\x1c", "\r", "\n\n", "\n \n"]
NAMES = [
    "cat",
    "dog",
    "a fox",
    "Ünïcode",
    "日本",
    "x" * 300,
    "cat ",
    " cat",
    "",
    "{}",
    "{c}",
    "a\tb",
    "\u200b",
    "0",
    "\x1b[2J",
    "a, b",
]


def lined(rng: Random, count: int) -> tuple[bytes, list[str] | None]:
    """A file of lines, and the lines that it has by its newlines; None where it is no UTF-8."""
    names = [rng.choice(NAMES) for _ in range(count)]
    text = "".join(name + rng.choice(SEPARATORS) for name in names) if rng.random() < 0.7 else "\n".join(names)
    data = text.encode()
    if rng.random() < 0.2:
        data = b"\xef\xbb\xbf" + data
    if rng.random() < 0.15:
        data = rng.choice(
            [
                text.encode("utf-16"),
                data + b"\xff",
                b"",
                b"\n",
                data * 2_000,
                text.encode("latin-1", "replace"),
                b"\0" + data,
            ]
        )
    try:
        whole = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data, None
    lines = whole.split("\n")
    return data, [line.strip() for line in (lines[:-1] if lines[-1] == "" else lines)]


def showing(sets: list[EvalSet]) -> list[Any]:
    """Everything that a report would show of sets; their pictures are read."""
    shown: list[Any] = []
    for each in sets:
        read = sum(len(batch.keys) for batch in each.batches(64, 16))
        if read + sum(map(len, each.skipped.values())) != len(each.items):
            raise Lost("evaluation: pictures are lost without a count", read, each.skipped)
        shown.append((each.name, each.classnames, each.templates, each.role, each.note, each.skipped, each.hashes()))
        shown.append((each.unused, each.remarks))
        if not all(isinstance(text, str) for text in (each.name, each.role, each.note, *each.classnames)):
            raise Lost("evaluation: a set's texts are no texts", each.role, each.note)
    return shown


def set_folder(root: Path, rng: Random, count: int, labels: list[str] | None = None) -> None:
    """A small set of CLIP_benchmark's layout, whole."""
    (root / "test").mkdir(parents=True)
    (root / "classnames.txt").write_text("".join(f"class {n}\n" for n in range(count)))
    (root / "zeroshot_classification_templates.txt").write_text("a {c}\n")
    members = []
    for number in range(3):
        label = labels[number % len(labels)] if labels else str(number % count)
        members += [member(f"{number}.png", small()), member(f"{number}.cls", label.encode(errors="surrogateescape"))]
    (root / "test" / "0.tar").write_bytes(tar(members))


def texts(rng: Random, folder: Path) -> Trial:
    """Files of lines: class names, templates, phrases, vocabularies."""
    count = rng.randint(1, 5)
    data, lines = lined(rng, count)
    what = rng.randrange(4)
    if what == 2:
        (folder / "phrases.txt").write_bytes(data)

        def phrases() -> object:
            from omegaconf import OmegaConf

            cfg = OmegaConf.create({"x": f"${{lines:{folder}/phrases.txt,model.text.phrases}}"})
            found = [str(line) for line in cfg.x]
            if lines is None or found != [line for line in lines if line]:
                raise Lost("phrases: other lines than the file's", found, lines)
            return found

        return Trial(phrases)
    if what == 3:
        merges = b"#version: 0.2\n" + b"\n".join(
            rng.choice([b"a b", b"c d</w>", b"t h", b"", b"a", b"a b c", b"\xff \xfe", b"a b"]) for _ in range(count)
        )
        data = rng.choice([data, merges, mutate.data(merges, rng), b"\x1f\x8b" + data, b"\xef\xbb\xbf" + merges])
        (folder / "v.txt").write_bytes(data)

        def vocabulary() -> object:
            tokenizer = Tokenizer(8, str(folder / "v.txt"))
            return tokenizer(["a thing", "ab\u2028"]).shape, tokenizer.vocab_size

        return Trial(vocabulary)
    set_folder(folder / "set", rng, max(1, len(lines or ())))
    file = folder / "set" / ("classnames.txt" if what == 0 else "zeroshot_classification_templates.txt")
    file.write_bytes(data)

    def call() -> object:
        sets = benchmark_sets(str(folder / "set"))
        if what == 0 and lines is not None:  # a blank name at the end is no class, unless a picture is of it
            while len(lines) > 3 and not lines[-1]:
                lines.pop()
        if what == 0 and (lines is None or sets[0].classnames != lines):
            raise Lost("class names: other lines than the file's", sets[0].classnames, lines)
        if what == 1 and (
            lines is None or sets[0].templates != [line.replace("{c}", "{}") for line in lines if line]
        ):
            raise Lost("templates: other lines than the file's", sets[0].templates, lines)
        for template in sets[0].templates:
            template.replace("{}", "x")
        return showing(sets)

    return Trial(call)


LABELS = [
    "0",
    "1",
    "2",
    " 1\n",
    "",
    "x",
    "-1",
    "99",
    "1.0",
    "²",
    "١",
    "9" * 5000,
    "1e1",
    "\udcff",
    "0x1",
    "1\x002",
    "+1",
    "1_0",
    "\ufeff1",
]
KINDS = [
    "retrieval",
    "Retrieval\n",
    "classification",
    "zeroshot_classification",
    "",
    "\ufeffretrieval",
    "\udcff",
    "x" * 10**5,
    "retrieval\0",
]


def evalsets(rng: Random, folder: Path) -> Trial:
    """CLIP_benchmark's layout with spoiled labels, captions, sets.json and folders."""
    root, names = folder / "sets", ["one", "two"][: rng.randint(1, 2)]
    spoil = rng.randrange(7)
    for name in names:
        labels = [rng.choice(LABELS) for _ in range(3)] if spoil == 0 else None
        set_folder(root / name, rng, rng.randint(1, 3), labels)
    of = root / names[0]
    if spoil == 1:
        tree: Any = {name: {"role": "shift", "note": "a note"} for name in names}
        if rng.random() < 0.5:
            tree = mutate.mutated(tree, rng, secret_of(folder))
        else:
            tree[
                rng.choice(
                    [
                        "../two",
                        secret_of(folder),
                        "/etc",
                        "one/../one",
                        "",
                        ".",
                        "..",
                        "one\0",
                        "one/",
                        "\x1b[2J",
                        "x" * 300,
                    ]
                )
            ] = rng.choice([{}, None, [], "x", {"role": 3}, {"role": "validation", "note": None}])
        data = json.dumps(tree).encode(errors="surrogatepass")
        (root / "sets.json").write_bytes(
            data if rng.random() < 0.8 else mutate.data(data, rng) if rng.random() < 0.8 else b"[" * 10**5
        )
    elif spoil == 2:
        (of / "dataset_type.txt").write_bytes(rng.choice(KINDS).encode(errors="surrogateescape"))
    elif spoil == 3:
        body = rng.choice(
            [
                b"[" * 10**5,
                b"{",
                b"[]",
                b"null",
                b"7",
                b'{"caption": 7}',
                b'{"caption": ["a"]}',
                b'{"caption": null}',
                b"\xff",
                b'{"caption": "a\x1b[2J"}',
            ]
        )
        caption = rng.choice([None, b"a cat", b"\xff\xfe", b"", b"two\nlines"])
        members = [member("0.png", small()), member("0.cls", b"0"), member("0.json", body)]
        members += [member("0.txt", caption)] if caption is not None else []
        (of / "test" / "1.tar").write_bytes(tar(members))
    elif spoil == 4:
        (of / "test" / "1.tar").write_bytes(
            rng.choice(
                [
                    b"",
                    b"x",
                    bytes(1024),
                    tar([]),
                    tar([member("0.cls", b"0")]),
                    tar([member("0.png", b"no"), member("0.cls", b"0")]),
                    mutate.data((of / "test" / "0.tar").read_bytes(), rng),
                ]
            )
        )
    elif spoil == 5:
        odd = rng.randrange(6)
        if odd == 0:
            (of / "classnames.txt").unlink()
        elif odd == 1:
            (of / "classnames.txt").unlink()
            (of / "classnames.txt").mkdir()
        elif odd == 2:
            (of / "test" / "0.tar").unlink()
            (of / "test" / "0.tar").mkdir()
        elif odd == 3:
            (of / "classnames.txt").unlink()
            (of / "classnames.txt").symlink_to("classnames.txt")
        elif odd == 4:
            (of / "test" / "x.tar").symlink_to("missing.tar")
        else:
            (root / "sets.json").mkdir()
    path = (
        rng.choice([str(root), str(of), str(root / "missing"), str(of / "classnames.txt"), ""])
        if rng.random() < 0.3
        else str(root)
    )

    def call() -> object:
        return showing(benchmark_sets(path, names=rng.choice([None, None, None, ["one"], ["../one"], []])))

    return Trial(call)


def classes(rng: Random, folder: Path) -> Trial:
    """A folder a class: pictures in odd places must be counted or refused."""
    root = folder / "ev"
    root.mkdir()
    names = rng.sample(
        ["cat", "dog", "fox", "Ünï", "a b", "x\x1b[2J", ".hidden", "__MACOSX", "empty", "0"], rng.randint(1, 5)
    )
    known: dict[str, int] = {}
    odd = deeper = False
    for name in names:
        (root / name).mkdir()
        count = 0 if name == "empty" or rng.random() < 0.1 else rng.randint(1, 3)
        for number in range(count):
            (root / name / f"{number}.png").write_bytes(small())
        known[name] = count
        way = rng.randrange(12)
        if way == 0:
            (root / name / "deeper").mkdir()
            (root / name / "deeper" / "d.png").write_bytes(small())
            known[name] += 1
            odd = True
            deeper |= not name.startswith((".", "__"))
        elif way == 1:
            (root / name / "folder.png").mkdir()
            odd = True
        elif way == 2:
            (root / name / "loop.png").symlink_to("loop.png")
            odd = True
        elif way == 3:
            (root / name / "loop").symlink_to("..")
            odd = True
        elif way == 4:
            (root / name / "bad.png").write_bytes(b"no picture")
            known[name] += 1
            odd = True
        elif way == 5:
            (root / name / f"x.{rng.choice(['jfif', 'JPE', 'avif', 'PNG', 'Jpg'])}").write_bytes(small())
            known[name] += 1
            odd = True
        elif way == 6:
            (root / name / "._0.png").write_bytes(b"\x00\x05\x16\x07")
            odd = True
        elif way == 7 and rng.random() < 0.1:
            (root / name / "pipe.png").unlink(missing_ok=True)
            os.mkfifo(root / name / "pipe.png")
            odd = True
    if rng.random() < 0.3:
        data, _ = lined(rng, 2)
        (root / "zeroshot_classification_templates.txt").write_bytes(data)
        odd = True
    if rng.random() < 0.2:
        (root / "notes.txt").write_text("x")
        (root / "top.png").write_bytes(small())
        odd = True
    real = [name for name in names if known[name] and not name.startswith((".", "__"))]

    def call() -> object:
        try:
            sets = folder_set(str(root))
        except UserError as error:
            if real == names and not odd and all(map(str.isprintable, names)):
                raise Lost("folder: a whole set is refused", str(error)) from error
            raise
        shown = showing(sets)
        if sorted(sets[0].classnames) != sorted(real):
            raise Lost("folder: other classes than those with pictures", sets[0].classnames, real)
        read = len(sets[0].items)
        want = sum(known[name] for name in real)
        said = "".join(getattr(stream, "getvalue", str)() for stream in (sys.stdout, sys.stderr))
        if deeper and "deeper" not in f"{said}{shown}":
            raise Lost("folder: a folder of pictures in a class is not named", said)
        if read < want:
            raise Lost("folder: pictures are lost without a count", read, want)
        return shown

    return Trial(call)
