"""Names of weights without what coremltools adds to them, and the modules of a network that they are of."""

from __future__ import annotations

import re
from collections.abc import Iterable

# As coremltools, and the doors that do as it does, call what they compressed.
_COMPRESSED = re.compile(r"(_palettized(_pcs)?|_quantized|_sparsified)+(_\d+)?$")
_CAST = re.compile(r"_to_fp(16|32)$")
# What torch and keras call parameters of a module: ``weight``, ``weight_ih_l0``, ``in_proj_weight``, ``kernel``.
_PARAMETER = re.compile(r"_(?:in_proj_)?(?:weight|bias|kernel)(?:_(?:ih|hh)(?:_l\d+(?:_reverse)?)?)?$")

_EXPORTED = "p_"  # what torch.export puts before names of parameters


def bare_name(name: str) -> str:
    """Without the suffixes of a cast and of a compression: ``lm_head_weight`` of ``lm_head_weight_to_fp16``."""
    return _CAST.sub("", _COMPRESSED.sub("", name))


def module_of(name: str) -> str:
    """The module whose parameter a constant called ``name`` is, by the structure of names: ``lm_head`` of
    ``lm_head_weight_to_fp16``; "" where it is called like no parameter."""
    bare = bare_name(name)
    module = _PARAMETER.sub("", bare)
    return module if module != bare else ""


def before_export(name: str) -> str:
    """Without what torch.export puts before a parameter: ``layers_0_fc_weight`` of ``p_layers_0_fc_weight``, whose
    function may stand before it."""
    function, slash, own = name.rpartition("/")
    return f"{function}{slash}{own.removeprefix(_EXPORTED)}"


def is_exported(names: Iterable[str]) -> bool:
    """Whether all that are called like parameters of modules, of which there are some, are called as torch.export
    calls them: other conversions call none so, but of a network that is one module called ``p``."""
    parameters = [name for name in names if module_of(name)]
    return bool(parameters) and all(
        name.startswith(_EXPORTED) and module_of(before_export(name)) for name in parameters
    )
