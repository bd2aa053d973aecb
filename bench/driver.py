#!/usr/bin/env python3
"""Runs benchmark files through psql and reports what they took, as ratios.

usage: driver.py --out DIR BENCHMARK...

A benchmark is bench/BENCHMARK.sql, cut into sections by lines that begin with `-- @`:

  -- @setup                     run once, not timed
  -- @expect TEXT               run once; its output must contain TEXT, else the benchmark failed
  -- @case NAME KEY=VALUE...    timed, once per repetition; the cases of a repetition follow each other, so
                                that a case and what it is compared with see the same machine
  -- @timed                     inside a case: only what follows is timed. Settings are reset between cases
  -- @repetitions N             before the first section; default 5

Keys of a case: rows (how many rows it processes), beside (another case), parallel (yes: several processes work,
and cpu figures are left out), capacity (a case that does the work of `beside` in several sessions at once), owed
("FIGURE <= NUMBER" or "FIGURE >= NUMBER", several with commas between). The figures are ms, cpu_ms (time on a core of
the session's process; a median of ms far above it says that the machine was busy), ns_per_row, rows_per_s, ratio (time
per row over that of `beside`), cpu_ratio (the same of cpu_ms), speedup (1 / ratio), added_us_per_row (time per row less
that of `beside`) and of_capacity (the speedup over
that of `capacity`, which is all that the machine's cores can give). Each is the median over the repetitions; ratios
are taken within each repetition. A case may print `@fact NAME VALUE` lines, which are reported with it.

Each benchmark has a database of its own.

Exits with 1 if something failed to run. A figure that misses what is owed is only reported: timed tests
fail on busy machines.
"""
import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
COMPARISONS = {"<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b}


# Nanoseconds that the session's own process has run for, on Linux; it does not count waiting for a core.
CPU_TIME = "SELECT '@cpu ' || split_part(pg_read_file('/proc/self/schedstat', 0, 100, true), ' ', 1);\n"


class Case:
    def __init__(self, name, keys):
        self.name = name
        self.rows = int(keys["rows"].replace("_", ""))
        self.beside = keys.get("beside")
        self.capacity = keys.get("capacity")
        self.owed = [owed.split() for owed in keys["owed"].split(",")] if "owed" in keys else []
        self.is_parallel = keys.get("parallel") == "yes"
        self.untimed, self.timed = [], []
        self.ms, self.cpu, self.facts = [], [], {}

    def figures(self, cases):
        ms = statistics.median(self.ms)
        found = {
            "ms": ms,
            "ns_per_row": ms * 1e6 / self.rows,
            "rows_per_s": self.rows / ms * 1e3,
        }
        if self.cpu and not self.is_parallel:
            found["cpu_ms"] = statistics.median(self.cpu)
        def ratio(mine, other, others):
            return statistics.median(a * other.rows / (b * self.rows) for a, b in zip(mine, others))

        if self.beside:
            other = cases[self.beside]
            found["ratio"] = ratio(self.ms, other, other.ms)
            found["speedup"] = 1 / found["ratio"]
            found["added_us_per_row"] = statistics.median(
                (a / self.rows - b / other.rows) * 1e3 for a, b in zip(self.ms, other.ms)
            )
            if self.cpu and other.cpu and not self.is_parallel and not other.is_parallel:
                found["cpu_ratio"] = ratio(self.cpu, other, other.cpu)
        if self.capacity:
            other = cases[self.capacity]
            found["of_capacity"] = 1 / ratio(self.ms, other, other.ms)
        return found


class Benchmark:
    def __init__(self, name):
        self.name = name
        self.setup, self.expects, self.cases = [], [], {}
        self.repetitions = 5
        target = []
        with open(os.path.join(HERE, name + ".sql")) as file:
            for number, line in enumerate(file, 1):
                if not line.startswith("-- @"):
                    target.append(line)
                    continue
                word, *rest = shlex.split(line[4:])
                if word == "repetitions":
                    self.repetitions = int(rest[0])
                elif word == "setup":
                    target = self.setup
                elif word == "expect":
                    target = []
                    self.expects.append((" ".join(rest), target))
                elif word == "case":
                    case = Case(rest[0], dict(key.split("=", 1) for key in rest[1:]))
                    self.cases[case.name] = case
                    target = case.timed
                elif word == "timed":
                    case.untimed, case.timed = case.timed, []
                    target = case.timed
                else:
                    raise SystemExit(f"{name}.sql:{number}: unknown section {word}")
        self.repetitions = int(os.environ.get("REPETITIONS", self.repetitions))

    def script(self):
        parts = ["\\set VERBOSITY verbose\n", *self.setup]
        for number, (_, sql) in enumerate(self.expects):
            parts += [f"\nRESET ALL;\n\\echo @expect {number}\n", *sql, "\n\\echo @end\n"]
        for repetition in range(self.repetitions):
            for case in self.cases.values():
                parts += ["\nRESET ALL;\n", *case.untimed]
                parts += [f"\n\\echo @case {case.name} {repetition}\n", CPU_TIME, "\\timing on\n"]
                parts += [*case.timed, "\n\\timing off\n", CPU_TIME]
        return "".join(parts)

    def run(self):
        query(f"CREATE DATABASE {self.name}")
        query("CREATE EXTENSION anomaly_detection", self.name)
        psql = ["psql", "-X", "-d", self.name, "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        process = subprocess.Popen(
            psql, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        output, errors = process.communicate(self.script())
        if process.returncode != 0:
            raise RuntimeError(errors.strip() or f"psql ended with {process.returncode}")
        case, expect, seen = None, None, {}
        for line in output.splitlines():
            if line.startswith("@expect "):
                expect = int(line.split()[1])
                seen[expect] = ""
            elif line == "@end":
                expect = None
            elif expect is not None:
                seen[expect] += line + "\n"
            elif line.startswith("@case "):
                case = self.cases[line.split()[1]]
                case.ms.append(0.0)
            elif line.startswith("@cpu ") and case:
                _, *value = line.split()
                if value and len(case.cpu) < len(case.ms):
                    case.cpu.append(-int(value[0]) / 1e6)
                elif value:
                    case.cpu[-1] += int(value[0]) / 1e6
            elif line.startswith("@fact ") and case:
                _, name, value = line.split(maxsplit=2)
                case.facts[name] = value
            elif match := re.match(r"Time: ([0-9.]+) ms", line):
                case.ms[-1] += float(match[1])
        for number, (text, _) in enumerate(self.expects):
            if text not in seen.get(number, ""):
                raise RuntimeError(f"expected {text!r} in:\n{seen.get(number, '')}")

    def report(self):
        """Prints the table and returns the same for the JSON file."""
        rows, result = [], []
        for case in self.cases.values():
            figures = case.figures(self.cases)
            owed = []
            for name, sign, bar in case.owed:
                met = COMPARISONS[sign](figures[name], float(bar))
                owed.append({"figure": name, "sign": sign, "bar": float(bar), "is": figures[name], "met": met})
            lines = [
                (f"{o['figure']} {o['sign']} {o['bar']:,g}", f"{o['is']:,.3g}", "met" if o["met"] else "NOT MET")
                for o in owed
            ]
            rows.append((
                case.name,
                f"{case.rows:,}",
                f"{figures['ms']:,.0f}",
                f"{figures['cpu_ms']:,.0f}" if "cpu_ms" in figures else "",
                f"{figures['ns_per_row']:,.0f}",
                f"{figures['rows_per_s']:,.0f}",
                f"{figures['ratio']:.2f} x {case.beside}" if case.beside else "",
                f"{figures['cpu_ratio']:.2f}" if "cpu_ratio" in figures else "",
                *(lines[0] if lines else ("", "", "")),
            ))
            rows += [("",) * 8 + line for line in lines[1:]]
            result.append({
                "case": case.name, "rows": case.rows, "beside": case.beside, "capacity": case.capacity,
                "figures": figures, "owed": owed, "ms": case.ms, "cpu_ms": case.cpu, "facts": case.facts,
            })
        head = ("case", "rows", "ms", "cpu ms", "ns/row", "rows/s", "time per row", "cpu", "owed", "is", "")
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        for row in [head, *rows]:
            print("  ".join(
                cell.rjust(width) if 1 <= i <= 5 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths))
            ).rstrip())
        waited = [
            r["figures"]["ms"] / r["figures"]["cpu_ms"] - 1 for r in result if "cpu_ms" in r["figures"]
        ]
        if waited and statistics.median(waited) > 0.15:
            print(f"BUSY MACHINE: elapsed times exceed time on a core by {statistics.median(waited):.0%}. "
                  "What is owed holds for an idle one; compare the cpu columns.")
        for name in dict.fromkeys(case.capacity for case in self.cases.values() if case.capacity):
            case = self.cases[name]
            print(f"CAPACITY: this machine does {case.figures(self.cases)['speedup']:.2f} x the work of one session "
                  f"of {case.beside} in {name}: no parallel plan can be expected to gain more.")
        for case in self.cases.values():
            if case.facts:
                print(f"{case.name}:", ", ".join(f"{k} {v}" for k, v in case.facts.items()))
        return result


def query(sql, database="postgres"):
    command = ["psql", "-X", "-A", "-t", "-d", database, "-c", sql]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def machine():
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            cpu = next((l.split(":", 1)[1].strip() for l in file if l.startswith("model name")), cpu)
    commit = subprocess.run(
        ["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "postgresql": query("SHOW server_version"),
        "commit": commit,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("benchmarks", nargs="+")
    arguments = parser.parse_args()
    facts = machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    failed = []
    for name in arguments.benchmarks:
        benchmark = Benchmark(name)
        before = os.getloadavg()[0]
        started = time.time()
        try:
            benchmark.run()
        except RuntimeError as error:
            print(f"\n{name} failed: {error}", file=sys.stderr)
            failed.append(name)
            continue
        load = [round(before, 2), round(os.getloadavg()[0], 2)]
        print(f"\n{name}: medians of {benchmark.repetitions}; load {load[0]} before, {load[1]} after; "
              f"{time.time() - started:.0f} s in all")
        result = {
            "benchmark": name, "machine": facts, "repetitions": benchmark.repetitions,
            "load_before_and_after": load, "cases": benchmark.report(),
        }
        with open(os.path.join(arguments.out, name + ".json"), "w") as file:
            json.dump(result, file, indent=1)
    if failed:
        sys.exit(f"failed to run: {', '.join(failed)}")


if __name__ == "__main__":
    main()
