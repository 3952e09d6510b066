"""What must hold of a run's folder after all faults. Each function returns what does not hold, one line for each."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from inarch.population.errors import CheckpointError, InarchError
from inarch.population.membership.members import MemberRecord, MemberState
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.claim import claims
from inarch.population.persistence.history import damaged_files, read_table
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import members_of, read_info, read_members, read_result


def problems(folder: str | Path) -> list[str]:
    """Return everything that does not hold of a run that has ended.

    Args:
        folder: The run's folder.
    """
    storage = Storage(str(folder))
    checks: Sequence[Callable[[Storage], Iterator[str]]] = (
        unfinished_networks,
        wrong_rows,
        wrong_grafts,
        damaged_tables,
        damaged_checkpoints,
        wrong_result,
        open_claims,
        stray_files,
    )
    lines: list[str] = []
    for check in checks:
        try:
            lines += check(storage)
        except (InarchError, OSError) as error:
            lines.append(f"{check.__name__.replace('_', ' ')}: {error}")
    return lines


def own_networks(storage: Storage) -> list[MemberRecord]:
    """Return the recorded networks of a run, without its guests.

    Args:
        storage: The run's folder.

    Raises:
        InarchError: There is no record, or it is damaged.
    """
    return [member for member in _members(storage) if not member.is_guest]


def unfinished_networks(storage: Storage) -> Iterator[str]:
    """Yield the networks that neither ended their schedule nor retired.

    Args:
        storage: The run's folder.
    """
    last = read_info(storage).num_intervals
    networks = own_networks(storage)
    if not any(member.state is MemberState.DONE for member in networks):
        yield "no network has ended its schedule"
    reached = {network_id: max(intervals) for network_id, intervals in _intervals(storage).items()}
    for member in networks:
        if member.state is MemberState.DONE and reached.get(member.id, 0) != last:
            yield f"network {member.id} is done, but its last row is of interval {reached.get(member.id, 0)} of {last}"
        elif member.state not in (MemberState.DONE, MemberState.RETIRED):
            yield f"network {member.id} is {member.state.value} at interval {reached.get(member.id, 0)} of {last}"


def wrong_rows(storage: Storage) -> Iterator[str]:
    """Yield the intervals that are missing from the table of metrics, or are in it twice.

    Args:
        storage: The run's folder.
    """
    members = {member.id: member for member in _members(storage)}
    for network_id, intervals in _intervals(storage).items():
        member = members.get(network_id)
        if member is None:
            yield f"network {network_id} has rows, but is no member"
            continue
        double = [interval for interval, count in collections.Counter(intervals).items() if count > 1]
        if double:
            yield f"network {network_id} has interval {double[0]} twice"
        first = 1 if member.is_initial else min(intervals)
        missing = sorted(set(range(first, max(intervals) + 1)) - set(intervals))
        if missing and not member.is_guest:
            yield f"network {network_id} lacks interval {missing[0]} ({len(missing)} of {max(intervals)} are missing)"


def wrong_grafts(storage: Storage) -> Iterator[str]:
    """Yield the intervals of own networks for which the tables of metrics and of grafts disagree.

    Args:
        storage: The run's folder.
    """
    own = {member.id for member in own_networks(storage)}
    metrics, grafts = read_table(storage, "metrics"), read_table(storage, "grafts")
    keys = zip(*(metrics[name].to_pylist() for name in ("network", "interval", "outcome")), strict=True)
    grafted = {
        (network, interval)
        for network, interval, outcome in keys
        if outcome == ExchangeOutcome.GRAFTED.value and network in own
    }
    rows = set(zip(*(grafts[name].to_pylist() for name in ("rootstock", "interval")), strict=True))
    rows = {row for row in rows if row[0] in own}
    for network, interval in sorted(grafted - rows)[:1]:
        yield f"network {network} grafted at interval {interval}, but the table of grafts has no row of it"
    for network, interval in sorted(rows - grafted)[:1]:
        yield f"network {network} has a row of a graft at interval {interval}, at which it did not graft"


def damaged_tables(storage: Storage) -> Iterator[str]:
    """Yield the files of the tables that are damaged.

    Args:
        storage: The run's folder.
    """
    yield from (f"{name} is damaged: {reason}" for name, reason in damaged_files(storage).items())


def damaged_checkpoints(storage: Storage) -> Iterator[str]:
    """Yield the checkpoints that cannot be loaded, and the networks that have rows but no checkpoint.

    Args:
        storage: The run's folder.
    """
    store = CheckpointStore(storage)
    with_checkpoint: set[int] = set()
    for network_id in store.networks():
        for checkpoint in store.list(network_id):
            try:
                store.load(network_id, checkpoint)
                with_checkpoint.add(network_id)
            except CheckpointError as error:
                yield str(error)
    own = {member.id for member in own_networks(storage)}
    for network_id in sorted((own & set(_intervals(storage))) - with_checkpoint):
        yield f"network {network_id} has no checkpoint"


def wrong_result(storage: Storage) -> Iterator[str]:
    """Yield what is wrong with result.json: it is absent, lacks a network that is done, or names damaged files.

    Args:
        storage: The run's folder.
    """
    result = read_result(storage)
    if result is None:
        yield "result.json is not there, or is damaged"
        return
    done = {member.id for member in own_networks(storage) if member.state is MemberState.DONE}
    for network_id in sorted(done - {row["network"] for row in result["networks"] if row["ended"] == "done"}):
        yield f"result.json lacks network {network_id}, which is done"
    for name in result["damaged_files"]:
        yield f"result.json names a damaged file: {name}"


def open_claims(storage: Storage) -> Iterator[str]:
    """Yield the claims on the folder that were not withdrawn.

    Args:
        storage: The run's folder.
    """
    for claim in claims(storage):
        yield f"claim {claim.generation} on the folder was not withdrawn"


def stray_files(storage: Storage) -> Iterator[str]:
    """Yield files that no reader of the folder needs: parts of files, and folders of checkpoints not written whole.

    Args:
        storage: The run's folder, which is local.
    """
    folder = Path(storage.uri)
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".part", ".chaos") or path.name in (".writable", ".filler") or path.is_fifo():
            yield f"{path.relative_to(folder)} was left behind"
    store = CheckpointStore(storage)
    for network_id in store.networks():
        committed = store.list(network_id)
        names = {checkpoint.name for checkpoint in committed}
        for path in sorted((folder / "networks" / str(network_id)).iterdir()):
            if path.is_dir() and path.name not in names and committed and path.name < committed[-1].name:
                yield f"networks/{network_id}/{path.name} was not written whole, and was left behind"


def num_rows(folder: str | Path) -> int:
    """Return the intervals in the history of a run, of all networks. 0 if there is no run.

    Args:
        folder: The run's folder.
    """
    try:
        return read_table(Storage(str(folder)), "metrics").num_rows
    except (InarchError, OSError):
        return 0


def _members(storage: Storage) -> list[MemberRecord]:
    """Return the recorded members of a run."""
    return members_of(read_members(storage) or {"members": []})


def _intervals(storage: Storage) -> dict[int, list[int]]:
    """Return the intervals of each network that has rows."""
    table = read_table(storage, "metrics")
    intervals: dict[int, list[int]] = {}
    for network_id, interval in zip(table["network"].to_pylist(), table["interval"].to_pylist(), strict=True):
        intervals.setdefault(network_id, []).append(interval)
    return intervals
