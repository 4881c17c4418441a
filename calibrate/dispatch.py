"""Units of work done here or by an executor, each result kept in the store as soon as it is there.

What is in the store is not computed again. A unit that fails is tried again twice, then kept as failed with its reason; the others go on.
An interrupted run loses the units in flight and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qsim.errors import BadData, QsimError

from .candidates import of_text
from .scoring import VERSION, Lab, Unit, part_of, scored
from .store import Row, Store

log = logging.getLogger("qsim")
RETRIES = 2
IN_FLIGHT = 64  # units that an executor holds at once

Pool = Executor | Callable[[], Executor]


Answer = Future[tuple[str, dict[str, np.ndarray]]]


class Flight(NamedTuple):
    """A unit that an executor holds; alone: it was a suspect, and nothing else was in flight with it."""

    unit: Unit
    alone: bool
    pool: Executor | None


@dataclass
class Count:
    """How many results were found in the store, were computed, and failed."""

    reused: int = 0
    new: int = 0
    failed: int = 0


class Desk:
    """Hands out units and keeps their results. pool: an executor, a function that makes one (then a broken one is replaced), or None
    for this process. worker: (i, n) leaves out the units of other workers. done: called after each unit. patience: seconds without any
    answer after which the units in flight are tried again (None: no end)."""

    def __init__(
        self,
        lab: Lab,
        store: Store,
        pool: Pool | None = None,
        worker: tuple[int, int] | None = None,
        done: Callable[[Count], None] | None = None,
        patience: float | None = None,
    ):
        self.lab, self.store, self.worker, self.patience = lab, store, worker, patience
        self.count, self._told, self._known = Count(), done, dict[Unit, Row]()
        self._pool = pool if isinstance(pool, Executor) else None
        self._fresh = None if isinstance(pool, Executor) else pool

    def results(self, units: Sequence[Unit]) -> dict[Unit, Row]:
        """The rows of units, from the store or computed; without those of other workers that are not there yet."""
        found, missing = dict[Unit, Row](), []
        for unit in dict.fromkeys(units):
            if unit in self._known:
                found[unit] = self._known[unit]
            elif (row := self.store.get(self.lab.key(unit))) is not None and row.status == "done":
                found[unit] = self._known[unit] = row
                self.count.reused += 1
            elif self._is_mine(unit):
                missing.append(unit)
        self._tell()
        for unit, row in self._computed(missing):
            self.store.put(row)
            found[unit] = self._known[unit] = row
            self.count.new += row.status == "done"
            self.count.failed += row.status != "done"
            self._tell()
        return found

    def close(self) -> None:
        """Ends the executor that was made here."""
        if self._fresh is not None and self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _tell(self) -> None:
        if self._told:
            self._told(self.count)

    def _is_mine(self, unit: Unit) -> bool:
        return self.worker is None or int(self.lab.key(unit)[:15], 16) % self.worker[1] == self.worker[0]

    def _computed(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Row]]:
        if self._pool is None and self._fresh is None:
            return ((unit, self._here(unit)) for unit in units)
        return self._elsewhere(units)

    def _here(self, unit: Unit) -> Row:
        for left in range(RETRIES, -1, -1):
            try:
                return self._row(unit, self.lab.score(unit))
            except QsimError as fault:
                return self._failed(unit, fault)
            except Exception as fault:
                log.warning("%s: %s: %s", of_text(unit.candidate), type(fault).__name__, fault)
                if not left:
                    return self._failed(unit, fault)
        raise AssertionError

    def _elsewhere(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Row]]:
        """Each unit's row, in the order in which they come."""
        tries = dict.fromkeys(units, 0)
        waiting, flying = list(reversed(units)), dict[Answer, Flight]()
        suspects: set[Unit] = set()  # in flight when an executor broke: they go alone, so that it is known who breaks it
        while waiting or flying:
            while waiting and len(flying) < (1 if suspects else IN_FLIGHT):
                unit = waiting.pop()
                answer = self._submitted(unit)
                flying[answer] = Flight(unit, not flying and unit in suspects, self._pool)
            done, _ = wait(flying, self.patience, FIRST_COMPLETED)
            for answer in done or list(flying):
                flight = flying.pop(answer)
                row, broke = self._landed(flight, answer, tries)
                suspects.discard(flight.unit)
                if row is not None:
                    yield flight.unit, row
                    continue
                waiting.append(flight.unit)
                if broke:
                    suspects.add(flight.unit)

    def _submitted(self, unit: Unit) -> Answer:
        if self._pool is None:
            assert self._fresh is not None
            self._pool = self._fresh()
        return self._pool.submit(scored, self.lab.job, unit)

    def _landed(self, flight: Flight, answer: Answer, tries: dict[Unit, int]) -> tuple[Row | None, bool]:
        """(the row of a unit whose worker answered, or None where it is to be tried again, whether the executor broke)."""
        unit, broke = flight.unit, False
        try:
            return self._answered(unit, answer), False
        except QsimError as fault:
            return self._failed(unit, fault), False
        except Exception as fault:
            log.warning("%s: %s: %s", of_text(unit.candidate), type(fault).__name__, fault)
            if broke := isinstance(fault, BrokenExecutor):
                self._give_up(flight, fault)
            tries[unit] += flight.alone or not broke
            return (self._failed(unit, fault) if tries[unit] > RETRIES else None), broke

    def _answered(self, unit: Unit, answer: Answer) -> Row:
        if not answer.done():
            answer.cancel()
            raise TimeoutError(f"no answer for {self.patience:g} s")
        key, arrays = answer.result()
        if key != self.lab.key(unit):
            raise BadData("a worker saw another model, other data, strategies or versions", hint="Let nothing change while a sweep runs")
        return self._row(unit, arrays)

    def _give_up(self, flight: Flight, fault: Exception) -> None:
        """A broken executor that was made here is replaced when the next unit goes. *Raises*: the fault, where it is the caller's."""
        if self._fresh is None:
            raise fault
        if self._pool is not None and self._pool is flight.pool:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _row(self, unit: Unit, arrays: dict[str, np.ndarray]) -> Row:
        n = unit.stop - unit.start
        if any(len(x) != n or not np.isfinite(x).all() for x in arrays.values()) or "loss" not in arrays:
            raise ValueError("a worker gave something else than finite scores of every sample")
        return self._named(unit, "done", "", arrays)

    def _failed(self, unit: Unit, fault: Exception) -> Row:
        reason = str(fault) if isinstance(fault, QsimError) else f"{type(fault).__name__}: {fault}"
        return self._named(unit, "failed", reason, {})

    def _named(self, unit: Unit, status: str, reason: str, arrays: dict[str, np.ndarray]) -> Row:
        lab = self.lab
        facts = {name: float(x.mean()) for name, x in arrays.items()} | {"measure": lab.measure, "samples": unit.stop - unit.start}
        return Row(lab.key(unit), lab.hash, unit.candidate, lab.fingerprint, VERSION, part_of(unit), status, reason, facts, arrays)
