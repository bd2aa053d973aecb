#!/usr/bin/env python3
"""Runs strategies over the sets of a quality folder, inside PostgreSQL, and has them scored.

Expects a server with the extension in the environment (PGHOST ...); `run` starts one.

usage: runner.py --strategy NAME [--strategy NAME]... --data DIR [--out DIR] [--set SET]... [--table NAME]... [--core CSV]
"""
import argparse
import csv
import datetime
import io
import json
import os
import subprocess
import sys
import time

import numpy
import pandas

SETS = ("nab", "tsbad", "dq", "adbench")
MICROSECOND = datetime.timedelta(microseconds=1)
# The severity that the extension calls critical, alike for every strategy.
CRITICAL = 3.0


def psql(sql, stdin=None):
    """The output of SQL text that may begin with a COPY FROM STDIN, whose data is `stdin`."""
    command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-c", sql]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"psql: {done.stderr.strip()}\nin: {sql[:2000]}")
    return done.stdout


def copy_in(table, columns, rows):
    """Loads rows (None is NULL) through COPY; `columns` is SQL."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    psql(f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} ({columns})")
    psql(f"COPY {table} FROM STDIN (FORMAT csv)", text.getvalue())
    psql(f"ANALYZE {table}")


def copy_out(query):
    return pandas.read_csv(io.StringIO(psql(f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER)")))


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def detect(source, strategy, entity=None):
    """FROM item: the verdicts of the extension's causal replay, with its default settings."""
    options = f"value => 'value', at => 'at', strategy => {literal(strategy)}"
    if entity:
        options += f", entity => {literal(entity)}"
    return f"detect_anomalies({literal(source)}, {options})"


class Scorer:
    """The scoring programs of the quality folder."""

    def __init__(self, data):
        self.folder = os.path.join(data, "scripts")

    def run(self, script, *arguments):
        command = [sys.executable, os.path.join(self.folder, script), *map(str, arguments)]
        sys.stdout.flush()
        done = subprocess.run(command)
        if done.returncode != 0:
            raise SystemExit(f"{script} ended with {done.returncode}")


# --- NAB ---------------------------------------------------------------------------------------------


def strictly_increasing(stamps):
    """The stamps, moved on by microseconds where the file repeats or steps back (clock changes), so
    that the order of time is the order of the file and each row has an instant of its own."""
    last = None
    for stamp in stamps:
        at = datetime.datetime.fromisoformat(stamp)
        if last is not None and at <= last:
            at = last + MICROSECOND
        last = at
        yield at


def read_nab_series(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    ats = strictly_increasing(row["timestamp"] for row in rows)
    return [(at.isoformat(), row["timestamp"], row["value"]) for at, row in zip(ats, rows)]


def nab_subset(data, names, windows, out):
    """Arguments that make the scorer use exactly these series and compare with published results on them."""
    baselines = os.path.join(data, "baselines", "nab.json")
    split = os.path.join(data, "baselines", "split.json")
    listed = os.path.join(out, "nab_files.txt")
    with open(listed, "w") as file:
        file.writelines(name + "\n" for name in names)
    arguments = ["--files", listed]
    if not os.path.exists(baselines):
        return arguments + ["--baselines", ""]
    with open(baselines) as file:
        published = json.load(file)["reproduced"]
    subset = "full"
    if os.path.exists(split):
        with open(split) as file:
            halves = json.load(file).get("nab", {})
        subset = next((k for k, v in halves.items() if sorted(v) == sorted(names)), subset)
    # The scorer takes a label file that names only these series for that of the full corpus, and would
    # show the full corpus's results beside ours.
    own = os.path.join(out, "nab_published.json")
    rows = published.get(subset, {} if len(names) == len(windows) else published["full"])
    with open(own, "w") as file:
        json.dump({"reproduced": {"full": rows}}, file)
    print(f"published results below: {subset}")
    return arguments + ["--baselines", own]


def run_nab(strategy, data, out, scorer):
    """Each series by itself, from its first row on; the score of a row rests on the rows before it."""
    root = os.path.join(data, "data", "nab")
    labels = os.path.join(root, "labels", "combined_windows.json")
    with open(labels) as file:
        windows = json.load(file)
    names = [name for name in windows if os.path.exists(os.path.join(root, name))]
    series = {name: read_nab_series(os.path.join(root, name)) for name in names}
    copy_in(
        "nab",
        "series text, row int, at timestamp, stamp text, value float8",
        ((name, i, *row) for name in names for i, row in enumerate(series[name])),
    )
    differing = 0
    for name in names:
        source = f"SELECT at, value FROM nab WHERE series = {literal(name)}"
        half = len(series[name]) // 2
        scores = copy_out(
            f"""SELECT n.stamp AS timestamp, d.status, d.deviation, h.deviation AS deviation_of_half
            FROM nab n
            LEFT JOIN {detect(source, strategy)} d ON d.at = n.at AT TIME ZONE 'UTC'
            LEFT JOIN {detect(f'{source} AND row < {half}', strategy)} h
                ON h.at = n.at AT TIME ZONE 'UTC'
            WHERE n.series = {literal(name)} ORDER BY n.row"""
        )
        if len(scores) != len(series[name]):
            raise SystemExit(f"{name}: {len(scores)} verdicts for {len(series[name])} rows")
        # What comes later must not change what was said before.
        differing += int((scores.deviation[:half] != scores.deviation_of_half[:half]).sum()
                         - (scores.deviation[:half].isna() & scores.deviation_of_half[:half].isna()).sum())
        # Monotone in deviation and the same for every series; a point that was not judged is unremarkable.
        judged = ~scores.status.str.startswith("warming", na=True) & scores.deviation.notna()
        scores["anomaly_score"] = numpy.where(
            judged, scores.deviation / (1 + scores.deviation), 0.0
        )
        path = os.path.join(out, "nab", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        scores[["timestamp", "anomaly_score"]].to_csv(path, index=False, float_format="%.17g")
    rows = sum(len(series[name]) // 2 for name in names)
    print(f"causality: {differing} of {rows} rows get another score when their series ends half-way")
    scorer.run(
        "nab_score.py", os.path.join(out, "nab"), "--labels", labels, "--name", strategy,
        "--json", os.path.join(out, "nab.json"), *nab_subset(data, names, windows, out),
    )
    return differing == 0


# --- TSB-AD ------------------------------------------------------------------------------------------


def run_tsbad(strategy, data, out, scorer):
    """Series without times: one point a minute. Judged causally from the first row on."""
    for part in sorted(os.listdir(os.path.join(data, "data", "tsbad"))):
        folder = os.path.join(data, "data", "tsbad", part)
        if not os.path.isdir(folder):
            continue
        names = sorted(name for name in os.listdir(folder) if name.endswith(".csv"))
        rows = []
        for name in names:
            with open(os.path.join(folder, name), newline="") as file:
                rows += [(name, i, row["Data"]) for i, row in enumerate(csv.DictReader(file))]
        copy_in("tsbad", "series text, row int, value float8", rows)
        scores_folder = os.path.join(out, "tsbad", part)
        os.makedirs(scores_folder, exist_ok=True)
        at = "timestamptz '2020-01-01 00:00Z' + row * interval '1 minute'"
        for name in names:
            source = f"SELECT {at} AS at, value FROM tsbad WHERE series = {literal(name)}"
            copy_out(
                f"""SELECT CASE WHEN d.status LIKE 'warming%' THEN 0 ELSE coalesce(d.deviation, 0) END
                    AS anomaly_score
                FROM tsbad t LEFT JOIN {detect(source, strategy)} d ON d.at = {at}
                WHERE t.series = {literal(name)} ORDER BY t.row"""
            ).to_csv(os.path.join(scores_folder, name), index=False)
        published = os.path.join(data, "baselines", "tsbad_published.json")
        if not os.path.exists(published):
            print("NOTICE: no baselines/tsbad_published.json: nothing to compare with")
            published = os.path.join(out, "tsbad_published.json")
            with open(published, "w") as file:
                json.dump({"uni_per_file_vus_pr": {}}, file)
        result = os.path.join(out, f"tsbad_{part}.json")
        scorer.run(
            "tsbad_score.py", scores_folder, "--data", folder, "--published", published,
            "--name", strategy, "--json", result,
        )
        with open(result) as file:
            found = json.load(file).values()
        print(f"{strategy}: mean VUS-PR {numpy.mean([f['vus_pr'] for f in found]):.4f}, "
              f"VUS-ROC {numpy.mean([f['vus_roc'] for f in found]):.4f} over {len(found)} series")
    return True


# --- dirty and clean tables --------------------------------------------------------------------------


def numbers(column):
    """The column as numbers, or None if fewer than 80 % of its filled cells (or fewer than 5) are."""
    values = pandas.to_numeric(column, errors="coerce").to_numpy(float)
    filled = max((column != "").sum(), 1)
    return values if numpy.isfinite(values).sum() >= max(5, 0.8 * filled) else None


def run_dq(strategy, data, out, scorer):
    """Rows of a table have no times and all are there at once, so each numeric column is replayed twice:
    the first pass is the history that the second is judged by. Only cells of numeric columns get scores."""
    os.makedirs(os.path.join(out, "dq"), exist_ok=True)
    root = os.path.join(data, "data", "dq")
    for part in sorted(os.listdir(root)):
        if not os.path.isdir(os.path.join(root, part)):
            continue
        cells, columns, rows = [], 0, {}
        for table in sorted(os.listdir(os.path.join(root, part))):
            path = os.path.join(root, part, table, "dirty.csv")
            if not os.path.exists(path):
                continue
            dirty = pandas.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="replace")
            for number in range(dirty.shape[1]):
                values = numbers(dirty.iloc[:, number])
                if values is None:
                    continue
                rows[table] = len(values)
                columns += 1
                cells += [
                    (table, number, row, repr(float(value)))
                    for row, value in enumerate(values)
                    if numpy.isfinite(value)
                ]
        copy_in("dq", '"table" text, col int, row int, value float8', cells)
        scored = []
        for table, count in rows.items():
            at = f"timestamptz '2020-01-01 00:00Z' + (pass * {count} + row) * interval '1 minute'"
            source = f"""SELECT {at} AS at, value, col FROM dq, generate_series(0, 1) AS pass
                WHERE "table" = {literal(table)}"""
            scored.append(copy_out(
                f"""SELECT t."table", t.row, t.col, d.deviation AS score,
                    (d.deviation >= {CRITICAL})::int AS flag
                FROM dq t JOIN {detect(source, strategy, 'col')} d
                    ON d.entity = t.col::text AND d.at = {at.replace('pass', '1')}
                WHERE t."table" = {literal(table)} AND d.status = 'ok' ORDER BY t.col, t.row"""
            ))
        path = os.path.join(out, "dq", part + ".csv")
        pandas.concat(scored).to_csv(path, index=False)
        judged = sum(map(len, scored))
        print(f"{part}: {judged} of {len(cells)} numeric cells in {columns} columns were judged, "
              "the others are in columns too short to be")
        scorer.run(
            "dq_score.py", path, "--part", part, "--data", root, "--name", strategy,
            "--json", os.path.join(out, "dq.json"),
        )
    return True


# --- ADBench -----------------------------------------------------------------------------------------


# Options of the aggregate by strategy. Tables have no time: a model is trained on all rows and scores all.
OF_TABLES = {
    "isolation_forest": {},
    "learning_isolation_forest": {},
    "auto": {"variant": "auto"},
    "hybrid_auto": {"variant": "auto"},
}
SEEDS = 3


def rank_correlation(a, b):
    """Spearman's, ties having their mean rank."""
    ranks = [pandas.Series(x).rank().to_numpy() for x in (a, b)]
    if min(map(numpy.ptp, ranks)) == 0:
        return float(max(map(numpy.ptp, ranks)) == 0)
    return float(numpy.corrcoef(*ranks)[0, 1])


def beside_core(scores, path):
    """How far the order of the rows is that of the core's own scores of the same tables and seeds."""
    keys = ["dataset", "seed", "row"]
    core = pandas.read_csv(path, dtype={"dataset": str})
    both = scores.merge(core, on=keys, suffixes=("", "_of_core"))
    if both.empty:
        print(f"NOTICE: nothing in {path} to compare with")
        return
    each = {
        name: rank_correlation(group.score, group.score_of_core)
        for name, group in both.groupby(["dataset", "seed"])
    }
    worst = min(each, key=each.get)
    print(f"beside the core: least rank correlation of {len(each)} is {each[worst]:.6f} ({worst[0]}, seed {worst[1]})")


def run_adbench(strategy, data, out, scorer, tables=None, core=None):
    """Each table is trained on without labels and all of its rows are scored, by the aggregate, with three seeds."""
    if strategy not in OF_TABLES:
        print(f"NOTICE: adbench was not run: {strategy} judges points in the order of time, and these tables have no "
              f"times; {', '.join(OF_TABLES)} can be run")
        return True
    root = os.path.join(data, "data", "adbench")
    names = sorted(name[:-4] for name in os.listdir(root) if name.endswith(".npz"))
    for name in set(tables or []) - set(names):
        raise SystemExit(f"no table {name} in {root}")
    scored, seconds = [], 0.0
    for name in [name for name in names if not tables or name in tables]:
        # without the labels, which are beside the rows in the file
        rows = numpy.asarray(numpy.load(os.path.join(root, name + ".npz"), allow_pickle=True)["X"], float)
        columns = [f"f{i + 1}" for i in range(rows.shape[1])]
        copy_in(
            "adbench",
            '"row" int, ' + ", ".join(f"{column} float8" for column in columns),
            ([i, *(None if numpy.isnan(x) else repr(float(x)) for x in row)] for i, row in enumerate(rows)),
        )
        features = f"ARRAY[{', '.join(columns)}]"
        start = time.monotonic()
        for seed in range(SEEDS):
            options = json.dumps({**OF_TABLES[strategy], "random_state": seed})
            # one process reads the rows in their order, so that the sample is the same each time
            psql(f"""SET max_parallel_workers_per_gather = 0; DROP TABLE IF EXISTS adbench_model;
                CREATE TABLE adbench_model AS
                SELECT isolation_forest({features}, {literal(options)}) AS model FROM adbench""")
            scored.append(copy_out(
                f"""SELECT {literal(name)} AS dataset, "row", anomaly_deviation(model, {features}) AS score,
                    {seed} AS seed FROM adbench, adbench_model ORDER BY "row\""""
            ))
        seconds += time.monotonic() - start
    scores = pandas.concat(scored)
    path = os.path.join(out, "adbench.csv")
    scores.to_csv(path, index=False, float_format="%.17g")
    print(f"{len(scores)} scores, trained and read back in {seconds:.1f} s")
    if core:
        beside_core(scores, core)
    scorer.run(
        "adbench_score.py", path, "--data", root, "--baselines", os.path.join(data, "baselines"),
        "--name", strategy, "--json", os.path.join(out, "adbench.json"),
    )
    return True


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strategy", action="append", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", default="bench/out/quality")
    parser.add_argument("--set", action="append", choices=SETS)
    parser.add_argument("--table", action="append", help="only these tables of adbench")
    parser.add_argument("--core", help="scores of adbench that the core gave, to compare with")
    arguments = parser.parse_args()
    scorer = Scorer(arguments.data)

    def run_tables(*rest):
        return run_adbench(*rest, tables=arguments.table, core=arguments.core)

    runners = {"nab": run_nab, "tsbad": run_tsbad, "dq": run_dq, "adbench": run_tables}
    causal = True
    for strategy in arguments.strategy:
        for name in arguments.set or SETS:
            print(f"\n=== {strategy}: {name}", flush=True)
            if not os.path.isdir(os.path.join(arguments.data, "data", name)):
                print(f"NOTICE: {name} was not run: no data/{name} in the folder")
                continue
            out = os.path.join(arguments.out, strategy)
            os.makedirs(out, exist_ok=True)
            causal &= runners[name](strategy, arguments.data, out, scorer)
    if not causal:
        sys.exit("scores depend on rows that come later: the NAB table does not count")


if __name__ == "__main__":
    main()
