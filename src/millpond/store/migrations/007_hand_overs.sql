
-- Tasks that have been handed to a node since their row was written: what of them is newer here. The life of a task has
-- one narrow row more, and one wide update less. Where `attempt` is not above that of the task's row, the row is newer.
CREATE TABLE hand_over (
    key INTEGER PRIMARY KEY,
    attempt INTEGER NOT NULL,
    node INTEGER NOT NULL   -- node_name.ref
);

-- A node's own record names the tasks that began there lately. The index made each change of a task's state dearer by a
-- third.
DROP INDEX task_of_node;
