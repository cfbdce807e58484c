"""``python -m daemon`` is the ``arqd`` command."""

import sys

from daemon.cli.command import main

sys.exit(main())
