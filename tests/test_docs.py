"""Every Markdown file for people: its links lead somewhere, its commands and options exist, its tables are the stored results."""

import functools
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

import clm_kernels as clm
from benchmarks import table
from clm_kernels.ops.registry import MODULES

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS, *(ROOT / "benchmarks").glob("**/[A-Z]*.md")]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
OF_CLI = [
    ROOT / "README.md",
    *(page for page in DOCS if page.stem in ("data", "methods", "decoders", "service", "shipping", "training")),
]

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, words joined by hyphens, the second of a kind numbered."""
    seen, found = Counter(), set()
    for title in re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title).lower()).strip().replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and target.is_relative_to(ROOT) and (not anchor or anchor in anchors(target))


@every_page
def test_links_lead_somewhere(page):
    assert [link for link in links(page) if not leads_somewhere(page, link)] == []


def test_the_readme_leads_to_every_page():
    reached = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert [page for page in (*DOCS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md") if page not in reached] == []


# The command line


@functools.cache
def helped(*words: str) -> str:
    from clm_kernels.cli import app

    all_of_them = "--help-all" if words == ("train",) else "--help"
    shown = CliRunner().invoke(app, [*words, all_of_them], env={"COLUMNS": "200", "TERM": "dumb"})
    assert shown.exit_code == 0, shown.output
    return shown.output


def commands() -> list[str]:
    return re.findall(r"^\W*([a-z]+)  ", helped().split("Commands")[1], flags=re.MULTILINE)


def options(command: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", helped(command)))


def shown_commands() -> list[str]:
    blocks = [
        block for page in PAGES for language, block in FENCED.findall(page.read_text(encoding="utf-8")) if language == "bash"
    ]
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    found = [command.strip() for line in lines for command in line.split("&&")]
    return sorted({command for command in found if command.startswith("clm-kernels ")})


@pytest.mark.parametrize("command", shown_commands())
def test_command_and_its_options_exist(command):
    _, name, *words = command.split()
    assert [word for word in words if word.startswith("--") and word not in options(name)] == []


def test_options_in_the_text_exist():
    known = set().union(*map(options, commands()))
    named = {
        (page.name, option)
        for page in OF_CLI
        for code in re.findall(r"`([^`]+)`", prose(page))
        if not code.startswith("hf ")
        for option in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", code)
    }
    assert {page for page, _ in named} == {page.name for page in OF_CLI}
    assert sorted(pair for pair in named if pair[1] not in known) == []


def test_every_option_of_train_is_explained():
    text = "".join(prose(page) for page in OF_CLI) + "".join(shown_commands())
    trained = {option for option in options("train") if not option.startswith("--no-")} - {
        "--help",
        "--help-all",
        "--json",
        "--quiet",
    }
    assert sorted(o for o in trained if not re.search(rf"{o}(?![a-z-])|{o.replace('--', '--no-', 1)}(?![a-z-])", text)) == []


def test_every_command_stands_in_the_readme():
    rows = prose(ROOT / "README.md").split("## The command line\n")[1].split("\n## ")[0]
    listed = [name for row in re.findall(r"^\| (`.*?) \|", rows, flags=re.MULTILINE) for name in re.findall(r"`([a-z]+)`", row)]
    assert sorted(listed) == sorted(commands())


# Python


NAMES = re.findall(r"^\| `(\w+)` \| .+ \| \[.+\]\((.+)\) \|$", prose(ROOT / "docs" / "python.md"), flags=re.MULTILINE)


def test_every_exported_name_is_documented_once():
    assert sorted(name for name, _ in NAMES) == sorted(clm.__all__)


@pytest.mark.parametrize(("name", "link"), NAMES, ids=[name for name, _ in NAMES])
def test_the_link_of_a_name_holds_its_source(name, link):
    thing, target = getattr(clm, name), (ROOT / "docs" / link).resolve()
    source = target if isinstance(thing, str) else Path(inspect.getsourcefile(thing)).resolve()
    assert target.exists() and (source == target or target in source.parents)


def test_the_implementations_have_their_names():
    (listed,) = re.findall(r"^The names are (.+)\. One that", prose(ROOT / "docs" / "kernels.md"), flags=re.MULTILINE)
    assert re.findall(r"`(\w+)`", listed) == list(MODULES)


# Results


NUMBERS = (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")


def test_the_tables_are_the_stored_results():
    stored = [line for _, lines in (table.cpu(), *table.gpus()) for line in lines]
    assert [line for line in NUMBERS.splitlines() if re.search(r"\| (yes |\*\*no\*\* )?\|$", line)] == stored
    assert all(f"{title}:" in NUMBERS for title, _ in [table.cpu()])


def test_the_whole_runs_are_the_stored_ones():
    (stored,) = (ROOT / "benchmarks" / "results" / "training").glob("*.md")
    _, *tables = stored.read_text(encoding="utf-8").strip().split("\n\n")
    assert len(tables) == 4 and "\n\n".join(tables) in NUMBERS


def test_the_comparison_is_the_stored_one():
    results = ROOT / "benchmarks" / "results" / "tasks" / "table.md"
    overview = results.read_text(encoding="utf-8").split("\n\n")[1]
    assert overview.startswith("|  | 5 sequence tasks | 3 token tasks |")
    assert overview in NUMBERS
