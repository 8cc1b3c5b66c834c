"""What `import saestore` offers: an open lake, and the verbs as its methods.

Nothing here imports torch until a verb runs.
"""

from saestore.api.lake import OpenLake, open_lake


__all__ = ["OpenLake", "open_lake"]
