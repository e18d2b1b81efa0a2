"""What scripts have in common is equal, so that reading one of them is reading half of the next."""

import ast
import functools
import os
import re
import subprocess
import sys
from collections import defaultdict

import pytest

from tests import tiny
from tests.tiny import ROOT, SCRIPTS

SOURCES = {path.stem: path.read_text() for path in sorted(ROOT.glob("*.py"))}
OWN = {"Args", "main", "weights"}  # every script has its own
VARIANTS = {  # name: groups of scripts that mean another one than all others
    "make_env": [{"rlif_rlpd", "hil_serl", "pvp"}],  # without discrete actions
    "Actor": [{"rlif_rlpd", "hil_serl"}, {"pvp"}],  # samples with gradients, bfloat16; TD3's
    # a charge for falls needs to know how often such a person takes over
    **dict.fromkeys(["ValueHuman", "RandomHuman"], [{"rlif_rlpd"}]),
    **dict.fromkeys(["Agent", "ReplayBuffer"], [{"rlif_rlpd"}, {"hil_serl"}]),
}
SECTIONS = "environment", "person", "network", "buffer", "evaluation", "main"
GROUPS = "run", "task", "person", "data", "learner"  # of options
CEILINGS = {"experts/*.py": 980, "benchmark/*.py": 2_227, "tests/*.py": 7_655, "README.md": 150}
CEILINGS |= {f"{name}.py": script.lines for name, script in SCRIPTS.items()}


@functools.cache
def blocks():
    """Top-level functions and classes by name: {name: {script: source}}."""
    found = defaultdict(dict)
    for script, source in SOURCES.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in OWN:
                found[node.name][script] = ast.get_source_segment(source, node)
    return {name: sources for name, sources in found.items() if len(sources) > 1}


def test_every_script_has_the_blocks_that_all_have():
    assert set(SOURCES) == set(SCRIPTS)
    for name in ("make_env", "Actor", "evaluate", "write_rows"):
        assert set(blocks()[name]) == set(SCRIPTS), name


@pytest.mark.parametrize("name", blocks())
def test_equal_to_the_byte(name):
    apart = VARIANTS.get(name, [])
    for group in (*apart, set(SCRIPTS).difference(*apart)):
        assert len({text for script, text in blocks()[name].items() if script in group}) <= 1


def test_the_last_lines_are_equal():
    assert len({text.partition('if __name__ == "__main__":')[2] for text in SOURCES.values()}) == 1


@pytest.mark.parametrize("name", SOURCES)
def test_the_same_order(name):
    """Of sections, definitions and groups of options."""
    source = SOURCES[name]
    sections = re.findall(r"^# --- (?:replay )?([a-z]+?)s? -+$", source, re.M)
    assert sections == [section for section in SECTIONS if section in sections]
    assert set(SECTIONS) - set(sections) <= {"person", "buffer"}
    defined = [getattr(node, "name", None) for node in ast.parse(source).body]
    names = ["Args", "make_env", "Actor", "evaluate", "write_rows", "main"]
    assert [found for found in defined if found in names] == names
    options = source.partition("class Args:")[2].partition("def check")[0]
    groups = re.findall(r"^    # --- ([a-z]+) ---$", options, re.M)
    assert groups == [group for group in GROUPS if group in groups]
    assert set(GROUPS) - set(groups) <= {"person", "data"}


def options_of(name):
    """The options of a script: {name: (type and default, comment)}."""
    args = SOURCES[name].partition("class Args:")[2].partition("def check")[0]
    found = re.findall(r"^    (\w+): (.*?)(?:  # (.*))?$", args, re.M)
    return {option: (kind, comment) for option, kind, comment in found}


# options whose words differ, for what is counted or learned is another thing
OTHER_WORDS = "exp_name env_id total_timesteps eval_frequency expert intervention random_rate"
OTHER_WORDS += " demo_episodes batch_size learning_rate hidden_sizes num_threads round_episodes"
OTHER_WORDS += " round_updates initial_policy tau offline_ratio bc_weight reward"


def test_options_of_the_same_name_are_described_in_the_same_words_and_order():
    options, words = {name: options_of(name) for name in SCRIPTS}, defaultdict(set)
    for script, found in options.items():
        for name, (_, comment) in found.items():
            words[name].add(comment)
        for other in (o for o in SCRIPTS if SCRIPTS[o].kind in ("clone", SCRIPTS[script].kind)):
            shared = [option for option in found if option in options[other]]
            assert shared == [option for option in options[other] if option in found]
    differ = {name for name, comments in words.items() if len(comments) > 1}
    assert differ <= set(tiny.words(OTHER_WORDS)) and len(words) > 50


@pytest.mark.parametrize(("pattern", "ceiling"), CEILINGS.items())
def test_it_stays_short(pattern, ceiling):
    paths = list(ROOT.glob(pattern))
    assert paths and sum(len(path.read_text().splitlines()) for path in paths) <= ceiling


def test_no_line_has_more_than_100_columns():
    folders = ROOT, ROOT / "experts", ROOT / "benchmark", ROOT / "tests", ROOT / "lesson"
    paths = [path for folder in folders for path in folder.glob("*.py")]
    lines = [(path, line) for path in paths for line in path.read_text().splitlines()]
    assert len(paths) > 20 and [found for found in lines if len(found[1]) > 100] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_needs_little_of_experts_and_nothing_of_other_scripts(name):
    taken = []
    for node in ast.walk(ast.parse(SOURCES[name])):
        if isinstance(node, ast.ImportFrom | ast.Import):
            modules = [getattr(node, "module", None) or alias.name for alias in node.names]
            parts = {module.split(".")[0] for module in modules}
            assert not parts & {*SCRIPTS, "benchmark", "tests", "lesson"}
            taken += [alias.name for alias in node.names] if "experts" in parts else []
    assert 0 < len(taken) <= 8


ALONE = """
import os, runpy, sys
for folder in sys.argv[1:]:
    name = os.path.basename(folder)
    os.chdir(folder)
    sys.argv = [f"{name}.py", *open("options").read().split()]
    sys.path.insert(0, folder)
    runpy.run_path(f"{name}.py", run_name="__main__")
    assert "pygame" not in sys.modules
"""


def test_a_copy_of_one_script_and_experts_alone_runs(people, tmp_path):
    for name, script in SCRIPTS.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "experts").symlink_to(ROOT / "experts")
        (folder / f"{name}.py").write_text(SOURCES[name])
        env_id = "Hopper-v5" if script.kind == "clone" else "MountainCarContinuous-v0"
        (folder / "options").write_text(f"{tiny.SHORT[name]} --env-id {env_id}")
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", ALONE, *(str(tmp_path / name) for name in SCRIPTS)]
    process = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert len(list(tmp_path.glob("*/runs/*/model.safetensors"))) == len(SCRIPTS)
