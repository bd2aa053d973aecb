"""Adjusted p of Benjamini and Yekutieli as statsmodels has them: error_rate.py > error_rate.csv (statsmodels 0.14).

Each line: number of tests; p of those that are not 1; their adjusted p.
"""
import random

from statsmodels.stats.multitest import fdrcorrection

print("# tests;p;adjusted p: made by error_rate.py")
random.seed(1)
for tests, small in [(1, 1), (5, 5), (20, 3), (200, 8), (1000, 40), (10000, 5)]:
    p = [10 ** -random.uniform(0, 7) for _ in range(small)]
    if small > 4:
        p[3] = p[2]
    adjusted = fdrcorrection(p + [1.0] * (tests - small), method="n")[1][:small]
    print(tests, " ".join(map(repr, p)), " ".join(repr(float(q)) for q in adjusted), sep=";")
