"""An operation of Millpond's own: many tasks by one definition. To every other operation they are tasks like any."""

from millpond.api.context import Context
from millpond.api.decode import body_decoder, read_json
from millpond.api.handlers.jobs import require_job
from millpond.api.handlers.tasks import MAX_COLLECTION_BYTES
from millpond.api.http import Request, Response
from millpond.api.intake.task_arrays import new_task_array
from millpond.api.intake.tasks import check_job_action, names_job_action
from millpond.api.render.common import job_url, timestamp_text
from millpond.api.replies import encode_json, json_reply
from millpond.api.schema.task_array import TaskArrayCreate
from millpond.domain.events import TaskArrayAdded
from millpond.domain.task_array import TaskArray

_create_decoder = body_decoder(TaskArrayCreate)


async def create_task_array(context: Context, request: Request) -> Response:
    """All of its tasks, or none."""
    new = new_task_array(await read_json(request, _create_decoder, MAX_COLLECTION_BYTES))
    job_id = request.params["jobId"]
    for sample in filter(names_job_action, new.samples):
        check_job_action(sample, await require_job(context, job_id))
    event = TaskArrayAdded(at=context.control.now(), cause=request.request_id, job_id=job_id, array=new.array)
    array: TaskArray = await context.control.to_job(job_id, event)
    body = {
        "odata.metadata": f"{request.base_url}/$metadata#taskarrays/@Element",
        **({"id": array.id} if array.id else {}),
        "count": array.count,
        "firstTaskId": array.task_id(0),
        "lastTaskId": array.task_id(array.count - 1),
        "creationTime": timestamp_text(array.creation_time),
    }
    response = json_reply(request, encode_json(body), array.creation_time)
    tasks_url = f"{job_url(request.base_url, job_id)}/tasks".encode()
    response.headers += [(b"dataserviceid", tasks_url), (b"location", tasks_url)]
    return response
