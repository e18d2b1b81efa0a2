"""The replay buffer: all rows are kept, every minibatch has its share of demonstrations."""

import numpy as np
import pytest
import torch

import rlif_rlpd


def transition(number, reward=0.0, termination=0.0):
    """A transition that is recognisable by its observation."""
    obs, action = np.full(2, number), np.full(1, -number)
    return {
        "obs": obs, "next_obs": obs + 0.5, "actions": action, "rewards": reward,
        "terminations": termination,
    }  # fmt: skip


def fill(rb, numbers):
    """Add a transition for each number."""
    for number in numbers:
        rb.add(transition(number))


def drawn(rb, offline_ratio=0.0, num_batches=50, batch_size=20, seed=0):
    """The numbers in so many minibatches, (G, B)."""
    rng, device = np.random.default_rng(seed), torch.device("cpu")
    batches = rb.sample(rng, num_batches, batch_size, offline_ratio, device)
    rest = {"obs": (2,), "next_obs": (2,), "actions": (1,), "rewards": (), "terminations": ()}
    shapes = {name: (num_batches, batch_size, *shape) for name, shape in rest.items()}
    assert {name: values.shape for name, values in batches.items()} == shapes
    torch.testing.assert_close(batches["next_obs"], batches["obs"] + 0.5)  # rows stay together
    torch.testing.assert_close(batches["actions"], -batches["obs"][..., :1])
    return batches["obs"][..., 0]


def buffer(capacity, demonstrations=0):
    """A buffer whose demonstrations are numbered -1, -2, ..., and set apart."""
    rb = rlif_rlpd.ReplayBuffer(capacity, 2, 1)
    fill(rb, range(-1, -1 - demonstrations, -1))
    rb.apart = demonstrations
    return rb


def test_only_rows_that_were_added_are_drawn_and_the_newest_is_among_them():
    rb = buffer(100)
    fill(rb, range(10))
    assert rb.size == 10
    assert set(drawn(rb).flatten().tolist()) == set(range(10))
    fill(rb, [99])
    assert set(drawn(rb).flatten().tolist()) == {*range(10), 99}


def test_a_full_buffer_holds_all_that_was_added():
    rb = buffer(30, demonstrations=8)
    fill(rb, range(22))
    assert set(drawn(rb, offline_ratio=0.5).flatten().tolist()) == set(range(-8, 22))


def test_rewards_and_terminations_come_back_as_stored_with_their_own_rows():
    rb = buffer(10)
    rb.add(transition(0))
    rb.add(transition(1, reward=-1.0))
    rb.add(transition(2, reward=3.5, termination=1.0))
    batches = rb.sample(np.random.default_rng(0), 1, 500, 0.0, torch.device("cpu"))
    columns = batches["obs"][0, :, 0], batches["rewards"][0], batches["terminations"][0]
    rows = set(zip(*(column.tolist() for column in columns)))
    assert rows == {(0, 0, 0), (1, -1, 0), (2, 3.5, 1)}


def test_what_is_changed_after_it_was_added_changes_nothing_here():
    rb, row = buffer(10), transition(1)
    rb.add(row)
    row["obs"][:], row["rewards"] = 7, -1.0
    assert rb.data["obs"][0].tolist() == [1, 1] and rb.data["rewards"][0] == 0


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_every_minibatch_has_its_share_of_demonstrations(share):
    rb = buffer(100, demonstrations=8)
    fill(rb, range(30))
    numbers = drawn(rb, offline_ratio=share)
    shown = int(share * 20)  # its first rows: --bc-weight takes them
    assert (numbers[:, :shown] < 0).all() and (numbers[:, shown:] >= 0).all()
    assert set(numbers.flatten().tolist()) == {*range(-8, 0), *range(30)}


def test_a_minibatch_may_be_demonstrations_alone():
    rb = buffer(100, demonstrations=8)
    fill(rb, range(30))
    assert set(drawn(rb, offline_ratio=1.0).flatten().tolist()) == set(range(-8, 0))


def test_where_none_are_set_apart_demonstrations_are_rows_like_others():
    rb = buffer(100, demonstrations=8)
    rb.apart = 0
    fill(rb, range(8))
    numbers = drawn(rb)
    assert set(numbers.flatten().tolist()) == set(range(-8, 8))
    assert (numbers < 0).float().mean().item() == pytest.approx(0.5, abs=0.06)  # 4 sigma
    assert set(drawn(rb, offline_ratio=0.5).flatten().tolist()) == set(range(-8, 8))


def test_draws_are_uniform():
    rb = buffer(50, demonstrations=5)
    fill(rb, range(44))
    numbers = drawn(rb, offline_ratio=0.5, num_batches=4_400, batch_size=20).flatten()
    for kind, expected in ((numbers[numbers < 0], 8_800), (numbers[numbers >= 0], 1_000)):
        counts = torch.unique(kind, return_counts=True)[1]
        assert ((counts - expected).abs() < 5 * expected**0.5).all()


def test_every_minibatch_is_drawn_anew():
    rb = buffer(100, demonstrations=40)
    fill(rb, range(60))
    numbers = drawn(rb, offline_ratio=0.5, num_batches=10)
    assert len({tuple(batch[:10].tolist()) for batch in numbers}) == 10
    assert len({tuple(batch[10:].tolist()) for batch in numbers}) == 10


@pytest.mark.parametrize("written", [5, 16])
def test_saved_and_loaded_buffer_draws_the_same(written):
    rb, copy = buffer(21, demonstrations=4), buffer(21, demonstrations=4)
    fill(rb, range(written))
    rb.arrays["rewards"][3] = 3.5
    state = rb.state_dict()
    fill(rb, [99])  # what is saved is as it was
    assert all(len(values) == 4 + written for values in state.values())
    copy.load_state_dict(state)
    assert copy.data["rewards"][3] == 3.5
    fill(copy, [99])
    assert torch.equal(drawn(rb, 0.5), drawn(copy, 0.5)) and 99 in drawn(copy)
