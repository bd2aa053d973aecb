"""Makes cron.txt: cron expressions in time zones, and when they come by croniter and Python's zoneinfo.

usage: python cron.py > cron.txt     (croniter 7.0.0, tzdata 2026.6, Python 3.11.7)

A line is: first moment looked at (Unix seconds, exclusive), last (inclusive), zone, expression, how often, the times'
hash, the first eight times.

croniter says which times on the wall an expression means: it knows nothing of clock changes here. Then cron's old rule
for them: an expression without `*`, range or step in its hours and minutes comes at given times, each of which comes
once a day, right after the gap if the clock skips it, and at the first of the two if it comes twice. Anything else comes
whenever the clock on the wall shows a time that it means.
"""
import random
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from croniter import croniter

# With their clock changes, or something else that is odd about them.
ZONES = {
    "UTC": [datetime(2026, 2, 27), datetime(2028, 2, 27), datetime(2100, 2, 27)],
    "Europe/Berlin": [datetime(2026, 3, 28), datetime(2026, 10, 24), datetime(2028, 2, 28)],
    "America/New_York": [datetime(2027, 3, 13), datetime(2027, 11, 6)],
    "Australia/Lord_Howe": [datetime(2026, 4, 4), datetime(2026, 10, 3)],  # by half an hour
    "America/Santiago": [datetime(2026, 4, 4), datetime(2026, 9, 5)],  # at midnight
    "Asia/Kolkata": [datetime(2026, 1, 1)],
    "Pacific/Apia": [datetime(2011, 12, 28)],  # without 30 December
    "America/Sao_Paulo": [datetime(2018, 11, 3), datetime(2018, 2, 16)],  # at midnight, in the south
}
WRITTEN = [
    "0 0 29 2 *", "0 0 L * *", "59 23 L 2 *", "0 12 31 * *", "*/7 * * * *", "5-55/10 1-5 * * *", "0 0 * * 7",
    "0 0 * * SUN", "30 2 * * *", "0,30 2 * * *", "30 1,2,3 * * *", "*/15 2 * * *", "0 2-4 * * *", "0 0,12 1 */2 *",
    "0 4 8-14 * *", "0 4 13 * FRI", "15 3 * * MON#2", "15 3 * * FRIL", "@hourly", "@daily", "@weekly", "@monthly",
    "@yearly", "0 0 1 JAN,JUL *", "10 0 * * *", "0 0 * * *", "*/20 30 2 * * *", "0 */5 1 * * *", "30 0 3 * * *",
]
MASK = (1 << 64) - 1


def field(rng, low, high, style):
    if style == "*":
        return "*"
    if style == "step":
        return f"*/{rng.randint(2, max(2, (high - low) // 2))}"
    if style == "range":
        a, b = sorted(rng.sample(range(low, high + 1), 2))
        return f"{a}-{b}" + (f"/{rng.randint(2, 5)}" if rng.random() < 0.3 else "")
    return ",".join(str(v) for v in sorted(rng.sample(range(low, high + 1), rng.choice([1, 1, 2, 3]))))


def expression(rng):
    minute = field(rng, 0, 59, rng.choice(["step", "range", "list", "list", "list"]))
    hour = field(rng, 0, rng.choice([4, 23]), rng.choice(["*", "step", "range", "list", "list"]))
    day = field(rng, 1, 31, rng.choice(["*", "*", "*", "range", "list"]))
    if rng.random() < 0.1:
        day = "L"
    month = field(rng, 1, 12, rng.choice(["*", "*", "*", "range", "list"]))
    weekday = field(rng, 0, 6, rng.choice(["*", "*", "*", "range", "list"]))
    return f"{minute} {hour} {day} {month} {weekday}"


def is_fixed(text):
    if text.startswith("@"):
        return text != "@hourly"
    return not any(c in f for f in text.split()[:-3] for c in "*-/")


def for_croniter(text):
    # It writes the last Friday of a month L5.
    return text.replace("FRIL", "L5").replace("MON#2", "1#2")


def walls(text, after, until):
    """Times on the wall in (after, until], as naive datetimes."""
    found = []
    times = croniter(for_croniter(text), after, second_at_beginning=True, max_years_between_matches=100)
    while True:
        wall = times.get_next(datetime)
        if wall > until:
            return found
        found.append(wall)


def instant(wall, zone):
    """When the clock shows it: the first time, or right after the gap."""
    at = wall.replace(tzinfo=zone).astimezone(timezone.utc)
    if at.astimezone(zone).replace(tzinfo=None) == wall:
        return int(at.timestamp())
    # In a gap: the first second whose offset is that after it.
    low, high = int(at.timestamp()) - 86400 * 2, int(at.timestamp()) + 86400 * 2
    offset = lambda s: datetime.fromtimestamp(s, zone).utcoffset()
    after = offset(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if offset(middle) == after else (middle, high)
    return high


def times(text, zone, first, last):
    start = datetime.fromtimestamp(first, zone).replace(tzinfo=None) - timedelta(hours=30)
    end = datetime.fromtimestamp(last, zone).replace(tzinfo=None) + timedelta(hours=30)
    shown = walls(text, start, end)
    if is_fixed(text):
        found = {instant(wall, zone) for wall in shown}
    else:
        found = set()
        for wall in shown:
            for fold in (0, 1):
                at = wall.replace(tzinfo=zone, fold=fold).astimezone(timezone.utc)
                if at.astimezone(zone).replace(tzinfo=None) == wall:
                    found.add(int(at.timestamp()))
    return sorted(t for t in found if first < t <= last)


rng = random.Random(20261130)
cases = [(text, name, start) for text in WRITTEN for name, starts in ZONES.items() for start in starts]
cases += [(expression(rng), name, rng.choice(ZONES[name])) for name in [rng.choice(list(ZONES)) for _ in range(300)]]
lines = []
for text, name, start in cases:
    zone = ZoneInfo(name)
    first = int(start.replace(tzinfo=timezone.utc).timestamp()) + rng.randint(0, 86400)
    # Long enough for the rare ones, short enough for those of every minute.
    found, days = [], 2
    while len(found) < 6 and days <= 2000:
        found = times(text, zone, first, first + days * 86400)
        days *= 4
    days //= 4
    value = 0
    for t in found:
        value = (value * 6364136223846793005 + t) & MASK
    lines.append(f"{first}|{first + days * 86400}|{name}|{text}|{len(found)}|{value}|{','.join(map(str, found[:8]))}")
print("\n".join(lines))
