"""The tables behind opset moves against the op registry of the installed coremltools: no op changes unnoticed."""

from __future__ import annotations

from itertools import pairwise

import coremltools as ct
import pytest
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.input_type import TensorInputType
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

from mil_palettize.program.opsets.known_ops import ADDED_OPS
from mil_palettize.program.opsets.rules import RULES

TARGETS = [ct.target.iOS15, ct.target.iOS16, ct.target.iOS17, ct.target.iOS18]
REGISTRY = {name: ops for name, ops in SSAOpRegistry.core_ops.items() if not name.startswith("_")}
NEW_CLASSES = {
    f"{name} {later.name}": (name, later, ops[earlier], ops[later])
    for name, ops in sorted(REGISTRY.items())
    for earlier, later in pairwise(TARGETS)
    if earlier in ops and ops[earlier] is not ops[later]
}
WITHOUT_RULE = {
    key: (earlier, later)
    for key, (name, target, earlier, later) in NEW_CLASSES.items()
    if RULES.get(name, (0, None))[0] != target.value
}
# Defaults of new inputs, each read in the docstring of the later class to be what the earlier op does.
OLD_BEHAVIOUR = {
    "gather iOS16": {"batch_dims": 0},
    "gather_nd iOS16": {"batch_dims": 0},
    "crop_resize iOS16": {"pad_value": 0.0},
    "topk iOS16": {"sort": True, "return_indices": True},
    "topk iOS17": {"output_indices_dtype": "int32"},
    "reduce_argmax iOS17": {"output_dtype": "int32"},
    "reduce_argmin iOS17": {"output_dtype": "int32"},
}
# New inputs the class has no default for: the docstring says what their absence means.
ABSENT = {"upsample_bilinear iOS16": {"half_pixel_centers"}, "gru iOS18": {"reset_after", "input_bias"}}
# Code that is new beside the inputs and was read: a default, an output type for a new input, or mixed dtypes.
READ = {
    "gather iOS16": {"default_inputs", "type_inference", "value_inference"},
    "gather_nd iOS16": {"default_inputs", "type_inference"},
    "crop_resize iOS16": {"default_inputs"},
    "matmul iOS17": {"type_inference"},
    "reduce_argmax iOS17": {"default_inputs", "type_inference", "get_operator", "_VALID_OUTPUT_DTYPES"},
    "reduce_argmin iOS17": {"default_inputs", "type_inference", "get_operator", "_VALID_OUTPUT_DTYPES"},
    "resample iOS16": {"type_inference"},
    "topk iOS16": {"default_inputs", "type_inference", "value_inference"},
    "topk iOS17": {"default_inputs", "type_inference", "_ALLOWED_OUTPUT_INDICES_DTYPES"},
}
FORMAL = {"input_spec", "type_domains", "_op_variants", "_abc_impl"}


def allowed_types(op_class: type, kind: TensorInputType) -> set[str]:
    allowed = op_class.type_domains[kind.type_domain_id] if kind.type_domain_id else kind.type_domain
    allowed = allowed if isinstance(allowed, (tuple, list)) else (allowed,)
    return {types.builtin_to_string(item) for item in allowed}


def defaults(op_class: type) -> dict[str, object]:
    op = object.__new__(op_class)
    op.return_indices = None
    return dict(op.default_inputs().items())


def own_code(earlier: type, later: type) -> set[str]:
    """Names ``later`` defines anew, or takes from classes ``earlier`` does not have."""
    added = [vars(base) for base in later.__mro__ if base not in earlier.__mro__]
    names = {name for attributes in added for name in attributes if not name.startswith("__")} - FORMAL
    return {name for name in names if getattr(later, name) is not getattr(earlier, name, None)}


def test_the_op_table_is_the_registry() -> None:
    seen: set[str] = set()
    for target in TARGETS:
        added = {name for name, ops in REGISTRY.items() if ops.get(target) is not None} - seen
        extra = {"write_state"} if target is ct.target.iOS18 else set()  # half of coreml_update_state, serialized
        assert added | extra == ADDED_OPS[target.value]
        seen |= added
    assert seen == set(REGISTRY)
    assert ct.target.iOS26 not in {target for ops in REGISTRY.values() for target in ops}


def test_rules_are_for_ops_that_change_there() -> None:
    changing = {(name, target.value) for name, target, _, _ in NEW_CLASSES.values()}
    changing.add(("constexpr_affine_dequantize", 9))  # still there, but joint compression starts from its successor
    assert {(name, spec) for name, (spec, _) in RULES.items()} <= changing


@pytest.mark.parametrize("key", WITHOUT_RULE)
def test_ops_without_a_rule_take_all_they_took_and_default_to_what_they_did(key: str) -> None:
    earlier, later = WITHOUT_RULE[key]
    before, after = earlier.input_spec.input_types, later.input_spec.input_types
    assert set(before) <= set(after)
    for name, kind in before.items():
        assert kind.optional or not after[name].optional or name in defaults(later)
        assert after[name].optional or not kind.optional
        assert kind.const or not after[name].const
        assert type(kind) is type(after[name])
        if isinstance(kind, TensorInputType):
            assert allowed_types(earlier, kind) <= allowed_types(later, after[name])
    new = set(after) - set(before)
    assert all(after[name].optional for name in new)
    assert new == set(OLD_BEHAVIOUR.get(key, {})) | ABSENT.get(key, set())
    code = own_code(earlier, later)
    assert code == READ.get(key, set())
    if "default_inputs" in code:
        assert defaults(later) == {**defaults(earlier), **OLD_BEHAVIOUR[key]}
