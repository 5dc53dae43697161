"""README and pages: commands parse, links lead somewhere, named files exist, English is plain."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main
from readme import PAGES, ROOT, blocks, commands, sentences

from crossfeed.cli import app
from crossfeed.config import load_config, parse_config

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


LONGEST_SENTENCE = 35

BANNED = (
    r"\bgo(?:es|ne|ing)? on with\b",  # continue, resume
    r"\bthat of\b",  # name the thing again
    r"\bof which\b",  # whose, or a sentence of its own
    r"\bsuch as it is\b",
    r"\bthat there (?:is|are)\b",  # existing, or leave it out
    r"\bwhere there (?:is|are) none\b",  # if there is none
    r"\b(?:of|by|from) what\b",  # name the thing
    r"\b(?:of|for|by|from|to) who\b",  # people who
    r"\banew\b",  # again
    r"\b(?:breaks?|broken|broke) off\b",  # interrupted
    r"(?<!there )\bis no (?:kind|ISO|bundle|range|size|pattern|number|report|log|file)\b",  # not a
    r'"""What ',  # a noun says what it is
    r"\bnone twice\b",  # without repeats
    r"\bTake over what\b",  # Load the result of
    r"\bwho (?:asks|gave|evaluates|is asked)\b",  # the caller, the user
    r"\bwhat .{0,30} (?:left behind|brings|gives each other)\b",  # name the thing
    r"\bgo(?:es)? on (?:from|by|behind)\b",  # continue
)
"""Phrasings that readers stumble on (regular expressions), and what to write instead."""

CROSSFEED = [(page.name, words) for page in PAGES for words in commands(page, "crossfeed")]


def test_the_readme_shows_the_whole_line() -> None:
    shown = {words[0] for name, words in CROSSFEED if name == "README.md"}
    assert {"prepare", "train", "evaluate", "export", "recommend", "serve"} <= shown


@pytest.mark.parametrize(("page", "words"), CROSSFEED, ids=lambda value: str(value))
def test_every_command_parses(page: str, words: list[str]) -> None:
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    assert command.make_context("crossfeed", list(words)).params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_exists(page: Path) -> None:
    named = {words[0] for words in commands(page, "make")}
    named |= set(re.findall(r"`make ([a-z][a-z-]*)`", page.read_text("utf-8")))
    assert named <= TARGETS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text("utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_source_file_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", page.read_text("utf-8")))
    roots = (ROOT, ROOT / "src" / "crossfeed")
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    known = {f"{name}.{key}" for name, one in load_config() for key in type(one).model_fields}
    named = set(
        re.findall(r"`((?:data|model|train)\.[a-z_]+)(?: = [^`]*)?`", page.read_text("utf-8"))
    )
    files = {name for name in named if name.endswith((".py", ".parquet"))}
    assert named - files <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_toml_block_is_a_configuration(page: Path) -> None:
    for block in blocks(page, "toml"):
        parse_config(tomllib.loads(block))


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.toml")), ids=lambda f: f.name)
def test_every_example_is_a_configuration(file: Path) -> None:
    load_config(file)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_json_block_is_json(page: Path) -> None:
    for block in blocks(page, "json"):
        json.loads(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_sentence_is_long(page: Path) -> None:
    long = [one for one in sentences(page) if len(one.split()) > LONGEST_SENTENCE]
    assert long == []


def test_sentences_are_told_apart(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading. Not a sentence\n\n"
        "One [link to a](page.md). Two\nlines, e.g. by Hu et al. 2008 (so)!\n\n"
        "- three: `a.b`.\n- Four\n\n| a cell. | b |\n\n```sh\ncode. more\n```\n\n    q\n",
        "utf-8",
    )
    assert list(sentences(page)) == [
        "One [link to a].",
        "Two lines, e.g. by Hu et al. 2008 (so)!",
        "three: `a.b`.",
        "Four",
    ]


@pytest.mark.parametrize("phrasing", BANNED)
def test_english_is_plain(phrasing: str) -> None:
    source = ROOT / "src" / "crossfeed"
    files = [*PAGES, *sorted(source.rglob("*.py")), *sorted(source.rglob("*.html"))]
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if re.search(phrasing, line)
    ]
    assert found == []


def test_the_settings_page_is_up_to_date() -> None:
    script = ROOT / "scripts" / "write_settings_page.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_settings_page_explains_every_setting() -> None:
    rows = re.findall(r"^\| `.*\|$", (ROOT / "docs/configuration.md").read_text("utf-8"), re.M)
    unexplained = [row for row in rows if row.split("|")[-2].strip() == ""]
    count = sum(len(type(section).model_fields) for _, section in load_config())
    assert (len(rows), unexplained) == (count, [])


def test_the_version_is_the_same_everywhere() -> None:
    script = ROOT / "scripts" / "check_version.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
