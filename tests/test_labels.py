"""When the person takes over, and which reward every transition gets for it."""

import csv
import shutil

import numpy as np
import pytest
import torch

import rlif_rlpd
from experts import load_checkpoint
from tests import tiny

EXPERT = 0.5  # the scripted expert's action; the novice never draws it

# Count's episodes: steps 0-3, 100-103, 200-203, 300-303. Takeovers of two steps start where the
# script says.
SCRIPT = {0, 2, 103, 300}
# obs, by the expert?, reward, termination. The first step of an episode labels nothing, whoever
# acts in it.
TABLE = [
    (0, True, 0, 0),
    (1, True, -1, 0),  # the next takeover follows at once: an expert's step can be labelled as well
    (2, True, 0, 0),
    (3, True, "end", "end"),
    (100, False, 0, 0),
    (101, False, 0, 0),
    (102, False, -1, 0),
    (103, True, "end", "end"),  # a takeover at the last step; it ends with the episode
    (200, False, 0, 0),
    (201, False, 0, 0),
    (202, False, 0, 0),
    (203, False, "end", "end"),  # the takeover at 300 does not reach back over the end
    (300, True, 0, 0),
    (301, True, 0, 0),
    (302, False, 0, 0),
    (303, False, "end", "end"),
]


def script_person(monkeypatch, starts, grace_steps=0):
    """Let both people take over where starts(obs) says; returns the list of all obs they look at."""
    looked = []

    def check(self, obs, proposal):
        looked.append(int(obs[0]))
        started = starts(looked[-1])
        of = self if isinstance(self, rlif_rlpd.RandomHuman) else self.args
        return started, started, of.takeover_steps if started else 0

    for human in (rlif_rlpd.ValueHuman, rlif_rlpd.RandomHuman):
        monkeypatch.setattr(human, "check", check)
        monkeypatch.setattr(human, "grace_steps", grace_steps)
    return looked


def run_with_expert(env_id, *options):
    """A run without demonstrations whose expert does EXPERT; its folder and its buffer's columns."""
    bias = np.arctanh(EXPERT)
    expert = tiny.write_expert("expert.safetensors", [[0.0]], bias=bias, qf=tiny.critics(1, 1))
    options = [str(option) for option in options]
    judge = [] if "--intervention" in options else ["--reference", expert]
    folder = tiny.run(
        "labels", "--env-id", env_id, "--expert", expert, *judge, "--takeover-steps", 2,
        "--total-timesteps", 16, "--eval-episodes", 1, "--demo-episodes", 0, "--hidden-sizes", 8,
        *options,
    )  # fmt: skip
    columns = load_checkpoint(folder / "checkpoint.pt")["kept"]["rb"]
    columns = {name: values.reshape(len(values)) for name, values in columns.items()}
    return folder, columns | {"by_expert": (columns["actions"] - EXPERT).abs() < 1e-4}


def scripted_run(monkeypatch, env_id, *options):
    """Sixteen steps with takeovers by script.

    Its folder, and the buffer's rows as (obs, by the expert?, reward, termination).
    """
    looked = script_person(monkeypatch, SCRIPT.__contains__)
    folder, columns = run_with_expert(env_id, *options)
    assert looked == [0, 2, *range(100, 104), *range(200, 204), 300, 302, 303]
    assert torch.equal(columns["next_obs"], columns["obs"] + 1)  # its own, at an end as well
    names = "obs", "by_expert", "rewards", "terminations"
    return folder, list(zip(*(columns[name].tolist() for name in names)))


def table(end_reward, end_mark):
    """TABLE with what the end of an episode is worth."""
    end = end_reward, end_mark
    return [
        (obs, who, *(end if reward == "end" else (reward, mark)))
        for obs, who, reward, mark in TABLE
    ]


def test_labels_of_a_scripted_run_where_a_fall_costs_a_takeover_for_ever(monkeypatch):
    folder, rows = scripted_run(monkeypatch, "Falls-v0", "--termination", "penalty")
    # takeovers of two steps with no grace: -1 now, in 2 steps, in 4 steps, ...
    for_ever = torch.tensor([0.99**t for t in range(0, 5_000, 2)]).sum().neg().item()
    assert rows == table(end_reward=pytest.approx(for_ever, rel=1e-5), end_mark=1)
    # 7 of 16 steps were the expert's; the person looked at 13 proposals, and 4 of them were flagged
    evaluation = list(csv.DictReader((folder / "eval.csv").open()))[-1]
    assert float(evaluation["intervention_rate"]) == 7 / 16
    assert float(evaluation["flagged_rate"]) == pytest.approx(4 / 13)
    counts = {"labels": 2, "takeovers": 4, "expert_steps": 7, "checks": 13, "flags": 4}
    assert {name: int(evaluation[name]) for name in counts} == counts


def test_labels_of_a_scripted_run_that_bootstraps_through_falls(monkeypatch):
    _, rows = scripted_run(monkeypatch, "Falls-v0", "--termination", "bootstrap")
    assert rows == table(end_reward=0, end_mark=0)


def test_labels_of_a_scripted_run_that_masks_falls(monkeypatch):
    _, rows = scripted_run(monkeypatch, "Falls-v0", "--termination", "mask")
    assert rows == table(end_reward=0, end_mark=1)


@pytest.mark.parametrize("termination", ["penalty", "bootstrap", "mask"])
def test_a_time_limit_is_neither_fall_nor_end(monkeypatch, termination):
    _, rows = scripted_run(monkeypatch, "TimesOut-v0", "--termination", termination)
    assert rows == table(end_reward=0, end_mark=0)


@pytest.mark.parametrize("steps", [3, 7, 12, 15])
def test_the_last_step_of_a_run_is_stored_and_is_no_end(monkeypatch, steps):
    script_person(monkeypatch, SCRIPT.__contains__)
    folder, columns = run_with_expert(
        "Falls-v0", "--total-timesteps", steps, "--termination", "mask"
    )
    expected = [(reward, mark) for _, _, reward, mark in table(end_reward=0, end_mark=1)[:steps]]
    expected[-1] = 0, expected[-1][1]  # no step comes after it in which a takeover could start
    assert list(zip(columns["rewards"].tolist(), columns["terminations"].tolist())) == expected
    assert int(tiny.rows(folder)[-1]["global_step"]) == steps


@pytest.mark.parametrize(("termination", "end_mark"), [(None, 1), ("bootstrap", 0)])
def test_task_reward_is_the_environments_own_with_no_label(monkeypatch, termination, end_mark):
    options = ["--reward", "task", *(["--termination", termination] if termination else [])]
    folder, rows = scripted_run(monkeypatch, "Falls-v0", *options)
    expected = table(end_reward=0, end_mark=end_mark)
    assert rows == [(obs, who, 10 * (obs % 100 + 1), mark) for obs, who, _, mark in expected]
    row = tiny.rows(folder)[-1]
    assert (row["takeovers"], row["labels"]) == ("4", "0")


def test_without_a_reward_there_are_takeovers_and_no_label(monkeypatch):
    folder, rows = scripted_run(
        monkeypatch, "Falls-v0", "--reward", "none", "--termination", "mask"
    )
    expected = table(end_reward=0, end_mark=1)
    assert rows == [(obs, who, 0, mark) for obs, who, _, mark in expected]
    row = tiny.rows(folder)[-1]
    assert (row["takeovers"], row["labels"]) == ("4", "0")


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
    assert seen[-1] == [reward for _, _, reward, _ in table(end_reward=0, end_mark=1)]


def test_demonstrations_have_no_labels_and_count_as_no_takeovers(monkeypatch):
    script_person(monkeypatch, lambda obs: False)
    tiny.write_demonstrations("test/count-v0", episodes=2, steps=3, env_id="Falls-v0")
    options = "--demo-episodes", 2, "--dataset-id", "test/count-v0", "--total-timesteps", 4
    for termination, reward, mark in (
        ("penalty", -1 / (1 - 0.99**2), 1),
        ("mask", 0, 1),
        ("bootstrap", 0, 0),
    ):
        folder, columns = run_with_expert("Falls-v0", *options, "--termination", termination)
        assert len(columns["rewards"]) == 10
        # the first episode ends with a fall, the other one by time
        assert columns["rewards"][:6].tolist() == pytest.approx([0, 0, reward, 0, 0, 0])
        assert columns["terminations"][:6].tolist() == [0, 0, mark, 0, 0, 0]
        row = tiny.rows(folder)[-1]
        assert (row["labels"], row["takeovers"], row["expert_steps"]) == ("0", "0", "0")
        shutil.rmtree("runs")


# --- who is in control ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--intervention", "random")])
def test_takeover_and_grace_steps(monkeypatch, options):
    looked = script_person(monkeypatch, lambda obs: True, grace_steps=2)
    steps = "--max-episode-steps", 9, "--total-timesteps", 7, "--takeover-steps", 3
    folder, columns = run_with_expert("TimesOut-v0", *options, *steps)
    assert looked == [0, 5]
    assert columns["by_expert"].tolist() == [True] * 3 + [False] * 2 + [True] * 2
    assert columns["rewards"].tolist() == [0, 0, 0, 0, -1, 0, 0]
    assert float(tiny.rows(folder)[-1]["intervention_rate"]) == 5 / 7


def test_without_grace_takeovers_follow_back_to_back(monkeypatch):
    looked = script_person(monkeypatch, lambda obs: True)
    steps = "--max-episode-steps", 9, "--total-timesteps", 6
    _, columns = run_with_expert("TimesOut-v0", *steps)
    assert looked == [0, 2, 4]
    assert columns["by_expert"].all()
    assert columns["rewards"].tolist() == [0, -1, 0, -1, 0, 0]


@pytest.mark.parametrize("options", [(), ("--intervention", "random")])
def test_a_takeover_and_its_grace_end_with_the_episode(monkeypatch, options):
    looked = script_person(monkeypatch, lambda obs: obs in (2, 101), grace_steps=5)
    _, columns = run_with_expert(
        "Falls-v0", *options, "--total-timesteps", 12, "--takeover-steps", 5
    )
    assert looked == [0, 1, 2, 100, 101, *range(200, 204)]
    assert columns["obs"][columns["by_expert"]].tolist() == [2, 3, 101, 102, 103]


def test_the_usual_people_give_a_step_of_grace_and_none():
    assert (rlif_rlpd.ValueHuman.grace_steps, rlif_rlpd.RandomHuman.grace_steps) == (1, 0)


@pytest.mark.parametrize(("rate", "steps"), [(30, 1), (50, 4), (85, 4), (50, 10)])
def test_random_takeovers_hold_their_share_of_steps(rate, steps):
    n = 6_000
    folder, columns = run_with_expert(
        "TimesOut-v0", "--intervention", "random", "--random-rate", rate, "--takeover-steps", steps,
        "--total-timesteps", n, "--max-episode-steps", n, "--batch-size", n + 1,
    )  # fmt: skip
    by_expert = columns["by_expert"].numpy()
    assert by_expert.mean() == pytest.approx(rate / 100, abs=0.05)
    row = tiny.rows(folder)[-1]
    assert float(row["intervention_rate"]) == pytest.approx(by_expert.mean())
    assert float(row["flagged_rate"]) == 0
    # labels show where takeovers start, and a takeover is all the control there is
    starts = np.flatnonzero(columns["rewards"] == -1) + 1
    starts = [0, *starts] if by_expert[0] else list(starts)
    assert int(row["takeovers"]) == len(starts)
    controlled = [t for start in starts for t in range(start, start + steps) if t < n]
    assert np.flatnonzero(by_expert).tolist() == controlled


def test_without_intervention_the_novice_acts_alone():
    folder = tiny.run(
        "alone", "--env-id", "Falls-v0", "--intervention", "none", "--reward", "task",
        "--demo-episodes", 0, "--total-timesteps", 16, "--eval-episodes", 1, "--hidden-sizes", 8,
    )  # fmt: skip
    row = tiny.rows(folder)[-1]
    assert float(row["intervention_rate"]) == float(row["flagged_rate"]) == 0
    assert (row["expert_steps"], row["takeovers"], row["labels"], row["checks"]) == ("0",) * 4


# --- when the person takes over -------------------------------------------------------------------


class Reference:
    """Acts at 0, and values actions a at s by value(s, a)."""

    def __init__(self, value):
        self.value = value

    def act(self, obs):
        return torch.zeros(len(obs), 1)

    def q(self, obs, actions):
        return self.value(obs[:, 0], actions[:, 0])


def person(value=None, **options):
    """A person whose reference acts at 0."""
    args, rng = rlif_rlpd.Args(**options), np.random.default_rng(0)
    return rlif_rlpd.ValueHuman(args, Reference(value or (lambda s, a: -a.abs())), rng)


def flags(human, proposal, obs=0.0):
    return human.check(np.full(1, obs, dtype=np.float32), np.full(1, proposal, dtype=np.float32))[0]


@pytest.mark.parametrize("level", [100.0, -100.0])
def test_threshold_is_relative_and_does_not_flip_where_q_is_negative(level):
    human = person(lambda s, a: level - 10 * a.abs(), intervention_alpha=0.97)
    assert not flags(human, 0.0)  # as good as the reference
    assert not flags(human, 0.29)  # 2.9 % worse
    assert flags(human, 0.31)  # 3.1 % worse


@pytest.mark.parametrize("level", [100.0, -100.0])
def test_a_better_proposal_is_never_flagged(level):
    human = person(lambda s, a: level + 10 * a.abs(), intervention_alpha=0.97)
    assert not any(flags(human, proposal) for proposal in np.linspace(0, 1, 11))


def test_delta_is_added_to_the_relative_threshold():
    options = {"intervention_alpha": 0.97, "intervention_delta": 4.0}
    human = person(lambda s, a: 100 - 10 * a.abs(), **options)
    assert not flags(human, 0.69) and flags(human, 0.71)
    human = person(lambda s, a: -10 * a.abs(), **options | {"intervention_alpha": 1.0})
    assert not flags(human, 0.39) and flags(human, 0.41)


def test_the_reference_judges_at_the_observed_state():
    human = person(lambda s, a: 100 - 10 * (a - s).abs(), intervention_alpha=0.99)
    assert not flags(human, 0.5, obs=0.5)
    assert flags(human, 0.5, obs=-0.5)


@pytest.mark.parametrize(("proposal", "rate"), [(1.0, 0.8), (0.0, 0.2)])
def test_takeover_with_probability_beta_if_flagged_and_one_minus_beta_if_not(proposal, rate):
    human = person(intervention_beta=0.8)
    obs, action = np.zeros(1, dtype=np.float32), np.array([proposal], dtype=np.float32)
    flagged, started, steps = zip(*(human.check(obs, action) for _ in range(5_000)))
    assert set(flagged) == {proposal == 1.0}
    assert set(zip(started, steps)) == {(True, 4), (False, 0)}
    assert np.mean(started) == pytest.approx(rate, abs=0.025)  # 4 sigma
