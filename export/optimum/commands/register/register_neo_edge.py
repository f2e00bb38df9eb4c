"""`optimum-cli export neo-edge`: Optimum looks for commands in every file of this namespace (it has no __init__.py).

Nothing imports this file where Optimum is not installed.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class NeoEdgeExportCommand(BaseOptimumCLICommand):
    """The verb `neo-edge export` in Optimum's form: `--model DIR OUT`."""

    COMMAND = CommandInfo(name="neo-edge", help="Export NEO-ov checkpoints to neo_edge bundles (ONNX).")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declares the arguments."""
        from neo_edge_export.commands import CHECKPOINT_HELP, export_command

        parser.add_argument(
            "-m", "--model", required=True, dest="checkpoint", metavar="MODEL", help=CHECKPOINT_HELP
        )
        parser.add_argument("output", type=Path, metavar="OUT", help="directory to write")
        export_command.add_options(parser)

    def run(self) -> None:
        """Exports and exits with the status of `neo-edge export`."""
        from neo_edge.cli import exit_status
        from neo_edge_export.commands import export_command

        sys.exit(exit_status(lambda: export_command.run(self.args)))


REGISTER_COMMANDS = [(NeoEdgeExportCommand, ExportCommand)]
