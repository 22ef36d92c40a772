// @azure/batch 10: a pool, a job, tasks, files. Prints each step it has done.

import assert from "node:assert/strict";
import { BatchServiceClient, BatchSharedKeyCredentials } from "@azure/batch";

const env = process.env;
const client = new BatchServiceClient(
  new BatchSharedKeyCredentials(env.AZURE_BATCH_ACCOUNT, env.AZURE_BATCH_ACCESS_KEY),
  env.AZURE_BATCH_ENDPOINT,
);
const DEADLINE_MS = 60_000;

async function until(look, wanted) {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    const seen = await look();
    if (wanted(seen)) return seen;
    assert.ok(Date.now() < deadline, `not in time: ${JSON.stringify(seen)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function codeOf(promise) {
  try {
    await promise;
  } catch (error) {
    return error.code ?? error.body?.code;
  }
  assert.fail("it did not fail");
}

async function textOf(response) {
  if (response.readableStreamBody) {
    const chunks = [];
    for await (const chunk of response.readableStreamBody) chunks.push(chunk);
    return Buffer.concat(chunks).toString();
  }
  return response.blobBody ? await (await response.blobBody).text() : response.bodyAsText;
}

const images = await client.account.listSupportedImages();
const image = images.find((each) => each.osType === "linux");
console.log("images");

await client.pool.add({
  id: "js",
  vmSize: "standard_d2s_v3",
  virtualMachineConfiguration: { imageReference: image.imageReference, nodeAgentSKUId: image.nodeAgentSKUId },
  targetDedicatedNodes: 1,
  taskSlotsPerNode: 2,
});
await until(() => client.computeNode.list("js"), (nodes) => nodes.length === 1 && nodes[0].state === "idle");
assert.equal((await client.pool.get("js")).allocationState, "steady");
assert.equal(await codeOf(client.pool.get("none")), "PoolNotFound");
console.log("pool");

await client.job.add({ id: "jswork", poolInfo: { poolId: "js" } });
const added = await client.task.addCollection(
  "jswork",
  [...Array(50).keys()].map((number) => ({ id: `t${number}`, commandLine: '/bin/sh -c "echo from js"' })),
);
assert.ok(added.value.every((each) => each.status.toLowerCase() === "success"));
await client.task.add("jswork", { id: "bad", commandLine: "/bin/false" });
const { taskCounts } = await until(() => client.job.getTaskCounts("jswork"), (each) => each.taskCounts.completed === 51);
assert.deepEqual([taskCounts.succeeded, taskCounts.failed], [50, 1]);
const some = await client.task.list("jswork", { taskListOptions: { maxResults: 20, filter: "state eq 'completed'" } });
assert.equal(some.length, 20);
const rest = await client.task.listNext(some.odatanextLink);
assert.ok(rest.length > 0);
assert.equal((await client.task.get("jswork", "bad")).executionInfo.exitCode, 1);
console.log("tasks");

assert.equal(await textOf(await client.file.getFromTask("jswork", "t0", "stdout.txt")), "from js\n");
const files = await client.file.listFromTask("jswork", "t0");
assert.ok(files.some((each) => each.name === "stderr.txt"));
console.log("files");

await client.job.terminate("jswork", { terminateReason: "done" });
await until(() => client.job.get("jswork"), (job) => job.state === "completed");
await client.job.deleteMethod("jswork");
await until(() => client.job.list(), (jobs) => jobs.length === 0);
await client.pool.deleteMethod("js");
await until(() => client.pool.list(), (pools) => pools.length === 0);
console.log("end");
