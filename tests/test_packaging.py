"""The installation: five packages, the commands, and the same names in each list."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import scratchlm

ROOT = Path(__file__).parents[1]
TOML = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = TOML["project"]


def test_the_core_needs_five_packages():
    names = {re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]}
    assert names == {"torch", "einx", "regex", "numpy", "tqdm"}
    assert PROJECT["version"] == scratchlm.__version__


def test_every_local_link_of_the_documents_leads_somewhere():
    for document in (ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert link.startswith("http") or (document.parent / link).exists(), link


def test_the_readme_names_every_folder_in_the_order_of_imports():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    places = [text.find(f"](src/scratchlm/{name})") for name in folders_in_order()]
    assert all(place > 0 for place in places)
    assert places == sorted(places)
    assert len(text.splitlines()) <= 170


def folders_in_order() -> list[str]:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    order = page.split("have a fixed order:\n\n")[1].split("\n\n")[0]
    return re.findall(r"`(\w+)`", order)[3:]  # after errors, config and functional


def test_the_quickstarts_corpus_is_split_by_file(tmp_path):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import stdlib_corpus
    finally:
        sys.path.pop(0)
    library = tmp_path / "lib"
    for i in range(200):
        path = library / ("test" if i % 10 == 0 else "package") / f"module_{i}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# module {i}\n" * 40)
    found = stdlib_corpus.sources(library)
    assert len(found) == 180, "tests are left out"
    held_out = {name for name in found if stdlib_corpus.held_out(name)}
    assert 0 < len(held_out) < 30
    assert held_out == {name for name in found if stdlib_corpus.held_out(name)}


# A checkout on the path would be taken for an installation.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def installed(path: Path, *what: str | Path) -> Path:
    """Return a new environment with `what` installed. It can also import the packages of
    this one."""
    venv.create(path, with_pip=False)
    subprocess.run(
        [*PIP, "--python", path, "install", "-q", "--no-deps", *what], env=ENVIRONMENT, check=True
    )
    mine = next(path for path in sys.path if path.endswith("site-packages"))
    (next(path.glob("lib/python*/site-packages")) / "host.pth").write_text(mine)
    return path


def test_every_package_is_installed():
    folders = {path.parent for path in (ROOT / "src" / "scratchlm").rglob("*.py")}
    names = {".".join(path.relative_to(ROOT / "src").parts) for path in folders}
    assert set(TOML["tool"]["setuptools"]["packages"]) == names | {"scratchlm.configs"}


@pytest.mark.slow
def test_an_editable_install_finds_the_recipes_by_name(tmp_path):
    fresh = installed(tmp_path / "fresh", "-e", ROOT)
    command = [fresh / "bin" / "scratchlm-train", "--config", "gpt2-124m", "--dry_run"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert "124,475,904" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment_has_working_commands(tmp_path):
    """The environment can import the packages of this one, so pip does not download torch again."""
    subprocess.run([*PIP, "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("scratchlm-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        "scratchlm/py.typed", "scratchlm/tokenizer/playground/playground.html",
        "scratchlm/data/download/downloads.json",
    } <= set(names)  # fmt: skip
    assert not [name for name in names if name.startswith(("tests", "configs"))]
    recipes = {f"scratchlm/configs/{path.name}" for path in (ROOT / "configs").glob("*.toml")}
    assert recipes <= set(names)
    fresh = installed(tmp_path / "fresh", wheel)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("so it goes, and goes, and goes on\n" * 200)
    for words in (
        ["tokenize", "--corpus", corpus, "--vocab_size", "270", "--output_tokenizer", "t.json"],
        ["tokenize", "--tokenizer_path", "t.json", "--encode", corpus, "--output", "c.bin"],
        ["train", "--train_data", "c.bin", "--d_model", "16", "--num_heads", "2", "--out", "run",
         "--num_layers", "1", "--max_seq_len", "8", "--batch_size", "2", "--iterations", "3"],
        ["train", "--config", "tiny", "--train_data", "c.bin", "--out", "named", "--iterations",
         "1", "--max_seq_len", "8", "--vocab_size", "270"],
        ["generate", "--model_path", "run", "--prompt", "so", "--max_tokens", "5"],
    ):  # fmt: skip
        command = [fresh / "bin" / f"scratchlm-{words[0]}", *words[1:]]
        subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True)


def test_the_commands_lead_to_functions():
    for name, target in PROJECT["scripts"].items():
        module, function = target.split(":")
        assert module == f"scratchlm.cli.{name.removeprefix('scratchlm-')}"
        assert callable(getattr(importlib.import_module(module), function))


def test_the_python_of_the_pages_runs(tmp_path, monkeypatch, capsys):
    from helpers import tiny
    from scratchlm import save_checkpoint

    pages = [ROOT / "README.md", ROOT / "docs" / "tokenizer.md", ROOT / "docs" / "generating.md"]
    texts = "".join(page.read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(r"```python\n(.*?)```", texts, re.DOTALL)
    assert len(blocks) == 3
    assert "range(200)" in blocks[0]
    monkeypatch.chdir(tmp_path)
    tiny.corpus(tmp_path, 8000, "shakespeare.txt")
    tokenizer = tiny.tokenizer(tmp_path).to_json()
    (tmp_path / "runs").mkdir()
    save_checkpoint(tmp_path / "runs/shakespeare", tiny.model(), None, 1, tokenizer=tokenizer)
    for block in blocks:
        exec(compile(block.replace("range(200)", "range(2)"), "a page", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_constraints_are_versions_of_packages():
    for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"#.*|[\w.-]+==[\w.]+", line), line


def test_both_readmes_say_the_same():
    english, chinese = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")
    )
    assert "(README.zh.md)" in english.splitlines()[0]
    assert "(README.md)" in chinese.splitlines()[0]
    rest = [text.split("\n", 1)[1] for text in (english, chinese)]
    for what in (
        r"^#+ ",  # headings
        r"```\w*\n.*?```",  # commands, without their comments
        r"(?<!`)`[^`\n]+`(?!`)",
        r"\]\([^)]+\)",  # link targets
        r"(?<![\w.])\d[\d.,]*\d|(?<![\w.])\d",
    ):
        found = [
            sorted(re.sub(r" +# .*", "", match) for match in re.findall(what, text, re.M | re.S))
            for text in rest
        ]
        assert found[0] == found[1], what
    assert not re.search(r"[\u4e00-\u9fff]", rest[0])
