"""Mutations that know what they change: trees of plain data, texts, and bytes. Every one is drawn from a `Random`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import Any

from fuzz.oracles import BAIT, CANARY, MARK

SECRET_FILE = "secret.txt"  # beside the case's folder

# Texts that some reader of theirs takes for more than text.
ODD_TEXTS = [
    "",
    " ",
    "\t",
    "\n",
    "\ufeff",
    "\u200b",
    "a\u2028b",
    "a\u0085b",
    "a\x0bb\x0cc",
    "a\x1cb",
    "\x00",
    "a\x00b",
    "\x1b[2J\x1b[31mred",
    "\x9b31m",
    "\u202etxt.exe",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "~/x",
    "C:\\x",
    "file:///etc/passwd",
    "http://127.0.0.1:9/x",
    "pipe:true",
    "pipe:touch x",
    "s3://",
    "http://[::1",
    "http://\u00b2.\u00b2",
    "http://a b/",
    "x" * 5000,
    "²",
    "١٢",
    "1e999",
    "nan",
    "-inf",
    "0x10",
    "1_000",
    "true",
    "null",
    "~",
    "{}",
    "[]",
    "{a: b}",
    "[" * 3000,
    "{c}",
    "{}{}",
    "{0}",
    "{x}",
    "{",
    "%s%n",
    "日本語",
    "🙂" * 40,
    "\ud800",
    "'; DROP TABLE",
    "$(touch x)",
    "`touch x`",
]
ODD_NUMBERS: list[Any] = [
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**12,
    10**30,
    10**4000,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    True,
    False,
]
# Ways to name what the environment or a file holds, for those who resolve a config.
INTERPOLATIONS = [
    "${oc.env:FUZZ_SECRET}",
    "${oc.env:HOME}",
    "${oc.decode:'${oc.env:FUZZ_SECRET}'}",
    "${lines:SECRET,x}",
    "${lines:/etc/passwd,x}",
    "${vocab_size:SECRET}",
    "${oc.create:{_target_: BAIT.called}}",
    "${oc.create:'{_target_: BAIT.called}'}",
    "${oc.create:{_target_: os.system, command: touch X}}",
    "${seed}",
    "${..seed}",
    "${.x}",
    "${oc.select:seed}",
    "${oc.dict.values:model}",
    "${oc.deprecated:seed}",
    "${hydra:runtime.cwd}",
    "${run_dir:null,x}",
    "${gpus_or:2}",
    "${budget:1,2,3}",
    "${nothing:1}",
    "${",
    "${}",
    "${a",
    "${oc.env:",
    "pre${oc.env:FUZZ_SECRET}post",
    "???",
]
TARGETS = [
    "BAIT.called",
    "BAIT.Called",
    "os.system",
    "logging.os.system",
    "diptych.commands.config.os.system",
    "diptych.data.io.files.io.open",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "builtins.getattr",
    "subprocess.Popen",
    "subprocess.run",
    "hydra.utils.get_object",
    "hydra.utils.get_method",
    "hydra.utils.instantiate",
    "hydra._internal.instantiate._instantiate2.instantiate",
    "omegaconf.OmegaConf.create",
    "torch.load",
    "torch.hub.load",
    "torch.nn.Module",
    "fsspec.open",
    "lightning.pytorch.loggers.CSVLogger",
    "webdataset.gopen.Pipe",
    "diptych.data.io.files.Pipe",
    "diptych.commands.cli.main",
    "diptych.towers.clip.torch.load",
    "diptych.towers.clip.CLIP.load_state_dict",
    "diptych.model.load.load",
    "this",
    "antigravity.x",
    "turtle.done",
    "idlelib.x",
    "evil_module.x",
    "pathlib.Path.unlink",
    "shutil.rmtree",
    "code.interact",
    "pty.spawn",
    "importlib.import_module",
    "functools.partial",
    "operator.methodcaller",
    "diptych.data.datamodule.PairData.__init__.__globals__",
    "",
    ".",
    "a..b",
    "os",
    "os.",
    " os.system",
    "os.system ",
    "os\u2024system",
    "OS.SYSTEM",
    "diptych.towers.clip.CLIP ",
    "diptych\n.towers",
]


def filled(text: str, secret: str) -> str:
    """With the bait's module and the path of the secret file in the place of their names."""
    return text.replace("BAIT", BAIT).replace("SECRET", secret) if "FUZZ_SECRET" not in text else text


def interpolation(rng: Random, secret: str) -> str:
    names = INTERPOLATIONS[5:8] if rng.random() < 0.4 else INTERPOLATIONS
    text = filled(rng.choice(names), secret)
    way = rng.random()
    if way < 0.4:
        return text
    if way < 0.7:
        return text.replace("${", "\\${")
    if way < 0.8:
        return text.replace("${", "\\\\\\${")
    if way < 0.9:
        return text.replace("${", "\\\\${")
    return text.replace("${", "$\u200b{") if way < 0.93 else f"a/{text}"


def target(rng: Random) -> dict[str, Any]:
    """A mapping that some reader would build."""
    name = filled(rng.choice(TARGETS), "")
    found: dict[str, Any] = {"_target_": name}
    extra = rng.random()
    if extra < 0.3:
        found |= {"_partial_": True}
    elif extra < 0.5:
        found |= {"_args_": [rng.choice(["touch x", f"'{MARK}'", f"open('{MARK}','w')", 1])]}
    elif extra < 0.6:
        found |= {"_recursive_": False, "_convert_": "all"}
    elif extra < 0.7:
        found |= {"command": "touch x", "path": "pipe:touch x", "args": ["touch", "x"]}
    return found


def odd(rng: Random, secret: str = "") -> Any:
    """A value that isn't what a reader waits for."""
    way = rng.random()
    if way < 0.35:
        return rng.choice(ODD_TEXTS)
    if way < 0.55:
        return rng.choice(ODD_NUMBERS)
    if way < 0.65:
        return rng.choice([None, [], {}, [None], [[]], {"": ""}, [1, "a", None], {"a": {"b": [1]}}])
    if way < 0.8:
        return interpolation(rng, secret)
    if way < 0.92:
        return target(rng)
    return nested(rng)


def nested(rng: Random) -> Any:
    depth, node = rng.choice([3, 40, 400]), rng.choice([0, "x", target(rng)])
    for _ in range(depth):
        node = [node] if rng.random() < 0.5 else {"a": node}
    return node


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a tree of mappings and lists, as the keys that lead to it."""
    found = [path] if path else []
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += places(value, (*path, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            found += places(value, (*path, number))
    return found


def _parent(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    return tree


def mutated(tree: Any, rng: Random, secret: str = "", times: int | None = None) -> Any:
    """A copy with some places changed, removed, added or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(times if times is not None else rng.choice([1, 1, 1, 2, 3, 6])):
        listed = places(tree)
        if not listed:
            return odd(rng, secret)
        path = rng.choice(listed)
        parent, key, way = _parent(tree, path), path[-1], rng.random()
        if way < 0.6:
            parent[key] = odd(rng, secret)
        elif way < 0.7:
            del parent[key]
        elif way < 0.8 and isinstance(parent, dict):
            parent[rng.choice(["_target_", "_partial_", "_args_", "x", "", "é", "_recursive_", "__class__"])] = odd(
                rng, secret
            )
        elif way < 0.87:
            parent[key] = copy.deepcopy(_parent(tree, other := rng.choice(listed))[other[-1]])
        elif way < 0.95 and isinstance(parent[key], str):
            parent[key] = text(parent[key], rng)
        else:
            parent[key] = [parent[key]]
    return tree


def text(value: str, rng: Random) -> str:
    """The text with something odd in it."""
    place = rng.randint(0, len(value))
    way = rng.random()
    if way < 0.6:
        return value[:place] + rng.choice(ODD_TEXTS) + value[place:]
    if way < 0.8:
        return value[:place]
    return value * 2 if way < 0.9 else value.upper()


def data(content: bytes, rng: Random) -> bytes:
    """Bytes with flips, cuts, repeats, and runs that stand for lengths."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 12])):
        if not changed:
            return rng.randbytes(rng.randint(0, 40))
        at = rng.randrange(len(changed))
        if rng.random() < 0.5:  # most formats say what they are at their beginning
            at = rng.randrange(min(len(changed), 96))
        way = rng.random()
        if way < 0.35:
            changed[at] ^= 1 << rng.randrange(8)
        elif way < 0.5:
            changed[at] = rng.choice([0, 1, 127, 128, 255])
        elif way < 0.65:
            run = rng.choice([b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\x00\x01\x00\x00", b"\xff" * 8])
            changed[at : at + len(run)] = run
        elif way < 0.8:
            del changed[at:]
        elif way < 0.88:
            del changed[at : at + rng.randint(1, 16)]
        elif way < 0.96:
            changed[at:at] = changed[at : at + rng.randint(1, 600)]
        else:
            changed += rng.choice([bytes(changed), rng.randbytes(20), b"\x00" * 1024])
    return bytes(changed)


def chosen(rng: Random, ways: list[tuple[int, Callable[[], Any]]]) -> Any:
    """One of these, by weight."""
    return rng.choices([way for _, way in ways], [weight for weight, _ in ways])[0]()


__all__ = ["CANARY", "SECRET_FILE", "chosen", "data", "interpolation", "mutated", "odd", "target", "text"]
