"""Text that comes from watched processes, made fit for a terminal.

Everything an agent can choose (arguments, paths, tool names, reasons) may carry escape sequences,
line breaks, bidirectional overrides or half a surrogate. `clean` leaves printable characters and
spaces and shows the rest as escapes, so that one event stays one line and cannot repaint another.
"""


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def clean(text: str) -> str:
    """`text` with every character that is not printable (str.isprintable) as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def shorten(text: str, room: int) -> str:
    """`text` cleaned, at most `room` characters, with a closing ellipsis where it was cut."""
    # No more than this many characters can survive, so a hostile megabyte costs nothing.
    cleaned = clean(text[: room + 1])
    return cleaned if len(cleaned) <= room else cleaned[: max(0, room - 1)] + "…"


def show(value: object, room: int = 80, depth: int = 2) -> str:
    """A JSON value as compact, cleaned text of at most `room` characters.

    Strings stand bare, `{"a": 1}` becomes `{a=1}`; below `depth` levels only sizes are shown.
    """
    if isinstance(value, str):
        return shorten(value, room)
    if isinstance(value, dict):
        if depth <= 0:
            return shorten(f"{{{len(value)} fields}}", room)
        return shorten("{" + fields(value, room, depth - 1) + "}", room)
    if isinstance(value, list | tuple):
        if depth <= 0:
            return shorten(f"[{len(value)} items]", room)
        inner = ", ".join(show(item, room, depth - 1) for item in value[:8])
        return shorten(f"[{inner}{', …' if len(value) > 8 else ''}]", room)
    return shorten(_scalar(value), room)


def fields(mapping: dict[object, object] | dict[str, object], room: int, depth: int = 2) -> str:
    """`name=value name=value` of a mapping's first eight fields, cleaned and shortened."""
    shown = [
        f"{show(name, 40, 0)}={show(value, max(16, room // 2), depth)}"
        for name, value in list(mapping.items())[:8]
    ]
    if len(mapping) > len(shown):
        shown.append("…")
    return shorten(" ".join(shown), room)


def number(value: object) -> float | None:
    """A JSON number as a float; None for anything else, and for what no sane event holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -1e18 < value < 1e18 else None


def _scalar(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"({value.bit_length()}-bit number)"
    return str(value)
