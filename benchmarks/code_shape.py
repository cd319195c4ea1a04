"""How readable the code is, in figures: sizes of files and functions, density, long lines, tests.

    python -m benchmarks.code_shape                  # this checkout
    python -m benchmarks.code_shape OTHER_CHECKOUT   # another one, for before and after

The one idea: what a reader meets is counted by the parser, not judged. A function's length is from
its `def` to its last line, docstring included; density is syntax nodes a line of code (blank lines,
comments and docstrings are no code); complexity is ruff's C901, which `make lint` limits.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

SOURCES = ("verl_videosearch", "data_prep", "recipes")
MAX_COLUMNS = 100


@dataclass(frozen=True)
class Shape:
    """Figures of a tree of Python files."""

    num_files: int
    num_lines: int
    median_file: float
    """Lines of the file in the middle."""
    longest_file: int
    p90_function: float
    """Lines that nine functions in ten do not exceed."""
    longest_function: int
    nodes_per_line: float
    """Syntax nodes a line of code."""
    num_long_lines: int
    return_types: float
    """Share of functions that say what they return."""


def find_files(root: Path, folders: Sequence[str]) -> list[Path]:
    """Return the Python files below some folders of a checkout."""
    return [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]


def measure(files: Sequence[Path]) -> Shape:
    """Measure some files together."""
    texts = [path.read_text("utf-8") for path in files]
    trees = [ast.parse(text) for text in texts]
    lengths = [len(text.splitlines()) for text in texts]
    functions = [function for tree in trees for function in find_functions(tree)]
    spans = sorted(function.end_lineno - function.lineno + 1 for function in functions)
    num_nodes = sum(count_nodes(tree) for tree in trees)
    num_code = sum(map(count_code_lines, texts))
    return Shape(
        num_files=len(files),
        num_lines=sum(lengths),
        median_file=statistics.median(lengths),
        longest_file=max(lengths),
        p90_function=spans[int(0.9 * (len(spans) - 1))],
        longest_function=spans[-1],
        nodes_per_line=num_nodes / num_code,
        num_long_lines=sum(len(line) > MAX_COLUMNS for text in texts for line in text.splitlines()),
        return_types=statistics.mean(function.returns is not None for function in functions),
    )


def find_functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def count_nodes(tree: ast.AST) -> int:
    """Count syntax nodes without contexts and operators, which are no idea of their own."""
    passive = ast.expr_context | ast.operator | ast.boolop | ast.unaryop | ast.cmpop
    return sum(not isinstance(node, passive) for node in ast.walk(tree))


def count_code_lines(text: str) -> int:
    """Count the lines that hold code.

    >>> count_code_lines('"Say it."\\n\\n# why\\nx = 1  # one\\n')
    1
    """
    lines: set[int] = set()
    is_start = True  # of a statement: a string that stands there alone is a docstring
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NEWLINE:
            is_start = True
        elif token.type not in (*skipped, tokenize.ENDMARKER):
            if not (token.type == tokenize.STRING and is_start):
                lines.update(range(token.start[0], token.end[0] + 1))
            is_start = False
    return len(lines)


def main() -> None:
    """Print the figures of one checkout."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    source, tests = (measure(find_files(root, folders)) for folders in (SOURCES, ["tests"]))
    table = Table("figure", "source", "tests", title="shape of the code")
    for name in Shape.__dataclass_fields__:
        values = (getattr(shape, name) for shape in (source, tests))
        table.add_row(name, *(f"{value:.2f}".rstrip("0").rstrip(".") for value in values))
    table.add_row("test lines per source line", "", f"{tests.num_lines / source.num_lines:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
