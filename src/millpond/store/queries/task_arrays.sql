-- name: insert_task_arrays
INSERT INTO task_array (key, last, id, rest, record) SELECT * FROM (VALUES /*values*/) WHERE column1 IS NOT NULL

-- name: update_rests
UPDATE task_array SET rest = new.column2 FROM (VALUES /*values*/) AS new WHERE task_array.key = new.column1

-- name: delete_task_arrays
DELETE FROM task_array WHERE key IN (SELECT value FROM json_each(?))

-- name: purge_task_arrays
DELETE FROM task_array WHERE key BETWEEN ? AND ?

-- name: list_task_arrays
-- Of one job, those with items after a key.
SELECT key, rest, record FROM task_array WHERE key BETWEEN ? AND ? AND last > ? ORDER BY key

-- name: get_task_array
SELECT task_array.key, task_array.rest, task_array.record
FROM job
JOIN task_array ON task_array.job_no = job.no AND task_array.id = ?2
WHERE job.id = ?1
