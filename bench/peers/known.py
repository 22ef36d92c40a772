"""Other programs that run commands, for comparison: each in an environment of its own, none of them needed."""

from collections.abc import Sequence
from typing import Final

from bench.peers.base import Contender, Library, Program
from bench.peers.slurm import Slurm

PEERS: Final[Sequence[Contender]] = (
    Program("xargs", "findutils", ["-P", "{slots}", "-I", "{{}}"]),
    Program("parallel", "parallel", ["--will-cite", "-j", "{slots}", "-N0"]),
    Library("ray", "ray>=2.60,<3"),
    Library("hyperqueue", "hyperqueue>=0.27,<0.28"),
    Library("distributed", "distributed>=2026.8"),
    Slurm(),
)
