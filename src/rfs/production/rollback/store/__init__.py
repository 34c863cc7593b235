"""The store: content-addressed blobs in encrypted packs. Other rooms use `Store`, and its sentence for a disk."""

from rfs.production.rollback.store.files import disk_faults_told, storage_error
from rfs.production.rollback.store.reports import Damage, Pruned
from rfs.production.rollback.store.store import Store

__all__ = ["Damage", "Pruned", "Store", "disk_faults_told", "storage_error"]
