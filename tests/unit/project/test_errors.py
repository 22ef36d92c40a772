"""Every code of the reference is in the catalogue, or in a list that says why not; every code of the catalogue is
produced by some test."""

import re
from pathlib import Path

import pytest

from millpond.domain.errors import CATALOGUE, ErrorCode
from tests.api.specification import NOT_AT_HAND

TESTS = Path(__file__).resolve().parents[2]
REFERENCE = TESTS.parents[1] / "shared" / "reference" / "api-surface.md"
THIS = Path(__file__).resolve()

NOT_PRODUCED = {
    "AccountAlreadyExists": "a PUT of an account that is there changes it",
    "AutoScalingFormulaTooLong": "the SDKs know AutoScaleFormulaTooLong",
    "CertificateBeingDeleted": "there are no certificates",
    "CertificateDeleteFailed": "there are no certificates",
    "CertificateExists": "there are no certificates",
    "CertificateStateActive": "there are no certificates",
    "HostInformationNotPresent": "a request without Host is answered by the HTTP server",
    "IOError": "of storage accounts the service reaches into; ours never does for a request",
    "InvalidCertificateReferences": "certificates are refused as a whole",
    "InvalidHttpVerb": "UnsupportedHttpVerb says it with 405",
    "InvalidInput": "InvalidPropertyValue names the property",
    "InvalidMetadata": "EmptyMetadataKey and InvalidPropertyValue name the item",
    "InvalidRestAPIForAccountSetting": "every operation suits the account",
    "MetadataTooLarge": "metadata is bounded by the body",
    "MissingContentLengthHeader": "bodies may be chunked",
    "NodeAgentSKUNotFound": "any Linux nodeAgentSKUId is taken",
    "NodeCountsMismatch": "removal names nodes, not counts",
    "OSVersionDisabled": "cloud services are refused as a whole",
    "OSVersionExpired": "cloud services are refused as a whole",
    "OSVersionNotFound": "cloud services are refused as a whole",
    "OperationNotValidOnPool": "OperationInvalidForCurrentState says which state is in the way",
    "PathNotFound": "FileNotFound says it of files and directories",
    "PoolNotEligibleForOSVersionUpgrade": "cloud services are refused as a whole",
    "PoolVersionEqualsUpgradeVersion": "cloud services are refused as a whole",
    "RequestUrlFailedToParse": "InvalidUri says it",
    "ResourceAlreadyExists": "every kind of resource has a code of its own",
    "ResourceTypeMismatch": "no two kinds of resources share a path",
    "StorageAccountNotFound": "storage accounts are a matter of the configuration",
    "TooManyRequests": "too many requests are answered by ServerBusy",
    "UnsupportedConstraint": "every constraint is supported",
    "UnsupportedHttpVersion": "the HTTP server's business",
    "UpgradePoolVersionConflict": "cloud services are refused as a whole",
}
"""Codes of the reference that nothing here answers with, and why."""

NOT_REACHED = {
    "InvalidConstraintValue": "InvalidPropertyValue names the constraint",
    "JobDisabled": "OperationInvalidForCurrentState says which state is in the way",
    "JobNotActive": "OperationInvalidForCurrentState says which state is in the way",
    "JobPreparationTaskNotRunOnNode": "no operation is about one node's preparation task",
    "JobReleaseTaskNotRunOnNode": "no operation is about one node's release task",
    "JobReleaseTaskNotSpecified": "the status of a job without preparation task is JobPreparationTaskNotSpecified; a release task needs one",
    "MissingRequiredHeader": "a request without a date is AuthenticationFailed",
    "OutOfRangeInput": "InvalidPropertyValue names the bounds",
    "PoolBeingCreated": "a pool is there as soon as it is answered for",
}
"""Codes of the catalogue that are there for completeness."""


def produced() -> set[str]:
    """Codes that stand in the tests, as text or as a member of the enumeration."""
    text = "\n".join(path.read_text() for path in TESTS.rglob("*.py") if path.resolve() != THIS)
    words = set(re.findall(r"\b[A-Z][A-Za-z]+\b", text))
    members = set(re.findall(r"\bErrorCode\.([A-Z_]+)\b", text))
    return {code.value for code in CATALOGUE if code.value in words or code.name in members}


def test_every_code_is_produced_by_some_test() -> None:
    missing = {code.value for code in CATALOGUE} - produced()
    assert missing == set(NOT_REACHED) - produced(), sorted(missing ^ set(NOT_REACHED))
    assert not set(NOT_REACHED) & produced(), "some test reaches these: take them off the list"


def test_the_reference_is_covered() -> None:
    if not REFERENCE.exists():
        pytest.skip(NOT_AT_HAND)
    table = REFERENCE.read_text().partition("## 8. Errors")[2].partition("Failure codes inside")[0]
    theirs: set[str] = set()
    for line in table.splitlines():
        if re.match(r"\| \d\d\d \|", line):
            theirs |= set(re.findall(r"\b[A-Z][A-Za-z]{4,}\b", re.sub(r"\([^)]*\)|= \w+", "", line.split("|")[2])))
    ours = {code.value for code in ErrorCode}
    unaccounted = theirs - ours - set(NOT_PRODUCED)
    assert not unaccounted, sorted(unaccounted)
    assert not set(NOT_PRODUCED) & ours, sorted(set(NOT_PRODUCED) & ours)
