"""`hacktree qa`: test builds by suites, and promote what passed."""

import argparse
import importlib
import textwrap
from types import ModuleType
from typing import Final

from hacktree.server.promotion.connecting import add_farm_options, add_signer_options

_MODULES: Final = {
    "run": "hacktree.server.commands.qa_run",
    "sign": "hacktree.server.commands.qa_sign",
    "retest": "hacktree.server.commands.qa_retest",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.description = textwrap.dedent("""\
        Suites stand in server.toml of the farm's repository. `run` tests: it executes what others
        pushed, so it needs no key and, over HTTP, a token that allows verdicts only. `sign`
        promotes what passed: give it a key, and a machine of its own if you can. `retest` gives a
        build that failed, or was not decided, another run: what was found before stays recorded,
        and counts no more.""")
    parser.epilog = textwrap.dedent("""\
        server.toml:
          [suites.fastqa]                      # promotes to the branch fastqa
          source = "builds"
          command = ["/usr/lib/qa/fastqa"]     # 0 passes, 125 says nothing, all else fails
          limit = "2m"                         # then it is killed, and the build has failed
          [suites.dailyqa]
          source = "fastqa"
          command = ["/usr/lib/qa/dailyqa"]
          limit = "4h"
          every = "1d"                         # moves so often at most

        The command finds HACKTREE_ROOT (the build, checked out), HACKTREE_BUILD (its id) and
        HACKTREE_BRANCH (its branch) in its environment. With --sandbox vm it runs in the build,
        booted with its own kernel: HACKTREE_ROOT is /. Programs in /bin and /usr/bin are the
        build's; of others the directory comes along from this machine.

        Examples:
          hacktree --repo /srv/hacktree qa run fastqa
          hacktree --repo /var/lib/qa qa run fastqa --watch --server https://farm.example \\
              --token-file /etc/hacktree/verdict-token --sandbox container
          hacktree --repo /srv/hacktree qa run fastqa --sandbox vm --memory 4GiB
          hacktree --repo /srv/hacktree qa sign fastqa --sign-with /etc/hacktree/fastqa-key --watch
          hacktree qa sign fastqa --source builds --server https://farm.example \\
              --root-fingerprint 9f86d081… --token-file /etc/hacktree/promote-token \\
              --sign-with /etc/hacktree/fastqa-key --watch
          hacktree --repo /srv/hacktree qa retest fastqa --reason "the lab's switch was broken"

        Exit statuses: 0 done, whatever the verdict, or nothing to do; 2 wrong usage, suite, command
        or key; 4 the farm or the remote is unreachable or refuses; 5 local data is damaged; 6 the
        lease was lost, or somebody holds a lock; 7 no space; 8 the system refused; 130
        interrupted.""")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    run_parser = actions.add_parser("run", help="test the newest untested build")
    sign = actions.add_parser("sign", help="promote the newest build that passed")
    for action in (run_parser, sign):
        action.add_argument("suite", metavar="SUITE", help="the branch it promotes to")
        often = action.add_mutually_exclusive_group()
        often.add_argument("--once", action="store_true", help="one turn (default)")
        often.add_argument("--watch", action="store_true", help="go on until stopped")
        action.add_argument(
            "--interval", metavar="SECONDS", type=_interval, default=15.0,
            help="how often --watch looks (default: 15)",
        )  # fmt: skip
        action.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS,
            help="print a JSON document a line",
        )  # fmt: skip
    _configure_run(run_parser)
    retest = actions.add_parser("retest", help="test a build again that was not passed")
    retest.add_argument("suite", metavar="SUITE", help="the branch it promotes to")
    retest.add_argument("--build", metavar="COMMIT", help="default: the newest that was not passed")
    retest.add_argument("--reason", metavar="TEXT", required=True, help="why")
    retest.add_argument("--by", metavar="NAME", help="who (default: the user's name)")
    retest.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    add_farm_options(retest, "promote:SUITE")
    add_farm_options(sign, "promote:SUITE")
    add_signer_options(sign)


def _configure_run(parser: argparse.ArgumentParser) -> None:
    add_farm_options(parser, "verdict:SUITE")
    parser.add_argument(
        "--remote", metavar="NAME", help="of --repo, from which builds are pulled with --server"
    )
    parser.add_argument("--machine", metavar="NAME", help="in verdicts (default: the host's name)")
    parser.add_argument(
        "--sandbox", choices=["none", "container", "vm"], default="none",
        help="none: it acts as this user; container: no network, host read-only (needs bwrap); "
        "vm: in the build, booted, and nothing of the host (needs QEMU)",
    )  # fmt: skip
    parser.add_argument("--memory", metavar="SIZE", help="of the virtual machine (default: 2GiB)")
    parser.add_argument(
        "--processors", metavar="N", type=int, help="of the virtual machine (default: 2)"
    )


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 86_400:
        raise ValueError
    return seconds


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    module: ModuleType = importlib.import_module(_MODULES[args.action])
    status: int = module.run(args)
    return status
