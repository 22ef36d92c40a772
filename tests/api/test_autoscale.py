"""Automatic scaling over the wire: settings of pools, enabling, disabling, evaluating, and what runs are shown as."""

from typing import Any

import msgspec
import pytest

from millpond.autoscale.samples import History
from millpond.autoscale.variables import Metric
from millpond.domain.autoscale import AutoScale, AutoScaleRun, AutoScaleRunError
from millpond.domain.events import PoolAutoScaleDisableRequested, PoolAutoScaleEnableRequested
from millpond.domain.task import NameValue
from millpond.store.base import SampleBlock, StoredRun
from tests.api.client import NOW
from tests.api.conftest import MACHINE, World

FORMULA = "$TargetDedicatedNodes = min(3, $PendingTasks.GetSample(1));"
POOL = {"id": "p1", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE}
SCALED: dict[str, Any] = {"enableAutoScale": True, "autoScaleFormula": FORMULA}


async def test_a_pool_that_scales_itself(world: World) -> None:
    await world.add_pool(**SCALED, autoScaleEvaluationInterval="PT300S")
    pool = world.control.store.pools["p1"]
    assert (pool.auto_scale.formula, pool.auto_scale.interval_s) == (FORMULA, 300.0)
    body = (await world.call("GET", "/pools/p1")).json()
    assert body["enableAutoScale"] is True
    assert body["autoScaleFormula"] == FORMULA
    assert body["autoScaleEvaluationInterval"] == "PT5M"
    assert (body["targetDedicatedNodes"], body["targetLowPriorityNodes"]) == (0, 0)
    assert "autoScaleRun" not in body


async def test_the_interval_is_fifteen_minutes_unless_given(world: World) -> None:
    await world.add_pool(**SCALED)
    assert (await world.call("GET", "/pools/p1")).json()["autoScaleEvaluationInterval"] == "PT15M"


async def test_a_pool_of_fixed_size_shows_nothing_of_it(world: World) -> None:
    await world.add_pool(enableAutoScale=False, targetDedicatedNodes=1)
    body = (await world.call("GET", "/pools/p1")).json()
    assert body["enableAutoScale"] is False
    assert not {"autoScaleFormula", "autoScaleEvaluationInterval", "autoScaleRun"} & body.keys()


async def test_a_run(world: World) -> None:
    await world.add_pool(**SCALED)
    pool = world.control.store.pools["p1"]
    error = AutoScaleRunError("InsufficientSampleData", "too few", (NameValue("Message", "Line 1, Col 34: …"),))
    for run, shown in (
        (AutoScaleRun(NOW, "$TargetDedicatedNodes=2"), {}),
        (
            AutoScaleRun(NOW, "$TargetDedicatedNodes=2", error),
            {
                "error": {
                    "code": "InsufficientSampleData",
                    "message": "too few",
                    "values": [{"name": "Message", "value": "Line 1, Col 34: …"}],
                }
            },
        ),
    ):
        pool.auto_scale = msgspec.structs.replace(pool.auto_scale, run=run)
        body = (await world.call("GET", "/pools/p1", query="$select=autoScaleRun")).json()
        timestamp = body["autoScaleRun"].pop("timestamp")
        assert timestamp.endswith("Z")
        assert body["autoScaleRun"] == {"results": "$TargetDedicatedNodes=2", **shown}


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"autoScaleFormula": None}, "MissingRequiredProperty", "autoScaleFormula"),
        ({"targetDedicatedNodes": 0}, "InvalidAutoScalingSettings", "targetDedicatedNodes"),
        ({"targetLowPriorityNodes": 3}, "InvalidAutoScalingSettings", "targetLowPriorityNodes"),
        ({"autoScaleFormula": 7}, "InvalidPropertyValue", "autoScaleFormula"),
        *(
            ({"autoScaleEvaluationInterval": text}, "InvalidPropertyValue", "autoScaleEvaluationInterval")
            for text in ("PT4M59S", "PT168H1S", "PT0S", "soon", "-PT5M")
        ),
        ({"enableAutoScale": False}, "InvalidPropertyValue", "autoScaleFormula"),
        (
            {"enableAutoScale": False, "autoScaleFormula": None, "autoScaleEvaluationInterval": "PT5M"},
            "InvalidPropertyValue",
            "autoScaleEvaluationInterval",
        ),
    ],
)
async def test_settings_that_cannot_be(world: World, change: dict[str, Any], code: str, named: str) -> None:
    answer = await world.call("POST", "/pools", {**POOL, **SCALED, **change})
    assert (answer.status, answer.code) == (400, code)
    assert answer.values()["PropertyName"] == named
    assert not world.control.store.pools


@pytest.mark.parametrize(
    ("formula", "code", "told"),
    [
        ("$TargetDedicatedNodes = 1\n$x = 2", "AutoScalingFormulaSyntaxError", "Line 2, Col 1:"),
        ("$TargetDedicatedNodes = (1;", "AutoScalingFormulaSyntaxError", "Line 1, Col 27:"),
        ("$RunningTasks = 1", "AutoScalingFormulaSyntaxError", "Line 1, Col 1:"),
        ("$x = 1;" * 1200, "AutoScaleFormulaTooLong", "Line "),
    ],
)
async def test_formulas_that_cannot_be_read(world: World, formula: str, code: str, told: str) -> None:
    """Wherever a formula is given."""
    await world.add_pool("p2", **SCALED)
    for path, body in (
        ("/pools", {**POOL, **SCALED, "autoScaleFormula": formula}),
        ("/pools/p2/enableautoscale", {"autoScaleFormula": formula}),
        ("/pools/p2/evaluateautoscale", {"autoScaleFormula": formula}),
    ):
        answer = await world.call("POST", path, body)
        assert (answer.status, answer.code) == (400, code), path
        assert told in answer.json()["message"]["value"]
        assert answer.values()["Message"].startswith(told)
    assert not world.control.events


async def test_enabling(busy: World) -> None:
    before = (await busy.call("HEAD", "/pools/p1")).headers["etag"]
    body = {"autoScaleFormula": FORMULA, "autoScaleEvaluationInterval": "PT6M"}
    answer = await busy.call("POST", "/pools/p1/enableautoscale", body)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["etag"] != before
    assert answer.headers["dataserviceid"] == "http://127.0.0.1:10010/pools/p1"
    event = busy.control.events[-1]
    assert event == PoolAutoScaleEnableRequested(
        at=NOW, cause=answer.headers["request-id"], formula=FORMULA, interval_s=360.0, condition=event.condition
    )
    assert (await busy.call("GET", "/pools/p1")).json()["enableAutoScale"] is True


async def test_enabling_with_nothing_is_for_the_rules_to_judge(busy: World) -> None:
    await busy.call("POST", "/pools/p1/enableautoscale", {})
    event = busy.control.events[-1]
    assert (event.formula, event.interval_s) == (None, None)
    answer = await busy.call("POST", "/pools/p1/enableautoscale", {"autoScaleEvaluationInterval": "PT1S"})
    assert answer.values()["PropertyName"] == "autoScaleEvaluationInterval"
    assert "autoscale.min_interval_s" in answer.values()["Reason"]


async def test_disabling(world: World) -> None:
    await world.add_pool(**SCALED)
    answer = await world.call("POST", "/pools/p1/disableautoscale")
    assert (answer.status, answer.body) == (200, b"")
    assert isinstance(world.control.events[-1], PoolAutoScaleDisableRequested)
    body = (await world.call("GET", "/pools/p1")).json()
    assert body["enableAutoScale"] is False
    assert "autoScaleFormula" not in body


async def test_evaluating(world: World) -> None:
    await world.add_pool(**SCALED)
    answer = await world.call(
        "POST", "/pools/p1/evaluateautoscale", {"autoScaleFormula": "$TargetDedicatedNodes=4;b=1"}
    )
    assert answer.status == 200
    assert answer.json()["results"] == (
        "$TargetDedicatedNodes=4;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue;b=1"
    )
    assert "error" not in answer.json()
    assert not world.control.events


async def test_a_formula_that_fails_when_it_is_evaluated(world: World) -> None:
    await world.add_pool(**SCALED)
    answer = await world.call("POST", "/pools/p1/evaluateautoscale", {"autoScaleFormula": "$a = 1 +\n $b"})
    assert answer.status == 200
    error = answer.json()["error"]
    assert error["code"] == "AutoScalingFormulaEvaluationError"
    assert error["values"][0]["value"].startswith("Line 2, Col 2:")
    assert answer.json()["results"].startswith("$TargetDedicatedNodes=0;")


async def test_bad_requests(world: World) -> None:
    for path in ("enableautoscale", "disableautoscale", "evaluateautoscale"):
        body = {"autoScaleFormula": "$x=1"} if path != "disableautoscale" else None
        answer = await world.call("POST", f"/pools/none/{path}", body)
        assert (answer.status, answer.code) == (404, "PoolNotFound")
    await world.add_pool()
    answer = await world.call("POST", "/pools/p1/evaluateautoscale", {})
    assert (answer.status, answer.code) == (400, "MissingRequiredProperty")
    answer = await world.call("POST", "/pools/p1/enableautoscale", {"formula": "x"})
    assert (answer.status, answer.code) == (400, "UnsupportedProperty")


async def test_what_runs_have_looked_at(world: World) -> None:
    await world.add_pool(**SCALED)
    record = b'{"trigger":"interval","formula":"x","evaluation":{"results":"r"}}'
    world.control.store.runs = [StoredRun(1, NOW + 1, record), StoredRun(1, NOW, record), StoredRun(2, NOW, record)]
    answer = await world.call("GET", "/pools/p1/autoscaleruns")
    assert [run["trigger"] for run in answer.json()["value"]] == ["interval"] * 2
    assert answer.json()["value"][0]["evaluation"] == {"results": "r"}
    assert (await world.call("GET", "/pools/none/autoscaleruns")).status == 404


async def test_what_was_sampled_in_the_last_day(world: World) -> None:
    await world.add_pool()
    empty = await world.call("GET", "/pools/p1/autoscalesamples")
    assert empty.json() == {"samplePeriod": None, "times": [], "samples": {}}
    blocks = []
    for start, values in ((NOW - 90_000.0, (9,)), (NOW - 60.0, (1, None)), (NOW, (3,))):
        history = History()
        for index, value in enumerate(values):
            sampled = {Metric.ACTIVE_TASKS: value} if value is not None else {}
            history.add(start + 30.0 * index, {**sampled, Metric.TASK_SLOTS_PER_NODE: 2})
        blocks.append(SampleBlock(1, start, msgspec.msgpack.encode(history.snapshot())))
    world.control.store.samples = blocks
    answer = (await world.call("GET", "/pools/p1/autoscalesamples")).json()
    assert answer["samplePeriod"] == "PT30S"
    assert len(answer["times"]) == 3
    assert answer["samples"] == {"$ActiveTasks": [1.0, None, 3.0], "$TaskSlotsPerNode": [2.0, 2.0, 2.0]}
    assert (await world.call("GET", "/pools/none/autoscalesamples")).status == 404


async def test_a_record_of_settings_is_no_part_of_the_definition(world: World) -> None:
    await world.add_pool(**SCALED)
    pool = world.control.store.pools["p1"]
    assert isinstance(pool.auto_scale, AutoScale)
    assert not {"enableAutoScale", "autoScaleFormula", "autoScaleEvaluationInterval"} & pool.spec.keys()
