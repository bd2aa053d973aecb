"""Makes recurrence.txt: 200 random rules of RFC 5545 with time zones, and what python-dateutil makes of ten years of each.

usage: python recurrence.py > recurrence.txt     (python-dateutil 4.0.0, Python 3.11.7)

A line is: start (Unix seconds), zone, rule, end of the ten years, how often, the times' hash, the first eight times.
dateutil's times are on the wall of the zone. zoneinfo turns them into instants as RFC 5545 asks: what a clock change
skips comes as much later, of what comes twice the first. Those that thereby fall on one instant are one.

Left out is where dateutil does not do what the RFC says, or says nothing: weekdays with and without a number in one
BYDAY (dateutil wants both at once), BYSETPOS of a week that begins before the start (it counts from the start), rules
that are empty, UNTIL in the hour of a clock change, and starts in the hour that comes twice.
"""
import random
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from dateutil.rrule import rrulestr

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Auckland", "Europe/London",
         "America/Sao_Paulo", "Asia/Kolkata", "America/Santiago", "Pacific/Apia", "UTC"]
DAYS = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"]
MASK = (1 << 64) - 1


def sample(rng, values, most):
    return sorted(rng.sample(list(values), rng.randint(1, most)))


def join(values):
    return ",".join(str(v) for v in values)


def rule(rng, start):
    freq = rng.choice(["YEARLY", "MONTHLY", "MONTHLY", "WEEKLY", "WEEKLY", "DAILY", "DAILY", "HOURLY", "MINUTELY"])
    parts = [f"FREQ={freq}"]
    most = {"YEARLY": 3, "MONTHLY": 5, "WEEKLY": 4, "DAILY": 10, "HOURLY": 30, "MINUTELY": 4000}[freq]
    interval = rng.choice([1, 1, rng.randint(2, most)])
    if freq == "MINUTELY":
        interval = rng.choice([15, 20, 90, rng.randint(7, most)])
    if interval > 1:
        parts.append(f"INTERVAL={interval}")
    by = []
    by_month = rng.random() < 0.3
    if by_month:
        by.append("BYMONTH=" + join(sample(rng, range(1, 13), 4)))
    if freq != "WEEKLY" and rng.random() < 0.35:
        by.append("BYMONTHDAY=" + join(sample(rng, [*range(-31, 0), *range(1, 32)], 6)))
    if rng.random() < 0.5:
        days = sample(rng, range(7), 4)
        if freq in ("YEARLY", "MONTHLY") and rng.random() < 0.6:
            far = 53 if freq == "YEARLY" and not by_month else 5
            by.append("BYDAY=" + join(f"{rng.choice([1, 2, far, -1, -2, -far])}{DAYS[d]}" for d in days))
        else:
            by.append("BYDAY=" + join(DAYS[d] for d in days))
    if rng.random() < 0.4:
        by.append("BYHOUR=" + join(sample(rng, [0, 1, 2, 2, 3, 3, 9, 12, 23], 3)))
    if rng.random() < 0.4:
        by.append("BYMINUTE=" + join(sample(rng, [0, 15, 20, 30, 30, 45, 59], 3)))
    if by and freq != "MINUTELY" and rng.random() < 0.4:
        positions = [1, 2, 3, -1, -2] if freq == "DAILY" else [1, 2, 5, 11, -1, -2, -7]
        by.append("BYSETPOS=" + join(sample(rng, positions, 2)))
    parts += by
    if rng.random() < 0.4:
        parts.append("WKST=" + rng.choice(DAYS))
    end = rng.random()
    if end < 0.25:
        parts.append(f"COUNT={rng.choice([1, 3, 40, 300, 5000])}")
    elif end < 0.45:
        until = start.astimezone(timezone.utc) + timedelta(days=rng.randint(1, 3600), hours=rng.randint(5, 9))
        parts.append(until.strftime("UNTIL=%Y%m%dT%H%M%SZ"))
    return freq, parts


def starts_with_its_week(start, parts):
    week_start = next((DAYS.index(p[5:]) for p in parts if p.startswith("WKST=")), 0)
    return start.weekday() == week_start


def clocks_change(at, zone):
    near = [(at + timedelta(hours=h)).astimezone(zone).utcoffset() for h in (-30, 30)]
    return near[0] != near[1]


def times(start, text, end):
    found = set()
    zone = start.tzinfo
    for at in rrulestr(text, dtstart=start):
        if at.replace(tzinfo=None) > end.replace(tzinfo=None) + timedelta(days=2):
            break
        assert at.tzinfo is zone
        at = at.astimezone(timezone.utc)
        if at < end.astimezone(timezone.utc):
            found.add(int(at.timestamp()))
    return sorted(found)


def main():
    rng = random.Random(5545)
    shown = 0
    while shown < 200:
        zone = ZoneInfo(rng.choice(ZONES))
        start = datetime(rng.randint(2005, 2014), rng.randint(1, 12), rng.randint(1, 28),
                         rng.choice([0, 1, 2, 2, 3, 3, 12, 23]), rng.choice([0, 30, rng.randint(0, 59)]),
                         rng.choice([0, 0, rng.randint(0, 59)]), tzinfo=zone)
        freq, parts = rule(rng, start)
        text = ";".join(parts)
        utc = start.astimezone(timezone.utc)
        if clocks_change(utc, zone):
            continue
        if freq == "WEEKLY" and "BYSETPOS" in text and not starts_with_its_week(start, parts):
            continue
        until = next((p[6:] for p in parts if p.startswith("UNTIL=")), None)
        if until and clocks_change(datetime.strptime(until, "%Y%m%dT%H%M%S%z"), zone):
            continue
        end = start + timedelta(days=3652)
        try:
            found = times(start, text, end)
        except ValueError:      # dateutil's word for some rules that are empty
            continue
        if not found:
            continue
        hashed = 0
        for at in found:
            hashed = (hashed * 6364136223846793005 + at) & MASK
        print(int(utc.timestamp()), zone.key, text, int(end.astimezone(timezone.utc).timestamp()), len(found), hashed,
              join(found[:8]), sep="|")
        shown += 1


main()
