"""The replay buffer: rows, shares of demonstrations, returns of n steps as by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rlif_rlpd
from tests import tiny


def transition(number, **others):
    """A transition that is recognisable by its observation; it ends an episode on its own."""
    obs, action = np.full(2, number), np.full(1, -number)
    usual = {"rewards": 0.0, "terminations": 0.0, "ends": 1.0}
    return {"obs": obs, "next_obs": obs + 0.5, "actions": action} | usual | others


def fill(rb, numbers):
    """Add a transition for each number."""
    for number in numbers:
        rb.add(transition(number))


def sample(rb, offline_ratio=0.0, num_batches=50, batch_size=20, n_step=3):
    args = {"offline_ratio": offline_ratio, "utd_ratio": num_batches, "batch_size": batch_size}
    args = SimpleNamespace(n_step=n_step, gamma=0.9, **args)
    return rb.sample(np.random.default_rng(0), args, torch.device("cpu"))


def drawn(rb, offline_ratio=0.0, num_batches=50):
    """The numbers in so many minibatches, (G, B)."""
    batches = sample(rb, offline_ratio, num_batches)
    rest = {"obs": (2,), "next_obs": (2,), "actions": (1,)}
    rest |= {"rewards": (), "terminations": (), "discounts": ()}
    shapes = {name: (*batches["rewards"].shape, *size) for name, size in rest.items()}
    assert {name: values.shape for name, values in batches.items()} == shapes
    torch.testing.assert_close(batches["next_obs"], batches["obs"] + 0.5)  # rows stay together
    torch.testing.assert_close(batches["actions"], -batches["obs"][..., :1])
    return batches["obs"][..., 0]


def buffer(capacity, demonstrations=0):
    """A buffer whose demonstrations are numbered -1, -2, ..., and set apart."""
    rb = rlif_rlpd.ReplayBuffer(capacity, 2, 1)
    fill(rb, range(-1, -1 - demonstrations, -1))
    rb.num_offline = demonstrations
    return rb


def test_only_rows_that_were_added_are_drawn_and_the_newest_is_among_them():
    rb = buffer(12)
    fill(rb, range(10))
    assert rb.size == 10 and set(drawn(rb).flatten().tolist()) == set(range(10))
    row = transition(99)
    rb.add(row)
    row["obs"][:] = 7  # what is changed after it was added changes nothing here
    assert set(drawn(rb).flatten().tolist()) == {*range(10), 99}
    fill(rb, [100])  # full
    assert set(drawn(rb).flatten().tolist()) == {*range(10), 99, 100}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_every_minibatch_has_its_share_of_demonstrations_drawn_anew(share):
    rb = buffer(100, demonstrations=8)
    fill(rb, range(30))
    numbers = drawn(rb, offline_ratio=share, num_batches=200)
    shown = int(share * 20)  # its first rows: --bc-weight takes them
    assert (numbers[:, :shown] < 0).all() and (numbers[:, shown:] >= 0).all()
    drawn_from = {*(range(-8, 0) if share else []), *(range(30) if share < 1 else [])}
    assert set(numbers.flatten().tolist()) == drawn_from
    assert len({tuple(batch.tolist()) for batch in numbers}) == 200


def test_draws_are_uniform_and_where_none_are_set_apart_demonstrations_are_rows_like_others():
    rb = buffer(50, demonstrations=5)
    fill(rb, range(44))
    numbers = drawn(rb, offline_ratio=0.5, num_batches=4_400).flatten()
    rb.num_offline = 0
    together = drawn(rb, offline_ratio=0.0, num_batches=4_900).flatten()
    for kind, rows, expected in (
        (numbers[numbers < 0], 5, 8_800),
        (numbers[numbers >= 0], 44, 1_000),
        (together, 49, 2_000),
    ):
        counts = torch.unique(kind, return_counts=True)[1]
        assert len(counts) == rows and ((counts - expected).abs() < 5 * expected**0.5).all()


def returns_by_hand(rows, n, gamma):
    """{obs of s_0: (return, discount, next_obs, termination)} from each row on."""
    found = {}
    for first, row in enumerate(rows):
        total, discount, last = 0.0, 1.0, first
        for i in range(first, min(first + n, len(rows))):
            total, discount, last = total + discount * rows[i]["rewards"], discount * gamma, i
            if rows[i]["ends"]:
                break
        next_obs, mark = rows[last]["next_obs"][0], rows[last]["terminations"]
        found[row["obs"][0]] = (total, discount, next_obs, mark)
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("apart", [0, 9])
def test_returns_of_n_steps_are_those_of_a_loop_by_hand(n, apart):
    rng, rows = np.random.default_rng(0), []
    # (length, termination): falls, limits, episodes shorter than n; and one that is going on
    for length, mark in ((6, 1.0), (3, 0.0), (1, 1.0), (1, 0.0), (2, 0.0), (7, 0.0), (4, None)):
        for _ in range(length):
            rows.append(transition(len(rows), rewards=rng.normal(), ends=0.0))
        if mark is not None:
            rows[-1] |= {"ends": 1.0, "terminations": mark}
    rb = rlif_rlpd.ReplayBuffer(40, 2, 1)
    rb.data["rewards"][:] = 1e9  # of rows that are not there yet
    for row in rows:
        rb.add(row)
    rb.num_offline = apart
    batches = sample(rb, 0.5 if apart else 0.0, num_batches=20, batch_size=40, n_step=n)
    names = "rewards", "discounts", "next_obs", "terminations"
    first = batches["obs"][..., 0].flatten().tolist()
    columns = [batches[name].reshape(800, -1)[:, 0].tolist() for name in names]
    expected = returns_by_hand(rows, n, 0.9)
    assert set(first) == expected.keys()
    for number, *values in zip(first, *columns):
        assert values == pytest.approx(expected[number], rel=1e-6)
    assert batches["discounts"].dtype == torch.float32


def test_saved_and_loaded_buffer_draws_the_same():
    rb, copy = buffer(12, demonstrations=4), buffer(12, demonstrations=4)
    fill(rb, range(5))
    rb.data["rewards"][3] = 3.5
    state = rb.state_dict()
    fill(rb, [99])  # what is saved is as it was
    for values in state.values():  # without the rows that are not there yet
        assert len(values) == 9 and values.untyped_storage().nbytes() == values.nbytes
    copy.load_state_dict(state)
    assert copy.data["rewards"][3] == 3.5
    fill(copy, [99])
    assert torch.equal(drawn(rb, 0.5), drawn(copy, 0.5)) and 99 in drawn(copy)


def test_updates_begin_when_a_batch_is_there_beside_the_rows_set_apart(people, monkeypatch):
    """And every update's batch is drawn from all rows that there are."""
    monkeypatch.setattr(rlif_rlpd, "load_demonstrations", tiny.demonstrations)
    sizes, draw = [], rlif_rlpd.ReplayBuffer.sample

    def watched(rb, *args):
        sizes.append((rb.size, rb.num_offline))
        return draw(rb, *args)

    monkeypatch.setattr(rlif_rlpd.ReplayBuffer, "sample", watched)
    tiny.short_run(rlif_rlpd, "--demo-episodes 2 --offline-ratio 0.25 --total-timesteps 30")
    # a transition joins with the next step, and the last one of an episode at once
    assert sizes == [(20 + (t if t % 10 == 0 else t - 1), 20) for t in range(9, 31)]
    sizes.clear()
    tiny.short_run(rlif_rlpd, "--demo-episodes 2 --total-timesteps 10")
    assert len(sizes) == 10 and sizes[0] == (20, 0)
