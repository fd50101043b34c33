"""Values of options, as they are written."""

from __future__ import annotations

import argparse
import math
import re


def nbytes(text: str) -> int:
    """Decimal units, as sizes are shown."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)b?", text.strip().lower())
    size = 0 if found is None else int(float(found[1]) * 1000 ** " kmgt".index(found[2] or " "))
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give one like 500MB or 2GB")
    return size


def path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def bits(text: str) -> float:
    """A number of bits per weight."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0.0 < found <= 32.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bits per weight; give one like 3.2")
    return found


def kept(text: str) -> tuple[str, int | None]:
    """``NAME`` or ``NAME=BITS``."""
    name, equals, number = text.rpartition("=")
    if not equals:
        return text, None
    if not name or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME or NAME=BITS; give one like 're:.*embed.*=6'")
    return name, int(number)


def decibels(text: str) -> float:
    number = text[:-2] if text.lower().endswith("db") else text
    try:
        found = float(number)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of decibels; give one like 30dB")
    return found
