"""Everything that can happen to a task or to the job; what is not in the table cannot."""

from __future__ import annotations

IDLE, LEASED, ACCEPTED = "IDLE", "LEASED", "ACCEPTED"
RUNNING, COMMITTED, FAILED = "RUNNING", "COMMITTED", "FAILED"

# (what, state, event) -> state
TRANSITIONS: dict[tuple[str, str, str], str] = {
    ("map", IDLE, "leased"): LEASED,
    ("map", IDLE, "accepted"): ACCEPTED,  # late: its lease had run out
    ("map", LEASED, "leased"): LEASED,  # one more attempt, or one that came back
    ("map", LEASED, "ended"): LEASED,  # an attempt ended, another one goes on
    ("map", LEASED, "requeued"): IDLE,  # the last running attempt ended
    ("map", LEASED, "accepted"): ACCEPTED,
    ("map", ACCEPTED, "output_lost"): IDLE,
    ("reduce", IDLE, "leased"): LEASED,
    ("reduce", IDLE, "accepted"): ACCEPTED,
    ("reduce", LEASED, "leased"): LEASED,
    ("reduce", LEASED, "ended"): LEASED,
    ("reduce", LEASED, "requeued"): IDLE,
    ("reduce", LEASED, "accepted"): ACCEPTED,
    ("reduce", ACCEPTED, "rolled_back"): IDLE,  # a re-run map gave other bytes than this reduce used
    ("job", RUNNING, "committed"): COMMITTED,
    ("job", RUNNING, "failed"): FAILED,
}


class IllegalEvent(Exception):  # noqa: N818 - it says what it is
    """An event that TRANSITIONS does not allow; nothing was changed."""


def after(kind: str, state: str, event: str, name: str) -> str:
    """The state that follows; IllegalEvent if the event cannot happen in this state."""
    try:
        return TRANSITIONS[kind, state, event]
    except KeyError:
        raise IllegalEvent(f"{name} is {state}: {event} cannot happen") from None
