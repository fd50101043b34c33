"""The walk in two streams: against separate runs of the evaluator, in every place that a weight may have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize.errors import PackageError  # noqa: E402
from mil_palettize.torch.calibration.part import one_thread  # noqa: E402
from mil_palettize.torch.calibration.streams import Stream  # noqa: E402
from mil_palettize.torch.calibration.walk import Collected, WalkOptions, outputs_with, walk  # noqa: E402
from mil_palettize.torch.evaluator.module import MILModule  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402

PROGRAMS = [
    "branches_ios16", "const_chains_ios16", "conv_fp16_ios18", "conv_fp32_ios16", "embedding_linear_ios16",
    "embedding_matmul_ios16", "flexible_ios16", "image_classifier_ios15", "loop_ios16", "multifunction_ios18",
    "recurrent_fp16_ios17", "recurrent_fp32_ios16", "shared_ios16", "stateful_ios18",
]  # fmt: skip


def opened(fixtures: Path, name: str) -> tuple[MILModule, list[dict[str, torch.Tensor]]]:
    module = MILModule.from_package(fixtures / f"{name}.mlpackage")
    return module, [module.features.tensors(sample) for sample in plausible_inputs(module, 5)]


def coarse(module: MILModule) -> Callable[[Collected], np.ndarray]:
    """Weights with few values, by slot."""
    weights = {slot: weight.detach().numpy().copy() for slot, weight in module.weights.items()}
    return lambda found: np.round(weights[found.slot] * 2) / 2


def assert_same(found: list[dict[str, object]], wanted: list[dict[str, object]]) -> None:
    for one, two in zip(found, wanted, strict=True):
        assert one.keys() == two.keys()
        for name, value in two.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(one[name], value), name
            else:
                assert one[name] == value


@pytest.mark.parametrize("name", PROGRAMS)
def test_streams_are_what_the_evaluator_gives(fixtures: Path, name: str) -> None:
    """The float one with the weights as they are, the other one with those that were put in their place.

    Weights that several ops read are put in with the last of them, so that the other stream is only compared where
    each has one reader.
    """
    module, samples = opened(fixtures, name)
    readers: dict[str, int] = {}
    round_off = coarse(module)

    def solve(found: Collected) -> np.ndarray:
        readers[found.slot] = len(found.moments)
        return round_off(found)

    walked = walk(module, samples, list(module.weights), solve, WalkOptions())
    with torch.no_grad(), one_thread():
        assert_same(walked.before, [module.run(sample) for sample in samples])
        for slot in readers:
            module.weights[slot].copy_(torch.from_numpy(round_off(Collected(slot, (), None, None))))
        wanted = [module.run(sample) for sample in samples]
    assert readers
    if max(readers.values()) <= 1:
        assert_same(walked.after, wanted)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_weight_is_asked_for_once(fixtures: Path, name: str) -> None:
    module, samples = opened(fixtures, name)
    asked: list[str] = []

    def solve(found: Collected) -> None:
        asked.append(found.slot)
        assert found.moments or found.reads is not None

    walk(module, samples, list(module.weights), solve, WalkOptions())
    assert sorted(asked) == sorted(module.weights)


def test_moments_of_an_op_that_reads_a_weight_twice_are_two(fixtures: Path) -> None:
    module, samples = opened(fixtures, "shared_ios16")
    counts = {}

    def solve(found: Collected) -> None:
        counts[found.slot] = len(found.moments)

    walk(module, samples, list(module.weights), solve, WalkOptions())
    read = dict.fromkeys(counts, 0)
    for step in module.function.block.all_steps():
        for slot in step.slots_read():
            read[slot] = read.get(slot, 0) + 1
    assert max(counts.values()) > 1
    assert all(read[slot] in (0, count) for slot, count in counts.items())


def test_moments_inside_a_loop_are_of_all_its_rounds(fixtures: Path) -> None:
    module, samples = opened(fixtures, "loop_ios16")
    found: dict[str, int] = {}

    def solve(collected: Collected) -> None:
        found[collected.slot] = sum(m.count for m in collected.moments)

    walk(module, samples, list(module.weights), solve, WalkOptions())
    assert found
    assert all(count > len(samples) for count in found.values())


def test_the_first_op_sees_the_same_in_both_streams_and_later_ones_do_not(fixtures: Path) -> None:
    module, samples = opened(fixtures, "conv_fp32_ios18")
    crossed: list[bool] = []
    round_off = coarse(module)

    def solve(found: Collected) -> np.ndarray:
        crossed.append(any(m.cross is not None for m in found.moments))
        return round_off(found)

    walk(module, samples, list(module.weights), solve, WalkOptions())
    assert not crossed[0]
    assert all(crossed[1:])


def test_held_out_samples_are_not_in_the_moments(fixtures: Path) -> None:
    module, samples = opened(fixtures, "conv_fp32_ios18")

    def squares(number: int, held: frozenset[int]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        options = WalkOptions(held=held)
        walk(
            module, samples[:number], list(module.weights), lambda c: found.extend(m.square for m in c.moments), options
        )
        return found

    for one, two in zip(squares(4, frozenset()), squares(5, frozenset({4})), strict=True):
        assert np.array_equal(one, two)


def test_a_trial_is_the_error_of_the_output(fixtures: Path) -> None:
    """Zero for the weight itself before anything was rounded; 1 where all output is lost."""
    module, samples = opened(fixtures, "embedding_linear_ios16")
    errors: list[tuple[float, float]] = []
    weights = {slot: weight.detach().numpy().copy() for slot, weight in module.weights.items()}

    def solve(found: Collected) -> None:
        if found.trial is not None:
            own = weights[found.slot]
            errors.append((found.trial(own), found.trial(own * np.float32(0.5))))

    walk(module, samples, list(module.weights), solve, WalkOptions(held=frozenset({1, 3})))
    assert errors
    assert all(same == 0.0 and 0.0 < half <= 1.0 for same, half in errors)


def test_what_memory_cannot_hold_lies_on_disk_meanwhile(fixtures: Path, temporary: Path) -> None:
    """The same values, and nothing left behind."""
    module, samples = opened(fixtures, "conv_fp32_ios18")
    seen: list[int] = []
    round_off = coarse(module)

    def solve(found: Collected) -> np.ndarray:
        seen.append(len(list(temporary.rglob("*.pt"))))
        return round_off(found)

    wanted = walk(module, samples, list(module.weights), round_off, WalkOptions())
    found = walk(module, samples, list(module.weights), solve, WalkOptions(memory=1))
    assert_same(found.before, wanted.before)
    assert_same(found.after, wanted.after)
    assert max(seen) >= len(samples)
    assert not list(temporary.iterdir())


def test_values_that_the_disk_cannot_take_are_one_line(fixtures: Path, temporary: Path) -> None:
    """Files may not become larger than so much, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    module, samples = opened(fixtures, "conv_fp32_ios18")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
    try:
        with pytest.raises(PackageError, match=r"calibration cannot put values on disk in .*--memory.*TMPDIR"):
            walk(module, samples, list(module.weights), coarse(module), WalkOptions(memory=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(temporary.iterdir())


def test_an_interrupted_walk_leaves_nothing(fixtures: Path, temporary: Path) -> None:
    module, samples = opened(fixtures, "conv_fp32_ios18")

    def stop(found: Collected) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk(module, samples, list(module.weights), stop, WalkOptions(memory=1))
    assert not list(temporary.iterdir())


def test_values_are_dropped_after_their_last_reader(fixtures: Path) -> None:
    module, samples = opened(fixtures, "conv_fp32_ios18")
    with torch.no_grad(), Stream(module, samples[:1], 1 << 30) as stream:
        for step in module.function.block.steps:
            stream.advance(step)
        held = [slot for slot in stream._runs[0].values if slot not in stream.constants]
    assert sorted(held) == sorted([*module.function.types, *module.function.block.outputs])


def test_progress_names_every_op_and_counts_its_samples(fixtures: Path) -> None:
    module, samples = opened(fixtures, "conv_fp32_ios18")
    told: list[tuple[int, int, str]] = []
    walk(module, samples, (), lambda c: None, WalkOptions(), progress=lambda *event: told.append(event))
    steps = module.function.block.steps
    names = [step.info.name for step in steps for _ in samples]
    done = [number for number, _, _ in told]
    assert done == sorted(set(done))
    assert done[-1] == len(names)
    assert all(total == len(names) and name == names[number - 1] for number, total, name in told)


def test_the_number_of_threads_is_what_it_was(fixtures: Path) -> None:
    module, samples = opened(fixtures, "shared_ios16")
    before = torch.get_num_threads()
    found = [outputs_with(module, samples, {}) for _ in range(2)]
    assert_same(found[0], found[1])
    assert torch.get_num_threads() == before
