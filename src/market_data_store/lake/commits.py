"""The one way a commit gets into a table's log."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Final

from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.transaction import AddAction, RemoveAction

from market_data_store.lake.log import ACTIONS, TableLog, TornCommit

_TOKEN: Final = "platformCommit"  # noqa: S105  a key in the commit's own information
_NO_HOOKS: Final = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


class Outcome(Enum):
    """What became of a commit that failed."""

    ABSENT = auto()
    PRESENT = auto()
    UNKNOWN = auto()


def new_token() -> str:
    """Return a name by which a commit can be found in the log."""
    return uuid.uuid4().hex


def commit(
    delta: DeltaTable,
    actions: Sequence[AddAction | RemoveAction],
    *,
    token: str,
    transactions: Mapping[str, int],
    next_version_only: bool = False,
) -> None:
    """Commit through a handle, which does not advance. Syncs nothing.

    Args:
        delta: What the committer knows; a commit of the same application transactions made since is a conflict.
        actions: Files that are whole and durable, and files that are replaced.
        token: Written into the commit.
        transactions: Application transactions and their versions.
        next_version_only: Make the commit the one that follows what the committer knows, or none: any other that was
            made since is a conflict.

    Raises:
        deltalake.exceptions.DeltaError, OSError: Not committed, or not known to be.
    """
    count = 1 + len(actions) + len(transactions)  # and what this is about itself
    delta.create_write_transaction(
        list(actions),
        mode="append",
        schema=delta.schema(),
        partition_by=["date"],
        commit_properties=CommitProperties(
            custom_metadata={_TOKEN: token, ACTIONS: str(count)},
            # Without a second try delta-rs does not ask whether the two commits get along.
            max_commit_retries=0 if next_version_only else None,
            app_transactions=[Transaction(app_id, version) for app_id, version in transactions.items()],
        ),
        post_commithook_properties=_NO_HOOKS,
    )


def examine(log: TableLog, *, after: int, token: str, writer: str) -> tuple[Outcome, bool]:
    """Look up in the log what became of a commit that raised.

    Args:
        log: The table's log.
        after: The version the committer's handle stood at.
        token: As given to `commit`.
        writer: Whose application transaction to look for.

    Returns:
        The outcome, and whether somebody else has committed as `writer` since.
    """
    try:
        actions = log.later_actions(after)
    except (OSError, TornCommit):
        return Outcome.UNKNOWN, False
    if any(a.get("commitInfo", {}).get(_TOKEN) == token for a in actions):
        return Outcome.PRESENT, False
    return Outcome.ABSENT, any(a.get("txn", {}).get("appId") == writer for a in actions)
