"""Somebody at the keys who is a program, with a person's limits: a stand-in for a study.

    python benchmark/scripted_person.py bc --record-demos 5 --env-id LunarLanderContinuous-v3
    python benchmark/scripted_person.py rlif_rlpd --env-id LunarLanderContinuous-v3    # and hg_dagger, mile

They see the state 0.25 s late, hold a key all the way or not at all, take over when it looks bad, and give control back
when it looks good again: what a person would go by, not the model of any of the methods. Nobody waits for the picture,
so fifteen minutes at the keys pass as fast as the script learns. All else is as in `--intervention human`: the scripts,
the keys of experts/keys.toml, the record, --resume and --replay.
"""

import os
import sys
from collections import deque
from importlib import import_module

import numpy as np

import run  # noqa: F401, which makes the scripts importable
from experts import InputError, exit_codes, human, parse

REACTION = 0.25  # seconds


class Pilot:
    """Lands the lander: leans towards the pad, and fires when it sinks too fast."""

    def __init__(self):
        self.lowest, self.stuck = np.inf, 0  # height, and steps since it was that

    def keys(self, obs):
        """Keys for x, y, their speeds, angle, its speed, and the two legs' contacts, (8,)."""
        x, y, vx, vy, angle, spin, *legs = obs
        lean = np.clip(0.5 * x + vx, -0.4, 0.4)  # the angle to have
        turn, lift = 0.5 * (lean - angle) - spin, 0.5 * (0.55 * abs(x) - y) - 0.5 * vy
        if any(legs):
            turn, lift = 0.0, -0.5 * vy
        keys = ["up"] if lift > 0.05 else []
        if abs(turn) > 0.03:
            keys.append("left" if turn > 0 else "right")
        return keys

    def bad(self, obs):
        """Does it tilt, drift off, sink too fast, or come no lower for two seconds (nor to rest on the ground)?"""
        x, y, vx, vy, angle, spin, *_ = obs
        self.stuck = 0 if y < self.lowest - 0.01 else self.stuck + 1
        self.lowest = min(self.lowest, y)
        off = abs(x) > 0.3 and x * vx > 0.1
        sinks = vy < -0.35 - 0.5 * max(y, 0)
        return abs(angle) > 0.4 or abs(spin) > 0.6 or off or sinks or self.stuck > 40

    def good(self, obs):
        """Is it upright and slow, and has it come lower, in the air?"""
        x, y, vx, vy, angle, spin, *legs = obs
        slow = abs(angle) < 0.2 and abs(spin) < 0.3 and abs(vx) < 0.3 and abs(vy) < 0.4
        if not slow or all(legs) or (self.stuck > 40 and y > self.lowest - 0.1):
            return False
        self.lowest, self.stuck = y, 0
        return True


class Presser:
    """Presses Meta-World's button: to a place in front of it, then against it."""

    def __init__(self):
        self.best, self.stuck, self.driven = np.inf, 0, 0

    def way(self, obs):
        """From the hand to where it should go next, (3,), by the last of four observations, of (156,)."""
        hand, button = obs[-39:-36], obs[-35:-32] - np.array([0.0, 0.0, 0.07])
        way = button - hand
        if np.abs(way[[0, 2]]).max() > 0.03:
            return way * np.array([1.0, 0.0, 1.0])  # first in front of it
        return way * np.array([0.0, 1.0, 0.0]) + np.array([0.0, 0.1, 0.0])

    def keys(self, obs):
        names = (
            ("down", "up"),
            ("right", "left"),
            ("w", "s"),
        )  # of x, y and z, one way and the other
        return [
            pair[0 if part > 0 else 1]
            for pair, part in zip(names, self.way(obs))
            if abs(part) > 0.02
        ]

    def bad(self, obs):
        """Has the hand come no nearer for a second?"""
        distance = np.abs(obs[-39:-36] - obs[-35:-32]).sum()
        self.stuck = 0 if distance < self.best - 0.01 else self.stuck + 1
        self.best, self.driven = min(self.best, distance), 0
        return self.stuck > 20

    def good(self, obs):
        """Two seconds are enough: then the robot may try again."""
        self.driven += 1
        if self.driven <= 40:
            return False
        self.best, self.stuck = np.inf, 0
        return True


PEOPLE = {"LunarLanderContinuous-v3": Pilot, "Meta-World/button-press-v3": Presser}


class Hands:
    """What experts.window.Window is to a person: no picture, and keys that a program presses."""

    def __init__(self, env, keys):
        self.paused, self.bad, self.given_up, self.pressed, self.pushed = (
            False,
            False,
            False,
            [],
            {},
        )

    def draw(self, *_):
        pass

    def forget(self):
        pass

    def let_go(self):
        self.pressed = []


class ScriptedPerson(human.Person):
    """Person with Hands for a window, who sees late and never waits."""

    def __init__(self, env, args, demonstrates=False):
        if args.env_id not in PEOPLE:
            raise InputError(f"nobody knows what to do in {args.env_id}: {', '.join(PEOPLE)}")
        super().__init__(env, args, demonstrates)
        self.args, self.driving = args, demonstrates

    def reset(self, *, seed=None, options=None):
        self.mind, self.driving = PEOPLE[self.args.env_id](), self.demonstrates
        self.seen = deque(maxlen=1 + round(REACTION * self.rate))  # the first of these is seen now
        return super().reset(seed=seed, options=options)

    def check(self, obs, proposal):
        self.seen.append(obs)
        seen = self.seen[0]  # (O,)
        # also while a record is gone through, for the mind has to go along
        if not self.demonstrates:
            self.driving = not self.mind.good(seen) if self.driving else self.mind.bad(seen)
        return super().check(obs, proposal)

    def _wait(self):
        self.window.pressed = (self.mind.keys(self.seen[0]) or ["c"]) if self.driving else []

    def updates(self, ended):
        self.made = 1
        return self.made


def main():
    scripts = "bc", "rlif_rlpd", "hg_dagger", "mile", "iwr", "sirius"
    if len(sys.argv) < 2 or sys.argv[1] not in scripts:
        raise InputError(f"give a script ({', '.join(scripts)}) and its options")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # nobody looks
    script = import_module(sys.argv.pop(1))
    human.Window, human.Person = Hands, ScriptedPerson
    script.Person = ScriptedPerson
    more = [] if script.__name__ == "bc" or "--resume" in sys.argv else ["--intervention", "human"]
    script.main(parse(script.Args, script.check, [*sys.argv[1:], *more]))


if __name__ == "__main__":
    with exit_codes():
        main()
