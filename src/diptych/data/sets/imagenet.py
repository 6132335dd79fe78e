"""ImageNet and its shifts as evaluation sets, from the folders that their archives unpack to.

A model of ImageNet's 1,000 classes is asked about a subset by the rows of that subset alone (ImageNet-A and -R: 200
classes; ObjectNet: the 113 that ImageNet has too): the CLIP paper, section 3.3, and the papers of these sets.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diptych.base.errors import UserError
from diptych.base.textfile import read_json
from diptych.data.sets import benchmarks
from diptych.data.sets.class_folders import class_folders
from diptych.data.sets.evalset import EvalSet, Item

IMAGENET = "imagenet1k"
BORDER = 2  # pixels of red around every picture of ObjectNet, which a model must not see


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
        raise UserError(f"{root} is not a folder: {name} is read from one with {_some(folders)} in it.")
    listed = class_folders(root)
    there = {e.name for e in root.iterdir() if e.is_dir() and not e.name.startswith((".", "__MACOSX"))}
    if missing := [folder for folder in folders if folder not in there]:
        raise UserError(
            f"{root} lacks {len(missing)} of the {len(folders)} class folders of {name} ({_some(missing)}): unpack"
            " its archive there, or give data.path the folder that holds them."
        )
    if not others and (more := sorted(there.difference(folders))):
        raise UserError(f"{root} holds {len(more)} folders of no class of {name} ({_some(more)}): move them out.")
    items: list[Item] = [
        (key, file, label, "")
        for label, folder in enumerate(folders)
        for key, file in listed.pictures.get(folder, ())
    ]
    if pictures is not None and len(items) != pictures:
        raise UserError(
            f"{root} holds {len(items):,} pictures, and {name} has {pictures:,}: unpack its archive again, or say"
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


def _some(names: Iterable[str], count: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (", …" if len(listed) > count else "")
