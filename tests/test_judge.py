"""benchmark/judge.py: states are restored to the bit, returns and flags are what they should be."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rlif_rlpd
from experts import TRAINING_TASKS, load_expert
from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmark"))
import judge
import oracle


LEVELS = "top", "low"


def walk(env, policy, steps):
    """Some steps from a fresh episode; the last observation."""
    obs, _ = env.reset(seed=3)
    for _ in range(steps):
        obs, *_ = env.step(policy.act(obs[None])[0].numpy())
    return obs


@pytest.mark.parametrize("env_id", judge.SIZES)
def test_a_restored_state_leads_to_the_same_next_steps_to_the_bit(env_id):
    env, other = rlif_rlpd.make_env(env_id), rlif_rlpd.make_env(env_id)
    # what training's task has come to is restored in the reference's task, amid another episode
    visited = rlif_rlpd.make_env(TRAINING_TASKS.get(env_id, env_id))
    expert = load_expert(env_id, "top")
    obs = walk(visited, expert, 15)
    state = judge.save_state(visited)
    actions = [expert.act(obs[None])[0].numpy() for _ in range(3)]
    expected = [visited.step(action)[:2] for action in actions]
    walk(env, expert, 8)
    for target in (other, env):
        target.reset(seed=5)
        judge.restore_state(target, state)
        for action, (next_obs, reward) in zip(actions, expected):
            got_obs, got_reward, *_ = target.step(action)
            assert np.array_equal(got_obs, next_obs) and got_reward == reward


@pytest.mark.parametrize("env_id", judge.SIZES)
def test_the_true_return_is_a_sum_by_hand(env_id, monkeypatch):
    monkeypatch.setattr(judge, "GAMMA", 0.5)
    env, (expert, novice) = rlif_rlpd.make_env(env_id), (load_expert(env_id, x) for x in LEVELS)
    obs = walk(env, expert, 5)
    state, first = judge.save_state(env), novice.act(obs[None])[0].numpy()
    noise = np.random.default_rng(0).standard_normal((4, len(first)), np.float32)
    action, expected = first, 0.0
    for t in range(4):
        obs, reward, *_ = env.step(action)
        expected += 0.5**t * reward
        mean, log_std = (novice if t == 0 else expert)(obs[None])  # two steps are the novice's
        if t < 3:
            action = (mean + log_std.exp() * torch.as_tensor(noise[t + 1])).tanh()[0]
            action = action.clamp(-0.999, 0.999).numpy()
    walk(env, expert, 3)  # elsewhere
    policies = [novice, expert, expert]
    assert judge.true_return(env, policies, state, first, noise) == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [0.9, 0.995])
def test_flags_are_those_of_the_person(alpha):
    q_novice = np.array([0.98, 0.8, -1.2, -1.001, -0.5, 0.0, 100.0, 99.4])
    q_reference = np.array([1.0, 1.0, -1.0, -1.0, -1.0, 0.0, 100.0, 100.0])
    flags = []
    for pair in zip(q_novice, q_reference):
        q = torch.tensor(pair, dtype=torch.float64)
        reference = SimpleNamespace(act=lambda obs: torch.zeros(1, 1), q=lambda obs, actions: q)
        args = rlif_rlpd.Args(intervention_alpha=alpha)
        human = rlif_rlpd.ValueHuman(args, reference, np.random.default_rng(0))
        flags.append(human.check(np.zeros(2), np.zeros(1, np.float32), 0)[0])
    assert judge.worse(q_novice, q_reference, alpha).tolist() == flags
    assert 0 < sum(flags) < len(flags)


def test_it_is_as_strict_as_the_person_of_table_1():
    for env_id, alpha in judge.ALPHAS.items():
        run = ROOT / f"benchmark/results/table1/{env_id}-top-rlif/seed_1.json"
        assert json.loads(run.read_text())["args"]["intervention_alpha"] == alpha


def write(path, q, gap):
    """A file of results: a row for each Q gap and true gap, in two episodes, with four rollouts."""
    names = [f"{arm}_{r}" for arm in ("novice", "reference") for r in range(4)]
    lines = ["episode,t,q_novice,q_reference," + ",".join(names)]
    for i, (of_q, of_g) in enumerate(zip(q, gap)):
        novice = ",".join(f"{20 - of_g + noise}" for noise in (-2, -1, 1, 2))
        lines.append(f"{i % 2},{i},{10 - of_q},10,{novice},18,19,21,22")
    path.write_text("\n".join(lines) + "\n")


def test_files_of_results_are_read_and_summed_up(tmp_path):
    path = tmp_path / "a.csv"
    write(path, q=[0, 1, 3, 5], gap=[0, 0.05, 4, 6])
    episode, q, g = judge.read([path, path])
    assert episode.tolist() == [0, 1, 0, 1, 1e6, 1e6 + 1, 1e6, 1e6 + 1] and g.shape == (2, 8, 4)
    assert (q[1] - q[0]).tolist() == [0, 1, 3, 5] * 2
    assert (g[1] - g[0]).mean(1).tolist() == pytest.approx([0, 0.05, 4, 6] * 2)
    found = dict(zip(judge.HEADER[1:], judge.summary([path], 0.995)))
    assert found["states"] == "4" and found["rank correlation"].startswith("1.00 (")
    assert found["attainable"] == "1.00"
    # flagged: more than 0.05 of 10 less; bad: more than 0.1 of 20
    assert (found["flagged (%)"], found["bad (%)"]) == ("75", "50")
    assert (found["flagged if bad (%)"], found["bad if flagged (%)"]) == ("100", "67")
    assert found["true gap if flagged"].startswith("3.4 (") and found["if not"].startswith("0.0 (")
    assert found["and more than if not"].startswith("67 (")
    assert judge.cost([path], "novice").startswith("2.5 (")


def test_one_command_judges_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "RESULTS", tmp_path)
    monkeypatch.setattr(judge, "REFERENCES", [("Hopper-v5", "top")])
    monkeypatch.setattr(judge, "SIZES", {"Hopper-v5": (9, 2)})
    monkeypatch.setattr(judge, "EPISODES", 3)
    monkeypatch.setattr(judge, "HORIZON", 3)
    monkeypatch.setattr(judge, "SPANS", (2,))
    novices = tmp_path / "judge" / "novices" / "Hopper-v5"
    novices.mkdir(parents=True)
    for name in judge.NOVICES:
        low = ROOT / "experts" / "Hopper-v5" / "low.safetensors"
        (novices / f"{name}.safetensors").symlink_to(low)
    (tmp_path / "judge" / "Hopper-v5-top-late.csv").write_text("kept")
    states, returns, visited, true_return = [], [], judge.visited, judge.true_return

    def keep(*given):
        returns.append((*given[3:], given[1][:2], true_return(*given)))
        return returns[-1][-1]

    monkeypatch.setattr(judge, "true_return", keep)
    monkeypatch.setattr(judge, "visited", lambda *x: states.extend(visited(*x)) or states[-9:])
    judge.main()
    kept = {path.stem[-5:]: path.read_text() for path in (tmp_path / "judge").glob("*.csv")}
    assert kept["-late"] == "kept" and kept["early"] == kept["iddle"]  # the same novice
    arms = "novice", "reference", "novice2"
    _, q, g = judge.read([tmp_path / "judge" / "Hopper-v5-top-early.csv"], arms)
    assert g.shape == (3, 9, 2) and {episode for episode, *_ in states[:9]} == {0, 1, 2}
    top = load_expert("Hopper-v5", "top")
    for s, (*_, obs, proposal, _) in enumerate(states[:9]):
        actions, noises, policies, values = zip(*returns[6 * s : 6 * s + 6])  # two of each
        assert g[:, s].flatten() == pytest.approx(values, abs=1e-4)
        assert all(reference is policies[0][0] for pair in policies[:4] for reference in pair)
        assert all(x[0] is not policies[0][0] is x[1] for x in policies[4:])
        assert np.array_equal(noises[:2] * 2, noises[2:]) and not np.array_equal(*noises[:2])
        assert np.array_equal(actions[0], proposal) and actions[2] is actions[3]
        assert np.abs(actions[2] - top.act(obs[None], deterministic=True)[0].numpy()).max() > 1e-3
        expected = [top.q(obs[None], action[None]).item() for action in actions[1:3]]
        assert q[:, s] == pytest.approx(expected, abs=1e-3)


def test_who_sees_the_future_flags_what_turns_out_bad_and_leaves_the_present_as_it_is(monkeypatch):
    env, simulator = (rlif_rlpd.make_env("Hopper-v5") for _ in range(2))
    reference = load_expert("Hopper-v5", "top", env, with_q=True)
    args = rlif_rlpd.Args(intervention_alpha=0.95)
    person = oracle.Oracle(args, reference, np.random.default_rng(0))
    person.watch(env, simulator)
    obs, proposal = walk(env, reference, 5), np.array([0.3, -0.2, 0.1])
    here, played, true_return = judge.save_state(env), [], judge.true_return

    def watched(env, policies, state, action, noise):
        assert env is simulator and state[0] is not here[0] and np.array_equal(state[0], here[0])
        found = true_return(env, policies, state, action, noise)
        played.append((action, noise, found))
        return next(worth) or found

    monkeypatch.setattr(judge, "true_return", watched)
    worth = iter([None, None, 94, 100, 96, 100, -104, -100])
    obs = torch.as_tensor(obs)[None].float()
    assert [person.is_bad(obs, proposal, 0) for _ in range(4)][1:] == [True, False, False]
    assert np.array_equal(judge.save_state(env)[0], here[0])
    assert np.array_equal(played[0][0], proposal) and not np.array_equal(played[1][0], proposal)
    assert np.array_equal(played[0][1], played[1][1])  # the same noise for both, another later
    assert not np.array_equal(played[0][1], played[2][1]) and played[0][2] != played[1][2]
