"""DatabaseRollbackManager: on a connection of the caller's in place, in one transaction; else by the whole driver."""
