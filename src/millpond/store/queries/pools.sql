-- name: save_pools
INSERT INTO pool (
    no, id, state, state_time, allocation_state, allocation_state_time, creation_time, last_modified,
    enable_auto_scale, enable_inter_node_communication, vm_size, record
)
SELECT * FROM (VALUES /*values*/) WHERE column1 IS NOT NULL
ON CONFLICT (no) DO UPDATE SET
    state = excluded.state,
    state_time = excluded.state_time,
    allocation_state = excluded.allocation_state,
    allocation_state_time = excluded.allocation_state_time,
    last_modified = excluded.last_modified,
    enable_auto_scale = excluded.enable_auto_scale,
    enable_inter_node_communication = excluded.enable_inter_node_communication,
    vm_size = excluded.vm_size,
    record = excluded.record

-- name: delete_pools
DELETE FROM pool WHERE no IN (SELECT value FROM json_each(?))

-- name: get_pool
SELECT record FROM pool WHERE id = ?

-- name: list_pools
SELECT id, record FROM pool WHERE id > ? AND id <= ? AND /*where*/ ORDER BY id LIMIT ?

-- name: scan_pools
SELECT id FROM pool WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?

-- name: pool_facts
SELECT record FROM pool ORDER BY no

-- name: get_counters
SELECT name, next FROM counter

-- name: raise_counter
UPDATE counter SET next = max(next, ?) WHERE name = ?
