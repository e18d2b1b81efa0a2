"""Somebody at the keys who is a program, with a person's limits; and a study with them.

    python benchmark/scripted_person.py rlif_rlpd --env-id LunarLanderContinuous-v3
    python benchmark/scripted_person.py study --task lander --seeds 1 2 3 4 5

They see the state 0.25 s late, hold a key all the way or not at all, take over when it looks bad,
and give control back when it looks good again: what a person would go by, not the model of any of
the methods. All else is as with --intervention human.

The study: for each seed they first drive a few demonstrations, which all methods begin with (MILE
with their clone); then each has that person for 15 minutes, 18,000 steps (benchmark/results/study).
"""

import math
import runpy
import sys
from collections import deque
from types import SimpleNamespace
from typing import Literal

import numpy as np
import run
from files import ROOT, InputError, command_line  # which makes the scripts importable
from minari.storage.datasets_root_dir import get_dataset_path

from experts import human, record
from experts.demonstrations import write_dataset

REACTION = 0.25  # seconds
TASKS = {  # environment, demonstrations, and MILE's rounds and evaluations, for about 15 minutes
    "lander": ("LunarLanderContinuous-v3", 10, "--rounds 14 --eval-frequency 4"),
    "button": ("Meta-World/button-press-v3", 1, "--rounds 40 --eval-frequency 2"),
}


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
        sideways = ["left" if turn > 0 else "right"] if abs(turn) > 0.03 else []
        return ["up"] * bool(lift > 0.05) + sideways

    def bad(self, obs):
        """Does it tilt, drift off, sink too fast, or come no lower for two seconds?"""
        x, y, vx, vy, angle, spin, *_ = obs
        self.stuck = 0 if y < self.lowest - 0.01 else self.stuck + 1
        self.lowest = min(self.lowest, y)
        off, sinks = abs(x) > 0.3 and x * vx > 0.1, vy < -0.35 - 0.5 * max(y, 0)
        return abs(angle) > 0.4 or abs(spin) > 0.6 or off or sinks or self.stuck > 40

    def good(self, obs):
        """Is it upright and slow, and has it come lower, in the air?"""
        _, y, vx, vy, angle, spin, *legs = obs
        slow = abs(angle) < 0.2 and abs(spin) < 0.3 and abs(vx) < 0.3 and abs(vy) < 0.4
        if not slow or all(legs) or (self.stuck > 40 and y > self.lowest - 0.1):
            return False
        self.lowest, self.stuck = y, 0
        return True


class Presser:
    """Presses Meta-World's button: to a place in front of it, then against it."""

    def __init__(self):
        self.best, self.stuck, self.driven = np.inf, 0, 0

    def keys(self, obs):
        """Keys for where the hand should go next, by the last of four observations, of (156,)."""
        way = obs[-35:-32] - np.array([0.0, 0.0, 0.07]) - obs[-39:-36]  # (3,)
        in_front = np.abs(way[[0, 2]]).max() <= 0.03
        way = np.array([0.0, way[1] + 0.1, 0.0]) if in_front else way * np.array([1.0, 0.0, 1.0])
        pairs = ("down", "up"), ("right", "left"), ("w", "s")  # of x, y, z, one way and the other
        return [pair[int(part <= 0)] for pair, part in zip(pairs, way) if abs(part) > 0.02]

    def bad(self, obs):
        """Has the hand come no nearer for a second?"""
        distance = np.abs(obs[-39:-36] - obs[-35:-32]).sum()
        self.stuck = 0 if distance < self.best - 0.01 else self.stuck + 1
        self.best, self.driven = min(self.best, distance), 0
        return self.stuck > 20

    def good(self, obs):
        """Two seconds are enough: then the robot may try again."""
        self.driven += 1
        if self.driven > 40:
            self.best, self.stuck = np.inf, 0
        return self.driven > 40


class Hands:
    """What human.Window is to a person: no picture, and keys that a program presses."""

    rate, axes = math.inf, {}
    paused = property(lambda self: False, lambda self, value: None)

    hear = draw = lambda self, *_: None

    def __init__(self, *_):
        self.held, self.tapped = [], []


class ScriptedPerson(human.Person):
    """Person with Hands for a window, who sees late and never waits."""

    def __init__(self, env, args, folder=None):
        people = {"LunarLanderContinuous-v3": Pilot, "Meta-World/button-press-v3": Presser}
        if args.env_id not in people:
            raise InputError(f"nobody is there for {args.env_id}, but for {', '.join(people)}")
        human.Window, human.HYSTERESIS = Hands, 1e-6  # no key is down in the next step: no control
        super().__init__(env, args, folder)
        self.someone = people[args.env_id]

    def reset(self, *, seed=None, options=None):
        self.mind, self.driving = self.someone(), self.path is None
        self.seen = deque(maxlen=1 + round(REACTION * self.keys.rate))  # the first is seen now
        return super().reset(seed=seed, options=options)

    def check(self, obs, *_):
        self.seen.append(obs)
        seen = self.seen[0]  # (O,)
        if self.path:  # also while a record is gone through, for the mind has to go along
            self.driving = not self.mind.good(seen) if self.driving else self.mind.bad(seen)
        if self.window:
            self.window.held = (self.mind.keys(seen) or ["c"]) if self.driving else []
        return super().check(obs)


def study(
    task: Literal["lander", "button"],
    seeds: tuple[int, ...] = (1,),
):
    env_id, episodes, rounds = TASKS[task]
    for seed in seeds:
        dataset_id, env = f"study/{task}-{seed}-v0", record.make_env(env_id, None)
        if not get_dataset_path(dataset_id).exists():
            person = ScriptedPerson(env, SimpleNamespace(env_id=env_id, keys=None))
            driven = [record.play(env, person, 1_000 * seed + i) for i in range(episodes)]
            write_dataset(get_dataset_path(dataset_id), env, driven, dataset_id, "scripted person")

        def one(method, command):
            """Run this method, or take what has finished; the path of its policy."""
            cell = f"study/{task}-{method}", f"{command} --env-id {env_id}", seed
            run.is_kept(*cell)  # refuses to mix it with a result of another command
            found = run.execute(*cell, ROOT, ROOT)
            if not run.keep(*cell, found):
                sys.exit(1)
            return f"{found['run']}/model.safetensors"

        data = f"--dataset-id {dataset_id} --demo-episodes {episodes}"
        script = "benchmark/scripted_person.py"
        steps = "--total-timesteps 18000 --eval-frequency 6000"
        learner = "--gamma 0.95 --utd-ratio 2 --n-step 1"
        clone = one("demonstrations", f"bc.py {data} --total-timesteps 2000 --eval-frequency 500")
        cloning = "--offline-ratio 0.5 --bc-weight 1"
        one("rlif", f"{script} rlif_rlpd {data} {steps} {cloning} {learner}")
        one("hil-serl", f"{script} hil_serl {data} {steps} {learner}")
        one("rlpd", f"hil_serl.py {data} {steps} {learner} --intervention none")
        one("pvp", f"{script} pvp {data} {steps}")
        one("pvp4real", f"{script} pvp {data} {steps} --bc-weight 1")
        one("hg-dagger", f"{script} hg_dagger {data} {steps} --doubt-novices 0")
        one("mile", f"{script} mile --initial-policy {clone} {rounds} --round-episodes 5")


def main():
    what = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if what == "study":
        return command_line(study, __doc__)
    if not (ROOT / f"{what}.py").exists():
        sys.exit(f"{sys.argv[0]}: give study, or a script with its options, not {what!r}")
    human.Person = ScriptedPerson
    person = [] if "--resume" in sys.argv else ["--intervention", "human"]
    sys.argv = [f"{what}.py", *sys.argv[1:], *person]
    runpy.run_path(str(ROOT / f"{what}.py"), run_name="__main__")


if __name__ == "__main__":
    main()
