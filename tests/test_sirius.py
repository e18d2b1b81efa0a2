"""sirius.py: labels of steps, and what they count for. (What it shares with mile.py is tested in test_mile.py.)"""

from pathlib import Path

import numpy as np
import pytest
import torch

import sirius
from experts import InputError, load_checkpoint, load_demonstrations, load_expert
from tests import tiny

pytestmark = pytest.mark.usefixtures("people")


@pytest.mark.parametrize(
    ("nu", "window", "expected"),
    [
        ("000000", 2, "RRRRRR"),
        ("111", 2, "III"),
        ("100", 2, "IRR"),
        ("001000110", 0, "RRIRRRIIR"),
        ("001000110", 1, "RBIRRBIIR"),  # takeovers of one step and of two
        ("001000110", 2, "BBIRBBIIR"),
        ("001000110", 3, "BBIBBBIIR"),  # a window that ends where the last takeover did
        ("001000110", 9, "BBIBBBIIR"),  # a window longer than the gap: an intervention remains one
        ("000000111", 3, "RRRBBBIII"),  # only the first step of a takeover has steps before it
    ],
)
def test_labels_by_hand(nu, window, expected):
    labels = sirius.label(torch.tensor([float(digit) for digit in nu]), window)
    assert "".join("DRIB"[label] for label in labels) == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("DDRRRRIIIB", {"D": 1.0, "R": 0.298 / 0.4, "I": 0.5 / 0.3, "B": 0.002 / 0.1}),
        ("RRRRIIIB", {"R": 0.498 / 0.5, "I": 0.5 / 0.375, "B": 0.002 / 0.125}),
        # nothing went before: its share is the robot's
        (
            "RRRI",
            {"R": 0.5 / 0.75, "I": 0.5 / 0.25},
        ),
        # so many demonstrations that they cannot keep their share
        (
            "DDDDI",
            {"D": 0.5 / 0.8, "I": 0.5 / 0.2},
        ),
        ("DDDDDDDIBR", {"D": 0.498 / 0.7, "I": 0.5 / 0.1, "B": 0.002 / 0.1, "R": 0.0}),
        ("RRRR", {"R": 1.0}),
        ("DRRR", {"D": 1.0, "R": 1.0}),
        ("DDD", {"D": 1.0}),
        ("III", {"I": 0.5}),
    ],
)
def test_weights_by_hand(labels, expected):
    weights = sirius.weights(torch.tensor(["DRIB".index(label) for label in labels]))
    assert weights.tolist() == pytest.approx([expected[label] for label in labels])


def test_a_gradient_step_is_that_of_weighted_cloning(monkeypatch):
    drawn = []  # a minibatch is to be every step once
    monkeypatch.setattr(
        torch, "randint", lambda high, size: drawn.append((high, size)) or torch.arange(high)
    )
    run_dir = tiny.run_mile(
        sirius, "a", "--rounds", 1, "--round-updates", 1, "--pre-intervention-steps", 2
    )
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    *_, data = checkpoint["progress"]
    obs, actions, labels = data["obs"], data["actions"], data["labels"]
    assert drawn == [(len(obs), (1_024,))]  # of all steps, uniformly, with replacement
    assert set(labels.tolist()) == {sirius.ROBOT, sirius.INTERVENTION, sirius.BEFORE}
    actor = sirius.Actor(2, 1, (32,))
    actor.load_state_dict(load_expert("Walled-v0", "../initial.safetensors").state)
    log_pi = actor.log_prob(actor(obs), actions)
    wanted = {sirius.ROBOT: 0.498, sirius.INTERVENTION: 0.5, sirius.BEFORE: 0.002}
    sum(-share * log_pi[labels == label].mean() for label, share in wanted.items()).backward()
    for i, parameter in enumerate(actor.parameters()):
        # Adam's, after its first step
        moment = checkpoint["kept"]["optimizer"]["state"][i]["exp_avg"]
        torch.testing.assert_close(moment, 0.1 * parameter.grad, rtol=1e-3, atol=1e-6)


def test_a_takeover_does_not_reach_back_into_the_episode_before():
    run_dir = tiny.run_mile(
        sirius, "a", "--rounds", 1, "--pre-intervention-steps", 50, "--intervention-cost", 22
    )
    *_, data = load_checkpoint(run_dir / "checkpoint.pt")["progress"]
    first, second = data["labels"].split(50)  # two episodes of 50 steps
    last = torch.nonzero(first == sirius.INTERVENTION).max()
    assert (first[:last] != sirius.ROBOT).all() and (first[:last] == sirius.BEFORE).any()
    assert last < 49 and (first[last + 1 :] == sirius.ROBOT).all() and second[0] == sirius.BEFORE


def test_demonstrations_have_a_label_of_their_own_at_the_front():
    tiny.write_demonstrations("test/walled-v0", episodes=2, steps=10, env_id="Walled-v0")
    demos = "--demo-episodes", 2, "--dataset-id", "test/walled-v0", "--rounds", 1
    checkpoint = load_checkpoint(tiny.run_mile(sirius, "a", *demos) / "checkpoint.pt")
    *_, data = checkpoint["progress"]
    shown = load_demonstrations(sirius.make_env("Walled-v0"), "Walled-v0", 2, "test/walled-v0")
    for name in ("obs", "actions"):
        assert np.array_equal(data[name][:20].numpy(), shown[name]) and len(data[name]) == 120
    labels = data["labels"]
    assert (labels[:20] == sirius.DEMO).all() and (labels[20:] != sirius.DEMO).all()
    assert len(labels) == 120


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--round-updates", 0), "--round-updates must be positive"),
        (("--pre-intervention-steps", -1), "--pre-intervention-steps must be zero or more"),
        (("--demo-episodes", 2, "--demo-noise", -1), "--demo-noise must be zero or more"),
        (("--demo-noise", 0.1), "--demo-noise would do nothing here: there are no demonstrations"),
        (("--demo-episodes", 2), "no top expert is shipped for Walled-v0"),
    ],
)
def test_bad_input_is_one_line_before_any_work(options, message):
    with pytest.raises(InputError, match=message) as caught:
        tiny.run_mile(sirius, "bad", *options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))
