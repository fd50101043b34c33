"""Files that are not what they were: weight files, manifests, configs, archives of arrays, bits."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

NUMBERS = (0, 1, 2, 3, 63, 64, 65, 127, 128, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
JSON_VALUES = (None, True, 0, -1, 1 << 70, 1.5, "", "..", "x" * 2000, [], {}, [[]], {"a": 1}, "\ud800", "a\nb", 1e999)
YAML_LINES = (
    "nbits: 1e400", "nbits: -3", "nbits: true", "mode: [kmeans]", "weight_threshold: .nan", "group_size: 0",
    "cluster_dim: 99999999999999999999", "? [a, b]\n: c", "&a [*a]", "*nothing", "!!python/object:os.system x",
    "nbits: 0x10", "channel_axis: -99", "lut_dtype: int4", "scale: 3", "mode: custom", "op_type_configs: 3",
    "op_name_configs: {1: null}", "granularity: per_block", "- 1", "\t", "\0", "global_config: {global_config: {}}",
)  # fmt: skip
DTYPES = ("<f2", "<f4", "<f8", "|u1", "|i1", "<u2", "<i8", "|b1", "<c8", "|S3", "<U2", ">f4", "<g")


def flip_bits(stored: bytes, random: Random) -> bytes:
    """One to eight bits, or a few bytes put in or taken out."""
    changed = bytearray(stored)
    if not changed:
        return b"\0"
    if random.random() < 0.15:
        at = random.randrange(len(changed))
        if random.random() < 0.5:
            del changed[at : at + random.choice((1, 2, 64))]
        else:
            changed[at:at] = random.randbytes(random.choice((1, 2, 64)))
        return bytes(changed)
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        bit = random.randrange(len(changed) * 8)
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def change_weights(stored: bytes, random: Random) -> bytes:
    """Header, a field of a record, offsets that overlap, values that are not finite, an end that comes too soon."""
    changed = bytearray(stored)
    if len(changed) < 192:
        return flip_bits(stored, random)
    how = random.randrange(6)
    records = [at for at in range(64, len(changed) - 63, 64) if changed[at : at + 4] == b"\xef\xbe\xad\xde"]
    at = random.choice(records) if records else 64
    if how == 0:
        struct.pack_into("<I", changed, random.choice((0, 4)), random.choice(NUMBERS) & 0xFFFFFFFF)
    elif how == 1:
        field = random.choice((0, 4))
        struct.pack_into("<I", changed, at + field, random.choice((*range(20), *NUMBERS)) & 0xFFFFFFFF)
    elif how == 2:
        struct.pack_into("<Q", changed, at + random.choice((8, 16, 24)), random.choice(NUMBERS))
    elif how == 3:
        other = random.choice(records or [64])
        changed[at : at + 64] = changed[other : other + 64]
    elif how == 4:
        return bytes(changed[: random.randrange(len(changed))])
    else:
        size, offset = struct.unpack_from("<QQ", changed, at + 8)
        pattern = random.choice((b"\xff\x7f", b"\x00\x7c", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\xff", b"\x00"))
        place = offset + random.randrange(max(1, size))
        times = random.choice((1, 4, 5000))
        end = min(place + len(pattern) * times, offset + size, len(changed))
        if place < end:
            changed[place:end] = (pattern * times)[: end - place]
    return bytes(changed)


def change_manifest(stored: bytes, random: Random) -> bytes:
    """Another value somewhere, keys doubled and dropped, thousands of entries, no JSON at all."""
    try:
        content = json.loads(stored)
        assert isinstance(content["itemInfoEntries"], dict)
        assert all(isinstance(entry, dict) for entry in content["itemInfoEntries"].values())
        assert content["itemInfoEntries"]
    except Exception:  # changed before
        return flip_bits(stored, random)
    how = random.randrange(7)
    if how == 0:
        content[random.choice([*content, "more"])] = random.choice(JSON_VALUES)
    elif how == 1:
        entries = content["itemInfoEntries"]
        entry = entries[random.choice(sorted(entries))]
        entry[random.choice([*entry, "more"])] = random.choice(JSON_VALUES)
    elif how == 2:
        del content[random.choice(sorted(content))]
    elif how == 3:
        text = json.dumps(content)
        key = random.choice(('"itemInfoEntries": {},', '"rootModelIdentifier": "x",', '"a": 1,'))
        return text.replace("{", "{" + key * random.choice((1, 2, 20000)), 1).encode()
    elif how == 4:
        depth = random.choice((10, 1000, 200000))
        return b"[" * depth + b"]" * depth if random.random() < 0.5 else b'{"a":' * depth + b"1" + b"}" * depth
    elif how == 5:
        entries = content["itemInfoEntries"]
        one = entries[sorted(entries)[0]]
        entries |= {f"{number:032x}": dict(one) for number in range(random.choice((1, 5000)))}
    else:
        return random.choice((b"", b"null", b"[]", b"\xff\xfe", b'{"a": NaN}', b"1" * 5000, b'"' + b"x" * 100000))
    return json.dumps(content).encode("utf-8", "surrogatepass")


def change_config(stored: bytes, random: Random) -> bytes:
    """YAML: lines of other meaning, doubled, dropped, indented otherwise; aliases that grow; bits."""
    lines = stored.decode().splitlines()
    for _ in range(random.choice((1, 1, 2, 3))):
        how, at = random.randrange(6), random.randrange(len(lines) + 1)
        if how == 0:
            lines.insert(at, " " * random.choice((0, 2, 4)) + random.choice(YAML_LINES))
        elif how == 1 and lines:
            lines.insert(at, random.choice(lines))
        elif how == 2 and at < len(lines):
            del lines[at]
        elif how == 3 and at < len(lines):
            key, _, _ = lines[at].partition(":")
            lines[at] = (
                f"{key}: {random.choice(('1e999', 'null', '[]', '{}', '-1', '99999999999999999999', '~', '.inf'))}"
            )
        elif how == 4:
            depth = random.choice((3, 30, 2000))
            lines.insert(at, "deep: " + "[" * depth + "]" * depth)
        else:
            return flip_bits("\n".join(lines).encode(), random)
    if random.random() < 0.05:
        grown = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
        lines = grown + lines
    return "\n".join(lines).encode()


def change_archive(stored: bytes, random: Random) -> bytes:
    """An ``.npz``: arrays of other sizes and types, headers that lie, members dropped, doubled and renamed; bits.

    The checksums of the archive are right, so that what is inside is looked at.
    """
    if random.random() < 0.2:
        return flip_bits(stored, random)
    with zipfile.ZipFile(io.BytesIO(stored)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(sorted(members))
    how = random.randrange(8)
    if "header.npy" in members and random.random() < 0.45:
        members["header.npy"] = _told_header(members["header.npy"], random)
    elif how < 5:
        members[name] = (
            change_array(members[name], random) if name.endswith(".npy") else flip_bits(members[name], random)
        )
    elif how == 5:
        del members[name]
    elif how == 6:
        members[random.choice(("more.npy", "values.npy", "weights.npy", "../x.npy", "a0.npy"))] = members[name]
    else:
        members[name] = random.choice((b"", b"not an array", members[random.choice(sorted(members))]))
    return _archive(members)


def change_array(stored: bytes, random: Random) -> bytes:
    """A ``.npy``: another size or type, a header that lies, bits."""
    change = random.choice((_array_values, _array_type, _array_size, _lying_header, flip_bits))
    return change(stored, random)


def _archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _loaded(member: bytes) -> np.ndarray:
    return np.load(io.BytesIO(member), allow_pickle=False)


def _array_values(member: bytes, random: Random) -> bytes:
    array = _loaded(member).copy()
    if array.size and array.dtype.kind in "fiu":
        flat = array.reshape(-1)
        places = [random.randrange(flat.size) for _ in range(random.choice((1, 1, flat.size)))]
        extreme = float(np.finfo(array.dtype).max) if array.dtype.kind == "f" else int(np.iinfo(array.dtype).max)
        values = (0, 1, extreme) if array.dtype.kind != "f" else (0, 1, extreme, -extreme, np.nan, np.inf)
        flat[places] = random.choice(values)
        if random.random() < 0.2:
            array = np.ascontiguousarray(flat[::-1].reshape(array.shape))
    return _saved(array)


def _array_type(member: bytes, random: Random) -> bytes:
    with np.errstate(all="ignore"):
        return _saved(_loaded(member).astype(random.choice(DTYPES)))


def _array_size(member: bytes, random: Random) -> bytes:
    array = _loaded(member)
    how = random.randrange(4)
    if how == 0:
        return _saved(array.reshape(-1)[: random.randrange(array.size + 1)])
    if how == 1:
        return _saved(np.concatenate([array.reshape(-1)] * random.choice((2, 3))))
    if how == 2:
        return _saved(array.reshape(array.shape[::-1]))
    return _saved(array.reshape(random.choice(((-1,), (1, -1), (-1, 1)))))


def _lying_header(member: bytes, random: Random) -> bytes:
    """An array whose header claims a shape of other size."""
    shape = random.choice(("(1099511627776,)", "(4294967296, 4294967296)", "(0,)", "(3,)", "(-1,)", "()", "(1, 1, 1)"))
    descr = random.choice(("<f8", "|u1", "|O", "<f2", "<V8"))
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1") + member[128:]


def _told_header(member: bytes, random: Random) -> bytes:
    """The JSON in front of what a resume folder keeps, with another value somewhere."""
    content = json.loads(_loaded(member).tobytes())
    holder, key = random.choice(_places(content))
    old = holder[key]
    near = [old + 1, -old, 0, old * 2] if isinstance(old, int | float) and not isinstance(old, bool) else []
    holder[key] = random.choice([*near, *(v for v in JSON_VALUES if v != "\ud800"), (1 << 40), [1, 2], [0], [1 << 40]])
    return _saved(np.frombuffer(json.dumps(content).encode(), np.uint8))


def _places(content: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    keys = content.keys() if isinstance(content, dict) else range(len(content))
    for key in list(keys):
        found.append((content, key))
        if isinstance(content[key], dict | list):
            found += _places(content[key])
    return found


def files_of(package: Path) -> list[Path]:
    return sorted(path for path in package.rglob("*") if path.is_file())
