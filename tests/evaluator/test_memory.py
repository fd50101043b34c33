"""Weights that are decoded when they are read, of which no more are kept than is asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import mb, opened  # noqa: E402

from mil_palettize import ConfigError, OpPalettizerConfig, OptimizationConfig, compare, palettize_package  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.torch.comparison_options import Options  # noqa: E402
from mil_palettize.torch.evaluator import constant_store, constants  # noqa: E402
from mil_palettize.torch.evaluator import memory as machine  # noqa: E402
from mil_palettize.torch.evaluator.mapping import mapped  # noqa: E402
from mil_palettize.torch.evaluator.model_pipeline import open_model  # noqa: E402
from mil_palettize.torch.evaluator.module import MILModule  # noqa: E402
from mil_palettize.torch.evaluator.program import Constant  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402
from mil_palettize.torch.training.batches import Batched  # noqa: E402


@pytest.mark.parametrize(
    "name", ["conv_fp16_ios18", "recurrent_fp16_ios17", "loop_ios16", "pipeline_ios17", "joint_ios18"]
)
@pytest.mark.parametrize("memory", [0, 5000])
def test_outputs_are_the_same(name: str, memory: int, fixtures: Path) -> None:
    path = fixtures / f"{name}.mlpackage"
    one, two = open_model(path), open_model(path, memory=memory)
    for sample in plausible_inputs(one, 2):
        wanted, found = one.predict(sample), two.predict(sample)
        assert wanted.keys() == found.keys()
        for output, array in wanted.items():
            assert np.array_equal(found[output], array)


@pytest.mark.parametrize("memory", [None, 0, 5000, 10**9])
def test_no_more_is_kept_than_asked_for(memory: int | None, fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: Counter[str] = Counter()
    sizes: dict[str, int] = {}

    module = open_model(fixtures / "conv_fp16_ios18.mlpackage", memory=memory)
    for slot, constant in module.function.constants.items():

        def counted(constant: Any = constant, slot: str = slot, decode: Any = constant.decode) -> np.ndarray:
            array: np.ndarray = decode()
            decoded[slot] += 1
            sizes[slot] = array.nbytes
            return array

        object.__setattr__(constant, "decode", counted)
    (sample,) = plausible_inputs(module, 1)
    decoded.clear()
    for _ in range(3):
        module.predict(sample)
    again = {slot for slot, count in decoded.items() if count}
    kept = sum(size for slot, size in sizes.items() if slot not in again)
    if memory is None or memory == 10**9:
        assert not again
        return
    assert kept <= memory
    assert all(decoded[slot] == 3 for slot in again)  # once in each run
    assert again if memory == 0 else kept > 0


@pytest.mark.parametrize("memory", [None, 5000, 10**9])
def test_weights_that_are_changed_are_what_is_run(memory: int | None, fixtures: Path) -> None:
    module = MILModule.from_package(fixtures / "conv_fp16_ios18.mlpackage", memory=memory)
    (sample,) = plausible_inputs(module, 1)
    before = module.predict(sample)["scores"]
    assert np.array_equal(module.predict(sample)["scores"], before)
    assert module(**module.features.tensors(sample))["scores"].requires_grad is (memory is None)
    with torch.no_grad():
        for weight in module.weights.values():
            weight.mul_(2)
    assert not np.allclose(module.predict(sample)["scores"], before)
    assert module(**module.features.tensors(sample))["scores"].requires_grad


@pytest.mark.filterwarnings("error")
def test_constants_that_stand_in_the_program() -> None:
    """Where they lie in its message, which cannot be written to."""
    array = np.frombuffer((np.arange(1 << 17) % 2048).astype(np.float16).tobytes(), np.float16)
    kept = constant_store.ConstantStore({"w": Constant("w", "", array.shape, array.nbytes, lambda: array)}, 10**9)
    assert kept.as_kept("w").dtype == torch.float16
    assert np.array_equal(kept["w"].numpy(), array.astype(np.float32))


def test_what_samples_take_together_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ALWAYS", 1000)
    monkeypatch.setattr(machine, "free_bytes", lambda: 10_000)  # of which half may be taken

    def run(values: Any) -> Any:
        machine.claim([1000])
        return {"y": values["x"] * 2}

    samples = [{"x": torch.tensor([1.0])}, {"x": torch.tensor([3.0])}]
    with pytest.raises(MemoryError, match="8 kB are asked for"):
        mapped(run, samples)
    assert [float(found["y"]) for found in Batched(run)(samples)] == [2, 6]


def test_comparisons_and_commands(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, small = fixtures / "conv_fp16_ios18.mlpackage", tmp_path / "small.mlpackage"
    palettize_package(
        source,
        small,
        OptimizationConfig(
            OpPalettizerConfig(nbits=3, weight_threshold=100, granularity="per_grouped_channel", group_size=4)
        ),
    )
    one, two = (compare(source, small, random=2, histograms=2, memory=memory) for memory in (None, 1000))
    assert one.outputs == two.outputs
    assert one.weights == two.weights
    command = ["compare", str(source), str(small), "--random", "2"]
    assert main([*command, "--json"]) == main([*command, "--json", "--memory", "1kB"]) == 0
    assert main([*command, "--memory", "1kB", "--html", str(tmp_path / "page.html")]) == 0
    assert main(["run", str(small), "--memory", "1kB"]) == 0
    capsys.readouterr()
    assert main([*command, "--memory", "1kB", "--per-op"]) == 2
    assert "per_op puts each by itself; leave one out" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="memory is -1; give a number of bytes, or None"):
        compare(source, small, memory=-1)


def test_tables_are_looked_up_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    lut, indices = random.standard_normal((3, 2, 1, 4, 2)), random.integers(0, 4, (6, 4, 5)).astype(np.uint8)
    whole = constants._looked_up(indices, lut, 1)
    monkeypatch.setattr(constants, "_UNPACKED_AT_ONCE", 24)
    assert np.array_equal(constants._looked_up(indices, lut, 1), whole)
    wanted = np.empty((6, 8, 5))
    for i, j, k in np.ndindex(6, 4, 5):
        wanted[i, 2 * j : 2 * j + 2, k] = lut[i // 2, j // 2, 0, indices[i, j, k]]
    assert np.array_equal(whole, wanted)


def test_a_check_of_palettes_keeps_no_more_than_asked_for(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, config = fixtures / "conv_fp16_ios18.mlpackage", OptimizationConfig(OpPalettizerConfig(nbits=3))
    limits: list[int] = []
    original = constant_store.ConstantStore.__init__

    def seen(store: Any, constants: Any, limit: int) -> None:
        if limit < constant_store.EVERYTHING // 2:
            limits.append(limit)
        original(store, constants, limit)

    monkeypatch.setattr(constant_store.ConstantStore, "__init__", seen)
    checks = []
    for number, memory in enumerate((None, 1000)):
        report = palettize_package(source, tmp_path / f"{number}.mlpackage", config, check=True, memory=memory)
        assert report.check is not None
        checks.append(report.check.outputs)
    assert checks[0] == checks[1]
    assert limits == [500, 500]
    command = ["palettize", str(source), str(tmp_path / "out.mlpackage"), "--nbits", "3", "--memory", "1kB"]
    assert main([*command, "--check"]) == 0
    assert limits == [500] * 4
    capsys.readouterr()
    assert main(command) == 2
    assert "--memory goes with --calibrate and samples, which are run with it, or --check" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="memory is 1, and limits what check keeps; ask for check"):
        palettize_package(source, None, config, dry_run=True, memory=1)


@pytest.mark.parametrize("memory", ["2GB", -1, 1.5, True])
def test_a_memory_that_is_none_is_told_before_anything_is_made(memory: Any, tmp_path: Path) -> None:
    wrong = pytest.raises(ConfigError, match=f"memory is {memory!r}; give a number of bytes, or None")
    with wrong:
        palettize_package("nowhere", tmp_path / "out.mlpackage", OptimizationConfig(), check=True, memory=memory)
    with wrong:
        Options(memory=memory)


@pytest.mark.parametrize("kind", ["linear", "gather", "batched gather", "add"])
@pytest.mark.parametrize("memory", [0, constant_store.EVERYTHING])
def test_large_constants_of_float16_are_kept_as_that(kind: str, memory: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((700, 300)).astype(np.float16)
    given = rng.standard_normal((3, 300)).astype(np.float32)
    chosen, wide = np.array([5, -1, 299], np.int32), table.astype(np.float64)
    bias = rng.standard_normal(700).astype(np.float32)

    def build(x: Any, y: Any) -> Any:
        if kind == "linear":
            return mb.linear(x=mb.cast(x=x, dtype="fp16"), weight=table, bias=bias.astype(np.float16))
        if kind == "gather":
            return mb.gather(x=table, indices=y, axis=0)
        if kind == "batched gather":
            return mb.gather(
                x=table, indices=mb.tile(x=mb.expand_dims(x=y, axes=[0]), reps=[700, 1]), axis=1, batch_dims=1
            )
        return mb.add(x=table, y=mb.reduce_sum(x=mb.cast(x=x, dtype="fp16")))

    whole = opened(build, [((3, 300), np.float32), ((3,), np.int32)], tmp_path)
    module = open_model(whole.package.path, memory=memory)
    inputs = {"x0": given, "x1": chosen}
    (found,) = module.predict(inputs).values()
    wanted = {
        "linear": lambda: given.astype(np.float64) @ wide.T + bias.astype(np.float16),
        "gather": lambda: wide[chosen],
        "batched gather": lambda: wide[:, chosen],
        "add": lambda: wide + given.astype(np.float64).sum(),
    }[kind]()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
    assert isinstance(module, MILModule)
    assert module._store is not None
    kept = [value for value in module._store._kept.values() if value.numel() > 1 << 16]
    assert [value.dtype for value in kept] == ([torch.float16] if memory else [])
