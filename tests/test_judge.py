"""benchmark/judge.py: states are restored to the bit, returns and flags are what they should be."""

import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import rlif_rlpd
from experts import TRAINING_TASKS, InputError, load_expert
from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmark"))
import judge
import report_judge


def walk(env, policy, steps):
    """Some steps from a fresh episode; the last observation."""
    obs, _ = env.reset(seed=3)
    for _ in range(steps):
        obs, *_ = env.step(policy.act(obs[None])[0].numpy())
    return obs


@pytest.mark.parametrize("env_id", judge.TASKS)
def test_a_restored_state_leads_to_the_same_next_steps_to_the_bit(env_id):
    env, other = rlif_rlpd.make_env(env_id), rlif_rlpd.make_env(env_id)
    # what training's task has come to is restored in the reference's task, amid another episode
    visited = rlif_rlpd.make_env(TRAINING_TASKS.get(env_id, env_id))
    expert = load_expert(env_id, "top")
    obs = walk(visited, expert, 15)
    state = judge.save_state(visited)
    actions = [expert.act(obs[None])[0].numpy() for _ in range(3)]
    expected = [visited.step(action)[:2] for action in actions]
    other.reset(seed=4)
    walk(env, expert, 8)
    for target in (other, env):
        target.reset(seed=5)
        judge.restore_state(target, state)
        for action, (next_obs, reward) in zip(actions, expected):
            got_obs, got_reward, *_ = target.step(action)
            assert np.array_equal(got_obs, next_obs) and got_reward == reward


@pytest.mark.parametrize("env_id", judge.TASKS)
def test_rollouts_that_share_a_model_are_those_of_an_environment_of_their_own(env_id, monkeypatch):
    monkeypatch.setattr(judge, "SLOTS", 2)  # of three: one waits
    env, expert = rlif_rlpd.make_env(env_id), load_expert(env_id, "top")
    starts = []
    for seed in (1, 2, 3):  # of the pen each has another target
        obs, _ = env.reset(seed=seed)
        starts.append((judge.save_state(env), expert.act(obs[None])[0].numpy(), (0, seed)))
    returns = judge.monte_carlo(env, expert, starts, horizon=4, gamma=0.5)
    for start, got in zip((1, 2, 3), returns):
        env.reset(seed=start)
        action = starts[start - 1][1]
        noise = np.random.default_rng((0, start)).standard_normal((4, len(action)), np.float32)
        expected = 0.0
        for t in range(4):
            obs, reward, *_ = env.step(action)
            expected += 0.5**t * reward
            if t < 3:
                action = judge.act(expert, obs[None], noise[t + 1][None])[0]
        # batches of other sizes round the actions differently
        assert got == pytest.approx(expected, rel=1e-4)


class Core:
    """A counter: the reward is what it has counted; it ends at 5."""

    def __init__(self):
        self.model, self.data = None, None

    def step(self, action):
        self.data["count"] += int(action[0])
        count = self.data["count"]
        return np.array([count], np.float32), float(count), count >= 5, False, {}


def test_the_return_of_a_scripted_case_is_that_of_a_sum_by_hand(monkeypatch):
    core = Core()
    env = SimpleNamespace(unwrapped=core, action=lambda action: action)
    monkeypatch.setattr(judge.mujoco, "MjData", lambda model: {})
    monkeypatch.setattr(
        judge, "restore_state", lambda env, state: core.data.update(count=state["count"])
    )
    # the reference counts one further in every step
    monkeypatch.setattr(judge, "act", lambda reference, obs, noise: np.ones((len(obs), 1)))
    starts = [({"count": 0}, np.array([2.0]), 0), ({"count": 1}, np.array([0.0]), 0)]
    returns = judge.monte_carlo(env, None, starts, horizon=5, gamma=0.5)
    # 2, 3, 4, 5 and the end; 1, 2, 3, 4, 5
    assert returns.tolist() == [2 + 3 / 2 + 4 / 4 + 5 / 8, 1 + 2 / 2 + 3 / 4 + 4 / 8 + 5 / 16]
    returns = judge.monte_carlo(env, None, starts, horizon=2, gamma=0.5)
    assert returns.tolist() == [2 + 3 / 2, 1 + 2 / 2]
    assert core.data is None  # the environment has its own data again


def test_after_the_horizon_the_references_q_goes_on_if_wanted():
    env, expert = rlif_rlpd.make_env("Hopper-v5"), load_expert("Hopper-v5", "top")
    obs, _ = env.reset(seed=1)
    state, action = judge.save_state(env), expert.act(obs[None])[0].numpy()
    next_obs, reward, *_ = env.step(action)
    value = expert.q(next_obs[None], expert.act(next_obs[None], deterministic=True)).item()
    start = [(state, action, 0)]
    got = judge.monte_carlo(env, expert, start, horizon=1, gamma=0.5, bootstrap=True)
    assert got == pytest.approx(reward + 0.5 * value, rel=1e-5)


def test_states_are_moved_by_their_own_spread():
    env = rlif_rlpd.make_env("Walker2d-v5")
    states, motions = [], []
    for seed in range(30):
        env.reset(seed=seed)
        states.append(judge.save_state(env))
        motions.append(env.unwrapped.state_vector())
    moved = judge.displaced(env, states, 0.1, [(1, 9, r) for r in range(20)])
    errors = []
    for own, motion in zip(moved, motions):
        for state in own:
            judge.restore_state(env, state)
            errors.append(env.unwrapped.state_vector() - motion)
    errors = np.array(errors)  # (30 * 20, positions + velocities)
    assert errors.std(0) == pytest.approx(0.1 * np.std(motions, axis=0), rel=0.2)
    assert len(np.unique(errors[:, 1])) == len(errors)


def test_the_noise_is_that_of_the_policy():
    expert = load_expert("Hopper-v5", "top")
    obs = np.random.default_rng(0).normal(size=(4, 11))
    torch.manual_seed(0)
    noise = torch.randn(4, 3).numpy()
    torch.manual_seed(0)
    assert np.array_equal(judge.act(expert, obs, noise), expert.act(obs).numpy())


@pytest.mark.parametrize("alpha", [0.9, 0.995])
def test_flags_are_those_of_the_person(alpha):
    q_novice = np.array([0.98, 0.8, -1.2, -1.001, -0.5, 0.0, 100.0, 99.4])
    q_reference = np.array([1.0, 1.0, -1.0, -1.0, -1.0, 0.0, 100.0, 100.0])
    args = rlif_rlpd.Args(intervention_alpha=alpha)
    flags = []
    for novice, own in zip(q_novice, q_reference):
        reference = SimpleNamespace(
            act=lambda obs: torch.zeros(1, 1),
            q=lambda obs, actions: torch.tensor([novice, own], dtype=torch.float64),
        )
        human = rlif_rlpd.ValueHuman(args, reference, np.random.default_rng(0))
        flags.append(human.check(np.zeros(2), np.zeros(1, np.float32))[0])
    assert judge.worse(q_novice, q_reference, alpha).tolist() == flags
    assert 0 < sum(flags) < len(flags)


def test_rates_are_counted_right():
    flagged = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    bad = np.array([1, 0, 0, 1, 0, 0, 1, 1], bool)
    assert judge.rates(flagged, bad).tolist() == [37.5, 50.0, pytest.approx(100 / 3), 25.0]
    assert np.isnan(judge.rates(~flagged & flagged, bad)[2])  # none is flagged
    assert np.isnan(judge.rates(flagged, bad & ~bad)[3])  # none is bad


def write(path, novice, reference):
    """A file of results with three states of two episodes, two rollouts each."""
    lines = ["episode,t,q_novice,q_reference,novice_0,novice_1,reference_0,reference_1"]
    for i, (q, g) in enumerate(zip(novice, reference)):
        lines.append(f"{i // 2},{i},{10 - q},10,{20 - g - 1},{20 - g + 1},19,21")
    path.write_text("\n".join(lines) + "\n")


def test_a_file_of_results_is_read_and_shown(tmp_path):
    write(tmp_path / "a.csv", novice=[0, 1, 3], reference=[0, 4, 6])
    one = judge.read(tmp_path / "a.csv")
    assert one.q_gap.tolist() == [0, 1, 3] and one.gaps.mean(1).tolist() == [0, 4, 6]
    assert one.flagged(0.8).tolist() == [False, False, True]  # by more than 2 of 10
    assert one.bad(0.8).tolist() == [False, False, True]  # by more than 4 of 20
    both = judge.together([one, one])
    assert both.episode.tolist() == [0, 0, 1, 1e6, 1e6, 1e6 + 1] and both.gaps.shape == (6, 2)
    point, low, high = report_judge.rank_correlation(one)
    assert point == pytest.approx(1) and low <= high
    # both rollouts say the same but for a constant
    assert report_judge.attainable(one) == pytest.approx(1)
    assert report_judge.judge_rates(one, 0.8) == "33 / 33 / 100 / 100 / 0"
    swapped = judge.Judged(one.episode, one.q_novice, one.q_reference, one.reference, one.novice)
    assert swapped.better(0.8).tolist() == [False, True, True]  # of 16 and 14, by more than a fifth


def test_two_gaps_that_share_nothing_but_noise_do_not_agree(monkeypatch):
    monkeypatch.setattr(report_judge, "resampled", lambda judged, statistic: statistic(slice(None)))
    rng, none = np.random.default_rng(0), np.zeros(5_000)
    gap, shared = rng.normal(size=(5_000, 1)), rng.normal(size=(5_000, 6))

    def judged(gaps):
        return judge.Judged(none, none, none, 0 * gaps, gaps)

    noise = judged(shared), judged(shared[:, :4])
    assert np.corrcoef(*(one.gaps.mean(1) for one in noise))[0, 1] > 0.8
    assert abs(report_judge.agreement(*noise)) < 0.04
    same = judged(gap + 0.01 * shared), judged(gap + 0.01 * shared[:, :4])
    assert report_judge.agreement(*same) > 0.99


def test_flagged_proposals_are_more_often_bad():
    episode = np.arange(40)
    flagged, bad = episode < 20, (episode < 15) | (episode >= 36)  # 15 of 20 and 4 of 20
    gaps = np.where(bad, 5.0, 0.0)[:, None] + np.zeros((40, 2))
    judged = judge.Judged(episode, 1 - 5.0 * flagged, 1.0 + 0 * episode, 1 - gaps, 1 + 0 * gaps)
    point, low, high = report_judge.excess(judged, 0.9)
    assert point == pytest.approx(55) and 20 < low < 55 < high < 85
    *_, excess, _, _, _ = report_judge.gap_cells(judged.part(flagged))
    assert excess == "-"  # for there is no other


def test_what_a_perfect_judge_would_reach_is_estimated_right():
    rng = np.random.default_rng(0)
    gap, none = rng.normal(size=(20_000, 1)), np.zeros(20_000)
    noise = 3 * rng.normal(size=(20_000, 4))  # so the mean over rollouts has a deviation of 1.5
    judged = judge.Judged(none, none, gap[:, 0], np.zeros((20_000, 4)), gap + noise)
    reached = stats.spearmanr(gap[:, 0], judged.gaps.mean(1)).statistic
    assert reached == pytest.approx(1 / np.sqrt(1 + 1.5**2), abs=0.03)
    assert report_judge.attainable(judged) == pytest.approx(reached, abs=0.02)


def test_a_number_that_is_not_positive_is_refused():
    with pytest.raises(InputError, match="--rollouts must be positive, not 0"):
        judge.main(judge.Args(rollouts=0))
    with pytest.raises(InputError, match="--blur must be zero or more, not -0.1"):
        judge.main(judge.Args(blur=-0.1))


def test_options_of_one_novice_are_refused_without_one():
    with pytest.raises(InputError, match="--states needs a --novice"):
        judge.main(judge.Args(states=7))
    with pytest.raises(InputError, match="--env-id needs a --novice"):
        judge.main(judge.Args(env_id="Walker2d-v5"))


def test_what_is_there_is_not_done_again(tmp_path, monkeypatch, capsys):
    folder = ROOT / "experts" / "Hopper-v5"
    novices = [tmp_path / name / "late.safetensors" for name in ("low", "middle")]
    for novice in novices:
        novice.parent.mkdir()
        shutil.copy(folder / f"{novice.parent.name}.safetensors", novice)
    args = judge.Args(str(novices[0]), states=2, rollouts=1, horizon=3, episodes=1)
    judge.run_one(args, tmp_path)
    kept = tmp_path / "Hopper-v5-top-late.csv"
    kept.write_text("kept")
    judge.run_one(args, tmp_path)
    assert "Hopper-v5-top-late.csv is there already" in capsys.readouterr().out
    for other in (replace(args, seed=2), replace(args, novice=str(novices[1]))):
        with pytest.raises(InputError, match="Hopper-v5-top-late.csv is of other settings"):
            judge.run_one(other, tmp_path)
    assert kept.read_text() == "kept"


def test_one_command_judges_a_novice(tmp_path):
    novice = ROOT / "experts" / "Hopper-v5" / "low.safetensors"
    args = judge.Args(str(novice), states=3, rollouts=2, horizon=3, episodes=1)
    judge.run_one(args, tmp_path)
    one = judge.read(tmp_path / "Hopper-v5-top-low.csv")
    assert one.novice.shape == one.reference.shape == (3, 2) and (one.q_reference != 0).all()
    assert '"novice": "low.safetensors"' in (tmp_path / "Hopper-v5-top-low.json").read_text()
    judge.run_one(args, tmp_path / "again")
    names = [f"{folder}Hopper-v5-top-low.csv" for folder in ("", "again/")]
    assert len({(tmp_path / name).read_bytes() for name in names}) == 1


def test_a_blurred_state_has_the_same_q_and_another_return(tmp_path):
    novice = ROOT / "experts" / "Hopper-v5" / "low.safetensors"
    args = judge.Args(str(novice), states=3, rollouts=2, horizon=3, episodes=1)
    judge.run_one(args, tmp_path)
    judge.run_one(replace(args, blur=0.1), tmp_path)
    exact = judge.read(tmp_path / "Hopper-v5-top-low.csv")
    blurred = judge.read(tmp_path / "Hopper-v5-top-low-blur-0.1.csv")
    assert np.array_equal(exact.q_novice, blurred.q_novice)
    assert (exact.novice != blurred.novice).all()


def test_all_references_with_critics_are_judged():
    found = {env_id: judge.references(env_id) for env_id in judge.TASKS}
    assert found == {
        "Hopper-v5": ["top"],
        "Walker2d-v5": ["high", "poor", "top"],
        "AdroitHandPen-v1": ["top"],
    }
