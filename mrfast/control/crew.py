"""The workers of a job as the scheduler sees them: who is there, with how many slots, and who should rest."""

from __future__ import annotations

from dataclasses import dataclass, field

LIVE_S = 10.0  # one that has said nothing for so long does not count
QUARANTINE_S = 600.0
STRIKES_MAX = 3  # failures of tasks that then passed elsewhere
STRUCK_TASKS_MIN = 2
QUARANTINED_SHARE = 3  # at most one in three


@dataclass(slots=True)
class Member:
    """One worker process."""

    slots: int
    seen: float
    here: bool = True
    until: float = 0.0  # quarantined until then
    strikes: int = 0
    struck: set[int] = field(default_factory=set)


class Crew:
    """All workers that ever said something; costs O(workers) to ask, nothing to tell."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._slots: tuple[float, int] | None = None  # the last answer: (when, how many)

    def joined(self, worker: str, slots: int, now: float) -> None:
        """A worker said hello."""
        self.seen(worker, now)
        self._members[worker].slots = slots
        self._slots = None

    def seen(self, worker: str, now: float) -> None:
        """A worker said something."""
        member = self._members.get(worker)
        if member is None:
            self._members[worker] = Member(1, now)
            self._slots = None
        else:
            if not self._is_live(member, now):
                self._slots = None
            member.seen, member.here = now, True

    def left(self, worker: str) -> None:
        """A worker's connection closed."""
        if worker in self._members:
            self._members[worker].here = False
            self._slots = None

    def present(self, now: float) -> int:
        """How many are here."""
        return sum(self._is_live(member, now) for member in self._members.values())

    def slots(self, now: float) -> int:
        """The slots of those who are here."""
        if self._slots is None or self._slots[0] != now:  # hundreds may be asked for at the same moment
            self._slots = now, sum(each.slots for each in self._members.values() if self._is_live(each, now))
        return self._slots[1]

    def others(self, worker: str, now: float) -> bool:
        """Whether another worker is here that may take tasks."""
        return any(
            name != worker and self._is_live(member, now) and member.until <= now
            for name, member in self._members.items()
        )

    def rests(self, worker: str, now: float) -> bool:
        """Whether this worker is quarantined, while others remain."""
        return self._members[worker].until > now and self.others(worker, now)

    def passed(self, task: int, failed_on: set[str], now: float) -> list[str]:
        """A task succeeded that had failed on these workers; those of them that are quarantined for it."""
        rested = []
        for worker in sorted(failed_on):
            member = self._members.get(worker)
            if member is None:
                continue
            member.strikes += 1
            member.struck.add(task)
            if member.strikes >= STRIKES_MAX and len(member.struck) >= STRUCK_TASKS_MIN and self._may_rest(now):
                member.until, member.strikes = now + QUARANTINE_S, 0
                member.struck.clear()
                rested.append(worker)
        return rested

    def _may_rest(self, now: float) -> bool:
        live = [member for member in self._members.values() if self._is_live(member, now)]
        resting = sum(member.until > now for member in live)
        return (resting + 1) * QUARANTINED_SHARE <= len(live)

    @staticmethod
    def _is_live(member: Member, now: float) -> bool:
        return member.here and now - member.seen <= LIVE_S
