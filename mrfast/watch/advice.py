"""What was slow in a job and why, each with its figure and what to do about it.

Pure functions of a JobModel. A finding's seconds are those of the job that it cost, as far as the log can tell: of slot
seconds that were lost, their share of all slots. What cost less than a twentieth of the job stands not out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mrfast.watch.model import ACCEPTED, EXPIRED, FAILED, KINDS, Attempt, JobModel, middle
from mrfast.watch.progress import counted, size_text

NOTABLE_SHARE = 0.05  # of the job's seconds
NOTABLE_S = 0.2
SKEW_RATIO = 3.0  # the largest partition over the median one
HOT_SHARE = 0.5  # of the largest partition, that one key may have before more partitions are of no use
STRAGGLER_RATIO = 2.0
STRAGGLER_S = 0.5  # more than the median, at least
STRAGGLERS_OF = 4  # tasks of a kind, before a median says anything
SLOW_WORKER_RATIO = 1.5
WAIT_SHARE = 0.3
SHORT_TASK_S = 1.0
WAVES = 4  # tasks a slot: with fewer, the last ones leave slots idle; with more, short ones cost more than they balance
FEW_WAVES = 2
IDLE_SHARE = 0.3
PYTHON_SHARE = 0.5
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that cost the job time: its seconds, what it is, how it was measured, and what to do."""

    kind: str
    seconds: float
    title: str
    figure: str
    advice: str


def explain(model: JobModel) -> list[Finding]:
    """What stands out, the most costly first; an empty list if nothing does."""
    least = max(NOTABLE_S, NOTABLE_SHARE * model.seconds)
    found = [finding for look in LOOKS for finding in look(model) if finding.seconds >= least]
    found = [replace(finding, seconds=round(finding.seconds, 3)) for finding in found]
    return sorted(found, key=lambda finding: -finding.seconds)


# -- what is looked at ----------------------------------------------------------------------------------------------


def skew(model: JobModel) -> Iterator[Finding]:
    """One partition has far more than the others."""
    sizes, tasks = model.shuffle, model.of_kind("r")
    if len(tasks) < 2 or len(sizes) < 2 or not sum(sizes):
        return
    largest, usual = max(sizes), middle(sizes) or sum(sizes) / len(sizes)
    if largest < SKEW_RATIO * usual:
        return
    worked = [attempt.worked for attempt in tasks]
    lost = max(worked) - max(middle(worked), sum(worked) / model.slots)
    place = sizes.index(largest)
    exact = len(sizes) == model.partitions
    name = f"partition {place}" if exact else f"bucket {place} of {len(sizes)} of partitions"
    figure = (
        f"{name} has {size_text(largest)} of {size_text(sum(sizes))} ({largest / sum(sizes):.0%}), "
        f"{largest / usual:,.1f} times the median; "
        f"its reduce took {max(worked):,.1f} s, the median {middle(worked):,.1f} s"
    )
    keys = [key for key in model.hot.get("keys", ()) if not exact or key.get("partition") == place]
    if keys and keys[0]["bytes"] >= HOT_SHARE * largest:
        figure += f"; the key {keys[0]['key']!r} alone is {keys[0]['bytes'] / sum(sizes):.0%} of the shuffle"
        advice = model.hot.get("advice") or _combine_advice(model)
    else:
        advice = f"more partitions spread the keys: --reduces {_more_reduces(model)}; a combine shrinks the shuffle"
    yield Finding("skew", lost, "one partition is far larger than the others", figure, advice)


def stragglers(model: JobModel) -> Iterator[Finding]:
    """A few tasks took much longer than the others of their kind."""
    for kind, name in KINDS.items():
        tasks = model.of_kind(kind)
        usual = middle(attempt.worked for attempt in tasks)
        least = max(STRAGGLER_RATIO * usual, usual + STRAGGLER_S)
        slow = [attempt for attempt in tasks if attempt.worked >= least]
        if len(tasks) < STRAGGLERS_OF or not slow or not usual:
            continue
        size_usual = middle(_bytes(model, attempt) for attempt in tasks)
        large = [each for each in slow if _bytes(model, each) >= SLOW_WORKER_RATIO * size_usual > 0]
        names = {each.name for each in large}
        small = [each for each in slow if each.name not in names]
        if large and kind == "m":  # a large partition is skew
            advice = (
                'a compressed file, and one for input = "file", is never split: store it uncompressed or as several '
                'files, use input = "blocks" or "lines"; others are by a smaller --split-bytes'
            )
            worst = max(large, key=lambda each: each.worked)
            figure = (
                f"{_many(large, name)} {_times(large, usual)} the median of {usual:,.2f} s; {worst.task} read "
                f"{size_text(_bytes(model, worst))} of {model.tasks[worst.task].input}, "
                f"the median is {size_text(size_usual)}"
            )
            yield Finding(
                "large_input", _delay(model, tasks, large), "a few maps have much larger inputs", figure, advice
            )
        if small:
            yield _slow(model, name, tasks, small, usual)


def store_waits(model: JobModel) -> Iterator[Finding]:
    """Slots waited for bytes."""
    for kind, name, what in (("m", "map", "the input"), ("r", "reduce", "map outputs")):
        spent = model.spent(kind)
        wait, all_of_it = spent.get("wait", 0.0), sum(spent.values()) - spent.get("turn", 0.0) - spent.get("maps", 0.0)
        if not all_of_it or wait < WAIT_SHARE * all_of_it:
            continue
        begin, end = model.span(kind)
        idle = model.capacity(begin, end) - spent.get("compute", 0.0) - spent.get("spill", 0.0)
        outcomes = model.end.get("requests", {}).get("by_outcome", {})
        figure = (
            f"{wait:,.1f} of {all_of_it:,.1f} slot seconds of the {name}s ({wait / all_of_it:.0%}) went to waiting for "
            f"{what}"
        )
        if throttled := outcomes.get("throttled", 0):
            figure += f"; the store throttled {counted(throttled, 'request')}"
        far = str(model.facts.get("store_url", "")).startswith("s3:")
        advice = (
            "run the workers in the bucket's region, with more slots than cores (--slots, --workers) or on more "
            "machines; splits of at least 16 MiB keep several reads under way"
            if far
            else "the disk or network file system is the limit: put input and store on a faster one"
        )
        yield Finding(
            f"store_wait_{name}", min(wait, max(0.0, idle)) / model.slots, "slots waited for the store", figure, advice
        )


def small_splits(model: JobModel) -> Iterator[Finding]:
    """The maps are so short that handing them out takes longer."""
    tasks, slots = model.of_kind("m"), model.slots
    usual = middle(attempt.worked for attempt in tasks)
    if len(tasks) <= WAVES * slots or usual >= SHORT_TASK_S:
        return
    begin, end = model.span("m")
    overhead = max(0.0, model.capacity(begin, end) - model.busy("m"))
    inputs = {model.tasks[attempt.task].input for attempt in tasks}
    size = sum(_bytes(model, attempt) for attempt in tasks)
    figure = (
        f"{len(tasks):,} maps of {usual * 1000:,.0f} ms (median), {size_text(size / len(tasks))} each: "
        f"{overhead / len(tasks) * 1000:,.1f} ms of overhead for each one"
    )
    if len(inputs) > len(tasks) // 2:
        advice = "each small file is a task of its own: join them (cat) into files of some 64 MiB"
    else:
        advice = f"fewer, larger tasks: --split-bytes {_split(size / (WAVES * slots))}"
    yield Finding("small_splits", overhead / slots, "the splits are too small", figure, advice)


def few_tasks(model: JobModel) -> Iterator[Finding]:
    """Slots had nothing to do, since there were too few tasks."""
    for kind, name in KINDS.items():
        tasks, slots = model.of_kind(kind), model.slots
        begin, end = model.phase(kind)
        all_of_it = model.capacity(begin, end)
        if not tasks or len(tasks) >= FEW_WAVES * slots or all_of_it <= 0:
            continue
        idle = max(0.0, all_of_it - model.busy(kind))
        if idle < IDLE_SHARE * all_of_it:
            continue
        figure = (
            f"{counted(len(tasks), name)} for {counted(slots, 'slot')}: {idle / all_of_it:.0%} of the slots' time "
            f"in the {name} phase was idle"
        )
        if kind == "m":
            size = sum(_bytes(model, attempt) for attempt in tasks)
            advice = (
                f"--split-bytes {_split(size / (WAVES * slots))} makes more maps, if the input can be split (not "
                'compressed, and no input = "file" in the application)'
            )
        else:
            advice = f"--reduces {_more_reduces(model)} gives each slot something to do"
        yield Finding(f"few_{name}s", idle / slots, f"too few {name}s for the slots", figure, advice)


def python(model: JobModel) -> Iterator[Finding]:
    """Python functions take most of what is computed."""
    said: dict[str, str] = model.facts.get("python") or {}
    busy = sum(model.spent(part).get("compute", 0.0) for part in KINDS)
    for kind, roles in (("m", ("map", "combine")), ("r", ("reduce",))):
        here = [role for role in roles if role in said]
        compute = model.spent(kind).get("compute", 0.0)
        if not here or not busy or compute < PYTHON_SHARE * busy:
            continue
        ops = [f"{role} = {said[role]}" for role in here if said[role]]
        if kind == "m" and ops and said.get("reduce"):  # which combines by itself
            ops = [op for op in ops if not op.startswith("combine")] + [f"reduce = {said['reduce']}"]
        advice = (
            f"{' and '.join(ops)} may do the same natively (a guess by the names in its code)"
            if ops
            else "let ops or the kernels of mrfast.core do what is done for each record, and sum up before you yield"
        )
        yield Finding(
            f"python_{here[0]}",
            compute / model.slots,
            f"Python runs for each record, in {' and '.join(here)}",
            f"{compute:,.1f} of {busy:,.1f} slot seconds of computing ({compute / busy:.0%}) are in the {KINDS[kind]}s",
            advice,
        )


def thrown_away(model: JobModel) -> Iterator[Finding]:
    """Work that failed, or went with its worker."""
    wasted = [each for each in model.thrown_away() if each.word in (FAILED, EXPIRED, "lost", "rolled_back")]
    if not wasted or model.state == "FAILED":  # then they are no cost, but the story
        return
    kinds = Counter(each.failed.kind if each.failed else each.word for each in wasted)
    words = {"app": "of the application", "died": "whose process died", "stalled": "without progress",
             "store": "of the store", "input": "of the input", "corrupt": "of damaged map outputs",
             EXPIRED: "with a worker that was lost", "lost": "whose output was lost",
             "rolled_back": "made from an output that was lost"}  # fmt: skip
    told = ", ".join(f"{number:,} {words.get(kind, kind)}" for kind, number in kinds.most_common())
    seconds = sum(each.lasted for each in wasted)
    gone = [worker.name for worker in model.workers.values() if worker.gone is not None and kinds[EXPIRED]]
    figure = f"{counted(len(wasted), 'attempt')} thrown away ({told}): {seconds:,.1f} slot seconds"
    if gone:
        figure += f"; gone: {', '.join(gone[:5])}" + (", ..." if len(gone) > 5 else "")
    advice = {
        "died": "if the kernel killed them for their memory: a smaller --memory, or fewer slots on a machine",
        EXPIRED: "smaller tasks lose less with a worker (--split-bytes); SIGTERM lets a worker finish what it runs",
        "store": "the store was down or refused: see what failed first",
        "lost": "see whether something else removes objects of the store",
        "stalled": "a longer --stall-s, if such records do take their time",
    }.get(kinds.most_common(1)[0][0], "mend the application, or skip what it cannot take: --max-bad-records N")
    yield Finding("thrown_away", seconds / model.slots, "work was thrown away", figure, advice)


def backups(model: JobModel) -> Iterator[Finding]:
    """Attempts that ran a second time beside slow ones."""
    ran = [attempt for attempt in model.attempts.values() if attempt.backup]
    if not ran:
        return
    won = sum(attempt.word == ACCEPTED for attempt in ran)
    tasks = {attempt.task for attempt in ran}
    lost = [each for each in model.thrown_away() if each.task in tasks and each.word not in (FAILED, EXPIRED)]
    seconds = sum(each.lasted for each in lost)
    figure = (
        f"{counted(len(ran), 'backup attempt')}, of which {won:,} won; {seconds:,.1f} slot seconds went to those that "
        "lost"
    )
    advice = "they are insurance against slow machines: see which worker the slow ones ran on"
    yield Finding("backups", seconds / model.slots, "backup attempts ran beside slow ones", figure, advice)


def map_waits(model: JobModel) -> Iterator[Finding]:
    """Reduces that began early waited for the last maps."""
    spent = model.spent("r")
    wait = spent.get("maps", 0.0)
    tasks = [attempt for attempt in model.of_kind("r") if attempt.seconds.get("maps")]
    if not tasks or wait < WAIT_SHARE * sum(spent.values()):
        return
    longest = max(each.seconds["maps"] for each in tasks)
    figure = (
        f"{counted(len(tasks), 'reduce')} waited {wait:,.1f} slot seconds for maps to end, the longest {longest:,.1f} s"
    )
    advice = "no map had to wait for their slots; a shorter end of the map phase helps: smaller --split-bytes"
    yield Finding("map_waits", wait / model.slots, "reduces waited for maps", figure, advice)


def spills(model: JobModel) -> Iterator[Finding]:
    """Tasks went to the local disk."""
    for kind, name in KINDS.items():
        seconds = model.spent(kind).get("spill", 0.0)
        tasks = [attempt for attempt in model.of_kind(kind) if attempt.seconds.get("spill")]
        if tasks:
            figure = (
                f"{len(tasks):,} of {counted(len(model.of_kind(kind)), name)} spent {seconds:,.1f} slot seconds on "
                "sorted runs in TMPDIR"
            )
            cure = "a smaller --split-bytes" if kind == "m" else f"--reduces {_more_reduces(model)}"
            advice = f"a larger --memory if the machine has it, or {cure}; TMPDIR on a fast disk"
            yield Finding(f"spills_{name}", seconds / model.slots, f"{name}s went to the local disk", figure, advice)


def edges(model: JobModel) -> Iterator[Finding]:
    """The time before the first task, between the phases and behind the last task."""
    if not model.attempts:
        return
    first, maps, reduces = min(each.began for each in model.attempts.values()), model.span("m"), model.span("r")
    yield Finding(
        "start",
        first,
        "the first task began late",
        f"{first:,.1f} s from the start of the job to its first task",
        "workers that are there when the coordinator starts, and fewer inputs to list: larger files",
    )
    if maps[1] and reduces[0] > maps[1]:
        yield Finding(
            "between",
            reduces[0] - maps[1],
            "no reduce began when the maps were done",
            f"{reduces[0] - maps[1]:,.1f} s between the last map and the first reduce",
            "see whether workers were there: mrfast report shows who ran what when",
        )
    if model.state == "COMMITTED" and reduces[1]:
        last = max(maps[1], reduces[1])
        yield Finding(
            "commit",
            model.seconds - last,
            "the end took long",
            f"{model.seconds - last:,.1f} s from the last task to the committed and published output",
            "each part is copied to its name: fewer --reduces, or an output in the store's own bucket or file system",
        )


LOOKS: tuple[Callable[[JobModel], Iterator[Finding]], ...] = (
    skew, stragglers, store_waits, small_splits, few_tasks, python, thrown_away, backups, map_waits, spills, edges,
)  # fmt: skip


# -- inside -----------------------------------------------------------------------------------------------------------


def _slow(model: JobModel, name: str, tasks: list[Attempt], slow: list[Attempt], usual: float) -> Finding:
    """Tasks of the usual size that took longer: for their worker, for the store, or for what is in them."""
    figure = f"{_many(slow, name)} {_times(slow, usual)} the median of {usual:,.2f} s, with inputs of the usual size"
    worker, number = Counter(each.worker for each in slow).most_common(1)[0]
    here = middle(each.worked for each in tasks if each.worker == worker)
    elsewhere = middle(each.worked for each in tasks if each.worker != worker)
    if elsewhere and number * 2 > len(slow) and here >= SLOW_WORKER_RATIO * elsewhere:
        title, advice = f"the worker {worker} is slow", f"look after the machine of {worker}, or run without it"
        figure += f"; {number} of them on {worker}, whose median is {here:,.2f} s, elsewhere {elsewhere:,.2f} s"
    else:
        worst = max(slow, key=lambda each: each.worked)
        where = model.tasks[worst.task].input
        title = f"a few {name}s took much longer than the others"
        part = max(worst.seconds, key=lambda each: worst.seconds[each], default="")
        figure += f"; the longest is {worst.task}" + (f" ({where})" if where else "")
        figure += f", {worst.seconds[part]:,.1f} s of it in {part}" if part else ""
        advice = (
            "its records cost more: look at them" if part == "compute" else "the store or the machine had a bad moment"
        )
    return Finding(f"slow_{name}s", _delay(model, tasks, slow), title, figure, advice)


def _delay(model: JobModel, tasks: list[Attempt], slow: list[Attempt]) -> float:
    """How much later the phase ended for the slow ones: what came behind all others, or their share of the slots."""
    names = {each.name for each in slow}
    rest = [each for each in tasks if each.name not in names]
    behind = max(each.ended or 0.0 for each in tasks) - max((each.ended or 0.0 for each in rest), default=0.0)
    usual = middle(each.worked for each in rest)
    return max(behind if rest else 0.0, sum(each.worked - usual for each in slow) / model.slots)


def _bytes(model: JobModel, attempt: Attempt) -> int:
    """How large the input of a map is; of a reduce, whose bytes nobody counts, the number of its records."""
    return attempt.bytes_in or model.tasks[attempt.task].bytes or attempt.records_in


def _many(slow: list[Attempt], name: str) -> str:
    return f"{counted(len(slow), name)} took"


def _times(slow: list[Attempt], usual: float) -> str:
    least, most = (round(pick(each.worked for each in slow) / usual, 1) for pick in (min, max))
    return f"{most:,.1f} times" if least == most else f"{least:,.1f} to {most:,.1f} times"


def _more_reduces(model: JobModel) -> int:
    now = int(model.facts.get("reduces", 1))
    return max(2 * now, FEW_WAVES * model.slots)


def _split(size: float) -> str:
    """A size as one gives it to --split-bytes: a power of two of MiB."""
    mib = 1
    while mib * MIB < size:
        mib *= 2
    return f"{mib}MiB"


def _combine_advice(model: JobModel) -> str:
    if model.hot.get("combined"):
        return (
            "one key goes to one reduce: make it several in map (add a part of the value), and add those up afterwards"
        )
    return "a combine in the application adds such a key up within each map: combine = reduce, or a native reduce op"
