"""benchmark/person.py: what it takes to take over, and what robot and person do alone and together."""

import json
import math
import runpy
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
import tyro

import mile
from experts import InputError, load_expert
from tests import tiny

sys.path.insert(0, str(tiny.ROOT / "benchmark"))
import person
import report_mile
import run

pytestmark = pytest.mark.usefixtures("people")
WALLED = (
    "--env-id", "Walled-v0", "--name", "walled", "--expert", "../expert.safetensors", "--intervention-scale", "3",
    "--initial-policy", "../initial.safetensors", "--human-model", "../mental.safetensors",
    "--target-intervention-rate", "0.6", "--eval-episodes", "2",
)  # fmt: skip


def watcher(cost=None):
    """MILE's person, who judges the robot of the tiny runs."""
    policies = [load_expert("Walled-v0", f"../{name}.safetensors") for name in ("expert", "mental")]
    human = mile.ProbitHuman(mile.Args(intervention_scale=3.0), *policies)
    human.cost = cost
    return human


@pytest.fixture
def robot():
    """The initial policy of the tiny runs, as an actor."""
    initial = load_expert("Walled-v0", "../initial.safetensors")
    return mile.load_actor(mile.make_env("Walled-v0"), initial)


@pytest.fixture
def short_env():
    """Walled with episodes of ten steps."""
    return gym.wrappers.TimeLimit(mile.make_env("Walled-v0"), 10)


# --- watched episodes ------------------------------------------------------------------------------------------------


def tell(monkeypatch, success):
    """Let the last step of Walled tell success(env), or nothing where that is None."""
    step = tiny.Walled.step

    def told(env, action):
        outcome = step(env, action)[:4]
        what = success(env) if env.steps % 50 == 0 else None
        return *outcome, {} if what is None else {"success": what}

    monkeypatch.setattr(tiny.Walled, "step", told)


def test_the_rate_is_the_share_of_all_steps_and_the_return_a_mean_over_episodes(robot, short_env):
    seeds = [1, 2, 3]
    rate, success, episodic_return = person.rate_and_scores(short_env, robot, watcher(3.0), seeds)
    episodes = [mile.rollout(short_env, robot, watcher(3.0), seed) for seed in seeds]
    steps = np.concatenate([episode["nu"] for episode in episodes])
    assert len(steps) == 30 and 0 < rate < 1 and rate == pytest.approx(steps.mean())
    assert math.isnan(success)
    assert episodic_return == pytest.approx(np.mean([episode["return"] for episode in episodes]))


def test_success_and_return_are_not_averaged_together_where_only_some_episodes_tell(
    robot, monkeypatch
):
    env, step = mile.make_env("Walled-v0"), tiny.Walled.step

    def told_once(env, action):
        return *step(env, action)[:4], {"success": True} if env.steps == 50 else {}

    monkeypatch.setattr(tiny.Walled, "step", told_once)
    # the others have not succeeded
    assert person.rate_and_scores(env, robot, None, [0, 1, 2, 3])[1] == 25
    _, success, episodic_return = person.rate_and_scores(env, robot, None, [0, 1])
    assert math.isnan(success)
    assert episodic_return == np.mean(
        [mile.rollout(env, robot, None, seed)["return"] for seed in (0, 1)]
    )


# --- c ---------------------------------------------------------------------------------------------------------------

GRID = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 16.0, 22.0, 32.0, 45.0, 64.0, 90.0, 128.0]


def test_calibration_takes_the_first_cost_below_the_target(robot, short_env):
    human, target = watcher(), 0.5
    cost, tried = person.calibrate(
        person.Args(target_intervention_rate=target), short_env, robot, human
    )
    costs, rates = ([one[name] for one in tried] for name in ("cost", "intervention_rate"))
    assert cost == human.cost == costs[-2] == costs[-1] and max(rates[-2:]) < target
    below = GRID[: GRID.index(cost)]
    assert list(dict.fromkeys(costs[:-2])) == below and len(below) > 1
    assert all(
        max(rate for one, rate in zip(costs, rates) if one == tried_cost) >= target
        for tried_cost in below
    )
    seeds = [mile.seed_for(0, 3, i) for i in range(15, 30)]
    rate, _, episodic_return = person.rate_and_scores(short_env, robot, watcher(cost), seeds)
    assert (rate, episodic_return) == (rates[-1], tried[-1]["score"])


def scripted_rates(monkeypatch, script):
    """Let calibration measure the rates script[cost], one after the other; returns what is asked for."""
    asked = []

    def rate_and_scores(env, actor, human, seeds):
        asked.append((human.cost, seeds))
        return script[human.cost].pop(0), 70.0, 7.0

    monkeypatch.setattr(person, "rate_and_scores", rate_and_scores)
    return asked


def test_calibration_goes_on_where_fresh_episodes_are_above_the_target(monkeypatch):
    script = {0.0: [0.5], 1.0: [0.2, 0.35], 2.0: [0.3], 3.0: [0.1, 0.29]}
    asked = scripted_rates(monkeypatch, script)
    args, human = person.Args(target_intervention_rate=0.3), SimpleNamespace(cost=None)
    cost, tried = person.calibrate(args, None, None, human)
    assert cost == human.cost == 3.0 and not any(script.values())
    assert [one["intervention_rate"] for one in tried] == [0.5, 0.2, 0.35, 0.3, 0.1, 0.29]
    assert {one["score"] for one in tried} == {70.0}  # success where it is told
    first, fresh = (
        [mile.seed_for(0, 3, i) for i in episodes] for episodes in (range(15), range(15, 30))
    )
    assert asked == [
        (0.0, first),
        (1.0, first),
        (1.0, fresh),
        (2.0, first),
        (3.0, first),
        (3.0, fresh),
    ]


def test_a_target_that_no_cost_reaches_is_refused(monkeypatch):
    asked = scripted_rates(monkeypatch, {cost: [0.5 - cost / 1_000] for cost in GRID})
    with pytest.raises(InputError, match="rate 0.3: the lowest rate of the grid is 0.37") as caught:
        person.calibrate(person.Args(), None, None, SimpleNamespace())
    assert "\n" not in str(caught.value) and [cost for cost, _ in asked] == GRID


# --- alone and together ----------------------------------------------------------------------------------------------


@pytest.fixture
def calibrated(monkeypatch):
    """Calibration that finds 3 at once."""

    def calibrate(args, env, actor, human):
        human.cost = 3.0
        return 3.0, [{"cost": 3.0}]

    monkeypatch.setattr(person, "calibrate", calibrate)


def measured(robot, expert="../expert.safetensors"):
    """What is measured, in episodes of Walled."""
    args, env = person.Args(env_id="Walled-v0", eval_episodes=2), mile.make_env("Walled-v0")
    human = watcher()
    human.expert = load_expert("Walled-v0", expert)
    return person.measure(args, env, [env], robot, human)


def test_what_robot_and_person_do_alone_and_together_is_measured(calibrated, robot):
    before = measured(robot)
    assert (before["intervention_cost"], before["calibration"]) == (3.0, [{"cost": 3.0}])
    assert 0 < before["intervention_rate"] < 1
    scores = [before[f"{name}_score"] for name in ("initial", "assisted", "expert")]
    assert scores[0] < 10 < 20 < scores[1] < scores[2] and scores[2] > 45  # of 50


def test_the_robot_is_measured_by_its_mean_and_the_expert_with_the_noise_that_they_act_with(
    calibrated, robot, monkeypatch
):
    noisy = tiny.write_expert(
        "noisy.safetensors", [[-1.0, 0.0]], noise=1e-3, min_log_std=math.log(0.5)
    )
    seen = []

    def evaluate(env_id, actor, envs, episodes, seed):
        seen.append(actor(np.zeros((1, 2)))[1].exp().item())
        number = len(seen)
        means = {"return_mean": number, "stochastic_return_mean": 10 * number}
        return means | {"success_rate": math.nan, "stochastic_success_rate": math.nan}

    monkeypatch.setattr(person, "evaluate", evaluate)
    before = measured(robot, noisy)
    assert seen == [pytest.approx(0.3), pytest.approx(0.5)]  # the robot, then the expert
    assert (before["initial_score"], before["expert_score"]) == (1, 20)


def test_all_scores_are_successes_if_one_of_them_is(calibrated, robot, monkeypatch):
    for near, known in ((0.3, False), (0.3, None), (1.1, None)):
        with monkeypatch.context() as patch:
            tell(patch, lambda env: True if abs(env.x) < near else known)
            before = measured(robot)
        assert all(
            before[f"{name}_score"] in (0, 50, 100) for name in ("initial", "assisted", "expert")
        )
        assert (
            before["initial_score"] == (0 if near == 0.3 else 100) and before["expert_score"] == 100
        )


@pytest.mark.parametrize("who", ["initial", "assisted", "expert"])
def test_who_never_tells_of_a_success_has_none_if_others_do(who, calibrated, robot, monkeypatch):
    told = {name: 40.0 if name == who else math.nan for name in ("initial", "assisted", "expert")}
    evaluations = iter((told["initial"], told["expert"]))

    def evaluate(*_):
        names = "success_rate", "stochastic_success_rate"
        return dict.fromkeys(names, next(evaluations)) | {
            "return_mean": 1,
            "stochastic_return_mean": 2,
        }

    monkeypatch.setattr(person, "evaluate", evaluate)
    monkeypatch.setattr(person, "rate_and_scores", lambda *_: (0.2, told["assisted"], 3))
    before = measured(robot)
    assert {name: before[f"{name}_score"] for name in told} == dict.fromkeys(told, 0) | {who: 40}


# --- the script ------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The results of a repository without any."""
    monkeypatch.setattr(run, "ROOT", tmp_path)
    return tmp_path / "benchmark" / "results"


def start(monkeypatch, *options):
    """The exit code of the script, in this process."""
    monkeypatch.setattr(sys, "argv", ["person.py", *map(str, options)])
    try:
        runpy.run_path(str(tiny.ROOT / "benchmark" / "person.py"), run_name="__main__")
    except SystemExit as error:
        return error.code
    return 0


def test_what_was_found_is_written_and_can_be_reported(results, monkeypatch, capsys):
    assert start(monkeypatch, *WALLED) == 0
    found = report_mile.before(results, "walled")
    # at 0 the person acts too often
    assert found["intervention_cost"] in GRID and found["intervention_cost"] > 0
    assert (
        0 < found["intervention_rate"] < 0.75
        and found["initial_score"] < 10 < 45 < found["expert_score"]
    )
    assert (
        set(report_mile.LEVELS) < found.keys()
        and found["calibration"][-1]["cost"] == found["intervention_cost"]
    )
    assert found["args"] == vars(tyro.cli(person.Args, args=WALLED))
    shown = json.loads(capsys.readouterr().out)
    assert (
        shown.items()
        == {name: found[name] for name in found.keys() - {"args", "calibration"}}.items()
    )
    assert [path.name for path in results.rglob("*")] == ["persons", "walled.json"]


@pytest.mark.parametrize(("options", "said"), [
    (("--target-intervention-rate", 0), "--target-intervention-rate must be in (0, 1], not 0"),
    (("--target-intervention-rate", 1.1), "--target-intervention-rate must be in (0, 1], not 1.1"),
    (("--target-intervention-rate", "nan"), "--target-intervention-rate must be in (0, 1], not nan"),
    (("--intervention-scale", 0), "--intervention-scale must be positive, not 0"),
    (("--intervention-scale", "nan"), "--intervention-scale must be positive, not nan"),
    (("--intervention-scale", "inf"), "--intervention-scale must be positive, not inf"),
    (("--takeover-steps", 0), "--takeover-steps must be positive, not 0"),
    (("--eval-episodes", 0), "--eval-episodes must be positive, not 0"),
    (("--name", "../escape"), "--name is that of a file"),
    (("--name", ""), "--name is that of a file"),
    (("--expert", "nobody"), "no expert 'nobody' for Walled-v0"),
    (("--env-id", "NoSuchEnv-v0"), "--env-id NoSuchEnv-v0"),
])  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2_before_any_work(
    options, said, results, monkeypatch, capsys
):
    steps = tiny.Point.total_steps
    assert start(monkeypatch, *WALLED, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("person.py: ") and said in error and error.count("\n") == 1
    assert not results.exists() and tiny.Point.total_steps == steps


def test_where_no_cost_does_it_the_exit_code_is_2_and_what_was_found_before_stays(
    results, monkeypatch, capsys
):
    monkeypatch.setattr(
        mile, "rollout", lambda *_: {"nu": torch.ones(10), "success": 1.0, "return": 1.0}
    )
    path = results / "persons" / "walled.json"
    path.parent.mkdir(parents=True)
    path.write_text("before")
    assert start(monkeypatch, *WALLED) == 2
    error = capsys.readouterr().err
    assert "the lowest rate of the grid is 1.00" in error and error.count("\n") == 1
    assert path.read_text() == "before" and list(results.rglob("*.json")) == [path]
