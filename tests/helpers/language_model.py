"""The fixture ``language_model_ios18`` in numpy: what its weights mean, written down a second time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from packages import constants

LAYERS, HEAD, EPSILON = 2, 16, 1e-4


class NumpyModel:
    """In float64, of a package with any kind of palettes. Keys and values are lists that grow, where the package has
    states of a fixed length and a mask."""

    def __init__(self, package: Path) -> None:
        self._weights = {
            k[-1]: decode().astype(np.float64)
            for k, (_, decode) in constants(package).items()
            if k[-1].endswith("_weight")
        }
        self._keys: list[list[np.ndarray]] = [[] for _ in range(LAYERS)]
        self._values: list[list[np.ndarray]] = [[] for _ in range(LAYERS)]

    def logits(self, token: int, position: int) -> np.ndarray:
        """After ``token``, of shape (tokens,)."""
        x = self._weights["embed_tokens_weight"][token]
        for number in range(LAYERS):
            x = x + self._attention(number, self._normed(x, f"layers_{number}_input_norm"), position)
            y = self._normed(x, f"layers_{number}_mlp_norm")
            gate = self._linear(number, "gate_proj", y)
            gated = gate / (1 + np.exp(-gate)) * self._linear(number, "up_proj", y)
            x = x + self._linear(number, "down_proj", gated)
        return self._weights["embed_tokens_weight"] @ self._normed(x, "norm")

    def _attention(self, number: int, x: np.ndarray, position: int) -> np.ndarray:
        queries = self._linear(number, "q_proj", x).reshape(-1, HEAD)
        self._keys[number].append(_turned(self._linear(number, "k_proj", x), position))
        self._values[number].append(self._linear(number, "v_proj", x))
        keys, values = np.stack(self._keys[number]), np.stack(self._values[number])
        scores = np.stack([keys @ _turned(query, position) for query in queries]) / np.sqrt(HEAD)
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        return self._linear(number, "o_proj", (shares @ values).reshape(-1))

    def _linear(self, number: int, name: str, x: np.ndarray) -> np.ndarray:
        return self._weights[f"layers_{number}_{name}_weight"] @ x

    def _normed(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt(np.mean(x * x) + EPSILON) * self._weights[f"{name}_weight"]


def _turned(x: np.ndarray, position: int) -> np.ndarray:
    """Pairs of a head's halves as complex numbers, each turned by its own angle."""
    half = HEAD // 2
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * 100.0 ** (-np.arange(half) / half))
    return np.concatenate([turned.real, turned.imag])


def called(package: Path, tokens: Sequence[int]) -> np.ndarray:
    """Logits after each of ``tokens``, of shape (calls, tokens)."""
    model = NumpyModel(package)
    return np.stack([model.logits(token, position) for position, token in enumerate(tokens)])


def chosen(package: Path, prompt: Sequence[int], count: int) -> Iterator[int]:
    """The ``count`` tokens that the model goes on with by itself."""
    model = NumpyModel(package)
    for position, token in enumerate(prompt):
        following = int(model.logits(token, position).argmax())
    for position in range(len(prompt), len(prompt) + count):
        yield following
        following = int(model.logits(following, position).argmax())
