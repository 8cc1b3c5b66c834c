"""Runs compared things alternating in one run, so that a busy machine slows all of them alike.

Each round runs every contender once, the order turning by one from round to round. Rates are
compared within a round and the median of these ratios is the result: a disturbance spoils one
round, not the ratio. Every table states versions, sizes and the physical limit; the last line is
JSON.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TextIO


@dataclass(frozen=True)
class Options:
    """What the command line can ask of any benchmark."""

    rounds: int | None = None
    model: str | None = None
    threads: int | None = None
    device: str = "cpu"
    quick: bool = False
    tune: bool = False
    firings: int | None = None
    place: Path | None = None
    seconds: float | None = None
    clients: int | None = None


@dataclass(frozen=True)
class Contender:
    """One of the compared things.

    Attributes:
        name: Its line in the table.
        run: One repetition; returns (units of work done, seconds it took), so that what is not
            compared, such as loading, stays out of the time.
        version: Library and version.
    """

    name: str
    run: Callable[[], tuple[float, float]]
    version: str = ""


@dataclass(frozen=True)
class Goal:
    """A ratio that is wanted.

    Attributes:
        ours: Contender in the numerator.
        theirs: Contender in the denominator.
        of: What is divided: rates (units per second) or times (seconds per unit).
        sense: Whether the ratio should be large or small.
        bound: How large or small.
    """

    ours: str
    theirs: str
    of: Literal["rate", "time"]
    sense: Literal[">=", "<="]
    bound: float

    @property
    def text(self) -> str:
        """The goal as people read it."""
        return f"{self.of}({self.ours}) / {self.of}({self.theirs}) {self.sense} {self.bound:g}"

    def holds(self, ratio: float | None) -> bool | None:
        """Return whether a ratio reaches the goal; None when there is no ratio."""
        if ratio is None:
            return None
        return ratio >= self.bound if self.sense == ">=" else ratio <= self.bound


@dataclass(frozen=True)
class Amount:
    """Something wanted that is no ratio of rates, such as memory; measured once, after the rounds.

    Attributes:
        name: What it is.
        unit: What it is counted in.
        measure: Returns how much it is.
        sense: Whether it should be large or small.
        bound: How large or small.
    """

    name: str
    unit: str
    measure: Callable[[], float]
    sense: Literal[">=", "<="]
    bound: float

    @property
    def text(self) -> str:
        """The goal as people read it."""
        return f"{self.name} {self.sense} {_short(self.bound)} {self.unit}"

    def holds(self, amount: float) -> bool:
        """Return whether an amount reaches the goal."""
        return amount >= self.bound if self.sense == ">=" else amount <= self.bound


@dataclass(frozen=True)
class Note:
    """A line that is printed and judges nothing; found out once, after the rounds."""

    name: str
    find: Callable[[], str]


@dataclass(frozen=True)
class Limit:
    """What the machine could do at most: the best rate of a contender that does only that.

    It runs among the others, so that a busy machine slows it like them.
    """

    contender: str
    how: str


@dataclass(frozen=True)
class Setup:
    """A benchmark ready to run.

    Attributes:
        contenders: The compared things.
        goals: Wanted ratios; the first one is the benchmark's. None when it only looks around.
        unit: What `rate` counts.
        sizes: Shapes and amounts, as printed.
        limit: The physical limit, if it can be stated.
        absent: Contenders that could not be set up, and why.
        rounds: Rounds unless the command line says otherwise.
        amounts: Further goals.
        notes: Further lines.
    """

    contenders: tuple[Contender, ...]
    goals: tuple[Goal, ...]
    unit: str
    sizes: Mapping[str, object] = field(default_factory=dict)
    limit: Limit | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    rounds: int = 5
    amounts: tuple[Amount, ...] = ()
    notes: tuple[Note, ...] = ()


class Bench(Protocol):
    """A benchmark: a name, what it compares, and how it is set up and torn down."""

    name: str
    doc: str

    def setup(self, options: Options) -> AbstractContextManager[Setup]:
        """Prepare the contenders; what was made is removed when the block ends."""
        ...


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        rates: By contender and round.
        failures: By contender, amount or note: why there is no number.
        amounts: By name.
        notes: By name.
    """

    rates: Mapping[str, Sequence[float]]
    failures: Mapping[str, str]
    amounts: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def ratio(self, goal: Goal) -> float | None:
        """Return the median over rounds of the goal's ratio; None if a side has no rates."""
        ours, theirs = self.rates.get(goal.ours), self.rates.get(goal.theirs)
        if not ours or not theirs:
            return None
        pairs = zip(ours, theirs, strict=True)
        return statistics.median(a / b if goal.of == "rate" else b / a for a, b in pairs)


def measure(
    contenders: Sequence[Contender], rounds: int, *, tell: Callable[[str], None] = lambda _: None
) -> Result:
    """Run every contender once unmeasured, then once a round.

    A contender that raises is out from then on; its error stays in the table.
    """
    rates: dict[str, list[float]] = {c.name: [] for c in contenders}
    failures: dict[str, str] = {}
    for number in range(-1, rounds):
        turn = max(number, 0) % max(len(contenders), 1)
        for contender in (*contenders[turn:], *contenders[:turn]):
            if contender.name in failures:
                continue
            tell(f"round {number + 1} of {rounds}: {contender.name}")
            try:
                amount, seconds = contender.run()
            except Exception as error:  # noqa: BLE001 - a peer may raise anything; it is reported
                failures[contender.name] = _said(error)
                del rates[contender.name]
                continue
            if number >= 0:
                rates[contender.name].append(amount / seconds)
    return Result(rates, failures)


def look(setup: Setup, result: Result, *, tell: Callable[[str], None] = lambda _: None) -> Result:
    """Return the result with the amounts and notes of a setup."""
    failures = dict(result.failures)
    amounts: dict[str, float] = {}
    notes: dict[str, str] = {}
    for amount in setup.amounts:
        tell(amount.name)
        try:
            amounts[amount.name] = amount.measure()
        except Exception as error:  # noqa: BLE001 - it is reported, like a contender's
            failures[amount.name] = _said(error)
    for note in setup.notes:
        tell(note.name)
        try:
            notes[note.name] = note.find()
        except Exception as error:  # noqa: BLE001 - as above
            notes[note.name] = _said(error)
    return Result(result.rates, failures, amounts, notes)


def run(bench: Bench, options: Options, out: TextIO, tell: Callable[[str], None]) -> bool | None:
    """Set up, measure and print one benchmark; return whether its goals hold."""
    with bench.setup(options) as setup:
        started = time.perf_counter()
        result = measure(setup.contenders, options.rounds or setup.rounds, tell=tell)
        result = look(setup, result, tell=tell)
        seconds = time.perf_counter() - started
    line = verdict(bench.name, setup, result)
    for text in table(bench, setup, result, seconds):
        print(text, file=out)
    print(json.dumps(line), file=out, flush=True)
    return line["holds"]


def verdict(name: str, setup: Setup, result: Result) -> dict[str, object]:
    """Return the JSON line: the first goal, whether all that were measured hold, and each."""
    each: list[dict[str, object]] = [
        {"ratio": _rounded(ratio := result.ratio(goal)), "goal": goal.text,
         "holds": goal.holds(ratio)}
        for goal in setup.goals
    ]  # fmt: skip
    for amount in setup.amounts:
        found = result.amounts.get(amount.name)
        holds = None if found is None else amount.holds(found)
        each.append({"amount": _rounded(found), "goal": amount.text, "holds": holds})
    measured = [goal["holds"] for goal in each if goal["holds"] is not None]
    first = each[0] if setup.goals else {"ratio": None, "goal": None}
    return {
        "bench": name,
        "ratio": first["ratio"],
        "goal": first["goal"],
        "holds": all(measured) if measured else None,
        **({"goals": each} if len(each) > 1 else {}),
    }


def table(bench: Bench, setup: Setup, result: Result, seconds: float) -> list[str]:
    """Return the lines of the table."""
    names = [c.name for c in setup.contenders] + list(setup.absent)
    width = max((len(name) for name in names), default=0)
    lines = [f"{bench.name}: {bench.doc}", f"  {machine()}"]
    lines += [f"  {key}: {value}" for key, value in setup.sizes.items()]
    lines.append("")
    lines.append(
        f"  {'':{width}}  {setup.unit + '/s':>14}  {'lowest':>11}  {'highest':>11}  version"
    )
    for contender in setup.contenders:
        rates = result.rates.get(contender.name)
        if not rates:
            lines.append(f"  {contender.name:{width}}  {result.failures[contender.name]}")
            continue
        lines.append(
            f"  {contender.name:{width}}  {statistics.median(rates):>14,.1f}  {min(rates):>11,.1f}"
            f"  {max(rates):>11,.1f}  {contender.version}"
        )
    lines += [f"  {name:{width}}  absent: {why}" for name, why in setup.absent.items()]
    if setup.limit is not None and result.rates.get(setup.limit.contender):
        best = max(result.rates[setup.limit.contender])
        lines.append(f"  {'limit':{width}}  {best:>14,.1f}  {setup.limit.how}")
    lines.append("")
    for goal in setup.goals:
        ratio = result.ratio(goal)
        shown = "—" if ratio is None else f"{ratio:.3f}"
        lines.append(f"  {shown}  {goal.text}: {_JUDGED[goal.holds(ratio)]}")
    for amount in setup.amounts:
        found = result.amounts.get(amount.name)
        if found is None:
            lines.append(f"  —  {amount.text}: {result.failures.get(amount.name, _JUDGED[None])}")
        else:
            lines.append(f"  {_short(found)}  {amount.text}: {_JUDGED[amount.holds(found)]}")
    lines += [f"  {name}: {said}" for name, said in result.notes.items()]
    lines.append(f"  {seconds:.0f} s")
    return lines


_JUDGED = {True: "holds", False: "does not hold", None: "not measured"}


def machine() -> str:
    """Return what was measured on, in one line."""
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}"
    )


def timed(work: Callable[[], object]) -> float:
    """Return how long one call takes, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


_WHOLE = 100
"""From here on what is behind the point is noise."""


def _short(amount: float) -> str:
    return f"{amount:,.0f}" if abs(amount) >= _WHOLE else f"{amount:.3g}"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
