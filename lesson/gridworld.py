"""Why interventions can teach more than the one who intervenes: a grid, solved exactly.

    python lesson/gridworld.py    # draws lesson/figures/*.png, says where curves are above 0

Nothing is sampled or learned: each policy is what a method ends with after infinite data, found by
dynamic programming. "Alg. 2", "Eq. 1": RLIF, Luo et al., ICLR 2024, arXiv:2311.12996.
The task: from S walk to G (reward 1), then on from S. X is the floor, where who falls stays. P, r,
gamma, mu (here the start S) as in the paper; pi_exp acts in a takeover, Q_ref judges, pi_ref =
argmax Q_ref; beta, delta of Eq. 1; k steps of a takeover; V*, Q* the optimum's. Shapes: S, A.

What is assumed:
1. The agent has a table; the person's rule and the expert do not change while it learns.
2. A takeover starts at a proposal, by Eq. 1; then the expert acts for k unchecked steps. The state
   is (s, j), with j of them left. Until j = 0 nothing is decided or charged: one matrix power.
3. The -1 counts for the proposal that caused it. Alg. 2 puts it on the transition before, so a
   return has every charge a step earlier, divided by gamma (one at t = 0 is lost).
4. RLIF maximizes the discounted sum of these rewards, takeovers included. RLPD's critic looks one
   step ahead, at the agent's own next action: lesson/README.md, station 4, says what that changes.
5. It is judged without the person, by the true reward. Of actions that are tied for RLIF it draws
   one, each alike; worst() takes the least fortunate.

What follows, derived here (the paper's own theorem may have another form):
(A) Without ends, at beta > 1/2, RLIF's optimum is never flagged, for any pi_exp, k and delta >= 0.
    Some action is unflagged in every state, so with p = 1 - beta every state can have the value
    V0 = p (-1 + gamma^k V0) + (1 - p) gamma V0. One flagged action changes this by
    -(2 beta - 1) (1 + (gamma - gamma^k) V0) < 0.
(B) V*(mu) - V^pi(mu) = E_{s ~ d^pi}[V*(s) - Q*(s, pi(s))] / (1 - gamma). If |Q_ref - Q*| <= eta an
    unflagged action loses at most delta + 2 eta, so this is at most (delta + 2 eta) / (1 - gamma).
(C) DAgger ends with pi_exp, so its gap is the expert's. If a share b of the expert's steps is wrong
    and each of these loses at most D, this is at most b D / (1 - gamma).
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

CLIFF = [".......", ".......", "S.....G", "XXXXXXX"]
BRIDGE = ["XXXXXXXXXXX", "S.........G", "XXXXXXXXXXX"]
MOVES = UP, DOWN, LEFT, RIGHT = (-1, 0), (1, 0), (0, -1), (0, 1)


class World:
    """A grid with walls around it; the floor X keeps, and from G every action leads to S."""

    def __init__(self, rows, gamma=0.99):
        height, width = len(rows), len(rows[0])
        self.gamma, self.cells = gamma, np.array(list("".join(rows)))  # (S,)
        self.start = int(np.flatnonzero(self.cells == "S")[0])
        S = len(self.cells)
        self.P, self.r = np.zeros((S, len(MOVES), S)), np.zeros((S, len(MOVES)))
        for s in range(S):
            for a, (down, right) in enumerate(MOVES):
                row = min(max(s // width + down, 0), height - 1)
                to = row * width + min(max(s % width + right, 0), width - 1)
                to = {"X": s, "G": self.start}.get(self.cells[s], to)
                self.P[s, a, to] = 1
                self.r[s, a] = self.cells[to] == "G"
        self.V, self.Q = solve(self.r, gamma * self.P)  # V* (S,), Q* (S, A)

    def step(self, pi):
        """P under a policy: (S, A) -> (S, S)."""
        return np.einsum("sa,sat->st", pi, self.P)

    def value(self, pi):
        """V^pi(mu), without a person, by the true reward."""
        A = np.eye(len(pi)) - self.gamma * self.step(pi)  # (S, S)
        return np.linalg.solve(A, (pi * self.r).sum(1))[self.start]

    def lost(self, pi):
        """The suboptimality gap as a share of the best value, 1 - V^pi(mu) / V*(mu)."""
        return 1 - self.value(pi) / self.V[self.start]


def solve(R, M):
    """V (S,) and Q (S, A) of the optimum of Q = R + M V, by policy iteration, hence exact."""
    pi, S = R.argmax(1), np.arange(len(R))
    while True:
        V = np.linalg.solve(np.eye(len(R)) - M[S, pi], R[S, pi])
        Q = R + M @ V
        if (Q.max(1) <= Q[S, pi] + 1e-9).all():
            return V, Q
        pi = np.where(Q.max(1) > Q[S, pi] + 1e-9, Q.argmax(1), pi)


def expert(world, b):
    """pi_exp: a share b of the steps is DOWN, towards the floor, by habit; the others are best."""
    pi = b * np.eye(len(MOVES))[np.full(len(world.V), MOVES.index(DOWN))]  # (S, A)
    pi[np.arange(len(pi)), world.Q.argmax(1)] += 1 - b
    return pi


def person(Q_ref, delta=0.0, beta=0.95):
    """Eq. 1: P(a takeover starts | s, a), (S, A)."""
    flagged = Q_ref.max(1, keepdims=True) > Q_ref + delta + 1e-9
    return np.where(flagged, beta, 1 - beta)


def dagger(world, pi_exp):
    """DAgger's fixed point: clone the expert where the clone has been, until nothing is new."""
    pi = np.full_like(pi_exp, 1 / len(MOVES))
    labelled = np.zeros(len(pi), dtype=bool)
    while True:
        A = np.eye(len(pi)) - world.gamma * world.step(pi).T  # (S, S)
        visited = np.linalg.solve(A, np.eye(len(pi))[world.start]) > 1e-12  # (S,)
        if not (visited & ~labelled).any():
            return pi
        labelled |= visited
        pi[labelled] = pi_exp[labelled]


def rlif(world, takeover, pi_exp, k=4, ends=None, noise=0.0):
    """RLIF's optimum: V (S,) in rewards of -1 a takeover, and which actions are optimal, (S, A).

    takeover: P(takeover | s, a), (S, A). ends: {cell: worth} of where episodes end. noise: the
    share of proposals that are random while it learns.
    """
    gamma, S = world.gamma, len(world.V)
    ride = gamma * world.step(pi_exp)
    for cell in ends or {}:  # an end is worth the same whenever in a takeover it is reached
        ride[world.cells == cell] = np.eye(S)[world.cells == cell]
    ride = np.linalg.matrix_power(ride, k)  # (S, S), k steps of the expert: from (s, k) to (s', 0)
    R = -takeover  # (S, A), by assumption 3
    M = takeover[..., None] * ride[:, None] + (1 - takeover[..., None]) * gamma * world.P
    R = (1 - noise) * R + noise * R.mean(1, keepdims=True)
    M = (1 - noise) * M + noise * M.mean(1, keepdims=True)  # (S, A, S)
    for cell, worth in (ends or {}).items():
        R[world.cells == cell], M[world.cells == cell] = worth, 0
    V, Q = solve(R, M)
    return V, Q.max(1, keepdims=True) - Q <= 1e-9


def lost(world, *args, **options):
    """The share that RLIF loses, one of the optimal actions drawn, each alike."""
    _, optimal = rlif(world, *args, **options)
    return world.lost(optimal / optimal.sum(1, keepdims=True))


def worst(world, *args, **options):
    """The share lost by the worst of the policies that are optimal for RLIF."""
    _, optimal = rlif(world, *args, **options)
    V, _ = solve(np.where(optimal, -world.r, -np.inf), world.gamma * world.P)
    return 1 + V[world.start] / world.V[world.start]


def charge(gamma, k):
    """What --termination penalty charges for a fall: takeovers for ever, -1 each."""
    return -1 / (1 - gamma**k)


# --- figures: each returns its x axis and {label: (shares lost, style)} ---------------------------


def over_expert(world):
    """RLIF ends with what the reference finds good, DAgger with what the expert does."""
    bad = np.linspace(0, 1, 101)
    clones = [dagger(world, expert(world, b)) for b in bad]
    likeliest = [np.eye(len(MOVES))[pi.argmax(1)] for pi in clones]
    return 100 * bad, {
        "DAgger, sampled actions": ([world.lost(pi) for pi in clones], "C1"),
        "DAgger, likeliest action": ([world.lost(pi) for pi in likeliest], "C1--"),
        "RLIF": ([lost(world, person(world.Q), expert(world, b)) for b in bad], "C0"),
        "bound (C)": (bad * world.V.max() / (1 - world.gamma) / world.V[world.start], "0.7"),
    }


def over_delta(world):
    """A lax person: delta is what still passes."""
    deltas, pi_exp = np.linspace(0, 0.5, 101), expert(world, 0.05)
    people = [person(world.Q, delta) for delta in deltas]
    return deltas, {
        "RLIF, worst of the ties": ([worst(world, who, pi_exp) for who in people], "C0--"),
        "RLIF, ties drawn": ([lost(world, who, pi_exp) for who in people], "C0"),
        "DAgger, 1 % wrong steps": ([world.lost(expert(world, 0.01))] * 101, "C1"),
        "bound (B)": (deltas / (1 - world.gamma) / world.V[world.start], "0.7"),
    }


def over_reference(world, tables=40):
    """A reference that errs: Q_ref = Q* + eta times a fixed table of numbers in [-1, 1]."""
    etas, pi_exp = np.linspace(0, 0.5, 26), expert(world, 0.05)
    errors = np.random.default_rng(0).uniform(-1, 1, (tables, *world.Q.shape))  # (tables, S, A)
    shares = [[lost(world, person(world.Q + eta * x), pi_exp) for x in errors] for eta in etas]
    return etas, {
        "RLIF, worst of the tables": (np.max(shares, 1), "C0--"),
        f"RLIF, mean of {tables} tables": (np.mean(shares, 1), "C0"),
        "DAgger, 1 % wrong steps": ([world.lost(expert(world, 0.01))] * 26, "C1"),
        "bound (B)": (2 * etas / (1 - world.gamma) / world.V[world.start], "0.7"),
    }


def over_beta(world):
    """An early end that pays: rewards are never positive, so an end that is worth 0 attracts."""
    betas, pi_exp, curves = np.linspace(0.4, 1, 121), expert(world, 0), {}
    falls = {"goes on": {}, "is an end, worth 0": {"X": 0}}
    falls["is charged"] = {"X": charge(world.gamma, 4)}
    for (label, ends), style in zip(falls.items(), ("C0", "C3--", "C2:")):
        shares = [lost(world, person(world.Q, 0, beta), pi_exp, 4, ends) for beta in betas]
        curves[f"RLIF, a fall {label}"] = shares, style
    return betas, curves


def over_random(world):
    """Decisions at random (a takeover in 20 %) instead of by value say nothing; ends may."""
    parts, pi_exp, curves = np.linspace(0, 1, 101), expert(world, 0.05), {}
    fined = {"X": charge(world.gamma, 4)}
    settings = {"nothing ends": {}, "a fall is an end, worth 0": {"X": 0}}
    settings |= {"a fall is charged": fined, "a fall is charged, G worth 0": fined | {"G": 0}}
    for (label, ends), style in zip(settings.items(), ("C0", "C3--", "C2:", "C4-.")):
        people = [(1 - x) * person(world.Q) + x * 0.2 for x in parts]
        shares = [lost(world, takeover, pi_exp, 4, ends) for takeover in people]
        curves[f"RLIF, {label}"] = shares, style
    return 100 * parts, curves


def over_catch(_, noise=0.4):
    """Being carried over a bridge by a good expert costs 1, walking it with noise more."""
    world, bad = World(BRIDGE), np.linspace(0, 0.015, 151)
    experts = [expert(world, b) for b in bad]
    curves = {"DAgger": ([world.lost(pi_exp) for pi_exp in experts], "C1")}
    for k, style in ((10, "C0--"), (4, "C0"), (1, "C2:")):
        settings = k, {"X": charge(world.gamma, k), "G": 0}, noise
        shares = [lost(world, person(world.Q), pi_exp, *settings) for pi_exp in experts]
        curves[f"RLIF, takeovers of k = {k}"] = shares, style
    return 100 * bad, curves


FIGURES = {
    "expert": (over_expert, "wrong steps of the expert (%)"),
    "delta": (over_delta, "margin δ that the person lets pass"),
    "reference": (over_reference, "largest error η of the reference Q"),
    "beta": (over_beta, "probability β of a takeover where flagged"),
    "random": (over_random, "decisions to take over that are random (%)"),
    "catch": (over_catch, "wrong steps of the expert (%), on the bridge"),
}

if __name__ == "__main__":
    (folder := Path(__file__).parent / "figures").mkdir(exist_ok=True)
    for name, (curves_of, xlabel) in FIGURES.items():
        x, curves = curves_of(World(CLIFF))
        axis = plt.figure(figsize=(6, 3.6), layout="tight").gca()
        for label, (shares, style) in curves.items():
            axis.plot(x, 100 * np.minimum(shares, 1), style, label=label)
            where = x[np.array(shares) > 1e-9]
            where = f"at {where[0]:.4g} to {where[-1]:.4g}" if len(where) else "nowhere"
            print(f"{name:10} {label:38} loses {where}")
        axis.set(xlabel=xlabel, ylabel="share of the best value lost (%)", ylim=(-4, 104))
        axis.legend(fontsize=8)
        plt.savefig(folder / f"{name}.png", dpi=90)
        plt.close()
