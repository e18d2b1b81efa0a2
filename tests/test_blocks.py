"""What scripts have in common is the same to the byte, so that reading one of them is reading half of the next."""

import ast
import functools
import importlib
import re
from collections import defaultdict
from dataclasses import fields

import pytest

from tests.tiny import ROOT, SHORT

SCRIPTS = {path.stem: path.read_text() for path in sorted(ROOT.glob("*.py"))}
CLONES = {"bc", "dagger", "hg_dagger", "iwr", "mile", "sirius"}
OWN = {"Args", "check", "main", "weights"}  # every script has its own
VARIANTS = {
    # what only clones needs no samples with gradients and no bfloat16
    "Actor": ({"rlif_rlpd"}, CLONES),
    # a charge for falls needs to know how often such a person takes over
    "ValueHuman": ({"rlif_rlpd"}, {"hg_dagger"}),
    "RandomHuman": ({"rlif_rlpd"}, {"hg_dagger"}),
}
LINES = {"rlif_rlpd": 560, "mile": 500, "hg_dagger": 460} | dict.fromkeys(
    ("sirius", "iwr", "dagger"), 370
)
LINES |= {"bc": 320}
SECTIONS = {  # name: must every script have it?
    "environment": True, "intervention": False, "labels": False, "network": True, "replay buffer": False,
    "the model of interventions": False, "main": True,
}  # fmt: skip
GROUPS = "run", "task", "person", "data", "learner", "speed"  # of options


@functools.cache
def blocks():
    """Top-level functions and classes by name: {name: {script: source}}."""
    found = defaultdict(dict)
    for script, source in SCRIPTS.items():
        for node in ast.parse(source).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name not in OWN:
                found[node.name][script] = ast.get_source_segment(source, node)
    return {name: sources for name, sources in found.items() if len(sources) > 1}


def test_there_are_common_blocks():
    assert {"make_env", "Actor", "nll", "fit", "ProbitHuman", "rollout"} <= blocks().keys()
    assert set(blocks()["make_env"]) == set(SCRIPTS) == set(SHORT) == set(LINES)


@pytest.mark.parametrize("name", blocks())
def test_equal_to_the_byte(name):
    sources = blocks()[name]
    for group in VARIANTS.get(name, (set(sources),)):
        assert len({sources[script] for script in group & sources.keys()}) == 1
    assert set(sources) == set().union(*VARIANTS.get(name, (set(sources),)))


def test_the_last_lines_are_the_same():
    assert len({text.partition('if __name__ == "__main__":')[2] for text in SCRIPTS.values()}) == 1


def lines_of(script, start, end):
    """The lines of a script from the one that is start to the one before end, without blanks around them."""
    lines = [line.strip() for line in SCRIPTS[script].splitlines()]
    first = lines.index(start)
    return lines[first : lines.index(end, first)]


@pytest.mark.parametrize("group", ["run", "speed"])
def test_options_that_all_scripts_have_are_described_alike(group):
    """But for the run's name and for what only rlif_rlpd.py can do to be fast."""
    ends = {"run": "# --- task ---", "speed": "def check(args, typed):"}
    texts = {}
    for script in SCRIPTS:
        lines = lines_of(script, f"# --- {group} ---", ends[group])
        texts[script] = [line for line in lines if line and not line.startswith("exp_name")]
    assert all(texts[script] == texts["bc"] for script in CLONES)
    assert texts["rlif_rlpd"][: len(texts["bc"])] == texts["bc"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_same_order_of_sections(script):
    found = re.findall(r"^# --- ([a-z ]+) -+$", SCRIPTS[script], flags=re.MULTILINE)
    found = ["network" if name == "networks" else name for name in found]
    assert found == [name for name in SECTIONS if name in found]  # in order, each once
    assert {name for name, always in SECTIONS.items() if always} <= set(found)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_same_order_of_definitions(script):
    """Args, what is refused, the environment, networks, main."""
    names = "Args", "check", "make_env", "Actor", "main"
    defined = [getattr(node, "name", None) for node in ast.parse(SCRIPTS[script]).body]
    assert [name for name in defined if name in names] == list(names)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_same_order_of_options(script):
    start = SCRIPTS[script].index("class Args:")
    args = SCRIPTS[script][start : SCRIPTS[script].index("\ndef check", start)]
    found = re.findall(r"^    # --- ([a-z]+) ---$", args, flags=re.MULTILINE)
    assert found == [name for name in GROUPS if name in found]
    assert set(GROUPS) - set(found) <= {"person"}  # bc.py has none


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_stays_short(script):
    lines = SCRIPTS[script].splitlines()
    assert len(lines) <= LINES[script]
    assert [line for line in lines if len(line) > 100] == []


def test_rlif_rlpd_has_the_most_options_and_not_too_many():
    counts = {script: len(fields(importlib.import_module(script).Args)) for script in SCRIPTS}
    assert max(counts.values()) == counts["rlif_rlpd"] <= 42
