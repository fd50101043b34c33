"""Whole models calibrated: what is promised of every weight, in every form and place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize import OpPalettizerConfig, OptimizationConfig  # noqa: E402
from mil_palettize.calibration.choice import covering  # noqa: E402
from mil_palettize.calibration.request import Calibration  # noqa: E402
from mil_palettize.calibration.solving import Findings  # noqa: E402
from mil_palettize.doors import calibrating  # noqa: E402
from mil_palettize.doors.calibrating import Calibrated, calibrated  # noqa: E402
from mil_palettize.encoding.encoder import Task  # noqa: E402
from mil_palettize.encoding.results import Encoded  # noqa: E402
from mil_palettize.errors import ConfigError, EvaluationError  # noqa: E402
from mil_palettize.expressions.digest import expression_digest  # noqa: E402
from mil_palettize.expressions.weight_expr import Scale, Sparse  # noqa: E402
from mil_palettize.program.model import Model  # noqa: E402
from mil_palettize.program.site_values import expression  # noqa: E402
from mil_palettize.request.normalised import normalise  # noqa: E402
from mil_palettize.rewriting.palettization import prepare  # noqa: E402

CONV = "conv_fp32_ios18"


def run(fixtures: Path, name: str, calibration: Calibration, **options: object) -> Calibrated:
    config = OptimizationConfig(global_config=OpPalettizerConfig(**{"nbits": 2, "weight_threshold": 64, **options}))
    with Model.open(fixtures / f"{name}.mlpackage") as model:
        prepared = prepare(model, normalise(config, False), target=None, select="weights", strict=False)
        return calibrated(model, prepared.plan, calibration)


def digests(found: Calibrated) -> list[str]:
    return [expression_digest(e.expr) for e in found.palettes.values() if isinstance(e, Encoded)]


@pytest.mark.parametrize(
    "options",
    [{}, {"nbits": 1}, {"granularity": "per_grouped_channel", "group_size": 4}, {"scale": "op"}, {"scale": "fold"},
     {"lut_dtype": "int8"}, {"cluster_dim": 2, "granularity": "per_grouped_channel", "group_size": 8},
     {"cluster_dim": 2, "channel_axis": 1}, {"cluster_dim": 2, "enable_per_channel_scale": True, "scale": "op"}],
    ids=str,
)  # fmt: skip
def test_no_form_is_worse_than_its_plain_palette_on_samples_held_out(
    fixtures: Path, options: dict[str, object]
) -> None:
    found = run(fixtures, CONV, Calibration(samples=20), **options)
    figures = [e.calibration for e in found.palettes.values() if isinstance(e, Encoded) and e.calibration]
    assert figures
    for one in figures:
        assert one.samples == 16
        if one.before_db is not None and one.after_db is not None:
            assert one.after_db >= one.before_db
    assert any(one.method.startswith("compensated") for one in figures)


def test_the_same_palettes_on_any_number_of_threads(fixtures: Path) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(digests(run(fixtures, CONV, Calibration(samples=10))))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_other_samples_give_other_palettes(fixtures: Path) -> None:
    one, two = (digests(run(fixtures, CONV, Calibration(samples=10, seed=seed))) for seed in (0, 1))
    assert one != two


def test_weights_of_two_functions_that_are_stored_once_get_one_palette(fixtures: Path) -> None:
    found = run(fixtures, "multifunction_ios18", Calibration(samples=10)).palettes
    with Model.open(fixtures / "multifunction_ios18.mlpackage") as model:
        stored = {site.weight.id: site.weight.storage for site in model.survey().sites}
    by_record: dict[object, set[str]] = {}
    for weight, encoded in found.items():
        assert isinstance(encoded, Encoded)
        by_record.setdefault(stored[weight], set()).add(expression_digest(encoded.expr))
    assert len(found) > len(by_record)
    assert all(len(digest) == 1 for digest in by_record.values())


def test_stages_of_a_pipeline(fixtures: Path) -> None:
    found = run(fixtures, "pipeline_ios17", Calibration(samples=10))
    assert len(found.palettes) == 2
    assert len([note for note in found.notes if note.startswith("outputs of")]) == 2


def test_a_few_samples_are_enough_to_go_on(fixtures: Path) -> None:
    random = np.random.default_rng(0)
    with Model.open(fixtures / f"{CONV}.mlpackage") as model:
        inputs = model.spec.description.input
        data = [
            {f.name: random.normal(size=tuple(f.type.multiArrayType.shape)).astype(np.float32) for f in inputs}
            for _ in range(3)
        ]
    found = run(fixtures, CONV, Calibration(data))
    assert any(note.startswith("calibrated on 3 samples only: none is held out") for note in found.notes)
    assert all(isinstance(e, Encoded) for e in found.palettes.values())
    data[1] = {name: np.full_like(array, np.nan) for name, array in data[1].items()}
    with pytest.raises(EvaluationError, match="sample 1 has NaN"):
        run(fixtures, CONV, Calibration(data))
    with pytest.raises(EvaluationError, match="no input 'other'"):
        run(fixtures, CONV, Calibration([{"other": np.zeros(1)}]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "calibration method is 'magic'"),
        ({"samples": 0}, "calibration samples is 0"),
        ({"seed": -1}, "calibration seed is -1"),
        ({"positions": True}, "calibration positions is True"),
        ({"sample_data": []}, "calibration sample_data is empty"),
    ],
)
def test_a_calibration_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Calibration(**options)  # type: ignore[arg-type]


_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from test_calibrated_models import run
from mil_palettize.calibration.request import Calibration
found = run(Path(sys.argv[1]), "conv_fp32_ios18", Calibration(method="weights"))
assert found.palettes and all(e.calibration.samples == 0 for e in found.palettes.values())
"""


def test_the_weights_alone_need_no_torch(fixtures: Path) -> None:
    script = _WITHOUT_TORCH.replace("from test_calibrated_models import run", _RUN)
    subprocess.run([sys.executable, "-c", script, str(fixtures)], check=True)


_RUN = """
from mil_palettize import OpPalettizerConfig, OptimizationConfig
from mil_palettize.doors.calibrating import calibrated
from mil_palettize.program.model import Model
from mil_palettize.request.normalised import normalise
from mil_palettize.rewriting.palettization import prepare
def run(fixtures, name, calibration):
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=64))
    model = Model.open(fixtures / f"{name}.mlpackage")
    prepared = prepare(model, normalise(config, False), target=None, select="weights", strict=False)
    return calibrated(model, prepared.plan, calibration)
"""


def test_lossless_palettes_are_left_alone(fixtures: Path) -> None:
    config = OptimizationConfig(global_config=OpPalettizerConfig(mode="unique", weight_threshold=0))
    with Model.open(fixtures / "odd_values_ios18.mlpackage") as model:
        prepared = prepare(model, normalise(config, False), target=None, select="weights", strict=False)
        found = calibrated(model, prepared.plan, Calibration(method="weights"))
    made = [e for e in found.palettes.values() if isinstance(e, Encoded)]
    assert made
    assert all(e.sse == 0.0 and e.calibration is None for e in made)


def test_what_one_function_gave_up_stays_given_up(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that a later function shares with it keep the plain palette, though calibration is better for that."""
    from mil_palettize.torch import metrics

    # With plain palettes and with calibrated ones, on samples held out and on noise, of each function.
    noises = iter([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    monkeypatch.setattr(metrics, "outputs_noise", lambda *given: next(noises))
    found = run(fixtures, "multifunction_ios18", Calibration(samples=10))
    assert [note.endswith("given up") for note in found.notes if note.startswith("outputs of")] == [True, False, False]
    made = {weight.key: e for weight, e in found.palettes.items() if isinstance(e, Encoded)}
    assert len(made) == 4
    digest = {key: expression_digest(encoded.expr) for key, encoded in made.items()}
    assert digest["decode/base_weight"] == digest["prefill/base_weight"]
    assert [key for key, encoded in made.items() if encoded.calibration is not None] == ["prefill/adapter_weight"]


def test_a_weight_that_functions_share_is_made_for_the_sum_of_their_moments(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each function's own are those of a model that has this one function only."""
    asked: dict[str, list[Findings]] = {}
    solve = calibrating.solved

    def listened(task: Task, findings: Findings, *options: object) -> object:
        asked.setdefault(task.source.name, []).append(findings)
        return solve(task, findings, *options)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrating, "solved", listened)
    run(fixtures, "multifunction_ios18", Calibration(samples=10))
    assert all(len(found) == 1 for found in asked.values())
    (both,) = next(found for name, found in asked.items() if "base" in name)
    assert len(both.moments) == 2
    summed = covering(both.moments, both.moments[0].where.size)
    assert len(summed) == 1
    np.testing.assert_array_equal(summed[0].square, both.moments[0].square + both.moments[1].square)
    assert summed[0].count == sum(m.count for m in both.moments)
    (alone,) = next(found for name, found in asked.items() if "adapter" in name)
    assert len(alone.moments) == 1


def test_what_a_compressed_weight_holds_is_calibrated(fixtures: Path) -> None:
    """Sparse weights in what is left of them, quantized ones in their integers; masks and scales stay."""
    request = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=64))
    with Model.open(fixtures / "quantized_sparse_ios16.mlpackage") as model:
        prepared = prepare(model, normalise(request, True), target="iOS18", select="weights", strict=False)
        found = calibrated(model, prepared.plan, Calibration(method="weights"))
        held = {site.weight.id: expression(site, model.store) for site in model.survey().sites}
    made = {weight: e for weight, e in found.palettes.items() if isinstance(e, Encoded)}
    assert any(isinstance(held[weight], Sparse) for weight in made)
    for weight, encoded in made.items():
        assert encoded.calibration is not None
        before = held[weight]
        if isinstance(before, Sparse):
            assert isinstance(encoded.expr, Sparse)
            assert np.array_equal(encoded.expr.dense_mask(), before.dense_mask())
        if isinstance(encoded.expr, Scale) and encoded.expr.offset is not None:
            assert "rule compensation out" in encoded.note
