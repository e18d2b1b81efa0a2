"""When the person takes over, and which reward every transition gets for it."""

import csv

import numpy as np
import pytest
import torch

import rlif_rlpd
from experts import load_checkpoint
from tests import tiny

EXPERT = 0.5  # the scripted expert's action; the novice never draws it

# Count's episodes: steps 0-3, 100-103, 200-203, 300-303. Takeovers of two steps start where the script says.
SCRIPT = {0, 2, 103, 300}
# obs, by the expert?, reward, termination, next_obs. The first step of an episode labels nothing, whoever acts in it.
TABLE = [
    (0, True, 0, 0, 1),
    (1, True, -1, 0, 2),  # the next takeover follows back to back: an expert's step can be labelled as well
    (2, True, 0, 0, 3),
    (3, True, "end", "end", 100),
    (100, False, 0, 0, 101),
    (101, False, 0, 0, 102),
    (102, False, -1, 0, 103),
    (103, True, "end", "end", 200),  # a takeover at the last step; it does not go on in the next episode
    (200, False, 0, 0, 201),
    (201, False, 0, 0, 202),
    (202, False, 0, 0, 203),
    (203, False, "end", "end", 300),  # the takeover at 300 does not reach back over the end
    (300, True, 0, 0, 301),
    (301, True, 0, 0, 302),
    (302, False, 0, 0, 303),
    (303, False, "end", "end", 400),
]


def scripted_run(monkeypatch, env_id, *options):
    """Sixteen steps with takeovers by script; the buffer's rows as (obs, by the expert?, reward, end, next_obs)."""
    monkeypatch.setattr(rlif_rlpd.ValueHuman, "flags", lambda self, obs, proposal: int(obs[0]) in SCRIPT)
    expert = tiny.write_expert("expert.safetensors", [[0.0]], bias=np.arctanh(EXPERT), qf=tiny.critics(1, 1))
    folder = tiny.run(
        "labels", "--env-id", env_id, "--expert", expert, "--reference", expert, "--intervention-beta", 1,
        "--takeover-steps", 2, "--grace-steps", 0, "--total-timesteps", 16, "--eval-episodes", 1,
        "--demo-episodes", 0, "--hidden-sizes", 8, *options,
    )  # fmt: skip
    rb = load_checkpoint(folder / "checkpoint.pt")["rb"]
    rows = {name: values[: rb["size"]].squeeze(-1) for name, values in rb["data"].items()}
    by_expert = (rows["actions"] - EXPERT).abs() < 1e-4
    columns = rows["obs"], by_expert, rows["rewards"], rows["terminations"], rows["next_obs"]
    return folder, list(zip(*(column.tolist() for column in columns)))


def table(end_reward, end_mark, own_next=False):
    """TABLE with what the end of an episode is worth; its next_obs is its own, or the first of the next episode."""
    rows = []
    for obs, who, reward, mark, next_obs in TABLE:
        if reward == "end":
            reward, mark, next_obs = end_reward, end_mark, obs + 1 if own_next else next_obs
        rows.append((obs, who, reward, mark, next_obs))
    return rows


def test_labels_of_a_scripted_run_where_a_fall_counts_as_intervention(monkeypatch):
    folder, rows = scripted_run(monkeypatch, "Falls-v0", "--termination", "reset")
    assert rows == table(end_reward=-1, end_mark=0)
    # 7 of 16 steps were the expert's; the person looked at the 13 others' proposals and the 4 that were flagged
    evaluation = list(csv.DictReader((folder / "eval.csv").open()))[-1]
    assert float(evaluation["intervention_rate"]) == 7 / 16
    assert float(evaluation["flagged_rate"]) == pytest.approx(4 / 13)


def test_a_fall_can_cost_what_being_taken_over_for_ever_does(monkeypatch):
    # takeovers of two steps with no grace: -1 now, in 2 steps, in 4 steps, ...
    for_ever = torch.tensor([0.99**t for t in range(0, 5_000, 2)]).sum().neg().item()
    rows = scripted_run(monkeypatch, "Falls-v0", "--termination", "forever")[1]
    expected = table(end_reward=pytest.approx(for_ever, rel=1e-5), end_mark=1, own_next=True)
    assert rows == expected


def test_labels_of_a_scripted_run_that_bootstraps_through_falls(monkeypatch):
    _, rows = scripted_run(monkeypatch, "Falls-v0", "--termination", "bootstrap")
    assert rows == table(end_reward=0, end_mark=0, own_next=True)


def test_labels_of_a_scripted_run_that_masks_falls(monkeypatch):
    _, rows = scripted_run(monkeypatch, "Falls-v0", "--termination", "mask")
    assert rows == table(end_reward=0, end_mark=1, own_next=True)


@pytest.mark.parametrize("termination", ["forever", "reset", "bootstrap", "mask"])
def test_a_time_limit_is_neither_fall_nor_end(monkeypatch, termination):
    _, rows = scripted_run(monkeypatch, "TimesOut-v0", "--termination", termination)
    assert rows == table(end_reward=0, end_mark=0, own_next=True)


def test_dropping_expert_transitions_keeps_the_last_of_each_takeover(monkeypatch):
    _, rows = scripted_run(monkeypatch, "Falls-v0", "--termination", "reset", "--drop-expert-transitions")
    dropped = {0, 2, 300}  # the expert keeps control after them; after 103 the episode is over
    assert rows == [row for row in table(end_reward=-1, end_mark=0) if row[0] not in dropped]


@pytest.mark.parametrize(("termination", "end_mark"), [(None, 1), ("bootstrap", 0)])
def test_task_reward_is_the_environments_own_with_no_label(monkeypatch, termination, end_mark):
    options = ["--reward", "task", *(["--termination", termination] if termination else [])]
    _, rows = scripted_run(monkeypatch, "Falls-v0", *options)
    expected = table(end_reward=0, end_mark=end_mark, own_next=True)
    assert rows == [(obs, who, 10 * (obs % 100 + 1), mark, next_obs) for obs, who, _, mark, next_obs in expected]


# --- the person ------------------------------------------------------------------------------------------------------


class Policy:
    """Acts at one place, and values actions a at s by value(s, a)."""

    def __init__(self, action, value=None):
        self.action, self.value = action, value

    def act(self, obs, deterministic=False):
        return torch.full((len(obs), 1), self.action)

    def q(self, obs, actions):
        return self.value(obs[:, 0], actions[:, 0])


def person(value=None, **options):
    """A person whose reference acts at 0 and whose expert acts at EXPERT."""
    args, rng = rlif_rlpd.Args(**options), np.random.default_rng(0)
    return rlif_rlpd.ValueHuman(args, Policy(EXPERT), Policy(0.0, value or (lambda s, a: -a.abs())), rng)


def flags(human, proposal):
    return human.flags(np.zeros(1, dtype=np.float32), np.array([proposal], dtype=np.float32))


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
    human = person(lambda s, a: 100 - 10 * a.abs(), intervention_alpha=0.97, intervention_delta=4.0)
    assert not flags(human, 0.69) and flags(human, 0.71)
    human = person(lambda s, a: -10 * a.abs(), intervention_alpha=1.0, intervention_delta=4.0)
    assert not flags(human, 0.39) and flags(human, 0.41)


def test_the_reference_judges_at_the_observed_state():
    human = person(lambda s, a: 100 - 10 * (a - s).abs(), intervention_alpha=0.99)
    assert not human.flags(np.array([0.5], dtype=np.float32), np.array([0.5], dtype=np.float32))
    assert human.flags(np.array([-0.5], dtype=np.float32), np.array([0.5], dtype=np.float32))


def watch(human, steps, proposal=1.0):
    """What happens in so many steps: (executed action, in control, started, flagged) of each."""
    obs, proposal = np.zeros(1, dtype=np.float32), np.array([proposal], dtype=np.float32)
    outcomes = [human.watch(obs, proposal) for _ in range(steps)]
    return [(float(actions[0]), in_control, started, flagged) for actions, in_control, started, flagged in outcomes]


@pytest.mark.parametrize(("proposal", "rate"), [(1.0, 0.8), (0.0, 0.2)])
def test_takeover_with_probability_beta_if_flagged_and_one_minus_beta_if_not(proposal, rate):
    outcomes = watch(person(intervention_beta=0.8, takeover_steps=1, grace_steps=0), 5_000, proposal)
    assert all(flagged == (proposal == 1.0) for *_, flagged in outcomes)
    assert np.mean([started for _, _, started, _ in outcomes]) == pytest.approx(rate, abs=0.025)  # 4 sigma


def test_takeover_and_grace_steps():
    outcomes = watch(person(intervention_beta=1.0, takeover_steps=3, grace_steps=2), 7)
    expert, novice = [(EXPERT, True, False, None)], [(1.0, False, False, None)]
    takeover = [(EXPERT, True, True, True)] + 2 * expert
    assert outcomes == takeover + 2 * novice + takeover[:2]


def test_without_grace_takeovers_follow_back_to_back():
    outcomes = watch(person(intervention_beta=1.0, takeover_steps=2, grace_steps=0), 6)
    assert [started for _, _, started, _ in outcomes] == [True, False] * 3
    assert all(in_control for _, in_control, _, _ in outcomes)


def test_a_new_episode_begins_with_the_novice_looked_at():
    human = person(intervention_beta=1.0, takeover_steps=5, grace_steps=5)
    watch(human, 2)
    human.new_episode()
    assert watch(human, 1, proposal=0.0) == [(0.0, False, False, False)]


def random_person(**options):
    return rlif_rlpd.RandomHuman(rlif_rlpd.Args(**options), Policy(EXPERT), np.random.default_rng(0))


@pytest.mark.parametrize(("rate", "steps"), [(30, 1), (50, 4), (85, 4), (50, 10)])
def test_random_takeovers_hold_their_share_of_steps(rate, steps):
    outcomes = watch(random_person(random_rate=rate, takeover_steps=steps), 20_000)
    assert np.mean([in_control for _, in_control, _, _ in outcomes]) == pytest.approx(rate / 100, abs=0.02)
    assert all(flagged is None for *_, flagged in outcomes)
    starts = [t for t, (_, _, started, _) in enumerate(outcomes) if started]
    controlled = [t for t, (action, in_control, _, _) in enumerate(outcomes) if in_control and action == EXPERT]
    assert controlled == [t for start in starts for t in range(start, start + steps) if t < 20_000]
    assert all(action == 1.0 for action, in_control, _, _ in outcomes if not in_control)


def test_a_random_takeover_ends_with_the_episode():
    human = random_person(random_rate=85, takeover_steps=5)
    while not watch(human, 1)[0][1]:
        pass
    assert human.takeover_left == 4
    human.new_episode()
    assert human.takeover_left == 0


def test_without_intervention_the_novice_acts_alone():
    folder = tiny.run(
        "alone", "--env-id", "Falls-v0", "--intervention", "none", "--reward", "task", "--demo-episodes", 0,
        "--total-timesteps", 16, "--eval-episodes", 1, "--hidden-sizes", 8,
    )  # fmt: skip
    row = tiny.rows(folder)[-1]
    assert (row["intervention_rate"], row["expert_steps"], row["takeovers"], row["labels"]) == ("0.0", "0", "0", "0")
    assert row["flagged_rate"] == ""
