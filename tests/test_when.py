"""Persons with limits (benchmark/when.py)."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rlif_rlpd
from tests import tiny

sys.path.insert(0, str(tiny.ROOT / "benchmark"))
import when


class Flagging:
    """A script's person who flags some steps of an episode, and takes over at each for three."""

    grace_steps = 1

    def __init__(self, clock, flagged):
        self.args = SimpleNamespace(takeover_steps=3, total_timesteps=100)
        self.clock, self.flagged = clock, flagged

    def check(self, obs, proposal):
        flagged = self.clock.t in self.flagged
        return flagged, flagged, 3 * flagged


def episode(flagged, steps=12, total=0, **limits):
    """Who acts in an episode's steps, as in the scripts' loops ("." the robot, "S" at a start)."""
    clock = SimpleNamespace(t=0, total=total)
    person = when.limited(Flagging, when.Limits(**limits), [clock])(clock, flagged)
    acts, expert_until, next_check = "", 0, 0
    for t in range(steps):
        clock.t, clock.total, started = t, total + t, False
        if t >= next_check:
            _, started, length = person.check(None, None)
            if length:
                expert_until, next_check = t + length, t + length + person.grace_steps
        acts += "S" if started else "e" if t < expert_until else "."
    return acts


def test_when_a_person_with_limits_takes_over_and_for_how_long():
    assert episode({1, 2, 3, 4, 6, 10}) == ".See..See.Se"[:6] + "See." + "Se"
    assert episode({1}, reaction_steps=4) == ".....See...."
    assert episode({1, 2, 3}, reaction_steps=2) == "...See......"  # one takeover, not three
    assert episode({1, 9}, steps=10, reaction_steps=2) == "...See...."  # the episode is over first
    assert episode({0, 1, 2, 3, 7, 8}, until_good=True) == "Seee...Se..."
    assert episode({1, 2, 3, 8}, look_every=4) == "........See."
    assert episode({1, 2, 3, 8}, total=6, look_every=4) == "..See......."  # the run's steps count
    assert episode({1, 4, 9}, takeover_length=1) == ".S..S....S.."
    assert episode({1, 6}, total=44, look_until=0.5) == ".See........"  # the last look is at 49
    assert "S" not in episode(set(range(12)), look_until=0.0)


def test_a_takeover_to_come_ends_with_its_episode():
    clock = SimpleNamespace(t=0, total=0)
    person = when.limited(Flagging, when.Limits(reaction_steps=5), [clock])(clock, {3})
    for t in (3, 4, 0, 1, 8, 9):  # the second begins with 0
        clock.t = t
        assert not person.check(None, None)[1]


def test_a_fall_costs_what_it_costs_without_limits():
    args = rlif_rlpd.Args(takeover_steps=3, gamma=0.9)
    for limits in ({}, {"until_good": True}, {"takeover_length": 16}, {"reaction_steps": 9}):
        person = when.limited(rlif_rlpd.ValueHuman, when.Limits(**limits), [])(args, None, None)
        assert person.discount == 0.9**4


def test_errors_are_in_size_and_direction():
    torch.manual_seed(0)
    act = when.erring(lambda obs: torch.tensor([[0.5, 0.0]]).expand(len(obs), 2), 0.1)
    done = act(np.zeros((20_000, 3)))
    assert done.mean(0).tolist() == pytest.approx([0.5, 0.0], abs=0.005)
    # a deviation of 0.1 in each direction, and of a tenth of the length along the action
    assert done.std(0).tolist() == pytest.approx([0.1 * (1 + 0.25) ** 0.5, 0.1], rel=0.05)


@pytest.mark.usefixtures("people")
def test_it_runs_a_script_with_these_persons_and_experts(monkeypatch):
    def demonstrations(env_id, env, *given):
        assert not isinstance(env, when.Clock)  # it does not run while they are made
        return tiny.demonstrations(env_id, env, *given)

    patched = {x: getattr(rlif_rlpd, x) for x in ("make_env", "load_expert", "ValueHuman")}
    patched["load_demonstrations"] = demonstrations
    # each proposal is flagged: four steps of the expert, one of the robot, in episodes of ten
    options = f"{tiny.SHORT['rlif_rlpd']} --intervention-beta 1 --intervention-delta -99"
    takeovers, saturated = {}, {}
    for name, limits in (("until", "--look-until 0.5"), ("errs", "--error 100")):
        argv = tiny.words("when.py rlif_rlpd", options, limits, "--exp-name", name)
        with monkeypatch.context() as put_back:
            for attribute, value in patched.items():
                put_back.setattr(rlif_rlpd, attribute, value)
            put_back.setattr(sys, "argv", argv)
            when.main()
        takeovers[name] = int(tiny.rows(tiny.folder_of(name))[-1]["takeovers"])
        actions = tiny.checkpoint(tiny.folder_of(name))["rb"]["actions"].abs().max(1).values  # (n,)
        saturated[name] = (actions[np.arange(100) % 5 < 4] > 0.99).float().mean()  # the expert's
    assert takeovers == {"until": 10, "errs": 20}
    assert saturated["until"] < 0.2 and saturated["errs"] > 0.9
    for words, why in ((["bc"], "give rlif_rlpd"), (["pvp", "--single-env"], "no-single-env")):
        monkeypatch.setattr(sys, "argv", ["when.py", *words])
        with pytest.raises(when.InputError, match=why):
            when.main()
