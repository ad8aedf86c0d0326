"""``python -m mds_client.cli`` is the command ``mds``."""

from mds_client.cli.main import main

main()
