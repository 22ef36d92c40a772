-- Task arrays of which items have no row.

CREATE TABLE task_array (
    key INTEGER PRIMARY KEY,    -- the task key of the first item; those of the others follow
    last INTEGER NOT NULL,      -- that of the last
    job_no INTEGER GENERATED ALWAYS AS (key >> 32) VIRTUAL,
    id TEXT NOT NULL COLLATE NOCASE,
    rest BLOB NOT NULL,         -- which items have no row: JSON, pairs of first and last index
    record BLOB NOT NULL        -- JSON
);
CREATE UNIQUE INDEX task_array_by_id ON task_array (job_no, id);
