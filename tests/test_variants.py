"""The variants of rlif_rlpd.py do what they say, and nothing where they are not asked to."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import rlif_rlpd
from experts import Expert
from tests import tiny

sys.path.insert(0, str(tiny.ROOT / "benchmark"))
import variants


def buffer(label_steps=1, n_step=1):
    """An empty buffer with gamma 0.5."""
    variants.Buffer.label_steps, variants.Buffer.n_step, variants.Buffer.gamma = (
        label_steps,
        n_step,
        0.5,
    )
    return variants.Buffer(100, 1, 1)


def fill(rb, *episodes):
    """Episodes of rewards; observations count up from 10 times the number of the episode."""
    for e, rewards in enumerate(episodes):
        for t, reward in enumerate(rewards):
            end = float(t == len(rewards) - 1 and reward < -1)  # a fall
            rb.add({
                "obs": [10 * e + t], "next_obs": [10 * e + t + 1], "actions": [0], "rewards": reward,
                "terminations": end,
            })  # fmt: skip


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    for name in ("label_steps", "n_step", "gamma"):
        monkeypatch.setattr(variants.Buffer, name, getattr(variants.Buffer, name))
    monkeypatch.setattr(rlif_rlpd, "ReplayBuffer", rlif_rlpd.ReplayBuffer)
    monkeypatch.setattr(rlif_rlpd, "ValueHuman", rlif_rlpd.ValueHuman)
    monkeypatch.setattr(rlif_rlpd, "Agent", rlif_rlpd.Agent)


def test_a_label_is_shared_by_the_steps_before_it():
    rb = buffer(label_steps=3)
    fill(rb, [0, -1, 0, 0, 0, -1, -1], [0, -1])
    third = -1 / 3
    expected = [
        -0.5,
        -0.5,
        0,
        third,
        third,
        third,
        -1,
        -0.5,
        -0.5,
    ]  # not beyond a label or an episode
    np.testing.assert_allclose(rb.data["rewards"][: rb.size], expected)


def test_returns_of_n_steps_end_with_their_episode():
    rb = buffer(n_step=3)
    fill(rb, [0, -1, 0, -8], [0, -1, 0])
    batch = rb.sample(np.random.default_rng(0), 1, 500, 0.0, "cpu")
    found = {}
    for name in ("rewards", "terminations", "next_obs"):
        for obs, value in zip(batch["obs"][0, :, 0].tolist(), batch[name][0].reshape(-1).tolist()):
            assert found.setdefault((name, obs), value) == value
    rewards = {0: -0.5, 1: -1 - 0.25 * 8, 2: -0.5 * 8, 3: -8, 10: -0.5, 11: -1, 12: 0}
    assert {obs: found["rewards", obs] for obs in rewards} == rewards
    # gamma (1 - terminations) is gamma^k after k steps, and 0 after a fall
    ends = {0: 1 - 0.25, 1: 1, 2: 1, 3: 1, 10: 1 - 0.25, 11: 1 - 0.5, 12: 0}
    assert {obs: found["terminations", obs] for obs in ends} == ends
    last = {0: 3, 1: 4, 2: 4, 3: 4, 10: 13, 11: 13, 12: 13}
    assert {obs: found["next_obs", obs] for obs in last} == last


def test_the_adaptive_person_flags_a_fixed_share(tmp_path):
    path = tiny.write_expert(tmp_path / "expert.safetensors", [[-5.0, 0.0]], qf=tiny.critics(2, 1))
    args = tiny.parsed(variants, "--flag-share", 0.2)
    human = variants.AdaptiveHuman(args, Expert(path), np.random.default_rng(0))
    rng, outcomes = np.random.default_rng(1), []
    torch.manual_seed(0)
    for _ in range(2_000):
        obs, proposal = rng.normal(size=2), rng.uniform(-1, 1, 1)
        outcomes.append(human.check(obs.astype(np.float32), proposal.astype(np.float32)))
    flagged, started, steps = np.array(outcomes).T
    assert flagged[500:].mean() == pytest.approx(0.2, abs=0.03)
    assert started[flagged == 1].mean() == pytest.approx(0.95, abs=0.04)
    assert started[flagged == 0].mean() == pytest.approx(0.05, abs=0.02)
    assert (steps == 4 * started).all()


def test_the_pull_is_halved_after_each_quarter():
    def gradients(kind, weight, progress):
        torch.manual_seed(0)
        pull = "--offline-ratio", 0.5, "--bc-weight", weight
        args = tiny.parsed(variants, *pull, "--hidden-sizes", 8)
        agent = kind(2, 1, args, torch.device("cpu"))
        agent.set_learning_rate(progress)
        batch = {"obs": torch.randn(6, 2), "actions": torch.rand(6, 1)}
        assert args.bc_weight == weight
        return agent.actor_gradients(batch, torch.randn(6, 1))[1]

    for progress, weight in ((0, 4), (0.24, 4), (0.25, 2), (0.6, 1), (0.75, 0.5), (1, 0.5)):
        faded = gradients(variants.FadingAgent, 4, progress)
        expected = gradients(rlif_rlpd.Agent, weight, progress)
        assert all(map(torch.equal, faded, expected))
    assert not all(map(torch.equal, faded, gradients(rlif_rlpd.Agent, 4, progress)))


def test_without_an_option_of_its_own_it_is_rlif_rlpd(people):
    one = tiny.short_run(rlif_rlpd)
    before = set(tiny.Path("runs").iterdir())
    variants.main(tiny.parsed(variants, *tiny.short(rlif_rlpd)))
    (other,) = set(tiny.Path("runs").iterdir()) - before
    assert tiny.evaluations(one) == tiny.evaluations(other)
    before.add(other)
    variants.main(tiny.parsed(variants, *tiny.short(rlif_rlpd), "--n-step", 2))
    (other,) = set(tiny.Path("runs").iterdir()) - before
    assert tiny.evaluations(one) != tiny.evaluations(other)


def test_resumed_it_is_the_uninterrupted_run_to_the_bit(people, monkeypatch):
    options = *tiny.short(rlif_rlpd), "--n-step", 2, "--label-steps", 2
    variants.main(tiny.parsed(variants, *options))
    (whole,) = tiny.Path("runs").iterdir()
    saved, save = [], rlif_rlpd.save_run

    def save_once(*what):
        save(*what)
        saved.append(what)
        raise KeyboardInterrupt

    monkeypatch.setattr(rlif_rlpd, "save_run", save_once)
    with pytest.raises(KeyboardInterrupt):
        variants.main(tiny.parsed(variants, *options))
    monkeypatch.setattr(rlif_rlpd, "save_run", save)
    (killed,) = set(tiny.Path("runs").iterdir()) - {whole}
    assert len(saved) == 1 and not (killed / "summary.json").exists()
    variants.main(tiny.parsed(variants, "--resume", killed))
    tiny.assert_same_run(killed, whole)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(variants.InputError, match="--flag-share needs --intervention value"):
        tiny.parsed(variants, "--flag-share", 0.2, "--intervention", "random")
    with pytest.raises(variants.InputError, match="--fade-bc-weight needs a --bc-weight above 0"):
        tiny.parsed(variants, "--fade-bc-weight")
    with pytest.raises(variants.InputError, match="--label-steps shares the -1"):
        tiny.parsed(variants, "--label-steps", 5, "--reward", "none")
    with pytest.raises(variants.InputError, match="--intervention-alpha would do nothing"):
        tiny.parsed(variants, "--flag-share", 0.2, "--intervention-alpha", 0.9)
    with pytest.raises(variants.InputError, match="--n-step .* without --offline-ratio"):
        tiny.parsed(variants, "--n-step", 3, "--offline-ratio", 0.5)
    with pytest.raises(variants.InputError, match="without --cuda"):
        tiny.parsed(
            variants, "--fade-bc-weight", "--cuda", "--offline-ratio", 0.5, "--bc-weight", 1
        )
    args = replace(tiny.parsed(variants, "--flag-share", 0.2), resume="runs/one")
    with pytest.raises(variants.InputError, match="--flag-share: .* start anew"):
        variants.check(args, set())
