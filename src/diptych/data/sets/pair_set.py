"""Sets from shards of pairs: every picture with its captions, and labels where all have one; labelled training
pictures; and other names of classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diptych.base.errors import UserError
from diptych.base.templates import CLIPS, PLAIN
from diptych.base.textfile import parse_json, read_json, read_lines
from diptych.data.io.files import Files
from diptych.data.sets.evalset import EvalSet, Item
from diptych.data.stream.index import Index, open_index, open_sources
from diptych.data.stream.pairs import IMAGES, BadSample, captions_of, field_of, images_of, value_of
from diptych.data.stream.shards import Damaged, Sample, read, read_whole

BLOCK = 64  # samples that are read at once, since pictures are asked for in order
VARIANT = "~"  # in a picture's name: a training picture that was made from another one


class Reader:
    """Samples of an index by number; holds the block, or the compressed shard, that was read last."""

    def __init__(self, index: Index, files: Files) -> None:
        self.index, self.files = index, files
        self._held: tuple[int, int, list[Sample | Damaged]] = (-1, 0, [])

    def sample(self, shard: int, number: int) -> Sample | Damaged:
        held, first, samples = self._held
        if held != shard or not first <= number < first + len(samples):
            whole, offsets = self.index.shards[shard], self.index.offsets(shard, self.files)
            first = 0 if offsets is None else number - number % BLOCK
            last = whole.samples if offsets is None else min(first + BLOCK, whole.samples)
            samples = list(read(whole, first, last, self.files, offsets))
            self._held = shard, first, samples
        return samples[number - first]


@dataclass(frozen=True)
class Place:
    """One picture: a sample of a shard and the file in it."""

    reader: Reader
    shard: int
    number: int
    name: str

    @property
    def held_in(self) -> int:
        return self.reader.index.shards[self.shard].bytes

    def read_bytes(self) -> bytes:
        sample = self.reader.sample(self.shard, self.number)
        return b"" if isinstance(sample, Damaged) else sample.get(self.name, b"")


def pair_set(
    shards: str | Sequence[str] | None,
    sources: dict | None = None,
    captions: str | None = None,
    files: Files | None = None,
    name: str = "pairs",
    max_bad: float = 0.0,
) -> list[EvalSet]:
    """The pairs that `data.shards` or `data.sources` names, as `pairs_at` reads them.

    max_bad: the share of samples that damaged tars may have lost, as in a training
    Raises UserError.
    """
    files = files or Files()
    index = open_sources(sources, files, max_bad) if sources else open_index(shards or [], files, max_bad=max_bad)
    found = pairs_at(index, files, name, captions)
    if not found.items:
        why = max(found.skipped, key=lambda reason: len(found.skipped[reason]), default="there is none")
        raise UserError(
            f"No sample of {name} gives a pair, most often: {why}. Check it with pack.py source=shards verify=true."
        )
    return [found]


def pairs_at(
    index: Index,
    files: Files,
    name: str,
    captions: str | None = None,
    places: Iterable[tuple[int, int]] | None = None,
) -> EvalSet:
    """A set of the samples at `places`, (shard, number), or of all. A sample of several pictures gives one item each,
    all with its captions; one that gives no pair is named in `skipped`.

    captions: the field of KEY.json with the captions, instead of the usual ones
    The set has classes where every KEY.json has a text in `label`. Pictures stay in their shards until they are read.
    """
    reader = Reader(index, files)
    found: list[tuple[str, Place, str, str | None]] = []
    skipped: dict[str, list[str]] = {}
    for shard, number in _everywhere(index) if places is None else places:
        sample = reader.sample(shard, number)
        key = f"{index.names[shard]}/{number if isinstance(sample, Damaged) else sample['__key__']}"
        try:
            if isinstance(sample, Damaged):
                raise BadSample(sample.reason)
            texts = captions_of(sample) if captions is None else field_of(sample, captions)
            pictures = images_of(sample)
        except BadSample as error:
            skipped.setdefault(str(error), []).append(key)
            continue
        for picture in pictures:
            of = key if len(pictures) == 1 else f"{key}.{picture}"
            place = Place(reader, shard, number, picture)
            found.append((of, place, "\n".join(" ".join(text.split("\n")) for text in texts), _label(sample)))
    classes = sorted({label for *_, label in found if label is not None})
    labelled = bool(found) and all(label is not None for *_, label in found)
    numbers = {label: number for number, label in enumerate(classes)} if labelled else {}
    items: list[Item] = [(key, place, numbers.get(label or "", 0), texts) for key, place, texts, label in found]
    made = EvalSet(name, classes, [PLAIN], items, skipped=skipped, prompts=CLIPS)
    return made if labelled else replace(made, classnames=[], templates=[])


def _everywhere(index: Index) -> Iterator[tuple[int, int]]:
    return ((number, n) for number, shard in enumerate(index.shards) for n in range(shard.samples))


def _label(sample: Sample) -> str | None:
    label = value_of(sample, "label")
    return label if isinstance(label, str) and label.strip() else None


def labelled_pairs(shards: str, classes: str) -> EvalSet:
    """The pictures of training pairs whose KEY.json has a `label`, each drawing one; those made from another
    (`KEY.NAME~VARIANT.webp`) are left out.

    classes: the file of class names that gives the labels their numbers
    Samples of other labels, or of none, are in `skipped`. Raises UserError where nothing is left.
    """
    names = read_lines(classes)
    numbers = {name: label for label, name in reversed(list(enumerate(names)))}  # of two of one name the first
    items: list[Item] = []
    skipped: dict[str, list[str]] = {}
    for sample in read_whole(open_index(shards)):
        key, label = str(sample["__key__"]), value_of(sample, "label")
        if not isinstance(label, str) or label not in numbers:
            skipped.setdefault(f"the label is not in {Path(classes).name}", []).append(key)
            continue
        for name, data in sample.items():
            if f".{name}".endswith(IMAGES) and VARIANT not in name and isinstance(data, bytes):
                items.append((f"{key}.{name}", data, numbers[label], ""))
    if not items:
        raise UserError(f"No sample of {shards} has a label that is in {classes}: the two are not of one set.")
    return EvalSet("train", names, [PLAIN], items, role="train", skipped=skipped, prompts=CLIPS)


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
        raise UserError(
            f"No sample of {shards} has a label and a list {field!r} in its .json: type task.synonyms=null."
        )
    return found


def _names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) and each for each in value)
