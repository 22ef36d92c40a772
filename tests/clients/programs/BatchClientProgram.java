import com.microsoft.azure.batch.BatchClient;
import com.microsoft.azure.batch.DetailLevel;
import com.microsoft.azure.batch.auth.BatchSharedKeyCredentials;
import com.microsoft.azure.batch.protocol.models.AllocationState;
import com.microsoft.azure.batch.protocol.models.BatchErrorException;
import com.microsoft.azure.batch.protocol.models.CloudPool;
import com.microsoft.azure.batch.protocol.models.CloudTask;
import com.microsoft.azure.batch.protocol.models.ComputeNode;
import com.microsoft.azure.batch.protocol.models.ComputeNodeState;
import com.microsoft.azure.batch.protocol.models.ImageInformation;
import com.microsoft.azure.batch.protocol.models.JobState;
import com.microsoft.azure.batch.protocol.models.OSType;
import com.microsoft.azure.batch.protocol.models.PoolInformation;
import com.microsoft.azure.batch.protocol.models.TaskAddParameter;
import com.microsoft.azure.batch.protocol.models.TaskState;
import com.microsoft.azure.batch.protocol.models.VirtualMachineConfiguration;
import java.io.ByteArrayOutputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;

/** azure-batch 11 for Java: a pool, a job, tasks, files. Prints each step it has done. */
public final class BatchClientProgram {
    private static final long DEADLINE_MS = 60_000;

    private interface Condition<T> {
        boolean holds(T seen);
    }

    private static <T> T until(Callable<T> look, Condition<T> wanted) throws Exception {
        long deadline = System.currentTimeMillis() + DEADLINE_MS;
        while (true) {
            T seen = look.call();
            if (wanted.holds(seen)) {
                return seen;
            }
            require(System.currentTimeMillis() < deadline, "not in time: " + seen);
            Thread.sleep(100);
        }
    }

    private static void require(boolean condition, String text) {
        if (!condition) {
            throw new AssertionError(text);
        }
    }

    private static String codeOf(Callable<?> call) throws Exception {
        try {
            call.call();
        } catch (BatchErrorException error) {
            return error.body().code();
        }
        throw new AssertionError("it did not fail");
    }

    public static void main(String[] arguments) {
        int status = 1;
        try {
            run();
            status = 0;
        } catch (Throwable error) {
            error.printStackTrace();
        }
        // Threads of its HTTP client would go on for minutes.
        System.exit(status);
    }

    private static void run() throws Exception {
        BatchClient client = BatchClient.open(new BatchSharedKeyCredentials(
            System.getenv("AZURE_BATCH_ENDPOINT"),
            System.getenv("AZURE_BATCH_ACCOUNT"),
            System.getenv("AZURE_BATCH_ACCESS_KEY")));

        ImageInformation image = null;
        for (ImageInformation each : client.accountOperations().listSupportedImages()) {
            if (image == null && each.osType() == OSType.LINUX) {
                image = each;
            }
        }
        require(image != null, "there is no image");
        System.out.println("images");

        VirtualMachineConfiguration machine = new VirtualMachineConfiguration();
        machine.withImageReference(image.imageReference()).withNodeAgentSKUId(image.nodeAgentSKUId());
        client.poolOperations().createPool("java", "standard_d2s_v3", machine, 1);
        until(() -> client.computeNodeOperations().listComputeNodes("java"), (List<ComputeNode> nodes) ->
            nodes.size() == 1 && nodes.get(0).state() == ComputeNodeState.IDLE);
        CloudPool pool = client.poolOperations().getPool("java");
        require(pool.allocationState() == AllocationState.STEADY, "it is not steady");
        require(codeOf(() -> client.poolOperations().getPool("none")).equals("PoolNotFound"), "another code");
        System.out.println("pool");

        client.jobOperations().createJob("javawork", new PoolInformation().withPoolId("java"));
        List<TaskAddParameter> tasks = new ArrayList<>();
        for (int number = 0; number < 250; number++) {
            tasks.add(new TaskAddParameter().withId("t" + number).withCommandLine("/bin/sh -c 'echo from java'"));
        }
        // At most 100 at a time: given more, it may miss that its own thread has ended, and wait for ever.
        for (int first = 0; first < tasks.size(); first += 100) {
            client.taskOperations().createTasks("javawork", tasks.subList(first, Math.min(first + 100, tasks.size())));
        }
        until(() -> client.jobOperations().getTaskCounts("javawork"), counts -> counts.completed() == 250);
        List<CloudTask> listed = client.taskOperations().listTasks("javawork",
            new DetailLevel.Builder().withFilterClause("state eq 'completed'").withSelectClause("id,state").build());
        require(listed.size() == 250, "only " + listed.size());
        require(client.taskOperations().getTask("javawork", "t7").state() == TaskState.COMPLETED, "it is not completed");
        System.out.println("tasks");

        ByteArrayOutputStream text = new ByteArrayOutputStream();
        client.fileOperations().getFileFromTask("javawork", "t7", "stdout.txt", text);
        require(text.toString().equals("from java\n"), text.toString());
        require(client.fileOperations().getFilePropertiesFromTask("javawork", "t7", "stdout.txt").contentLength() == 10,
            "another length");
        System.out.println("files");

        client.jobOperations().terminateJob("javawork", "done");
        until(() -> client.jobOperations().getJob("javawork").state(), state -> state == JobState.COMPLETED);
        client.jobOperations().deleteJob("javawork");
        client.poolOperations().deletePool("java");
        until(() -> client.poolOperations().listPools(), pools -> pools.isEmpty());
        System.out.println("end");
    }
}
