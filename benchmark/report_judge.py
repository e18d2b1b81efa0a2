"""The tables of benchmark/judge.py and sharpen.py: is the judge any good?"""

import judge
import numpy as np
from scipy import stats
from tables import markdown, read

ALPHAS = 0.9, 0.95, 0.975, 0.99, 0.995  # of rlif_rlpd.py's person; the last is its default


def resampled(judged, statistic, draws=2000):
    """A statistic of rows (n,), and the limits of its 95 % bootstrap interval over the novices' episodes."""
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(judged.episode == episode) for episode in np.unique(judged.episode)]
    values = []
    for _ in range(draws):
        chosen = rng.integers(len(rows), size=len(rows))
        values.append(statistic(np.concatenate([rows[i] for i in chosen])))
    return (statistic(np.arange(len(judged.episode))), *np.nanpercentile(values, (2.5, 97.5)))


def spearman(x, y):
    """The rank correlation of two arrays (n,); nan where all values of one are equal."""
    ranks = stats.rankdata(x), stats.rankdata(y)
    return np.corrcoef(*ranks)[0, 1] if min(np.ptp(rank) for rank in ranks) else np.nan


def rank_correlation(judged):
    """Spearman's, of the gap by Q and the true gap, and the limits of its 95 % interval."""
    q_gap, gap = judged.q_gap, judged.gaps.mean(1)
    return resampled(judged, lambda rows: spearman(q_gap[rows], gap[rows]))


def agreement(one, other):
    """The rank correlation of two true gaps of the same states, and the limits of its 95 % interval.

    Rollouts of the same number have the same noise, so even ones are compared with odd ones, and odd ones with even.
    """
    even, odd = one.gaps[:, ::2].mean(1), one.gaps[:, 1::2].mean(1)  # (S,)
    other_even, other_odd = other.gaps[:, ::2].mean(1), other.gaps[:, 1::2].mean(1)

    def correlation(rows):
        first, second = spearman(even[rows], other_odd[rows]), spearman(odd[rows], other_even[rows])
        return (first + second) / 2

    return resampled(one, correlation)


def attainable(judged):
    """The rank correlation that a judge who knows the truth would have with these noisy returns.

    The square root of their reliability, by Spearman and Brown's formula from that of two halves of the rollouts.
    """
    parts = judged.gaps[:, ::2].mean(1), judged.gaps[:, 1::2].mean(1)
    half = max(0.0, spearman(*parts))
    return np.sqrt(2 * half / (1 + half))


def judge_rates(judged, alpha):
    """Of a threshold: flagged / bad / flagged if bad / bad if flagged / better if flagged, in %."""
    flagged, bad, bad_if_flagged, flagged_if_bad = judge.rates(
        judged.flagged(alpha), judged.bad(alpha)
    )
    better_if_flagged = judge.rates(judged.flagged(alpha), judged.better(alpha))[2]
    shares = flagged, bad, flagged_if_bad, bad_if_flagged, better_if_flagged
    return " / ".join("-" if np.isnan(share) else f"{share:.0f}" for share in shares)


def excess(judged, alpha):
    """How much more often a flagged proposal is bad than another, in points of %, and the limits of its interval."""
    flagged, bad = judged.flagged(alpha), judged.bad(alpha)

    def difference(rows):
        both = bad[rows][flagged[rows]], bad[rows][~flagged[rows]]
        return 100 * (both[0].mean() - both[1].mean()) if min(map(len, both)) else np.nan

    return resampled(judged, difference)


def gap_cells(judged):
    """What is known of the two gaps, and of Q itself, for a table."""
    gaps = judged.gaps.mean(1)  # (S,)
    errors = stats.sem(judged.gaps, axis=1)  # (S,)
    values = judged.reference.mean(1)  # (S,), G(s, a_ref)
    yield f"{len(gaps)}"
    yield "{:.2f} ({:.2f} to {:.2f})".format(*rank_correlation(judged))
    yield f"{attainable(judged):.2f}"
    yield f"{np.median(np.abs(gaps)):.1f} ± {np.median(errors):.1f}"
    flagged = judged.flagged(ALPHAS[-1])
    for chosen in (flagged, ~flagged):
        if not chosen.any():
            yield "-"
            continue
        shown = resampled(judged.part(chosen), lambda rows: gaps[chosen][rows].mean())
        yield "{:.1f} ({:.1f} to {:.1f})".format(*shown)
    others = flagged.any() and not flagged.all()
    yield "{:.0f} ({:.0f} to {:.0f})".format(*excess(judged, ALPHAS[-1])) if others else "-"
    yield f"{np.mean(values):.0f}"
    yield f"{np.mean(judged.q_reference - values):+.0f}"
    yield f"{np.corrcoef(judged.q_reference, values)[0, 1]:.2f}"


def judge_tables(results):
    """Two Markdown tables: the gap of a reference's Q and the true gap; what is flagged, and what is bad."""
    gaps, flags = [], []
    for env_id in judge.TASKS:
        for level in judge.references(env_id):
            paths = [results / "judge" / f"{env_id}-{level}-{name}.csv" for name in judge.NOVICES]
            parts = {
                name: judge.read(path) for name, path in zip(judge.NOVICES, paths) if path.exists()
            }
            if parts:
                parts = {"all": judge.together(list(parts.values()))} | parts
            for name, judged in parts.items():
                gaps.append([f"{env_id}, {level}", name, *gap_cells(judged)])
                rates = [judge_rates(judged, alpha) for alpha in ALPHAS]
                flags.append([f"{env_id}, {level}", name, *rates])
    header = ["gaps: task, judge", "novice", "states", "rank correlation", "attainable"]
    header += ["true gap, median", "mean if flagged", "mean if not", "bad: if flagged − if not (%)"]
    header += ["G", "Q − G", "correlation of Q and G"]
    names = ["flags: task, judge", "novice", *(f"α = {alpha}" for alpha in ALPHAS)]
    return markdown(header, gaps), markdown(names, flags)


def blur_table(results):
    """A Markdown table: is the true gap another one a little beside the state?"""
    header = ["beside the state: task, judge", "novice", "in the state: with the gap"]
    for blur in judge.BLURS:
        header += [f"blur {blur:g}: with the gap", "with Q's gap", "attainable"]
    rows = []
    for env_id in judge.BLURRED:
        stages = {name: results / "judge" / f"{env_id}-top-{name}" for name in judge.NOVICES}
        for name, chosen in ({"all": list(judge.NOVICES)} | {n: [n] for n in stages}).items():
            exact = judge.together([judge.read(f"{stages[n]}.csv") for n in chosen])
            cells = [f"{env_id}, top", name]
            cells.append("{:.2f} ({:.2f} to {:.2f})".format(*agreement(exact, exact)))
            for blur in judge.BLURS:
                files = [f"{stages[n]}-blur-{blur}.csv" for n in chosen]
                blurred = judge.together([judge.read(path) for path in files])
                for correlation in (agreement(exact, blurred), rank_correlation(blurred)):
                    cells.append("{:.2f} ({:.2f} to {:.2f})".format(*correlation))
                cells.append(f"{attainable(blurred):.2f}")
            rows.append(cells)
    return markdown(header, rows)


def sharpen_table(results):
    """A Markdown table: what critics that were fitted to comparisons know."""
    rows = []
    for row in read(results / "judge" / "sharpened.csv"):
        cells = [row["attempt"], row["states"], row["learned"] or "-", row["held_out"]]
        cells[2:] = [cell if cell == "-" else f"{float(cell):.2f}" for cell in cells[2:]]
        for name in (*judge.NOVICES, "all"):
            shown = [float(row[name + end]) for end in ("", "_low", "_high")]
            cells.append("{:.2f} ({:.2f} to {:.2f})".format(*shown))
        rows.append(cells)
    header = ["critics of Walker2d-v5, top", "states", "learned", "held out"]
    return markdown([*header, *judge.NOVICES, "all"], rows)


def all_tables(results):
    """The Markdown tables made here."""
    return [*judge_tables(results), blur_table(results), sharpen_table(results)]
