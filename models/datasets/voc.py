"""PASCAL VOC: Annotations/*.xml, JPEGImages/, ImageSets/Main/{train,val,trainval,test}.txt.

VOC counts pixels from 1 and includes the last one; a :class:`~models.datasets.protocol.Box` counts from 0 and does
not, so (278, 196, 366, 291) becomes (277, 195, 366, 291). A box that is outside of its image by more than the one
pixel by which some programs count differently makes the whole image unusable: without it, its object would be
learnt as background.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from models.datasets.collection import PICTURES, Collection, DataSetRefused, collect, is_dicom, natural
from models.datasets.protocol import Box, Item, Skipped

#: A file of annotations is never as large as this.
LARGEST = 8 << 20
LISTS = ("train", "val", "test")


class Unusable(Exception):
    """Why an annotation cannot be used; ``row`` says which part of it."""

    def __init__(self, reason: str, row: str = "") -> None:
        super().__init__(reason)
        self.reason, self.row = reason, row


def read_voc(
    root: Path,
    *,
    classes: Sequence[str] = (),
    only: str = "",
    annotations: str = "Annotations",
    images: str = "JPEGImages",
    clip: bool = False,
    name: str = "",
) -> Collection:
    """Read a folder in the layout of PASCAL VOC.

    Parameters
    ----------
    root
        Holds ``Annotations``, or one folder that does.
    classes
        Those that count, in this order; objects of others are passed over. Default: all that occur.
    only
        A list of ``ImageSets/Main``; default: all annotations. Which list an image is on is its attribute ``split``.
    annotations, images
        Folders below the root.
    clip
        Cut boxes off at the border of the image instead of passing the image over.

    Raises
    ------
    DataSetRefused
        It is no such folder, or nothing in it is usable.
    """
    base = _base(root, annotations)
    pictures = _pictures(base, images)
    lists = {word: _listed(base, word) for word in LISTS}
    skipped: list[Skipped] = []
    items: list[Item] = []
    for identifier, path in _annotations(base, annotations, only, skipped):
        try:
            part = next((word for word, names in lists.items() if identifier in names), "")
            items.append(_item(identifier, path, pictures, part, base, clip))
        except Unusable as unusable:
            skipped.append(Skipped(str(path), unusable.row or identifier, unusable.reason))
    occurring = tuple(sorted({box.label for item in items for box in item.boxes}))
    if classes:
        items = [_only(item, classes) for item in items]
    return collect(name or base.name, "detection", tuple(classes) or occurring, items, skipped, base)


def _base(root: Path, annotations: str) -> Path:
    if (root / annotations).is_dir():
        return root
    below = sorted(path.parent for path in root.glob(f"*/{annotations}") if path.is_dir())
    if len(below) != 1:
        raise DataSetRefused(
            root, f"there is no folder {annotations}" if not below else f"there are {len(below)} folders with {annotations}: name one"
        )
    return below[0]


def _pictures(base: Path, images: str) -> Path:
    folder = base / images
    if not folder.is_dir():
        raise DataSetRefused(folder, "there is no such folder")
    return folder


def _listed(base: Path, word: str) -> frozenset[str]:
    """Image names on a list; lists of one class have a second column, which is -1 where the class is absent."""
    try:
        lines = (base / "ImageSets" / "Main" / f"{word}.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return frozenset()
    return frozenset(line.split()[0] for line in lines if line.strip())


def _annotations(base: Path, annotations: str, only: str, skipped: list[Skipped]) -> Iterator[tuple[str, Path]]:
    folder = base / annotations
    names = sorted((path.stem for path in folder.glob("*.xml")), key=natural)
    if only:
        wanted = _listed(base, only)
        if not wanted:
            raise DataSetRefused(base / "ImageSets" / "Main" / f"{only}.txt", "there is no such list, or it is empty")
        names = [each for each in names if each in wanted]
    listed = wanted if only else frozenset().union(*(_listed(base, word) for word in LISTS))
    for missing in sorted(listed - set(names), key=natural):
        skipped.append(Skipped(str(base / "ImageSets" / "Main"), missing, "there is no annotation for it"))
    for each in names:
        yield each, folder / f"{each}.xml"


def _item(identifier: str, path: Path, pictures: Path, part: str, base: Path, clip: bool) -> Item:
    root = _parsed(path)
    image = _image(root, pictures, identifier)
    width, height = _size(root, image)
    boxes = tuple(_box(node, number, width, height, clip) for number, node in enumerate(root.iter("object"), start=1))
    provenance = {"source": base.name, "row": path.name}
    return Item(identifier, identifier, (image,), boxes=boxes, attributes={"split": part} if part else {}, provenance=provenance)


def _parsed(path: Path) -> ElementTree.Element:
    try:
        if path.stat().st_size > LARGEST:
            raise Unusable("the file is too large for an annotation")
        text = path.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise Unusable("the annotation declares entities")
        return ElementTree.fromstring(text)
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise Unusable(f"the annotation cannot be read ({type(error).__name__})") from error


def _image(root: ElementTree.Element, pictures: Path, identifier: str) -> Path:
    named = Path((root.findtext("filename") or "").replace("\\", "/")).name
    candidates = [named, *(identifier + suffix for suffix in (*PICTURES, ".dcm"))]
    for each in candidates:
        if each and (pictures / each).is_file():
            return pictures / each
    raise Unusable("there is no image for it")


def _size(root: ElementTree.Element, image: Path) -> tuple[int, int]:
    """Columns and rows, as the image itself has them; the annotation must agree where it states them."""
    stated = tuple(_integer(root.findtext(f"size/{name}")) for name in ("width", "height"))
    if is_dicom(image):
        return stated[0], stated[1]
    try:
        with Image.open(image) as opened:
            columns, rows = opened.size
    except Exception as error:  # decoders are foreign code and raise anything
        raise Unusable(f"the image cannot be read ({type(error).__name__})") from error
    if all(stated) and stated != (columns, rows):
        raise Unusable(f"the annotation is for an image of {stated[0]}x{stated[1]} pixels, and the image has {columns}x{rows}")
    return columns, rows


def _integer(text: str | None) -> int:
    try:
        return int(float(text or 0))
    except (ValueError, OverflowError):
        return 0


def _box(node: ElementTree.Element, number: int, width: int, height: int, clip: bool) -> Box:
    row, label = f"object {number}", (node.findtext("name") or "").strip()
    try:
        left, top, right, bottom = (float(node.findtext(f"bndbox/{name}") or "") for name in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        raise Unusable("its box has no four numbers", row) from None
    if not label:
        raise Unusable("it has no name", row)
    if not (left <= right and top <= bottom):
        raise Unusable("its box has no area", row)
    outside = left < 0 or top < 0 or right > width + 1 or bottom > height + 1
    inside = Box(
        label,
        max(0.0, left - 1),
        max(0.0, top - 1),
        min(float(width), right),
        min(float(height), bottom),
        node.findtext("difficult") == "1",
    )
    if (outside and not clip) or inside.x_min >= inside.x_max or inside.y_min >= inside.y_max:
        place = f"({left:g}, {top:g}) to ({right:g}, {bottom:g})"
        raise Unusable(f"its box {place} is outside of the image of {width}x{height} pixels", row)
    return inside


def _only(item: Item, classes: Sequence[str]) -> Item:
    boxes = tuple(box for box in item.boxes if box.label in classes)
    return Item(item.id, item.subject, item.image, boxes=boxes, attributes=item.attributes, provenance=item.provenance)
