"""Folders of images: which are splits, which are classes, and which files count as images.

No image is opened here. Names are compared and sorted in Unicode's NFC form, because file systems may return
the same name in different code points, and classes must have the same numbers on all of them.
"""

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_optreg.data.sources import Part

__all__ = ["EXTENSIONS", "FoundImages", "find_images", "list_images", "nfc"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
_OTHER_FORMATS = (".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl")
PARTS: tuple[Part, ...] = ("train", "val", "test")
_SPELLINGS: dict[Part, str] = {
    "train": "train|training",
    "val": "val|valid|validation|eval|evaluation|dev|development",
    "test": "test|testing",
}
# What operating systems, archives and network drives leave behind, besides names that start with a dot.
_LITTER = (
    {"__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "lost+found"}
    | {"@eadir", "@__thumb", "@recycle", "#recycle", "#snapshot", "$recycle.bin"}
    | {"system volume information", "network trash folder", "temporary items"}
)


class FoundImages(NamedTuple):
    """The images below a root folder."""

    divided: bool
    """Whether the root has folders for the splits."""
    files: dict[Part, dict[str, list[Path]]]
    """For each split, the files of each class, in order. Without folders for splits all are in `train`."""
    notes: list[str]
    """Warnings about what was found and is not used."""


def nfc(name: str) -> str:
    """Return a name in Unicode's NFC form, in which an accented letter is one character."""
    return unicodedata.normalize("NFC", name)


def find_images(root: Path) -> FoundImages:
    """Find splits, classes and images.

    Args:
        root: Folder of classes, or of splits with folders of classes; see `ImageFolderDataModule`.

    Raises:
        ValueError: If the layout is ambiguous, or a class has no training images.
    """
    notes: list[str] = []
    parts = _splits(root, notes)
    files = {part: _list(folder, empty=part != "train", notes=notes) for part, folder in parts.items()}
    if not parts:
        files["train"] = _list(root, empty=False, notes=notes)
    elif stray := [path.name for path in _images(root)]:
        notes.append(
            f"{root}: {_counted(stray, 'image')} outside the splits' folders, not used: {_listed(stray)}"
        )
    classes = set(files["train"])
    for part, found in files.items():
        folder = parts.get(part, root)
        if unknown := sorted(set(found) - classes):
            raise ValueError(
                f"{folder}: classes without training images: {unknown}{_similar(unknown, classes)}"
            )
        if absent := sorted(name for name in classes if not found.get(name)):
            notes.append(
                f"{folder}: no images of the class{'' if len(absent) == 1 else 'es'} {_listed(absent)}"
            )
    return FoundImages(bool(parts), files, notes)


def list_images(root: Path) -> dict[str, list[Path]]:
    """List the images below each subfolder of `root`; a subfolder's name is its class.

    Args:
        root: Folder of classes. Hidden files and folders are ignored; files in deeper subfolders count. Links
            are followed, but not in circles.

    Returns:
        The files of each class (its name in NFC), both sorted by their names' code points.

    Raises:
        ValueError: If there are no classes, a class has no images, or two classes have the same name.
    """
    return _list(root, empty=False, notes=[])


def _list(root: Path, *, empty: bool, notes: list[str]) -> dict[str, list[Path]]:
    """Do the work of `list_images`; with `empty` a class may have no images."""
    classes = _folders(root)
    if not classes:
        lie = "; its images must be in one folder per class" if _images(root) else ""
        raise ValueError(f"{root}: no subfolders, expected one per class{lie}")
    files: dict[str, list[Path]] = {}
    others: list[str] = []
    for folder in classes:
        name = nfc(folder.name)
        if name in files:
            raise ValueError(f"{root}: two folders of the class {name!r}, in two Unicode forms (NFC and NFD)")
        inside = {part: sub.name for sub in _folders(folder) if (part := _split_of(sub.name)) is not None}
        if "train" in inside and len(inside) > 1:
            raise ValueError(
                f"{folder}: {_listed(list(inside.values()))} are splits inside a class, expected "
                f"train/{name} and so on"
            )
        below = list(_files(folder))
        files[name] = list(filter(_is_image, below))
        others += [path.suffix.lower() for path in below if path.suffix.lower() in _OTHER_FORMATS]
        if not (files[name] or empty):
            raise ValueError(f"{folder}: no images, expected files with {', '.join(EXTENSIONS)}")
    if others:
        endings = _listed(sorted(set(others)))
        notes.append(
            f"{root}: {_counted(others, 'file')} with {endings}, not used; convert them to PNG or JPEG"
        )
    if stray := [path.name for path in _images(root)]:
        notes.append(
            f"{root}: {_counted(stray, 'image')} outside the classes' folders, not used: {_listed(stray)}"
        )
    return files


# ---- splits ------------------------------------------------------------------------------------------------


def _splits(root: Path, notes: list[str]) -> dict[Part, Path]:
    """Return the folders of the splits; none if `root` contains classes."""
    folders = _folders(root)
    named = [(part, folder) for folder in folders if (part := _split_of(folder.name)) is not None]
    like = [(part, folder) for folder in folders if (part := _like_a_split(folder.name)) is not None]
    if not named:
        # A single one may be a class, such as "test tube".
        nested = [(part, folder) for part, folder in like if _folders(folder) and _holds_images(folder)]
        if len({part for part, _ in nested}) > 1:
            raise ValueError(f"{root}: {_names(nested)} look like splits; name them train, val or test")
        return {}
    kinds = {part for part, _ in named}
    if len(kinds) == 1 and len(named) < len(folders) and not any(_folders(folder) for _, folder in named):
        notes.append(
            f"{root}: {_names(named)} has images and no folders of classes, and is taken for a class"
        )
        return {}
    for part in PARTS:
        if len(same := [(kind, folder) for kind, folder in named if kind == part]) > 1:
            raise ValueError(
                f"{root}: {_names(same)} are two folders of one split ({part}); remove or merge them"
            )
    if "train" not in kinds:
        raise ValueError(
            f"{root}: {_names(named)} without a folder train; move the folders of classes into train, or "
            "rename folders that are classes"
        )
    for part, folder in like:
        if part not in kinds and _holds_images(folder):
            raise ValueError(
                f"{root}: {folder.name} looks like a split, but there is no folder {part}; rename it to "
                f"{part} or move it away"
            )
    used = dict(named)
    unused = [folder.name for folder in folders if folder not in used.values() and _holds_images(folder)]
    if unused:
        notes.append(f"{root}: {_listed(unused)} next to {_names(named)}, not used")
    return {part: used[part] for part in PARTS if part in used}


def _split_of(name: str) -> Part | None:
    """Return the split that a folder of this name is: `Train`, `validation`, `test_set`."""
    for part, words in _SPELLINGS.items():
        if re.fullmatch(f"({words})([ _-]?set)?", name.casefold()):
            return part
    return None


def _like_a_split(name: str) -> Part | None:
    """Return the split that a folder may be, going by a word in its name: `train2017`, `images-test`."""
    if _split_of(name) is not None:
        return None
    for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name):
        for part, words in _SPELLINGS.items():
            if re.fullmatch(f"({words})(s|sets?)?", word.casefold()):
                return part
    return None


# ---- files -------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    path: Path
    is_folder: bool
    is_file: bool


def _entries(folder: Path) -> list[_Entry]:
    """Return what is in a folder and not hidden, sorted by name."""
    found = []
    with os.scandir(
        folder
    ) as entries:  # it knows the type of each entry without a further call, of which ImageNet needs a million
        for entry in entries:
            if not (entry.name.startswith(".") or entry.name.casefold() in _LITTER):
                if entry.is_symlink():  # it may lead nowhere, or to itself
                    kind = os.path.isdir(entry.path), os.path.isfile(entry.path)
                else:
                    kind = entry.is_dir(), entry.is_file()
                found.append(_Entry(folder / entry.name, *kind))
    return sorted(found, key=lambda entry: (nfc(entry.path.name), entry.path.name))


def _folders(folder: Path) -> list[Path]:
    """Return its subfolders, except links that lead back to it or to one of its parents."""
    above = _above(folder)
    return [path for path, is_folder, _ in _entries(folder) if is_folder and _identity(path) not in above]


def _images(folder: Path) -> list[Path]:
    """Return the images in it, without those in deeper folders."""
    return [path for path, _, is_file in _entries(folder) if is_file and _is_image(path)]


def _files(folder: Path, seen: set[tuple[int, int]] | None = None) -> Iterator[Path]:
    """Yield all files below a folder, in order; each folder once, however many links lead to it."""
    seen = _above(folder) if seen is None else seen
    for path, is_folder, is_file in _entries(folder):
        if is_folder:
            if (identity := _identity(path)) not in seen:
                seen.add(identity)
                yield from _files(path, seen)
        elif is_file:
            yield path
        elif _is_image(path) and path.is_symlink():
            raise ValueError(f"{path}: a link to a file that does not exist")


def _above(folder: Path) -> set[tuple[int, int]]:
    real = folder.resolve()
    return {_identity(path) for path in (real, *real.parents)}


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def _holds_images(folder: Path) -> bool:
    return any(map(_is_image, _files(folder)))


# ---- sentences ---------------------------------------------------------------------------------------------


def _names(parts: Sequence[tuple[Part, Path]]) -> str:
    return _listed([folder.name for _, folder in parts])


def _listed(names: Sequence[str]) -> str:
    """Return the first names in words: a, b and 3 more."""
    more = [f"{len(names) - 3} more"] if len(names) > 3 else []
    *first, last = [*names[:3], *more]
    return f"{', '.join(first)} and {last}" if first else last


def _counted(things: Sequence[str], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _similar(unknown: Sequence[str], classes: set[str]) -> str:
    """Return the end of an error: classes whose names differ only in capitals."""
    known = {name.casefold(): name for name in classes}
    near = [f"{name} from {known[name.casefold()]}" for name in unknown if name.casefold() in known]
    return f" ({_listed(near)} differs in capitals)" if near else ""
