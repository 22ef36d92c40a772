"""Request bodies made from the specification: for every property of a body the smallest one that has it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.api.conftest import MACHINE
from tests.api.specification import Json, Specification

ENTITIES = {
    "BatchPoolCreateOptions": "pool",
    "PoolAddParameter": "pool",
    "BatchPoolUpdateOptions": "pool",
    "PoolPatchParameter": "pool",
    "BatchPoolReplaceOptions": "pool",
    "PoolUpdatePropertiesParameter": "pool",
    "BatchPoolSpecification": "pool",
    "PoolSpecification": "pool",
    "BatchStartTask": "task",
    "StartTask": "task",
    "BatchJobManagerTask": "task",
    "JobManagerTask": "task",
    "BatchJobPreparationTask": "task",
    "JobPreparationTask": "task",
    "BatchJobReleaseTask": "task",
    "JobReleaseTask": "task",
    "BatchTaskCreateOptions": "task",
    "TaskAddParameter": "task",
    "BatchTask": "task",
    "TaskUpdateParameter": "task",
    "BatchTaskGroup": "group",
    "TaskAddCollectionParameter": "group",
    "BatchJobSpecification": "job",
    "JobSpecification": "job",
    "BatchJobCreateOptions": "job",
    "JobAddParameter": "job",
    "BatchJobUpdateOptions": "job",
    "JobPatchParameter": "job",
    "BatchJob": "job",
    "JobUpdateParameter": "job",
}
"""Definitions at which the paths of `api/support.py` begin, and the entity they begin for."""

_FILE = {"httpUrl": "http://h/f", "filePath": "f"}
_OUTPUT = {
    "filePattern": "*.txt",
    "destination": {"container": {"containerUrl": "http://h/c"}},
    "uploadOptions": {"uploadCondition": "tasksuccess"},
}

_NFS = {"source": "h:/x", "relativeMountPath": "x"}
_CIFS = {"source": "//h/x", "relativeMountPath": "x", "username": "u", "password": "p"}
_BLOBS = {"accountName": "store", "containerName": "box", "relativeMountPath": "x", "accountKey": "a2V5"}
_SHARE = {
    "accountName": "store",
    "accountKey": "a2V5",
    "azureFileUrl": "https://store.file.core.windows.net/x",
    "relativeMountPath": "x",
}

WHOLE: dict[str, Any] = {
    "VirtualMachineConfiguration": MACHINE,
    "ImageReference": MACHINE["imageReference"],
    "BatchVmImageReference": MACHINE["imageReference"],
    "ResourceFile": _FILE,
    "OutputFile": _OUTPUT,
    "BatchPoolInfo": {"poolId": "p1"},
    "PoolInformation": {"poolId": "p1"},
    "BatchAutoPoolSpecification": {
        "poolLifetimeOption": "job",
        "pool": {"vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE},
    },
    "AutoPoolSpecification": {
        "poolLifetimeOption": "job",
        "pool": {"vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE},
    },
    "UserIdentity": {"username": "alice"},
    "UserAccount": {"name": "alice", "password": "secret"},
    "BatchPoolSpecification": {"vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE},
    "PoolSpecification": {"vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE},
    "LinuxUserConfiguration": {"uid": 1000, "gid": 1000},
    "ExitConditions": {"default": {"jobAction": "none"}},
    "ExitOptions": {"jobAction": "none"},
    "BatchJobScheduleConfiguration": {"recurrenceInterval": "PT1H"},
    "Schedule": {"recurrenceInterval": "PT1H"},
    "MultiInstanceSettings": {"coordinationCommandLine": "true", "numberOfInstances": 2},
    "OutputFileDestination": _OUTPUT["destination"],
    "MountConfiguration": {"nfsMountConfiguration": _NFS},
    "NFSMountConfiguration": _NFS,
    "NfsMountConfiguration": _NFS,
    "CIFSMountConfiguration": _CIFS,
    "CifsMountConfiguration": _CIFS,
    "AzureBlobFileSystemConfiguration": _BLOBS,
    "AzureFileShareConfiguration": _SHARE,
    "HttpHeader": {"name": "Content-Type", "value": "text/plain"},
    "OutputFileUploadHeader": {"name": "Content-Type", "value": "text/plain"},
}
"""The smallest sensible object of a definition, where that is not just its required properties."""


def _without_key(instead: Json) -> Json:
    return {name: value for name, value in _BLOBS.items() if name != "accountKey"} | instead


_AUTO_SCALED = {"enableAutoScale": True, "autoScaleFormula": "$TargetDedicatedNodes=0;"}

ALONE: dict[tuple[str, str], Json] = {
    ("ResourceFile", "autoStorageContainerName"): {"autoStorageContainerName": "inputs"},
    ("ResourceFile", "storageContainerUrl"): {"storageContainerUrl": "http://h/c"},
    ("ResourceFile", "blobPrefix"): {"storageContainerUrl": "http://h/c", "blobPrefix": "x"},
    ("BatchPoolInfo", "autoPoolSpecification"): {"autoPoolSpecification": WHOLE["BatchAutoPoolSpecification"]},
    ("PoolInformation", "autoPoolSpecification"): {"autoPoolSpecification": WHOLE["AutoPoolSpecification"]},
    ("UserIdentity", "autoUser"): {"autoUser": {"scope": "task", "elevationLevel": "admin"}},
    ("BatchVmImageReference", "virtualMachineImageId"): {"virtualMachineImageId": "/x"},
    ("ImageReference", "virtualMachineImageId"): {"virtualMachineImageId": "/x"},
    ("BatchVmImageReference", "sharedGalleryImageId"): {"sharedGalleryImageId": "/x"},
    ("BatchVmImageReference", "communityGalleryImageId"): {"communityGalleryImageId": "/x"},
    **{
        ("MountConfiguration", kind): {kind: value}
        for kind, value in {
            "nfsMountConfiguration": _NFS,
            "cifsMountConfiguration": _CIFS,
            "azureBlobFileSystemConfiguration": _BLOBS,
            "azureFileShareConfiguration": _SHARE,
        }.items()
    },
    **{
        (definition, name): whole
        for definition, whole in (
            ("NFSMountConfiguration", _NFS),
            ("NfsMountConfiguration", _NFS),
            ("CIFSMountConfiguration", _CIFS),
            ("CifsMountConfiguration", _CIFS),
            ("AzureBlobFileSystemConfiguration", _BLOBS),
            ("AzureFileShareConfiguration", _SHARE),
        )
        for name in whole
    },
    ("AzureBlobFileSystemConfiguration", "sasKey"): _without_key({"sasKey": "sv=1&sig=x"}),
    ("AzureBlobFileSystemConfiguration", "identityReference"): _without_key(
        {"identityReference": {"resourceId": "/i"}}
    ),
    ("HttpHeader", "name"): {"name": "x-ms-meta-run", "value": "7"},
    ("OutputFileUploadHeader", "name"): {"name": "x-ms-meta-run", "value": "7"},
}
"""(definition, property) → the object that has it instead of the smallest one."""

BESIDE: dict[str, Json] = {
    "jobReleaseTask": {"jobPreparationTask": {"commandLine": "true"}},
    "autoScaleFormula": _AUTO_SCALED,
    "autoScaleEvaluationInterval": _AUTO_SCALED,
    "enableAutoScale": _AUTO_SCALED,
}
"""Property → what must stand beside it."""

VALUES: dict[str, Any] = {
    "id": "made",
    "poolId": "p1",
    "vmSize": "standard_a1_v2",
    "nodeAgentSKUId": "batch.node.ubuntu 22.04",
    "targetDedicatedNodes": 2,
    "priority": 7,
    "maxParallelTasks": 3,
    "httpUrl": "http://h/f",
    "storageContainerUrl": "http://h/c",
    "containerUrl": "http://h/c",
    "fileMode": "0755",
    "applicationInsights": "x",
    "retentionTime": "PT2H",
    "maxWallClockTime": "PT10M",
    "recurrenceInterval": "PT2H",
    "startWindow": "PT5M",
    "affinityId": "TVM:node",
    "autoScaleFormula": "$TargetDedicatedNodes=0;",
    "autoScaleEvaluationInterval": "PT20M",
    "resizeTimeout": "PT20M",
    "taskIds": ["a"],
    "taskSlotsPerNode": 2,
    "nodeFillType": "pack",
    "numberOfInstances": 2,
    "lun": 1,
    "diskSizeGB": 64,
    "onAllTasksComplete": "terminatejob",
    "maxTaskRetryCount": 3,
    "uploadCondition": "taskcompletion",
    "doNotRunAfter": "2027-02-01T00:00:00Z",
    "doNotRunUntil": "2027-01-01T00:00:00Z",
    "end": 5,
}
"""Values by the name of the property; other properties get one by their type."""


class Place(NamedTuple):
    """One property of a body: `path` are its names, `entity` and `within` where `api/support.py` has it."""

    path: tuple[str, ...]
    definitions: tuple[str, ...]
    """The definition each name of the path is a property of."""
    entity: str
    within: str
    schema: Json

    def __str__(self) -> str:
        return ".".join(self.path)


def places(specification: Specification, schema: Json, shallow: frozenset[str]) -> Iterator[Place]:
    """Every property of a body that a client may set, with those inside it; of the definitions in `shallow` only their
    own."""
    yield from _places(specification, schema, (), (), "", (), shallow)


def _places(
    spec: Specification,
    schema: Json,
    path: tuple[str, ...],
    definitions: tuple[str, ...],
    entity: str,
    within: tuple[str, ...],
    shallow: frozenset[str],
) -> Iterator[Place]:
    if "items" in schema:
        schema = schema["items"]
    name = schema.get("$ref", "").rpartition("/")[2]
    if not name:
        return
    inside = name not in shallow
    if name in ENTITIES:
        entity, within = ENTITIES[name], ()
    for inner, facts in spec.definitions[name].get("properties", {}).items():
        if facts.get("x-ms-mutability") == ["read"] or facts.get("readOnly"):
            continue
        place = Place((*path, inner), (*definitions, name), entity, ".".join((*within, inner)), facts)
        yield place
        if inside:
            yield from _places(spec, facts, place.path, place.definitions, entity, (*within, inner), shallow)


def minimal(spec: Specification, schema: Json, name: str = "") -> Any:
    """A small value a schema allows."""
    definition = schema.get("$ref", "").rpartition("/")[2]
    if definition in WHOLE:
        return dict(WHOLE[definition])
    resolved = spec.resolve(schema)
    if name in VALUES:
        return VALUES[name]
    if "enum" in resolved:
        return resolved["enum"][-1]
    match resolved.get("type", "object"):
        case "array":
            return [minimal(spec, resolved["items"], name)]
        case "integer":
            return 1
        case "number":
            return 1.5
        case "boolean":
            return True
        case "string":
            return {"date-time": "2027-01-01T00:00:00Z", "duration": "PT1H"}.get(resolved.get("format", ""), "text")
        case _:
            properties = resolved.get("properties", {})
            return {inner: minimal(spec, properties[inner], inner) for inner in resolved.get("required", ())}


def body_with(spec: Specification, place: Place, base: Json) -> Json:
    """The body `base` with the property of the place in it."""
    body = dict(base)
    at = body
    for index, name in enumerate(place.path):
        definition = place.definitions[index]
        alone = ALONE.get((definition, name))
        if alone is not None:
            at.clear()
            at.update(alone)
            if index == len(place.path) - 1:
                return body
        facts = spec.definitions[definition]["properties"][name]
        if index == len(place.path) - 1:
            at[name] = minimal(spec, facts, name)
            for beside, value in BESIDE.get(name, {}).items():
                at.setdefault(beside, value)
            return body
        if "items" in facts:
            inner = minimal(spec, facts["items"])
            at[name] = [inner]
        else:
            inner = minimal(spec, facts)
            at[name] = inner
        at.update(BESIDE.get(name, {}))
        at = inner
    return body


def value_at(body: Any, path: tuple[str, ...]) -> Any:
    """The value at a path, of lists the first item's; None when it is not there."""
    for name in path:
        if isinstance(body, list):
            body = body[0] if body else None
        if not isinstance(body, dict):
            return None
        body = body.get(name)
    return body
