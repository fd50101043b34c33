"""What ``plan`` writes beside its table, and plans of other tools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import CLI_ERROR, IN, OUT, PALETTIZE, Run
from comparison_pages import Page

from mil_palettize.budget import curve_picture
from mil_palettize.program.model import Model
from mil_palettize.program.site_values import dense

BUDGET = ("--bits-per-weight", "3.5", "--unmeasured")


def test_a_page(run: Run) -> None:
    code, shown, errors = run("plan", IN, "--bits-per-weight", "3.5", "--html", "plan.html", "--json")
    recipe, source = json.loads(shown), Path("plan.html").read_text(encoding="utf-8")
    assert (code, errors) == (0, "")
    found = Page(source)
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(found.names)
    assert "url(" not in source
    assert all(name in found.words for one in recipe["chosen"] for name in one["names"])
    assert f"{recipe['bits_per_weight']:.2f}" in found.words
    assert all(f"{trial['nbytes']:,}" in found.words for trial in recipe["trials"])
    assert all(note in found.words for note in recipe["notes"])
    dots = [attributes["class"] for tag, attributes in found.tags if tag == "circle"]
    assert dots.count("chosen") == 1
    assert dots.count("uniform") > 2


def test_a_page_of_hostile_names(run: Run) -> None:
    from comparison_pages import HOSTILE

    from mil_palettize.budget.recipe import Chosen, Recipe

    chosen = tuple(Chosen((name,), (2, 3), "float16", {"nbits": 4}, 12, 6, 0.1) for name in HOSTILE)
    recipe = Recipe('"><script>alert(1)</script>', None, chosen, 100, 200, 50, 0.0, notes=tuple(HOSTILE))
    found = Page(recipe.to_html())
    assert "script" not in found.names
    assert "img" not in found.names


@pytest.mark.parametrize(("name", "magic"), [("curve.png", b"\x89PNG"), ("curve.pdf", b"%PDF"), ("curve.svg", b"<svg")])
def test_a_curve(run: Run, name: str, magic: bytes) -> None:
    if not name.endswith("svg"):
        pytest.importorskip("matplotlib")
    code, _, errors = run("plan", IN, *BUDGET, "--plot", name)
    assert (code, errors) == (0, "")
    assert Path(name).read_bytes().startswith(magic)


def test_without_matplotlib(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_picture, "find_spec", lambda name: None)
    code, _, errors = run("plan", IN, *BUDGET, "--plot", "curve.png", "--out", "recipe.yaml")
    assert code == 2
    assert "pip install 'mil-palettize[plot]', or give a name that ends in .svg" in errors
    assert not Path("recipe.yaml").exists()


def test_a_recipe_of_another_tool(run: Run) -> None:
    with Model.open(Path(IN)) as model:
        weights = {site.weight.name: np.asarray(dense(site, model.store)) for site in model.survey().sites}
    np.savez("model.npz", **{"a.weight": weights["stem_weight"], "b.weight": weights["up_weight"]})
    Path("recipes.json").write_text(json.dumps({"3.0": {"a": 2, "b": 4, "c": 6}}))
    code, shown, errors = run(
        "plan", IN, "--import", "recipes.json", "--checkpoint", "model.npz", "--out", "recipe.yaml", "--json"
    )
    assert (code, errors) == (0, "")
    assert any(note == "not matched, not in the checkpoint: c" for note in json.loads(shown)["notes"])
    code, report, _ = run(*PALETTIZE, "--config", "recipe.yaml", "--json")
    assert code == 0
    found = {w["name"]: w["nbits"] for w in json.loads(report)["weights"] if w["status"] == "palettized"}
    assert found == {"stem_weight": 2, "up_weight": 4}
    assert json.loads(report)["bytes_after"] == json.loads(shown)["nbytes"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--import", "r.json"), "give the checkpoint that the package was made of with --checkpoint"),
        (("--import", "r.json", "--checkpoint", "m.npz", "--keep", "a"), "--import and --keep exclude each other"),
        (("--import", "r.json", "--checkpoint", "m.npz", "--for", "ane"), "--import and --for exclude each other"),
        (("--import", "r.json", "--checkpoint", "m.npz", "--group-size", "8"), "--import and --group-size exclude"),
        (("--import", "r.json", "--checkpoint", "m.npz", "--calibrate", "8"), "--import and --calibrate exclude"),
        (("--import", "r.json", "--checkpoint", "m.npz", "--image-mean", "8"), "--import and --image-mean exclude"),
        (("--import", "r.json", "--target-size", "20kB"), "not allowed with argument"),
        ((*BUDGET, "--checkpoint", "m.npz"), "--checkpoint goes with --import"),
        ((*BUDGET, "--selected-recipe", "a"), "--selected-recipe goes with --import"),
        ((*BUDGET, "--plot", "curve.jpeg"), "--plot curve.jpeg ends in none of .svg, .png, .pdf"),
        ((*BUDGET, "--plot", "a.svg", "--html", "a.svg"), "--html a.svg is the file of --plot; choose another"),
    ],
)
def test_what_does_not_go_together(run: Run, arguments: tuple[str, ...], told: str) -> None:
    code, _, errors = run("plan", IN, *arguments)
    assert code == 2
    assert told in errors
    assert errors.count("\n") == 1
    assert not Path(OUT).exists()
    assert errors.startswith((CLI_ERROR, "mil-palettize plan: error: "))
