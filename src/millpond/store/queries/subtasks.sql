-- name: save_subtasks
INSERT INTO subtask (task_key, number, record)
SELECT * FROM (VALUES /*values*/) WHERE column1 IS NOT NULL
ON CONFLICT (task_key, number) DO UPDATE SET record = excluded.record

-- name: delete_subtasks
DELETE FROM subtask WHERE task_key IN (SELECT value FROM json_each(?))

-- name: purge_subtasks
DELETE FROM subtask WHERE task_key BETWEEN ? AND ?

-- name: load_subtasks
SELECT subtask.record
FROM subtask
JOIN task ON task.key = subtask.task_key
WHERE subtask.task_key BETWEEN ? AND ? AND task.state <> 'completed'
ORDER BY subtask.task_key, subtask.number

-- name: list_subtasks
SELECT record FROM subtask WHERE task_key = ? ORDER BY number
