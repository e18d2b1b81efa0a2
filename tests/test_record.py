"""Episodes that a person drives become datasets that the scripts can learn from."""

import shutil

import minari
import numpy as np
import pytest
import tyro

import rlif_rlpd
from experts import load_demonstrations, record
from tests import test_human, tiny
from tests.test_human import steps_where

at_keys, clock = test_human.at_keys, test_human.clock  # fixtures


def drive(episodes):
    """python -m experts.record; the episodes that are kept."""
    args = tiny.words("--env-id Shown-v0 --keys ../keys.toml --episodes", episodes)
    record.main(tyro.cli(record.Args, args=args))
    return list(minari.load_dataset(f"person/Shown-v0/mine-v{episodes}"))


def test_what_you_drive_and_keep_is_a_dataset(at_keys, capsys):
    # kept, repeated, given up in flight, kept
    drawn = at_keys({5: "right down", 20: "right up", 120: "r tap",
                     "keep": ["y tap", "", "r tap", "y tap"]})  # fmt: skip
    first, second = drive(2)
    assert steps_where(first.actions > 1.9) == list(range(5, 20))  # 0.999 of 2
    assert (np.delete(first.actions, range(5, 20)) == 0).all()  # nobody else acts
    assert np.allclose(first.rewards, 1 - abs(first.observations[1:, 0]))  # each of its step
    assert (second.actions == 0).all() and len(second.actions) == 50 and second.truncations[-1]
    assert [x[0] for x in drawn].count("time is up. Keep it?  Y: yes  R: no") == 4
    said = "kept: --dataset-id person/Shown-v0/mine-v2 --demo-episodes 2"
    assert said in capsys.readouterr().out
    env = rlif_rlpd.make_env("Shown-v0")
    demos = load_demonstrations("Shown-v0", env, 2, 1, "person/Shown-v0/mine-v2")
    assert len(demos["obs"]) == 100 and not demos["terminations"].any()
    assert {str(x.dtype) for x in (first.rewards, first.observations)} == {"float32"}


def test_what_was_kept_outlives_a_stop_and_the_next_time_adds_to_it(at_keys):
    at_keys({5: "right down", 9: "right up", 80: "q tap", "keep": ["y tap"]})
    with pytest.raises(KeyboardInterrupt):
        drive(2)
    at_keys({5: "left down", 9: "left up", "keep": ["y tap"]})
    first, second = drive(2)
    assert [steps_where(episode.actions) for episode in (first, second)] == [[5, 6, 7, 8]] * 2
    assert first.actions[5] > 0 > second.actions[5]
    assert first.observations[0, 0] != second.observations[0, 0]  # another start
    assert len(drive(2)) == 2  # nothing is left to do
    shutil.rmtree(minari.storage.get_dataset_path("person/Shown-v0/mine-v1"))
    minari.storage.get_dataset_path("person/Shown-v0/mine-other-v7").mkdir()
    at_keys({5: "left down", 9: "left up", "keep": ["y tap"]})
    assert len(drive(3)) == 3  # with those of the newest version that is left
