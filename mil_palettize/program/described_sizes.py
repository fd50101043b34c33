"""Shapes of arrays and sizes of images that a model's description allows: one, several, or ranges."""

from __future__ import annotations

from collections.abc import Sequence

from mil_palettize.program.messages import FeatureTypes


def is_flexible(array: FeatureTypes.ArrayFeatureType) -> bool:
    """Whether it may have several shapes."""
    if array.WhichOneof("ShapeFlexibility") == "enumeratedShapes":
        return len(array.enumeratedShapes.shapes) > 1
    return any(map(_varies, array.shapeRange.sizeRanges))


def has_range(kind: FeatureTypes.FeatureType) -> bool:
    """Whether sizes lie within limits, and are not fixed or enumerated."""
    if kind.WhichOneof("Type") == "imageType":
        limits = kind.imageType.imageSizeRange
        sizes = [limits.widthRange, limits.heightRange]
        return kind.imageType.WhichOneof("SizeFlexibility") == "imageSizeRange" and any(map(_varies, sizes))
    return any(map(_varies, kind.multiArrayType.shapeRange.sizeRanges))


def shape_refusal(shape: tuple[int, ...], array: FeatureTypes.ArrayFeatureType) -> str:
    """What a flexible input takes instead of ``shape``, "" where that is one it may have."""
    if array.WhichOneof("ShapeFlexibility") == "enumeratedShapes":
        shapes = [tuple(one.shape) for one in array.enumeratedShapes.shapes]
        fits, told = shape in shapes, f"one of {[list(one) for one in shapes]}"
    else:
        ranges = [(int(size.lowerBound), int(size.upperBound)) for size in array.shapeRange.sizeRanges]
        fits = not ranges or _is_within(shape, ranges)
        told = f"[{', '.join(_range_text(*limits) for limits in ranges)}]"
    return "" if fits else told


def _varies(size: FeatureTypes.SizeRange) -> bool:
    return int(size.lowerBound) != int(size.upperBound)


def _is_within(shape: tuple[int, ...], ranges: Sequence[tuple[int, int]]) -> bool:
    """An upper limit below zero is none."""
    return len(shape) == len(ranges) and all(
        least <= size and (size <= most or most < 0) for size, (least, most) in zip(shape, ranges, strict=True)
    )


def _range_text(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least}..{most if most >= 0 else ''}"


def size_refusal(height: int, width: int, kind: FeatureTypes.ImageFeatureType) -> str:
    """What an image input takes instead of this size, "" where it is one it may have."""
    flexibility = kind.WhichOneof("SizeFlexibility")
    if flexibility == "imageSizeRange":
        ranges = [
            (int(size.lowerBound), int(size.upperBound))
            for size in (kind.imageSizeRange.widthRange, kind.imageSizeRange.heightRange)
        ]
        return "" if _is_within((width, height), ranges) else "×".join(_range_text(*limits) for limits in ranges)
    sizes = [(int(size.width), int(size.height)) for size in kind.enumeratedSizes.sizes]
    if kind.width and kind.height:
        sizes.append((int(kind.width), int(kind.height)))
    if not sizes or (width, height) in sizes:
        return ""
    return " or ".join(dict.fromkeys(f"{one}×{two}" for one, two in sizes))
