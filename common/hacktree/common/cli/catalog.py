"""What the driver knows of a subcommand before it imports it.

`hacktree --help` must answer in a tenth of a second, so the list of commands is plain data and the
module behind a name is imported only when that command runs.
"""

from typing import Literal

import msgspec

Group = Literal["repository", "farm", "tester"]


class CommandInfo(msgspec.Struct, frozen=True):
    """One subcommand: its name, the group it is listed in, one line of help, and its module.

    The module defines `configure(parser)` and `run(args) -> int`. If it `runs_command`, what
    follows `--` is no business of the parser's: `args.command`, a tuple.
    """

    name: str
    group: Group
    summary: str
    module: str
    runs_command: bool = False
