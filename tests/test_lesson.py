"""The lesson's claims in exact numbers, and its commands."""

import ast
import math
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.test_readme import SCRIPTS, commands
from tests.tiny import ROOT, parsed

sys.path.insert(0, str(ROOT / "lesson"))
from gridworld import BRIDGE, CLIFF, FIGURES, World, charge, dagger, expert, lost, person, rlif
from gridworld import solve, worst

PAGE = (ROOT / "lesson" / "README.md").read_text()
SOURCE = (ROOT / "lesson" / "gridworld.py").read_text()
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


def test_a_case_that_is_solved_by_hand():
    # state 0: stay for 1 a step, or go to state 1 for nothing; state 1: 2 a step, for ever
    R, M = np.array([[1.0, 0.0], [2.0, 2.0]]), np.zeros((2, 2, 2))
    M[0, 0, 0] = M[0, 1, 1] = M[1, :, 1] = 0.9
    V, Q = solve(R, M)
    assert same(V, [18, 20])
    assert same(Q, [[1 + 0.9 * 18, 18], [20, 20]])


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
    ties = Q.max(1, keepdims=True) - Q < 1e-9
    assert (optimal == ties)[np.isnan(worth)].all()


def test_the_best_policy_walks_straight_to_the_goal():
    assert CLIFF.V[CLIFF.start] == near(BEST)
    assert CLIFF.V.max() == near(1 + gamma**2 * BEST)  # one step before G
    assert BRIDGE.V[BRIDGE.start] == near(gamma**9 / (1 - gamma**11))


# --- the expert's badness -------------------------------------------------------------------------


@pytest.mark.parametrize("b", [0, 0.01, 0.05, 0.5, 0.9])
def test_dagger_ends_with_what_the_expert_does(b):
    clone = dagger(CLIFF, expert(CLIFF, b))
    alive = (1 - b) ** 6  # six times not towards the floor
    assert CLIFF.value(clone) == near(alive * gamma**5 / (1 - alive * gamma**7))
    assert CLIFF.lost(clone) == near(CLIFF.lost(expert(CLIFF, b)))
    assert BEST - CLIFF.value(clone) <= b * CLIFF.V.max() / (1 - gamma) + 1e-9  # (C)


def test_dagger_loses_half_by_an_expert_of_one_percent_wrong_steps():
    assert CLIFF.lost(expert(CLIFF, 0.01)) == near(0.4777950635439)
    assert CLIFF.lost(expert(CLIFF, 0.05)) == near(0.8413886125385314)


@pytest.mark.parametrize(("b", "share"), [(0.49, 0), (0.51, 1)])
def test_the_likeliest_action_of_the_clone_is_right_up_to_half(b, share):
    pi = dagger(CLIFF, expert(CLIFF, b))
    assert CLIFF.lost(np.eye(4)[pi.argmax(1)]) == near(share)


@pytest.mark.parametrize("b", [0, 0.05, 1])
@pytest.mark.parametrize("steps", [1, 4, 20])
@pytest.mark.parametrize("beta", [0.51, 0.95, 1])
def test_without_ends_the_optimum_is_never_flagged_whoever_the_expert_is(b, steps, beta):  # (A)
    V, optimal = rlif(CLIFF, person(CLIFF.Q, 0, beta), expert(CLIFF, b), steps)
    p = 1 - beta
    assert same(V, -p / (1 - gamma + p * (gamma - gamma**steps)))
    assert (optimal == (person(CLIFF.Q, 0, 1) == 0)).all()
    assert lost(CLIFF, person(CLIFF.Q, 0, beta), expert(CLIFF, b), steps) == near(0)


# --- the person's margin --------------------------------------------------------------------------


def test_rlif_begins_to_lose_where_standing_still_passes():
    assert (1 - gamma) * BEST == near(0.13998600428511638)
    pi_exp, least = expert(CLIFF, b), (1 - gamma) * BEST
    for share in (lost, worst):
        found = threshold(lambda d: share(CLIFF, person(CLIFF.Q, d), pi_exp) > 1e-9, 0, 0.2)
        assert found == pytest.approx(least, abs=1e-8)
    wait = 0.5 / (1 - 0.5 * gamma)  # of a coin between a step to the right and standing still
    ties = 1 - wait * gamma**5 / (1 - wait * gamma**7) / BEST
    assert lost(CLIFF, person(CLIFF.Q, 0.15), pi_exp) == near(ties) == near(0.1283126277136103)
    # standing still for ever is among the ties: there the bound is met with equality
    assert worst(CLIFF, person(CLIFF.Q, least), pi_exp) == near(1)
    assert least / (1 - gamma) / BEST == near(1)


def test_a_lax_person_costs_more_than_an_expert_of_one_percent_wrong_steps():
    def loses(delta):
        return lost(CLIFF, person(CLIFF.Q, delta), expert(CLIFF, b)) > dagger_loses

    dagger_loses = CLIFF.lost(expert(CLIFF, 0.01))
    assert threshold(loses, 0.2, 0.4) == pytest.approx(0.2813860076, abs=1e-9)
    assert lost(CLIFF, person(CLIFF.Q, 0.5), expert(CLIFF, b)) == near(0.9415007069798551)


@pytest.mark.parametrize("delta", [0.01, 0.14, 0.3, 1, 15])
def test_the_bound_on_rlif_holds(delta):  # (B)
    gap = BEST * worst(CLIFF, person(CLIFF.Q, delta), expert(CLIFF, b))
    assert gap <= delta / (1 - gamma) + 1e-9


# --- a reference that errs ------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.02, 0.069, 0.12, 0.3])
def test_the_bound_on_rlif_holds_with_a_reference_that_errs(eta):
    tables = np.random.default_rng(1).uniform(-1, 1, (20, *CLIFF.Q.shape))
    for table in tables:
        share = worst(CLIFF, person(CLIFF.Q + eta * table), expert(CLIFF, b))
        assert BEST * share <= 2 * eta / (1 - gamma) + 1e-9
        if 2 * eta < (1 - gamma) * BEST:  # less than any mistake costs
            assert share == near(0)


def test_rlif_loses_by_errors_of_the_reference():
    etas, curves = FIGURES["reference"][0](CLIFF, tables=10)
    mean = np.array(curves["RLIF, mean of 10 tables"][0])
    assert same(mean[etas < 0.1], 0)
    assert mean[-1] == near(0.9)  # standing still for ever, or nothing lost: one or the other


def test_one_error_of_the_reference_is_enough():
    """At S it takes standing still for better than walking on, by nothing."""
    Q_ref = CLIFF.Q.copy()
    Q_ref[CLIFF.start, 2] += (1 - gamma) * BEST + 1e-6  # LEFT, into the wall
    assert lost(CLIFF, person(Q_ref), expert(CLIFF, 0)) == near(1)
    assert CLIFF.lost(dagger(CLIFF, expert(CLIFF, 0))) == near(0)


# --- an early end that pays -----------------------------------------------------------------------


@pytest.mark.parametrize(("ends", "found"), [({}, 0.5), ({"X": 0}, 10 / 11), (CHARGED, 0.5)])
def test_how_reliable_the_person_has_to_be(ends, found):
    def loses(beta):
        return lost(CLIFF, person(CLIFF.Q, 0, beta), expert(CLIFF, 0), k, ends) > 0.5

    assert threshold(loses, 0.45, 1) == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_an_end_pays_up_to_a_reliability_that_depends_on_the_discount_alone(gamma, steps):
    world = World(["S.....G", "XXXXXXX"], gamma)

    def loses(beta):
        return lost(world, person(world.Q, 0, beta), expert(world, 0), steps, {"X": 0}) > 0.5

    found = threshold(loses, 0.55, 1)
    assert found == pytest.approx(1 / (1 + math.sqrt(1 - gamma)), abs=1e-6)
    assert (found > 0.95) == (gamma == 0.999)


def test_a_bad_expert_makes_the_end_pay_at_a_higher_reliability():
    for ends, found in (({}, 0.5), ({"X": 0}, 0.9188978), (CHARGED, 0.5329068)):
        pi_exp = expert(CLIFF, b)
        at = threshold(lambda x: lost(CLIFF, person(CLIFF.Q, 0, x), pi_exp, k, ends) > 0.5, 0.45, 1)
        assert at == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("beta", [0.6, 0.95, 0.999])
@pytest.mark.parametrize(
    ("ends", "fall"), [({}, None), ({"X": 0}, 0), (CHARGED, -25.3781406400722)]
)
def test_a_critic_that_looks_one_step_ahead_never_charges_a_fall_by_labels(ends, fall, beta):
    """Q(s, a) = E[-P(takeover at s', pi(s')) + gamma Q(s', pi(s'))] of the policy that walks."""
    walk, S = CLIFF.Q.argmax(1), np.arange(len(CLIFF.V))
    charged = person(CLIFF.Q, 0, beta)[S, walk]  # (S,), on arrival
    R, M = -CLIFF.P @ charged, gamma * CLIFF.P  # (S, A), (S, A, S)
    for cell, worth in ends.items():  # what arriving there is worth; nothing comes after it
        end = CLIFF.cells == cell
        R = np.where(CLIFF.P @ end > 0, worth, R)
        M[CLIFF.P @ end > 0] = 0
    V = np.linalg.solve(np.eye(len(S)) - M[S, walk], R[S, walk])
    _, down, _, right = (R + M @ V)[CLIFF.start]
    living = -(1 - beta) / (1 - gamma)  # -5 at beta = 0.95
    assert right == near(living)
    assert down == near(living if fall is None else fall)


# --- takeovers at random --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "share"),
    [({}, 0.9976528413866284), ({"X": 0}, 1), (CHARGED, 1), (CHARGED | {"G": 0}, 0)],
)
@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_takeovers_at_random_teach_nothing_but_what_an_end_is_worth(ends, share, rate):
    takeover = np.full_like(CLIFF.Q, rate)
    assert lost(CLIFF, takeover, expert(CLIFF, b), k, ends) == near(share)
    if not ends:
        assert rlif(CLIFF, takeover, expert(CLIFF, b))[1].all()  # every policy is optimal


@pytest.mark.parametrize(("ends", "found"), [({"X": 0}, 0.0821405483), (CHARGED, 0.8814813153)])
def test_the_share_of_random_decisions_that_rlif_bears(ends, found):
    def loses(x):
        return lost(CLIFF, (1 - x) * VALUE + 0.2 * x, expert(CLIFF, b), k, ends) > 0.5

    assert threshold(loses, 0, 1) == pytest.approx(found, abs=1e-9)
    assert lost(CLIFF, 0.01 * VALUE + 0.2 * 0.99, expert(CLIFF, b)) == near(0)  # without ends


# --- a cheap catch --------------------------------------------------------------------------------


def on_the_bridge(b, steps, noise):
    ends = {"X": charge(gamma, steps), "G": 0}
    return lost(BRIDGE, person(BRIDGE.Q), expert(BRIDGE, b), steps, ends, noise)


@pytest.mark.parametrize(
    ("steps", "found"), [(2, 0.5352967849), (4, 0.3127407895), (10, 0.1883644126)]
)
def test_being_carried_pays_from_a_noise_on_that_falls_with_the_takeovers_length(steps, found):
    at = threshold(lambda noise: on_the_bridge(0, steps, noise) > 0.5, 0, 0.9)
    assert at == pytest.approx(found, abs=1e-8)
    assert BRIDGE.lost(dagger(BRIDGE, expert(BRIDGE, 0))) == near(0)  # this expert is perfect
    assert on_the_bridge(0, steps, found + 0.01) == near(1)  # it stands at S and waits


def test_a_takeover_of_one_step_carries_nobody():
    assert on_the_bridge(0, 1, 0.9) == near(0)


@pytest.mark.parametrize(("steps", "found"), [(4, 0.0027281271), (10, 0.0069116058)])
def test_a_better_expert_is_worse_for_rlif(steps, found):
    at = threshold(lambda b: on_the_bridge(b, steps, 0.4) > 0.5, 0, 0.02)
    assert at == pytest.approx(found, abs=1e-9)
    assert on_the_bridge(0.01, steps, 0.4) == near(0)
    assert BRIDGE.lost(expert(BRIDGE, 0.01)) > 0.5 > BRIDGE.lost(expert(BRIDGE, found))


# --- the files ------------------------------------------------------------------------------------


def test_the_grid_is_short_and_needs_numpy_and_matplotlib_alone():
    lines = SOURCE.splitlines()
    assert len(lines) <= 250
    assert max(map(len, lines)) <= 100
    imports = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Import)]
    froms = [
        node.module for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.ImportFrom)
    ]
    names = {alias.name.split(".")[0] for node in imports for alias in node.names} | set(froms)
    assert names == {"numpy", "matplotlib", "pathlib"}


def test_the_grid_prints_what_the_lesson_quotes_and_draws_its_figures(tmp_path):
    shutil.copy(ROOT / "lesson" / "gridworld.py", tmp_path)
    command = [sys.executable, str(tmp_path / "gridworld.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    quoted = re.findall(rf"^    ((?:{'|'.join(FIGURES)}) .* loses .*)$", PAGE, re.M)
    assert len(quoted) >= 6
    for line in quoted:
        assert line in printed.splitlines()
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    shipped = {path.name for path in (ROOT / "lesson" / "figures").iterdir()}
    assert drawn == shipped == set(re.findall(r"\(figures/(\w+\.png)\)", PAGE))
    assert all(path.stat().st_size < 60_000 for path in (ROOT / "lesson" / "figures").iterdir())


@pytest.mark.parametrize(("file", "script", "options"), commands(["lesson/README.md"]))
def test_command_is_understood(file, script, options):
    parsed(SCRIPTS[script], *shlex.split(re.split(r"&&|;|\|", options)[0], comments=True))


def test_every_command_of_the_lesson_is_tested():
    found = {script for _, script, _ in commands(["lesson/README.md"])}
    assert found == {"bc.py", "dagger.py", "hg_dagger.py", "mile.py", "rlif_rlpd.py"}
    written = re.findall(r"^ {4}python (?!lesson/)", PAGE, re.M)
    assert len(written) == len(commands(["lesson/README.md"]))
    for left, right in re.findall(r"diff (\w+\.py) (\w+\.py)", PAGE):
        assert (ROOT / left).exists()
        assert (ROOT / right).exists()
