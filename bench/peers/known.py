"""Other programs that run commands, for comparison: each in an environment of its own, none of them needed."""

from collections.abc import Sequence
from typing import Final

from bench.peers.base import Contender, Library, Program
from bench.peers.slurm import Slurm

_XARGS: Final = ("-P", "{slots}", "-I", "{{}}")
_IN_A_DIRECTORY: Final = (
    "sh",
    "-c",
    'mkdir -p "$0/wd" && cd "$0/wd" && exec "$@" >../stdout.txt 2>../stderr.txt',
    "{{}}",
)
"""What a shell needs to give a command what every task has: two directories and two files for its output."""

PEERS: Final[Sequence[Contender]] = (
    Program("xargs", "findutils", _XARGS),
    Program("xargs", "findutils", [*_XARGS, *_IN_A_DIRECTORY], name="xargs-sh"),
    Program("parallel", "parallel", ["--will-cite", "-j", "{slots}", "-N0"]),
    Library("ray", "ray>=2.60,<3"),
    Library("hyperqueue", "hyperqueue>=0.27,<0.28"),
    Library("distributed", "distributed>=2026.8"),
    Slurm(),
)
