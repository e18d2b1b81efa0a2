"""benchmark/rlif_rounds.py: RLIF learns from the episodes that mile.py and iwr.py learn from."""

import math
import sys

import numpy as np
import pytest
import torch

import iwr
import mile
import rlif_rlpd
from experts import InputError, load_expert
from tests import tiny

sys.path.insert(0, str(tiny.ROOT / "benchmark"))
import rlif_rounds

pytestmark = pytest.mark.usefixtures("people")
SHORT = tiny.words(tiny.MILE, "--env-id Walled-v0 --eval-episodes 2 --rounds 2 --round-episodes 2")


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """Without compiling, which takes longer than a tiny run."""
    monkeypatch.setattr(rlif_rounds, "compiled", lambda function: function)


@pytest.fixture
def buffers(monkeypatch):
    """The replay buffers of the runs."""
    made, init = [], rlif_rlpd.ReplayBuffer.__init__

    def keep(rb, *sizes):
        init(rb, *sizes)
        made.append(rb)

    monkeypatch.setattr(rlif_rlpd.ReplayBuffer, "__init__", keep)
    return made


@pytest.fixture
def watched(monkeypatch):
    """The episodes that a person watches, in their order."""
    kept, rollout = [], iwr.rollout

    def keep(env, actor, human, seed):
        episode = rollout(env, actor, human, seed)
        return kept.append(episode) or episode if human else episode

    for module in (iwr, mile):
        monkeypatch.setattr(module, "rollout", keep)
    return kept


def run(*options, script=rlif_rounds):
    """A run in this process; returns its folder."""
    before = set(tiny.Path().glob("runs/*"))
    options = [*SHORT, "--round-updates", 2, *options]
    script.main(tiny.tyro.cli(script.Args, args=tiny.words(*options)))
    (folder,) = set(tiny.Path().glob("runs/*")) - before
    return folder


@pytest.mark.parametrize("takeover_steps", [1, 3])
def test_the_first_rounds_episodes_are_those_of_mile_to_the_bit(takeover_steps, watched):
    same = "--takeover-steps", takeover_steps, "--seed", 4
    run(*same, *tiny.MILE_OWN, script=mile)
    of_mile = watched[:]
    watched.clear()
    run(*same, "--round-updates", 20)
    assert len(of_mile) == len(watched) == 4
    assert any(0 < episode["nu"].sum() < len(episode["nu"]) for episode in of_mile[:2])
    for theirs, own in zip(of_mile[:2], watched[:2]):
        tiny.assert_same(theirs, own)
    # by then they have learned, but begin where the others do
    for theirs, own in zip(of_mile[2:], watched[2:]):
        assert torch.equal(theirs["obs"][0], own["obs"][0])
        assert not torch.equal(theirs["actions"], own["actions"])


def added(nu, success=math.nan, **options):
    """What add_episode makes of an episode that observes 0, 1, 2, ... and acts 0, 0.1, 0.2, ..."""
    nu = torch.tensor([float(one) for one in nu])
    obs = torch.arange(float(len(nu)))[:, None]  # (T, 1)
    episode = {"obs": obs, "actions": obs / 10, "nu": nu, "success": success}
    rb = rlif_rlpd.ReplayBuffer(100, 1, 1)
    rlif_rounds.add_episode(rlif_rounds.Args(**options), rb, episode)
    return {name: values.flatten().tolist() for name, values in rb.state_dict().items()}


@pytest.mark.parametrize(("takeover_steps", "nu", "rewards"), [
    (1, "0010", [0, -1, 0]),
    (1, "0110", [-1, -1, 0]),  # the person decides anew at every step
    (1, "1001", [0, 0, -1]),  # nothing was done before the first takeover
    (1, "0000", [0, 0, 0]),
    (3, "00111000111", [0, -1, 0, 0, 0, 0, 0, -1, 0, 0]),
    (3, "01111110001", [-1, 0, 0, -1, 0, 0, 0, 0, 0, -1]),  # one begins where another ends
    (2, "01101", [-1, 0, 0, -1]),  # the episode's end ends a takeover
])  # fmt: skip
def test_the_step_before_a_takeover_is_worth_minus_one(takeover_steps, nu, rewards):
    data, n = added(nu, takeover_steps=takeover_steps), len(nu) - 1
    assert data["rewards"] == rewards and not any(data["terminations"])
    assert data["obs"] == list(range(n)) and data["next_obs"] == list(range(1, n + 1))
    assert data["actions"] == pytest.approx([t / 10 for t in range(n)])
    assert data["ends"] == [0] * (n - 1) + [1]


def test_a_success_is_an_end_after_which_nothing_counts_if_wanted():
    data = added("0010", success=1.0)
    assert data["terminations"] == [0, 0, 0, 1] == data["ends"]
    assert data["rewards"] == [0, -1, 0, 0] and data["obs"] == [0, 1, 2, 3]
    data = added("0010", success=1.0, termination="bootstrap")
    assert data["obs"] == [0, 1, 2] and not any(data["terminations"])


def test_what_a_run_counts_and_learns_from(buffers, watched):
    folder = run("--rounds", 3, "--eval-frequency", 2, "--demo-episodes", 0)
    rows = tiny.rows(folder)
    assert [int(row["round"]) for row in rows] == [2, 3] and len(watched) == 6
    for row, episodes in zip(rows, (watched[:4], watched)):
        assert int(row["expert_steps"]) == sum(int(one["nu"].sum()) for one in episodes) > 0
        assert int(row["takeovers"]) == sum(one["takeovers"] for one in episodes)
        assert int(row["global_step"]) == sum(len(one["nu"]) for one in episodes)
    data = buffers[0].state_dict()
    assert len(data["obs"]) == sum(len(one["nu"]) - 1 for one in watched)
    at_once = sum(bool(one["nu"][0]) for one in watched)
    assert -data["rewards"].sum() == int(rows[-1]["takeovers"]) - at_once > 0
    initial = load_expert("Walled-v0", "../initial.safetensors")
    learned = load_expert("Walled-v0", f"{folder}/model.safetensors")
    assert learned.facts["reward"] == "intervention"  # its critics are no judge
    assert learned.facts["hidden_sizes"] == initial.facts["hidden_sizes"]
    assert not torch.equal(learned.state["mean.bias"], initial.state["mean.bias"])


def test_demonstrations_come_first_and_without_rewards(buffers, monkeypatch):
    def demonstrations(env_id, env, episodes, seed, dataset_id):
        return tiny.demonstrations(env_id, env, episodes) | {"rewards": np.ones(20, np.float32)}

    monkeypatch.setattr(rlif_rounds, "load_demonstrations", demonstrations)
    run("--demo-episodes", 2)
    data = buffers[0].state_dict()
    demos = tiny.demonstrations("Walled-v0", iwr.make_env("Walled-v0"), 2)
    for name in ("obs", "next_obs", "actions", "ends"):
        assert np.array_equal(data[name][:20], demos[name])
    assert not data["rewards"][:20].any() and data["rewards"][20:].any()


def test_critics_may_learn_what_the_initial_policy_is_worth_before_it_changes(monkeypatch):
    actors, update = [], rlif_rlpd.Agent.update_critics

    def keep(agent, batch):
        actors.append(agent.actor.mean.bias.tolist())
        return update(agent, batch)

    monkeypatch.setattr(rlif_rlpd.Agent, "update_critics", keep)
    run("--critics-first", "--round-updates", 3)
    initial = load_expert("Walled-v0", "../initial.safetensors").state["mean.bias"].tolist()
    assert [actor == initial for actor in actors] == [True] * 4 + [False] * 5


def test_the_same_seed_is_the_same_run_and_another_seed_another():
    names = {"a": 1, "b": 1, "c": 2}
    same, again, other = (run("--seed", seed, "--exp-name", name) for name, seed in names.items())
    assert tiny.evaluations(same) == tiny.evaluations(again) != tiny.evaluations(other)
    a, b = (load_expert("Walled-v0", f"{x}/model.safetensors").state for x in (same, again))
    tiny.assert_same(a, b)


@pytest.mark.parametrize(("options", "message"), [
    ("--env-id Switched-v0", "RLPD needs continuous actions"),
    ("--env-id Endless-v0", "Endless-v0 has no time limit"),
    ("--expert nobody", "no expert 'nobody'"),
])  # fmt: skip
def test_bad_input_is_one_line_before_any_work(options, message):
    with pytest.raises(InputError, match=message):
        run(*options.split())
    with pytest.raises(InputError, match="not there in this script"):
        rlif_rounds.Args(max_episode_steps=9).check()
    assert not list(tiny.Path("runs").glob("*"))
