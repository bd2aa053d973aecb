#!/usr/bin/env python3
"""Exports table measured, scores its rows with scikit-learn's IsolationForest on one core, writes the scores to table scored,
and prints what that took as psql does."""
import io
import os
import subprocess
import time

os.environ["OMP_NUM_THREADS"] = "1"

import pandas
from sklearn.ensemble import IsolationForest


def psql(command, text=None):
    arguments = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", command]
    return subprocess.run(arguments, input=text, check=True, stdout=subprocess.PIPE, text=True).stdout


started = time.perf_counter()
exported = psql("COPY measured TO STDOUT (FORMAT csv)")
rows = pandas.read_csv(io.StringIO(exported), header=None)
read = time.perf_counter()
numbers = rows.iloc[:, 1:].to_numpy(dtype="float32")
forest = IsolationForest(n_estimators=100, max_samples=256, random_state=1, n_jobs=1).fit(numbers)
scores = -forest.score_samples(numbers)
scored = time.perf_counter()
psql("CREATE TABLE scored (id integer, score double precision)")
psql("COPY scored FROM STDIN (FORMAT csv)", pandas.DataFrame({"id": rows[0], "score": scores}).to_csv(header=False, index=False))
done = time.perf_counter()
print(f"Time: {1000 * (done - started):.3f} ms")
for what, seconds in ("export", read - started), ("fit_and_score", scored - read), ("write_back", done - scored):
    print(f"@fact {what} {seconds:.2f} s")
