"""What the pages say to run can be run, and what they name is there."""

import ast
import importlib
import re
import shlex
import sys
from types import ModuleType

import pytest
import tyro

import experts.record
from tests import tiny
from tests.tiny import ROOT, SCRIPTS, parsed

sys.path.insert(0, str(ROOT / "benchmark"))
PAGES = ["README.md", "CONTRIBUTING.md", "experts/README.md", "lesson/README.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
COMMAND = re.compile(r"python (-m [\w.]+|[\w/]+\.py)(?!\w)(.*)")


def commands(page):
    """Every command of a page in a code block or between backticks: (program, options)."""
    text, found = TEXTS[page], []
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    blocks += re.findall(r"^(?: {4}|\t)(.*)$", text, re.M)
    blocks += [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            for program, options in COMMAND.findall(line):
                # `cmd && other`, `cmd; other` and `cmd | other` end at the sign
                found.append((program, re.split(r"&&|;|\|", options)[0].strip()))
    return found


ALL = sorted({command for page in PAGES for command in commands(page)})


def test_there_are_commands_of_every_script_in_the_first_page():
    named = {program for program, _ in commands("README.md")}
    assert {f"{name}.py" for name in SCRIPTS} <= named and "-m experts.record" in named
    assert sum(len(commands(page)) for page in PAGES) > 60


@pytest.mark.parametrize(("program", "options"), ALL)
def test_command_is_understood(program, options):
    if program.startswith("-m "):
        module = program.removeprefix("-m ")
        known = ("pip", "pytest", "tensorboard", "experts.record", "experts.vision")
        assert module in known or module.split(".")[0] in known
        if module == "experts.record":
            tyro.cli(experts.record.Args, args=shlex.split(options, comments=True))
        return
    assert (ROOT / program).exists()
    if program.startswith("lesson/"):  # test_lesson.py runs it
        return
    words = shlex.split(options, comments=True)
    module = importlib.import_module(program.split("/")[-1].removesuffix(".py"))
    if "<" in options:  # runs/<run>
        words = [word for word in words if "<" not in word and word not in ("--resume", "--replay")]
    if module.__name__ in SCRIPTS and "--help" not in words:
        parsed(module, *words)
    elif hasattr(module, "Args"):
        with pytest.raises(SystemExit) as caught:
            tyro.cli(module.Args, args=["--help"])
        assert caught.value.code == 0
        text = (ROOT / program).read_text()
        for word in words:
            name = word.removeprefix("--").split("=")[0].removeprefix("no-").replace("-", "_")
            assert word[:2] != "--" or word == "--help" or re.search(rf"\b{name}: ", text), word


def test_every_option_that_a_page_names_exists():
    known = {"help", "logdir", "head", "version", "only", "extra_index_url"}  # of other programs
    for path in [*ROOT.glob("*.py"), *ROOT.glob("benchmark/*.py"), *ROOT.glob("experts/*.py")]:
        known |= set(re.findall(r"^    (\w+): ", path.read_text(), re.M))
    for page, text in TEXTS.items():
        if page in ("docs/results.md", "docs/tried.md"):  # rows are runs, some of commit 50e6220
            text = re.sub(r"^\|.*$", "", text, flags=re.M)
        for option in re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", text):
            assert option.removeprefix("no-").replace("-", "_") in known, f"{page}: --{option}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_to_headings(page):
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", TEXTS[page]):
        target, _, heading = "".join(link).partition("#")
        if "://" in target:
            continue
        path = (folder / target).resolve() if target else ROOT / page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, heading


@pytest.mark.parametrize("page", PAGES)
def test_python_on_the_pages_imports_what_there_is(page):
    for code in re.findall(r"^```python\n(.*?)^```", TEXTS[page], re.M | re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "experts":
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), code


def test_a_person_and_a_rule_of_ones_own_work_as_the_page_says(people, capsys):
    codes = re.findall(r"^```python\n(.*?)^```", TEXTS["experts/README.md"], re.M | re.S)
    mine, rule, again = (
        next(x for x in codes if y in x) for y in ("class Mine", "(ValueHuman)", "range(100)")
    )
    source, module = (ROOT / "rlif_rlpd.py").read_text(), ModuleType("rlif_rlpd")
    loaded = "    if human:\n        expert = load_expert(args.env_id, args.expert, env)\n"
    assert loaded in source and "# --- main" in source
    source = source.replace(loaded, "    human, expert = FarHuman(args, None, rng), Mine()\n")
    source = source.replace(
        "# --- main", mine.replace("zeros(3)", "zeros(1)") + rule + "# --- main"
    )
    exec(source, module.__dict__)
    rb = tiny.checkpoint(tiny.short_run(module, "--intervention-beta 1"))["rb"]
    labelled = rb["next_obs"][rb["rewards"] < 0]
    assert len(labelled) > 1 and (labelled[:, 0].abs() > 0.5).all()
    assert (rb["actions"] == 0).float().mean() > 0.1
    exec(again.replace("range(100)", "range(2)"), {})
    assert 0 < float(capsys.readouterr().out.splitlines()[-1]) < 110
