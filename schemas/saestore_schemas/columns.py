"""Columns that mean the same in several tables: what their lines are about."""

import pyarrow as pa

from saestore_schemas.table import Column


FEATURE = Column("feature", pa.uint32(), "feature")
CONTEXT = Column("context", pa.uint32(), "row of `contexts`")
HEAD = Column("head", pa.uint16(), "place of the hookpoint among those it reconstructs")
TOKEN_ID = Column("token_id", pa.uint32(), "token")
