-- name: task_columns
-- In the order of the fields of `Task`.
task.key, task.id, task.state, task.creation_time, task.last_modified, task.state_time, task.required_slots,
task.max_retry_count, task.previous_state, task.previous_state_time, task.attempt, task.node, task.retry_count,
task.requeue_count, task.last_retry_time, task.last_requeue_time, task.start_time, task.end_time, task.exit_code,
task.failure, task.satisfies, task.rules, task.use

-- name: insert_tasks
INSERT INTO task (
    key, id, state, creation_time, last_modified, state_time, required_slots, max_retry_count, previous_state,
    previous_state_time, attempt, node, retry_count, requeue_count, last_retry_time, last_requeue_time, start_time,
    end_time, exit_code, failure, satisfies, rules, use
)
SELECT
    column1, column2, column3, column4, column5, column6, column7, column8, column9, column10, column11,
    (SELECT ref FROM node_name WHERE node_name.id = column12),
    column13, column14, column15, column16, column17, column18, column19, column20, column21, column22,
    column23
FROM (VALUES /*values*/)
WHERE column1 IS NOT NULL

-- name: insert_runs
-- Tasks just added, see `sqlite_runs`. What is not named here is NULL.
INSERT INTO task (
    key, id, state, creation_time, last_modified, state_time, required_slots, max_retry_count,
    attempt, retry_count, requeue_count, satisfies
)
SELECT
    run.column1 + ids.key, ids.value, run.column2, run.column3, run.column4, run.column5, run.column6, run.column7,
    0, 0, 0, 0
FROM (VALUES /*values*/) AS run, json_each(run.column8) AS ids

-- name: insert_run_specs
INSERT INTO task_spec (key, spec)
SELECT run.column1 + places.key, substr(?1, 1 + run.column2 + (places.value >> 24), places.value & 0xFFFFFF)
FROM (VALUES /*values*/) AS run, json_each(run.column3) AS places

-- name: often_alike
    state = ?1,
    required_slots = ?2,
    max_retry_count = ?3,
    previous_state = ?4,
    attempt = ?5,
    retry_count = ?6,
    requeue_count = ?7,
    last_retry_time = ?8,
    last_requeue_time = ?9,
    failure = ?10,
    satisfies = ?11

-- name: update_tasks
-- All but id and creation time, which never change. What is the same for all rows comes first, and once.
UPDATE task SET
    /*often_alike*/,
    state_time = new.column2,
    previous_state_time = new.column3,
    exit_code = new.column4,
    rules = new.column5,
    node = new.column6,
    last_modified = new.column7,
    start_time = new.column8,
    end_time = new.column9,
    use = new.column10
FROM (VALUES /*values*/) AS new
WHERE task.key = new.column1

-- name: update_tasks_alike
-- The same, where more of it is the same.
UPDATE task SET
    /*often_alike*/,
    state_time = ?12,
    previous_state_time = ?13,
    exit_code = ?14,
    rules = ?15,
    node = ?16,
    last_modified = new.column2,
    start_time = new.column3,
    end_time = new.column4,
    use = new.column5
FROM (VALUES /*values*/) AS new
WHERE task.key = new.column1

-- name: save_hand_overs
INSERT INTO hand_over (key, attempt, node)
SELECT * FROM (VALUES /*values*/) WHERE column1 IS NOT NULL
ON CONFLICT (key) DO UPDATE SET attempt = excluded.attempt, node = excluded.node

-- name: delete_hand_overs
DELETE FROM hand_over WHERE key IN (SELECT value FROM json_each(?))

-- name: purge_hand_overs
DELETE FROM hand_over WHERE key BETWEEN ? AND ?

-- name: handed_over
SELECT key, attempt, node FROM hand_over WHERE key BETWEEN ? AND ?

-- name: save_specs
INSERT INTO task_spec (key, spec)
SELECT * FROM (VALUES /*values*/) WHERE column1 IS NOT NULL
ON CONFLICT (key) DO UPDATE SET spec = excluded.spec

-- name: delete_tasks
DELETE FROM task WHERE key IN (SELECT value FROM json_each(?))

-- name: delete_specs
DELETE FROM task_spec WHERE key IN (SELECT value FROM json_each(?))

-- name: save_satisfied
INSERT INTO satisfied (job_no, id_key) SELECT * FROM (VALUES /*values*/) WHERE column1 IS NOT NULL
ON CONFLICT DO NOTHING

-- name: only_added
-- Nothing has happened to the task yet, and no rules go with it: five columns say all of it.
task.state = 'active' AND task.attempt = 0 AND task.rules IS NULL
AND task.last_modified = task.creation_time AND task.state_time = task.creation_time
AND task.previous_state IS NULL AND task.previous_state_time IS NULL AND task.node IS NULL AND task.use IS NULL
AND task.retry_count = 0 AND task.requeue_count = 0 AND task.last_retry_time IS NULL AND task.last_requeue_time IS NULL
AND task.start_time IS NULL AND task.end_time IS NULL AND task.exit_code IS NULL AND task.failure IS NULL
AND task.satisfies = 0

-- name: load_added_tasks
-- Each column of all of them in one value: key, creation time in whole microseconds, slots and retries as numbers with
-- commas between, ids with blanks, which are in none.
SELECT
    group_concat(key), group_concat(id, ' '), group_concat(CAST(round(creation_time * 1000000) AS INTEGER)),
    group_concat(required_slots), group_concat(coalesce(max_retry_count, 'null'))
FROM task WHERE key > ? AND key <= ? AND (/*only_added*/)

-- name: count_tasks
SELECT count(*) FROM task WHERE key BETWEEN ? AND ?

-- name: load_other_tasks
SELECT /*task_columns*/ FROM task WHERE key BETWEEN ? AND ? AND NOT (/*only_added*/) ORDER BY key

-- name: load_satisfied
SELECT job_no, id_key FROM satisfied WHERE job_no = ? ORDER BY id_key

-- name: get_task
SELECT /*task_columns*/, task_spec.spec
FROM job
JOIN task ON task.job_no = job.no AND task.id = ?2
LEFT JOIN task_spec ON task_spec.key = task.key
WHERE job.id = ?1

-- name: extent_of_page
-- The keys of the first and the last of its tasks, and how many they are.
SELECT min(page.key), max(page.key), count(*)
FROM (SELECT task.key FROM task WHERE task.key > ? AND task.key <= ? AND /*where*/ ORDER BY task.key LIMIT ?) AS page

-- name: list_added_tasks
-- As `load_added_tasks`, and the specifications, with a character between that JSON has only escaped.
SELECT
    group_concat(task.key), group_concat(task.id, ' '), group_concat(CAST(round(task.creation_time * 1000000) AS INTEGER)),
    group_concat(task.required_slots), group_concat(coalesce(task.max_retry_count, 'null')),
    CAST(group_concat(coalesce(task_spec.spec, '{}'), char(30)) AS BLOB)
FROM task
LEFT JOIN task_spec ON task_spec.key = task.key
WHERE task.key > ? AND task.key <= ? AND /*where*/ AND (/*only_added*/)

-- name: list_other_tasks
-- All of them in one value: between two rows the reader would wait for the interpreter again and again. In the order of
-- the fields of `Task`, and the specification; times are whole microseconds.
SELECT json_group_array(json_array(
    task.key, task.id, task.state, CAST(round(task.creation_time * 1000000) AS INTEGER),
    CAST(round(task.last_modified * 1000000) AS INTEGER), CAST(round(task.state_time * 1000000) AS INTEGER),
    task.required_slots, task.max_retry_count, task.previous_state,
    CAST(round(task.previous_state_time * 1000000) AS INTEGER), task.attempt, task.node, task.retry_count,
    task.requeue_count, CAST(round(task.last_retry_time * 1000000) AS INTEGER),
    CAST(round(task.last_requeue_time * 1000000) AS INTEGER), CAST(round(task.start_time * 1000000) AS INTEGER),
    CAST(round(task.end_time * 1000000) AS INTEGER), task.exit_code, json(CAST(task.failure AS TEXT)), task.satisfies,
    json(CAST(task.rules AS TEXT)), json(CAST(task.use AS TEXT)), CAST(task_spec.spec AS TEXT)
))
FROM task
LEFT JOIN task_spec ON task_spec.key = task.key
WHERE task.key > ? AND task.key <= ? AND /*where*/ AND NOT (/*only_added*/)

-- name: sizes_of_tasks
-- Of the specifications of a page; they are not read for it.
SELECT length(task_spec.spec)
FROM task
LEFT JOIN task_spec ON task_spec.key = task.key
WHERE task.key > ? AND task.key <= ? AND /*where*/
ORDER BY task.key
LIMIT ?

-- name: scan_tasks
-- The key so many rows further on.
SELECT key FROM task WHERE key > ? AND key <= ? ORDER BY key LIMIT 1 OFFSET ?

-- name: task_specs
SELECT key, spec FROM task_spec WHERE key IN (SELECT value FROM json_each(?))

-- name: tasks_of_keys
SELECT /*task_columns*/, job.id
FROM task
JOIN job ON job.no = task.job_no
WHERE task.key IN (SELECT value FROM json_each(?))
ORDER BY task.key

-- name: nodes_of_tasks
SELECT DISTINCT node FROM task WHERE key > ? AND key <= ? AND node IS NOT NULL

-- name: purge_tasks
DELETE FROM task WHERE key BETWEEN ? AND ?

-- name: purge_specs
DELETE FROM task_spec WHERE key BETWEEN ? AND ?

-- name: purge_satisfied
DELETE FROM satisfied
WHERE job_no = ?1 AND id_key IN (SELECT id_key FROM satisfied WHERE job_no = ?1 LIMIT ?2)

-- name: delete_satisfied
DELETE FROM satisfied WHERE job_no IN (SELECT value FROM json_each(?))
