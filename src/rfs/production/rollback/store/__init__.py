"""The store: content-addressed blobs in encrypted packs. `Store` is all that other rooms use."""

from rfs.production.rollback.store.reports import Damage, Pruned
from rfs.production.rollback.store.store import Store

__all__ = ["Damage", "Pruned", "Store"]
