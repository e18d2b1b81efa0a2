"""sirius.py: labels of steps, and what they count for. (What it shares is in test_mile.py.)"""

import numpy as np
import pytest
import torch

import sirius
from experts import load_demonstrations
from tests import tiny
from tests.test_iwr import assert_gradient, draw_everything

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
        ("RRRI", {"R": 0.5 / 0.75, "I": 0.5 / 0.25}),  # nothing before: its share is the robot's
        ("DDDDI", {"D": 0.5 / 0.8, "I": 0.5 / 0.2}),  # too many to keep their share
        ("DDDDDDDIBR", {"D": 0.498 / 0.7, "I": 0.5 / 0.1, "B": 0.002 / 0.1, "R": 0.0}),
        ("IIIB", {"I": 0.5 / 0.75, "B": 0.002 / 0.25}),  # before all takeovers, none of the robot
        ("DIIB", {"D": 1.0, "I": 0.5 / 0.5, "B": 0.002 / 0.25}),
        ("RRRR", {"R": 1.0}),
        ("DRRR", {"D": 1.0, "R": 1.0}),
        ("DDD", {"D": 1.0}),
        ("III", {"I": 0.5}),
    ],
)
def test_weights_by_hand(labels, expected):
    weights = sirius.weights(torch.tensor(["DRIB".index(label) for label in labels]))
    assert weights.tolist() == pytest.approx([expected[label] for label in labels])


def weighted(log_pi, data):
    labels = data["labels"]
    assert set(labels.tolist()) == {sirius.ROBOT, sirius.INTERVENTION, sirius.BEFORE}
    wanted = {sirius.ROBOT: 0.498, sirius.INTERVENTION: 0.5, sirius.BEFORE: 0.002}
    return sum(-share * log_pi[labels == label].mean() for label, share in wanted.items())


def test_a_gradient_step_is_that_of_cloning_weighted_by_the_labels_of_all_rounds(monkeypatch):
    drawn = draw_everything(monkeypatch)
    options = "--round-updates", 1, "--pre-intervention-steps", 2, "--intervention-cost", 8
    folders = [tiny.run_mile(sirius, f"of_{n}", *options, "--rounds", n) for n in (1, 2)]
    first, second = (tiny.checkpoint(folder) for folder in folders)
    assert drawn == [(100, 256), (100, 256), (200, 256)]  # of all steps, with replacement
    labels = second["data"]["labels"].split(100)
    assert labels[0].bincount().tolist() != labels[1].bincount().tolist()
    assert_gradient(first, "../initial.safetensors", weighted)
    assert_gradient(second, folders[0] / "model.safetensors", weighted, first)


def test_a_takeover_does_not_reach_back_into_the_episode_before():
    options = "--rounds", 1, "--pre-intervention-steps", 50, "--intervention-cost", 22
    folder = tiny.run_mile(sirius, "a", *options)
    first, second = tiny.checkpoint(folder)["data"]["labels"].split(50)  # two episodes
    last = torch.nonzero(first == sirius.INTERVENTION).max()
    assert (first[:last] != sirius.ROBOT).all() and (first[:last] == sirius.BEFORE).any()
    assert last < 49 and (first[last + 1 :] == sirius.ROBOT).all() and second[0] == sirius.BEFORE


def test_demonstrations_have_a_label_of_their_own_at_the_front():
    tiny.write_demonstrations("test/walled-v0", episodes=2, steps=10, env_id="Walled-v0")
    demos = "--demo-episodes", 2, "--dataset-id", "test/walled-v0", "--rounds", 1
    data = tiny.checkpoint(tiny.run_mile(sirius, "a", *demos))["data"]
    env = sirius.make_env("Walled-v0")
    shown = load_demonstrations("Walled-v0", env, 2, 1, "test/walled-v0")
    for name in ("obs", "actions"):
        assert np.array_equal(data[name][:20].numpy(), shown[name]) and len(data[name]) == 120
    labels = data["labels"]
    assert (labels[:20] == sirius.DEMO).all() and (labels[20:] != sirius.DEMO).all()
    assert len(labels) == 120
