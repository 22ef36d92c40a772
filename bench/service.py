"""A service to measure: `millpond up` with the nodes' host replaced (`--zero`), or as it is."""

import argparse
import sys
from pathlib import Path

from millpond.app import Running, run
from millpond.config import Config, KeptLogsConfig, NodesConfig, ServerConfig


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--zero", action="store_true", help="nodes that do no work, in one host")
    parser.add_argument("--zero-processes", type=int, default=0, help="the same, spread over so many processes")
    parser.add_argument("--input-cache-mib", type=int, default=-1)
    parser.add_argument("--no-kept-logs", action="store_true", help="logs of tasks are not kept")
    arguments = parser.parse_args()
    config = Config(
        data_dir=arguments.data_dir,
        server=ServerConfig(port=0),
        nodes=NodesConfig(input_cache_mib=arguments.input_cache_mib),
        kept_logs=KeptLogsConfig(enabled=not arguments.no_kept_logs),
    )
    host: list[str] = []
    if arguments.zero or arguments.zero_processes:
        host = [sys.executable, str(Path(__file__).with_name("zero_nodes.py"))]
        host += ["--processes", str(arguments.zero_processes)]

    def ready(running: Running) -> None:
        print(f"ready {running.endpoint.url}", flush=True)

    run(config, ready, host_command=host)


if __name__ == "__main__":
    main()
