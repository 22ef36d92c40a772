-- name: save_job_schedules
INSERT INTO job_schedule (
    no, id, state, state_time, creation_time, last_modified, end_time, do_not_run_until, do_not_run_after, record
)
SELECT * FROM (VALUES /*values*/) WHERE column1 IS NOT NULL
ON CONFLICT (no) DO UPDATE SET
    state = excluded.state,
    state_time = excluded.state_time,
    last_modified = excluded.last_modified,
    end_time = excluded.end_time,
    do_not_run_until = excluded.do_not_run_until,
    do_not_run_after = excluded.do_not_run_after,
    record = excluded.record

-- name: delete_job_schedules
DELETE FROM job_schedule WHERE no IN (SELECT value FROM json_each(?))

-- name: get_job_schedule
SELECT record FROM job_schedule WHERE id = ?

-- name: list_job_schedules
SELECT id, record FROM job_schedule WHERE id > ? AND id <= ? AND /*where*/ ORDER BY id LIMIT ?

-- name: scan_job_schedules
SELECT id FROM job_schedule WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?

-- name: load_job_schedules
SELECT record FROM job_schedule ORDER BY no
