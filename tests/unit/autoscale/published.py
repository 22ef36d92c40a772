"""The formulas that people publish, V1 to V14 of our notes: from Azure's documentation, and from Nextflow, TES, Batch
Shipyard and the tools around them. The benchmark measures the same texts."""

PENDING = """
startingNumberOfVMs = 1;
maxNumberofVMs = 25;
pendingTaskSamplePercent = $PendingTasks.GetSamplePercent(180 * TimeInterval_Second);
pendingTaskSamples = pendingTaskSamplePercent < 70 ? startingNumberOfVMs : avg($PendingTasks.GetSample(180 * TimeInterval_Second));
$TargetDedicatedNodes=min(maxNumberofVMs, pendingTaskSamples);
$NodeDeallocationOption = taskcompletion;
"""
PREEMPTION = """
maxNumberofVMs = 25;
$TargetDedicatedNodes = min(maxNumberofVMs, $PreemptedNodeCount.GetSample(180 * TimeInterval_Second));
$TargetLowPriorityNodes = min(maxNumberofVMs , maxNumberofVMs - $TargetDedicatedNodes);
$NodeDeallocationOption = taskcompletion;
"""
MONDAY = "$TargetDedicatedNodes = (time().weekday == 1 ? 5:1);"
WORKING_HOURS = """
$curTime = time();
$workHours = $curTime.hour >= 8 && $curTime.hour < 18;
$isWeekday = $curTime.weekday >= 1 && $curTime.weekday <= 5;
$isWorkingWeekdayHour = $workHours && $isWeekday;
$TargetDedicatedNodes = $isWorkingWeekdayHour ? 20:10;
"""
CPU = """
$totalDedicatedNodes =
    (min($CPUPercent.GetSample(TimeInterval_Minute * 10)) > 0.7) ?
    ($CurrentDedicatedNodes * 1.1) : $CurrentDedicatedNodes;
$totalDedicatedNodes =
    (avg($CPUPercent.GetSample(TimeInterval_Minute * 60)) < 0.2) ?
    ($CurrentDedicatedNodes * 0.9) : $totalDedicatedNodes;
$TargetDedicatedNodes = min(400, $totalDedicatedNodes);
"""
TASKS = """
// Get pending tasks for the past 15 minutes.
$samples = $PendingTasks.GetSamplePercent(TimeInterval_Minute * 15);
// If we have fewer than 70 percent data points, we use the last sample point.
$tasks = $samples < 70 ? max(0,$PendingTasks.GetSample(1)) : max( $PendingTasks.GetSample(1), avg($PendingTasks.GetSample(TimeInterval_Minute * 15)));
$targetVMs = $tasks > 0? $tasks:max(0, $TargetDedicatedNodes/2);
$TargetDedicatedNodes = max(0, min($targetVMs, 20));
$NodeDeallocationOption = taskcompletion;
"""
FOUR_SLOTS = """
$samples = $ActiveTasks.GetSamplePercent(TimeInterval_Minute * 15);
$tasks = $samples < 70 ? max(0,$ActiveTasks.GetSample(1)) : max( $ActiveTasks.GetSample(1),avg($ActiveTasks.GetSample(TimeInterval_Minute * 15)));
$cores = $TargetDedicatedNodes * 4;
$extraVMs = (($tasks - $cores) + 3) / 4;
$targetVMs = ($TargetDedicatedNodes + $extraVMs);
$TargetDedicatedNodes = max(0,min($targetVMs,3));
"""
INITIAL_SIZE = """
$TargetDedicatedNodes = 4;
lifespan         = time() - time("Mon, 06 Oct 2014 10:20:00 GMT");
span             = TimeInterval_Minute * 60;
startup          = TimeInterval_Minute * 10;
ratio            = 50;

$TargetDedicatedNodes = (lifespan > startup ? (max($RunningTasks.GetSample(span, ratio), $ActiveTasks.GetSample(span, ratio)) == 0 ? 0 : $TargetDedicatedNodes) : 4);
"""
NEXTFLOW = """
// Get pool lifetime since creation: a == b $
lifespan = time() - time("2024-05-01T10:00:00.123456Z");
interval = TimeInterval_Minute * 5;
// Compute the target nodes based on pending tasks.
$samples = $PendingTasks.GetSamplePercent(interval);
$tasks = $samples < 70 ? max(0, $PendingTasks.GetSample(1)) : max( $PendingTasks.GetSample(1), avg($PendingTasks.GetSample(interval)));
$targetVMs = $tasks > 0 ? $tasks : max(0, $TargetDedicatedNodes/2);
targetPoolSize = max(0, min($targetVMs, 3));
// For first interval deploy 1 node, for other intervals scale up/down as per tasks.
$TargetLowPriorityNodes = lifespan < interval ? 1 : targetPoolSize;
$NodeDeallocationOption = taskcompletion;
"""
TES = """
$NodeDeallocationOption = taskcompletion;
lifespan = time() - time("Wed, 01 May 2024 10:00:00 GMT");
span = TimeInterval_Second * 90;
startup = TimeInterval_Minute * 2;
ratio = 10;
$TargetDedicated = (lifespan > startup ? min($PendingTasks.GetSample(span, ratio)) : 3);
"""
TES_VALIDATOR = "$NodeDeallocationOption = retaineddata; $TargetDedicatedNodes = ($PendingTasks.Count() ? 0 : 1);"
SHIPYARD = """
maxTargetDedicated = 16;
maxTargetLowPriority = 8;
sli = TimeInterval_Second * 600.0;
samplepercent = $ActiveTasks.GetSamplePercent(sli);
lastsample = val($ActiveTasks.GetSample(1), 0);
samplevecavg = samplepercent < 60 ? max(0, lastsample) : avg($ActiveTasks.GetSample(sli));
ActiveTaskAvg = samplevecavg;
reqVMs = ActiveTaskAvg / 4;
reqVMs = (ActiveTaskAvg > 0 && reqVMs < 1) ? 1 : reqVMs;
divisor = (maxTargetDedicated == 0 || maxTargetLowPriority == 0) ? 1 : 2;
currenttotal = $CurrentDedicatedNodes + $CurrentLowPriorityNodes;
preemptcount = max(0, $PreemptedNodeCount.GetSample(1));
preemptedpercent = currenttotal > 0 ? preemptcount / currenttotal : 0;
rebalance = 0 == 1;
rebalance = preemptedpercent > 0.5 ? 1 : rebalance;
dedicatedVMs = rebalance ? reqVMs : reqVMs / divisor;
$TargetDedicatedNodes = min(maxTargetDedicated, dedicatedVMs);
$TargetLowPriorityNodes = min(maxTargetLowPriority, reqVMs - dedicatedVMs);
$NodeDeallocationOption = taskcompletion;
"""
POWERSHELL = (
    "totalNodes=($CPUPercent.GetSamplePercent(TimeInterval_Minute*0,TimeInterval_Minute*10)<0.7?5:"
    "(min($CPUPercent.GetSample(TimeInterval_Minute*0, TimeInterval_Minute*10))>0.8?($CurrentDedicated*1.1):"
    "$CurrentDedicated));$TargetDedicated=min(100,totalNodes);"
)
ISSUE_151 = "$TargetDedicatedNodes = $PendingTasks / $TaskSlotsPerNode + 0.9"

ALL = {name.lower(): text for name, text in list(globals().items()) if name.isupper() and isinstance(text, str)}
