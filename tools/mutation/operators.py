"""Where a file can be changed by a little, so that it still runs and does something else.

Of every comparison, sum, product, number, condition, negation, ``min`` or ``max``, returned pair, pair of arguments and
statement without a value there is one mutant. Texts, annotations, assertions, decorators and what is told in errors and
logs are left alone: these are not what tests of numbers and plans are about.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

from tools.mutation.mutant import Mutant

_COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}
_ARITHMETIC = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: (r"\*\*", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: (r"\|", "&"),
    ast.BitXor: (r"\^", "&"),
}
_OPPOSITES = {"min": "max", "minimum": "maximum", "argmin": "argmax", "floor": "ceil", "any": "all"}
_OTHERS = {**_OPPOSITES, **{other: name for name, other in _OPPOSITES.items()}}
_SIDES = {"left": "right", "right": "left"}  # of np.searchsorted
_EQUALITIES = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
_TOLD = ("logger", "logging", "warnings")
_SYMMETRIC = {*_OTHERS, "isinstance", "issubclass", "array_equal", "gcd", "lcm", "vdot"}


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """All of one file, in its order."""
    visitor = _Visitor(file, source)
    visitor.visit(ast.parse(source))
    seen: Counter[str] = Counter()
    found = []
    for mutant in sorted(visitor.found, key=lambda mutant: (mutant.first, mutant.last, mutant.text)):
        seen[mutant.key] += 1
        found.append(replace(mutant, nth=seen[mutant.key]))
    return found


@dataclass(frozen=True)
class _Lines:
    """Byte positions of nodes."""

    source: bytes
    starts: list[int]

    def first(self, node: ast.expr | ast.stmt) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def last(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr) -> str:
        return self.source[self.first(node) : self.last(node)].decode()


class _Visitor(ast.NodeVisitor):
    def __init__(self, file: str, source: bytes) -> None:
        self.file, self.source = file, source
        starts = [0]
        for line in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        self.lines = _Lines(source, starts)
        self.scope: list[str] = []
        self.functions: list[str] = []
        self.found: list[Mutant] = []

    def _replace(self, first: int, last: int, text: str) -> None:
        function = self.functions[-1] if self.functions else ""
        self.found.append(Mutant.of(self.file, self.source, function, first, last, text))

    def _put(self, node: ast.expr | ast.stmt, text: str) -> None:
        self._replace(self.lines.first(node), self.lines.last(node), text)

    def _operator(self, before: ast.expr, after: ast.expr, pattern: str, text: str) -> None:
        """The operator between two operands, of which parentheses and comments may stand beside it."""
        first, last = self.lines.last(before), self.lines.first(after)
        found = re.search(rf"(?<![\w*/<>=]){pattern}(?![\w*/<>=])".encode(), self.source[first:last])
        if found is not None:
            self._replace(first + found.start(), first + found.end(), text)

    def _swap(self, one: ast.expr, other: ast.expr) -> None:
        if ast.dump(one) == ast.dump(other):
            return
        first, last = self.lines.first(one), self.lines.last(other)
        between = self.source[self.lines.last(one) : self.lines.first(other)].decode()
        self._replace(first, last, self._alone(other) + between + self._alone(one))

    def _alone(self, node: ast.expr) -> str:
        """The text of a node; in parentheses, which it may have stood in, where it takes more than a line."""
        text = self.lines.text(node)
        return f"({text})" if "\n" in text else text

    def _condition(self, test: ast.expr) -> None:
        """Negated, unless another mutant does that."""
        known = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            known = isinstance(test.ops[0], _EQUALITIES)
        if not known:
            self._put(test, f"(not ({self.lines.text(test)}))")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.scope.append(node.name)
        self.functions.append(".".join(self.scope))
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        self.scope.append("<locals>")
        for statement in node.body:
            self.visit(statement)
        del self.scope[-2:]
        self.functions.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()

    def visit_Assert(self, node: ast.Assert) -> None:
        """For the type checker."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A text."""

    def visit_Raise(self, node: ast.Raise) -> None:
        self._put(node, "pass")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._put(node, "pass")

    def visit_Break(self, node: ast.Break) -> None:
        self._put(node, "pass")

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Subscript | ast.Attribute) for target in node.targets):
            self._put(node, "pass")
        if not any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._put(node, "pass")
        pattern, text = _ARITHMETIC[type(node.op)]
        self._operator_before_equals(node, pattern, text)
        self.generic_visit(node)

    def _operator_before_equals(self, node: ast.AugAssign, pattern: str, text: str) -> None:
        first, last = self.lines.last(node.target), self.lines.first(node.value)
        found = re.search(f"{pattern}=".encode(), self.source[first:last])
        if found is not None:
            self._replace(first + found.start(), first + found.end(), f"{text}=")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant) or _tells(node.value):
            return
        self._put(node, "pass")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._condition(test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for (before, after), operator in zip(pairwise([node.left, *node.comparators]), node.ops, strict=True):
            self._operator(before, after, *_COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = [part for part in (node.left, node.right) if isinstance(part, ast.JoinedStr) or _is_text(part)]
        if not texts and type(node.op) in _ARITHMETIC:
            self._operator(node.left, node.right, *_ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        pattern, text = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for before, after in pairwise(node.values):
            self._operator(before, after, pattern, text)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self._put(node, f"({self.lines.text(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._put(node, str(not node.value))
        elif isinstance(node.value, int | float):
            self._put(node, repr(node.value + 1))
        elif node.value in _SIDES:
            self._put(node, f'"{_SIDES[node.value]}"')

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in _OTHERS:
            self._put(node, _OTHERS[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in _OTHERS:
            last = self.lines.last(node)
            self._replace(last - len(node.attr), last, _OTHERS[node.attr])
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if len(node.args) > 1 and not any(isinstance(part, ast.Starred) for part in node.args[:2]):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in _SYMMETRIC:
                self._swap(node.args[0], node.args[1])
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if isinstance(node.value, ast.Tuple) and len(node.value.elts) > 1:
            self._swap(node.value.elts[0], node.value.elts[1])
        self.generic_visit(node)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _tells(node: ast.expr) -> bool:
    """Whether it is a call that tells a person something."""
    while isinstance(node, ast.Call | ast.Attribute):
        node = node.func if isinstance(node, ast.Call) else node.value
    return isinstance(node, ast.Name) and node.id in _TOLD
