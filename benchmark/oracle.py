"""rlif_rlpd.py with a person who knows: a proposal is bad if it turns out so in the simulator.

    python benchmark/oracle.py --env-id AdroitHandPen-v1 --expert middle --intervention-alpha 0.97

Eq. 1 with the truth in place of Q: both actions are played out, with the same noise, and for 50
steps the reference goes on (judge.py). The options are rlif_rlpd.py's; after --resume all of them
are typed again. For the suite `tuning`.
"""

import judge
import numpy as np
from files import command_line  # makes the scripts importable

import rlif_rlpd
from rlif_rlpd import Args

HORIZON = 50  # steps


class Oracle(rlif_rlpd.ValueHuman):
    """Sees into the future of the environment in which the robot learns, by another one like it."""

    def watch(self, env, simulator):
        self.env, self.simulator, self.noise = env, simulator, np.random.default_rng(9)
        simulator.reset(seed=0)

    def is_bad(self, obs, proposal, t):
        """Eq. 1 with G, the discounted rewards that follow, for Q: (1, O), (A,) -> bool."""
        state = judge.save_state(self.env)
        noise = self.noise.standard_normal((HORIZON, len(proposal)), np.float32)
        answer = self.reference.act(obs)[0].numpy()  # (A,), of the reference
        here = self.simulator, [self.reference] * HORIZON, state
        g = judge.true_return(*here, proposal, noise)
        g_reference = judge.true_return(*here, answer, noise)
        margin = (1 - self.args.intervention_alpha) * abs(g_reference)
        return g < g_reference - margin - self.args.intervention_delta


def main(args: Args):
    args.check()
    envs, make_env = [], rlif_rlpd.make_env

    def noted(*given):
        envs.append(make_env(*given))
        return envs[-1]

    def person(*given):
        human = Oracle(*given)
        human.watch(envs[0], make_env(args.env_id))
        return human

    rlif_rlpd.make_env, rlif_rlpd.ValueHuman = noted, person
    rlif_rlpd.main(args)


if __name__ == "__main__":
    command_line(main, __doc__)
