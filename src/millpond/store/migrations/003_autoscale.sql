-- Automatic scaling: what pools are sampled for formulas, and the last evaluations.

CREATE TABLE sample_block (
    pool_no INTEGER NOT NULL,
    start REAL NOT NULL,    -- when its first samples were taken
    data BLOB NOT NULL,     -- MessagePack
    PRIMARY KEY (pool_no, start)
);

CREATE TABLE autoscale_run (
    pool_no INTEGER NOT NULL,
    at REAL NOT NULL,
    record BLOB NOT NULL,   -- JSON
    PRIMARY KEY (pool_no, at)
);
