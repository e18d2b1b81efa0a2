"""What scripts have in common is the same to the byte, so that reading one of them is reading half of the next."""

import ast
import functools
from collections import defaultdict

import pytest

from tests.tiny import ROOT

SCRIPTS = [path for path in sorted(ROOT.glob("*.py"))]
OWN = {"Args", "useless", "check", "main", "weights"}  # every script has its own
VARIANTS = {
    # what only clones needs no samples with gradients and no bfloat16
    "Actor": ({"rlif_rlpd.py"}, {path.name for path in SCRIPTS} - {"rlif_rlpd.py"}),
    "row_of": ({"mile.py"}, {"iwr.py", "sirius.py"}),  # MILE also foretells interventions
}


@functools.cache
def blocks():
    """Top-level functions and classes by name: {name: {script: source}}."""
    found = defaultdict(dict)
    for path in SCRIPTS:
        source = path.read_text()
        for node in ast.parse(source).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name not in OWN:
                found[node.name][path.name] = ast.get_source_segment(source, node)
    return {name: sources for name, sources in found.items() if len(sources) > 1}


def test_there_are_common_blocks():
    assert {"make_env", "seed_for", "evaluate", "parse_args", "open_run"} <= blocks().keys()


@pytest.mark.parametrize("name", blocks())
def test_equal_to_the_byte(name):
    sources = blocks()[name]
    for group in VARIANTS.get(name, (set(sources),)):
        assert len({sources[script] for script in group & sources.keys()}) == 1
    assert set(sources) == set().union(*VARIANTS.get(name, (set(sources),)))


def test_the_last_lines_are_the_same():
    assert len({path.read_text().partition('if __name__ == "__main__":')[2] for path in SCRIPTS}) == 1


def test_every_script_has_the_same_order():
    """Args, environment, networks, evaluation, keeping a run, main."""
    names = "Args", "make_env", "seed_for", "Actor", "evaluate", "main_metric", "parse_args", "useless", "check"
    names = *names, "open_run", "Run", "main"
    for path in SCRIPTS:
        defined = [getattr(node, "name", None) for node in ast.parse(path.read_text()).body]
        assert [name for name in defined if name in names] == list(names), path.name
