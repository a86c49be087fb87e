"""scratchlm-learn: go through numbered lessons, in English or Chinese, and solve their exercises.

scratchlm-learn                                 the list of lessons
scratchlm-learn 14                              read lesson 14 while its code runs
scratchlm-learn 14 --step --lang zh             in Chinese, one cell at a time
scratchlm-learn 14 --check mine.py              check your answer to the exercise
scratchlm-learn 14 --answer                     print an answer
scratchlm-learn 14 --break 2                    plant a fault in the library and see what finds it
scratchlm-learn 14 --ipynb 14.ipynb             write the lesson as a notebook
scratchlm-learn --demo                          the whole way from text to text
scratchlm-learn --faq 5                         an answer that runs; --faq alone lists the questions

A lesson saves its pictures in the folder figures, inside the current folder. The command saves the
numbers of finished lessons in ~/.local/state/scratchlm/lessons, or below $XDG_STATE_HOME if it is
set.
"""

from __future__ import annotations

import locale
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from scratchlm.cli.command import Parser, command, has_colour

_DEMO = 2  # the lesson that goes the whole way


@command(stops_with_its_reader=True)
def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    # Imported here so that --help answers at once.
    from scratchlm.files.atomic import write_file
    from scratchlm.lessons import exercise, faults, pages, progress, views
    from scratchlm.lessons.lesson import FAQ, entries, lessons, one

    if args.pages is not None:
        pages.write(Path(args.pages), args.lang)
    elif args.glossary:
        print(pages.glossary())
    elif args.faq is True:
        print(pages.listing(entries(FAQ), args.lang))
    elif args.faq is not None:
        views.terminal(one(entries(FAQ), args.faq), args.lang, has_colour())
    elif args.lesson is None:
        print(pages.listing(lessons(), args.lang, progress.finished()))
    elif args.break_ is not None:
        faults.hunt(one(lessons(), args.lesson), args.break_)
        print("the lesson misses this fault" if args.lang == "en" else "这一课没有发现这处错误")
    elif args.answer:
        print(exercise.answer(one(lessons(), args.lesson)))
    elif args.check is not None:
        exercise.grade(one(lessons(), args.lesson), Path(args.check), args.lang)
        print("right" if args.lang == "en" else "正确")
        progress.finish(args.lesson)
    elif args.ipynb is not None:
        cells = one(lessons(), args.lesson)
        write_file(args.ipynb, views.notebook(cells, args.lang).encode())
        print(f"saved: {args.ipynb}")
    else:
        pause = _wait if args.step else lambda: None
        with suppress(EOFError):  # standard input ended, so the lesson is not finished
            views.terminal(one(lessons(), args.lesson), args.lang, has_colour(), pause)
            progress.finish(args.lesson)


def _wait() -> None:
    """Wait for Enter. Raise EOFError if standard input has ended."""
    if sys.stdin is None:  # closed by the shell
        raise EOFError
    input()


def _language() -> str:
    """Return "zh" if the system's language is Chinese, else "en"."""
    names = [os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG")]
    names.append(locale.getlocale()[0])  # such as "Chinese (Simplified)_China" on Windows
    return "zh" if next(filter(None, names), "").lower().startswith(("zh", "chinese")) else "en"


def _parse(argv: Sequence[str] | None) -> Namespace:
    summary, _, examples = (__doc__ or "").partition("\n\n")
    parser = Parser("scratchlm-learn", summary, examples)
    parser.add_argument("lesson", nargs="?", type=int, metavar="N", help="the number of a lesson")
    parser.add_argument("--lang", choices=("en", "zh"), default=_language(),
                        help="the language; the default is the system's")  # fmt: skip
    parser.add_argument("--demo", action="store_true",
                        help=f"the whole way from text to text (lesson {_DEMO})")  # fmt: skip
    about = parser.add_mutually_exclusive_group()
    about.add_argument("--step", action="store_true", help="wait for Enter after each cell")
    about.add_argument("--check", metavar="FILE", help="check the answer in FILE")
    about.add_argument("--answer", action="store_true", help="print an answer")
    about.add_argument("--break", type=int, metavar="I", dest="break_",
                       help="plant fault I, from 1, and run until a number is wrong")  # fmt: skip
    about.add_argument("--ipynb", metavar="FILE", help="write the lesson as a notebook")
    about.add_argument("--faq", nargs="?", type=int, const=True, metavar="N",
                       help="answer question N; without N, list the questions")  # fmt: skip
    about.add_argument("--glossary", action="store_true", help="list the terms in both languages")
    about.add_argument("--pages", metavar="DIR", help="write all lessons into DIR as Markdown")
    args = parser.parse_args(argv)
    if args.demo and args.lesson is None:
        args.lesson = _DEMO
    elif args.demo:
        raise ValueError(f"--demo is lesson {_DEMO} ({args.lesson}); omit --demo, or the number")
    needs = {"--check": args.check, "--answer": args.answer or None, "--break": args.break_,
             "--ipynb": args.ipynb, "--step": args.step or None}  # fmt: skip
    refuses = {"--faq": args.faq, "--glossary": args.glossary or None, "--pages": args.pages}
    for flag, value in (refuses if args.lesson is not None else needs).items():
        if value is not None:
            raise ValueError(
                f"{flag} needs the number of a lesson; for example: scratchlm-learn 14 {flag}"
                if args.lesson is None
                else f"{flag} is not for one lesson ({args.lesson}); omit the number, or {flag}"
            )
    return args


if __name__ == "__main__":
    sys.exit(main())
