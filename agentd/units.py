"""Sizes and durations as people write them."""

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)?", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.ASCII)
_SIZE_UNITS = {"B": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str | int) -> int:
    """Bytes in `2GiB` (powers of 1024), `500MB` (powers of 1000) or a plain number of bytes.

    Raises ValueError.
    """
    found = _SIZE.fullmatch(str(text).strip())
    if found is None:
        raise ValueError(f"{text!r} is not a size; write it like 512MiB or 2GiB")
    number, unit = float(found[1]), found[2] or "B"
    if unit == "B":
        return int(number)
    base = 1024 if "i" in unit else 1000
    return int(number * base ** _SIZE_UNITS[unit[0]])


def parse_duration(text: str | float) -> float:
    """Seconds in `250ms`, `30s`, `10m`, `2h`, `7d` or a plain number of seconds.

    Raises ValueError.
    """
    found = _DURATION.fullmatch(str(text).strip())
    if found is None:
        raise ValueError(f"{text!r} is not a duration; write it like 30s, 10m or 2h")
    return float(found[1]) * _SECONDS[found[2] or "s"]
