"""bc.py: it recovers a known policy, stops early, and resumes to the bit."""

import csv
import json
import math
from pathlib import Path

import minari
import numpy as np
import pytest
import torch
from minari.data_collector import EpisodeBuffer
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import bc
from experts import InputError, load_checkpoint, load_expert

OPTIONS = (
    "--env-id", "Point-v0", "--dataset-id", "test/linear-v0", "--demo-episodes", 20, "--hidden-sizes", 32, 32,
    "--eval-episodes", 2, "--eval-frequency", 200, "--total-timesteps", 1_000, "--learning-rate", 3e-3,
    "--num-threads", 1,
)  # fmt: skip


def linear_expert(obs):
    """Actions of the point's range, [-2, 2]: (n, 2) -> (n, 1)."""
    return 2 * np.tanh(obs @ np.array([[-0.8], [0.3]]) + 0.2)


@pytest.fixture
def demonstrations():
    """20 episodes of 30 steps of a linear expert with a little noise, in a Minari dataset."""
    rng, buffers = np.random.default_rng(0), []
    for episode in range(20):
        obs = rng.normal(size=(31, 2)).astype(np.float32)
        actions = (linear_expert(obs[:-1]) + 0.01 * rng.normal(size=(30, 1))).clip(-2, 2).astype(np.float32)
        last = np.arange(30) == 29
        ends = {"terminations": last & False, "truncations": last}
        buffers.append(EpisodeBuffer(episode, episode, None, obs, actions, np.zeros(30), infos={}, **ends))
    minari.create_dataset_from_buffers("test/linear-v0", buffers, env="Point-v0", algorithm_name="linear", author="t")


def run(name, *options):
    bc.main(bc.parse_args([*map(str, (*OPTIONS, *options)), "--exp-name", name]))
    return next(Path("runs").glob(f"*__{name}__*"))


def rows(run_dir):
    return list(csv.DictReader((run_dir / "eval.csv").open()))


def test_recovers_a_linear_expert(demonstrations):
    run_dir = run("a", "--total-timesteps", 2_000, "--validation-fraction", 0.1)
    policy = load_expert("Point-v0", str(run_dir / "model.safetensors"))
    obs = np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32)
    error = 2 * policy.act(obs, deterministic=True).numpy() - linear_expert(obs)
    assert np.abs(error).mean() < 0.05 and np.abs(linear_expert(obs)).mean() > 0.5
    losses = [float(row["validation_loss"]) for row in rows(run_dir)]
    assert losses[-1] < losses[0] - 0.5 and len(losses) == 10
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["demonstrated_transitions"], summary["demo_episodes"], summary["held_out_episodes"]) == (540, 18, 2)


def test_by_default_every_demonstration_is_cloned(demonstrations):
    run_dir = run("a", "--total-timesteps", 10)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["demonstrated_transitions"], summary["demo_episodes"], summary["held_out_episodes"]) == (600, 20, 0)
    (row,) = rows(run_dir)
    assert row["validation_loss"] == "" and float(row["train_loss"]) > 0


def test_likelihood_is_that_of_the_tanh_gaussian():
    actor, obs = bc.Actor(3, 2, (16,)), torch.randn(50, 3)
    actions = (torch.rand(50, 2) * 2 - 1) * 0.999
    mean, log_std = (x.double() for x in actor(obs))
    density = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    expected = -density.log_prob(actions.double()).sum(-1).mean()
    torch.testing.assert_close(bc.nll(actor, obs, actions).double(), expected, rtol=1e-4, atol=1e-4)


def test_whole_episodes_are_held_out(demonstrations):
    args = bc.Args(env_id="Point-v0", dataset_id="test/linear-v0", demo_episodes=20, validation_fraction=0.25)
    obs, actions, held_out, held_out_actions, episodes = bc.split_demonstrations(args, bc.make_env("Point-v0"), "cpu")
    assert (len(obs), len(held_out)) == (450, 150) and len(actions) == 450 and len(held_out_actions) == 150
    assert episodes == (15, 5)
    every = torch.cat([obs, held_out])
    assert len(torch.unique(every, dim=0)) == 600  # none is lost, none is twice
    everything = minari.load_dataset("test/linear-v0")
    episodes = [torch.from_numpy(e.observations[:-1]) for e in everything.iterate_episodes()]
    kept = [sum(any(torch.equal(row, seen) for seen in held_out) for row in episode) for episode in episodes]
    assert sorted(set(kept)) == [0, 30]  # all of an episode, or none of it


def test_stops_early_and_keeps_the_policy_of_the_lowest_validation_loss(demonstrations):
    overfit = "--demo-episodes", 2, "--validation-fraction", 0.5, "--total-timesteps", 20_000, "--patience", 2
    run_dir = run("early", *overfit)
    losses = [float(row["validation_loss"]) for row in rows(run_dir)]
    assert len(losses) < 100 and min(losses) == losses[-3]
    kept = json.loads((run_dir / "summary.json").read_text())["final"]
    assert kept["validation_loss"] == pytest.approx(min(losses))
    actor = bc.Actor(2, 1, (32, 32))
    actor.load_state_dict(load_checkpoint(run_dir / "checkpoint.pt")["best_actor"])
    obs = np.zeros((1, 2), dtype=np.float32)
    saved = load_expert("Point-v0", str(run_dir / "model.safetensors")).act(obs, deterministic=True).numpy()
    np.testing.assert_allclose(saved, actor.act(obs, deterministic=True), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--validation-fraction", 1), r"--validation-fraction must be in \[0, 1\), not 1"),
        (("--validation-fraction", 0.99), "holds out all of 20 episodes"),
        (("--validation-fraction", 0.01), "holds out none of 20 episodes"),
        (("--patience", 3), "--patience needs a --validation-fraction above 0"),
        (("--patience", 0), "--patience must be positive"),
        (("--demo-episodes", 0), "--demo-episodes must be positive"),
        (("--weight-decay", math.nan), "--weight-decay must be zero or more"),
        (("--dataset-id", "no/such-v0"), "no Minari dataset 'no/such-v0'"),
        (("--env-id", "NoSuchEnv-v0"), "--env-id NoSuchEnv-v0"),
    ],
)
def test_bad_input_is_one_line_before_any_work(demonstrations, options, message):
    with pytest.raises(InputError, match=message) as caught:
        run("bad", *options)
    assert "\n" not in str(caught.value) and not list(Path("runs").glob("*"))
