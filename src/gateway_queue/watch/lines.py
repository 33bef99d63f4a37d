"""Turns the queue's events into log lines."""

import structlog

from gateway_queue.queue.events import (
    AskedTwice,
    BucketsChanged,
    ConfirmationIgnored,
    CrashLooping,
    Dropped,
    Event,
    Forgiven,
    Granted,
    IntervalChanged,
    InvalidSession,
    JournalFailed,
    JournalLost,
    JournalRecovered,
    Left,
    LimitsRead,
    Paused,
    PutFirst,
    PutOff,
    Queued,
    ReadingOrdered,
    Resumed,
    ShardMissing,
    TakenBack,
    UsageRose,
)
from gateway_queue.queue.rules.allowance import Usage

Log = structlog.typing.FilteringBoundLogger

IGNORED = {
    "outdated": "it was about an earlier grant of this shard",
    "late": "the grant is more than a minute old; confirm once, when the identify is sent",
}


def write(event: Event, log: Log) -> None:  # noqa: C901, PLR0912 - one branch per kind of event
    """Log an event, unless operators do not care about it."""
    match event:
        case Queued(shard, bucket, position, returns):
            log.debug(
                "identify_returned" if returns else "identify_queued",
                shard=shard,
                bucket=bucket,
                position=position,
            )
        case Granted(shard, bucket, waited, late):
            log.info(
                "identify_granted",
                shard=shard,
                bucket=bucket,
                waited=round(waited, 3),
                late=round(late, 6),
            )
        case Left(shard, waited):
            log.info("identify_left", shard=shard, waited=round(waited, 3))
        case PutOff(shard):
            log.debug("identify_put_off", shard=shard)
        case ShardMissing():
            log.warning(
                "shard_missing",
                hint="a request named no shard, so it waits in bucket 0, which may be the wrong"
                " one of several. Ask with /?shard=N",
            )
        case InvalidSession(shard, bucket):
            log.warning("invalid_session_reported", shard=shard, bucket=bucket)
        case ConfirmationIgnored(shard, grant, why):
            say = log.debug if why == "outdated" else log.warning
            say("confirmation_ignored", shard=shard, grant=grant, hint=IGNORED[why])
        case AskedTwice(shard, granted, waiting):
            log.warning(
                "shard_asked_twice",
                shard=shard,
                granted=granted,
                waiting=waiting,
                hint="two clients are asking for this shard, and each identify ends the other's"
                " session; is the bot running twice, or does each process run all shards?",
            )
        case CrashLooping(shard, level, next_grant_in):
            log.warning("crash_loop", shard=shard, level=level, next_grant_in=round(next_grant_in))
        case UsageRose(level, remaining, total, reserve, reset_after):
            log.warning(
                "session_starts_reserve_reached"
                if level is Usage.RESERVE_REACHED
                else "session_starts_half_used",
                remaining=remaining,
                total=total,
                reserve=reserve,
                reset_after=round(reset_after),
            )
        case LimitsRead(total, remaining, reset_after, max_concurrency):
            log.info(
                "limits_read",
                total=total,
                remaining=remaining,
                reset_after=round(reset_after),
                max_concurrency=max_concurrency,
            )
        case BucketsChanged(max_concurrency, buckets, before):
            log.info(
                "buckets_changed", max_concurrency=max_concurrency, buckets=buckets, before=before
            )
        case JournalFailed(error, retry_after):
            log.error("journal_not_writable", error=error, retry_after=retry_after)
        case JournalLost(error):
            log.error("journal_lost", error=error)
        case JournalRecovered():
            log.info("journal_writable_again")
        case _:
            _write_order(event, log)


def _write_order(event: Event, log: Log) -> None:
    """Log an operator's actions."""
    match event:
        case Paused(reason, ends_in, survives_restart):
            log.warning(
                "paused",
                reason=reason,
                ends_in=_rounded(ends_in),
                survives_restart=survives_restart,
            )
        case Resumed(by_itself):
            log.info("resumed", by_itself=by_itself)
        case IntervalChanged(interval, configured, ends_in, survives_restart):
            log.info(
                "interval_changed",
                interval=interval,
                configured=configured,
                ends_in=_rounded(ends_in),
                survives_restart=survives_restart,
            )
        case PutFirst(shard, bucket):
            log.info("shard_put_first", shard=shard, bucket=bucket)
        case TakenBack(shard, bucket):
            log.info("shard_taken_back", shard=shard, bucket=bucket)
        case Dropped(shard, seats, requests):
            log.info("shard_dropped", shard=shard, seats=seats, requests=requests)
        case Forgiven(shard, level):
            log.info("crash_loop_forgiven", shard=shard, level=level)
        case ReadingOrdered():
            log.info("limits_reading_ordered")


def _rounded(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)
