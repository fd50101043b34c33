"""Sequences of calls through which states live: figures of each call, and models that go on with their own tokens."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize import (  # noqa: E402
    ConfigError,
    EvaluationError,
    OpPalettizerConfig,
    OptimizationConfig,
    compare,
    palettize_package,
)
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.reports.greedy_figures import GreedyFigures  # noqa: E402
from mil_palettize.reports.page.document import page  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402
from mil_palettize.torch.sequences import read_sequences  # noqa: E402

RNG = np.random.default_rng(9)
WORDS, WIDTH = 50, 24


class Net(torch.nn.Module):
    """Tokens to logits, by a state of which each call reads what the one before wrote. ``shifted``: also takes how
    much is added to the state."""

    def __init__(self, shifted: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = torch.nn.Embedding(WORDS, WIDTH), torch.nn.Linear(WIDTH, WORDS)
        self.inner = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.register_buffer("memory", torch.zeros(1, WIDTH))
        if shifted:
            self.forward = self.with_shift  # type: ignore[method-assign]

    def forward(self, ids: Any) -> Any:
        hidden = torch.tanh(self.table(ids)[:, -1] + 2 * self.inner(self.memory))
        self.memory.mul_(0).add_(hidden)
        return 3 * self.out(hidden)

    def with_shift(self, ids: Any, shift: Any) -> Any:
        hidden = torch.tanh(self.table(ids)[:, -1] + 2 * self.inner(self.memory) + shift)
        self.memory.mul_(0).add_(hidden)
        return 3 * self.out(hidden)


def converted(folder: Path, shifted: bool) -> tuple[Path, Path]:
    ids = torch.zeros(1, 1, dtype=torch.int32)
    inputs = [ct.TensorType("ids", shape=(1, 1), dtype=np.int32)]
    if shifted:
        inputs.append(ct.TensorType("shift", shape=(1, WIDTH)))
    example = (ids, torch.zeros(1, WIDTH)) if shifted else ids
    model = ct.convert(
        torch.jit.trace(Net(shifted).eval(), example), inputs=inputs, outputs=[ct.TensorType("logits")],
        states=[ct.StateType(ct.TensorType(shape=(1, WIDTH)), name="memory")],
        minimum_deployment_target=ct.target.iOS18, skip_model_load=True,
    )  # fmt: skip
    model.save(str(folder / "net.mlpackage"))
    small = OptimizationConfig(OpPalettizerConfig(nbits=3, weight_threshold=100))
    palettize_package(folder / "net.mlpackage", folder / "small.mlpackage", small)
    return folder / "net.mlpackage", folder / "small.mlpackage"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return converted(tmp_path_factory.mktemp("tokens"), shifted=False)


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return converted(tmp_path_factory.mktemp("shifted"), shifted=True)


def prompts(count: int, calls: int) -> list[list[dict[str, np.ndarray]]]:
    return [[{"ids": RNG.integers(0, WORDS, (1, 1)).astype(np.int32)} for _ in range(calls)] for _ in range(count)]


def logits_of(path: Path, sequence: list[dict[str, np.ndarray]]) -> np.ndarray:
    module = open_model(path)
    state = module.make_state()
    return np.stack([module.predict(call, state)["logits"] for call in sequence]).astype(np.float64)


def snr(one: np.ndarray, two: np.ndarray) -> float:
    return float(10 * np.log10((one**2).sum() / ((one - two) ** 2).sum()))


def test_states_live_through_a_sequence(pair: tuple[Path, Path]) -> None:
    sequences = prompts(3, 6)
    one, two = (np.stack([logits_of(path, sequence) for sequence in sequences]) for path in pair)
    found = compare(*pair, sequences, per_op=True)
    (output,) = found.outputs
    assert output.snr_db == pytest.approx(snr(one, two))
    assert [step.snr_db for step in output.steps] == pytest.approx([snr(one[:, i], two[:, i]) for i in range(6)])
    assert [step.agreement for step in output.steps] == pytest.approx(
        [np.mean(one[:, i].argmax(-1) == two[:, i].argmax(-1)) for i in range(6)]
    )
    assert output.worst_snr_db == pytest.approx(min(snr(one[s, i], two[s, i]) for s in range(3) for i in range(6)))
    assert found.samples == 3
    assert found.inputs == "given inputs, in sequences of 6 calls"
    assert found.ops
    alone = compare(*pair, [call for sequence in sequences for call in sequence])
    assert alone.snr_db != pytest.approx(output.snr_db)
    assert not alone.outputs[0].steps


def test_sequences_of_other_lengths(pair: tuple[Path, Path]) -> None:
    sequences = [prompts(1, 2)[0], prompts(1, 5)[0]]
    found = compare(*pair, sequences)
    one, two = logits_of(pair[0], sequences[1]), logits_of(pair[1], sequences[1])
    (output,) = found.outputs
    assert found.inputs == "given inputs, in sequences of 2 to 5 calls"
    assert len(output.steps) == 5
    assert output.steps[4].snr_db == pytest.approx(snr(one[4], two[4]))
    assert len(compare(*pair, sequences, steps=3).outputs[0].steps) == 3


def test_labels_of_each_call(pair: tuple[Path, Path]) -> None:
    sequences = prompts(2, 4)
    labels = RNG.integers(0, WORDS, (2, 4))
    (output,) = compare(*pair, sequences, labels=labels).outputs
    assert output.classes is not None
    assert output.classes.targets is not None
    one = np.stack([logits_of(pair[0], sequence)[:, 0] for sequence in sequences])
    entropy = torch.nn.functional.cross_entropy(torch.from_numpy(one).flatten(0, 1), torch.from_numpy(labels).flatten())
    assert output.classes.targets.perplexity_before == pytest.approx(math.exp(float(entropy)), rel=1e-6)
    with pytest.raises(EvaluationError, match="a sequence has 4 calls, and labels for 3; give one for each"):
        compare(*pair, sequences, labels=labels[:, :3])


def test_files_of_sequences(pair: tuple[Path, Path], tmp_path: Path) -> None:
    module, path = open_model(pair[0]), tmp_path / "x.npz"
    ids = RNG.integers(0, WORDS, (3, 4, 1, 1)).astype(np.int32)
    np.savez(path, ids=ids)
    assert [[int(call["ids"][0, 0]) for call in sequence] for sequence in read_sequences(path, module)] == ids[
        ..., 0, 0
    ].tolist()
    for one in (ids[0], ids[0, :, 0]):  # with an axis in front, and along the first axis
        np.savez(path, ids=one)
        (sequence,) = read_sequences(path, module)
        assert [int(call["ids"][0, 0]) for call in sequence] == ids[0, :, 0, 0].tolist()
    file = tmp_path / "calls.py"
    file.write_text(
        "import numpy as np\nONE = {'ids': np.zeros((1, 1), np.int32)}\n"
        "def listed():\n    yield [ONE, ONE]\n    yield [ONE]\n"
        "def single():\n    yield ONE\n    yield ONE\n    yield ONE\n"
    )
    assert [len(sequence) for sequence in read_sequences(f"{file}:listed", module)] == [2, 1]
    assert [len(sequence) for sequence in read_sequences(f"{file}:single", module)] == [3]
    assert compare(*pair, f"{file}:listed").samples == 2


def test_sequences_that_do_not_fit(pair: tuple[Path, Path], shifted: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, ids=np.zeros((2, 4, 1, 1), np.int32), shift=np.zeros((2, 3, 1, WIDTH), np.float32))
    with pytest.raises(EvaluationError, match="calls for other inputs: 'ids' 4 in each of 2, 'shift' 3"):
        compare(*shifted, path, sequence=True)
    with pytest.raises(EvaluationError, match="sample 0 is no mapping of inputs, nor a sequence of them"):
        compare(*pair, [[]])
    with pytest.raises(ConfigError, match="steps is 0"):
        compare(*pair, prompts(1, 2), steps=0)


def test_a_sequence_beside_a_reference(pair: tuple[Path, Path], tmp_path: Path) -> None:
    sequences = prompts(2, 3)
    one, two = (np.concatenate([logits_of(path, sequence) for sequence in sequences]) for path in pair)
    np.savez(tmp_path / "r.npz", logits=one)
    assert compare(pair[1], tmp_path / "r.npz", sequences).snr_db == pytest.approx(snr(one, two))


# Greedy


def chosen(path: Path, prompt: list[dict[str, np.ndarray]], count: int, shifts: Any = None) -> list[int]:
    module = open_model(path)
    state = module.make_state()
    outputs: Any = None
    for call in prompt:
        outputs = module.predict(call, state)
    tokens = [int(outputs["logits"].argmax())]
    for i in range(count - 1):
        call = {"ids": np.array([[tokens[-1]]], np.int32)} | ({} if shifts is None else {"shift": shifts[i]})
        tokens.append(int(module.predict(call, state)["logits"].argmax()))
    return tokens


def first_difference(one: list[int], two: list[int]) -> int | None:
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=True), start=1) if a != b), None)


def test_models_go_on_with_their_own_tokens(pair: tuple[Path, Path]) -> None:
    sequences = prompts(5, 3)
    found = compare(*pair, sequences, greedy=12)
    wanted = tuple(first_difference(*(chosen(path, prompt, 12) for path in pair)) for prompt in sequences)
    assert found.greedy == GreedyFigures(12, wanted)
    assert any(step is not None for step in wanted)
    assert found.greedy.sentence() in found.to_text(1000)
    assert json.loads(found.to_json())["greedy"]["parted"] == list(wanted)
    same = compare(pair[0], pair[0], sequences, greedy=12)
    assert same.greedy == GreedyFigures(12, (None,) * 5)


def test_other_inputs_come_from_the_last_calls(shifted: tuple[Path, Path]) -> None:
    sequence = [{**call, "shift": RNG.standard_normal((1, WIDTH)).astype(np.float32)} for call in prompts(1, 8)[0]]
    found = compare(*shifted, [sequence], greedy=6)
    shifts = [call["shift"] for call in sequence[3:]]
    wanted = first_difference(*(chosen(path, sequence[:3], 6, shifts) for path in shifted))
    assert found.greedy == GreedyFigures(6, (wanted,))
    with pytest.raises(EvaluationError, match=r"9 tokens after a prompt need 9 calls or more, .* what 'shift' is"):
        compare(*shifted, [sequence], greedy=9)


def test_words_on_where_they_part() -> None:
    assert (
        GreedyFigures(8, (None,)).sentence()
        == "Of 8 tokens that each model chooses itself after 1 prompt, all are the same."
    )
    assert GreedyFigures(8, (None, 3, 6)).sentence() == (
        "Of 8 tokens that each model chooses itself after each of 3 prompts, the first that differs is number 3, half "
        "of those that part by 4.5; 1 never part."
    )


def test_models_that_cannot_go_on(fixtures: Path) -> None:
    without = fixtures / "conv_fp16_ios18.mlpackage"
    with pytest.raises(ConfigError, match="a model without states has no memory of its own tokens"):
        compare(without, without, random=1, greedy=2)
    stateful = fixtures / "stateful_ios18.mlpackage"
    with pytest.raises(ConfigError, match="one input that is looked up in a table, of tokens; none is in this model"):
        compare(stateful, stateful, random=1, greedy=2)
    functions = fixtures / "multifunction_ios18.mlpackage"
    with pytest.raises(ConfigError, match="greedy is of one function of decode, prefill; name it"):
        compare(functions, functions, random=1, greedy=2, function="all")


def test_the_command(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", ids=RNG.integers(0, WORDS, (2, 9, 1, 1)).astype(np.int32))
    arguments = ["compare", *map(str, pair), "--sequence", str(tmp_path / "x.npz"), "--steps", "7"]
    shown = tmp_path / "page.html"
    assert main([*arguments, "--greedy", "4", "--html", str(shown)]) == 0
    text = capsys.readouterr().out
    assert f"inputs of {tmp_path / 'x.npz'}, in sequences of 7 calls" in text
    assert "SNR dB by call" in text
    assert "chooses itself after each of 2 prompts" in text
    assert "worst call" in shown.read_text()
    assert "chooses itself after each of 2 prompts" in shown.read_text()
    assert main([*arguments, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["outputs"][0]["steps"]) == 7
    assert page(compare(*pair, prompts(1, 2)))
