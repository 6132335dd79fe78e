"""COCO and Flickr30k for retrieval, by Karpathy's splits: `dataset_coco.json` and `dataset_flickr30k.json` of his
caption_datasets.zip, beside the pictures (Karpathy and Fei-Fei 2015)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.textfile import read_json
from diptych.data.sets.evalset import EvalSet, Item

CAPTIONS = 5  # of each picture, the first ones, as the literature takes them; a few have six or seven


def karpathy_set(splits: str, path: str, name: str, pictures: int | None, split: str = "test") -> list[EvalSet]:
    """splits: the JSON file; path: the folder of the pictures, in sub-folders where the file names some
    pictures: how many the split must have; None for any number
    Raises UserError for a file that is missing or says something else, and for pictures that are missing.
    """
    if not Path(splits).is_file():
        raise UserError(f"data.splits={splits} is missing: it is in Karpathy's caption_datasets.zip.")
    try:
        told = read_json(splits)["images"]
        chosen = [_entry(image) for image in told if image["split"] == split]
    except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"data.splits={splits} is not one of Karpathy's files: {type(error).__name__} {error}."
        ) from error
    if pictures is not None and len(chosen) != pictures:
        raise UserError(f"data.splits={splits} has {len(chosen):,} pictures of the split {split}, not {pictures:,}.")
    if not chosen:
        raise UserError(f"data.splits={splits} has no picture of the split {split}.")
    items: list[Item] = []
    missing = []
    for folder, file, captions in chosen:
        if ".." in Path(folder, file).parts or Path(folder, file).is_absolute():
            raise UserError(f"data.splits={splits} names {folder!r}/{file!r}, which is not below data.path: refused.")
        found = next((each for each in (Path(path) / folder / file, Path(path) / file) if each.is_file()), None)
        if found is None:
            missing.append(file)
        else:
            items.append((file, found, 0, "\n".join(captions)))
    if missing:
        raise UserError(
            f"data.path={path} lacks {len(missing):,} of the {len(chosen):,} pictures, the first is {missing[0]}:"
            " unpack the pictures' archive there."
        )
    return [EvalSet(name, [], [], items)]


def _entry(image: dict[str, Any]) -> tuple[str, str, list[str]]:
    captions = [" ".join(each["raw"].split()) for each in image["sentences"][:CAPTIONS]]
    folder, file = image.get("filepath", ""), image["filename"]
    if not (isinstance(folder, str) and isinstance(file, str) and file and "\0" not in folder + file):
        raise ValueError(f"a picture has the file name {file!r:.60}")
    return folder, file, list(filter(None, captions))
