"""Entries of a config that name modules of the network that a model was made of."""

from __future__ import annotations

import pytest
from mil_messages import const, op, planned, program

from mil_palettize import OpPalettizerConfig, OptimizationConfig
from mil_palettize.errors import PlanError

NAMES = (
    "model_embed_weight_to_fp16",
    "model_layers_1_attn_q_proj_weight_to_fp16_palettized",
    "model_layers_1_mlp_fc_weight_to_fp16",
    "model_layers_10_mlp_fc_weight_to_fp16",
    "model_norm_proj_weight",
    "model_norm_proj_out_weight",
    "lm_head_weight_to_fp16",
)
MODEL = program(
    *(
        part
        for i, name in enumerate(NAMES)
        for part in (
            const(name, shape=(64, 48)),
            op("linear", f"reader_{i}", {"x": "x", "weight": name}, shape=(1, 64)),
        )
    )
)


def met(*entries: str) -> dict[str, int | None]:
    """Bits of each weight that got others than the global 4, by the number at its entry: 6, then 8."""
    bits = dict(zip(entries, (6, 8), strict=False))
    config = OptimizationConfig(
        OpPalettizerConfig(nbits=4), op_name_configs={entry: OpPalettizerConfig(nbits=n) for entry, n in bits.items()}
    )
    decisions = planned(MODEL, config).decisions
    return {d.weight.name: d.specification.nbits for d in decisions if d.specification and d.specification.nbits != 4}


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ("lm_head", [6]),
        ("lm_head.weight", [6]),
        ("main/lm_head", [6]),
        ("model.layers.1", [1, 2]),  # not of layer 10
        ("layers.1.mlp", [2]),  # below what the conversion put around it
        ("model/embed", [0]),
        ("model.embed.", [0]),
        ("layers", [1, 2, 3]),
        ("q_proj", [1]),
        ("model_norm_proj_weight", [4]),
    ],
)
def test_what_a_module_means(entry: str, names: list[int]) -> None:
    assert met(entry) == {NAMES[i]: 6 for i in names}


def test_the_innermost_module_decides() -> None:
    assert met("model.layers", "model.layers.1.mlp") == {NAMES[1]: 6, NAMES[2]: 8, NAMES[3]: 6}


def test_names_that_are_written_out_decide_before_modules() -> None:
    assert met("model.layers.1", "reader_2") == {NAMES[1]: 6, NAMES[2]: 8}


def test_modules_decide_before_patterns() -> None:
    assert met("*", "lm_head") == dict.fromkeys(NAMES[:-1], 6) | {NAMES[-1]: 8}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("fc", "may mean 'model_layers_10_mlp_fc', 'model_layers_1_mlp_fc': write one of these, or '*fc*' for all"),
        (
            "model.norm.proj",
            "may mean 'model_norm_proj_weight' alone, or also 'model_norm_proj_out': write 'model_norm_proj_weight', "
            "or 'model_norm_proj*' for all",
        ),
    ],
)
def test_ambiguous_ones_are_refused(entry: str, told: str) -> None:
    with pytest.raises(PlanError) as raised:
        met(entry)
    assert str(raised.value) == f"op_name_configs[{entry!r}] {told}"


def test_it_is_told() -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=4), op_name_configs={"lm_head": None})
    note = "op_name_configs['lm_head'] is taken for the module of main/lm_head_weight_to_fp16"
    assert planned(MODEL, config).notes == [note]


def test_parts_of_words_are_no_modules() -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=4), op_name_configs={"head": None})
    assert planned(MODEL, config).notes[0].startswith("op_name_configs['head'] is taken")
    config = OptimizationConfig(OpPalettizerConfig(nbits=4), op_name_configs={"hea": None})
    assert "matches nothing" in planned(MODEL, config).notes[0]


def test_names_of_outputs() -> None:
    reader = op("linear", "linear_2_cast_fp16", {"x": "x", "weight": "w"}, outputs=[("var_64", (1, 64))])
    made = program(const("w", shape=(64, 48)), reader)
    for entry in ("var_64", "linear_2_cast_fp16"):
        config = OptimizationConfig(OpPalettizerConfig(nbits=4), op_name_configs={entry: OpPalettizerConfig(nbits=6)})
        plan = planned(made, config)
        assert [d.specification.nbits for d in plan.decisions if d.specification] == [6]
        assert plan.notes == []


EXPORTED = program(
    *(
        part
        for name in ("p_head_weight_to_fp16", "p_layers_0_head_weight", "p_layers_0_attn_q_proj_weight_to_fp16")
        for part in (
            const(name, shape=(64, 48)),
            op("linear", f"reads_{name}", {"x": "x", "weight": name}, shape=(1, 64)),
        )
    )
)


@pytest.mark.parametrize(
    ("entry", "count"),
    [
        ("head", 1),
        ("layers.0", 2),
        ("q_proj", 1),
        ("layers.*.q_proj", 1),
        ("p_layers_0", 2),
        ("layers.0.attn*", 1),
        ("main/head*", 1),
    ],
)
def test_names_that_torch_export_gave(entry: str, count: int) -> None:
    """With its ``p_`` for parameters, which people do not write: ``head`` is not the one of a layer."""
    config = OptimizationConfig(OpPalettizerConfig(nbits=4), op_name_configs={entry: OpPalettizerConfig(nbits=6)})
    found = [d.specification for d in planned(EXPORTED, config).decisions]
    assert [one.nbits for one in found if one].count(6) == count


def test_modules_that_only_begin_so() -> None:
    """As those of deformable convolutions, ``p_conv`` beside ``conv``, of a network that was traced."""
    names = ("p_conv_weight", "conv_weight")
    made = program(
        *(const(name, shape=(64, 48)) for name in names),
        *(op("linear", f"reads_{name}", {"x": "x", "weight": name}, shape=(1, 64)) for name in names),
    )
    for entry in ("conv*", "main/conv*", "conv"):
        config = OptimizationConfig(OpPalettizerConfig(nbits=4), op_name_configs={entry: OpPalettizerConfig(nbits=6)})
        found = {d.weight.name: d.specification.nbits for d in planned(made, config).decisions if d.specification}
        assert found == {"p_conv_weight": 4, "conv_weight": 6}


def test_a_module_called_p() -> None:
    """Of a network that was traced."""
    made = program(
        const("p_weight", shape=(64, 48)), op("linear", "y", {"x": "x", "weight": "p_weight"}, shape=(1, 64))
    )
    config = OptimizationConfig(op_name_configs={"p": OpPalettizerConfig(nbits=6)})
    assert [d.specification.nbits for d in planned(made, config).decisions if d.specification] == [6]
