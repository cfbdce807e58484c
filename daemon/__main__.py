"""``python -m daemon`` is the ``arqd`` command."""

import sys

from daemon.cli import main

sys.exit(main())
