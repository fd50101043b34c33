"""SHA-256 of what every fixture becomes: one line for each package and request, to compare two versions of the library.

``python tools/output_hashes.py > before.txt``, change the code, run it again, ``diff``. Uses public names only.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

logging.getLogger("coremltools").setLevel(logging.CRITICAL)

from mil_palettize import OpPalettizerConfig, OptimizationConfig, PalettizeError, decompress_package, palettize_package  # noqa: E402

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
GROUPS = {"granularity": "per_grouped_channel", "group_size": 4}
# Options of the config, and of the call.
REQUESTS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "kmeans 4": ({"nbits": 4}, {}),
    "kmeans 2 redo": ({"nbits": 2}, {"redo": True}),
    "uniform 6": ({"nbits": 6, "mode": "uniform"}, {}),
    "unique": ({"mode": "unique"}, {}),
    "kmeans 8 all": ({"nbits": 8, "weight_threshold": 0}, {"select": "all"}),
    "kmeans 3 iOS18": ({"nbits": 3}, {"target": "iOS18"}),
    "groups iOS18": ({"nbits": 4, **GROUPS}, {"target": "iOS18"}),
    "vectors iOS18": ({"nbits": 4, "cluster_dim": 2}, {"target": "iOS18"}),
    "scale op iOS18": ({"nbits": 4, "enable_per_channel_scale": True, "scale": "op"}, {"target": "iOS18"}),
    "scale fold iOS18": ({"nbits": 2, "enable_per_channel_scale": True, "scale": "fold"}, {"target": "iOS18"}),
    "int8 table iOS18": ({"nbits": 4, "lut_dtype": "int8"}, {"target": "iOS18"}),
    "uint8 groups iOS18": ({"nbits": 4, "lut_dtype": "uint8", **GROUPS}, {"target": "iOS18"}),
    "joint iOS18": ({"nbits": 4}, {"joint_compression": True, "target": "iOS18"}),
}


def tree_digest(folder: Path) -> str:
    """Of the names and bytes of all files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size};".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def outcome(make: Callable[[Path], object]) -> str:
    """The digest of the package that ``make`` writes, or the error it raises."""
    with TemporaryDirectory() as folder:
        written = Path(folder, "out.mlpackage")
        try:
            make(written)
        except PalettizeError as error:
            return f"{type(error).__name__}: {error}".replace(folder, "")
        return tree_digest(written)


def main() -> None:
    packages = [Path(argument) for argument in sys.argv[1:]] or sorted(FIXTURES.glob("*.mlpackage"))
    for package in packages:
        for name, (options, keywords) in REQUESTS.items():
            config = OptimizationConfig(global_config=OpPalettizerConfig(**{"weight_threshold": 100, **options}))
            made = outcome(lambda out, c=config, k=keywords: palettize_package(package, out, c, verify=True, **k))  # noqa: B023
            print(f"{package.stem:28} {name:20} {made}")
        dense = outcome(lambda out: decompress_package(package, out, verify=True))  # noqa: B023
        print(f"{package.stem:28} {'decompress':20} {dense}")


if __name__ == "__main__":
    main()
