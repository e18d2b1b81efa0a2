"""benchmark/rlif_rounds.py: RLIF learns from the episodes that mile.py learns from."""

import json
import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mile
import rlif_rlpd
from experts import InputError, RunError, load_expert, save_expert
from tests import tiny

sys.path.insert(0, str(tiny.ROOT / "benchmark"))
import rlif_rounds

pytestmark = pytest.mark.usefixtures("people")
SHORT = (
    "--env-id", "Walled-v0", "--eval-episodes", 2, "--num-threads", 1, "--rounds", 2, "--round-episodes", 2,
    "--round-updates", 2, "--intervention-cost", 3, "--intervention-scale", 3, "--expert", "../expert.safetensors",
    "--initial-policy", "../initial.safetensors", "--human-model", "../mental.safetensors",
)  # fmt: skip


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """Without compiling, which takes longer than a tiny run."""
    monkeypatch.setattr(rlif_rounds, "compiled", lambda function: function)


@pytest.fixture
def buffers(monkeypatch):
    """The replay buffers of the runs."""
    made = []

    class Watched(rlif_rlpd.ReplayBuffer):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            made.append(self)

    monkeypatch.setattr(rlif_rlpd, "ReplayBuffer", Watched)
    return made


def run(*options):
    """A run in this process; returns its folder."""
    return tiny_run(rlif_rounds, *SHORT, *options)


def tiny_run(script, *options):
    """A run of this module with these options alone; returns its folder."""
    before = set(Path().glob("runs/*"))
    script.main(tiny.parsed(script, *options))
    (folder,) = set(Path().glob("runs/*")) - before
    return folder


def watched_episodes(monkeypatch):
    """Where the episodes that a person watches will be kept, in their order."""
    kept, rollout = [], mile.rollout

    def keep(env, actor, human, seed):
        episode = rollout(env, actor, human, seed)
        return kept.append(episode) or episode if human else episode

    monkeypatch.setattr(mile, "rollout", keep)
    return kept


# --- the episodes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("takeover_steps", [1, 3])
def test_the_first_rounds_episodes_are_those_of_mile_to_the_bit(takeover_steps, monkeypatch):
    torch.manual_seed(7)
    actor = mile.Actor(2, 1, (64, 64))  # of many terms, whose sum depends on their order
    actor.mean.bias.data.fill_(0.6)
    facts = load_expert("Walled-v0", "../initial.safetensors").facts
    state = {f"actor.{name}": values for name, values in actor.state_dict().items()}
    save_expert(
        "many.safetensors", state, **{"level": "test", "env_id": facts.get("env_id", "Walled-v0")}
    )
    same = (
        "--initial-policy",
        "many.safetensors",
        "--takeover-steps",
        takeover_steps,
        "--seed",
        4,
        "--rounds",
        2,
    )
    watched, episodes = watched_episodes(monkeypatch), []
    own = "--warm-up-episodes", 1, "--warm-up-updates", 2, "--hidden-sizes", 8, "--batch-size", 16
    for script, options in ((mile, own), (rlif_rounds, ("--round-updates", 20))):
        tiny_run(script, *SHORT, *same, *options)
        episodes.append(watched[:])
        watched.clear()
    of_mile, of_rlif = episodes
    assert len(of_mile) == len(of_rlif) == 4
    assert any(0 < episode["nu"].sum() < 50 for episode in of_mile[:2])
    for theirs, own in zip(of_mile[:2], of_rlif[:2]):
        tiny.assert_same(theirs, own)
    assert not torch.equal(of_mile[0]["obs"], of_mile[1]["obs"])
    # by then they have learned, but begin where the others do
    for theirs, own in zip(of_mile[2:], of_rlif[2:]):
        assert torch.equal(theirs["obs"][0], own["obs"][0])
        assert not torch.equal(theirs["actions"], own["actions"])


def buffer(*episodes, takeover_steps=1, termination="mask"):
    """What add_episode makes of episodes: the buffer's columns."""
    args = rlif_rounds.Args(takeover_steps=takeover_steps, termination=termination)
    rb = rlif_rlpd.ReplayBuffer(100, 1, 1)
    for episode in episodes:
        rlif_rounds.add_episode(args, rb, episode)
    return rb.state_dict()


def episode(nu, success=math.nan):
    """An episode that observes 0, 1, 2, ... and acts 0, 0.1, 0.2, ..., with these interventions."""
    nu = torch.tensor([float(one) for one in nu])
    obs = torch.arange(float(len(nu)))[:, None]  # (T, 1)
    return {"obs": obs, "actions": obs / 10, "nu": nu, "success": success}


@pytest.mark.parametrize(("takeover_steps", "nu", "rewards"), [
    (1, "0010", [0, -1, 0]),
    (1, "0110", [-1, -1, 0]),  # the person decides anew at every step
    (1, "1001", [0, 0, -1]),  # nothing was done before the first takeover
    (1, "0000", [0, 0, 0]),
    (3, "00111000111", [0, -1, 0, 0, 0, 0, 0, -1, 0, 0]),
    (3, "01111110001", [-1, 0, 0, -1, 0, 0, 0, 0, 0, -1]),  # one begins where another ends
    (2, "01101", [-1, 0, 0, -1]),  # the episode's end ends a takeover
])  # fmt: skip
def test_the_step_before_a_takeover_is_worth_minus_one_and_every_other_one_nothing(
    takeover_steps, nu, rewards
):
    data = buffer(episode(nu), takeover_steps=takeover_steps)
    assert data["rewards"].tolist() == rewards
    assert data["obs"].flatten().tolist() == list(range(len(nu) - 1))
    assert data["next_obs"].flatten().tolist() == list(range(1, len(nu)))
    assert torch.equal(data["actions"], data["obs"] / 10) and not data["terminations"].any()


@pytest.mark.parametrize("takeover_steps", [1, 2, 3, 4])
def test_takeovers_are_told_from_interventions_as_they_happened(takeover_steps, monkeypatch):
    env = mile.make_env("Walled-v0")
    policies = [
        load_expert("Walled-v0", f"../{name}.safetensors")
        for name in ("expert", "mental", "initial")
    ]
    options = mile.Args(
        intervention_cost=2.0, intervention_scale=3.0, takeover_steps=takeover_steps
    )
    human, decided = mile.ProbitHuman(options, *policies[:2]), []
    takes_over = human.takes_over

    def decide(obs, rng):
        started = takes_over(obs, rng)
        if started:
            decided.append(obs)
        return started

    monkeypatch.setattr(human, "takes_over", decide)
    in_a_row = 0
    for seed in range(5):
        decided.clear()
        watched = mile.rollout(env, mile.load_actor(env, policies[2]), human, seed)
        starts = rlif_rounds.takeover_starts(watched["nu"], takeover_steps)
        assert np.array_equal(watched["obs"][torch.tensor(starts)], decided)
        assert sum(starts) == watched["takeovers"] == len(decided) > 1
        in_a_row += sum(starts[t] and watched["nu"][t - 1] for t in range(1, 50))
    assert in_a_row  # some begin where another ends


def test_a_success_is_an_end_after_which_nothing_counts():
    data = buffer(episode("0010", success=1.0))
    assert data["terminations"].tolist() == [0, 0, 0, 1] and data["rewards"].tolist() == [
        0,
        -1,
        0,
        0,
    ]
    assert data["obs"].flatten().tolist() == [0, 1, 2, 3]
    assert data["actions"].flatten().tolist() == pytest.approx([0, 0.1, 0.2, 0.3])
    agent = rlif_rlpd.Agent(1, 1, rlif_rlpd.Args(hidden_sizes=(8,)), "cpu")
    noise, members = torch.zeros(4, 1), torch.arange(2)
    losses = []
    for next_obs in (data["next_obs"][3], torch.tensor([1e3])):
        changed = data | {"next_obs": torch.cat([data["next_obs"][:3], next_obs[None]])}
        losses.append(agent.critic_gradients(changed, noise, members)[0]["qf_loss"].item())
    assert losses[0] == losses[1]  # what is stored as the next observation plays no part


@pytest.mark.parametrize(("success", "termination"), [
    (1.0, "bootstrap"), (0.0, "bootstrap"), (math.nan, "bootstrap"), (0.0, "mask"), (math.nan, "mask"),
])  # fmt: skip
def test_the_last_observation_is_not_invented(success, termination):
    data = buffer(episode("0010", success), episode("01"), termination=termination)
    assert data["next_obs"].flatten().tolist() == [1, 2, 3, 1] and not data["terminations"].any()
    assert data["rewards"].tolist() == [0, -1, 0, -1]


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("termination", ["mask", "bootstrap"])
def test_a_run_learns_from_all_its_episodes_and_says_what_they_cost(
    termination, buffers, monkeypatch
):
    step, watched = tiny.Walled.step, watched_episodes(monkeypatch)

    def told(env, action):
        obs, reward, _, truncated, _ = step(env, action)
        won = bool(abs(obs[0]) < 0.02)
        return obs, reward, won, truncated, {"success": won}

    monkeypatch.setattr(tiny.Walled, "step", told)
    folder = run("--termination", termination, "--rounds", 3, "--eval-frequency", 2)
    rows = tiny.rows(folder)
    assert [int(row["round"]) for row in rows] == [2, 3] and len(watched) == 6
    assert {"round", "expert_steps", "success_rate"} <= rows[0].keys()
    for row, episodes in zip(rows, (watched[:4], watched)):
        assert int(row["expert_steps"]) == sum(int(one["nu"].sum()) for one in episodes) > 0
        assert int(row["takeovers"]) == sum(one["takeovers"] for one in episodes)
        assert int(row["global_step"]) == sum(len(one["nu"]) for one in episodes)
        assert 0 <= float(row["success_rate"]) <= 100
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["rounds"], summary["demo_episodes"]) == (3, 0)
    assert [str(summary[name]) for name in ("env_steps", "expert_steps", "takeovers")] == [
        rows[-1][name] for name in ("global_step", "expert_steps", "takeovers")
    ]
    (rb,) = buffers
    successes = sum(one["success"] == 1 for one in watched)
    ends = successes if termination == "mask" else 0
    assert successes and rb.size == sum(len(one["nu"]) - 1 for one in watched) + ends
    data = rb.state_dict()
    assert data["terminations"].sum() == ends
    at_once = sum(bool(one["nu"][0]) for one in watched)
    assert -data["rewards"].sum() == summary["takeovers"] - at_once > 0


def test_it_begins_as_the_initial_policy_and_learns(monkeypatch):
    agents, update = [], rlif_rlpd.Agent.update

    def keep(agent, batches):
        if not agents:
            agents.append(
                {name: values.clone() for name, values in agent.actor.state_dict().items()}
            )
            agents.append((agent.qf.obs_mean.clone(), agent.qf_target.obs_std.clone()))
        return update(agent, batches)

    monkeypatch.setattr(rlif_rlpd.Agent, "update", keep)
    initial = load_expert("Walled-v0", "../initial.safetensors")
    state = initial.state | {
        "obs_mean": torch.tensor([0.3, -0.2]),
        "obs_std": torch.tensor([2.0, 0.5]),
    }
    save_expert(
        "shifted.safetensors", {f"actor.{name}": x for name, x in state.items()}, **initial.facts
    )
    folder = run("--initial-policy", "shifted.safetensors", "--rounds", 1)
    first, (mean, std) = agents
    tiny.assert_same(first, state)
    assert torch.equal(mean, state["obs_mean"]) and torch.equal(std, state["obs_std"])
    learned = load_expert(
        "Walled-v0", str(folder / "model.safetensors"), mile.make_env("Walled-v0"), with_q=True
    )
    assert not torch.equal(learned.state["mean.bias"], state["mean.bias"])
    assert learned.facts["hidden_sizes"] == [32]


@pytest.mark.parametrize(("termination", "ends"), [("mask", 1), ("bootstrap", 0)])
def test_demonstrations_come_first_and_without_rewards(termination, ends, buffers, monkeypatch):
    asked = []

    def demonstrations(env, env_id, episodes):
        asked.append((env_id, episodes))
        return tiny.demonstrations(env, env_id, episodes) | {
            "terminations": np.eye(20, dtype=np.float32)[9]
        }

    monkeypatch.setattr(rlif_rounds, "load_demonstrations", demonstrations)
    folder = run("--demo-episodes", 2, "--termination", termination)
    demos = tiny.demonstrations(mile.make_env("Walled-v0"), "Walled-v0", 2)
    data = buffers[0].state_dict()
    for name in ("obs", "next_obs", "actions"):
        assert np.array_equal(data[name][:20], demos[name])
    assert not data["rewards"][:20].any() and data["rewards"][20:].any()
    assert data["terminations"].tolist() == [0] * 9 + [ends] + [0] * (len(data["obs"]) - 10)
    assert len(data["obs"]) == 20 + 4 * 49 and asked == [("Walled-v0", 2)]
    assert json.loads((folder / "summary.json").read_text())["demo_episodes"] == 2


def test_the_same_seed_is_the_same_run_and_another_seed_another():
    folders = [run("--seed", seed) for seed in (1, 1, 2)]
    same, again, other = (
        [row | {"wall_seconds": ""} for row in tiny.rows(folder)] for folder in folders
    )
    assert same == again != other
    policies = [
        load_expert("Walled-v0", str(folder / "model.safetensors")).state for folder in folders
    ]
    tiny.assert_same(*policies[:2])
    assert not torch.equal(policies[0]["mean.bias"], policies[2]["mean.bias"])


@pytest.mark.parametrize(("options", "message"), [
    (("--termination", "penalty"), "--termination must be mask or bootstrap, not penalty"),
    (("--rounds", 0), "--rounds must be positive, not 0"),
    (("--intervention-scale", 0), "--intervention-scale must be positive"),
    (("--capture-video",), "--capture-video is not there in this script"),
    (("--env-id", "Switched-v0"), "RLPD needs continuous actions"),
    (("--env-id", "Endless-v0"), "Endless-v0 has no time limit"),
    (("--expert", "nobody"), "no expert 'nobody' for Walled-v0"),
])  # fmt: skip
def test_bad_input_is_one_line_before_any_work(options, message):
    with pytest.raises(InputError, match=message) as caught:
        run(*options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))


def test_losses_that_are_not_finite_end_the_run(monkeypatch):
    losses = {"qf_loss": torch.tensor(math.nan), "actor_loss": torch.tensor(0.0)}
    monkeypatch.setattr(rlif_rlpd.Agent, "update", lambda *_: losses)
    with pytest.raises(RunError, match="round 1, update 0: learning broke down"):
        run()


def test_the_script_says_in_one_line_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rlif_rounds.py", "--termination", "penalty"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(tiny.ROOT / "benchmark" / "rlif_rounds.py"), run_name="__main__")
    error = capsys.readouterr().err
    assert (
        caught.value.code == 2
        and error.startswith("rlif_rounds.py: --termination")
        and error.count("\n") == 1
    )
