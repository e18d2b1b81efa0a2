"""Environments that are not as one would have them, and what is wrong with the input."""

import dataclasses
import importlib
import re
import subprocess
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import bc
import rlif_rlpd
from experts import load_expert
from tests import tiny

# --- actions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["Walled-v0", "DoubleActions-v0"])
def test_actions_reach_the_limits_of_the_environments_own(env_id):
    env = bc.make_env(env_id)
    assert (env.action_space.low, env.action_space.high) == (-1, 1)
    env.reset(seed=0)
    for action, push in ((-1.0, -2.0), (0.0, 0.0), (0.5, 1.0), (1.0, 2.0)):
        # the last push is observed
        assert env.step(np.array([action], dtype=np.float32))[0][1] == push


@pytest.mark.parametrize("env_id", ["Switched-v0", "SwitchedFrom5-v0"])  # 0, 1, 2 and 5, 6, 7
def test_discrete_actions_are_one_hot_vectors(env_id):
    env = bc.make_env(env_id)
    assert isinstance(env.action_space, gym.spaces.MultiBinary)
    assert env.action_space.shape == (3,) and env.env.action_space.n == 3
    env.reset(seed=0)
    pushes = [env.step(one_hot)[0][1] for one_hot in np.eye(3, dtype=np.float32)]
    assert pushes == [-1, 0, 1]


@pytest.mark.parametrize("env_id", ["Switched-v0", "SwitchedFrom5-v0"])
def test_scripts_learn_from_discrete_actions(script, ending, env_id):
    if script.__name__ in ("rlif_rlpd", "hil_serl", "pvp"):
        code, line = ending(script, tiny.SHORT[script.__name__], "--env-id", env_id)
        assert code == 2 and "needs bounded continuous actions, not Discrete" in line
        assert not Path("runs").exists()
        return
    tiny.write_people(Path(".."), discrete=True)
    folder = tiny.short_run(script, "--env-id", env_id)
    policy = load_expert(env_id, f"{folder}/model.safetensors", bc.make_env(env_id))
    actor = bc.Actor(bc.make_env(env_id), policy.facts["hidden_sizes"])
    actor.load_state_dict(policy.state)
    obs = torch.randn(2_000, 2) * 0.3
    for deterministic in (True, False):
        actions = actor.act(obs.numpy(), deterministic)
        assert set(actions.flat) == {0.0, 1.0} and (actions.sum(-1) == 1).all()
        chance = F.one_hot(policy(obs).argmax(-1), 3) if deterministic else policy(obs).softmax(-1)
        assert actions.mean(0) == pytest.approx(chance.float().mean(0).numpy(), abs=0.05)


# --- observations and episodes --------------------------------------------------------------------


def test_every_script_learns_from_observations_of_several_parts(script):
    env = script.make_env("Parts-v0")  # they become one row
    obs, _ = env.reset(seed=0)
    for push in (0.5, -1.0):
        x = obs[0]
        np.testing.assert_array_equal(obs[1:], [x, obs[2], x <= 0, x > 0])
        obs = env.step(np.array([push], dtype=np.float32))[0]
        assert obs[2] == 2 * push
    weight = [[-5.0, 0, 0, 0, 0]]
    for name in ("expert", "initial", "mental"):
        tiny.write_expert(f"../{name}.safetensors", weight, noise=0.3)
    tiny.write_expert("../reference.safetensors", weight, noise=0.3, qf=tiny.critics(5, 1))
    folder = tiny.short_run(script, "--env-id", "Parts-v0")
    assert tiny.checkpoint(folder) and float(tiny.rows(folder)[-1]["success_rate"]) == 0


@pytest.mark.parametrize("env_id", ["OneArray-v0", "Loose-v0", "NoRenderMode-v0"])
def test_the_same_is_learned_whatever_form_observations_and_rewards_have(script, env_id):
    folders = [tiny.short_run(script, "--env-id", name) for name in ("Walled-v0", env_id)]
    tiny.assert_same_run(*folders)


@pytest.mark.parametrize("part", [0, 1])
def test_numbers_beyond_float32_and_two_rewards_are_one_line(script, ending, monkeypatch, part):
    step = tiny.Walled.step

    def odd(*args):
        seen = list(step(*args))
        seen[part] = seen[part] * np.array([1.0, 1e300])
        return tuple(seen)

    monkeypatch.setattr(tiny.Walled, "step", odd)
    code, line = ending(script, tiny.SHORT[script.__name__])
    said = rf"{script.__name__}.py: Walled-v0.* (1e38|2 rewards)"
    assert code == 2 and re.match(said, line), line


@pytest.mark.parametrize("name", ["bc", "dagger", "hg_dagger", "rlif_rlpd"])
@pytest.mark.parametrize("scale", [(1, 3), (0, 1e-4), None])
def test_all_networks_see_observations_as_the_demonstrations_say(name, scale, people, monkeypatch):
    """By mean and deviation; the latter is at least 0.01, and 1 where nothing varied."""

    def shown(*args):
        data = tiny.demonstrations(*args)
        return data | {"obs": data["obs"] * np.float32(scale or 1) + np.float32(0.1)}

    script = importlib.import_module(name)
    monkeypatch.setattr(script, "load_demonstrations", shown)
    option = "--standardize-obs" if scale else "--no-standardize-obs"
    state = tiny.checkpoint(tiny.short_run(script, "--demo-episodes 2", option))
    obs = torch.from_numpy(shown("Walled-v0", script.make_env("Walled-v0"), 2)["obs"])
    mean, std = (obs.mean(0), obs.std(0)) if scale else (torch.zeros(2), torch.ones(2))
    std = torch.tensor([1, 0.01]) if scale == (0, 1e-4) else std
    networks = state.get("novices") or [state["agent" if name == "rlif_rlpd" else "actor"]]
    found = [(x, values) for part in networks for x, values in part.items() if "obs_" in x]
    assert len(found) == 2 * {"hg_dagger": 3, "rlif_rlpd": 3}.get(name, 1)
    for x, values in found:
        torch.testing.assert_close(values, mean if "mean" in x else std)


@pytest.mark.parametrize(
    ("env_id", "limit"), [("Walled-v0", 20), ("Walled-v0", 80), ("Endless-v0", 30)]
)
def test_the_time_limit_can_be_made_shorter_and_longer(env_id, limit):
    env = rlif_rlpd.make_env(env_id, limit)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, dtype=np.float32))[2:4] for _ in range(limit)]
    assert ends == [(False, False)] * (limit - 1) + [(False, True)]


def test_what_the_end_of_an_episode_is_worth_where_that_is_known():
    for options, termination in {
        "Hopper-v5": "penalty", "Walker2d-v4": "penalty", "InvertedPendulum-v5": "penalty",
        "AdroitHandPen-v1": "penalty", "Hopper-v5 --termination mask": "mask",
        "Meta-World/drawer-open-v3": "mask", "Pixels/Meta-World/drawer-open-v3": "mask",
        "Pixels/Hopper-v5": "penalty", "Pixels/LunarLanderContinuous-v3": "bootstrap",
        "LunarLanderContinuous-v3": "bootstrap",
        "Pendulum-v1 --reward task": "mask", "Pendulum-v1 --termination bootstrap": "bootstrap",
        "MountainCarContinuous-v0": None, "HumanoidStandup-v5": None,
    }.items():  # fmt: skip
        args = tiny.parsed(rlif_rlpd, "--env-id", options)
        assert (args.termination or rlif_rlpd.usual_termination(args)) == termination, options


# --- bad input: one message, exit code 2, nothing is begun ----------------------------------------

BAD = {  # options, and what is said
    "--env-id NoSuch-v0": "NoSuch", "--env-id no_such_module:Any-v0": "no_such_module",
    "--env-id Endless-v0 --max-episode-steps None": "--max-episode-steps",
    "--env-id Pendulum-v1": "3",  # observations, where the files of policies have 2
    "--expert best": "'best'", "--intervention value --reference best": "'best'",
    "--initial-policy best": "'best'",
    "--human-model best": "'best'", "--expert no_such_file.safetensors": "No such file",
    "--intervention value --reference ../blind.safetensors": "critics",
    "--demo-episodes 3 --dataset-id no/such/dataset-v0": "no/such/dataset-v0",
    "--demo-episodes 3": "--dataset-id",  # none are shipped for Walled-v0
    "--hidden-sizes 0": "--hidden-sizes", "--seed -1": "--seed", "--gamma 1": "--gamma",
    "--resume nowhere": "nowhere", "--replay nowhere": "nowhere", "--no-such-option": "-option",
    "--offline-ratio 0.5 --bc-weight 0": "give both --offline-ratio",
    "--offline-ratio 0.01 --demo-episodes 5 --bc-weight 0": "give both --offline-ratio",
    "--bc-weight 1 --demo-episodes 5 --offline-ratio 0": "give both --offline-ratio",
    "--reward task --termination penalty": "--termination",
    "--intervention none --reward none --bc-weight 0": "--reward task",
    "--total-timesteps 1000000000000000 --n-step 3": "Unable to allocate",
    "--threshold None": "give --threshold, or --demo-episodes",
    "--label-beta 1.5": "--label-beta 1.5 is out of range",
    "--intervention-scale 0.9 --warm-up-episodes 1": "--intervention-scale must be 1 or more",
    "--intervention-beta 1.1": "--intervention-beta", "--random-rate 50": "--random-rate",
} | {f"--env-id {name}-v0": name for name in tiny.REFUSED}  # fmt: skip


def test_bad_input_is_one_message_and_exit_code_2_before_anything_is_begun(people, ending):
    tiny.write_expert("../blind.safetensors", [[-1.0, 0.0]])
    refused = set()
    for name in tiny.SCRIPTS:
        script = importlib.import_module(name)
        fields = {"no_such_option", *(field.name for field in dataclasses.fields(script.Args))}
        for options, said in BAD.items():
            own = {word[2:].replace("-", "_") for word in options.split() if word[:2] == "--"}
            if own <= fields and not ("Pendulum" in options and name == "bc"):  # needs no file
                code, line = ending(script, tiny.SHORT[name], options)
                assert code == 2 and said in line, (name, options, line)
                assert not Path("runs").exists(), (name, options)
                refused.add(options)
    assert refused == set(BAD)


def test_a_number_that_is_too_small_or_none_is_refused_by_every_script(script, ending):
    """Every option that is a number: a negative one, if it may not be; what is no number."""
    free = {"intervention_alpha", "intervention_delta", "intervention_cost", "target_entropy"}
    free |= {"progress_share"}
    taken = []
    for field in dataclasses.fields(script.Args):
        option = f"--{field.name.replace('_', '-')}"
        for value in {int: ("-1",), float: ("-1", "nan")}.get(type(field.default), ()):
            name = f"--exp-name {field.name}{value}"
            try:
                code, line = ending(script, tiny.SHORT[script.__name__], name, f"{option}={value}")
            except (FloatingPointError, ValueError):
                code, line = 2 if value == "nan" else 1, option
            if (code != 2 or option not in line) and (value == "nan" or field.name not in free):
                taken.append((option, value))
    assert taken == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu(script, ending):
    code, line = ending(script, tiny.SHORT[script.__name__], "--cuda")
    assert code == 2 and "GPU" in line


def test_of_a_process_as_well_that_may_write_ascii_characters_alone():
    environ = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PATH": "/usr/bin:/bin"}
    output = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environ}
    process = tiny.start("--env-id NoSuch-v0", script="bc.py", **output)
    said, error = process.communicate()
    assert process.returncode == 2 and said == ""
    assert re.fullmatch(r"\S*bc.py: [^\n]*NoSuch[^\n]*\n", error)


def test_what_is_asked_for_and_answered_with(ending, people):
    """The meaning of an end, once the environment is known to exist; the levels that there are."""
    short = tiny.SHORT["rlif_rlpd"].replace("--termination penalty", "")
    code, line = ending(rlif_rlpd, short)
    assert code == 2 and "--termination penalty" in line and not Path("runs").exists()
    code, line = ending(rlif_rlpd, short, "--env-id hopper-v5")
    assert code == 2 and "hopper" in line and "--termination" not in line
    code, line = ending(rlif_rlpd, "--env-id Hopper-v5 --expert best --eval-episodes 1")
    assert code == 2 and all(level in line for level in ("low", "middle", "top"))
    Path("args.json").write_text('{"seed": 1}')  # of another script
    for option in ("--resume .", "--replay ."):
        code, line = ending(rlif_rlpd, option)
        assert (code, line) == (2, "rlif_rlpd.py: no run of this script and version is in .")
        code, line = ending(rlif_rlpd, option.replace(".", "nowhere"))
        assert code == 2 and "no run of this script and version is in nowhere" in line


def test_what_an_environment_raises_is_a_traceback(script, ending):
    with pytest.raises(ValueError, match="no answer from the motor"):
        ending(script, tiny.SHORT[script.__name__], "--env-id Broken-v0")
