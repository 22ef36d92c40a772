"""Statistics: what `$expand=stats` adds, how much the pools were used, and the sums over all there is."""

import asyncio
import math
import re
from typing import Any, Final, NamedTuple

import msgspec

from millpond.api.context import Context
from millpond.api.http import Request, Response
from millpond.api.options import filter_of
from millpond.api.paging import bad_skiptoken, invalid_parameter, page_of, page_size, page_start
from millpond.api.render.common import job_schedule_url, pool_url, timestamp_text
from millpond.api.render.statistics import PoolFacts, jobs_statistics, pool_statistics
from millpond.api.replies import encode_json, json_reply
from millpond.autoscale.samples import DEFAULT_PERIOD_S, History, HistoryData
from millpond.autoscale.variables import Metric
from millpond.domain.durations import Timestamp, parse_timestamp
from millpond.domain.ids import id_key
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.pool import Pool
from millpond.odata import properties
from millpond.odata.evaluate import matches

_read_block: Final = msgspec.msgpack.Decoder(HistoryData).decode
_BLOCKS_AT_A_TIME: Final = 4
_PAGE: Final = 1000
_KEEP_S: Final = 366 * 86_400.0
_HOUR_S: Final = 3600.0
_USAGE_TOKEN: Final = re.compile(r"(-?\d{1,12})/(-?\d{1,12})/(.+)\Z", re.ASCII)


async def history_of(context: Context, pool: Pool, since: Timestamp) -> History:
    """The pool's samples that are on disk. A block that cannot be read is left out."""
    history: History | None = None
    for index, block in enumerate(await context.control.store.load_samples(pool.no, since)):
        try:
            data = _read_block(block.data)
            samples = History.restore(data)
        except (ValueError, msgspec.DecodeError):
            continue
        history = history or History(period_s=data.period_s, keep_s=_KEEP_S)
        for at, values in samples.times(history.newest_time or -math.inf):
            history.add(at, values)
        if index % _BLOCKS_AT_A_TIME == _BLOCKS_AT_A_TIME - 1:
            await asyncio.sleep(0)  # others have their turn
    return history or History(period_s=DEFAULT_PERIOD_S, keep_s=_KEEP_S)


def _oldest(history: History) -> Timestamp | None:
    return history.oldest_time(Metric.CURRENT_DEDICATED_NODES, math.inf)


def _cores(context: Context, pool: Pool) -> int:
    size = context.control.vm_sizes.get(pool.vm_size.lower())
    return 1 if size is None else size.cores


async def stats_of_pool(context: Context, request: Request, pool: Pool) -> dict[str, Any]:
    now = context.control.now()
    history = await history_of(context, pool, pool.creation_time)
    facts = PoolFacts(history, _cores(context, pool), -math.inf, now)
    since, until = _oldest(history), history.newest_time
    url = pool_url(request.base_url, pool.id)
    return pool_statistics((facts,), url, pool.creation_time if since is None else since, until or now)


async def stats_of_job_schedule(context: Context, request: Request, schedule: JobSchedule) -> dict[str, Any]:
    """Over the jobs of the schedule that there are."""
    jobs = await _jobs(context, schedule.id)
    url = job_schedule_url(request.base_url, schedule.id)
    return jobs_statistics(jobs, url, schedule.creation_time, context.control.now())


async def _jobs(context: Context, schedule_id: str | None = None) -> list[Job]:
    jobs: list[Job] = []
    after: str | None = None
    while True:
        page = await context.control.store.list_jobs(None, _PAGE, after, schedule_id=schedule_id)
        jobs += page.items
        after = page.next
        if after is None:
            return jobs


async def _pools(context: Context) -> list[Pool]:
    pools: list[Pool] = []
    after: str | None = None
    while True:
        page = await context.control.store.list_pools(None, _PAGE, after)
        pools += page.items
        after = page.next
        if after is None:
            return pools


async def get_job_lifetime_statistics(context: Context, request: Request) -> Response:
    """Over all jobs there are; those deleted have taken theirs along."""
    now = context.control.now()
    jobs = await _jobs(context)
    since = min((job.creation_time for job in jobs), default=now)
    body = jobs_statistics(jobs, f"{request.base_url}/lifetimejobstats", since, now)
    return json_reply(
        request, encode_json({"odata.metadata": f"{request.base_url}/$metadata#jobstats/@Element", **body})
    )


async def get_pool_lifetime_statistics(context: Context, request: Request) -> Response:
    """Over all pools there are, as far back as their samples reach."""
    now = context.control.now()
    facts = []
    since = now
    for pool in await _pools(context):
        history = await history_of(context, pool, pool.creation_time)
        facts.append(PoolFacts(history, _cores(context, pool), -math.inf, now))
        since = min(since, _oldest(history) or now)
    body = pool_statistics(facts, f"{request.base_url}/lifetimepoolstats", since, now)
    return json_reply(
        request, encode_json({"odata.metadata": f"{request.base_url}/$metadata#poolstats/@Element", **body})
    )


async def list_pool_usage_metrics(context: Context, request: Request) -> Response:
    """Core hours by pool and by full hour, of the pools there are and the time that samples are kept of. Without a time
    that is the last hour that is over."""
    where = filter_of(request, properties.POOL_USAGE)
    limit = page_size(request)
    after = _usage_after(request)
    now = context.control.now()
    this_hour = math.floor(now / _HOUR_S) * _HOUR_S
    end = _time(request, "endtime", this_hour if after is None else after.this_hour)
    start = _time(request, "starttime", min(end, this_hour if after is None else after.this_hour) - _HOUR_S)
    if start > end:
        raise invalid_parameter("starttime", request.query.get("starttime", ""), "it is after endTime")
    items: list[tuple[str, Timestamp, dict[str, Any]]] = []
    for pool in await _pools(context):
        key = id_key(pool.id)
        if (after is not None and key < after.pool_key) or not (where is None or matches(where, {"poolId": pool.id})):
            continue
        usage = await _usage(context, pool, max(start, pool.creation_time - _HOUR_S), min(end, now))
        items += [(key, *one) for one in usage if after is None or (key, one[0]) > (after.pool_key, after.hour)]
        if len(items) > limit:
            break
    following = None
    if len(items) > limit:
        key, hour, _ = items[limit - 1]
        following = f"{(this_hour if after is None else after.this_hour):.0f}/{hour:.0f}/{key}"
    body = page_of(request, "poolusagemetrics", [item for _, _, item in items[:limit]], following)
    return json_reply(request, encode_json(body))


class _UsageAfter(NamedTuple):
    """The last row of the page before."""

    this_hour: Timestamp
    """When the first page was asked for: what is meant by a time that is not given stays what it was."""
    hour: Timestamp
    pool_key: str


def _usage_after(request: Request) -> _UsageAfter | None:
    token = page_start(request)
    if token is None:
        return None
    match = _USAGE_TOKEN.match(token)
    if match is None:
        raise bad_skiptoken(request.query["$skiptoken"])
    return _UsageAfter(float(match[1]), float(match[2]), match[3])


async def _usage(
    context: Context, pool: Pool, start: Timestamp, end: Timestamp
) -> list[tuple[Timestamp, dict[str, Any]]]:
    """(hour, item)"""
    history = await history_of(context, pool, start - _HOUR_S)
    cores = _cores(context, pool)
    items = []
    hour = math.floor(max(start, (_oldest(history) or end) - _HOUR_S) / _HOUR_S) * _HOUR_S
    while hour < end:
        if hour >= start:
            core_s = PoolFacts(history, cores, hour, hour + _HOUR_S).core_s
            if core_s:
                item = {
                    "poolId": pool.id,
                    "startTime": timestamp_text(hour),
                    "endTime": timestamp_text(hour + _HOUR_S),
                    "vmSize": pool.vm_size,
                    "totalCoreHours": core_s / _HOUR_S,
                }
                items.append((hour, item))
        hour += _HOUR_S
    return items


def _time(request: Request, name: str, default: Timestamp) -> Timestamp:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        return parse_timestamp(text)
    except ValueError as error:
        raise invalid_parameter(name, text, str(error)) from None
