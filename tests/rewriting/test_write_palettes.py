"""``write_palettes``: expressions from wherever they come, decoded by the independent reader; nothing else moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import form_packages
import numpy as np
import pytest
from handmade import contents
from packages import blob_users, constants, normalised

from mil_palettize import PlanError, palettize_package
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Const, Lut, Scale, Sparse, WeightExpr
from mil_palettize.program.model import Model
from mil_palettize.program.opsets.move import parse_target
from mil_palettize.program.site_values import dense, expression
from mil_palettize.program.sites import Site
from mil_palettize.rewriting.palette_writer import write_palettes

Make = Callable[[Site, Model, np.random.Generator], WeightExpr]


def table(
    site: Site, draw: np.random.Generator, nbits: int, groups: dict[int, int] | None = None, vector: int = 1
) -> Lut:
    """A look-up table drawn at random; ``groups``: how many along an axis; ``vector``: along axis 0."""
    dtype = {"fp16": np.float16, "fp32": np.float32}[site.weight.dtype]
    shape = list(site.weight.shape)
    shape[0] //= vector
    counts = [(groups or {}).get(axis, 1) for axis in range(len(shape))]
    entries = draw.standard_normal((*counts, 1 << nbits, vector)).astype(dtype)
    indices = draw.integers(0, 1 << nbits, shape).astype(np.uint8)
    return Lut(Packed.pack(indices, nbits), entries, 0 if vector > 1 else None)


def scaled(site: Site, model: Model, draw: np.random.Generator) -> WeightExpr:
    lut = table(site, draw, 4)
    counts = [size if axis == 0 else 1 for axis, size in enumerate(site.weight.shape)]
    return Scale(lut, draw.uniform(0.5, 2, counts).astype(lut.dtype))


def int8_table(site: Site, model: Model, draw: np.random.Generator) -> WeightExpr:
    lut = table(site, draw, 3)
    integers = draw.integers(-127, 128, lut.lut.shape).astype(np.int8)
    scale = np.full((1,) * integers.ndim, 0.01, lut.dtype)
    return replace(lut, lut=Scale(Const(integers), scale))


def sparse(site: Site, model: Model, draw: np.random.Generator) -> WeightExpr:
    held = expression(site, model.store)
    assert isinstance(held, Sparse)
    return Sparse(table(site, draw, 2), held.mask)


def scaled_integers(site: Site, model: Model, draw: np.random.Generator) -> WeightExpr:
    """Of iOS26: integers looked up, then scaled as they were."""
    held = expression(site, model.store)
    assert isinstance(held, Scale)
    lut = table(site, draw, 3)
    integers = draw.integers(-127, 128, lut.lut.shape).astype(held.data.dtype)
    return replace(held, data=replace(lut, lut=integers))


def scaled_tables(site: Site, model: Model, draw: np.random.Generator) -> WeightExpr:
    """Of iOS18: a table of integers for every scale."""
    held = expression(site, model.store)
    assert isinstance(held, Scale)
    lut = table(site, draw, 2, dict(enumerate(held.scale.shape)))
    integers = draw.integers(-127, 128, lut.lut.shape).astype(held.data.dtype)
    scale, offset = (
        None if part is None else (part if isinstance(part, np.ndarray) else part.decode()).reshape(*part.shape, 1, 1)
        for part in (held.scale, held.offset)
    )
    assert scale is not None
    return replace(lut, lut=Scale(Const(integers), scale, offset))


FORMS: dict[str, tuple[str, str, str, Make]] = {
    # name: (kind, target, dtype, what is given)
    "packed": ("dense", "iOS16", "fp16", lambda s, m, d: table(s, d, 4)),
    "packed fp32": ("dense", "iOS17", "fp32", lambda s, m, d: table(s, d, 6)),
    "typed": ("dense", "iOS18", "fp16", lambda s, m, d: table(s, d, 3)),
    "grouped": ("dense", "iOS18", "fp16", lambda s, m, d: table(s, d, 2, {0: 4})),
    "grouped along both axes": ("dense", "iOS18", "fp32", lambda s, m, d: table(s, d, 1, {0: 4, 1: 2})),
    "vectors": ("dense", "iOS18", "fp16", lambda s, m, d: table(s, d, 4, vector=2)),
    "vectors in groups": ("dense", "iOS18", "fp32", lambda s, m, d: table(s, d, 2, {1: 2}, vector=2)),
    "scaled": ("dense", "iOS18", "fp16", scaled),
    "int8 table": ("dense", "iOS18", "fp16", int8_table),
    "sparse": ("sparse", "iOS18", "fp16", sparse),
    "tables scaled": ("int8 offset", "iOS18", "fp16", scaled_tables),
    "tables scaled by block": ("int8 blocks", "iOS18", "fp16", scaled_tables),
    "integers scaled": ("int8", "iOS26", "fp16", scaled_integers),
    "integers scaled with offset": ("uint8 offset", "iOS26", "fp16", scaled_integers),
}


def weights(model: Model) -> list[Site]:
    """What can be given a palette: dense weights of more than one axis, and what joint compression takes."""
    return [
        site
        for site in model.survey().sites
        if len(site.weight.shape) > 1 and (site.weight.joint or not site.weight.obstacle) and site.weight.size >= 100
    ]


def write(source: Path, folder: Path, choose: Callable[[Model], dict[Site, WeightExpr]]) -> dict[str, np.ndarray]:
    """``source`` with what ``choose`` gives; the arrays that stand for it, by ``function/name``."""
    before = contents(source)
    with Model.open(source) as model:
        given = choose(model)
        said = {site.weight.key: expr.decode() for site, expr in given.items()}
        write_palettes(model, given, folder)
    assert contents(source) == before
    return said


def check(source: Path, written: Path, said: dict[str, np.ndarray]) -> None:
    """Each constant of ``said`` decodes to it, bit for bit; every other piece is that of ``source``."""
    found = {f"{f}/{name}": decode() for (_, f, _, name), (_, decode) in constants(written).items()}
    for key, array in said.items():
        assert found[key].dtype == array.dtype
        assert found[key].tobytes() == array.tobytes(), key
    names = {key.partition("/")[2] for key in said}
    left, right = normalised(source), normalised(written)
    for key, piece in left.items():
        if key.startswith("op ") and key.rpartition("/")[2].partition(" (")[0] in names:
            continue
        if key.startswith("order "):  # what a palette is made from stands in front of it
            old = set(piece.split("\n"))
            assert [name for name in right[key].split("\n") if name in old] == piece.split("\n")
            continue
        assert right[key] == piece, key
    new = right.keys() - left.keys()
    assert all(key.startswith("op ") and "_palettized" in key for key in new)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_from_anywhere(form: str, tmp_path: Path) -> None:
    kind, target, dtype, make = FORMS[form]
    source = form_packages.source(kind, target, dtype)
    draw = np.random.default_rng(len(form))
    said = write(source, tmp_path / "out", lambda model: {s: make(s, model, draw) for s in weights(model)})
    assert len(said) >= 3
    check(source, tmp_path / "out", said)


def first_two(model: Model) -> tuple[Site, Site]:
    """Two sites that share a record."""
    by_record: dict[object, list[Site]] = {}
    for site in weights(model):
        by_record.setdefault(site.weight.storage, []).append(site)
    return next((sites[0], sites[1]) for sites in by_record.values() if len(sites) > 1)


@pytest.mark.parametrize("case", ["same", "different", "one"])
def test_sites_that_share_a_record(case: str, fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / "multifunction_ios18.mlpackage"
    draw = np.random.default_rng(0)
    keys = []

    def choose(model: Model) -> dict[Site, WeightExpr]:
        one, two = first_two(model)
        keys.extend((site.weight.function, site.weight.name) for site in (one, two))
        expr = table(one, draw, 4)
        again = Lut(Packed.pack(expr.indices.unpack(), 4), np.array(expr.lut))  # equal, another object
        return {one: expr} | {"same": {two: again}, "different": {two: table(two, draw, 4)}, "one": {}}[case]

    said = write(source, tmp_path / "out", choose)
    check(source, tmp_path / "out", said)
    readers = Counter(
        tuple(sorted((function, name) for _, function, _, name in users if (function, name) in keys))
        for users in blob_users(tmp_path / "out").values()
    )
    readers.pop((), None)
    together, apart = tuple(sorted(keys)), [(key,) for key in keys]
    assert (
        readers
        == {
            "same": Counter({together: 2}),  # indices and table, stored once
            "different": Counter(dict.fromkeys(apart, 2)),
            "one": Counter({apart[0]: 2, apart[1]: 1}),
        }[case]
    )


@pytest.mark.parametrize("name", ["branches_ios16", "loop_ios16", "multifunction_ios18", "pipeline_ios17"])
def test_blocks_functions_and_stages(name: str, fixtures: Path, tmp_path: Path) -> None:
    source, written = fixtures / f"{name}.mlpackage", tmp_path / "out"
    draw = np.random.default_rng(1)
    told: Counter[tuple[str, str, bytes]] = Counter()

    def choose(model: Model) -> dict[Site, WeightExpr]:
        given = {site: table(site, draw, 2) for site in weights(model)}
        told.update((s.weight.function, s.weight.name, e.decode().tobytes()) for s, e in given.items())
        return given

    write(source, written, choose)
    found = Counter(
        (f"{model}/{function}".lstrip("/"), name, decode().tobytes())
        for (model, function, _, name), (_, decode) in constants(written).items()
    )
    assert told
    assert not told - found
    left, right = normalised(source), normalised(written)
    names = {name for _, name, _ in told}
    changed = {key for key in left.keys() | right.keys() if left.get(key) != right.get(key)}
    assert {key.rpartition("/")[2].partition("[")[0].partition(" (")[0] for key in changed} == names


def test_palettes_in_the_place_of_palettes(fixtures: Path, tmp_path: Path) -> None:
    """A compressed constant goes with the ops that only it is made from; its records go, too."""
    source = form_packages.WRITTEN["scaled"]
    source.palettize(tmp_path / "before.mlpackage")
    draw = np.random.default_rng(2)
    chosen: list[str] = []

    def choose(model: Model) -> dict[Site, WeightExpr]:
        ends = [s for s in model.survey().sites if s.weight.form == "constexpr_blockwise_shift_scale"]
        chosen.extend(site.weight.name for site in ends)
        return {site: table(site, draw, 4) for site in ends}

    said = write(tmp_path / "before.mlpackage", tmp_path / "out", choose)
    found = {name: (op.type, decode) for (_, _, _, name), (op, decode) in constants(tmp_path / "out").items()}
    assert chosen
    assert all(found[name][0] == "constexpr_lut_to_dense" for name in chosen)
    assert all(found[key.partition("/")[2]][1]().tobytes() == array.tobytes() for key, array in said.items())
    assert not any("_palettized" in name for name in found)
    with Model.open(tmp_path / "out") as model:
        (reader,) = {model.store.reader(u.file_name, used_by=u.owner) for u in model.blob_uses()}
        assert len(reader.all_records()) == len({u.offset for u in model.blob_uses()})


def test_after_a_move_records_have_the_types_of_their_values(fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / "palettized_ios16.mlpackage"
    draw = np.random.default_rng(3)
    with Model.open(source) as model:
        model.move(parse_target("iOS18"))
        given = {site: table(site, draw, 3) for site in weights(model)}
        said = {site.weight.name: expr.decode() for site, expr in given.items()}
        write_palettes(model, given, tmp_path / "out")
    before = {key[3]: decode() for key, (_, decode) in constants(source).items()}
    after = {key[3]: decode() for key, (_, decode) in constants(tmp_path / "out").items()}
    assert said
    assert before.keys() == after.keys()
    assert all(np.array_equal(after[name], said.get(name, array)) for name, array in before.items())


def test_named_as_coremltools_names_them(fixtures: Path, tmp_path: Path) -> None:
    with Model.open(fixtures / "conv_fp16_ios18.mlpackage") as model:
        (site,) = (s for s in weights(model) if s.weight.name == "stem_weight")
        write_palettes(model, {site: table(site, np.random.default_rng(4), 4)}, tmp_path / "out", rename=True)
    names = {key[3] for key in constants(tmp_path / "out")}
    assert "stem_weight_palettized" in names
    assert "stem_weight" not in names


WRONG: dict[str, tuple[str, Callable[[Site, np.random.Generator], WeightExpr], str]] = {
    "another shape": (
        "conv_fp16_ios18",
        lambda s, d: Lut(Packed.pack(np.zeros((2, 2), np.uint8), 1), np.zeros((1, 1, 2, 1), np.float16)),
        "the expression for it float16",
    ),
    "another dtype": (
        "conv_fp16_ios18",
        lambda s, d: replace(lut := table(s, d, 2), lut=np.asarray(lut.lut, np.float32)),
        "the expression for it float32",
    ),
    "no palette": ("conv_fp16_ios18", lambda s, d: Const(table(s, d, 2).decode()), "can be stored as a look-up table"),
    "a mask where there is none": (
        "conv_fp16_ios18",
        lambda s, d: Sparse(table(s, d, 2), Packed.pack(np.ones(s.weight.shape, np.uint8), 1)),
        "can be stored as a look-up table",
    ),
    "groups in iOS16": ("conv_fp16_ios16", lambda s, d: table(s, d, 2, {0: 2}), "supported since iOS18"),
    "3 bits in iOS16": ("conv_fp16_ios16", lambda s, d: table(s, d, 3), "nbits=3 is supported since iOS18"),
    "iOS15": ("conv_fp16_ios15", lambda s, d: table(s, d, 2), "can hold no palettes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_written_is_refused_first(case: str, fixtures: Path, tmp_path: Path) -> None:
    name, make, said = WRONG[case]
    with Model.open(fixtures / f"{name}.mlpackage") as model:
        (site,) = (s for s in weights(model) if s.weight.name == "stem_weight")
        with pytest.raises(PlanError, match=said) as caught:
            write_palettes(model, {site: make(site, np.random.default_rng(5))}, tmp_path / "out")
    assert "stem_weight" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_sites_of_another_model_and_constants_that_cannot_be(fixtures: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(6)
    source = fixtures / "conv_fp16_ios18.mlpackage"
    with Model.open(source) as model, Model.open(source) as other:
        (site,) = (s for s in weights(other) if s.weight.name == "stem_weight")
        with pytest.raises(PlanError, match="is no constant of this model"):
            write_palettes(model, {site: table(site, draw, 2)}, tmp_path / "out")
        inline = next(s for s in model.survey().sites if s.weight.obstacle)
        with pytest.raises(PlanError, match="cannot become a palette"):
            write_palettes(model, {inline: table(site, draw, 2)}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "target", "part"), [("sparse", "iOS18", "mask"), ("int8", "iOS26", "scales")])
def test_joint_expressions_keep_the_parts_of_the_constant(kind: str, target: str, part: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    make = sparse if kind == "sparse" else scaled_integers
    with Model.open(form_packages.source(kind, target)) as model:
        site = weights(model)[0]
        expr = make(site, model, draw)
        if isinstance(expr, Sparse):
            expr = replace(expr, mask=Packed.pack(1 - expr.mask.unpack(), 1))
        else:
            assert isinstance(expr, Scale)
            expr = replace(expr, scale=np.asarray(expr.scale) * np.float16(2))
        with pytest.raises(PlanError, match=f"keeps its own {part}"):
            write_palettes(model, {site: expr}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_library_makes_of_a_package_written_again(fixtures: Path, tmp_path: Path) -> None:
    """The expressions of a package that was palettized, written into its source: the same bytes."""
    source, made = fixtures / "conv_fp16_ios18.mlpackage", tmp_path / "made.mlpackage"
    palettize_package(source, made, form_packages.WRITTEN["grouped"].config)
    with Model.open(made) as model:
        exprs = {s.weight.name: expression(s, model.store) for s in model.survey().sites if "lut" in s.weight.form}
        values = {s.weight.name: dense(s, model.store) for s in model.survey().sites if "lut" in s.weight.form}
    with Model.open(source) as model:
        given = {s: e for s in model.survey().sites if (e := exprs.get(s.weight.name)) is not None}
        assert len(given) == len(values) > 2
        write_palettes(model, given, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(made)
