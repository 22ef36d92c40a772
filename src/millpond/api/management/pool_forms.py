"""Pools between the two planes: the same thing in two forms.

Inside most properties only some names and the case of the enumerations differ; around them Resource Manager nests what
the data plane has side by side.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from millpond.api.management.pool_schema import InterNodeCommunication, PoolBody, PoolProperties
from millpond.api.management.schema import IdentityType
from millpond.api.render.common import timestamp_text
from millpond.api.schema.base import JsonObject
from millpond.domain.durations import format_duration
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.pool import Pool
from millpond.domain.states import PoolState

_TO_DATA_PLANE: Final[Mapping[str, Mapping[str, str]]] = {
    "virtualMachineConfiguration": {"nodeAgentSkuId": "nodeAgentSKUId"},
    "imageReference": {"id": "virtualMachineImageId"},
    "networkConfiguration": {"dynamicVnetAssignmentScope": "dynamicVNetAssignmentScope"},
    "endpointConfiguration": {"inboundNatPools": "inboundNATPools"},
    "userIdentity": {"userName": "username"},
    "cifsMountConfiguration": {"userName": "username"},
}
"""Property → the names in it that differ, here and there."""
_TO_HERE: Final = {parent: {there: here for here, there in names.items()} for parent, names in _TO_DATA_PLANE.items()}
_FREE: Final = frozenset({"settings", "protectedSettings", "metadata", "environmentSettings"})
"""What users put in there is theirs."""

_WORDS: Final = {
    name: {word.lower(): word for word in words.split()}
    for name, words in {
        "allocationState": "Steady Resizing Stopping",
        "nodeDeallocationOption": "Requeue Terminate TaskCompletion RetainedData",
        "nodeFillType": "Spread Pack",
        "jobDefaultOrder": "None CreationTime",
        "elevationLevel": "NonAdmin Admin",
        "loginMode": "Batch Interactive",
        "scope": "Task Pool",
        "caching": "None ReadOnly ReadWrite",
        "storageAccountType": "Standard_LRS Premium_LRS StandardSSD_LRS",
        "securityType": "trustedLaunch confidentialVM",
        "targets": "OsDisk TemporaryDisk",
        "policy": "Regional Zonal",
        "placement": "CacheDisk",
        "protocol": "TCP UDP",
        "access": "Allow Deny",
        "provision": "BatchManaged UserManaged NoPublicIPAddresses",
        "workingDirectory": "TaskWorkingDirectory ContainerImageDefault",
        "type": "DockerCompatible CriCompatible",
    }.items()
}
"""Enumerations as Resource Manager spells them; they are read in any case."""

_SAME: Final = (
    "displayName",
    "vmSize",
    "networkConfiguration",
    "taskSlotsPerNode",
    "taskSchedulingPolicy",
    "userAccounts",
    "metadata",
    "startTask",
    "mountConfiguration",
    "upgradePolicy",
    "targetNodeCommunicationMode",
    "currentNodeCommunicationMode",
    "applicationLicenses",
)
"""Properties that stand at the same place in both forms."""

_PLACES: Final = {
    "virtualMachineConfiguration": "deploymentConfiguration.virtualMachineConfiguration",
    "cloudServiceConfiguration": "deploymentConfiguration.cloudServiceConfiguration",
    "targetDedicatedNodes": "scaleSettings.fixedScale.targetDedicatedNodes",
    "targetLowPriorityNodes": "scaleSettings.fixedScale.targetLowPriorityNodes",
    "resizeTimeout": "scaleSettings.fixedScale.resizeTimeout",
    "autoScaleFormula": "scaleSettings.autoScale.formula",
    "autoScaleEvaluationInterval": "scaleSettings.autoScale.evaluationInterval",
    "applicationPackageReferences": "applicationPackages",
    "enableInterNodeCommunication": "interNodeCommunication",
    "certificateReferences": "certificates",
}


@contextmanager
def named_as_here() -> Iterator[None]:
    """Errors raised inside name properties as Resource Manager does."""
    try:
        yield
    except BatchError as error:
        name = error.values.get("PropertyName")
        if name is None:
            raise
        top, dot, rest = name.partition(".")
        rest = rest.replace("nodeAgentSKUId", "nodeAgentSkuId")
        place = f"properties.{_PLACES.get(top, top)}{dot}{rest}" if top not in ("id", "identity") else name
        message = error.message.replace(f"'{name}'", f"'{place}'", 1)
        raise BatchError(error.code, message, **{**error.values, "PropertyName": place}) from None


def data_plane_form(body: PoolBody) -> JsonObject:
    """The properties of a body, but for the scale settings, in the data plane's form. Raises BatchError."""
    given = body.properties
    form: JsonObject = {name: _value(given, name) for name in _SAME if name != "currentNodeCommunicationMode"}
    deployment = given.deployment_configuration
    if deployment is not None:
        form["virtualMachineConfiguration"] = deployment.virtual_machine_configuration
        form["cloudServiceConfiguration"] = deployment.cloud_service_configuration
    if given.inter_node_communication is not None:
        form["enableInterNodeCommunication"] = given.inter_node_communication is InterNodeCommunication.ENABLED
    if given.application_packages is not None:
        form["applicationPackageReferences"] = [
            {"applicationId": one.id, **({"version": one.version} if one.version else {})}
            for one in given.application_packages
        ]
    form["certificateReferences"] = given.certificates
    form["resourceTags"] = given.resource_tags if body.tags is None else body.tags
    identity = body.identity
    if identity is not None and identity.type is not IdentityType.NONE:
        if identity.type is IdentityType.SYSTEM_ASSIGNED:
            raise invalid_property("identity.type", identity.type.value, "a pool has UserAssigned identities, or None")
        ids = identity.user_assigned_identities or {}
        form["identity"] = {"type": "UserAssigned", "userAssignedIdentities": [{"resourceId": one} for one in ids]}
    return {name: _renamed(name, value, _TO_DATA_PLANE) for name, value in form.items() if value is not None}


def scale_form(properties: PoolProperties) -> JsonObject:
    """The scale settings of a new pool in the data plane's form. Raises BatchError."""
    check_scale(properties)
    scale = properties.scale_settings
    if scale is None:
        return {}
    if scale.auto_scale is not None:
        form: JsonObject = {"enableAutoScale": True, "autoScaleFormula": scale.auto_scale.formula}
        if scale.auto_scale.evaluation_interval is not None:
            form["autoScaleEvaluationInterval"] = scale.auto_scale.evaluation_interval
        return form
    fixed = scale.fixed_scale
    if fixed is None:
        return {}
    given = {
        "targetDedicatedNodes": fixed.target_dedicated_nodes,
        "targetLowPriorityNodes": fixed.target_low_priority_nodes,
        "resizeTimeout": fixed.resize_timeout,
    }
    return {name: value for name, value in given.items() if value is not None}


def check_scale(properties: PoolProperties) -> None:
    """Raises BatchError where both kinds of scale settings are given."""
    scale = properties.scale_settings
    if scale is not None and scale.auto_scale is not None and scale.fixed_scale is not None:
        raise BatchError(
            ErrorCode.INVALID_AUTO_SCALING_SETTINGS,
            "'properties.scaleSettings' has both fixedScale and autoScale: give one of them.",
            PropertyName="properties.scaleSettings",
        )


def pool_properties(pool: Pool, form: JsonObject) -> JsonObject:
    """Azure Batch management: PoolProperties, of a pool's data-plane form."""
    own: JsonObject = {
        "provisioningState": "Succeeded" if pool.state is PoolState.ACTIVE else "Deleting",
        "provisioningStateTransitionTime": form["stateTransitionTime"],
        "allocationState": form["allocationState"],
        "deploymentConfiguration": {"virtualMachineConfiguration": form["virtualMachineConfiguration"]},
        "interNodeCommunication": "Enabled" if pool.inter_node_communication else "Disabled",
    }
    for name in ("creationTime", "lastModified", "allocationStateTransitionTime"):
        own[name] = form[name]
    for name in ("currentDedicatedNodes", "currentLowPriorityNodes"):
        own[name] = form[name]
    own |= {name: form[name] for name in _SAME if name in form}
    if "applicationPackageReferences" in form:
        own["applicationPackages"] = [
            {"id": one["applicationId"], **({"version": one["version"]} if one.get("version") else {})}
            for one in form["applicationPackageReferences"]
        ]
    targets = {
        "targetDedicatedNodes": pool.target_dedicated_nodes,
        "targetLowPriorityNodes": pool.target_low_priority_nodes,
        "resizeTimeout": format_duration(pool.resize_timeout_s),
    }
    scale = pool.auto_scale
    if scale is None:
        own["scaleSettings"] = {"fixedScale": targets}
    else:
        interval = format_duration(scale.interval_s)
        own["scaleSettings"] = {"autoScale": {"formula": scale.formula, "evaluationInterval": interval}}
        if "autoScaleRun" in form:
            own["autoScaleRun"] = _run(form["autoScaleRun"])
    own["resizeOperationStatus"] = {
        **targets,
        "nodeDeallocationOption": pool.node_deallocation_option.value,
        "startTime": timestamp_text(pool.allocation_state_time),
        "errors": [_error(error) for error in form.get("resizeErrors", ())],
    }
    shown: JsonObject = _renamed("properties", own, _TO_HERE)
    spelled: JsonObject = _spelled("", shown)
    return spelled


def pool_identity(form: JsonObject) -> JsonObject:
    """Azure Batch management: BatchPoolIdentity."""
    identity = form.get("identity") or {}
    listed = identity.get("userAssignedIdentities") or ()
    if not listed:
        return {"type": "None"}
    return {"type": "UserAssigned", "userAssignedIdentities": {one["resourceId"]: {} for one in listed}}


def _value(properties: PoolProperties, name: str) -> Any:
    return getattr(properties, "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name))


def _run(run: JsonObject) -> JsonObject:
    shown = {"evaluationTime": run["timestamp"], "results": run["results"]}
    if "error" in run:
        shown["error"] = _error(run["error"])
    return shown


def _error(error: JsonObject) -> JsonObject:
    details = [{"code": one["name"], "message": one["value"]} for one in error.get("values") or ()]
    return {"code": error["code"], "message": error["message"], "details": details}


def _renamed(parent: str, value: Any, names: Mapping[str, Mapping[str, str]]) -> Any:
    if isinstance(value, list):
        return [_renamed(parent, one, names) for one in value]
    if not isinstance(value, dict) or parent in _FREE:
        return value
    own = names.get(parent, {})
    return {own.get(name, name): _renamed(name, one, names) for name, one in value.items()}


def _spelled(name: str, value: Any) -> Any:
    if isinstance(value, dict) and name not in _FREE:
        return {key: _spelled(key, one) for key, one in value.items()}
    if isinstance(value, list) and name not in _FREE:
        return [_spelled(name, one) for one in value]
    if isinstance(value, str) and name in _WORDS:
        return _WORDS[name].get(value.lower(), value)
    return value
