-- Special tasks, instances of multi-instance tasks, job schedules.

INSERT INTO counter VALUES ('job_schedule', 1);

-- The start task of a node, as it went last.
ALTER TABLE node ADD COLUMN start_task_state TEXT;
ALTER TABLE node ADD COLUMN start_task_result TEXT;
ALTER TABLE node ADD COLUMN start_task_exit_code INTEGER;
ALTER TABLE node ADD COLUMN start_task_start_time REAL;
ALTER TABLE node ADD COLUMN start_task_end_time REAL;

-- A node that was to leave its pool said so in `removal`; that is one of several pending operations now.
UPDATE node SET record = CAST(
    json_set(
        CAST(record AS TEXT),
        '$.pending',
        json_object('operation', 'remove', 'option', json_extract(CAST(record AS TEXT), '$.removal'))
    ) AS BLOB
)
WHERE json_extract(CAST(record AS TEXT), '$.removal') IS NOT NULL;

-- What had been accepted and not acted on counts now.
UPDATE pool SET record = CAST(json_set(CAST(record AS TEXT), '$.inter_node_communication', json('true')) AS BLOB)
WHERE enable_inter_node_communication = 1;
UPDATE pool SET record = CAST(json_set(CAST(record AS TEXT), '$.job_default_order', 'creationtime') AS BLOB)
WHERE json_extract(CAST(record AS TEXT), '$.spec.taskSchedulingPolicy.jobDefaultOrder') = 'creationtime';
UPDATE job SET record = CAST(json_set(CAST(record AS TEXT), '$.allow_task_preemption', json('true')) AS BLOB)
WHERE json_extract(CAST(record AS TEXT), '$.spec.allowTaskPreemption');

ALTER TABLE job ADD COLUMN schedule_id TEXT COLLATE NOCASE;
CREATE INDEX job_of_schedule ON job (schedule_id, id) WHERE schedule_id IS NOT NULL;

CREATE TABLE job_schedule (
    no INTEGER PRIMARY KEY,
    id TEXT NOT NULL COLLATE NOCASE UNIQUE,
    state TEXT NOT NULL,
    state_time REAL NOT NULL,
    creation_time REAL NOT NULL,
    last_modified REAL NOT NULL,
    end_time REAL,
    do_not_run_until REAL,
    do_not_run_after REAL,
    record BLOB NOT NULL    -- JSON
);

-- What the preparation and release tasks of a job did on a node. Rows outlive the node.
CREATE TABLE job_node (
    job_no INTEGER NOT NULL,
    node_id TEXT NOT NULL COLLATE NOCASE,
    pool_id TEXT NOT NULL,
    preparation_state TEXT,
    preparation_result TEXT,
    preparation_exit_code INTEGER,
    preparation_start_time REAL,
    preparation_end_time REAL,
    release_state TEXT,
    release_result TEXT,
    release_exit_code INTEGER,
    release_start_time REAL,
    release_end_time REAL,
    record BLOB NOT NULL,   -- JSON
    PRIMARY KEY (job_no, node_id)
) WITHOUT ROWID;

-- The latest attempt of each instance of a multi-instance task; rows go with their task.
CREATE TABLE subtask (
    task_key INTEGER NOT NULL,
    number INTEGER NOT NULL,  -- 0 is the primary
    record BLOB NOT NULL,     -- JSON
    PRIMARY KEY (task_key, number)
) WITHOUT ROWID;
