"""benchmark/episode.py: what it draws is what the loop of rlif_rlpd.py does."""

import sys

import numpy as np
import pytest

import rlif_rlpd
from experts import Expert, InputError
from tests import tiny
from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmark"))
import episode

ENV = "--env-id", "tests.tiny:Filmed-v0"


PEOPLE = {
    "value": ("--intervention-delta", -1_000, "--intervention-beta", 1),  # flags whatever it checks
    "coin": ("--intervention-delta", 1_000, "--intervention-beta", 0.5),  # flags nothing
}


def finished(person):
    """A run's folder, its options and its policy."""
    folder = tiny.short_run(rlif_rlpd, *ENV, *PEOPLE[person])
    options = tiny.parsed(rlif_rlpd, *tiny.plain(tiny.short(rlif_rlpd, *ENV, *PEOPLE[person])))
    return folder, options, Expert(folder / "model.safetensors")


@pytest.mark.parametrize("person", PEOPLE)
def test_the_expert_has_control_for_so_many_steps_after_every_takeover(people, person):
    _, options, policy = finished(person)
    played = episode.play(options, policy, seed=3, first=0, steps=40)
    flagged, started, by_expert = (np.array(played[x]) for x in ("flagged", "started", "by_expert"))
    if person == "value":  # four steps of the expert, one of grace
        assert np.flatnonzero(started).tolist() == list(range(0, 41, 5))
        assert (flagged == started).all()
    else:
        assert len(started) == 41 and started.any() and not flagged.any()
    expected = np.zeros(41, dtype=bool)
    for t in np.flatnonzero(started):
        assert not expected[t]  # nobody takes over from themselves
        expected[t : t + options.takeover_steps] = True
    assert (by_expert == expected).all()
    assert np.isfinite(played["value"]).all() and np.isfinite(played["score"]).all()
    assert [t for t in range(41) if played["frames"][t] is not None] == episode.film_strip(0, 40)


def test_the_step_before_a_takeover_is_marked(people, tmp_path):
    folder, options, policy = finished("value")
    played = episode.play(options, policy, seed=3, first=5, steps=30)
    figure = episode.draw(played, 5, 30)
    marked = sorted(round(text.get_position()[0]) for axis in figure.axes for text in axis.texts)
    assert marked == [9, 14, 19, 24, 29, 34]
    episode.plt.close("all")
    episode.main(episode.Args(str(folder), steps=20, output=str(tmp_path / "a.png")))
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_other_folders_and_steps_are_refused(people, tmp_path):
    folder, _, _ = finished("coin")
    with pytest.raises(InputError, match="no run of rlif_rlpd.py lies there"):
        episode.main(episode.Args(str(tmp_path)))
    with pytest.raises(InputError, match="--first 300: the episode has 50 steps"):
        episode.main(episode.Args(str(folder), first=300))
    with pytest.raises(InputError, match="--steps 2 or more"):
        episode.main(episode.Args(str(folder), steps=1))
