"""Other names of classes: from a JSON file, or from a field of pair shards."""

from __future__ import annotations

from diptych.base.errors import UserError
from diptych.base.textfile import parse_json, read_json
from diptych.data.stream.index import open_index
from diptych.data.stream.shards import read_whole


def from_file(path: str) -> dict[str, list[str]]:
    """`{"class name": ["other name", …]}`. Raises UserError where the file is missing or says something else."""
    found = read_json(path)
    if not all(_names(each) for each in found.values()):
        raise UserError(f'{path} must map class names to lists of names, such as {{"cat": ["house cat"]}}.')
    return found


def from_pairs(shards: str, field: str) -> dict[str, list[str]]:
    """Of training pairs whose KEY.json has a `label`: label -> its list `field`, samples without one left out."""
    found = {}
    for sample in read_whole(open_index(shards)):
        described = parse_json(sample.get("json", b"{}"), f"{sample['__key__']}.json of {shards}")
        label = described.get("label")
        if isinstance(label, str) and label and _names(described.get(field)):
            found[label] = described[field]
    if not found:
        raise UserError(f"No sample of {shards} has a label and a list {field!r} in its .json: say synonyms=null.")
    return found


def _names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) and each for each in value)
