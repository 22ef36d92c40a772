-- The first schema.
--
-- Pools, nodes and jobs are kept whole in `record` (JSON of the domain's record); the columns beside it are what SQL
-- looks at. Ids compare without case (NOCASE). Tasks have a column per field: they are many and hot.

-- Numbers once used are never used again, also when their rows are gone.
CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    next INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO counter VALUES ('pool', 1), ('job', 1);

CREATE TABLE lease (
    pool_key TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    owner TEXT,             -- NULL: released
    expires REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE pool (
    no INTEGER PRIMARY KEY,
    id TEXT NOT NULL COLLATE NOCASE UNIQUE,
    state TEXT NOT NULL,
    state_time REAL NOT NULL,
    allocation_state TEXT NOT NULL,
    allocation_state_time REAL NOT NULL,
    creation_time REAL NOT NULL,
    last_modified REAL NOT NULL,
    enable_auto_scale INTEGER NOT NULL,
    enable_inter_node_communication INTEGER NOT NULL,
    vm_size TEXT NOT NULL,
    record BLOB NOT NULL
);

CREATE TABLE node (
    id TEXT NOT NULL COLLATE NOCASE PRIMARY KEY,
    pool_no INTEGER NOT NULL,
    is_dedicated INTEGER NOT NULL,
    state TEXT NOT NULL,
    state_time REAL NOT NULL,
    last_boot_time REAL,
    allocation_time REAL NOT NULL,
    record BLOB NOT NULL
);
CREATE UNIQUE INDEX node_of_pool ON node (pool_no, id);

CREATE TABLE job (
    no INTEGER PRIMARY KEY,
    id TEXT NOT NULL COLLATE NOCASE UNIQUE,
    pool_id TEXT NOT NULL COLLATE NOCASE,
    state TEXT NOT NULL,
    state_time REAL NOT NULL,
    creation_time REAL NOT NULL,
    last_modified REAL NOT NULL,
    start_time REAL,
    end_time REAL,
    record BLOB NOT NULL
);
CREATE INDEX job_of_pool ON job (pool_id, no);

-- A node id is 72 characters long and stands in every task that ran there: tasks hold a small number instead. Names
-- stay when their node is gone, because tasks that ended on it still name it.
CREATE TABLE node_name (
    ref INTEGER PRIMARY KEY,
    id TEXT NOT NULL COLLATE NOCASE UNIQUE
);

-- The key is the job's number above, the task's number in the job below: a job is one range, in order of creation.
CREATE TABLE task (
    key INTEGER PRIMARY KEY,
    job_no INTEGER GENERATED ALWAYS AS (key >> 32) VIRTUAL,
    id TEXT NOT NULL COLLATE NOCASE,
    state TEXT NOT NULL,
    creation_time REAL NOT NULL,
    last_modified REAL NOT NULL,
    state_time REAL NOT NULL,
    required_slots INTEGER NOT NULL,
    max_retry_count INTEGER,
    previous_state TEXT,
    previous_state_time REAL,
    attempt INTEGER NOT NULL,
    node INTEGER,           -- node_name.ref
    retry_count INTEGER NOT NULL,
    requeue_count INTEGER NOT NULL,
    last_retry_time REAL,
    last_requeue_time REAL,
    start_time REAL,
    end_time REAL,
    exit_code INTEGER,
    failure BLOB,           -- JSON
    satisfies INTEGER NOT NULL,
    rules BLOB              -- JSON
);
CREATE UNIQUE INDEX task_by_id ON task (job_no, id);
-- For the recent tasks of a node. It makes state updates dearer by a few microseconds a row; without it that listing would
-- read every task there is. Tasks that wait are not in it.
CREATE INDEX task_of_node ON task (node, state_time) WHERE node IS NOT NULL;

-- The wide specification, apart from the narrow hot table.
CREATE TABLE task_spec (
    key INTEGER PRIMARY KEY,
    spec BLOB NOT NULL
);

-- Deleted tasks that had released their dependents.
CREATE TABLE satisfied (
    job_no INTEGER NOT NULL,
    id_key TEXT NOT NULL,
    PRIMARY KEY (job_no, id_key)
) WITHOUT ROWID;
