-- name: save_sample_block
-- The pool may have been deleted meanwhile.
INSERT INTO sample_block (pool_no, start, data)
SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM pool WHERE no = ?1)
ON CONFLICT (pool_no, start) DO UPDATE SET data = excluded.data

-- name: prune_sample_blocks
DELETE FROM sample_block WHERE pool_no = ? AND start < ?

-- name: load_sample_blocks
SELECT start, data FROM sample_block WHERE pool_no = ? AND start >= ? ORDER BY start

-- name: delete_sample_blocks
DELETE FROM sample_block WHERE pool_no IN (SELECT value FROM json_each(?))

-- name: save_autoscale_run
INSERT INTO autoscale_run (pool_no, at, record)
SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM pool WHERE no = ?1)
ON CONFLICT (pool_no, at) DO UPDATE SET record = excluded.record

-- name: prune_autoscale_runs
DELETE FROM autoscale_run WHERE pool_no = ?1 AND at <= (
    SELECT at FROM autoscale_run WHERE pool_no = ?1 ORDER BY at DESC LIMIT 1 OFFSET ?2
)

-- name: list_autoscale_runs
SELECT at, record FROM autoscale_run WHERE pool_no = ? ORDER BY at DESC LIMIT ?

-- name: delete_autoscale_runs
DELETE FROM autoscale_run WHERE pool_no IN (SELECT value FROM json_each(?))
