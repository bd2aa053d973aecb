"""Makes isolation_forest.csv: scores of scikit-learn's IsolationForest with 1,000 trees for the first 100 rows
of five generated sets (forest.rs generates the same), and the rank correlation of two seeds.

usage: python isolation_forest.py > isolation_forest.csv     (scikit-learn 1.9.1, scipy 1.17.1)
"""
import numpy as np
from scipy.stats import spearmanr
from sklearn.ensemble import IsolationForest

MASK = (1 << 64) - 1
ROWS, SHOWN = 1000, 100


class Rng:
    """SplitMix64."""

    def __init__(self, seed):
        self.state = seed

    def uniform(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (((z ^ (z >> 31)) >> 11) + 0.5) / (1 << 53)


def row(set_, rng):
    u = lambda: rng.uniform()
    bell = lambda: u() + u() + u() + u() - 2.0
    if set_ == 0:
        return [bell() for _ in range(3)]
    if set_ == 1:
        x = bell()
        return [x, x + 0.1 * bell()]
    if set_ == 2:
        far = 3.0 if u() < 0.05 else 0.0
        return [bell() + far for _ in range(8)]
    if set_ == 3:
        return [1.0 / (0.01 + u()) for _ in range(4)]
    return [float(int(5.0 * u())), u(), bell(), float(int(3.0 * u()))]


print("set,correlation_of_two_seeds,scores")
for s in range(5):
    rng = Rng(1000 + s)
    x = np.array([row(s, rng) for _ in range(ROWS)])
    scores = [
        -IsolationForest(n_estimators=1000, max_samples=256, random_state=r).fit(x).score_samples(x)[:SHOWN]
        for r in (1, 2)
    ]
    rho = spearmanr(*scores).statistic
    print(f"{s},{rho:.5f}," + " ".join(f"{v:.5f}" for v in scores[0]))
