#!/usr/bin/env python3
"""Microseconds per row that scikit-learn's IsolationForest takes, beside the core's, in processor time.

Runs the example forest_speed first; needs scikit-learn. 10 normal features, 100 trees of 256 rows, one core.
"""
import os
import subprocess
import time

os.environ["OMP_NUM_THREADS"] = "1"

import numpy
from sklearn.ensemble import IsolationForest

subprocess.run(["cargo", "run", "--quiet", "--release", "-p", "anomaly-core", "--example", "forest_speed"], check=True)
rows = numpy.random.default_rng(1).standard_normal((250_000, 10)).astype(numpy.float32)
start = time.process_time()
forest = IsolationForest(n_estimators=100, max_samples=256, random_state=1, n_jobs=1).fit(rows[:8000])
training = time.process_time() - start
best = float("inf")
for _ in range(4):
    start = time.process_time()
    forest.score_samples(rows)
    best = min(best, time.process_time() - start)
print(f"scikit-learn training {training:.3f} s, score {1e6 * best / len(rows):.3f} µs/row")
