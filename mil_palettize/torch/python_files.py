"""What people define in a Python file of their own: ``FILE.py:NAME``."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.package.given_files import check_python_file
from mil_palettize.text import python_name


def is_defined(text: str) -> bool:
    """Whether this is ``FILE.py:NAME``."""
    return python_name(text) is not None


def defined(text: str) -> Any:
    """What is called NAME in FILE.py (see :func:`is_defined`), which is run for that.

    Raises ConfigError for what is no FILE.py:NAME and for a name that the file has not, PackageError for a file that is
    not there, EvaluationError for one that fails.
    """
    named = python_name(text)
    if named is None:
        raise ConfigError(f"{text!r} names nothing in a Python file; give FILE.py:NAME")
    file, name = named
    check_python_file(text)
    path = Path(os.path.expanduser(file))
    module_name = f"mil_palettize_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None  # what ends in .py has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # where dataclasses look for the types of their fields
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script that ends itself must not end the run as if it were done
        raise EvaluationError(f"{path} fails: {told(error)}") from error
    if not hasattr(module, name):
        names = sorted(n for n, value in vars(module).items() if not n.startswith("_") and callable(value))
        raise ConfigError(f"{path} defines no {name!r}; it has {names}")
    return getattr(module, name)


def told(error: BaseException) -> str:
    """An error of somebody else's code in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
