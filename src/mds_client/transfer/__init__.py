"""Rows out of stores and into them: files, other stores, and one number that says whether two hold the same.

Nothing here loads more than a few megabytes of rows at once, and everything may be done again.
"""

from mds_client.transfer.copying import Copied, copy
from mds_client.transfer.digest import Digest, row_hashes
from mds_client.transfer.dumping import Dumped, digest_of, dump
from mds_client.transfer.files import Format
from mds_client.transfer.ingesting import Ingested, Rejected, ingest
from mds_client.transfer.restoring import Restored, restore

__all__ = [
    "Copied",
    "Digest",
    "Dumped",
    "Format",
    "Ingested",
    "Rejected",
    "Restored",
    "copy",
    "digest_of",
    "dump",
    "ingest",
    "restore",
    "row_hashes",
]
