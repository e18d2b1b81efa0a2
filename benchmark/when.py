"""When, how long and how well a person helps: persons with limits, in scripts whose person judges.

    python benchmark/when.py rlif_rlpd --reaction-steps 5
    python benchmark/when.py hg_dagger --intervention value --until-good

The rest of the command line is the script's own; after --resume all of it is typed again. The
table is that of the suite `when`.
"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import torch
import tyro
from files import InputError, command_line  # and the scripts

SCRIPTS = "rlif_rlpd", "hg_dagger", "pvp", "hil_serl"
MAX_ACTION = 0.999  # as in the scripts


@dataclass
class Limits:
    reaction_steps: int = 0  # delay between a flag and the takeover
    takeover_length: int | None = None  # steps; --takeover-steps also sets rlif_rlpd.py's charge
    until_good: bool = False  # a takeover lasts until what the robot proposes is not flagged
    look_every: int = 1  # steps: what is proposed in between is not looked at
    look_until: float = 1.0  # share of the training after which nobody looks; 0: nobody ever does
    error: float = 0.0  # standard deviation of the expert's errors, in size and in direction


class Clock(gym.Wrapper):
    """Knows where training is: t is the step of the episode, total that of the run."""

    t, total = 0, 0

    def reset(self, **options):
        self.t = 0
        return self.env.reset(**options)

    def step(self, action):
        self.t, self.total = self.t + 1, self.total + 1
        return self.env.step(action)


def limited(human, limits, clocks):
    """A script's ValueHuman with these limits; the first of the clocks is where it learns."""

    class Limited(human):
        due, last = None, None  # steps: of the takeover to come, of the last one of control

        def __init__(self, *given):
            super().__init__(*given)  # what a fall costs, too, goes by the script's own takeovers
            self.grace_steps = 0 if limits.until_good else human.grace_steps

        def check(self, obs, proposal, *given):
            """As in the script."""
            t, total = clocks[0].t, clocks[0].total
            if t == 0:
                self.due, self.last = None, None
            # by the run's steps, not by the episode's: its first would be looked at every time
            if total % limits.look_every or total >= limits.look_until * self.args.total_timesteps:
                return False, False, 0
            flagged, started, steps = super().check(obs, proposal, *given)
            if limits.until_good and self.last == t - 1:
                self.last = t if flagged else None
                return flagged, False, int(flagged)
            if started and self.due is None:
                self.due = t + limits.reaction_steps
            if self.due is None or t < self.due:
                return flagged, False, 0
            self.due, self.last = None, t
            length = limits.takeover_length or self.args.takeover_steps
            return flagged, True, 1 if limits.until_good else length

    return Limited


def erring(act, error):
    """What act does, too large or too small and beside the way: (B, O) -> (B, A)."""

    def act_with_errors(obs):
        actions = act(obs)  # (B, A)
        size, way = torch.randn(len(actions), 1), torch.randn_like(actions)
        return (actions + error * (size * actions + way)).clamp(-MAX_ACTION, MAX_ACTION)

    return act_with_errors


def parsed(words):
    """The script, the limits and the script's options of a command line. Raises InputError."""
    if not words or words[0] not in SCRIPTS:
        raise InputError(f"give {', '.join(SCRIPTS)}, then options, not {' '.join(words[:1])!r}")
    script = importlib.import_module(words[0])
    limits, rest = tyro.cli(Limits, args=words[1:], return_unknown_args=True)
    return script, limits, tyro.cli(script.Args, args=rest)


def main():
    (script, limits, args), clocks = parsed(sys.argv[1:]), []
    make_env, load_expert = script.make_env, script.load_expert
    load_demonstrations = script.load_demonstrations
    args.check()
    if args.intervention != "value" or args.single_env:
        raise InputError("these persons need --intervention value and --no-single-env")

    def timed(*given):
        clocks.append(Clock(make_env(*given)))
        if args.resume:
            state = torch.load(Path(args.resume, "checkpoint.pt"), weights_only=True)
            clocks[-1].total = state["global_step"]
        return clocks[-1]

    def load(env_id, level, env, **how):
        policy = load_expert(env_id, level, env, **how)
        if limits.error and not how:  # the one that acts
            policy.act = erring(policy.act, limits.error)
        return policy

    def load_demos(env_id, env, *given):
        return load_demonstrations(env_id, env.env, *given)  # without the clock

    script.make_env, script.load_expert, script.load_demonstrations = timed, load, load_demos
    script.ValueHuman = limited(script.ValueHuman, limits, clocks)
    script.main(args)


if __name__ == "__main__":
    command_line(main, __doc__, args=[])  # main() reads sys.argv itself
