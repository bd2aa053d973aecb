#!/usr/bin/env python3
"""What the engine costs and bears, on a running server: the cases of (B), each with its figures and what is owed.

usage: engine.py --out DIR [CASE...]        through bench/run, which starts the server

The server belongs to this program: cases restart it, with and without the library preloaded, and make databases of their own.
SECONDS, DETECTORS, ALERTS override how long and how large a case is; what is owed holds for the defaults.

Exits with 1 if a case failed to run. A figure that misses what is owed is only reported, as in driver.py.
"""
import argparse
import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from driver import COMPARISONS, machine, query

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def size(name, default):
    return int(os.environ.get(name, default))


def script(sql, database, **options):
    """Runs statements in one session, each committed by itself; answers what they print."""
    command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]
    done = subprocess.run(command, input=sql, text=True, capture_output=True, **options)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout.strip()


class Session:
    """A session that stays open beside what is measured."""

    def __init__(self, database, sql):
        self.process = subprocess.Popen(
            ["psql", "-X", "-q", "-d", database], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self.process.stdin.write(sql + "\n")
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def restart(preload=True):
    query("ALTER SYSTEM SET shared_preload_libraries = 'anomaly_detection'" if preload else "ALTER SYSTEM RESET shared_preload_libraries")
    subprocess.run(os.environ["BENCH_RESTART"], shell=True, executable="/bin/bash", check=True, stdout=subprocess.DEVNULL)


def fresh_database(name):
    query(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    query(f"CREATE DATABASE {name}")
    query("CREATE EXTENSION anomaly_detection", name)


def quantile(sample, q):
    """The smallest value with at least the share q at or below it."""
    ranked = sorted(sample)
    return ranked[max(0, math.ceil(len(ranked) * q) - 1)]


def wait_until(sql, database, deadline):
    end = time.time() + deadline
    while query(sql, database) != "t":
        if time.time() > end:
            raise RuntimeError(f"not within {deadline} s: {sql}")
        time.sleep(0.5)


# --- series that detectors watch ------------------------------------------------------------------------

# A table of so many series, a point of each every 100 s with two hours of history, and a procedure that goes on with
# them until it is ended: each second a hundredth of all.
SERIES = """
CREATE TABLE metric (at timestamptz NOT NULL, name integer NOT NULL, value double precision NOT NULL);
INSERT INTO metric
SELECT now() - i * interval '100 seconds', n, 100 + hashint4(i * 1000003 + n) % 1000 / 100.0
  FROM generate_series(72, 1, -1) i, generate_series(0, {series} - 1) n;
CREATE INDEX ON metric (name, at);
ANALYZE metric;
CREATE PROCEDURE feed() LANGUAGE plpgsql AS $$
DECLARE second integer := 0;
BEGIN
    LOOP
        INSERT INTO metric SELECT clock_timestamp(), n, 100 + hashint4(second * 1000003 + n) % 1000 / 100.0
          FROM generate_series(second % 100, {series} - 1, 100) n;
        COMMIT;
        PERFORM pg_sleep(1);
        second := second + 1;
    END LOOP;
END $$;
"""


def detectors(count, owner_count, every):
    """SQL that makes detectors over the series, shared out among roles, and trains them."""
    parts = []
    for owner in range(owner_count):
        parts.append(f"""
DO $$ BEGIN IF to_regrole('owner{owner}') IS NULL THEN CREATE ROLE owner{owner} LOGIN; END IF; END $$;
GRANT SELECT ON metric TO owner{owner};
SET SESSION AUTHORIZATION owner{owner};
SELECT count(*) FROM (SELECT anomaly.create_detector('data_outlier', 'mad', 'metric', source => format('SELECT at, value FROM public.metric WHERE name = %s', n),
    value => 'value', at => 'at', every => '{every}', min_data_points => 30, name => format('d%s', n)) FROM generate_series({owner}, {count} - 1, {owner_count}) n) made;
SELECT count(*) FROM (SELECT anomaly.train(format('d%s', n)) FROM generate_series({owner}, {count} - 1, {owner_count}) n) trained;
RESET SESSION AUTHORIZATION;
""")
    return "".join(parts)


def processor_seconds(pids):
    """User and system time of processes, with that of their children that have ended for the first."""
    total = 0.0
    for place, pid in enumerate(pids):
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        own, children = fields[11:13], fields[13:15]
        total += sum(map(int, children if place == 0 else own)) / CLOCK_TICKS
    return total


# --- the cases ------------------------------------------------------------------------------------------


def fault_s12_dispatch():
    """10,000 detectors of three owners, one in a hundred due each second: how late scans begin, and what the launcher
    and the dispatchers take. A scan's due time is a hundredth of a second after that of the detector before it."""
    count, seconds = size("DETECTORS", 10_000), size("SECONDS", 120)
    database = "dispatch"
    fresh_database(database)
    query(f"ALTER DATABASE {database} SET anomaly_detection.enabled = off")
    script(SERIES.format(series=count) + detectors(count, 3, "100 seconds"), database)
    query("VACUUM ANALYZE", database)
    query(f"""UPDATE anomaly.detector_state SET next_due = date_trunc('second', clock_timestamp()) + interval '10 seconds'
              + substr(detector, 2)::integer * (interval '100 seconds' / {count})""", database)
    query("CREATE TABLE due AS SELECT detector, next_due FROM anomaly.detector_state", database)
    query(f"ALTER DATABASE {database} RESET anomaly_detection.enabled")
    restart()
    with Session(database, "CALL feed();"):
        # from the second at which the first are due
        wait_until("SELECT clock_timestamp() >= min(next_due) FROM due", database, 60)
        with open(os.path.join(query("SHOW data_directory"), "postmaster.pid")) as file:
            postmaster = int(file.readline())
        launcher = int(query("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'anomaly_detection launcher%'"))
        before, began = processor_seconds([postmaster, launcher]), time.time()
        time.sleep(seconds)
        spent, lasted = processor_seconds([postmaster, launcher]) - before, time.time() - began
    lags = script(f"""
        SELECT extract(epoch FROM r.started_at - d.next_due - interval '100 seconds'
               * floor(extract(epoch FROM r.started_at - d.next_due) / 100))
          FROM anomaly.run r JOIN due d USING (detector)
         WHERE r.started_at < (SELECT min(next_due) FROM due) + {seconds} * interval '1 second'
    """, database)
    lags = [float(lag) for lag in lags.splitlines()]
    expected = count / 100 * seconds
    return {
        "figures": {
            "scans": len(lags), "share_of_due": len(lags) / expected, "p50_s": statistics.median(lags), "p99_s": quantile(lags, 0.99),
            "dispatcher_core_share": spent / lasted,
        },
        "owed": [("p99_s", "<=", 1.0), ("share_of_due", ">=", 0.99), ("dispatcher_core_share", "<=", 0.05)],
    }


def transactions_per_second(seconds):
    output = subprocess.run(
        ["pgbench", "-n", "-M", "prepared", "-c", "2", "-j", "1", "-T", str(seconds), "cost"], check=True, capture_output=True, text=True
    ).stdout
    return float(re.search(r"tps = ([0-9.]+)", output)[1])


def fault_r6_cost():
    """pgbench (scale 10, two clients) on a server without the library, with it and nothing to do, and with 100 detectors
    that scan every 10 s a table which grows by ten rows a second. The three take turns, five times."""
    seconds, count = size("SECONDS", 20), size("DETECTORS", 100)
    fresh_database("cost")
    subprocess.run(["pgbench", "-i", "-s", "10", "-q", "cost"], check=True, capture_output=True)
    script(SERIES.format(series=1000) + detectors(count, 1, "10 seconds"), "cost")
    query("ALTER DATABASE cost SET anomaly_detection.enabled = off")
    idle, busy, scans = [], [], 0
    for _ in range(5):
        tps = {}
        for arm in ("without", "idle", "detectors"):
            query(f"ALTER DATABASE cost {'RESET' if arm == 'detectors' else 'SET'} anomaly_detection.enabled {'' if arm == 'detectors' else '= off'}")
            restart(preload=arm != "without")
            query("CHECKPOINT")
            with Session("cost", "CALL feed();"):
                time.sleep(2)
                tps[arm] = transactions_per_second(seconds)
        idle.append(tps["idle"] / tps["without"])
        busy.append(tps["detectors"] / tps["without"])
    scans = int(query("SELECT count(*) FROM anomaly.run WHERE status = 'succeeded' AND kind = 'scan'", "cost"))
    if scans < count:
        raise RuntimeError(f"{scans} scans only: the detectors did not run beside pgbench")
    return {
        "figures": {"scans": scans, "cost_idle": 1 - statistics.median(idle), "cost_detectors": 1 - statistics.median(busy),
                    "each_idle": [round(1 - r, 4) for r in idle], "each_detectors": [round(1 - r, 4) for r in busy]},
        "owed": [("cost_detectors", "<=", 0.03), ("cost_idle", "<=", 0.005)],
    }


def fault_r1_many_alerts():
    """10,000,000 alerts of 1,000 detectors over a year: pages of get_alerts() and acknowledge(), and what emptying the slot
    of a month takes. The rows are put into the table as a scan would have, because a scan of so many takes hours."""
    count = size("ALERTS", 10_000_000)
    database = "alerts"
    fresh_database(database)
    script("SELECT anomaly.create_detector('data_outlier', 'mad', 'm' || n, name => 'd' || n) FROM generate_series(0, 999) n", database)
    # Indexes after the rows: a tenth of the time.
    indexes = script("""SELECT replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') || ';' FROM pg_index JOIN pg_class c ON c.oid = indexrelid
        WHERE indrelid = 'anomaly.alert'::regclass AND NOT indisprimary""", database)
    names = script("""SELECT 'DROP INDEX ' || indexrelid::regclass || ';' FROM pg_index
        WHERE indrelid = 'anomaly.alert'::regclass AND NOT indisprimary""", database)
    script(names, database)
    script(f"""
        SET synchronous_commit = off;
        INSERT INTO anomaly.alert (slot, detector, owner, status, anomaly_type, detection_strategy, severity, entity, metric_name, at, last_at, raised_at, points, peak_at, value,
               expected, lower, upper, deviation, score, p_value, direction, description, model_version)
        SELECT (extract(year FROM at)::integer * 12 + extract(month FROM at)::integer - 1) % 16, 'd' || i % 1000, 'postgres'::regrole,
               CASE WHEN i > {count} - 1000 THEN 'open' ELSE 'resolved' END, 'data_outlier', 'statistical_mad',
               (ARRAY['info','warning','critical','emergency'])[1 + i % 4]::anomaly.severity, 'host' || i % 5000, 'm' || i % 1000, at, at + interval '5 minutes', at, 3, at, i,
               100, 90, 110, 2 + i % 7, 0.99, 0.01, 'above', 'm' || i % 1000 || ' was ' || i || ' instead of 100', 1
          FROM (SELECT i, now() - ({count} - i) * (interval '365 days' / {count}) AS at FROM generate_series(1, {count}) i) a;
    """, database)
    script("SET maintenance_work_mem = '1GB';" + indexes + "VACUUM ANALYZE anomaly.alert;", database)

    def times(sql, repetitions=200):
        """Milliseconds of a statement with another :n each time."""
        lines = "\\timing on\n" + "".join(sql.replace(":n", str(n)) + ";\n" for n in range(repetitions))
        found = [float(ms) for ms in re.findall(r"Time: ([0-9.]+) ms", script(lines, database))]
        return quantile(found[repetitions // 10:], 0.95)

    step = max(1, count // 1000)
    figures = {
        "list_p95_ms": times("SELECT count(*) FROM anomaly.get_alerts()"),
        "page_p95_ms": times(f"SELECT count(*) FROM anomaly.get_alerts(before_id => {count} - :n * {step})"),
        "filter_p95_ms": times("SELECT count(*) FROM anomaly.get_alerts(detector => 'd:n')"),
        "severity_p95_ms": times(f"SELECT count(*) FROM anomaly.get_alerts(severities => '{{emergency}}', start_at => now() - interval '30 days' - :n * interval '1 day')"),
        "entity_p95_ms": times("SELECT count(*) FROM anomaly.get_alerts(entity => 'host:n')"),
        "ack_p95_ms": times(f"SELECT anomaly.acknowledge({count} - :n)"),
    }
    began = time.time()
    query("TRUNCATE anomaly.alert_00", database)
    figures["retention_ms"] = (time.time() - began) * 1e3
    return {"figures": figures, "owed": [(name, "<=", 50) for name in figures if name.endswith("p95_ms")]}


def fault_r2_held_snapshot():
    """Scan workers that claim as fast as they can while a session holds a snapshot for five minutes: the time from one run's
    end to the next one's of the same worker, at the end beside that of the beginning."""
    seconds = size("SECONDS", 300)
    database = "held"
    fresh_database(database)
    query(f"ALTER DATABASE {database} SET anomaly_detection.enabled = off")
    script(SERIES.format(series=1000) + detectors(500, 2, "1 second"), database)
    query(f"ALTER DATABASE {database} RESET anomaly_detection.enabled")
    restart()

    def cycles(seconds):
        """p95 in ms of the time between two ends, and how many runs there were."""
        began = query("SELECT clock_timestamp()", database)
        time.sleep(seconds)
        found = script(f"""SELECT extract(epoch FROM finished_at - lag(finished_at) OVER (PARTITION BY pid ORDER BY finished_at)) * 1000
                             FROM anomaly.run WHERE started_at > '{began}' AND status = 'succeeded'""", database)
        found = [float(ms) for ms in found.splitlines() if ms]
        return quantile(found, 0.95), len(found) / seconds

    with Session(database, "CALL feed();"):
        wait_until("SELECT count(*) > 500 FROM anomaly.run WHERE status = 'succeeded'", database, 120)
        baseline, rate = cycles(20)
        with Session(database, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM metric;"):
            time.sleep(max(0, seconds - 20))
            held, held_rate = cycles(20)
    return {
        "figures": {"baseline_p95_ms": baseline, "claims_per_s": rate, "held_p95_ms": held, "held_claims_per_s": held_rate, "ratio": held / baseline},
        "owed": [("ratio", "<=", 3)],
    }


def replayed(database, series, restarts):
    """Watches generated series as they come, a quarter of an hour of the day at a time, by a detector that its worker
    scans each second, and ends the server at so many random moments; a detector with the same settings that scans the
    whole day at once, undisturbed, is the twin."""
    fresh_database(database)
    script(f"""
        ALTER DATABASE {database} SET anomaly_detection.crash_wait_ms = 300;
        ALTER DATABASE {database} SET anomaly_detection.max_consecutive_failures = 1000;
        CREATE TABLE metric (at timestamptz NOT NULL, entity text NOT NULL, value double precision NOT NULL);
        CREATE TABLE day (LIKE metric);
        CREATE TABLE incident (entity text, first_at timestamptz, last_at timestamptz, kind text);
        \\copy metric FROM '{series}/history.csv' WITH (FORMAT csv, HEADER)
        \\copy day FROM '{series}/day.csv' WITH (FORMAT csv, HEADER)
        \\copy incident FROM '{series}/incidents.csv' WITH (FORMAT csv, HEADER)
        CREATE INDEX ON metric (at);
        CREATE INDEX ON day (at);
        ANALYZE;
        -- settle is how the clock of a detector is put back: to the end of the history, and on from there
        CREATE FUNCTION set_clock(detectors text[], clock timestamptz) RETURNS void LANGUAGE sql AS $$
            UPDATE anomaly.detector SET settle = clock_timestamp() - clock WHERE detector = ANY (detectors) $$;
        SELECT anomaly.create_handler('outside', 'webhook', 'https://example.invalid/', matchers => '{{"detector": "live"}}');
        SELECT anomaly.watch('metric', 'value', 'at', 'entity', name => name, every => every, settle => clock_timestamp() - (SELECT min(at) FROM day) - interval '1 second')
          FROM (VALUES ('live', interval '1 second'), ('twin', '1000 days')) d (name, every);
    """, database)
    began, end = query("SELECT min(at), max(at) + interval '5 minutes' FROM day", database).split("|")
    steps = int(query(f"SELECT extract(epoch FROM timestamptz '{end}' - '{began}') / 900", database).split(".")[0])
    moments = sorted(random.Random(steps).sample(range(1, steps), restarts)) if restarts else []
    for step in range(1, steps + 1):
        clock = f"timestamptz '{began}' + {step} * interval '15 minutes'"
        query(f"""WITH moved AS (INSERT INTO metric SELECT * FROM day WHERE at >= {clock} - interval '15 minutes' AND at < {clock} RETURNING 1)
                  SELECT set_clock('{{live}}', {clock} - interval '1 second') FROM (SELECT count(*) FROM moved) m""", database)
        if step in moments:
            time.sleep(random.random() * 1.5)
            subprocess.run(os.environ["BENCH_RESTART"].replace('restart_cluster "$PGHOST"', 'stop_cluster "$PGHOST" immediate; restart_cluster "$PGHOST" start'),
                           shell=True, executable="/bin/bash", check=True, stdout=subprocess.DEVNULL)
        if step % 4 == 0 or step in moments:
            wait_until(f"SELECT watermark >= {clock} - interval '5 seconds' FROM anomaly.detectors WHERE detector = 'live'", database, 120)
    wait_until(f"SELECT watermark >= timestamptz '{end}' - interval '5 seconds' FROM anomaly.detectors WHERE detector = 'live'", database, 120)
    script(f"SELECT anomaly.disable('live'); SELECT set_clock('{{twin}}', timestamptz '{end}' - interval '1 second'); SELECT anomaly.scan('twin');", database)


def replay_day():
    """A day of 50 incidents over 200 entities, as bench/replay/generate.py makes it, with 20 immediate stops of the server, and
    a day without any incident: which alerts there are, and whether handlers hear of each transition once."""
    folder = tempfile.mkdtemp()
    generate = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "replay", "generate.py"), "--seed", os.environ.get("SEED", "1")]
    subprocess.run([*generate, "--out", folder + "/day"], check=True)
    subprocess.run([*generate, "--quiet", "--out", folder + "/quiet"], check=True)
    replayed("replay", folder + "/day", 20)
    replayed("replay_quiet", folder + "/quiet", 0)
    shutil.rmtree(folder)
    one = lambda sql, database="replay": int(query(sql, database))
    said = "entity, at, last_at, status, severity, points, value, expected, lower, upper, deviation, p_value, reopened"
    overlaps = "FROM incident i JOIN anomaly.alerts a ON a.detector = 'live' AND a.entity = i.entity AND a.at <= i.last_at AND a.last_at >= i.first_at"
    return {
        "figures": {
            "incidents": one("SELECT count(*) FROM incident"),
            "found": one(f"SELECT count(DISTINCT (i.entity, i.first_at)) {overlaps}"),
            "found_more_than_once": one(f"SELECT count(*) FROM (SELECT i.entity, i.first_at {overlaps} GROUP BY 1, 2 HAVING count(*) > 1) m"),
            "alerts_of_none": one(f"SELECT count(*) FROM anomaly.alerts WHERE detector = 'live' AND id NOT IN (SELECT a.id {overlaps})"),
            "runs_cut_short": one("SELECT count(*) FROM anomaly.runs WHERE status = 'crashed'"),
            "differs_from_undisturbed": one(f"""SELECT count(*) FROM (
                (SELECT {said} FROM anomaly.alerts WHERE detector = 'live' EXCEPT ALL SELECT {said} FROM anomaly.alerts WHERE detector = 'twin') UNION ALL
                (SELECT {said} FROM anomaly.alerts WHERE detector = 'twin' EXCEPT ALL SELECT {said} FROM anomaly.alerts WHERE detector = 'live')) d"""),
            "transitions_lost_or_doubled": one("""SELECT count(*) FROM anomaly.alerts a WHERE detector = 'live' AND (
                (SELECT count(*) FROM anomaly.deliveries d WHERE d.alert = a.id AND d.transition = 'opened') <> 1
                OR (SELECT count(*) FROM anomaly.deliveries d WHERE d.alert = a.id AND d.transition = 'resolved') <> (a.status = 'resolved')::int + a.reopened)"""),
            "quiet_day_alerts": one("SELECT count(*) FROM anomaly.alerts WHERE detector = 'live'", "replay_quiet"),
        },
        # at most 3 alerts with a probability of 95 %, where 1 a day is promised
        "owed": [("found", ">=", 50), ("found_more_than_once", "<=", 0), ("differs_from_undisturbed", "<=", 0),
                 ("transitions_lost_or_doubled", "<=", 0), ("quiet_day_alerts", "<=", 3)],
    }


CASES = {case.__name__: case for case in (fault_s12_dispatch, fault_r6_cost, fault_r1_many_alerts, fault_r2_held_snapshot, replay_day)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("cases", nargs="*", help=", ".join(CASES))
    arguments = parser.parse_args()
    chosen = [name for name in CASES if not arguments.cases or any(name.startswith(case) for case in arguments.cases)]
    if not chosen:
        parser.error(f"no such case; there are {', '.join(CASES)}")
    restart()
    facts, failed = machine(), []
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    for name in chosen:
        began, load = time.time(), os.getloadavg()[0]
        try:
            result = CASES[name]()
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"\n{name} failed: {error} {getattr(error, 'stderr', '') or ''}", file=sys.stderr)
            failed.append(name)
            continue
        print(f"\n{name}: load {load:.2f} before; {time.time() - began:.0f} s in all")
        for figure, value in result["figures"].items():
            print(f"  {figure:24} {value:,.4g}" if isinstance(value, (int, float)) else f"  {figure:24} {value}")
        owed = []
        for figure, sign, bar in result["owed"]:
            met = COMPARISONS[sign](result["figures"][figure], bar)
            owed.append({"figure": figure, "sign": sign, "bar": bar, "met": met})
            print(f"  owed: {figure} {sign} {bar:g}  {'met' if met else 'NOT MET'}")
        with open(os.path.join(arguments.out, name + ".json"), "w") as file:
            json.dump({"case": name, "machine": facts, **result, "owed": owed}, file, indent=1)
    if failed:
        sys.exit(f"failed to run: {', '.join(failed)}")


if __name__ == "__main__":
    main()
