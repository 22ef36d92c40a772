"""The enumerations of request bodies, in the specification's names and spelling."""

from millpond.api.schema.base import WireEnum


class AutoUserScope(WireEnum):
    TASK = "task"
    POOL = "pool"


class ElevationLevel(WireEnum):
    NON_ADMIN = "nonadmin"
    ADMIN = "admin"


class OutputFileUploadCondition(WireEnum):
    TASK_SUCCESS = "tasksuccess"
    TASK_FAILURE = "taskfailure"
    TASK_COMPLETION = "taskcompletion"


class JobActionKind(WireEnum):
    NONE = "none"
    DISABLE = "disable"
    TERMINATE = "terminate"


class DependencyActionKind(WireEnum):
    SATISFY = "satisfy"
    BLOCK = "block"


class AllTasksCompleteMode(WireEnum):
    NO_ACTION = "noaction"
    TERMINATE_JOB = "terminatejob"


class TaskFailureMode(WireEnum):
    NO_ACTION = "noaction"
    PERFORM_EXIT_OPTIONS_JOB_ACTION = "performexitoptionsjobaction"


class DisableTasks(WireEnum):
    REQUEUE = "requeue"
    TERMINATE = "terminate"
    WAIT = "wait"


class DeallocationOption(WireEnum):
    REQUEUE = "requeue"
    TERMINATE = "terminate"
    TASK_COMPLETION = "taskcompletion"
    RETAINED_DATA = "retaineddata"


class DisableSchedulingOption(WireEnum):
    REQUEUE = "requeue"
    TERMINATE = "terminate"
    TASK_COMPLETION = "taskcompletion"


class FillType(WireEnum):
    SPREAD = "spread"
    PACK = "pack"


class JobDefaultOrder(WireEnum):
    NONE = "none"
    CREATION_TIME = "creationtime"


class AccessScope(WireEnum):
    JOB = "job"


class LoginMode(WireEnum):
    BATCH = "batch"
    INTERACTIVE = "interactive"


class PoolLifetime(WireEnum):
    JOB_SCHEDULE = "jobschedule"
    JOB = "job"


class CachingType(WireEnum):
    NONE = "none"
    READ_ONLY = "readonly"
    READ_WRITE = "readwrite"


class StorageAccountType(WireEnum):
    STANDARD_LRS = "standard_lrs"
    PREMIUM_LRS = "premium_lrs"
    STANDARD_SSD_LRS = "standardssd_lrs"


class SecurityEncryptionType(WireEnum):
    DISK_WITH_VM_GUEST_STATE = "DiskWithVMGuestState"
    NON_PERSISTED_TPM = "NonPersistedTPM"
    VM_GUEST_STATE_ONLY = "VMGuestStateOnly"


class SecurityType(WireEnum):
    TRUSTED_LAUNCH = "trustedLaunch"
    CONFIDENTIAL_VM = "confidentialvm"


class DiskEncryptionTarget(WireEnum):
    OS_DISK = "osdisk"
    TEMPORARY_DISK = "temporarydisk"


class NodePlacementPolicy(WireEnum):
    REGIONAL = "regional"
    ZONAL = "zonal"


class DiffDiskPlacement(WireEnum):
    CACHE_DISK = "cachedisk"


class HostEndpointMode(WireEnum):
    AUDIT = "Audit"
    ENFORCE = "Enforce"


class DynamicVNetAssignmentScope(WireEnum):
    NONE = "none"
    JOB = "job"


class InboundEndpointProtocol(WireEnum):
    TCP = "tcp"
    UDP = "udp"


class SecurityRuleAccess(WireEnum):
    ALLOW = "allow"
    DENY = "deny"


class IpAddressProvisioning(WireEnum):
    BATCH_MANAGED = "batchmanaged"
    USER_MANAGED = "usermanaged"
    NO_PUBLIC_IP_ADDRESSES = "nopublicipaddresses"


class IpFamily(WireEnum):
    IPV4 = "IPv4"
    IPV6 = "IPv6"


class UpgradeMode(WireEnum):
    AUTOMATIC = "automatic"
    MANUAL = "manual"
    ROLLING = "rolling"


class NodeCommunicationMode(WireEnum):
    DEFAULT = "default"
    CLASSIC = "classic"
    SIMPLIFIED = "simplified"


class PoolIdentityType(WireEnum):
    USER_ASSIGNED = "UserAssigned"
    NONE = "None"
