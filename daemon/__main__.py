"""``python -m daemon`` is the ``arqd`` command."""

import sys

from daemon.cli.starting import end_when_told

# Before the rest is imported, which takes a while.
end_when_told(sys.argv[1:])

from daemon.cli.command import main  # noqa: E402

sys.exit(main())
