"""When the person takes over, and which reward every transition gets for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

import rlif_rlpd
from tests import tiny

EXPERT = 0.5  # tanh(0.5493061), the scripted expert's action; the novice never draws it

# Count's episodes: steps 0-3, 100-103, 200-203, 300-303. Takeovers of two steps start where the
# script says.
SCRIPT = {0, 2, 103, 300}
# By the expert? The takeover at 103, the last step of an episode, ends with it.
BY_EXPERT = (
    [True, True, True, True] + 3 * [False] + [True] + 4 * [False] + [True, True, False, False]
)
# Labels, the ends of episodes apart: the step before 2 is the expert's own; the first step of an
# episode labels nothing, whoever acts in it, and the takeover at 300 does not reach back.
REWARDS = [0, -1, 0, None, 0, 0, -1, None, 0, 0, 0, None, 0, 0, 0, None]


def script_person(monkeypatch, starts, grace_steps=0):
    """Let both people take over where starts(obs) says; the list of all obs they look at."""
    looked = []

    def check(self, obs, proposal, t):
        looked.append(int(obs[0]))
        started = starts(looked[-1])
        of = self if isinstance(self, rlif_rlpd.RandomHuman) else self.args
        return started, started, of.takeover_steps if started else 0

    for human in (rlif_rlpd.ValueHuman, rlif_rlpd.RandomHuman):
        monkeypatch.setattr(human, "check", check)
        monkeypatch.setattr(human, "grace_steps", grace_steps)
    return looked


def run_with_expert(env_id, *options, bias=0.5493061, noise=1e-6):
    """A run without demonstrations whose expert does EXPERT; its folder, its buffer's columns."""
    expert = tiny.write_expert(
        "expert.safetensors", [[0.0]], bias=bias, noise=noise, qf=tiny.critics(1, 1)
    )
    options = tiny.words(*options)
    judge = "" if "--intervention" in options else f"--reference {expert}"
    own = "--total-timesteps 16 --eval-episodes 1 --demo-episodes 0 --hidden-sizes 8"
    own += f" --env-id {env_id} --expert {expert} {judge} --takeover-steps 2"
    folder = tiny.run(f"labels-{len(list(Path().glob('runs/*')))}", own, *options)
    columns = tiny.checkpoint(folder)["rb"]
    columns = {name: values.reshape(len(values)) for name, values in columns.items()}
    return folder, columns | {"by_expert": (columns["actions"] - EXPERT).abs() < 1e-4}


def scripted_run(monkeypatch, env_id, *options):
    """Sixteen steps with takeovers by script: the folder, rewards and terminations."""
    looked = script_person(monkeypatch, SCRIPT.__contains__)
    folder, columns = run_with_expert(env_id, *options)
    assert looked == [0, 2, *range(100, 104), *range(200, 204), 300, 302, 303]
    assert torch.equal(columns["next_obs"], columns["obs"] + 1)  # its own, at an end as well
    assert columns["ends"].tolist() == [0, 0, 0, 1] * 4
    assert columns["by_expert"].tolist() == BY_EXPERT
    return folder, columns["rewards"].tolist(), columns["terminations"].tolist()


def ends(end, other=None):
    """REWARDS with what the end of an episode is worth; other: all else."""
    return [end if r is None else r if other is None else other for r in REWARDS]


def test_labels_of_a_scripted_run_where_a_fall_costs_a_takeover_for_ever(monkeypatch):
    options = "Falls-v0", "--termination penalty"
    folder, rewards, terminations = scripted_run(monkeypatch, *options)
    # takeovers of two steps with no grace: -1 now, in 2 steps, in 4 steps, ...
    for_ever = torch.tensor([0.99**t for t in range(0, 5_000, 2)]).sum().neg().item()
    assert rewards == pytest.approx(ends(for_ever), rel=1e-5) and terminations == ends(1, 0)
    # 7 of 16 steps were the expert's; the person looked at 13 proposals, and 4 of them were flagged
    row = tiny.rows(folder)[-1]
    assert float(row["intervention_rate"]) == 7 / 16
    assert float(row["flagged_rate"]) == pytest.approx(4 / 13)
    counts = {"labels": 2, "takeovers": 4, "expert_steps": 7, "checks": 13, "flags": 4}
    assert {name: int(row[name]) for name in counts} == counts
    # one constant: another label changes the charge as well
    monkeypatch.setattr(rlif_rlpd, "INTERVENTION_REWARD", -2.0)
    again = scripted_run(monkeypatch, *options)[1]
    assert again == pytest.approx([2 * reward for reward in rewards])


FREE = ["Falls bootstrap 0", "Falls mask 1"]
FREE += [f"TimesOut {x} 0" for x in ("penalty", "bootstrap", "mask")]  # a limit is no fall or end


@pytest.mark.parametrize("case", FREE)
def test_labels_of_a_scripted_run_without_a_charge(monkeypatch, case):
    name, termination, mark = case.split()
    found = scripted_run(monkeypatch, f"{name}-v0", "--termination", termination)
    assert found[1:] == (ends(0), ends(int(mark), 0))


def test_the_last_observation_of_one_that_resets_itself_is_its_own(monkeypatch):
    step = tiny.Count.step

    def resets_itself(env, action):
        obs, reward, ended, *rest, _ = step(env, action)
        return obs + 96 * ended, reward, ended, *rest, {"final_obs": obs}

    monkeypatch.setattr(tiny.Count, "step", resets_itself)
    scripted_run(monkeypatch, "Falls-v0", "--termination mask")


REWARD = {"task --termination mask": 1, "task --termination bootstrap": 0, "task": 1}


@pytest.mark.parametrize("options", [*REWARD, "none --termination mask"])
def test_without_labels_there_are_takeovers_all_the_same(monkeypatch, options):
    folder, rewards, marks = scripted_run(monkeypatch, "Falls-v0", "--reward", options)
    assert rewards == (4 * [10, 20, 30, 40] if "task" in options else 16 * [0])
    assert marks == ends(REWARD.get(options, 1), 0)
    row = tiny.rows(folder)[-1]
    assert (row["takeovers"], row["labels"]) == ("4", "0")


@pytest.mark.parametrize("steps", [3, 12, 15])
def test_the_last_step_of_a_run_is_stored_and_is_no_end(monkeypatch, steps):
    script_person(monkeypatch, SCRIPT.__contains__)
    options = "--total-timesteps", steps, "--termination", "mask"
    folder, columns = run_with_expert("Falls-v0", *options)
    # no step comes after it in which a takeover could start
    assert columns["rewards"].tolist() == [*ends(0)[: steps - 1], 0]
    assert columns["terminations"].tolist() == ends(1, 0)[:steps]
    assert columns["ends"][-1] == 1 and int(tiny.rows(folder)[-1]["global_step"]) == steps


def test_a_transition_joins_the_buffer_with_the_step_that_says_what_it_is_worth(monkeypatch):
    script_person(monkeypatch, SCRIPT.__contains__)
    sizes, seen, sample = [], [], rlif_rlpd.ReplayBuffer.sample

    def watched_sample(rb, *what):
        sizes.append(rb.size)
        seen.append(rb.data["rewards"][: rb.size].tolist())
        return sample(rb, *what)

    monkeypatch.setattr(rlif_rlpd.ReplayBuffer, "sample", watched_sample)
    options = "--batch-size", 1, "--termination", "mask", "--num-qs", 2
    run_with_expert("Falls-v0", *options)
    # updates from step 2 on; the transition of this step is there only if it ends the episode
    assert sizes == [step if step % 4 == 0 else step - 1 for step in range(2, 17)]
    for rewards in seen:  # what is learned from is never changed afterwards
        assert rewards == seen[-1][: len(rewards)]
    assert seen[-1] == ends(0)


DEMOS = [
    ("", -1 / (1 - 0.99**2), 1), ("--termination mask", 0, 1), ("--termination bootstrap", 0, 0),
    ("--reward task --intervention none", 3, 1),  # plain RLPD keeps the rewards
]  # fmt: skip


@pytest.mark.parametrize(("options", "reward", "mark"), DEMOS)
def test_demonstrations_come_first_and_have_no_labels(monkeypatch, options, reward, mark):
    script_person(monkeypatch, lambda obs: False)
    buffers = tiny.write_demonstrations("test/count-v0", episodes=2, steps=3, env_id="Falls-v0")
    data = "--demo-episodes", 2, "--dataset-id", "test/count-v0", "--total-timesteps", 4
    folder, columns = run_with_expert("Falls-v0", *data, options)
    assert len(columns["rewards"]) == 10
    obs = np.concatenate([buffer.observations[:3, 0] for buffer in buffers])
    assert columns["obs"][:6].tolist() == obs.tolist()
    assert columns["ends"].tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0, 1]
    # the first episode ends with a fall, the other one by time
    given = [1, 2, 3, 1, 2, 3] if "task" in options else [0, 0, 0, 0, 0, 0]
    given[2] = reward
    assert columns["rewards"][:6].tolist() == pytest.approx(given)
    assert columns["terminations"][:6].tolist() == [0, 0, mark, 0, 0, 0]
    row = tiny.rows(folder)[-1]
    assert {row[name] for name in ("labels", "takeovers", "expert_steps", "flags")} == {"0"}
    assert row["demo_transitions"] == "6" and not columns["by_expert"].any()


# --- who is in control ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "--intervention random"])
def test_takeover_and_grace_steps_and_their_end_with_the_episode(monkeypatch, options):
    looked = script_person(monkeypatch, lambda obs: True, grace_steps=2)
    steps = "--max-episode-steps 9 --total-timesteps 7 --takeover-steps 3"
    folder, columns = run_with_expert("TimesOut-v0", options, steps)
    assert looked == [0, 5]
    assert columns["by_expert"].tolist() == [True] * 3 + [False] * 2 + [True] * 2
    assert columns["rewards"].tolist() == [0, 0, 0, 0, -1, 0, 0]
    assert float(tiny.rows(folder)[-1]["intervention_rate"]) == 5 / 7
    looked = script_person(monkeypatch, lambda obs: obs in (2, 101), grace_steps=5)
    steps = "--total-timesteps 12 --takeover-steps 5"
    _, columns = run_with_expert("Falls-v0", options, steps)
    assert looked == [0, 1, 2, 100, 101, *range(200, 204)]
    assert columns["obs"][columns["by_expert"]].tolist() == [2, 3, 101, 102, 103]


@pytest.mark.parametrize(("rate", "steps"), [(0.3, 1), (0.5, 4), (0.85, 10)])
def test_random_takeovers_hold_their_share_of_steps_and_a_fall_costs_their_mean(rate, steps):
    n = 4_000
    own = f"--random-rate {rate} --takeover-steps {steps} --total-timesteps {n}"
    own += f" --intervention random --max-episode-steps {n} --batch-size {n + 1}"
    folder, columns = run_with_expert("TimesOut-v0", own)
    by_expert = columns["by_expert"].numpy()
    assert by_expert.mean() == pytest.approx(rate, abs=0.06)
    row = tiny.rows(folder)[-1]
    assert float(row["intervention_rate"]) == pytest.approx(by_expert.mean())
    assert float(row["flagged_rate"]) == 0
    # labels show where takeovers start, and a takeover is all the control there is
    starts = np.flatnonzero(columns["rewards"] == -1) + 1
    starts = [0, *starts] if by_expert[0] else list(starts)
    assert int(row["takeovers"]) == len(starts)
    controlled = [t for start in starts for t in range(start, start + steps) if t < n]
    assert np.flatnonzero(by_expert).tolist() == controlled
    # -1 / (1 - E[gamma^m]), m steps between two starts
    args = rlif_rlpd.Args(random_rate=rate, takeover_steps=steps)
    human = rlif_rlpd.RandomHuman(args, np.random.default_rng(0))
    assert human.discount == pytest.approx(np.mean(0.99 ** np.diff(starts)), abs=0.01)
    assert human.grace_steps == 0


# --- when the person takes over, and what they do -------------------------------------------------


class Reference:
    """Acts at 0, with noise, and values actions a at s by value(s, a)."""

    def __init__(self, value, noise=0.0):
        self.value, self.noise = value, noise

    def act(self, obs, deterministic=False):
        return self.noise * torch.randn(len(obs), 1) * (not deterministic)

    def q(self, obs, actions):
        return self.value(obs[:, 0], actions[:, 0])


def person(value=None, noise=0.0, **options):
    """A person whose reference acts at 0."""
    reference = Reference(value or (lambda s, a: -a.abs()), noise)
    return rlif_rlpd.ValueHuman(rlif_rlpd.Args(**options), reference, np.random.default_rng(0))


def flags(human, proposal, obs=0.0):
    return human.check(np.full(1, obs, np.float32), np.full(1, proposal, np.float32), 0)[0]


def test_what_is_flagged_is_worse_than_the_references_action_by_more_than_the_margin():
    for level in (100.0, -100.0):  # the margin is relative, and does not flip where Q is negative
        human = person(lambda s, a, level=level: level - 10 * a.abs(), intervention_alpha=0.97)
        assert not flags(human, 0.0)  # as good as the reference
        assert not flags(human, 0.29) and flags(human, 0.31)  # 2.9 % and 3.1 % worse
        human = person(lambda s, a, level=level: level + 10 * a.abs(), intervention_alpha=0.97)
        assert not any(flags(human, proposal) for proposal in np.linspace(0, 1, 11))  # better ones
    options = {"intervention_alpha": 0.97, "intervention_delta": 4.0}  # which is added
    human = person(lambda s, a: 100 - 10 * a.abs(), **options)
    assert not flags(human, 0.69) and flags(human, 0.71)
    human = person(lambda s, a: -10 * a.abs(), **options | {"intervention_alpha": 1.0})
    assert not flags(human, 0.39) and flags(human, 0.41)
    # at the observed state, by what the reference draws
    human = person(lambda s, a: 100 - 10 * (a - s).abs(), intervention_alpha=0.99)
    assert not flags(human, 0.5, obs=0.5) and flags(human, 0.5, obs=-0.5)
    human = person(noise=1.0, intervention_alpha=1.0)
    flagged = np.mean([flags(human, 0.5) for _ in range(4_000)])
    assert flagged == pytest.approx(norm.cdf(0.5) - norm.cdf(-0.5), abs=0.03)  # it draws better


def test_takeover_with_probability_beta_if_flagged_and_one_minus_beta_if_not():
    human, obs = person(intervention_beta=0.8), np.zeros(1, dtype=np.float32)
    for proposal, rate in ((1.0, 0.8), (0.0, 0.2)):
        checks = (human.check(obs, np.full(1, proposal, np.float32), 1) for _ in range(5_000))
        flagged, started, steps = zip(*checks)
        assert set(flagged) == {proposal == 1.0} and human.grace_steps == 1
        assert set(zip(started, steps)) == {(True, 4), (False, 0)}
        assert np.mean(started) == pytest.approx(rate, abs=0.025)  # 4 sigma
    # a fall costs as much as takeovers for ever, of four steps and one of grace
    assert human.discount == pytest.approx(0.99**5)


def test_lack_of_progress_is_flagged_by_the_value_of_so_many_steps_ago():
    options = {"progress_steps": 2, "progress_share": -0.1, "intervention_beta": 1.0}
    reference = Reference(lambda s, a: s + 1000 * a)  # V is s, for the reference acts at 0
    human = rlif_rlpd.ProgressHuman(rlif_rlpd.Args(**options), reference, np.random.default_rng(0))

    def flagged(values):
        steps = ((np.full(1, v, np.float32), np.ones(1, np.float32), t) for t, v in values.items())
        return [human.check(*step) for step in steps]

    yes, no = (True, True, 4), (False, False, 0)
    # it may fall by a tenth of its amount in two steps; what an earlier episode was worth is gone
    assert flagged(dict(enumerate([10, 9, 9.1, 8.2, 8]))) == [no, no, no, no, yes]
    assert flagged({0: 10, 1: 10, 6: 1, 7: 1, 8: 0.8}) == [no, no, no, no, yes]  # a takeover
    assert flagged(dict(enumerate([-10, 0, -10.9, 0, -12]))) == [no, no, no, no, yes]
    human.args.progress_share = 0.05  # it has to rise
    assert flagged(dict(enumerate([10, 10, 10.6, 10.4, 11]))) == [no, no, no, yes, yes]


@pytest.mark.parametrize("kind", ["value", "random"])
def test_who_takes_over_does_not_their_mean_but_what_they_draw(monkeypatch, kind):
    script_person(monkeypatch, lambda obs: True, grace_steps=int(kind == "value"))
    options = "--total-timesteps 1000 --max-episode-steps 1000 --batch-size 2000"
    options += " --takeover-steps 4" + " --intervention random" * (kind == "random")
    _, columns = run_with_expert("TimesOut-v0", options, bias=0.5, noise=0.1)
    by_expert = np.arange(1_000) % 5 < 4 if kind == "value" else np.ones(1_000, dtype=bool)
    drawn = np.arctanh(columns["actions"].numpy()[by_expert])
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.std() == pytest.approx(0.1, rel=0.1)
