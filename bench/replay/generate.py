#!/usr/bin/env python3
"""Generate monitoring data with labelled incidents, to replay as an acceptance test.

    generate.py --seed N --out DIR [--quiet]

writes three files into DIR (created where missing):

history.csv    `at,entity,value`: 14 days without incidents, 2026-02-16 00:00:00+00 up
               to 2026-03-02 00:00:00+00 (exclusive), one point every 5 minutes for each
               of 200 entities
day.csv        `at,entity,value`: the 24 hours from 2026-03-02 00:00:00+00 (a Monday) on,
               where the same entities go on as before, with 50 incidents in addition
incidents.csv  `entity,first_at,last_at,kind`: the incidents, with the times of their
               first and last affected point, by first_at and entity

Rows of the first two are in the order of time, then entity. Values have at most 6
significant digits. With --quiet there are no incidents, and incidents.csv is its header;
history.csv, and the points of day.csv that are in no incident, are the same with and
without it. A seed determines the files.

Normal behaviour. An entity has a normal course and noise about it, both on a scale of its
own (linear, logarithmic or, for counts, 2 * sqrt(count + 3/8), where a Poisson count has a
standard deviation near 1). "Sigma" is the standard deviation of the noise on that scale.

    entities  behaviour
          30  white noise about a level (1 to 100000, sigma 0.5 % to 2.5 % of it)
          25  the same with AR(1) noise (coefficient 0.5 to 0.9)
          30  daily season of 12 to 20 sigma from trough to peak, white noise
          25  daily season as before, reduced to 30 % to 60 % on Saturdays and Sundays
          15  small Poisson counts of a constant mean (1 to 12)
          20  Poisson counts with a daily course (mean 2 to 20 at night, 60 to 250 by day)
          25  log-normal values (median 1 to 300, sigma 0.2 to 0.45 on the log scale)
          15  linear trend of 3 to 8 sigma in 15 days, up or down, white noise
          15  ratios within 0 and 1 (level 0.02 to 0.98, 8 sigma or more from 0 and 1)

Which entity behaves how is random and has nothing to do with its name.

Incidents. 10 of each kind, on distinct entities, each of 3 to 12 successive points (15 to
60 minutes from the first to the end of the last interval) between 01:00 and 21:00. They
move the entity's course, and its noise goes on:

    spike  up by 9.5 to 15 sigma, by another height at each point
    drop   down likewise
    shift  up or down by 9.5 to 15 sigma, by the same height at each point
    phase  to where the course is half a day later
    burst  up at some points and down at others, by 9.5 to 15 sigma

Values stay within their limits (0 for counts, 0 and 1 for ratios). Entity and time are
random among those where the incident is clear: each of its points is at least 8 sigma away
from the entity's normal course at that time. (So a count that is normally near 0 does not
drop, and only entities with a daily season have a phase incident. For counts, 8 sigma mean
that a normal point is as extreme with a chance below 1e-9.)
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

INTERVAL = timedelta(minutes=5)
STEPS_PER_HOUR = 12
STEPS_PER_DAY = 24 * STEPS_PER_HOUR
HISTORY_STEPS = 14 * STEPS_PER_DAY
ALL_STEPS = HISTORY_STEPS + STEPS_PER_DAY
START = datetime(2026, 2, 16)  # UTC, a Monday

ROLES = ("api", "auth", "batch", "cache", "db", "mail", "proxy", "queue", "search", "web")
REGIONS = ("ap", "eu", "sa", "us")
HOSTS_PER_REGION = 5

INCIDENTS_PER_KIND = 10
INCIDENT_HOURS = (1, 21)
INCIDENT_STEPS = (3, 12)
HEIGHT = (9.5, 15.0)  # in sigma
CLEAR = 8.0  # in sigma


@dataclass(frozen=True)
class Scale:
    """Where an entity's course and noise live: how they make a value, and the way back."""

    value: Callable[[float, float], float]
    """The value for a location and the noise at it."""
    location: Callable[[float], float]
    """The location at which a value is."""


def poisson_quantile(mean: float, probability: float) -> int:
    """The Poisson quantile by summation, for means up to about 700."""
    count = 0
    term = total = math.exp(-mean)
    while total < probability:
        count += 1
        term *= mean / count
        total += term
    return count


def count_location(count: float) -> float:
    """Anscombe's transform, which makes the variance of Poisson counts nearly 1."""
    return 2 * math.sqrt(count + 3 / 8)


def count_value(location: float, noise: float) -> float:
    """The Poisson count at the quantile at which the noise is in the standard normal."""
    mean = max(0.0, (max(0.0, location) / 2) ** 2 - 3 / 8)
    probability = math.erfc(-noise / math.sqrt(2)) / 2
    return poisson_quantile(mean, min(probability, 1 - 1e-12))


LINEAR = Scale(lambda location, noise: location + noise, lambda value: value)
RATIO = Scale(lambda location, noise: min(1.0, max(0.0, location + noise)), lambda value: value)
LOGARITHMIC = Scale(lambda location, noise: math.exp(location + noise), math.log)
COUNT = Scale(count_value, count_location)


@dataclass(frozen=True)
class Behaviour:
    """The normal course of an entity and its noise, in terms of its scale."""

    scale: Scale
    level: float
    sigma: float = 1.0
    memory: float = 0.0
    """The AR(1) coefficient of the noise."""
    swing: float = 0.0
    """How far the peak of the daily season is above its trough."""
    trough: float = 0.0
    """The hour of the day of the trough."""
    weekend: float = 1.0
    """The factor for the season on Saturdays and Sundays."""
    drift: float = 0.0
    """The change of the level from the first to the last step."""

    def location(self, step: int) -> float:
        """The normal location at a step."""
        angle = 2 * math.pi * (step / STEPS_PER_DAY - self.trough / 24)
        season = self.swing * (1 - math.cos(angle)) / 2
        if step // STEPS_PER_DAY % 7 >= 5:
            season *= self.weekend
        return self.level + season + self.drift * step / ALL_STEPS

    def value(self, step: int, noise: float, offset: float = 0.0) -> float:
        """The value, as it is written, for noise and an offset in sigma."""
        location = self.location(step) + offset * self.sigma
        return float(format_value(self.scale.value(location, noise * self.sigma)))

    def distance(self, step: int, value: float) -> float:
        """How far a value is from the normal location at a step, in sigma."""
        return (self.scale.location(value) - self.location(step)) / self.sigma


def log_uniform(rng: Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def level_and_sigma(rng: Random) -> tuple[float, float]:
    """A level of any order of magnitude, and noise that is small against it."""
    level = log_uniform(rng, 1, 1e5)
    return level, level * rng.uniform(0.005, 0.025)


def trough_hour(rng: Random) -> float:
    return rng.uniform(1, 5)


def white(rng: Random) -> Behaviour:
    level, sigma = level_and_sigma(rng)
    return Behaviour(LINEAR, level, sigma)


def autoregressive(rng: Random) -> Behaviour:
    level, sigma = level_and_sigma(rng)
    return Behaviour(LINEAR, level, sigma, memory=rng.uniform(0.5, 0.9))


def daily(rng: Random) -> Behaviour:
    level, sigma = level_and_sigma(rng)
    swing = sigma * rng.uniform(12, 20)
    return Behaviour(LINEAR, level, sigma, swing=swing, trough=trough_hour(rng))


def weekly(rng: Random) -> Behaviour:
    level, sigma = level_and_sigma(rng)
    swing = sigma * rng.uniform(12, 20)
    weekend = rng.uniform(0.3, 0.6)
    return Behaviour(LINEAR, level, sigma, swing=swing, trough=trough_hour(rng), weekend=weekend)


def small_count(rng: Random) -> Behaviour:
    return Behaviour(COUNT, count_location(log_uniform(rng, 1, 12)))


def daily_count(rng: Random) -> Behaviour:
    night = count_location(log_uniform(rng, 2, 20))
    day = count_location(log_uniform(rng, 60, 250))
    return Behaviour(COUNT, night, swing=day - night, trough=trough_hour(rng))


def latency(rng: Random) -> Behaviour:
    median = log_uniform(rng, 1, 300)
    return Behaviour(LOGARITHMIC, math.log(median), rng.uniform(0.2, 0.45))


def trend(rng: Random) -> Behaviour:
    level, sigma = level_and_sigma(rng)
    drift = rng.choice((-1, 1)) * sigma * rng.uniform(3, 8)
    return Behaviour(LINEAR, level, sigma, drift=drift)


def ratio(rng: Random) -> Behaviour:
    level = rng.uniform(0.02, 0.98)
    sigma = min(level, 1 - level) * rng.uniform(0.04, 0.125)
    return Behaviour(RATIO, level, sigma)


BEHAVIOURS: dict[Callable[[Random], Behaviour], int] = {
    white: 30,
    autoregressive: 25,
    daily: 30,
    weekly: 25,
    small_count: 15,
    daily_count: 20,
    latency: 25,
    trend: 15,
    ratio: 15,
}


@dataclass
class Entity:
    name: str
    behaviour: Behaviour
    noise: list[float]
    """In sigma, by step."""
    values: list[float]
    """By step."""


@dataclass(frozen=True)
class Incident:
    entity: str
    steps: range
    kind: str


def standard_noise(rng: Random, memory: float) -> list[float]:
    """AR(1) noise of mean 0 and variance 1, for each step."""
    innovation = math.sqrt(1 - memory**2)
    noise = [rng.gauss(0, 1)]
    while len(noise) < ALL_STEPS:
        noise.append(memory * noise[-1] + innovation * rng.gauss(0, 1))
    return noise


def make_entity(rng: Random, name: str, make_behaviour: Callable[[Random], Behaviour]) -> Entity:
    behaviour = make_behaviour(rng)
    noise = standard_noise(rng, behaviour.memory)
    values = [behaviour.value(step, noise[step]) for step in range(ALL_STEPS)]
    return Entity(name, behaviour, noise, values)


def make_entities(rng: Random) -> list[Entity]:
    """All entities without incidents, by name."""
    names = sorted(
        f"{role}-{host:02d}.{region}"
        for role in ROLES
        for host in range(1, HOSTS_PER_REGION + 1)
        for region in REGIONS
    )
    makers = [maker for maker, count in BEHAVIOURS.items() for _ in range(count)]
    rng.shuffle(makers)
    return [make_entity(rng, name, maker) for name, maker in zip(names, makers, strict=True)]


def spike(rng: Random, _behaviour: Behaviour, steps: range) -> list[float]:
    return [rng.uniform(*HEIGHT) for _ in steps]


def drop(rng: Random, _behaviour: Behaviour, steps: range) -> list[float]:
    return [-rng.uniform(*HEIGHT) for _ in steps]


def shift(rng: Random, _behaviour: Behaviour, steps: range) -> list[float]:
    return [rng.choice((-1, 1)) * rng.uniform(*HEIGHT)] * len(steps)


def phase(_rng: Random, behaviour: Behaviour, steps: range) -> list[float]:
    half_day = STEPS_PER_DAY // 2
    return [
        (behaviour.location(step + half_day) - behaviour.location(step)) / behaviour.sigma
        for step in steps
    ]


def burst(rng: Random, _behaviour: Behaviour, steps: range) -> list[float]:
    signs = [1 if index % 2 else -1 for index in range(len(steps))]
    rng.shuffle(signs)
    return [sign * rng.uniform(*HEIGHT) for sign in signs]


INCIDENT_KINDS: dict[str, Callable[[Random, Behaviour, range], list[float]]] = {
    "spike": spike,
    "drop": drop,
    "shift": shift,
    "phase": phase,
    "burst": burst,
}
"""For each kind, what makes the offsets from the normal location, in sigma, by step."""


def random_steps(rng: Random) -> range:
    """Successive steps of the day that are an incident's."""
    length = rng.randint(*INCIDENT_STEPS)
    earliest, end = (HISTORY_STEPS + hour * STEPS_PER_HOUR for hour in INCIDENT_HOURS)
    first = rng.randint(earliest, end - length)
    return range(first, first + length)


def add_incident(rng: Random, kind: str, entities: Sequence[Entity]) -> Incident:
    """Changes the values of one of the entities, where the incident is clear."""
    while True:
        entity = rng.choice(entities)
        behaviour = entity.behaviour
        steps = random_steps(rng)
        offsets = INCIDENT_KINDS[kind](rng, behaviour, steps)
        values = [
            behaviour.value(step, entity.noise[step], offset)
            for step, offset in zip(steps, offsets)
        ]
        if all(
            abs(behaviour.distance(step, value)) >= CLEAR for step, value in zip(steps, values)
        ):
            entity.values[steps.start : steps.stop] = values
            return Incident(entity.name, steps, kind)


def add_incidents(rng: Random, entities: Iterable[Entity]) -> list[Incident]:
    """Changes the values of distinct entities."""
    free = list(entities)
    incidents = []
    for kind in INCIDENT_KINDS:
        for _ in range(INCIDENTS_PER_KIND):
            incident = add_incident(rng, kind, free)
            free = [entity for entity in free if entity.name != incident.entity]
            incidents.append(incident)
    return incidents


def format_value(value: float) -> str:
    return f"{value:.6g}"


def format_time(step: int) -> str:
    return f"{START + step * INTERVAL}+00"


def write_csv(path: Path, header: str, rows: Iterable[str]) -> None:
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.write(f"{header}\n")
        file.writelines(f"{row}\n" for row in rows)


def write_points(path: Path, entities: Sequence[Entity], steps: range) -> None:
    rows = (
        f"{at},{entity.name},{format_value(entity.values[step])}"
        for step in steps
        for at in (format_time(step),)
        for entity in entities
    )
    write_csv(path, "at,entity,value", rows)


def write_incidents(path: Path, incidents: Iterable[Incident]) -> None:
    rows = (
        f"{incident.entity},{format_time(incident.steps[0])},"
        f"{format_time(incident.steps[-1])},{incident.kind}"
        for incident in sorted(incidents, key=lambda each: (each.steps[0], each.entity))
    )
    write_csv(path, "entity,first_at,last_at,kind", rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--quiet", action="store_true", help="no incidents")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    rng = Random(arguments.seed)
    entities = make_entities(rng)
    incidents = [] if arguments.quiet else add_incidents(rng, entities)

    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    write_points(out / "history.csv", entities, range(HISTORY_STEPS))
    write_points(out / "day.csv", entities, range(HISTORY_STEPS, ALL_STEPS))
    write_incidents(out / "incidents.csv", incidents)


if __name__ == "__main__":
    main()
