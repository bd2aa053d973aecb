#!/usr/bin/env python3
"""Exports 50 series of table metric, judges them with STL and MAD, and prints what that took as psql does.

usage: stl_mad.py robust|plain
"""
import io
import subprocess
import sys
import time

import numpy
import pandas
from statsmodels.tsa.seasonal import STL

started = time.perf_counter()
exported = subprocess.run(
    ["psql", "-X", "-q", "-c", "COPY (SELECT * FROM metric WHERE series < 50 ORDER BY series, at) TO STDOUT (FORMAT csv)"],
    check=True, capture_output=True, text=True,
).stdout
rows = pandas.read_csv(io.StringIO(exported), names=["series", "at", "value"])
found = 0
for _, series in rows.groupby("series"):
    left_over = STL(series.value.to_numpy(), period=24, robust=sys.argv[1] == "robust").fit().resid
    distance = left_over - numpy.median(left_over)
    found += int((numpy.abs(distance) > 3.5 * 1.4826 * numpy.median(numpy.abs(distance))).sum())
print(f"Time: {1000 * (time.perf_counter() - started):.3f} ms")
print(f"@fact found {found} of {len(rows)}")
