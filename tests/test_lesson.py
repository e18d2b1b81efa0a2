"""The lesson's claims in exact numbers, and its commands."""

import ast
import itertools
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.test_readme import TEXTS, commands
from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "lesson"))
from gridworld import BRIDGE, CLIFF, FIGURES, World, charge, dagger, expert, lost, person, rlif
from gridworld import solve, worst

PAGE, SOURCE = TEXTS["lesson/README.md"], (ROOT / "lesson" / "gridworld.py").read_text()
gamma, k, b = 0.99, 4, 0.05
CLIFF, BRIDGE = World(CLIFF), World(BRIDGE)
BEST = gamma**5 / (1 - gamma**7)  # V*(S): six steps to G, one back to S
VALUE, CHARGED = person(CLIFF.Q), {"X": charge(gamma, k)}


def near(value):
    return pytest.approx(value, abs=1e-9)


def same(left, right):
    return np.abs(np.subtract(left, right)).max() < 1e-9


def threshold(loses, low, high):
    """Where a condition that is true on one side of it changes, by bisection."""
    at_low = loses(low)
    assert at_low != loses(high)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if loses(middle) == at_low else (low, middle)
    return high


# --- the tools ------------------------------------------------------------------------------------


def test_cases_that_are_solved_by_hand():
    # state 0: stay for 1 a step, or go to state 1 for nothing; state 1: 2 a step, for ever
    R, M = np.array([[1.0, 0.0], [2.0, 2.0]]), np.zeros((2, 2, 2))
    M[0, 0, 0] = M[0, 1, 1] = M[1, :, 1] = 0.9
    V, Q = solve(R, M)
    assert same(V, [18, 20]) and same(Q, [[1 + 0.9 * 18, 18], [20, 20]])
    assert CLIFF.V[CLIFF.start] == near(BEST)  # straight to the goal
    assert CLIFF.V.max() == near(1 + gamma**2 * BEST)  # one step before G
    assert BRIDGE.V[BRIDGE.start] == near(gamma**9 / (1 - gamma**11))


@pytest.mark.parametrize("ends", [{}, {"X": 0}, CHARGED, CHARGED | {"G": 0}])
@pytest.mark.parametrize("noise", [0, 0.3])
def test_the_sum_over_a_takeover_is_value_iteration_with_the_steps_left(ends, noise):
    pi_exp, world = expert(CLIFF, b), CLIFF
    worth = np.array([ends.get(cell, np.nan) for cell in world.cells])
    W = np.zeros((k + 1, len(worth)))  # W[j]: the expert has j steps left
    for _ in range(4000):
        for j in range(1, k + 1):
            W[j] = gamma * (pi_exp * (world.P @ W[j - 1])).sum(1)
            W[j] = np.where(np.isnan(worth), W[j], worth)
        Q = VALUE * (-1 + W[k][:, None]) + (1 - VALUE) * gamma * (world.P @ W[0])  # (S, A)
        Q = (1 - noise) * Q + noise * Q.mean(1, keepdims=True)
        W[0] = np.where(np.isnan(worth), Q.max(1), worth)
    V, optimal = rlif(world, VALUE, pi_exp, k, ends, noise)
    assert same(V, W[0])
    assert (optimal == (Q.max(1, keepdims=True) - Q < 1e-9))[np.isnan(worth)].all()


# --- what the page says, in exact numbers ---------------------------------------------------------


def test_dagger_ends_with_what_the_expert_does():
    for b in (0, 0.01, 0.05, 0.5, 0.9):
        clone, alive = dagger(CLIFF, expert(CLIFF, b)), (1 - b) ** 6  # never towards the floor
        assert CLIFF.value(clone) == near(alive * gamma**5 / (1 - alive * gamma**7))
        assert CLIFF.lost(clone) == near(CLIFF.lost(expert(CLIFF, b)))
        assert BEST - CLIFF.value(clone) <= b * CLIFF.V.max() / (1 - gamma) + 1e-9  # (C)
    assert CLIFF.lost(expert(CLIFF, 0.01)) == near(0.4777950635439)
    assert CLIFF.lost(expert(CLIFF, 0.05)) == near(0.8413886125385314)


def test_without_ends_the_optimum_is_never_flagged_whoever_the_expert_is():  # (A)
    for b, steps, beta in itertools.product((0, 0.05, 1), (1, 4, 20), (0.51, 0.95, 1)):
        V, optimal = rlif(CLIFF, person(CLIFF.Q, 0, beta), expert(CLIFF, b), steps)
        p = 1 - beta
        assert same(V, -p / (1 - gamma + p * (gamma - gamma**steps)))
        assert (optimal == (person(CLIFF.Q, 0, 1) == 0)).all()


def test_a_lax_person_or_one_whose_reference_errs_costs_no_more_than_the_bounds():
    pi_exp, least = expert(CLIFF, b), (1 - gamma) * BEST
    assert least == near(0.13998600428511638)
    for share in (lost, worst):
        found = threshold(lambda d: share(CLIFF, person(CLIFF.Q, d), pi_exp) > 1e-9, 0, 0.2)
        assert found == pytest.approx(least, abs=1e-8)
    assert lost(CLIFF, person(CLIFF.Q, 0.15), pi_exp) == near(0.1283126277136103)
    dagger_loses = CLIFF.lost(expert(CLIFF, 0.01))
    behind = threshold(lambda d: lost(CLIFF, person(CLIFF.Q, d), pi_exp) > dagger_loses, 0.2, 0.4)
    assert behind == pytest.approx(0.2813860076, abs=1e-9)
    for delta in (0.01, 0.14, 0.3, 1, 15):  # (B)
        assert BEST * worst(CLIFF, person(CLIFF.Q, delta), pi_exp) <= delta / (1 - gamma) + 1e-9
    for eta, table in itertools.product(
        (0.02, 0.069, 0.12, 0.3), np.random.default_rng(1).uniform(-1, 1, (9, *CLIFF.Q.shape))
    ):
        share = worst(CLIFF, person(CLIFF.Q + eta * table), pi_exp)
        assert BEST * share <= 2 * eta / (1 - gamma) + 1e-9
        assert share == near(0) or 2 * eta >= least  # less than any mistake costs


def test_how_reliable_the_person_has_to_be():
    def reliable(b, ends):
        """The reliability from which on it does not pay to end early."""
        pi_exp, Q = expert(CLIFF, b), CLIFF.Q
        return threshold(lambda x: lost(CLIFF, person(Q, 0, x), pi_exp, k, ends) > 0.5, 0.45, 1)

    assert reliable(0, {}) == pytest.approx(0.5, abs=1e-6)
    assert reliable(0, {"X": 0}) == pytest.approx(10 / 11, abs=1e-6)
    assert near(1 / (1 + math.sqrt(1 - gamma))) == 10 / 11
    assert reliable(b, {"X": 0}) == pytest.approx(0.9188978, abs=1e-6)
    assert reliable(b, CHARGED) == pytest.approx(0.5329068, abs=1e-6)


def test_takeovers_at_random_teach_nothing_but_what_an_end_is_worth():
    takeover = np.full_like(CLIFF.Q, 0.5)
    for ends, share in ({}, 0.9976528413866284), (CHARGED, 1), (CHARGED | {"G": 0}, 0):
        assert lost(CLIFF, takeover, expert(CLIFF, b), k, ends) == near(share)


def test_being_carried_pays_by_the_noise_and_the_takeovers_length():
    def on_the_bridge(b, steps, noise):
        ends = {"X": charge(gamma, steps), "G": 0}
        return lost(BRIDGE, person(BRIDGE.Q), expert(BRIDGE, b), steps, ends, noise)

    assert on_the_bridge(0, 1, 0.9) == near(0)  # a takeover of one step carries nobody
    for steps, found in ((4, 0.3127407895), (10, 0.1883644126)):
        at = threshold(lambda noise, k=steps: on_the_bridge(0, k, noise) > 0.5, 0, 0.9)
        assert at == pytest.approx(found, abs=1e-8)
    at = threshold(lambda b: on_the_bridge(b, 4, 0.4) > 0.5, 0, 0.02)  # a better expert is worse
    assert at == pytest.approx(0.0027281271, abs=1e-9)


def test_the_critic_of_the_code_looks_one_step_ahead():  # station 4's table
    def at_start(pi, ends):
        """Q(s, a) = E[-P(takeover at s', pi(s')) + gamma Q(s', pi(s'))] of the moves at S, (A,)."""
        worth, step = np.array([ends.get(cell, np.nan) for cell in CLIFF.cells]), CLIFF.step(pi)
        goes_on = np.isnan(worth)  # (S,)
        now = np.where(goes_on, -(pi * VALUE).sum(1), worth)  # (S,)
        V = np.linalg.solve(np.eye(len(now)) - gamma * step * goes_on, step @ now)  # (S,)
        return (CLIFF.P @ (now + gamma * goes_on * V))[CLIFF.start]

    rightly, drawn = np.eye(4)[CLIFF.Q.argmax(1)], np.full_like(CLIFF.Q, 1 / 4)
    for ends, floor in ({}, -5), ({"X": 0}, 0), ({"X": charge(gamma, 5)}, -20.404019958):
        assert at_start(rightly, ends) == pytest.approx([-5, floor, -5, -5])  # up, down, ...
    assert at_start(drawn, {}) == pytest.approx([-13.4, -5, -10.5, -10.5], abs=0.05)


# --- the files ------------------------------------------------------------------------------------


def test_the_grid_is_short_and_needs_numpy_and_matplotlib_alone():
    names = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {getattr(node, "module", None) or alias.name for alias in node.names}
    assert {name.split(".")[0] for name in names} == {"numpy", "matplotlib", "pathlib"}
    assert len(SOURCE.splitlines()) <= 250


def test_the_grid_prints_what_the_lesson_quotes_and_draws_its_figures(tmp_path):
    shutil.copy(ROOT / "lesson" / "gridworld.py", tmp_path)
    command = [sys.executable, str(tmp_path / "gridworld.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    quoted = re.findall(rf"^    ((?:{'|'.join(FIGURES)}) .* loses .*)$", PAGE, re.M)
    assert len(quoted) >= 6 and set(quoted) <= set(printed.splitlines())
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    shipped = {path.name for path in (ROOT / "lesson" / "figures").iterdir()}
    assert drawn == shipped == set(re.findall(r"\(figures/(\w+\.png)\)", PAGE))


def test_its_commands_are_understood_and_its_diffs_have_their_lines():
    """test_readme.py parses the commands."""
    found = {program for program, _ in commands("lesson/README.md")}
    assert {"bc.py", "dagger.py", "hg_dagger.py", "mile.py", "rlif_rlpd.py"} <= found
    for left, right, mark in re.findall(r"diff (\w+\.py) (\w+\.py) \| sed -n '/(.*)/,\$p'", PAGE):
        diff = ["diff", str(ROOT / left), str(ROOT / right)]
        assert mark in subprocess.run(diff, capture_output=True, text=True).stdout
    sources = "".join(path.read_text() for path in ROOT.glob("*.py")) + SOURCE
    for name in re.findall(r"`(?:\w+\.)?(\w+)\(\)`", PAGE):
        assert f"def {name}(" in sources, name
