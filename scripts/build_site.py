"""Build the site in English and Chinese: `python scripts/build_site.py [--out build/site]`.

The script needs the extra `docs`. It runs all lessons, and writes their pages, the pages of docs/,
the source files that these pages link to, and a page with the public names and their docstrings.
Zensical builds each language as a plain site of its own, and stops at a broken link.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import scratchlm
from scratchlm import functional
from scratchlm.lessons.lesson import lessons, title
from scratchlm.lessons.pages import write

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(((?!https?:)[^)#\s]+)(#[^)\s]*)?\)")
WORDS = {
    "en": ("English", "Home", "Lessons", "Questions", "Glossary", "Guides", "Public names"),
    "zh": (
        "中文",
        "首页",
        "课程",
        "常见问题",
        "术语表",
        "使用指南 (English)",
        "公开的名字 (English)",
    ),
}
README = {"en": "README.md", "zh": "README.zh.md"}
OTHER = {"en": "zh", "zh": "en"}
COLUMNS = 78  # of code, on a page beside its contents
# A wide picture keeps its size on a telephone, and scrolls.
STYLE = """.md-typeset p:has(> img[src$=".svg"]) { overflow-x: auto }
.md-typeset img[src$=".svg"] { max-width: max(100%, 640px) }
"""
START = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>scratchlm</title>
<script>location.replace(navigator.language.startsWith("zh") ? "zh/" : "en/")</script>
<a href="en/">English</a> <a href="zh/">中文</a>
</html>
"""
FEATURES = ["content.code.copy", "navigation.footer", "navigation.top", "search.highlight"]


def api_page() -> str:
    """Return a page with the signature and the docstring of each public name."""
    parts = ["# Public names", "", "These names are part of `scratchlm`; `functional` has more."]
    public = {name: getattr(scratchlm, name) for name in sorted(scratchlm.__all__)}
    more = {
        f"functional.{name}": value
        for name, value in sorted(vars(functional).items())
        if inspect.isfunction(value) and value.__module__ == functional.__name__ and name[0] != "_"
    }
    for name, value in (public | more).items():
        if not callable(value):
            continue
        parts += ["", f"## {name}", "", f"```python\n{signature(name, value)}\n```", ""]
        parts.append(f"```text\n{narrow(inspect.getdoc(value) or '')}\n```")
    return "\n".join(parts) + "\n"


def signature(name: str, value: Any) -> str:
    """Return `name(…)` in lines that fit on the page, the same in each build."""
    text = f"{name}{inspect.signature(value)}"
    text = re.sub(r"<function ([\w.<>]+) at 0x\w+>", r"\1", text)
    text = re.sub(r"(: |-> )(['\"])(.*?)\2", r"\1\3", text)  # annotations are strings
    text = re.sub(r"(?<!,) ", "\N{NO-BREAK SPACE}", text)  # break lines only after a comma
    lines = textwrap.fill(
        text, COLUMNS, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
    )
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def narrow(text: str) -> str:
    """Return a docstring whose wide paragraphs fit on the page. Lists and formulas stay."""
    return "\n\n".join(
        textwrap.fill(part, COLUMNS)
        if len(max(part.splitlines(), key=len, default="")) > COLUMNS
        and not re.search(r"^[-\s]", part, re.M)
        else part
        for part in text.split("\n\n")
    )


def copied(page: Path, text: str, folder: Path, lang: str) -> str:
    """Return `text` of `page` with links that lead to the copies in `folder`.

    A linked source file becomes a page of its own, and a linked picture is copied. Other files and
    folders of the repository are not part of the site, so the text of such a link stays alone.
    """

    def new_link(match: re.Match[str]) -> str:
        target = (page.parent / match[1]).resolve()
        name = target.relative_to(ROOT).as_posix()
        anchor = match[2] or ""
        if name in README.values():
            return f"](index.md{anchor})" if name == README[lang] else f"](../{OTHER[lang]}/)"
        if target.suffix == ".md" and target.parent == ROOT / "docs":
            return f"]({target.name}{anchor})"
        if target.suffix == ".py":
            new = name.replace("/", "-").removeprefix("src-scratchlm-") + ".md"
            code = target.read_text(encoding="utf-8")
            (folder / new).write_text(f"# {name}\n\n````python\n{code}````\n", encoding="utf-8")
            return f"]({new})"
        if target.suffix in (".png", ".svg"):
            shutil.copy(target, folder / target.name)
            return f"]({target.name})"
        return "]()"

    return re.sub(r"\[([^\]]*)\]\(\)", r"\1", LINK.sub(new_link, text))


def build(lang: str, out: Path) -> None:
    """Write the pages of one language, and build its site into `out`/`lang`."""
    with tempfile.TemporaryDirectory() as work:
        write_pages(lang, Path(work))
        zensical = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
        subprocess.run(zensical, cwd=work, check=True)
        shutil.rmtree(out / lang, ignore_errors=True)
        shutil.copytree(Path(work, "site"), out / lang)
    for page in (out / lang).glob("*/index.html"):
        # The theme's switch leads to the other home page. Both languages have the same pages.
        html = page.read_text(encoding="utf-8")
        html = re.sub(r'(href="\.\./\.\./(en|zh)/)"', rf'\g<1>{page.parent.name}/"', html)
        page.write_text(html, encoding="utf-8")


def write_pages(lang: str, work: Path) -> None:
    """Write Zensical's configuration into `work`, and the pages of one language below it."""
    pages = work / "pages"
    write(pages, lang)
    guides = sorted((ROOT / "docs").glob("*.md"))
    for source in [ROOT / README[lang], *guides]:
        name = "index.md" if source.parent == ROOT else source.name
        text = copied(source, source.read_text(encoding="utf-8"), pages, lang)
        (pages / name).write_text(text, encoding="utf-8")
    (pages / "site.css").write_text(STYLE, encoding="utf-8")
    (pages / "api.md").write_text(api_page(), encoding="utf-8")
    _, home, course, faq, glossary, guide, api = WORDS[lang]
    numbered = {
        f"{number} · {title(cells, lang)}": f"{cells[0].path.stem}.md"
        for number, cells in lessons().items()
    }
    nav: list[dict[str, Any]] = [
        {home: "index.md"},
        {course: [{name: page} for name, page in numbered.items()]},
        {faq: "faq.md"},
        {glossary: "glossary.md"},
        {guide: [{source.stem.replace("-", " "): source.name} for source in guides]},
        {api: "api.md"},
    ]
    other = [{"name": WORDS[code][0], "link": f"../{code}/", "lang": code} for code in WORDS]
    config = {
        "site_name": "scratchlm",
        "docs_dir": "pages",
        "site_dir": "site",
        "nav": nav,
        "theme": {"language": lang, "features": FEATURES, "font": False},  # asks no other server
        "extra": {"alternate": other},
        "extra_css": ["site.css"],
        "markdown_extensions": ["tables", "pymdownx.superfences", {"toc": {"permalink": True}},
                                {"pymdownx.highlight": {"pygments_lang_class": True}}],
    }  # fmt: skip
    # JSON is YAML, too.
    (work / "mkdocs.yml").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", metavar="DIR")
    args = parser.parse_args()
    for lang in WORDS:
        build(lang, args.out)
    (args.out / "index.html").write_text(START, encoding="utf-8")
    print(f"the site: {args.out / 'index.html'}")


if __name__ == "__main__":
    main()
