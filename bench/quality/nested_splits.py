#!/usr/bin/env python3
"""How much of a NAB score carries over: everything chosen on one half of the series, scored on the other.

Candidates are folders of scores as `nab_score.py` of a quality folder reads them, one folder per design. For
each of N random halves, the best candidate (mean of the three profiles) and one threshold per profile are chosen
on one half and applied to the other. Two baselines show how much the choice costs: each candidate by itself, its
threshold chosen on the first half (`fixed`) or on the second as NAB does (`own threshold`).

usage: nested_splits.py --data DIR [--splits 200] [--seed 1] CANDIDATE_DIR...
"""
import argparse
import json
import os
import random
import statistics
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="quality folder: scripts/, data/nab/, baselines/")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("candidates", nargs="+")
    options = parser.parse_args()
    sys.path.insert(0, os.path.join(options.data, "scripts"))
    import nab_score

    with open(os.path.join(options.data, "data", "nab", "labels", "combined_windows.json")) as file:
        windows = json.load(file)
    root = os.path.join(options.data, "data", "nab")
    names = [name for name in windows if os.path.exists(os.path.join(root, name))]
    profiles = list(nab_score.PROFILES)
    corpora = {}
    for folder in options.candidates:
        series, missing = nab_score.load_corpus(folder, windows, names)
        if missing:
            raise SystemExit(f"{folder}: no scores for {missing[0]}")
        corpora[os.path.basename(os.path.normpath(folder))] = {s.name: s for s in series}

    def score(design, files, thresholds=None):
        result = nab_score.score([corpora[design][f] for f in files], thresholds)
        return {p: (result[p]["score"], result[p]["threshold"]) for p in profiles}

    show = lambda t: " / ".join(f"{v:5.1f}" for v in t)
    print("all", len(names), "series")
    for design in corpora:
        print(f"  {design:24s} {show(v[0] for v in score(design, names).values())}")
    rng = random.Random(options.seed)
    nested, fixed, own, chosen = [], {d: [] for d in corpora}, {d: [] for d in corpora}, {}
    for _ in range(options.splits):
        files = names[:]
        rng.shuffle(files)
        one, other = files[: len(files) // 2], files[len(files) // 2 :]
        if not any(corpora[next(iter(corpora))][f].nwin for f in one):
            continue
        best = None
        for design in corpora:
            choice = score(design, one)
            applied = score(design, other, {p: choice[p][1] for p in profiles})
            fixed[design].append([applied[p][0] for p in profiles])
            own[design].append([v[0] for v in score(design, other).values()])
            mean = statistics.mean(v[0] for v in choice.values())
            if best is None or mean > best[0]:
                best = (mean, design)
        chosen[best[1]] = chosen.get(best[1], 0) + 1
        nested.append((fixed[best[1]][-1], own[best[1]][-1]))
    median = lambda rows: [statistics.median(column) for column in zip(*rows)]
    print(f"median over {len(nested)} random halves          threshold of the other half | own threshold")
    print(f"  {'chosen on one half':24s} {show(median([n[0] for n in nested]))}   | {show(median([n[1] for n in nested]))}")
    for design in corpora:
        print(f"  {design:24s} {show(median(fixed[design]))}   | {show(median(own[design]))}")
    print("chosen:", ", ".join(f"{d} {n}" for d, n in sorted(chosen.items(), key=lambda c: -c[1])))


if __name__ == "__main__":
    main()
