"""The replay buffer: a staged row is not there yet, every minibatch has its share of demonstrations."""

import numpy as np
import pytest
import torch

import rlif_rlpd


def fill(rb, numbers):
    """Commit a transition for each number, recognisable by its observation."""
    for number in numbers:
        rb.stage(np.full(2, number), np.full(2, number + 0.5), np.full(1, -number), 0.0, 0.0)
        rb.commit()


def drawn(rb, offline_ratio=0.0, num_batches=50, batch_size=20, seed=0):
    """The numbers in so many minibatches, (G, B)."""
    batches = rb.sample(np.random.default_rng(seed), num_batches, batch_size, offline_ratio, torch.device("cpu"))
    assert {name: values.shape[2:] for name, values in batches.items()} == {
        "obs": (2,), "next_obs": (2,), "actions": (1,), "rewards": (), "terminations": ()
    }  # fmt: skip
    torch.testing.assert_close(batches["next_obs"], batches["obs"] + 0.5)  # rows stay together
    torch.testing.assert_close(batches["actions"], -batches["obs"][..., :1])
    return batches["obs"][..., 0]


def buffer(capacity, demonstrations=0):
    """A buffer whose demonstrations are numbered -1, -2, ..."""
    rb = rlif_rlpd.ReplayBuffer(capacity, 2, 1, demonstrations)
    for i in range(demonstrations):
        for name, value in zip(rb.FIELDS, (-1.0 - i, -0.5 - i, 1.0 + i, 0.0, 0.0)):
            rb.data[name][i] = value
    return rb


def test_staged_row_is_never_drawn_and_committing_counts_it():
    rb = buffer(100)
    fill(rb, range(10))
    rb.stage(np.full(2, 99), np.full(2, 99.5), np.full(1, -99), 0.0, 0.0)
    assert set(drawn(rb).flatten().tolist()) == set(range(10))
    rb.commit()
    assert set(drawn(rb).flatten().tolist()) == {*range(10), 99}


def test_staging_again_replaces_the_staged_row():
    rb = buffer(100)
    fill(rb, [0])
    rb.stage(np.full(2, 7), np.full(2, 7.5), np.full(1, -7), 0.0, 0.0)
    fill(rb, [1])
    assert set(drawn(rb).flatten().tolist()) == {0, 1}


def test_commit_sets_the_reward_of_the_staged_row_alone():
    rb = buffer(100)
    fill(rb, [0])
    rb.stage(np.full(2, 1), np.full(2, 1.5), np.full(1, -1), 0.0, 0.0)
    rb.commit(reward=-1.0)
    fill(rb, [2])
    batches = rb.sample(np.random.default_rng(0), 1, 500, 0.0, torch.device("cpu"))
    pairs = set(zip(batches["obs"][0, :, 0].tolist(), batches["rewards"][0].tolist()))
    assert pairs == {(0, 0), (1, -1), (2, 0)}


def test_terminations_and_rewards_come_back_as_stored():
    rb = buffer(10)
    rb.stage(np.zeros(2), np.ones(2), np.ones(1), 3.5, 1.0)
    rb.commit()
    batches = rb.sample(np.random.default_rng(0), 1, 1, 0.0, torch.device("cpu"))
    assert batches["rewards"].item() == 3.5 and batches["terminations"].item() == 1.0


@pytest.mark.parametrize("written", [11, 12, 13, 25, 37])
def test_a_full_ring_forgets_the_oldest_and_still_never_draws_the_staged_row(written):
    rb = buffer(12)
    fill(rb, range(written))
    rb.stage(np.full(2, 99), np.full(2, 99.5), np.full(1, -99), 0.0, 0.0)
    assert set(drawn(rb).flatten().tolist()) == set(range(written - 11, written))


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_every_minibatch_has_its_share_of_demonstrations(share):
    rb = buffer(100, demonstrations=8)
    fill(rb, range(30))
    numbers = drawn(rb, offline_ratio=share)
    shown = int(share * 20)
    assert (numbers[:, :shown] < 0).all() and (numbers[:, shown:] >= 0).all()  # its first rows: --bc-weight takes them
    assert set(numbers.flatten().tolist()) == {*range(-8, 0), *range(30)}


def test_a_full_ring_keeps_the_demonstrations():
    rb = buffer(20, demonstrations=8)
    fill(rb, range(100))
    assert set(drawn(rb, offline_ratio=0.5).flatten().tolist()) == {*range(-8, 0), *range(89, 100)}


def test_draws_are_uniform():
    rb = buffer(50, demonstrations=5)
    fill(rb, range(60))  # the ring of 45 has turned over
    numbers = drawn(rb, offline_ratio=0.5, num_batches=4_400, batch_size=20).flatten()
    for kind, expected in ((numbers[numbers < 0], 8_800), (numbers[numbers >= 0], 1_000)):
        counts = torch.unique(kind, return_counts=True)[1]
        assert ((counts - expected).abs() < 5 * expected**0.5).all()


@pytest.mark.parametrize("written", [5, 30])
def test_saved_and_loaded_buffer_draws_the_same(written):
    rb, copy = buffer(20, demonstrations=4), rlif_rlpd.ReplayBuffer(20, 2, 1, 4)
    fill(rb, range(written))
    rb.stage(np.full(2, 99), np.full(2, 99.5), np.full(1, -99), 0.0, 0.0)
    copy.load_state(rb.state())
    assert torch.equal(drawn(rb, 0.5), drawn(copy, 0.5))
    rb.commit(reward=-1.0)  # the staged row came along
    copy.commit(reward=-1.0)
    assert torch.equal(drawn(rb, 0.5), drawn(copy, 0.5)) and 99 in drawn(copy)
