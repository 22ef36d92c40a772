-- name: save_job_nodes
INSERT INTO job_node (
    job_no, node_id, pool_id, preparation_state, preparation_result, preparation_exit_code, preparation_start_time,
    preparation_end_time, release_state, release_result, release_exit_code, release_start_time, release_end_time,
    record
)
SELECT * FROM (VALUES /*values*/) WHERE column1 IS NOT NULL
ON CONFLICT (job_no, node_id) DO UPDATE SET
    pool_id = excluded.pool_id,
    preparation_state = excluded.preparation_state,
    preparation_result = excluded.preparation_result,
    preparation_exit_code = excluded.preparation_exit_code,
    preparation_start_time = excluded.preparation_start_time,
    preparation_end_time = excluded.preparation_end_time,
    release_state = excluded.release_state,
    release_result = excluded.release_result,
    release_exit_code = excluded.release_exit_code,
    release_start_time = excluded.release_start_time,
    release_end_time = excluded.release_end_time,
    record = excluded.record

-- name: delete_job_nodes
DELETE FROM job_node WHERE job_no IN (SELECT value FROM json_each(?))

-- name: load_job_nodes
SELECT record FROM job_node WHERE job_no = ? ORDER BY node_id

-- name: list_job_nodes
SELECT node_id, record FROM job_node
WHERE job_no = ? AND node_id > ? AND node_id <= ? AND /*where*/
ORDER BY node_id
LIMIT ?

-- name: scan_job_nodes
SELECT node_id FROM job_node WHERE job_no = ? AND node_id > ? ORDER BY node_id LIMIT 1 OFFSET ?
