"""Image files with their targets, and folders that hold one folder of images per class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from warmstart.config import open_regular

from .decode import DEFAULT_READING, read_image
from .image_heads import head_size
from .packed_list import FlatRecords

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".avif", ".jp2"),
)
# Photos that are not decoded. Beside a file of the same name that is (RAW + JPEG) they are ignored.
_UNDECODED = (".heic", ".heif", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".psd")
_TRAINING, _TESTING = ("train", "training"), ("val", "valid", "validation", "test", "testing")
_SHOWN, _LONGEST = 5, 80  # names in a message, and their characters


class FileList:
    """Image files with their names and sizes; a subclass adds targets.

    Args:
        root: the folder that names of samples are relative to.
        files: the paths.
        classes: names of the classes, or of the numbers of a target; () if they have none.
        num_classes: number of classes; 0 if targets are numbers.
        notes: what a user should know about the files, a sentence each.

    Attributes:
        reading: decoder and channels.
    """

    def __init__(
        self,
        root: str | Path,
        files: Iterable[str],
        classes: Sequence[str] = (),
        num_classes: int = 0,
        notes: Sequence[str] = (),
    ) -> None:
        self.root, self.classes = str(root), tuple(classes)
        self.num_classes, self.notes = num_classes, list(notes)
        self.reading = DEFAULT_READING
        self._files = FlatRecords(files)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._files)

    @property
    def samples(self) -> Sequence[tuple[str, Any]]:
        """(path, target) of each sample, as torchvision's ImageFolder has them; None for objects in the image."""
        return _Samples(self)

    @property
    def names(self) -> list[str]:
        """The paths relative to `root`, with "/" between their parts."""
        return [self._name(path) for path in self._files]

    def size_of(self, index: int) -> tuple[int, int]:
        """Return (height, width) of an image from its header; raise OSError if it is not an image."""
        with open_regular(self._files[index]) as file:
            return head_size(file)

    def _name(self, path: str) -> str:
        inside = os.path.join(self.root, "")
        relative = path[len(inside) :] if path.startswith(inside) else os.path.relpath(path, self.root)
        return relative.replace(os.sep, "/")

    def _target(self, index: int) -> Any:
        return None


class ImageFiles(FileList):
    """Image files with numeric targets, by index.

    Args:
        root: the folder that names of samples are relative to.
        files: the paths.
        targets: class indices (N,), int64; or numbers (N,) or (N, K).
        classes: as in `FileList`.
        num_classes: as in `FileList`.
        notes: as in `FileList`.
    """

    def __init__(
        self,
        root: str | Path,
        files: Iterable[str],
        targets: npt.NDArray[Any],
        classes: Sequence[str] = (),
        num_classes: int = 0,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(root, files, classes, num_classes, notes)
        self.targets = targets

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """Return the image, (3, H, W) or (1, H, W), uint8, and its target: an int, a float, or an array (K,).

        Raises:
            OSError: the file is missing or damaged.
        """
        return read_image(self._files[index], *self.reading), self._target(index)

    def _target(self, index: int) -> Any:
        target = self.targets[index]
        return target.item() if self.targets.ndim == 1 else target


class _Samples(Sequence[tuple[str, Any]]):
    def __init__(self, images: FileList) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self._images._files[index], self._images._target(index)


def build_image_folder(path: str, download: bool) -> ImageFiles:
    """Build from PATH/<class>/<image>; classes are numbered in the order of their names.

    Hidden files and folders, whose names begin with a dot, and files with other endings are ignored.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no class folders, or other folders; a class is empty; a photo has a format that is not
            decoded.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        if root.exists():
            raise ValueError(_is_a_file(path))
        raise FileNotFoundError("no such folder")
    classes = _class_folders(root, path)
    files, labels, other = [], [], Counter[str]()
    for label, name in enumerate(classes):
        found, ignored = images_below(root / name)
        files += found
        labels += [label] * len(found)
        other += ignored
    counts = np.bincount(np.array(labels, np.int64), minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        which = "folder has" if len(empty) == 1 else "folders have"
        raise ValueError(
            f"the class {which} no images: {shown(empty)}; add some, or delete the empty folders (names of images"
            f" end with {', '.join(ENDINGS[:6])}, ...)"
        )
    notes = []
    if other:
        kinds, count = shown([ending or "no ending" for ending, _ in other.most_common()]), sum(other.values())
        what = "file that is not an image by its" if count == 1 else "files that are not images by their"
        notes = [f"ignored {count:,} {what} ending ({kinds})"]
    return ImageFiles(root, files, np.array(labels, np.int64), classes, len(classes), notes)


def shown(names: Sequence[str], most: int = _SHOWN) -> str:
    """Return names for a message in one line, the first few of many.

    >>> shown(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    rest = len(names) - most
    texts = [name if name.isprintable() else repr(name) for name in names[:most]]
    short = [text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..." for text in texts]
    return ", ".join(short) + (f" and {rest:,} more" if rest > 0 else "")


def _class_folders(root: Path, path: str) -> list[str]:
    """Return the names of the class folders, sorted; refuse a root that holds something else."""
    entries = _entries(root)
    folders = sorted(entry.name for entry in entries if entry.is_dir())
    base = path.rstrip("/") or "/"
    training, testing = (
        next((name for each in words for name in folders if name.lower() == each), "")
        for words in (_TRAINING, _TESTING)
    )
    only_parts = {name.lower() for name in folders} <= {*_TRAINING, *_TESTING}
    if training and testing and (only_parts or _holds_folders(root / training)):
        raise ValueError(
            f"it holds {training}/ and {testing}/, which are parts of a data set and not classes; write"
            f" DATASETS.TRAIN imagefolder:{base}/{training} DATASETS.TEST imagefolder:{base}/{testing}"
        )
    if not folders:
        raise ValueError(_without_folders(root, base, sum(_ending(entry.name) in ENDINGS for entry in entries)))
    if len(folders) == 1:
        inner = root / folders[0]
        if _holds_folders(inner) and not _holds_images(inner):
            raise ValueError(
                f"its only folder is {folders[0]}/, which holds folders itself; the classes may be these: write"
                f" imagefolder:{base}/{folders[0]}"
            )
    return folders


def _without_folders(root: Path, base: str, images: int) -> str:
    """Return what to do about a folder, called `base` by the user, with so many images and no class folders."""
    holds = "no class folders" if not images else f"{images:,} images, but no folder for each class"
    beside = [entry.name for entry in _entries(root.absolute().parent) if entry.is_dir()]
    if images and sum(_holds_images(root.absolute().parent / name) for name in beside) > 1:
        above = os.path.dirname(base) or ".."
        return f"it holds {holds}; if it is one of the classes, name the folder above it: imagefolder:{above}"
    return (
        f"it holds {holds}; sort the images into {base}/CLASS/, or list them with their labels in a csv file:"
        f" {{csv: {{path: labels.csv, images: {base}, file: COLUMN, label: COLUMN}}}}"
    )


def images_below(folder: Path) -> tuple[list[str], Counter[str]]:
    """Return the images below a folder, and the endings of the files that are ignored.

    They are sorted by folder, then by name, as in torchvision's ImageFolder.

    Raises:
        ValueError: a photo has a format that is not decoded, or a folder links to one above it.
    """
    files: list[str] = []
    other = Counter[str]()
    for place, names in sorted(_folders(str(folder), (os.path.realpath(folder),))):
        images = [name for name in sorted(names) if _ending(name) in ENDINGS]
        stems = {os.path.splitext(name)[0] for name in images}
        for name in sorted({*names}.difference(images)):
            if _ending(name) in _UNDECODED and os.path.splitext(name)[0] not in stems:
                raise ValueError(
                    f"{os.path.join(place, name)}: photos in this format are not decoded; convert the"
                    f" {_ending(name)} files to JPEG, or remove them"
                )
        other.update(_ending(name) for name in names if _ending(name) not in ENDINGS)
        files += [os.path.join(place, name) for name in images]
    return files, other


def _folders(folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and each one below it with the names of its files; links are followed."""
    names = []
    for entry in _entries(folder):
        if not entry.is_dir():
            names.append(entry.name)
            continue
        real = os.path.realpath(entry.path)
        if real in above:
            raise ValueError(f"{entry.path} links to a folder that contains it; remove the link")
        yield from _folders(entry.path, (*above, real))
    yield folder, names


def is_hidden(name: str) -> bool:
    """Return whether a file or folder belongs to a system or a program and not to the user.

    >>> is_hidden("._1.jpg"), is_hidden(".DS_Store"), is_hidden("__MACOSX"), is_hidden("1.jpg")
    (True, True, True, False)
    """
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, hidden entries excluded."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not is_hidden(entry.name)]


def _holds_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in _entries(folder))


def _holds_images(folder: Path) -> bool:
    return any(_ending(entry.name) in ENDINGS for entry in _entries(folder))


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_a_file(path: str) -> str:
    ending = _ending(path)
    if ending in (".csv", ".tsv"):
        return f"it is a file; write {{csv: {{path: {path}, images: FOLDER, file: COLUMN, label: COLUMN}}}}"
    if ending in (".zip", ".gz", ".tar", ".tgz"):
        return "it is an archive; unpack it, and name the folder that holds the class folders"
    return "it is a file; name the folder that holds the class folders"
