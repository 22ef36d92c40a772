-- name: save_sample_blocks
-- A pool may have been deleted meanwhile.
INSERT INTO sample_block (pool_no, start, data)
SELECT * FROM (VALUES /*values*/) WHERE column1 IN (SELECT no FROM pool)
ON CONFLICT (pool_no, start) DO UPDATE SET data = excluded.data

-- name: prune_sample_blocks
-- Of many: [[pool number, start], ...].
DELETE FROM sample_block WHERE rowid IN (
    SELECT block.rowid FROM json_each(?) AS pool
    JOIN sample_block AS block
        ON block.pool_no = json_extract(pool.value, '$[0]') AND block.start < json_extract(pool.value, '$[1]')
)

-- name: load_sample_blocks
SELECT start, data FROM sample_block WHERE pool_no = ? AND start >= ? ORDER BY start

-- name: delete_sample_blocks
DELETE FROM sample_block WHERE pool_no IN (SELECT value FROM json_each(?))

-- name: save_autoscale_runs
INSERT INTO autoscale_run (pool_no, at, record)
SELECT * FROM (VALUES /*values*/) WHERE column1 IN (SELECT no FROM pool)
ON CONFLICT (pool_no, at) DO UPDATE SET record = excluded.record

-- name: prune_autoscale_runs
DELETE FROM autoscale_run WHERE rowid IN (
    SELECT run.rowid FROM json_each(?1) AS pool
    JOIN autoscale_run AS run ON run.pool_no = pool.value AND run.at <= (
        SELECT at FROM autoscale_run WHERE pool_no = pool.value ORDER BY at DESC LIMIT 1 OFFSET ?2
    )
)

-- name: list_autoscale_runs
SELECT at, record FROM autoscale_run WHERE pool_no = ? ORDER BY at DESC LIMIT ?

-- name: delete_autoscale_runs
DELETE FROM autoscale_run WHERE pool_no IN (SELECT value FROM json_each(?))
