"""Which constants act as weights: the op inputs that a matrix of learned values is read through.

Constants that reach no input named here (masks and positional tables that are added, anchors and strides that
are multiplied, normalisation parameters) are left alone unless everything is selected or they are named.
"""

from __future__ import annotations

WEIGHT_INPUTS: dict[str, frozenset[str]] = {
    "conv": frozenset({"weight"}),
    "conv_quantized": frozenset({"weight"}),
    "conv_transpose": frozenset({"weight"}),
    "linear": frozenset({"weight"}),
    "matmul": frozenset({"x", "y"}),
    "einsum": frozenset({"values"}),
    "lstm": frozenset({"weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back"}),
    "gru": frozenset({"weight_ih", "weight_hh"}),
    "rnn": frozenset({"weight_ih", "weight_hh"}),
    # Tables: embeddings and the like, looked up by run-time indices.
    "gather": frozenset({"x"}),
    "gather_along_axis": frozenset({"x"}),
    "gather_nd": frozenset({"x"}),
}


def is_weight_input(op_type: str, input_name: str) -> bool:
    """Whether a constant read through this input acts as a weight."""
    return input_name in WEIGHT_INPUTS.get(op_type, frozenset())
