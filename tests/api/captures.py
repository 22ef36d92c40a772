"""Requests of the unmodified SDKs, captured with their signatures (account `labacct`, key 64 bytes `k`).

Only the headers that are signed are kept.
"""

from typing import NamedTuple


class Capture(NamedTuple):
    name: str
    method: str
    target: str
    headers: dict[str, str]


CAPTURES = (
    Capture(
        "15.1.0: create pool",
        "POST",
        "/pools?api-version=2025-06-01",
        {
            "content-type": "application/json; odata=minimalmetadata",
            "Content-Length": "446",
            "ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT",
            "Authorization": "SharedKey labacct:vv5i3ZokZNssp8dd0Eae7iSyXsXq+q+H1NIQ6e7GnRU=",
        },
    ),
    Capture(
        "15.1.0: list pools",
        "GET",
        "/pools?api-version=2025-06-01&timeOut=20&maxresults=10&$select=id,state",
        {
            "ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT",
            "Authorization": "SharedKey labacct:r8eWpik2t2Bq+LCweF2EtKOZDzJ3ihYPDzFL73NxvXE=",
        },
    ),
    Capture(
        "15.1.0: create job",
        "POST",
        "/jobs?api-version=2025-06-01",
        {
            "content-type": "application/json; odata=minimalmetadata",
            "Content-Length": "167",
            "ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT",
            "Authorization": "SharedKey labacct:RbJeaeezcJrQxSIki9+FN0+azF24s9eKHdvNWHhf7Yo=",
        },
    ),
    Capture(
        "15.1.0: add task collection of 3",
        "POST",
        "/jobs/j1/addtaskcollection?api-version=2025-06-01",
        {
            "content-type": "application/json; odata=minimalmetadata",
            "Content-Length": "143",
            "ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT",
            "Authorization": "SharedKey labacct:pgbQ0QC4Phx7C07dQpvnFBzzKu1sybUz3wxZu19SiwE=",
        },
    ),
    Capture(
        "15.1.0: get task",
        "GET",
        "/jobs/j1/tasks/t1?api-version=2025-06-01&$select=id,state&$expand=stats",
        {
            "ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT",
            "Authorization": "SharedKey labacct:5dabG7TlLuPuVX/CXLEFCJa5Mbxp6Kax3gEWtwacQJM=",
        },
    ),
    Capture(
        "15.1.0: list tasks, page 1",
        "GET",
        "/jobs/j1/tasks?api-version=2025-06-01&maxresults=2&$filter=state%20eq%20%27active%27%20and%20startswith%28id%2C%27t%27%29&$select=id,state&$expand=stats",
        {
            "ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT",
            "Authorization": "SharedKey labacct:pAnNU+TvRUxJd0cTtr3FP60nS4RJcuQT/WiRzhD8cuM=",
        },
    ),
    Capture(
        "15.1.0: list tasks, odata.nextLink follow-up",
        "GET",
        "/jobs/j1/tasks?api-version=2025-06-01&$filter=state%20eq%20%27active%27%20and%20startswith%28id%2C%27t%27%29&$select=id%2Cstate&maxresults=2&$skiptoken=WATV2%3Aa%20b/c%3D%3D",
        {
            "ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT",
            "Authorization": "SharedKey labacct:1CEmMtzpHwpPfKSfKJCtI2XdazVIAnJGh6OQLd4r1n0=",
        },
    ),
    Capture(
        "15.1.0: get file (range)",
        "GET",
        "/jobs/j1/tasks/t1/files/wd%2Fmy%20dir%2Fstdout.txt?api-version=2025-06-01",
        {
            "ocp-range": "bytes=0-9",
            "ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT",
            "Authorization": "SharedKey labacct:6p4bM3euriDQBqOg8bfGul5B9ToDARUGPS8U724LAZQ=",
        },
    ),
    Capture(
        "15.1.0: file properties",
        "HEAD",
        "/jobs/j1/tasks/t1/files/stdout.txt?api-version=2025-06-01",
        {
            "ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT",
            "Authorization": "SharedKey labacct:lymFNlt4Sxu1OHz+shXLTl2y2Do/HRttes/m091aUlc=",
        },
    ),
    Capture(
        "15.1.0: delete job",
        "DELETE",
        "/jobs/gone1?api-version=2025-06-01&force=true",
        {
            "ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT",
            "Authorization": "SharedKey labacct:y6KlC5o/jWEpGu2IXueMBQbNNUR4GErjJFtSH0mqviE=",
            "Content-Length": "0",
        },
    ),
    Capture(
        "15.1.0: delete pool with etag",
        "DELETE",
        "/pools/p1?api-version=2025-06-01",
        {
            "If-Match": '"0x8DC"',
            "ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT",
            "Authorization": "SharedKey labacct:gunkghWS/DYCjwc1y9SJVVZloDauPm+9nq9KxB+L71g=",
            "Content-Length": "0",
        },
    ),
    Capture(
        "15.1.0: enable job (bodyless POST)",
        "POST",
        "/jobs/gone/enable?api-version=2025-06-01",
        {
            "ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT",
            "Authorization": "SharedKey labacct:o5RNULoUkpCP2S6gYJnx+k7TWs8YdFLJpBzYZmMrtFo=",
            "Content-Length": "0",
        },
    ),
    Capture(
        "14.2.0: create pool",
        "POST",
        "/pools?api-version=2024-02-01.19.0",
        {
            "Content-Type": "application/json; odata=minimalmetadata; charset=utf-8",
            "Content-Length": "443",
            "ocp-date": "Sat, 21 Nov 2026 04:30:49 GMT",
            "Authorization": "SharedKey labacct:Wl7rodKF/j4p2N9x5PHq5cg63TEc7KY//0IdTm+6fhc=",
        },
    ),
    Capture(
        "14.2.0: list pools",
        "GET",
        "/pools?api-version=2024-02-01.19.0&$select=id%2Cstate&maxresults=10&timeout=20",
        {
            "ocp-date": "Sat, 21 Nov 2026 04:30:49 GMT",
            "Authorization": "SharedKey labacct:e090/UeVBrHbWHodA1Ly8DaMrivZTekoSOymljBVq+s=",
        },
    ),
    Capture(
        "14.2.0: create job",
        "POST",
        "/jobs?api-version=2024-02-01.19.0",
        {
            "Content-Type": "application/json; odata=minimalmetadata; charset=utf-8",
            "Content-Length": "184",
            "ocp-date": "Sat, 21 Nov 2026 04:30:49 GMT",
            "Authorization": "SharedKey labacct:8Jwswd4kzcirQ4TfMZ3J8aFtO4rNyWHXQiBedl4BWBQ=",
        },
    ),
    Capture(
        "14.2.0: add task collection of 3",
        "POST",
        "/jobs/j1/addtaskcollection?api-version=2024-02-01.19.0",
        {
            "Content-Type": "application/json; odata=minimalmetadata; charset=utf-8",
            "Content-Length": "143",
            "ocp-date": "Sat, 21 Nov 2026 04:30:49 GMT",
            "Authorization": "SharedKey labacct:ydGu0c8eagtTYEjxoCEKV66HdJr9SXr62HBqfh/cs4g=",
        },
    ),
    Capture(
        "14.2.0: get task",
        "GET",
        "/jobs/j1/tasks/t1?api-version=2024-02-01.19.0&$select=id%2Cstate&$expand=stats&timeout=30",
        {
            "ocp-date": "Sat, 21 Nov 2026 04:30:49 GMT",
            "Authorization": "SharedKey labacct:lM2sTRw39e3E/5qLnBy+G/rn3c6XNWiUW72t6jNWjf0=",
        },
    ),
    Capture(
        "14.2.0: list tasks, page 1",
        "GET",
        "/jobs/j1/tasks?api-version=2024-02-01.19.0&$filter=state%20eq%20%27active%27%20and%20startswith%28id%2C%27t%27%29&$select=id%2Cstate&$expand=stats&maxresults=2&timeout=30",
        {
            "ocp-date": "Sat, 21 Nov 2026 04:30:49 GMT",
            "Authorization": "SharedKey labacct:xMq0YcUA4sQg0ik7gcRYBgXIPceO/dVg+zHWpRLq/bs=",
        },
    ),
    Capture(
        "14.2.0: list tasks, odata.nextLink follow-up",
        "GET",
        "/jobs/j1/tasks?api-version=2025-06-01&$filter=state%20eq%20%27active%27%20and%20startswith(id,%27t%27)&$select=id,state&maxresults=2&$skiptoken=WATV2:a+b/c%3D%3D",
        {
            "ocp-date": "Sat, 21 Nov 2026 04:30:49 GMT",
            "Authorization": "SharedKey labacct:UcreGV4XhYGNuG8f5LBXmE+VDApR8vsUst5dVrhYhy0=",
        },
    ),
    Capture(
        "14.2.0: get file (range)",
        "GET",
        "/jobs/j1/tasks/t1/files/wd%2Fmy%20dir%2Fstdout.txt?api-version=2024-02-01.19.0&timeout=30",
        {
            "ocp-range": "bytes=0-9",
            "ocp-date": "Sat, 21 Nov 2026 04:30:49 GMT",
            "Authorization": "SharedKey labacct:qtqivUS3lYhShNBY8Ju+oGHm7NSubUyjm+SrlaNb34U=",
        },
    ),
    Capture(
        "14.2.0: file properties",
        "HEAD",
        "/jobs/j1/tasks/t1/files/stdout.txt?api-version=2024-02-01.19.0",
        {
            "ocp-date": "Sat, 21 Nov 2026 04:30:49 GMT",
            "Authorization": "SharedKey labacct:d1EcqpgG/ybNt5iSznN/znkbK4K4DPIpan2CzcyyRyk=",
        },
    ),
    Capture(
        "14.2.0: delete job",
        "DELETE",
        "/jobs/gone1?api-version=2024-02-01.19.0",
        {
            "Content-Length": "0",
            "ocp-date": "Sat, 21 Nov 2026 04:30:49 GMT",
            "Authorization": "SharedKey labacct:qUpvgK8akJPEQDvisnLaTMRDJ2cs1Wopi4me+i/s3rI=",
        },
    ),
    Capture(
        "14.2.0: delete pool with etag",
        "DELETE",
        "/pools/p1?api-version=2024-02-01.19.0&timeout=30",
        {
            "If-Match": "0x8DC",
            "If-Modified-Since": "Thu, 01 Jan 2026 00:00:00 GMT",
            "Content-Length": "0",
            "ocp-date": "Sat, 21 Nov 2026 04:30:49 GMT",
            "Authorization": "SharedKey labacct:zqF1MihMXDYwSTztZXgbCGqiKrRxX2udx5seOkxIRFw=",
        },
    ),
    Capture(
        "14.2.0: enable job (bodyless POST)",
        "POST",
        "/jobs/gone/enable?api-version=2024-02-01.19.0",
        {
            "Content-Length": "0",
            "ocp-date": "Sat, 21 Nov 2026 04:30:49 GMT",
            "Authorization": "SharedKey labacct:Vz+hHtwsQnrxxS/P4SaVqSB3qIdCUJSxHbV6z6mRClk=",
        },
    ),
)
