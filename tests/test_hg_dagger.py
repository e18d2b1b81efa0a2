"""hg_dagger.py: who acts, what is stored, doubt, and that it learns and resumes to the bit."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import bc
import hg_dagger
from experts import InputError, load_checkpoint, load_expert
from tests import tiny

pytestmark = pytest.mark.usefixtures("centring_expert")
ALWAYS = "--threshold", 0, "--intervention-beta", 1, "--grace-steps", 0


def run(name, *options):
    """Without demonstrations, so the threshold has to be given; a single novice."""
    own = () if {"--threshold", "--intervention"} & set(options) else ("--threshold", 1)
    return tiny.run_rounds(hg_dagger, name, "--doubt-novices", 0, *own, *options)


def scripted(monkeypatch, takeovers):
    """Let the expert take over where the script has a 1 (for one step), in every episode anew."""

    def new_episode(self):
        self.steps = 0

    def watch(self, obs, proposal):
        in_control = bool(takeovers[self.steps])
        started = in_control and not (self.steps and takeovers[self.steps - 1])
        self.steps += 1
        return (np.full(1, 0.5, dtype=np.float32) if in_control else proposal), in_control, started, None

    monkeypatch.setattr(hg_dagger.ThresholdHuman, "new_episode", new_episode)
    monkeypatch.setattr(hg_dagger.ThresholdHuman, "watch", watch)


def counting(tmp_path):
    """Two episodes of 4 steps in Falls, whose observations are 100 * episode + step."""
    path = tiny.write_expert(tmp_path / "count.safetensors", [[0.0]])
    return "--env-id", "Falls-v0", "--expert", path, "--total-timesteps", 8


def test_the_data_are_the_steps_under_expert_control(tmp_path, monkeypatch):
    scripted(monkeypatch, [0, 1, 1, 0])
    run_dir = run("a", *counting(tmp_path))
    obs, actions = load_checkpoint(run_dir / "checkpoint.pt")["data"]
    assert obs.tolist() == [[1.0], [2.0], [101.0], [102.0]] and actions.tolist() == [[0.5]] * 4
    (row,) = tiny.rows(run_dir)
    assert (row["expert_steps"], row["takeovers"], row["labels"]) == ("4", "2", "4")
    assert float(row["intervention_rate"]) == 0.5


def test_official_quirk_stores_the_novices_steps_as_well(tmp_path, monkeypatch):
    scripted(monkeypatch, [0, 1, 1, 0])
    obs, actions = load_checkpoint(run("a", *counting(tmp_path), "--store-novice-steps") / "checkpoint.pt")["data"]
    assert obs.flatten().tolist() == [0, 1, 2, 3, 100, 101, 102, 103]
    by_expert = [action == 0.5 for action in actions.flatten().tolist()]
    assert by_expert == [False, True, True, False] * 2


def test_without_a_takeover_nothing_is_stored_and_nothing_learned(tmp_path, monkeypatch):
    scripted(monkeypatch, [0, 0, 0, 0])
    checkpoint = load_checkpoint(run("a", *counting(tmp_path)) / "checkpoint.pt")
    assert len(checkpoint["data"][0]) == 0 and not checkpoint["novices"][0][1]["state"]


def test_with_an_expert_that_always_acts_it_is_behavioural_cloning_of_its_data(monkeypatch):
    fit, before = hg_dagger.fit, {}

    def remember(actor, optimizer, obs, actions, updates, batch_size):
        before.update(actor=copy.deepcopy(actor), rng=torch.get_rng_state())
        return fit(actor, optimizer, obs, actions, updates, batch_size)

    monkeypatch.setattr(hg_dagger, "fit", remember)
    run_dir = run("a", *ALWAYS, "--total-timesteps", 100)
    (row,) = tiny.rows(run_dir)
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    obs, actions = checkpoint["data"]
    assert float(row["intervention_rate"]) == 1 and len(obs) == 100
    policy = load_expert("Walled-v0", "../expert.safetensors")
    torch.testing.assert_close(actions, policy.act(obs, deterministic=True), atol=1e-3, rtol=0)
    # the lines of bc.py on these data
    clone = bc.Actor(2, 1, (16,))
    clone.load_state_dict(before["actor"].state_dict())
    optimizer = torch.optim.AdamW(clone.parameters(), 3e-3, weight_decay=1e-3, fused=True)
    torch.set_rng_state(before["rng"])
    for _ in range(50):
        i = torch.randint(len(obs), (256,))
        loss = bc.nll(clone, obs[i], actions[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in clone.state_dict().items():
        assert torch.equal(value, checkpoint["novices"][0][0][name])


@pytest.mark.parametrize(
    ("options", "share"),
    [
        (("--intervention", "random", "--random-rate", 30), 0.3),
        (("--intervention", "random", "--random-rate", 85), 0.85),
        (("--intervention", "value", "--reference", "../expert.safetensors", "--intervention-alpha", 1), None),
    ],
)
def test_every_strategy_lends_the_expert_the_control_for_a_while(options, share):
    run_dir = run("a", *options, "--round-updates", 5, "--total-timesteps", 600)
    rows = tiny.rows(run_dir)
    assert all(0 < float(row["intervention_rate"]) < 1 for row in rows)
    stored, by_expert = len(load_checkpoint(run_dir / "checkpoint.pt")["data"][0]), int(rows[-1]["expert_steps"])
    assert stored == by_expert > int(rows[-1]["takeovers"]) > 0
    if share:
        assert by_expert / 600 == pytest.approx(share, abs=0.1)  # exactly, in the long run: see test_people.py


def test_doubt_by_hand():
    novices = [hg_dagger.Actor(2, 2, (4,)) for _ in range(3)]
    for novice, bias in zip(novices, ([0.0, 0.1], [0.3, 0.6], [0.6, 0.1])):
        for parameter in novice.parameters():
            parameter.data.zero_()
        novice.mean.bias.data = torch.tensor(bias)
    actions = np.tanh([[0.0, 0.3, 0.6], [0.1, 0.6, 0.1]])
    variances = ((actions - actions.mean(1, keepdims=True)) ** 2).mean(1)  # the diagonal of the covariance
    assert variances.min() > 0.02  # they disagree about both actions, so one norm is not another
    assert hg_dagger.doubt(novices, np.zeros(2)) == pytest.approx(math.hypot(*variances), rel=1e-4)


def test_risk_threshold_is_the_mean_of_the_last_quarter():
    assert np.isnan(hg_dagger.risk_threshold([]))
    assert hg_dagger.risk_threshold([3.0]) == 3
    assert hg_dagger.risk_threshold([1.0, 2, 3, 4, 5, 6, 7, 9]) == 8


def test_doubts_are_logged_at_takeovers():
    run_dir = run("a", "--doubt-novices", 2, "--intervention", "random", "--round-updates", 5)
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    doubts = checkpoint["progress"][5]
    assert len(doubts) == int(tiny.rows(run_dir)[-1]["takeovers"]) and min(doubts) > 0
    assert float(tiny.rows(run_dir)[-1]["risk_threshold"]) == pytest.approx(hg_dagger.risk_threshold(doubts))
    weights = [states[0]["mean.weight"] for states in checkpoint["novices"]]
    assert len(weights) == 3 and not torch.equal(weights[0], weights[1])


def test_learns_what_the_expert_can():
    options = "--total-timesteps", 1_000, "--round-updates", 100, "--eval-episodes", 10, "--threshold", 0.3
    returns = [float(row["return_mean"]) for row in tiny.rows(run("a", *options))]
    assert returns[-1] > 45  # of 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--intervention-beta", 1.5), r"--intervention-beta must be in \[0, 1\], not 1.5"),
        (("--takeover-steps", 0), "--takeover-steps must be positive"),
        (("--doubt-novices", -1), "--doubt-novices must be zero or more"),
        (("--min-std", 0), "--min-std must be positive, not 0"),
        (("--threshold", "None"), "--threshold is needed where there are no demonstrations"),
        (("--expert", "nobody"), "no expert 'nobody'"),
        (("--intervention", "value", "--reference", "nobody"), "no expert 'nobody'"),
    ],
)
def test_bad_input_is_one_line_before_any_work(options, message):
    with pytest.raises(InputError, match=message) as caught:
        run("bad", *options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))
