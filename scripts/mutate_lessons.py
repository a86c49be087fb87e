"""Measure how many errors in the library the lessons find: `python scripts/mutate_lessons.py`.

The script needs the extra `dev`. It changes one random token of `functional.py` or `model/`, in
memory, and runs the lessons that execute the token's line, in order, until one fails. If no lesson
fails, it runs the tests of these modules. If they fail, the lessons missed the change. If they
pass, the change has no effect that anyone knows of, and it does not count. The script goes on until
--count changes have counted. It prints the share that the lessons caught, and each change that they
missed.
"""

from __future__ import annotations

import argparse
import ast
import io
import random
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.lesson_runs import first_wrong_number, in_child  # type: ignore[import-not-found]  # noqa: E402

PACKAGE = ROOT / "src" / "scratchlm"
TESTS = ["tests/test_functional.py", "tests/model"]
SWAPS = {
    "+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "**": "*", "@": "*", "%": "//",
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "&": "|", "|": "&",
    "True": "False", "False": "True", "and": "or", "or": "and", "is": "==", "not": "",
    "sin": "cos", "cos": "sin", "min": "max", "max": "min", "amax": "amin", "sum": "mean",
    "mean": "sum", "exp": "expm1", "rsqrt": "sqrt", "sqrt": "square", "square": "abs",
    "triu": "tril", "tril": "triu", "zeros": "ones", "ones": "zeros",
}  # fmt: skip


class Mutation(NamedTuple):
    """One token of a module, at a line, becomes another."""

    module: str
    line: int
    statement: range  # its lines
    old: str
    new: str
    text: str  # the changed line
    source: str
    changed: str  # the whole source with the change


def modules() -> dict[str, Path]:
    """Return {module: file} of the modules that are changed."""
    paths = [PACKAGE / "functional.py", *sorted((PACKAGE / "model").glob("[a-z]*.py"))]
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in paths
    }


def mutations(module: str, source: str) -> Iterator[Mutation]:
    """Yield each change of a token that computes: no annotation, no error message, no docstring."""
    lines = source.splitlines(keepends=True)
    statements = computing_statements(ast.parse(source))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, start = token.start
        if row not in statements:
            continue
        if token.type == tokenize.NUMBER:
            new = repr(ast.literal_eval(token.string) + 1)
        elif token.type in (tokenize.OP, tokenize.NAME) and token.string in SWAPS:
            new = SWAPS[token.string]
        else:
            continue
        text = lines[row - 1][:start] + new + lines[row - 1][token.end[1] :]
        changed = "".join([*lines[: row - 1], text, *lines[row:]])
        try:
            compile(changed, module, "exec")
        except SyntaxError:  # such as the * of keyword-only parameters
            continue
        yield Mutation(
            module, row, statements[row], token.string, new, text.strip(), source, changed
        )


def computing_statements(tree: ast.Module) -> dict[int, range]:
    """Return {line: lines of its statement} inside functions.

    Docstrings, annotations, errors and the conditions of errors compute no output.
    """
    found: dict[int, range] = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):  # outer statements first, so that inner ones win
                if isinstance(node, ast.stmt) and node is not function:
                    lines = range(node.lineno, (node.end_lineno or 0) + 1)
                    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                    if isinstance(node, ast.If) and isinstance(node.body[0], ast.Raise):
                        lines = range(node.lineno, (node.test.end_lineno or 0) + 1)
                        is_text = True
                    if is_text or isinstance(node, ast.Raise | ast.Assert | ast.AnnAssign):
                        for line in lines:
                            found.pop(line, None)
                    else:
                        found.update(dict.fromkeys(lines, lines))
    return found


def executed_lines(number: int) -> dict[str, set[int]]:
    """Run a lesson, and return {file: lines} of the modules that it executes."""
    found: dict[str, set[int]] = {str(path): set() for path in modules().values()}

    def trace(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        lines = found.get(frame.f_code.co_filename)
        if lines is None:
            return None
        lines.add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        first_wrong_number(number)
    finally:
        sys.settrace(None)
    return found


def caught_by(mutation: Mutation, lessons: list[int]) -> int | None:
    """Return the first lesson that fails with the change, or None."""
    fault = (mutation.module, mutation.source, mutation.changed)
    for number in lessons:
        try:
            if in_child(first_wrong_number, number, fault):
                return number
        except (EOFError, TimeoutError):  # the lesson failed with another error
            return number
    return None


def is_tested(mutation: Mutation) -> bool:
    """Return whether the tests fail with the change, or take longer than ten minutes."""
    plant = (
        "import sys, pytest\n"
        "from scratchlm.lessons.faults import Fault\n"
        "Fault(*eval(sys.stdin.read())).plant()\n"
        f"sys.exit(pytest.main(['-x', '-q', '-p', 'no:cacheprovider', *{TESTS!r}]))"
    )
    fault = (mutation.module, mutation.source, mutation.changed)
    command = [sys.executable, "-c", plant]
    options: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 600}
    try:
        return subprocess.run(command, input=repr(fault), **options).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=150, help="changes that must count")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    from scratchlm.lessons.lesson import lessons

    numbers = list(lessons())
    executed = {number: in_child(executed_lines, number) for number in tqdm(numbers, "trace")}
    if not any(lines for files in executed.values() for lines in files.values()):
        raise SystemExit(f"scratchlm must be imported from {PACKAGE}; run pip install -e .")
    every = [
        mutation
        for module, path in modules().items()
        for mutation in mutations(module, path.read_text(encoding="utf-8"))
    ]
    random.Random(args.seed).shuffle(every)
    print(f"{len(every)} changes are possible; these are tried in a random order, seed {args.seed}")

    def attempt(mutation: Mutation) -> tuple[Mutation, int | None, bool]:
        path = str(modules()[mutation.module])
        those = [n for n in numbers if executed[n][path].intersection(mutation.statement)]
        lesson = caught_by(mutation, those)
        return mutation, lesson, lesson is not None or is_tested(mutation)

    counted: list[tuple[Mutation, int | None]] = []
    with ThreadPoolExecutor(2) as pool, tqdm(total=args.count, desc="changes") as bar:
        for start in range(0, len(every), 8):
            for mutation, lesson, counts in pool.map(attempt, every[start : start + 8]):
                if counts and len(counted) < args.count:
                    counted.append((mutation, lesson))
                    bar.update()
                    if lesson is None:
                        bar.write(f"missed: {described(mutation)}", file=sys.stdout)
            if len(counted) == args.count:
                break
    missed = sum(lesson is None for _, lesson in counted)
    share = 1 - missed / len(counted)
    print(f"the lessons catch {len(counted) - missed} of {len(counted)} changes ({share:.0%})")


def described(mutation: Mutation) -> str:
    """Return one line, such as `functional:80  != -> ==  return losses.sum() / …`."""
    place = f"{mutation.module.removeprefix('scratchlm.')}:{mutation.line}"
    return f"{place}  {mutation.old} -> {mutation.new or '(nothing)'}  {mutation.text}"


if __name__ == "__main__":
    main()
