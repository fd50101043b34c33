"""Models that go on by themselves: the most probable token of one call is the input of the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.reports.greedy_figures import GreedyFigures
from mil_palettize.text import format_count
from mil_palettize.torch.comparison_options import LOGITS, Options, Sample
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.evaluator.ops.random import drawing
from mil_palettize.torch.made_up_inputs import table_sizes
from mil_palettize.torch.sides import Side


def greedy_figures(
    one: Side, two: Side, module: Evaluated, samples: Sequence[Any], options: Options
) -> GreedyFigures | None:
    """``options.greedy`` tokens after each of ``samples``, a call or a sequence of them; None where none are asked for.

    A model that takes only tokens goes on alone. Of one that takes more, such as positions or a mask, the last calls of
    each sequence say what these are, and only their tokens are the model's own. ``module``: the original's.

    Raises ConfigError for a model without states, and where nothing says which input takes tokens or which output is of
    logits; EvaluationError for sequences that are too short.
    """
    count = options.greedy
    if not count:
        return None
    if not module.make_state():
        raise ConfigError("a model without states has no memory of its own tokens; greedy needs one with states")
    logits = _logits_output(module, options.logits)
    token = _token_input(module, lambda: _classes(one, samples[0], logits, options.seed))
    others = module.features.inputs.keys() - {token} - module.features.defaults.keys()
    parted: list[int | None] = []
    for sample in samples:
        calls = [sample] if isinstance(sample, Mapping) else list(sample)
        kept = len(calls) - count + 1 if others else len(calls)
        if kept < 1:
            raise EvaluationError(
                f"{count} tokens after a prompt need {count} calls or more, which say what {sorted(others)[0]!r} is in "
                f"each; a sample has {format_count(len(calls), 'call')}"
            )
        following = calls[kept:] if others else [{}] * (count - 1)
        chosen = [list(_tokens(side, calls[:kept], following, token, logits, options.seed)) for side in (one, two)]
        pairs = enumerate(zip(*chosen, strict=True), start=1)
        parted.append(next((number for number, (mine, other) in pairs if mine != other), None))
    return GreedyFigures(count, tuple(parted))


def _tokens(
    side: Side, prompt: Sequence[Sample], following: Sequence[Sample], token: str, logits: str, seed: int
) -> Iterator[int]:
    """One more than there are ``following`` calls."""
    state = side.make_state()
    like = np.asarray(prompt[-1][token])
    shape = (*like.shape[:-1], 1) if like.ndim else ()
    try:
        with drawing(seed):
            for call in prompt:
                outputs = side.outputs(call, state)
            yield _most_probable(outputs[logits])
            for call in following:
                chosen = np.full(shape, _most_probable(outputs[logits]), like.dtype)
                outputs = side.outputs({**call, token: chosen}, state)
                yield _most_probable(outputs[logits])
    except EvaluationError as error:
        raise EvaluationError(f"{side.name}, going on with its own tokens: {error}") from error


def _most_probable(logits: np.ndarray) -> int:
    """Of the last row."""
    return int(logits.reshape(-1, logits.shape[-1])[-1].argmax())


def _classes(side: Side, sample: Any, logits: str, seed: int) -> int:
    """How many tokens there are to choose from."""
    call = sample if isinstance(sample, Mapping) else sample[0]
    with drawing(seed):
        return int(side.outputs(call, side.make_state())[logits].shape[-1])


def _token_input(module: Evaluated, classes: Callable[[], int]) -> str:
    """What is looked up in a table; of several, as positions are too, in the one with a row for each of ``classes``."""
    sizes = table_sizes(module)
    looked_up = sorted(sizes)
    if len(looked_up) > 1:
        count = classes()
        looked_up = sorted(name for name, rows in sizes.items() if rows == count) or looked_up
    if len(looked_up) != 1:
        told = f"{', '.join(map(repr, looked_up))} are" if looked_up else "none is"
        raise ConfigError(f"greedy needs one input that is looked up in a table, of tokens; {told} in this model")
    return looked_up[0]


def _logits_output(module: Evaluated, named: Sequence[str]) -> str:
    outputs = list(module.features.outputs_described)
    found = list(named) or ([LOGITS] if LOGITS in outputs else outputs)
    if len(found) != 1 or found[0] not in outputs:
        raise ConfigError(f"greedy needs one output of logits, of {', '.join(map(repr, outputs))}; name it (--logits)")
    return found[0]
