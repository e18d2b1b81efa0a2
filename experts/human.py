"""A person at the keys, who takes over from the robot.

    python rlif_rlpd.py --intervention human --env-id LunarLanderContinuous-v3
    python rlif_rlpd.py --replay runs/<run>     # that session again, without the person
    python -m experts.record runs/<run>         # that session as a Minari dataset

Hold a movement key and you are in control; let go, and 0.3 s later the robot is. C: control without motion. Space: that
was bad, without a takeover. P: pause. + and -: faster and slower. R: give this episode up. Q: stop, to go on later.

Every step is appended to person.csv in the run's folder before the robot moves. A run that is given the same decisions
is the same to the bit, so this record serves three ends: --resume goes through all steps since the last checkpoint,
even after kill -9; --replay trains again without the person; and a test compares the two.
"""

import atexit
import time
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from experts.files import InputError, RunError
from experts.options import this_run, unused
from experts.record import Record, export, read_record
from experts.runs import open_run
from experts.tasks import seed_for
from experts.window import Keys, Window, require_screen

HYSTERESIS = 0.3  # seconds of control after the last key: a chain of taps is one takeover
ABSENCE = 2.0  # seconds without a picture, while the robot learns or is tested, after which it waits for P


class Person(gym.Wrapper):
    """Somebody who watches the environment in a window, and takes over by keyboard or gamepad.

    At once what rlif_rlpd.py and hg_dagger.py ask (check), what mile.py, iwr.py and sirius.py ask (takes_over), the
    expert who then acts (act), and the environment that is acted in, for it writes down each step before it is made.
    """

    takeover_steps, grace_steps = 1, 0  # the keys are read at every step

    def __init__(self, env, args, demonstrates=False):
        """env: what make_env makes with the render mode rgb_array. Raises InputError.

        demonstrates: the person is always in control; without a key nothing moves.
        """
        super().__init__(env)
        self.discrete, self.expert = env.discrete, self
        self.demonstrates, self.replay = demonstrates, getattr(args, "replay", None)
        if self.replay:
            steps = sum(len(lines) for lines in read_record(self.replay).values())
            if not (Path(self.replay) / "summary.json").exists():
                raise InputError(
                    f"--replay {self.replay}: that session was stopped before its end; finish it first: "
                    f"--resume {self.replay}"
                )
            if steps < getattr(args, "total_timesteps", 0):
                raise InputError(
                    f"--replay {self.replay}: {steps} steps were recorded; give --total-timesteps {steps}"
                )
        self.keys = Keys(env, args)
        self.rate = self.keys.rate  # steps per second
        # rlif_rlpd.py's E[gamma^m], as if a robot that always needs help were helped every second
        self.discount = getattr(args, "gamma", 1.0) ** self.rate
        # this step's line of the record, and lines that were recorded before: of steps to come
        self.record, self.line, self.ahead = None, None, []
        # began: with this step; hold: steps of control that are left without a key
        self.control, self.began, self.hold = False, False, 0
        self.episodes, self.steps, self.control_steps, self.interventions = 0, 0, 0, 0
        self.owed, self.made = 0, 0  # updates: to be made, and made since the last decision
        self.cost, self.drawing = 0.01, 0.0  # seconds that an update takes, and a picture
        # by the clock: when the next decision is due, when the last was made, when learning began
        self.due, self.decided_at, self.left_at = 0.0, 0.0, -ABSENCE
        self.intervals = []  # seconds between two decisions
        self.window = None if self.replay else Window(env, self.keys)
        atexit.register(self._report)

    def check(self, obs, _):
        """Is it flagged as bad, does an intervention start, and for how many steps does the person act?

        obs (O,) -> two booleans, and 1 or 0: the keys are read again at the next step.
        """
        if self.record is None:
            self.record = Record(this_run["folder"], self.replay, len(obs), len(self.keys.still))
        if self.t == 0:
            self.episodes += 1
            self.ahead = self.record.of_episode(self.seed)
        if self.ahead:
            self.line = self.ahead.pop(0)
            if not np.array_equal(self.line["obs"], obs):
                raise RunError(f"{self._where()}: the state is not the one that was recorded")
        elif self.window is None:
            raise RunError(f"{self._where()}: the record in {self.replay} ends here")
        else:
            self.line = self._decide() | {"obs": obs}
        self.control = self.line["control"]
        self.began = self.control and self.line["started"]
        self.control_steps += self.control
        self.interventions += self.line["started"]
        flagged = self.control or self.line["started"]
        return flagged, self.line["started"], 1 if self.control else 0

    def takes_over(self, obs, _):
        """Does the person act at obs, (O,)?"""
        return self.check(obs, None)[2] > 0

    def act(self, _):
        """The person's action: (1, A)."""
        return torch.from_numpy(self.line["action"])[None]

    def updates(self, ended):
        """How many updates to make after this step: those that fit into what is left of its time.

        What does not fit is owed, and made up for at the end of the episode.
        """
        self.owed += 1
        if self.ahead:  # as many as were made then
            count = self.ahead[0]["updates"]
        elif ended or self.window is None:
            count = self.owed
        else:
            left = self.due - time.perf_counter() - self.drawing
            count = min(self.owed, max(0, int(left / self.cost)))
        self.owed, self.made, self.left_at = self.owed - count, count, time.perf_counter()
        return count

    def reset(self, *, seed=None, options=None):
        self.seed, self.t, self.line, self.control, self.hold = seed, 0, None, False, 0
        if self.window:
            self.window.let_go()  # no key of the episode before is taken for one of this
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        line, self.line = self.line, None
        if line is None:  # nobody was asked: the robot is alone
            return self.env.step(action)
        action = np.asarray(action, dtype=np.float32)  # (A,)
        if not np.array_equal(action, line.setdefault("action", action)):
            raise RunError(f"{self._where()}: the robot's action is not the one that was recorded")
        self.record.append({"seed": self.seed, "t": self.t, **line})
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.t, self.steps = self.t + 1, self.steps + 1
        truncated = truncated or line["given_up"]
        if self.window and not self.ahead:
            self.left_at = time.perf_counter()
            if terminated or truncated:
                self.window.draw(self.env, self._status(), self.control, "one moment, please")
        return obs, reward, terminated, truncated, info

    def _decide(self):
        """The decision of this step, by the keys that are down when its time is over: a line of the record."""
        window = self.window
        self._wait()
        motion = self.keys.motion(window.pressed, window.pushed)  # (A,), or None
        control = self.demonstrates or motion is not None or self.hold > 0
        if motion is None:
            self.hold, motion = max(0, self.hold - 1), self.keys.still
        else:
            self.hold = round(HYSTERESIS * self.rate)
        started = (control and not self.control) or (window.bad and not control)
        line = {"time": time.time(), "control": control, "started": started}
        line |= {"given_up": window.given_up, "updates": self.made}
        if control:
            line["action"] = motion
        self.made = 0
        window.forget()
        return line

    def _wait(self):
        """Show the state, and hear the keys until the time of this step is over."""
        window, begin = self.window, time.perf_counter()
        absent = begin - self.left_at > ABSENCE
        if self.made and not absent:  # which it also is while the first update is compiled
            self.cost += 0.1 * ((begin - self.left_at) / self.made - self.cost)
        window.paused = window.paused or absent
        window.draw(self.env, self._status(), self.control)
        self.drawing = time.perf_counter() - begin
        while True:
            self.rate = window.hear(self.rate)
            now = time.perf_counter()
            this_run["paused"] = window.paused
            if window.paused:
                window.draw(self.env, self._status(), self.control, "P goes on")
                absent, self.due = True, now
                time.sleep(0.05)
            elif now < self.due:
                time.sleep(min(0.002, self.due - now))
            else:
                break
        if not absent:
            self.intervals.append(now - self.decided_at)
        self.decided_at, self.due = now, max(self.due + 1 / self.rate, now)

    def _status(self):
        share = self.control_steps / max(1, self.steps)
        speed = f"{self.rate:.0f} steps a second"
        if "render_fps" in self.env.metadata:
            speed += f" ({self.rate / self.env.metadata['render_fps']:.2f} of real time)"
        counts = f"episode {self.episodes}, step {self.t}   interventions {self.interventions}"
        counts += f"   {share:.0%} of the steps are yours"
        return f"{speed}   {self.owed} updates owed", counts

    def _where(self):
        return f"step {self.t} of the episode with the seed {self.seed}"

    def _report(self):
        """What rate of control was kept."""
        if self.intervals:
            median, slow = 1_000 * np.percentile(self.intervals, [50, 95])
            steps = len(self.intervals)
            print(f"time of {steps} steps: median {median:.0f} ms, 95 % within {slow:.0f} ms")


def check_person(args, typed, names=""):
    """Refuse options of a person at the keys without one, and what can't be with one. Raises InputError.

    names: options of the persons that are simulated, with blanks between.
    """
    if args.intervention != "human":
        unused(typed, "keys", "they belong to --intervention human")
        if args.replay:
            raise InputError(
                "--replay: a person at the keys was there, which is --intervention human"
            )
        return
    unused(typed, names, "you are the expert")
    if args.cuda:
        raise InputError("--intervention human learns on the CPU, where a run repeats to the bit")
    if not args.replay:
        require_screen()


def record_demonstrations(env, args):
    """args.record_demos episodes that a person drives, in a run's folder and as a local Minari dataset.

    env as for Person. Returns options that go on in this folder with this dataset. An episode that is given up does not
    count. Raises InputError.
    """
    person, driven, number = Person(env, args, demonstrates=True), 0, 0
    folder, _ = open_run(args)
    while driven < args.record_demos:
        obs, _ = person.reset(seed=seed_for(args.seed, 3, number))
        ended, number = False, number + 1
        while not ended:
            person.check(obs, None)
            given_up = person.line["given_up"]
            obs, _, terminated, truncated, _ = person.step(person.act(obs)[0].numpy())
            ended = terminated or truncated
        if not given_up:
            driven += 1
        print(f"{driven} of {args.record_demos} demonstrations are recorded in {folder}")
    dataset_id = export(folder, args.env_id, args.max_episode_steps)
    print(f"as a dataset: --dataset-id {dataset_id}")
    return replace(args, resume=str(folder), dataset_id=dataset_id, demo_episodes=driven)
