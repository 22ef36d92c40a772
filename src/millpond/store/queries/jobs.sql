-- name: save_jobs
INSERT INTO job (
    no, id, pool_id, state, state_time, creation_time, last_modified, start_time, end_time, schedule_id, record
)
SELECT * FROM (VALUES /*values*/) WHERE column1 IS NOT NULL
ON CONFLICT (no) DO UPDATE SET
    pool_id = excluded.pool_id,
    state = excluded.state,
    state_time = excluded.state_time,
    last_modified = excluded.last_modified,
    start_time = excluded.start_time,
    end_time = excluded.end_time,
    record = excluded.record

-- name: delete_jobs
DELETE FROM job WHERE no IN (SELECT value FROM json_each(?))

-- name: get_job
SELECT record FROM job WHERE id = ?

-- name: list_jobs
SELECT id, record FROM job WHERE id > ? AND id <= ? AND /*where*/ ORDER BY id LIMIT ?

-- name: scan_jobs
SELECT id FROM job WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?

-- name: list_jobs_of_schedule
SELECT id, record FROM job WHERE schedule_id = ? AND id > ? AND id <= ? AND /*where*/ ORDER BY id LIMIT ?

-- name: scan_jobs_of_schedule
SELECT id FROM job WHERE schedule_id = ? AND id > ? ORDER BY id LIMIT 1 OFFSET ?

-- name: load_jobs
SELECT record FROM job WHERE pool_id = ? ORDER BY no

-- name: load_job
SELECT record FROM job WHERE no = ?

-- name: job_facts
SELECT record FROM job ORDER BY no

-- name: pools_of_jobs
SELECT id, pool_id FROM job WHERE id IN (SELECT value FROM json_each(?))
