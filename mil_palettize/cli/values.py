"""What options take: paths, counts, sizes, limits; each wrong one is told in a line."""

from __future__ import annotations

import argparse
import math
import re

_SEED_DIGITS = 18  # torch takes integers of 64 bits, which any of 18 digits fits into


def path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def count(text: str, what: str = "samples") -> int:
    if not is_whole(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of {what}; give 1 or more")
    return int(text)


def epochs(text: str) -> int:
    return count(text, "epochs")


def seed(text: str) -> int:
    if not is_whole(text) or len(text) > _SEED_DIGITS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no seed; give a whole number, 0 or more, of up to {_SEED_DIGITS} digits"
        )
    return int(text)


def nbytes(text: str) -> int:
    """Decimal units, as sizes are shown."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)b?", text.strip().lower())
    size = math.nan if found is None else float(found[1]) * 1000 ** " kmgt".index(found[2] or " ")
    if not 1 <= size < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give one like 500MB or 2GB")
    return int(size)


def decibels(text: str) -> float:
    found = _number(text[:-2] if text.lower().endswith("db") else text)
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of decibels; give one like 30dB")
    return found


def share(text: str) -> float:
    """``1%`` or ``0.01``."""
    percent = text.endswith("%")
    found = _number(text[:-1] if percent else text) / (100 if percent else 1)
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give one from 0% to 100%, like 1%, or 0.01")
    return found


def nats(text: str) -> float:
    found = _number(text)
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no divergence; give a number from 0 on, like 0.01")
    return found


def numbers(text: str) -> tuple[float, ...]:
    """``0.5`` or ``123.7,116.3,103.5``."""
    found = tuple(map(_number, text.split(",")))
    if len(found) not in (1, 3) or not all(map(math.isfinite, found)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number, nor three of them; give one like 0.5, or 124,116,104")
    return found


def _number(text: str) -> float:
    """NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def bits(text: str) -> float:
    """A number of bits per weight."""
    found = _number(text)
    if not 0.0 < found <= 32.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bits per weight; give one like 3.2")
    return found


def kept(text: str) -> tuple[str, int | None]:
    """``NAME`` or ``NAME=BITS``."""
    name, equals, number = text.rpartition("=")
    if not equals:
        return text, None
    if not name or not is_whole(number):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME or NAME=BITS; give one like 're:.*embed.*=6'")
    return name, int(number)
