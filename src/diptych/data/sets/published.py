"""Published sets, from the folders that their archives unpack to: ImageNet and its shifts, COCO and Flickr30k.

A model of ImageNet's 1,000 classes is evaluated on a subset of them with the rows of that subset alone (ImageNet-A
and -R: 200 classes; ObjectNet: the 113 that ImageNet has too): the CLIP paper, section 3.3, and the papers of these
sets. COCO and Flickr30k are for retrieval, by Karpathy's splits (Karpathy and Fei-Fei 2015): `dataset_coco.json` and
`dataset_flickr30k.json` of his caption_datasets.zip, beside the pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.base.errors import UserError
from diptych.base.textfile import read_json
from diptych.data.sets import benchmarks
from diptych.data.sets.evalset import EvalSet, Item, some
from diptych.data.sets.folders import class_folders

IMAGENET = "imagenet1k"
BORDER = 2  # pixels of red around every picture of ObjectNet, which a model must not see
CAPTIONS = 5  # of each picture, the first ones, as the literature takes them; a few have six or seven


def wnid_folders(path: str, name: str, classes: str, pictures: int | None) -> list[EvalSet]:
    """A folder a class, named by its WordNet id: ImageNet's validation pictures, -A, -R and Sketch.

    classes: the benchmark whose `wnids.txt` lists the classes: imagenet1k, imagenet-a or imagenet-r
    pictures: how many there must be; None for any number
    Raises UserError where a class has no folder, a folder no class, or the number differs.
    """
    ids = benchmarks.wnids(classes)
    names = dict(zip(benchmarks.wnids(IMAGENET), benchmarks.class_names(IMAGENET), strict=True))
    return [_set(path, name, ids, [names[each] for each in ids], pictures)]


def train_folders(path: str) -> EvalSet:
    """ImageNet's training pictures, a folder a class, as labelled pictures of the role `train`."""
    (found,) = wnid_folders(path, "train", IMAGENET, None)
    found.role = "train"
    return found


def numbered_folders(path: str, name: str, pictures: int | None) -> list[EvalSet]:
    """Folders 0 … 999, as ImageNet-V2 has them. Raises UserError as `wnid_folders` does."""
    names = benchmarks.class_names(IMAGENET)
    return [_set(path, name, [str(label) for label in range(len(names))], names, pictures)]


def objectnet(path: str, name: str, pictures: int | None) -> list[EvalSet]:
    """`path` holds ObjectNet's `images/` and `mappings/`; its classes that ImageNet has too, by their own names,
    in the order of their folders. Raises UserError as `wnid_folders` does."""
    mappings = Path(path) / "mappings"
    labels = _mapping(mappings / "folder_to_objectnet_label.json")
    shared = _mapping(mappings / "objectnet_to_imagenet_1k.json")
    folders = sorted(folder for folder, label in labels.items() if label in shared)
    if len(folders) != len(shared):
        raise UserError(
            f"{mappings}: {len(shared)} classes are in objectnet_to_imagenet_1k.json, but"
            f" folder_to_objectnet_label.json has folders for {len(folders)} of them: unpack its archive again."
        )
    found = _set(f"{path}/images", name, folders, [labels[each].lower() for each in folders], pictures, others=True)
    found.border = BORDER
    return [found]


def _set(
    path: str, name: str, folders: list[str], names: list[str], pictures: int | None, others: bool = False
) -> EvalSet:
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: {name} is read from one with {some(folders)} in it.")
    listed = class_folders(root)
    there = {e.name for e in root.iterdir() if e.is_dir() and not e.name.startswith((".", "__MACOSX"))}
    if missing := [folder for folder in folders if folder not in there]:
        raise UserError(
            f"{root} lacks {len(missing)} of the {len(folders)} class folders of {name} ({some(missing)}): unpack"
            " its archive there, or give data.path the folder that holds them."
        )
    if not others and (more := sorted(there.difference(folders))):
        raise UserError(f"{root} holds {len(more)} folders of no class of {name} ({some(more)}): move them out.")
    items: list[Item] = [
        (key, file, label, "")
        for label, folder in enumerate(folders)
        for key, file in listed.pictures.get(folder, ())
    ]
    if pictures is not None and len(items) != pictures:
        raise UserError(
            f"{root} holds {len(items):,} pictures, and {name} has {pictures:,}: unpack its archive again, or give"
            " data.pictures=null to take what is there."
        )
    if not items:
        raise UserError(f"{root} holds no picture in the class folders of {name}: unpack its archive there.")
    unused = listed.unused
    if more := sorted(set(listed.pictures).difference(folders)):
        unused["folder of a class that is not asked for"] = more
    return EvalSet(name, names, benchmarks.templates(IMAGENET), items, unused=unused, remarks=listed.remarks)


def _mapping(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise UserError(f"{file} is missing: it comes with ObjectNet's archive, in mappings/.")
    found = read_json(file)
    if not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{file} is not a JSON object of names: unpack ObjectNet's archive again.")
    return found


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
