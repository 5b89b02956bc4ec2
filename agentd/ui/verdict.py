"""The words for a decision: the mark in front of a line and the sentence at its end."""

from agentd.ui.text import number, shorten, show

Mark = tuple[str, str]
"""A word of at most five letters and the ANSI style it is shown in."""

PLAIN: Mark = ("·", "2")
_ALLOW: Mark = ("ALLOW", "32")
_DENY: Mark = ("DENY", "1;31")
_KILL: Mark = ("KILL", "1;35")
_MARKS: dict[str, Mark] = {
    "allow": _ALLOW,
    "audit": ("AUDIT", "36"),
    "deny": _DENY,
    "hold": ("HOLD", "1;33"),
    "kill": _KILL,
}
# How a hold ended. A timeout without `on_timeout` is shown as what it is by default.
_ENDS: dict[object, Mark] = {
    "allow": _ALLOW,
    "allowed": _ALLOW,
    "released": _ALLOW,
    "deny": _DENY,
    "denied": _DENY,
    "timeout": _DENY,
    "kill": _KILL,
    "killed": _KILL,
}
_WORDS = {
    "allow": "allowed",
    "audit": "noted",
    "deny": "denied",
    "hold": "held",
    "kill": "killed",
}
_LOUD_VERDICTS = ("deny", "hold", "kill")
_LOUD_OUTCOMES = ("denied", "killed", "blocked", "timeout")
_UNDECIDED = ("", "held")
_NOTED = ("marks", "errors")


def _text(value: object, room: int) -> str:
    return "" if value is None else show(value, room, 1)


def duration(micros: object) -> str:
    """Microseconds as `181us`, `12.4ms`, `3.2s`, `4m10s`; "" for what is no number."""
    amount = number(micros)
    if amount is None:
        return ""
    if amount < 1_000:
        return f"{amount:.0f}us"
    if amount < 1_000_000:
        return f"{amount / 1_000:.1f}ms"
    if amount < 60_000_000:
        return f"{amount / 1_000_000:.1f}s"
    minutes, seconds = divmod(int(amount / 1_000_000), 60)
    return f"{minutes}m{seconds:02d}s"


def _outcome(decision: dict[str, object]) -> str:
    outcome = decision.get("outcome")
    return outcome if isinstance(outcome, str) else ""


def _ended_hold(decision: dict[str, object]) -> bool:
    """Whether this is the end of a hold, not its beginning or what an observer would have held."""
    return (
        decision.get("verdict") == "hold"
        and not decision.get("would")
        and _outcome(decision) not in _UNDECIDED
    )


def mark(decision: dict[str, object]) -> Mark | None:
    """The mark of a decision; None if it is none."""
    verdict = decision.get("verdict")
    if not isinstance(verdict, str):
        return None
    chosen = _MARKS.get(verdict, (shorten(verdict.upper(), 5), "0"))
    if decision.get("would"):
        return f"{chosen[0].lower()}?", "2"
    if _ended_hold(decision):
        outcome = _outcome(decision)
        end = decision.get("on_timeout") if outcome == "timeout" else None
        return _ENDS.get(end if isinstance(end, str) else outcome, chosen)
    return chosen


def _rules(decision: dict[str, object]) -> str:
    rules = decision.get("rules")
    return ",".join(_text(rule, 63) for rule in rules[:4]) if isinstance(rules, list) else ""


def _end_of_hold(decision: dict[str, object]) -> str:
    """`APPROVED by uid 0`, `REFUSED by uid 0`, `NO ANSWER, denied`, `cancelled`."""
    outcome = _outcome(decision)
    approver = _text(decision.get("approver"), 32)
    if outcome == "timeout":
        then = decision.get("on_timeout")
        word = _WORDS.get(then) if isinstance(then, str) else None
        return f"NO ANSWER, {word}" if word else "NO ANSWER"
    if not approver:
        return f"held, {shorten(outcome.upper() if outcome in _LOUD_OUTCOMES else outcome, 12)}"
    if outcome == "allowed":
        return f"APPROVED by {approver}"
    return f"REFUSED by {approver}" + (", killed" if outcome == "killed" else "")


def _words(verdict: str, decision: dict[str, object]) -> str:
    plain = _WORDS.get(verdict) or shorten(verdict, 12)
    if decision.get("would"):
        return f"would be {plain}"
    if _ended_hold(decision):
        return _end_of_hold(decision)
    outcome = _outcome(decision)
    if verdict == "audit" or outcome in _UNDECIDED:
        return plain.upper() if verdict in _LOUD_VERDICTS else plain
    return shorten(outcome.upper() if outcome in _LOUD_OUTCOMES else outcome, 12)


def sentence(decision: dict[str, object]) -> str:
    """What was decided, by which rules or by whom, why, and how long it took; "" for nothing."""
    verdict = decision.get("verdict")
    if not isinstance(verdict, str):
        return ""
    text = _words(verdict, decision)
    ended = _ended_hold(decision)
    rules = _rules(decision)
    if rules and not ended:
        text += f" by {rules}"
    reason = _text(decision.get("reason"), 200)
    if reason and not (ended and _outcome(decision) in {"allowed", "released"}):
        text += f": {reason}"
    hold_id = _text(decision.get("hold_id"), 24)
    held = duration(decision.get("hold_us"))
    notes = [f"rule {rules}" if rules and ended else ""]
    notes += [f"hold {hold_id}" if hold_id else "", f"held {held}" if held else ""]
    notes += [f"{name}: {_text(decision[name], 80)}" for name in _NOTED if decision.get(name)]
    if decision.get("before_effect") is False and verdict in _LOUD_VERDICTS:
        notes.append("after the effect")
    shown = ", ".join(note for note in notes if note)
    return f"{text} ({shown})" if shown else text
