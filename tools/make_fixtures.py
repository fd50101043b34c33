"""Make ``fixtures/*.mlpackage`` and their table, or check that they are what this would make.

``python tools/make_fixtures.py`` writes; ``--check`` compares and exits 1 on a difference;
``--only NAME ...`` restricts either to some packages.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import coremltools as ct
import fixture_compression as compression
import fixture_networks as networks
import fixture_oddities as oddities
from coremltools.proto import Model_pb2
from fixture_writing import FP16, FP32, Recipe

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
_VERSION_KEY = "com.github.apple.coremltools.version"


@dataclass(frozen=True)
class Fixture:
    """One package and its row of the table."""

    name: str
    make: Recipe
    holds: str
    good_for: str

    @property
    def package(self) -> str:
        return f"{self.name}.mlpackage"

    @property
    def target(self) -> str:
        return "iOS" + self.name.rsplit("_ios", 1)[1]


def _conv_nets() -> list[Fixture]:
    holds = (
        "conv 3x3, batch_norm, pointwise conv (1152 values), depthwise 7x7 conv, conv_transpose "
        "(output channels on axis 1), two linears; {dtype}"
    )
    return [
        Fixture(
            f"conv_{dtype}_ios{version}",
            networks.conv_net(getattr(ct.target, f"iOS{version}"), dtype),
            holds.format(dtype=dtype),
            good_for,
        )
        for dtype, version, good_for in (
            (FP16, 15, "moving up an opset; the plainest case"),
            (FP16, 16, "first target with palettes"),
            (FP16, 17, "attribute form at a later opset"),
            (FP16, 18, "typed form, groups, 3 bits"),
            (FP32, 16, "fp32 palettes"),
            (FP32, 18, "fp32 palettes in typed form"),
        )
    ]


ALL = [
    *_conv_nets(),
    Fixture(
        "recurrent_fp16_ios17",
        networks.recurrent(ct.target.iOS17, FP16),
        "lstm (weight_ih, weight_hh) and gru; fp16",
        "recurrent weights; moving up across the change of gru (iOS18)",
    ),
    Fixture(
        "recurrent_fp32_ios16",
        networks.recurrent(ct.target.iOS16, FP32),
        "the same in fp32",
        "fp32 recurrent weights: all that lstm takes below iOS17",
    ),
    Fixture(
        "embedding_matmul_ios16",
        networks.embedding(ct.target.iOS16, "matmul"),
        "one table read by gather (run-time ids) and by matmul with transpose_y; a linear of 1024",
        "tied embeddings, gather's change at iOS17",
    ),
    Fixture(
        "embedding_linear_ios16",
        networks.embedding(ct.target.iOS16, "linear"),
        "the same with a linear",
        "tied embeddings by op type",
    ),
    Fixture(
        "shared_ios16",
        oddities.shared,
        "a const read by two linears; two consts on one blob record, read by a linear and a matmul",
        "several consumers, shared records",
    ),
    Fixture(
        "multifunction_ios18",
        networks.multifunction,
        "functions prefill and decode: base_weight on one blob record, an adapter each",
        "names that repeat across functions, shared blobs",
    ),
    Fixture(
        "loop_ios16",
        oddities.loop,
        "while_loop: consts outside and inside the body, a loop-invariant variable, a changing state",
        "nested blocks, loop arguments",
    ),
    Fixture(
        "branches_ios16",
        oddities.branches,
        "cond: a const of the same name in each branch, one from outside read in both",
        "sibling blocks, scopes",
    ),
    Fixture("stateful_ios18", networks.stateful, "read_state, write_state, two linears", "states stay as they are"),
    Fixture(
        "pipeline_ios17",
        networks.pipeline,
        "two ML Programs (iOS16, iOS17), 0-weight.bin and 1-weight.bin, equal names inside",
        "pipelines, several weight files",
    ),
    Fixture(
        "detector_ios16",
        networks.detector,
        "pipeline of an ML Program and a non-maximum suppression",
        "stages that are no programs",
    ),
    Fixture(
        "non_weights_ios16",
        oddities.non_weights(ct.target.iOS16),
        "positions, -inf mask, anchors, strides, 3-D gain, int table, a const as output; a bias of 2304",
        "constants to leave alone, with reasons",
    ),
    Fixture(
        "non_weights_ios18",
        oddities.non_weights(ct.target.iOS18),
        "the same; the int table is in the weight file",
        "the same in typed form",
    ),
    Fixture(
        "odd_values_ios18",
        oddities.odd_values,
        "weights with a NaN, all equal, 16 distinct per group of 16 rows, 200 distinct, ±6e4, 63 rows",
        "what clustering stumbles over",
    ),
    Fixture(
        "const_chains_ios16",
        oddities.const_chains,
        "weights behind transpose, squeeze, slice, split, concat, expand_dims + reshape, cast",
        "consumers behind const-only ops",
    ),
    Fixture(
        "palettized_ios16",
        compression.palettized,
        "two 4-bit palettes per tensor by coremltools, one dense weight",
        "reading and redoing palettes, attribute form",
    ),
    Fixture(
        "palettized_grouped_ios18",
        compression.palettized_grouped,
        "two 3-bit palettes per 16 channels by coremltools, one dense weight",
        "reading and redoing palettes, typed form",
    ),
    Fixture(
        "quantized_sparse_ios16",
        compression.quantized_sparse,
        "an int8 affine weight, a pruned weight, a dense one",
        "compressed weights that are no palettes, moving them up",
    ),
    Fixture(
        "joint_ios18",
        compression.joint,
        "scaled palette, int8 palette, sparse palette, vector palette, palettes along two axes, int4 blocks",
        "constexpr ops bound to constexpr ops",
    ),
    Fixture(
        "flexible_ios16",
        networks.flexible,
        "two linears; rows of the input are a RangeDim",
        "unknown dimensions",
    ),
    Fixture(
        "image_classifier_ios15",
        networks.image_classifier,
        "image input of enumerated sizes, conv of stride 4, linear, labels",
        "descriptions, stride warnings, moving up",
    ),
    Fixture("future_op_ios17", oddities.future_op, "two linears around an unknown op", "ops no registry knows"),
    Fixture(
        "extras_ios16",
        oddities.extras,
        "two linears; an extra manifest item, all metadata fields",
        "packages that hold more than a model",
    ),
]


def table() -> str:
    """The text of ``fixtures/README.md``."""
    rows = [f"| `{f.name}` | {f.holds} | {f.target} | {f.good_for} |" for f in ALL]
    return "\n".join(
        [
            "# Packages for the tests",
            "",
            "Small and made up, with seeded random weights. `python tools/make_fixtures.py` (coremltools 9)",
            "makes them and this table; `--check` compares. `fp16` programs take and give fp32. All weights",
            "have more than the 2048 values of coremltools' threshold where nothing else is said.",
            "",
            "| package | holds | target | good for |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def contents(package: Path) -> dict[str, bytes]:
    """File name -> bytes; the model without the version of the coremltools that made it."""
    files = {str(p.relative_to(package)): p.read_bytes() for p in package.rglob("*") if p.is_file()}
    for name, data in files.items():
        if name.endswith(".mlmodel"):
            spec = Model_pb2.Model.FromString(data)
            for model in (spec, *spec.pipeline.models):
                model.description.metadata.userDefined.pop(_VERSION_KEY, None)
            files[name] = spec.SerializeToString(deterministic=True)
    return files


def check(fixtures: list[Fixture], folder: Path) -> list[str]:
    """One line for each file of ``folder`` that differs from what would be made."""
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for fixture in fixtures:
            fixture.make(Path(scratch) / fixture.package)
            made, stored = contents(Path(scratch) / fixture.package), contents(folder / fixture.package)
            lines += [
                f"{fixture.package}/{name}: differs"
                for name in sorted(made.keys() | stored.keys())
                if made.get(name) != stored.get(name)
            ]
    if (folder / "README.md").read_text() != table():
        lines.append("README.md: differs")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--folder", type=Path, default=FIXTURES, help="where the packages are (%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these packages, without .mlpackage")
    arguments = parser.parse_args()
    unknown = set(arguments.only or ()) - {f.name for f in ALL}
    if unknown:
        parser.error(f"no fixture is called {', '.join(sorted(unknown))}")
    chosen = [f for f in ALL if not arguments.only or f.name in arguments.only]
    if arguments.check:
        lines = check(chosen, arguments.folder)
        print("\n".join(lines) or f"{len(chosen)} packages are as made")
        return 1 if lines else 0
    for fixture in chosen:
        shutil.rmtree(arguments.folder / fixture.package, ignore_errors=True)
        fixture.make(arguments.folder / fixture.package)
    (arguments.folder / "README.md").write_text(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
