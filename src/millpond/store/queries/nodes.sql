-- name: save_nodes
INSERT INTO node (
    id, pool_no, is_dedicated, state, state_time, last_boot_time, allocation_time, start_task_state, start_task_result,
    start_task_exit_code, start_task_start_time, start_task_end_time, record, work_no
)
SELECT
    column1, column2, column3, column4, column5, column6, column7, column8, column9, column10, column11, column12, column13,
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'node_work'), 0)
FROM (VALUES /*values*/) WHERE column1 IS NOT NULL
ON CONFLICT (id) DO UPDATE SET
    work_no = excluded.work_no,
    state = excluded.state,
    state_time = excluded.state_time,
    last_boot_time = excluded.last_boot_time,
    allocation_time = excluded.allocation_time,
    start_task_state = excluded.start_task_state,
    start_task_result = excluded.start_task_result,
    start_task_exit_code = excluded.start_task_exit_code,
    start_task_start_time = excluded.start_task_start_time,
    start_task_end_time = excluded.start_task_end_time,
    record = excluded.record

-- name: add_node_work
INSERT INTO node_work (nodes, data) VALUES (?, ?)

-- name: all_node_work
SELECT no, nodes, data FROM node_work ORDER BY no

-- name: node_work
SELECT data FROM node_work WHERE no = ?

-- name: worked_nodes
SELECT id, work_no, record FROM node WHERE id IN (SELECT value FROM json_each(?))

-- name: update_worked_nodes
UPDATE node SET state = new.column2, state_time = new.column3, record = new.column4
FROM (VALUES /*values*/) AS new
WHERE node.id = new.column1

-- name: delete_node_work
DELETE FROM node_work WHERE no <= ?

-- name: delete_nodes
DELETE FROM node WHERE id IN (SELECT value FROM json_each(?))

-- name: get_node
SELECT node.record FROM pool JOIN node ON node.pool_no = pool.no WHERE pool.id = ? AND node.id = ?

-- name: pool_number
SELECT no FROM pool WHERE id = ?

-- name: list_nodes
SELECT id, record FROM node WHERE pool_no = ? AND id > ? AND id <= ? AND /*where*/ ORDER BY id LIMIT ?

-- name: scan_nodes
SELECT id FROM node WHERE pool_no = ? AND id > ? ORDER BY id LIMIT 1 OFFSET ?

-- name: load_nodes
SELECT record FROM node WHERE pool_no = ? ORDER BY id

-- name: node_counts
SELECT pool.id, node.is_dedicated, node.state, count(*)
FROM pool JOIN node ON node.pool_no = pool.no
WHERE /*where*/
GROUP BY pool.no, node.is_dedicated, node.state
ORDER BY pool.id, node.is_dedicated DESC, node.state

-- name: name_nodes
INSERT INTO node_name (id) SELECT * FROM (VALUES /*values*/) WHERE column1 IS NOT NULL
ON CONFLICT (id) DO NOTHING

-- name: node_refs
SELECT asked.value, node_name.ref FROM json_each(?) AS asked JOIN node_name ON node_name.id = asked.value

-- name: node_names
SELECT ref, id FROM node_name WHERE ref IN (SELECT value FROM json_each(?))

-- name: node_ref
SELECT ref FROM node_name WHERE id = ?

-- name: names_without_node
-- The highest stays: SQLite would give its number to the next, and numbers are remembered.
SELECT ref FROM node_name
WHERE ref < (SELECT max(ref) FROM node_name) AND NOT EXISTS (SELECT 1 FROM node WHERE node.id = node_name.id)

-- name: forget_node_names
DELETE FROM node_name WHERE ref IN (SELECT value FROM json_each(?1)) AND id NOT IN (SELECT value FROM json_each(?2))
RETURNING id
