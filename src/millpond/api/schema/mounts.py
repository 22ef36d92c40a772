"""Mounts of pools in wire form (Azure Batch: MountConfiguration)."""

from millpond.api.schema.base import Wire
from millpond.api.schema.vm import ResourceReference


class AzureBlobFileSystemConfiguration(Wire, kw_only=True):
    account_name: str
    container_name: str
    account_key: str | None = None
    sas_key: str | None = None
    blobfuse_options: str | None = None
    relative_mount_path: str
    identity_reference: ResourceReference | None = None


class AzureFileShareConfiguration(Wire, kw_only=True):
    account_name: str
    account_key: str
    azure_file_url: str
    relative_mount_path: str
    mount_options: str | None = None


class NfsMountConfiguration(Wire, kw_only=True):
    source: str
    relative_mount_path: str
    mount_options: str | None = None


class CifsMountConfiguration(Wire, kw_only=True):
    username: str
    source: str
    relative_mount_path: str
    mount_options: str | None = None
    password: str


class MountConfiguration(Wire):
    """One of its properties is given."""

    azure_blob_file_system_configuration: AzureBlobFileSystemConfiguration | None = None
    nfs_mount_configuration: NfsMountConfiguration | None = None
    cifs_mount_configuration: CifsMountConfiguration | None = None
    azure_file_share_configuration: AzureFileShareConfiguration | None = None
