-- What nodes have worked since their rows were written: `NodeWork` of all that a commit changed, as one row. What is brought
-- into the nodes' rows goes.
CREATE TABLE node_work (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    nodes INTEGER NOT NULL,     -- of how many
    data BLOB NOT NULL          -- MessagePack
);

-- What is in `node_work` up to that number is older than the row.
ALTER TABLE node ADD COLUMN work_no INTEGER NOT NULL DEFAULT 0;
